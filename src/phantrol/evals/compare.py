"""Two results side by side, row by row: what differs, how surely, and whether they are the same questions at all."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from phantrol.evals.card import keys_apart, read_reports
from phantrol.evals.intervals import bootstrap, holm, interval, sign_flip_p
from phantrol.evals.score_intervals import MEAN
from phantrol.whole_files import write_text

SAME = ("protocol", "batch_size")  # of the card
SPOKEN = ("decoding", "dtype", "weights", "versions")  # of the card's speaker


@dataclasses.dataclass(frozen=True)
class Difference:
    """a, b from 0 to 1 over the same rows;  low, high  95 % interval of b - a, None where draws do not scatter;  p  of
    the paired permutation test, None where no test fits;  p_holm  the same, corrected for the number of scores that are
    tested together"""

    benchmark: str
    name: str
    a: float
    b: float
    rows: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]

    def table(self) -> Table:
        """Return the differences in percent points, as a table for a terminal."""
        title = Text(f"A: {self.a}   B: {self.b}", "table.title")  # a str would be read as markup
        table = Table(title=title, caption="p: paired permutation test, after Holm's correction")
        table.add_column("score")
        for heading in ("A", "B", "B - A", "95 %", "p", "rows"):
            table.add_column(heading, justify="right")
        several = len({each.benchmark for each in self.differences}) > 1
        for each in self.differences:
            ends = "" if each.low is None or each.high is None else f"{100 * each.low:+.1f} to {100 * each.high:+.1f}"
            p = "" if each.p_holm is None else "< 0.001" if each.p_holm < 0.001 else f"{each.p_holm:.3f}"
            name = f"{each.benchmark} · {each.name}" if several else each.name
            shares = (f"{100 * each.a:.1f}", f"{100 * each.b:.1f}", f"{100 * (each.b - each.a):+.1f}")
            table.add_row(Text(name), *shares, ends, p, str(each.rows))
        return table

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def compare_files(a: Path, b: Path) -> Comparison:
    """Return the differences between two files of `phantrol eval --json`, over the rows that both have scored.

    Rows are paired by their ids; groups of rows that stand and fall together are drawn, and flip, as one.
    Raises ValueError for files without results, and if they share no row.
    """
    ours, theirs = ({_key(report): report for report in read_reports(path)} for path in (a, b))
    shared = [key for key in ours if key in theirs]
    if not shared:
        names = ["; ".join(" ".join(key) for key in found) for found in (ours, theirs)]
        raise ValueError(f"{a} has {names[0]}, and {b} has {names[1]}: expected a benchmark and split that both have")
    differences: list[Difference] = []
    remarks: list[str] = []
    for key in shared:
        found, said = _compare(ours[key], theirs[key])
        differences += found
        remarks += [f"{' '.join(key)}: {remark}" for remark in said]
    tested = {str(index): each.p for index, each in enumerate(differences) if each.p is not None}
    for index, value in holm(tested).items():
        differences[int(index)] = dataclasses.replace(differences[int(index)], p_holm=value)
    return Comparison(str(a), str(b), tuple(differences), tuple(remarks))


def _compare(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[Difference], list[str]]:
    ours, theirs = _rows(a), _rows(b)
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    if not pairs:
        raise ValueError(f"the two results of {a['benchmark']} share no row: they were asked other questions")
    scored = []  # (group, {name: (a, b)})
    for one, other in pairs:
        both = {
            name: (value, other["scores"][name]) for name, value in one["scores"].items() if name in other["scores"]
        }
        scored.append((one.get("group", one["id"]), both))
    apart = [(group, {name: y - x for name, (x, y) in both.items()}) for group, both in scored]
    draws = bootstrap(apart)
    differences = []
    for name, drawn in draws.items():
        values = [both[name] for _, both in scored if name in both]
        means = [sum(column) / len(values) for column in zip(*values, strict=True)]
        p = sign_flip_p((group, both[name]) for group, both in apart if name in both)
        differences.append(Difference(a["benchmark"], name, *means, len(values), *_ends(drawn), p))
    if len(draws) > 1:
        means = [sum(column) / len(draws) for column in zip(*((each.a, each.b) for each in differences), strict=True)]
        ends = _ends(sum(draws.values()) / len(draws))
        differences.append(Difference(a["benchmark"], MEAN, *means, len(pairs), *ends))
    remarks = _remarks(a, b, pairs)
    shared = [name for name in a["overall"] if name in b["overall"]]
    if shared and not len(a["rows"]) == len(b["rows"]) == len(pairs):
        # no means of what the files hold of each row, so they cannot be worked out again for the rows of both
        remarks.append(
            f"left out, as they are no means over rows: {', '.join(shared)}; ask both the same rows for them"
        )
        shared = []
    for name in shared:
        one, other = a["overall"][name], b["overall"][name]
        differences.append(Difference(a["benchmark"], name, one["model"], other["model"], min(one["n"], other["n"])))
    return differences, remarks


def _ends(drawn: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of draws; none where they do not scatter: without width it would claim to be sure."""
    return interval(drawn) if np.ptp(drawn) > 1e-12 else (None, None)


def _remarks(a: dict[str, Any], b: dict[str, Any], pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Return what else differs than the weights, in one line each."""
    said = []
    if a["card"]["speaker"]["weights_sha256"] == b["card"]["speaker"]["weights_sha256"]:
        said.append("both have the same weights")
    lone = len(a["rows"]) - len(pairs), len(b["rows"]) - len(pairs)
    if any(lone):
        said.append(f"{lone[0]} rows of A and {lone[1]} of B have no partner and do not count")
    other = sum(one["prompt_sha256"] != two["prompt_sha256"] for one, two in pairs)
    if other:
        said.append(f"{other} of {len(pairs)} rows were asked with another prompt or picture")
    for name in SAME:
        if a["card"][name] != b["card"][name]:
            said.append(f"{name} is {a['card'][name]} and {b['card'][name]}")
    one, two = a["card"]["options"] or {}, b["card"]["options"] or {}
    for name in keys_apart(one, two):
        cut = slice(8 if name == "data_sha256" else None)
        said.append(f"option {name} is {str(one.get(name))[cut]} and {str(two.get(name))[cut]}")
    for name in SPOKEN:
        one, two = a["card"]["speaker"][name], b["card"]["speaker"][name]
        if one != two:
            said.append(f"{name} is {one} and {two}")
    judges = [(report["card"]["judge"] or {}).get("model") for report in (a, b)]
    if judges[0] != judges[1]:
        said.append(f"the judge is {judges[0]} and {judges[1]}: their scores do not compare")
    return said


def _rows(report: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows by id; of equal ids, the first, the second and so on."""
    seen: Counter[str] = Counter()
    found = {}
    for row in report["rows"]:
        found[row["id"], seen[row["id"]]] = row
        seen[row["id"]] += 1
    return found


def _key(report: dict[str, Any]) -> tuple[str, str]:
    return report["benchmark"], report["split"]
