"""`write_report`: what was trained, how it learnt, what it can do and answers, where it looks twice. One HTML file.

The file needs nothing but itself: no network, no fonts, no scripts from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from phantrol.explain.curves import curve_section, read_metrics
from phantrol.explain.gallery import Shown, gallery_section
from phantrol.explain.score_table import Scores, mean_scores, score_section
from phantrol.explain.traversal import Traversal
from phantrol.explain.traversal_figure import traversal_section
from phantrol.whole_files import write_text


def write_report(
    path: str | Path,
    *,
    title: str,
    recipe: str,
    modifiers: Sequence[str],
    parameters: int,
    seconds: float,
    device: str,
    scores: Scores,
    split: str,
    reproduce: str,
    metrics: str | Path | Sequence[Mapping[str, Any]] = (),
    gallery: Sequence[Shown] = (),
    traversals: Sequence[Traversal] = (),
    note: str = "",
) -> None:
    """Write report.html, whole or not at all; its folder is made.

    recipe      its name;  modifiers  what was grafted, as people call it: ["TroL", "Phantom"]
    parameters  of the whole model;  seconds  that training took;  device  it ran on, in words
    scores      {task: {"model", "shuffled", "prior": 0 to 1, "n": rows}} on `split`, as `Report.scores`
    reproduce   the command that does it all again
    metrics     a metrics.jsonl or its rows: {"stage", "step", "loss", "reward_accuracy" ...}
    gallery     as from `choose_gallery`;  traversals  as from `trace_traversal`
    note        one more sentence for the summary
    Raises ValueError if there are no scores, or a line of metrics.jsonl is broken.
    """
    if not scores:
        raise ValueError("the report has no scores: evaluate at least one task first")
    rows = read_metrics(metrics) if isinstance(metrics, str | Path) else metrics
    examples: dict[str, str] = {}
    for item in gallery:
        examples.setdefault(item.task, (item.question.splitlines() or [""])[0])
    sections = (
        score_section(scores, split, examples),
        curve_section(rows),
        traversal_section(traversals),
        gallery_section(gallery),
        _reproduce_section(reproduce),
    )
    summary = _summary(recipe, modifiers, parameters, seconds, device, scores, split)
    page = _page(title, " ".join([summary, escape(note)]).strip(), _facts(parameters, seconds, scores), sections)
    write_text(Path(path), page)


def _page(title: str, summary: str, facts: str, sections: Sequence[str]) -> str:
    names = {
        "scores": "Scores",
        "learning": "Learning",
        "traversal": "Traversal",
        "gallery": "Answers",
        "again": "Again",
    }
    links = "".join(
        f'<a href="#{name}">{words}</a>' for name, words in names.items() if any(f'id="{name}"' in s for s in sections)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>
<style>{_asset("report.css")}</style></head>
<body><header><p class="brand">phantrol</p><h1>{escape(title)}</h1><p class="summary">{summary}</p>{facts}
<nav aria-label="Sections">{links}</nav></header><main>{"".join(sections)}</main>
<script>{_asset("report.js")}</script></body></html>
"""


def _summary(
    recipe: str,
    modifiers: Sequence[str],
    parameters: int,
    seconds: float,
    device: str,
    scores: Scores,
    split: str,
) -> str:
    """One paragraph of HTML: what was trained, and what the pictures were worth to it."""
    means = {column: f"{100 * mean:.0f}&nbsp;%" for column, mean in mean_scores(scores).items()}
    grafts = f" with {escape(' and '.join(modifiers))}" if modifiers else ""
    return (
        f"A vision-language model of {escape(_in_words(parameters))} parameters{grafts}, trained by the recipe "
        f"<code>{escape(recipe)}</code> in {escape(_duration(seconds))} on {escape(device)}. Over {len(scores)} tasks "
        f"on pictures that it had never seen ({escape(split)}) it scores {means['model']}; with the pictures exchanged "
        f"{means['shuffled']}, and by reading the questions alone one gets {means['prior']}. "
        "The difference is what it saw."
    )


def _facts(parameters: int, seconds: float, scores: Scores) -> str:
    means = {column: f"{100 * mean:.0f} %" for column, mean in mean_scores(scores).items()}
    shown = {
        "with its pictures": means["model"],
        "with shuffled images": means["shuffled"],
        "text-only prior": means["prior"],
        "parameters": _in_words(parameters),
        "training": _duration(seconds),
    }
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in shown.items())
        + "</dl>"
    )


def _reproduce_section(command: str) -> str:
    return (
        '<section id="again"><h2>Do it again</h2><p>This command does all of it.</p>'
        f'<div class="command"><pre><code>{escape(command)}</code></pre>'
        '<button type="button" class="copy" hidden>Copy</button></div></section>'
    )


def _in_words(parameters: int) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if parameters >= size:
            return f"{parameters / size:.3g} {word}"
    return str(parameters)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _asset(name: str) -> str:
    return (files("phantrol.explain") / name).read_text("utf-8")
