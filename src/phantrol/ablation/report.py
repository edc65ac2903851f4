"""The report: what was compared, what the intervals allow one to say, tables and figures. As Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from phantrol.ablation.figures import draw_figures
from phantrol.ablation.results import ALL, Cost, Results, to_csv
from phantrol.ablation.statistics import Estimate
from phantrol.ablation.variants import Variant
from phantrol.bench.run import machine, versions
from phantrol.tables import short_number
from phantrol.training.recipe import Recipe
from phantrol.whole_files import write_text

MATCHED = 0.05  # a plain model of equal compute is within this share
OBSERVED = {
    "mean_w": "mean w",
    "largest_w": "largest w",
    "mean_eta": "mean size of η",
    "largest_eta": "largest size of η",
}

Rows = list[list[str]]


@dataclass(frozen=True)
class Setting:
    """What the report says of the experiment.

    seeds   how many were asked for;  limit  questions of each task
    shared  {variant: the one whose training it shares}
    """

    name: str
    recipe: Recipe
    seeds: int
    limit: int
    shared: Mapping[str, str]


def write_report(results: Results, setting: Setting, out: Path, console: Console | None = None) -> None:
    """Write report.md, results.csv, results.json and figures/, each whole or not at all; print the tables if asked."""
    figures = draw_figures(results, out / "figures")
    rows = results.rows()
    write_text(out / "results.csv", to_csv(rows))
    found = {"recipe": setting.name, "machine": machine_now(), "versions": versions(), "rows": rows}
    write_text(out / "results.json", json.dumps(found | {"observed": results.observed}, indent=1) + "\n")
    write_text(out / "report.md", "\n".join(_lines(results, setting, figures, out)) + "\n")
    if console is not None:
        for split in results.splits:
            _print_accuracy(results, split, console)
        for line in sentences(results):
            console.print(line, soft_wrap=True)


def print_costs(arms: Sequence[Any], costs: Mapping[str, Cost], console: Console) -> None:
    """Print what each variant costs, in multiples of the one that it is compared with, and what trains once."""
    head, *body = cost_rows([arm.variant for arm in arms], costs)
    names = [head[0], "parameters", "×", "training FLOPs", "×", "answer FLOPs", "×"]
    body = [[row[0], *row[2:]] for row in body]
    brief = [[row[0], *row[2::2]] for row in body]
    multiples = [names[0], *(f"{name} ×" for name in names[1::2])]
    _print_fitting(console, _rich("variants", names, body), _rich("variants", multiples, brief))
    for arm in arms:
        if arm.trained_as != arm.variant.name:
            console.print(f"{arm.variant.name} trains as {arm.trained_as} does, and shares its runs.", soft_wrap=True)


def sentences(results: Results) -> list[str]:
    """Return a line for each variant: in each split, over all tasks, what its interval allows one to say."""
    lines = []
    for variant in results.variants:
        apart = {split: results.difference(variant, split) for split in results.splits}
        said = [f"{split} {in_words(found)}" for split, found in apart.items() if found is not None]
        if said:
            lines.append(f"{variant.name} against {variant.against}: {'; '.join(said)}.")
    return lines


def in_words(apart: Estimate) -> str:
    """Return a difference in points with its interval, and what may be said of it."""
    mean = f"{100 * apart.mean:+.1f}"
    if apart.half is None:
        return f"{mean} with one seed, which says nothing"
    if apart.half == 0:
        same = "no difference seen" if apart.mean == 0 else "no interval without scatter"
        return f"{mean} in each of {apart.seeds} seeds, {same}"
    return f"{mean} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f}), {apart.verdict}"


def accuracy_rows(results: Results, split: str, families: Sequence[str] | None = None) -> Rows:
    """Return a head and a row for each variant: accuracy over all tasks and of each family, and the blind columns."""
    families = results.families(split) if families is None else families
    rows = [["variant", "seeds", *families, "shuffled", "prior"]]
    for variant in results.variants:
        found = results.score(variant.name, split)
        if found is not None:
            blind = [results.score(variant.name, split, ALL, column) for column in ("shuffled", "prior")]
            scores = [results.score(variant.name, split, family) for family in families]
            rows.append(
                [variant.name, str(found.seeds), *map(_percent, scores), *(f"{100 * b.mean:.1f}" for b in blind)]
            )
    return rows


def difference_rows(results: Results, split: str) -> Rows:
    """Return a head and a row for each variant: differences in points; in bold those whose interval leaves out 0."""
    families = results.families(split)
    rows = [["variant", "against", "seeds", *families]]
    for variant in results.variants:
        if results.difference(variant, split) is not None:
            apart = [results.difference(variant, split, family) for family in families]
            rows.append([variant.name, variant.against, str(apart[0].seeds), *map(_points, apart)])
    return rows


def cost_rows(variants: Sequence[Variant], costs: Mapping[str, Cost]) -> Rows:
    rows = [
        ["variant", "what", "parameters", "beside it", "training FLOPs", "beside it", "FLOPs of an answer", "beside it"]
    ]
    for variant in variants:
        ours, theirs = costs[variant.name], costs[variant.against]
        pairs = (
            (ours.parameters, theirs.parameters),
            (ours.training_flops, theirs.training_flops),
            (ours.answer_flops, theirs.answer_flops),
        )
        cells = [cell for one, other in pairs for cell in (_count(one), f"{one / other:.3f}")]
        rows.append([variant.name, variant.what, *cells])
    return rows


def machine_now() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return machine(torch.get_num_threads()) | {"device": device}


def _lines(results: Results, setting: Setting, figures: Sequence[Path], out: Path) -> Iterator[str]:
    yield f"# Ablation of {setting.name}\n"
    yield from _on_the_setting(results, setting)
    yield "\n## What can be said\n"
    yield (
        "Differences over all tasks in points, paired by seed, with their 95 % intervals. A difference that was not "
        "seen may still be there: nothing within the interval is excluded.\n"
    )
    yield from (f"- {line}" for line in sentences(results))
    yield from _on_chance(results)
    for figure in figures:
        yield f"\n![{figure.stem.replace('_', ' ')}]({figure.relative_to(out).as_posix()})"
    yield "\n## What it costs\n"
    yield "Beside the variant that each is compared with. FLOPs are counted, not timed; the optimiser's are left out.\n"
    yield from _markdown(cost_rows(results.variants, results.costs))
    yield from _on_equal_compute(results)
    yield from _on_observed(results)
    for split in results.splits:
        yield f"\n## {split}\n"
        yield "Accuracy in percent, mean over seeds ± half of the 95 % interval.\n"
        yield from _markdown(accuracy_rows(results, split))
        apart = difference_rows(results, split)
        if len(apart) > 1:
            yield "\nDifference in points, paired by seed; bold where the interval leaves out 0.\n"
            yield from _markdown(apart)


def _on_the_setting(results: Results, setting: Setting) -> Iterator[str]:
    recipe = setting.recipe
    seeds = f"Seeds {recipe.seed} to {recipe.seed + setting.seeds - 1}" if setting.seeds > 1 else f"Seed {recipe.seed}"
    stages = ", ".join(
        f"{stage.name} ({type(stage.loss).__name__}, {stage.max_steps} steps of {stage.batch_size}, {stage.precision})"
        for stage in recipe.stages
    )
    yield (
        f"Recipe: {stages}. {seeds}. Under one seed all variants have the same data in the same "
        "order, as many steps, and the same weights at the start wherever they share a tensor; they are asked the same "
        f"questions, at most {setting.limit} of each task. Another seed has other weights, other pictures and other "
        "questions. Variants without `_po` train with SFT where the recipe has Phantom Optimization."
    )
    if setting.shared:
        twins = ", ".join(f"{name} = {other}" for name, other in setting.shared.items())
        yield f"\nTrained alike, and therefore trained once: {twins}."
    left = [variant.name for variant in results.variants if not _is_finished(variant, results, setting)]
    if left:
        yield f"\n**Not finished**: {', '.join(left)}. What follows rests on the seeds that it names."
    where, found = machine_now(), ", ".join(f"{name} {version}" for name, version in versions().items())
    yield f"\nReported on {where['cpu']}, {where['device']}; {found}."


def _is_finished(variant: Variant, results: Results, setting: Setting) -> bool:
    found = [results.score(variant.name, split) for split in results.splits]
    return bool(found) and all(score is not None and score.seeds >= setting.seeds for score in found)


def _on_chance(results: Results) -> Iterator[str]:
    apart = [results.difference(variant, split) for variant in results.variants for split in results.splits]
    number = sum(found is not None and found.half is not None for found in apart)
    if number:
        yield (
            f"\nThese are {number} comparisons. Of so many, about {number / 20:.1f} intervals leave out 0 by chance "
            "alone, even if no variant differs from another; families below are further comparisons. An interval holds "
            "for these pictures, this model and this budget, and rests on the assumption that seeds scatter normally."
        )


def _on_equal_compute(results: Results) -> Iterator[str]:
    for variant in results.variants:
        if variant.compute_of is not None and variant.compute_of.name in results.costs:
            ratio = results.costs[variant.name].training_flops / results.costs[variant.compute_of.name].training_flops
            words = "equal" if abs(ratio - 1) <= MATCHED else "not equal: whole layers come no nearer"
            yield f"\n{variant.name} trains with {ratio:.3f} times the FLOPs of {variant.compute_of.name} ({words})."


def _on_observed(results: Results) -> Iterator[str]:
    if not results.observed:
        return
    yield "\n## What became of the methods\n"
    yield "w is the share of the later passes in a token of a prompt, over all traversed layers; means over seeds.\n"
    rows = [["variant", *OBSERVED.values()]]
    for name, values in results.observed.items():
        means = [sum(values[key].values()) / len(values[key]) if key in values else None for key in OBSERVED]
        rows.append([name, *("" if mean is None else short_number(mean) for mean in means)])
    yield from _markdown(rows)


def _markdown(rows: Rows) -> Iterator[str]:
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in body)


def _rich(title: str, head: Sequence[str], body: Rows) -> Table:
    table = Table(title=title)
    for index, words in enumerate(head):
        table.add_column(words, justify="right" if index else "left", no_wrap=not index)
    for row in body:
        table.add_row(*row)
    return table


def _percent(found: Estimate | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.mean:.1f}" if found.half is None else f"{100 * found.mean:.1f} ± {100 * found.half:.1f}"


def _print_accuracy(results: Results, split: str, console: Console) -> None:
    """Print the table with all families, or over all tasks alone where the terminal is too narrow for it."""
    tables = []
    for families in (None, (ALL,)):
        head, *body = accuracy_rows(results, split, families)
        tables.append(_rich(f"{split}, accuracy in percent", head, body))
    _print_fitting(console, *tables)


def _print_fitting(console: Console, full: Table, brief: Table) -> None:
    wide = Measurement.get(console, console.options.update(max_width=1000), full).maximum
    console.print(full if wide <= console.width else brief)


def _points(apart: Estimate | None) -> str:
    if apart is None:
        return ""
    words = f"{100 * apart.mean:+.1f}" if apart.half is None else f"{100 * apart.mean:+.1f} ± {100 * apart.half:.1f}"
    return f"**{words}**" if apart.verdict in ("higher", "lower") else words


def _count(value: float) -> str:
    if value < 1e5:
        return f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
