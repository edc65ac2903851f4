"""README.md of a final model: what it is, how it was trained, on what, how to use it, and whose licence it is under."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from phantrol.data.mixture import Mixture
from phantrol.models.released.card import PAPERS
from phantrol.training.recipe import Recipe, Stage
from phantrol.version import __version__

FILE, SCORES = "README.md", "scores.json"


def model_card(
    model: Any, recipe: Recipe, metrics: Sequence[Mapping[str, Any]], skipped: int, scores: Any = None
) -> str:
    """Return the card of a model that was just trained.

    metrics  the lines of metrics.jsonl;  skipped  rows that could not be read
    scores   {metric or task: number or a mapping of such}, as `phantrol eval --json` writes them, if there are any
    """
    parts = [_head(), _about(model), _training(recipe, metrics), _data(recipe, skipped)]
    return "\n".join([*parts, *([_scores(scores)] if scores else []), _use(), _licence()])


def read_scores(path: Path) -> Any:
    """Return the scores in a file, or None if there is none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _head() -> str:
    tags = ["library_name: phantrol", "pipeline_tag: image-text-to-text", "license: other", "tags: [phantrol]"]
    return "\n".join(["---", *tags, "---", ""])


def _about(model: Any) -> str:
    config = model.config
    text, modifiers = config.get_text_config(), list(getattr(config, "modifiers", []))
    count = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        "# A vision-language model trained with phantrol",
        "",
        f"- parameters: {count:,}",
        f"- decoder: {text.model_type}, {text.num_hidden_layers} layers of size {text.hidden_size}",
        f"- vision tower: {config.vision_config.model_type}",
    ]
    for modifier in modifiers:
        options = ", ".join(f"{key}={value}" for key, value in modifier.items() if key != "name")
        paper = f"; {PAPERS[modifier['name']]}" if modifier["name"] in PAPERS else ""
        lines.append(f"- grafted: {modifier['name']} ({options}){paper}")
    return "\n".join([*lines, ""])


def _training(recipe: Recipe, metrics: Sequence[Mapping[str, Any]]) -> str:
    table = ["| stage | loss | trains | steps | groups a step | optimiser, lr | last loss | held-out loss |"]
    table.append("|---|---|---|---|---|---|---|---|")
    for stage in recipe.stages:
        trains = ", ".join(f"`{pattern}`" for pattern in stage.train)
        last, held_out = (_last(metrics, stage.name, name) for name in ("loss", "eval_loss"))
        cells = [stage.name, type(stage.loss).__name__, trains, stage.max_steps, stage.batch_size]
        cells += [f"{stage.optimiser}, {stage.lr:g}", last, _held_out(stage, metrics) or held_out]
        table.append(f"| {' | '.join(map(str, cells))} |")
    versions = f"phantrol {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    lines = ["## Training", "", f"Seed {recipe.seed}; {versions}. `recipe.json` beside this file has every option."]
    return "\n".join([*lines, "", *table, ""])


def _held_out(stage: Stage, metrics: Sequence[Mapping[str, Any]]) -> str:
    losses = [line["eval_loss"] for line in metrics if line["stage"] == stage.name and "eval_loss" in line]
    best = stage.held_out is not None and stage.held_out.take == "best" and losses
    return f"{min(losses):.4g} (the best checkpoint is taken)" if best else ""


def _last(metrics: Sequence[Mapping[str, Any]], stage: str, name: str) -> str:
    found = [line[name] for line in metrics if line["stage"] == stage and name in line]
    return f"{found[-1]:.4g}" if found else "–"


def _data(recipe: Recipe, skipped: int) -> str:
    lines = ["## Data", ""]
    for stage in recipe.stages:
        lines += [f"- {stage.name}: {words}" for words in _sources(stage.data)]
        if stage.held_out:
            lines += [f"- {stage.name}, held out: {words}" for words in _sources(stage.held_out.data)]
    return "\n".join([*lines, f"- rows left out because they could not be read: {skipped}", ""])


def _sources(mixture: Mixture) -> list[str]:
    whole = sum(weight for weight, _ in mixture.parts)
    return [f"{weight / whole:.0%} {_named(source)}" for weight, source in mixture.parts]


def _named(source: Any) -> str:
    """A source by its class and the options that are not its defaults; of a path the last part alone."""
    if not is_dataclass(source):
        return type(source).__name__
    options = []
    for field in fields(source):
        value = getattr(source, field.name)
        if field.init and (field.default is MISSING or value != field.default):
            path = isinstance(value, Path) or (isinstance(value, str) and "/" in value)
            shown = repr(Path(value).name) if path else repr(value)
            options.append(f"{field.name}={shown if len(shown) <= 80 else shown[:77] + '...'}")
    return f"`{type(source).__name__}({', '.join(options)})`"


def _scores(scores: Any) -> str:
    return "\n".join(["## Scores", "", "```json", json.dumps(scores, indent=1, ensure_ascii=False), "```", ""])


def _use() -> str:
    return """## Use

```bash
phantrol ask FOLDER picture.png "What do you see?"     # FOLDER is where this file lies
phantrol eval FOLDER primer
```

```python
import phantrol

engine = phantrol.Engine.open("FOLDER")
```
"""


def _licence() -> str:
    return """## Licence

phantrol does not know under which licence these weights may be passed on: it follows from the licences of the vision
tower and decoder that training began from, if it began from any, and of the data above. Write it here, and in place of
`other` at the top.
"""
