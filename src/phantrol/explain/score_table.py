"""The table of accuracy: each task with the model, the model with shuffled images and the text-only prior."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from phantrol.evals.metrics import wilson_interval

Scores = Mapping[str, Mapping[str, float]]  # {task: {"model", "shuffled", "prior": 0 to 1, "n": rows}}


def mean_scores(scores: Scores) -> dict[str, float]:
    """Return the mean of the tasks for each column."""
    return {
        column: sum(row[column] for row in scores.values()) / len(scores) for column in ("model", "shuffled", "prior")
    }


def score_section(scores: Scores, split: str, examples: Mapping[str, str]) -> str:
    """Return the section with the table; `examples` gives a question for each task, where there is one."""
    body = "".join(_row(task, row, examples.get(task, "")) for task, row in scores.items())
    return f"""<section id="scores"><h2>What it can do</h2>
<p>Questions about pictures of split <code>{escape(split)}</code>, which training never drew. The bar is the model,
with its 95&nbsp;% interval. What it still scores with <em>shuffled images</em>, it did not see; what the
<em>text-only prior</em> scores is guessed from the wording alone.{_remark(scores)}</p>
<ul class="legend"><li><i class="key bar"></i>model</li><li><i class="key shuffled"></i>shuffled images</li>
<li><i class="key prior"></i>text-only prior</li></ul>
<table class="scores"><thead><tr><th scope="col">Task</th>
<th scope="col" class="track-head"><span>0</span><span>50</span><span>100&nbsp;%</span></th>
<th scope="col">Model</th><th scope="col">Shuffled</th><th scope="col">Prior</th>
<th scope="col">Rows</th></tr></thead><tbody>{body}</tbody>{_foot(mean_scores(scores))}</table></section>"""


def _remark(scores: Scores) -> str:
    """Say what equal scores may mean where there are some: without a picture both questions are the same."""
    equal = any(row["model"] == row["shuffled"] for row in scores.values())
    return " A task without pictures has the same score with shuffled images." if equal else ""


def _row(task: str, scores: Mapping[str, float], example: str) -> str:
    model, shuffled, prior = (100 * scores[column] for column in ("model", "shuffled", "prior"))
    low, high = (100 * bound for bound in wilson_interval(scores["model"], int(scores["n"])))
    asked = f"<small>{escape(example)}</small>" if example else ""
    return f"""<tr><th scope="row">{escape(task.replace("_", " "))}{asked}</th>
<td class="track" aria-hidden="true"><div><b style="width:{model:.1f}%"></b>
<s style="left:{low:.1f}%;width:{high - low:.1f}%"></s>
<i class="shuffled" style="left:{shuffled:.1f}%"></i><i class="prior" style="left:{prior:.1f}%"></i></div></td>
<td class="number"><strong>{model:.0f}</strong><small>{low:.0f}–{high:.0f}</small></td>
<td class="number" data-name="shuffled">{shuffled:.0f}</td><td class="number" data-name="prior">{prior:.0f}</td>
<td class="number" data-name="rows">{scores["n"]:.0f}</td></tr>"""


def _foot(means: Mapping[str, float]) -> str:
    model, shuffled, prior = (100 * means[column] for column in ("model", "shuffled", "prior"))
    return f"""<tfoot><tr><th scope="row">mean of tasks</th><td class="track" aria-hidden="true"><div>
<b style="width:{model:.1f}%"></b><i class="shuffled" style="left:{shuffled:.1f}%"></i>
<i class="prior" style="left:{prior:.1f}%"></i></div></td><td class="number"><strong>{model:.0f}</strong></td>
<td class="number" data-name="shuffled">{shuffled:.0f}</td><td class="number" data-name="prior">{prior:.0f}</td>
<td></td></tr></tfoot>"""
