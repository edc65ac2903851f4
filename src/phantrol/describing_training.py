"""What training a recipe will take, as tables: memory of one GPU, and hours on eight of a kind. All of it estimates."""

from __future__ import annotations

from dataclasses import replace

from phantrol.tables import counted, number_table
from phantrol.training.estimating import GPUS, UTILISATION, StageEstimate, estimate, most_tiles, typical
from phantrol.training.recipe import Recipe

COUNT = 8  # GPUs of a node


def training_costs(recipe: Recipe) -> list:
    """Return lines and tables. Where the sizes of a part are not known here, one line that says so."""
    try:
        longest, usual = estimate(recipe), estimate(recipe, typical(recipe)) if most_tiles(recipe) > 1 else None
    except ValueError as error:
        return [f"memory and hours are not estimated: {error}"]
    row, mean = replace(typical(recipe), tiles=most_tiles(recipe)), typical(recipe)
    memory = number_table("stage", "trained", "weights", "gradients", "optimiser", "one row", "in all")
    for each in longest:
        parts = (each.weights, each.gradients, each.optimiser, each.activations, each.fixed_bytes + each.activations)
        memory.add_row(each.name, f"{each.trained / 1e6:,.1f} M", *(f"{part / 1e9:.1f} GB" for part in parts))
    hours = number_table("GPU", "rows at once", *(each.name for each in longest))
    for gpu in GPUS:
        hours.add_row(gpu, *_row(gpu, longest, usual or longest))
    texts = f"{row.text_tokens} tokens of text and {row.answer_tokens} of each answer"
    return [
        f"memory of one GPU that holds it all, estimated; a row: {texts}, a picture of {counted(row.tiles, 'tile')}:",
        memory,
        f"hours on {COUNT} of a kind, estimated at {UTILISATION:.0%} of a GPU's dense bfloat16, with "
        f"{counted(mean.tiles, 'tile')} a picture, and how many rows one holds at once:",
        hours,
    ]


def _row(gpu: str, longest: list[StageEstimate], usual: list[StageEstimate]) -> list[str]:
    fitting = min(each.rows_at_once(gpu) for each in longest)
    if not fitting:
        return ["none", *("does not fit" for _ in longest)]
    return [str(fitting), *(f"{each.hours(gpu, COUNT):,.1f}" for each in usual)]
