"""What a recipe will do, and what a saved model is made of, without loading or drawing a single weight."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.pretty import Pretty
from rich.table import Table

from phantrol.models.building import check_folder
from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.training.recipe import Recipe, load_recipe

PARTS = ("vision_tower", "projector", "positions", "traversal_gate", "phantom", "language_model")


def describe_thing(thing: str, overrides: Sequence[str] = ()) -> None:
    """Print a description of a recipe (a name or a .py file) or of a model (a folder).

    Raises ValueError if it is neither, or the folder is no whole model.
    """
    console = Console(highlight=False)
    if Path(thing).is_dir():
        if overrides:
            raise ValueError(f"{thing} is a model: overrides such as {overrides[0]} belong to recipes")
        console.print(*_model(Path(thing)), sep="\n")
    elif "/" in thing and not thing.endswith(".py"):
        raise ValueError(f"{thing} is no folder: expected a recipe's name, a .py file, or a folder that holds a model")
    else:
        console.print(*_recipe(thing, load_recipe(thing, overrides)), sep="\n")


def _recipe(name: str, recipe: Recipe) -> list:
    lines = [f"recipe {name}, seed {recipe.seed}"]
    for stage in recipe.stages:
        lines.append(
            f"  {stage.name}: {type(stage.loss).__name__}, trains {', '.join(stage.train)}, {stage.max_steps} steps of "
            f"{stage.batch_size} groups, {stage.optimiser}, lr {stage.lr:g}"
        )
    return [*lines, Pretty(recipe.model), f"Next: phantrol train {name} --dry-run"]


def _model(folder: Path) -> list:
    check_folder(folder)
    config = PhantrolConfig.from_pretrained(folder)
    counts = _count_parameters(folder)
    table = Table("part", "parameters", title=str(folder))
    for part in PARTS:
        if counts[part]:
            table.add_row(part, f"{counts[part]:,}")
    table.add_row("in all", f"{sum(counts.values()):,}", style="bold")
    text = config.text_config
    tokens = num_image_tokens(config)
    lines = [
        f"decoder: {text.model_type}, {text.num_hidden_layers} layers, hidden size {text.hidden_size}",
        f"vision tower: {config.vision_config.model_type}, {config.image_px} px a tile, {tokens} image tokens a tile",
    ]
    for modifier in config.modifiers:
        options = ", ".join(f"{key}={value}" for key, value in modifier.items() if key != "name")
        lines.append(f"grafted: {modifier['name']} ({options})")
    return [table, *lines, f'Next: phantrol ask {folder} IMAGE "QUESTION"']


def _count_parameters(folder: Path) -> Counter[str]:
    """Read the headers of the weights: each file begins with a JSON of names and shapes."""
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                part = next(part for part in (*PARTS[3:5], *PARTS) if f".{part}." in f".{name}.")
                counts[part] += math.prod(entry["shape"])
    return counts
