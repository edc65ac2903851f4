"""OUT/data.json: how many groups and rows the sources of a run have, and how many ranks share it, so that it goes on
with them.

Rows are drawn in an order that follows from their number: with another number a resumed run would see some twice and
others never. What rows say may change, since a run that stops at a bad example asks for just that.
"""

from __future__ import annotations

import json
from pathlib import Path

from phantrol.data.sources.file import FileSource
from phantrol.training.recipe import Recipe
from phantrol.whole_files import write_text

FILE = "data.json"


def note_data(out_dir: Path, recipe: Recipe, ranks: int) -> None:
    """Write what `check_same_data` compares."""
    write_text(out_dir / FILE, json.dumps(_sizes(recipe) | {"ranks": ranks}, indent=1, ensure_ascii=False))


def check_same_data(out_dir: Path, recipe: Recipe, ranks: int) -> None:
    """Raise ValueError if a run would go on with other data, or with other ranks where a loss compares the rows of a
    micro-batch. A run that has no note may go on."""
    path = out_dir / FILE
    if not path.is_file():
        return
    try:
        noted = json.loads(path.read_text("utf-8"))
        ranks_then = int(noted["ranks"])
        sizes = {"groups": dict(noted["groups"]), "rows": dict(noted.get("rows", {}))}  # some notes have none
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} cannot be read: remove it if the data are those that the run began with") from None
    for unit, found_sizes in _sizes(recipe).items():
        for name, found in found_sizes.items():
            if (expected := sizes[unit].get(name, found)) != found:
                raise ValueError(
                    f"{out_dir} was begun with other data: got {found} {unit} in {name}, expected {expected}; put the "
                    "data back as they were, or choose another folder"
                )
    compares = [stage.name for stage in recipe.stages if stage.loss.fewest_groups() > 1]
    if compares and ranks != ranks_then:
        raise ValueError(
            f"{out_dir} was begun with {ranks_then} ranks: got {ranks}, expected the same, since the loss of stage "
            f"{compares[0]!r} compares the rows of a micro-batch; or choose another folder"
        )


def _sizes(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return how many groups each source has, and of files how many rows, since several of them may be one group; by
    where the recipe has it and, of a file, its path."""
    parts = [(f"stages.{stage.name}", stage.data) for stage in recipe.stages]
    parts += [(f"stages.{s.name}.held_out", s.held_out.data) for s in recipe.stages if s.held_out]
    sources = {
        f"{where}.data.parts.{number} ({getattr(source, 'path', type(source).__name__)})": source
        for where, mixture in parts
        for number, (_, source) in enumerate(mixture.parts)
    }
    return {
        "groups": {name: len(source) for name, source in sources.items()},
        "rows": {name: source.num_rows for name, source in sources.items() if isinstance(source, FileSource)},
    }
