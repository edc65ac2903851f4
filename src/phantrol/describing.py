"""What a recipe will do, what a model is made of and what memory it takes, without loading or drawing a weight."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.pretty import Pretty

from phantrol.describing_run import describe_run
from phantrol.describing_training import training_costs
from phantrol.find import names
from phantrol.models.building import check_folder
from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.memory import Prompt, count_parameters, on_shapes, phases, weight_bytes
from phantrol.models.released.catalogue import CLIP_TILES, INTERNVIT_TILES, RELEASES, release_named
from phantrol.models.released.layout import Layout, read_layout
from phantrol.models.released.prompts import dialect
from phantrol.models.released.source import Source
from phantrol.tables import counted, in_bytes, number_table
from phantrol.training.recipe import Recipe, load_recipe
from phantrol.training.run_status import is_run


@dataclass(frozen=True)
class Model:
    """A model that is described: where its configuration came from does not matter any more.

    dtype  of its weights;  max_tiles  of one picture, the thumbnail included
    next_step  a line: what to do with it, or why nothing can be done
    """

    title: str
    config: PhantrolConfig
    dtype: str
    max_tiles: int
    next_step: str


def describe_thing(
    thing: str,
    overrides: Sequence[str] = (),
    prompt: Prompt | None = None,
    tiles: int | None = None,
    dtype: str | None = None,
    as_json: bool = False,
) -> None:
    """Print a description of a recipe (a name or a .py file), of a run, or of a model with the memory that it takes.

    thing   also the name of a released model, and a folder: of a run, of a model of ours or in the official layout
    prompt  what a model is asked;  tiles  of each picture, by default the most that its processor cuts
    dtype   of the weights, by default the model's own
    as_json  print a run as one JSON object
    Raises ValueError if it is none of them, the folder is neither a run nor a whole model, or a picture of the model
    cannot have so many tiles.
    """
    if Path(thing).is_dir() and is_run(Path(thing)):
        _print(describe_run(Path(thing), as_json))
        return
    if as_json:
        raise ValueError(f"--json: got {thing}, expected the folder of a run; leave --json out for recipes and models")
    if Path(thing).is_dir() and not any(Path(thing).iterdir()):
        raise ValueError(f"{thing} is empty: expected the folder of a model or of a run; is it the right one?")
    if Path(thing).is_dir() or release_named(thing):
        if overrides:
            raise ValueError(f"{thing} is a model: overrides such as {overrides[0]} belong to recipes")
        _print(_describe(_find_model(thing), prompt or Prompt(), tiles, dtype))
    elif not _may_be_recipe(thing):
        raise ValueError(
            f"{thing} is no folder, no recipe and no release: expected a folder that holds a model or a run, a .py "
            f"file, one of the recipes {', '.join(names('recipes'))}, or of the releases {', '.join(RELEASES)}"
        )
    else:
        _print(_recipe(shlex.join([thing, *overrides]), load_recipe(thing, overrides)))


def _print(parts: Sequence[Any]) -> None:
    """Print lines as they are and whole, since some are names or commands to copy, and tables that fit."""
    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def _may_be_recipe(thing: str) -> bool:
    """By its name, as a .py file, or as a module: dots alone make the name of a file no module's."""
    is_module = re.fullmatch(r"\w+(\.\w+)+", thing) is not None and not Path(thing).is_file()
    return thing in names("recipes") or thing.endswith(".py") or is_module


def _recipe(words: str, recipe: Recipe) -> list:
    lines = [f"recipe {words}, seed {recipe.seed}"]
    for stage in recipe.stages:
        lines.append(
            f"  {stage.name}: {type(stage.loss).__name__}, trains {', '.join(stage.train)}, {stage.max_steps} steps of "
            f"{stage.batch_size} groups, {stage.optimiser}, lr {stage.lr:g}"
        )
    return [*lines, Pretty(recipe.model), *training_costs(recipe), f"Next: phantrol train {words} --dry-run"]


def _find_model(thing: str) -> Model:
    if release := release_named(thing):
        next_step = f"Next: phantrol convert {release.hub_id} {release.name}"
        config = read_layout(release.config, {}).config
        return Model(f"{release.name}, as released", config, release.dtype, release.max_tiles, next_step)
    folder = Path(thing)
    found = _read(folder / "config.json")
    if not isinstance(found, dict):
        raise ValueError(
            f"{folder / 'config.json'} holds a {type(found).__name__}: expected one JSON object; copy it again"
        )
    if found and found.get("model_type") != PhantrolConfig.model_type:
        source = Source(folder)
        layout = read_layout(source.config, source.shapes)
        tiles = CLIP_TILES if layout.config.unshuffle == 1 else INTERNVIT_TILES
        title = f"{thing}, in the official layout"
        return Model(title, layout.config, _name(source.dtype), tiles, _after_official(thing, layout))
    check_folder(folder)
    with _refusals_in_one_line(thing):
        config = PhantrolConfig.from_pretrained(folder)
        cut = _read(folder / "processor_config.json")["image_processor"]
        tiles = cut["max_tiles"] + (cut["max_tiles"] > 1 and cut["thumbnail"])
    next_step = f'Next: phantrol ask {shlex.quote(thing)} IMAGE "QUESTION"'
    return Model(thing, config, _name(config.dtype or "float32"), tiles, next_step)


def _after_official(thing: str, layout: Layout) -> str:
    """How to convert it, or that nobody released a model whose prompts it could speak."""
    try:
        dialect(layout.family, layout.backbone)
    except ValueError as refusal:
        return f"phantrol convert refuses it: {refusal}"
    return f"Next: phantrol convert {shlex.quote(thing)} OUT"


@contextmanager
def _refusals_in_one_line(thing: str) -> Iterator[None]:
    """What transformers and the model's classes do with values that they do not know is any error."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, AssertionError, ZeroDivisionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{thing} cannot be described: {reason}; expected a config.json and a processor_config.json as they were "
            "saved, copy them again"
        ) from None


def _describe(found: Model, prompt: Prompt, tiles: int | None, dtype: str | None) -> list:
    config, text = found.config, found.config.text_config
    if (tiles or 0) > found.max_tiles:
        raise ValueError(f"--tiles {tiles}: expected at most {found.max_tiles}, as many as a picture can have here")
    with _refusals_in_one_line(found.title):
        model = on_shapes(config)
    counts = count_parameters(model)
    table = number_table("part", "parameters")
    for part, count in counts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("in all", f"{sum(counts.values()):,}", style="bold")
    lines = [
        f"decoder: {text.model_type}, {text.num_hidden_layers} layers, hidden size {text.hidden_size}",
        f"vision tower: {config.vision_config.model_type}, {config.image_px} px a tile, {num_image_tokens(config)} "
        f"image tokens a tile, at most {counted(found.max_tiles, 'tile')} a picture",
    ]
    for modifier in config.modifiers:
        options = ", ".join(f"{key}={value}" for key, value in modifier.items() if key != "name")
        lines.append(f"grafted: {modifier['name']} ({options})")
    prompt, dtype = replace(prompt, tiles=tiles or found.max_tiles), dtype or found.dtype
    return [found.title, table, *lines, *_memory(model, prompt, dtype), found.next_step]


def _memory(model: Any, prompt: Prompt, dtype: str) -> list:
    tokens = num_image_tokens(model.config, prompt.tiles)
    line = (
        f"memory in {dtype}, {counted(prompt.batch_size, 'prompt')} of {counted(prompt.text_tokens, 'token')} of "
        f"text and {counted(prompt.images, 'picture')} of {counted(prompt.tiles, 'tile')} "
        f"({counted(tokens, 'token')}), answers of {counted(prompt.answer_tokens, 'token')}:"
    )
    table = number_table("while", "weights", "cache", "activations", "in all")
    weights, found = weight_bytes(model, dtype), phases(model.config, prompt, dtype)
    found = found if prompt.images else found[1:]
    sums = [weights + phase.cache + phase.activations for phase in found]
    for phase, whole in zip(found, sums, strict=True):
        sizes = (in_bytes(count) for count in (weights, phase.cache, phase.activations, whole))
        table.add_row(phase.name, *sizes, style="bold" if whole == max(sums) else None)
    return [line, table]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _read(path: Path) -> Any:
    """What a JSON file holds, or nothing: whoever needs it says what is wrong with it."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
