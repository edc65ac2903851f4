"""What a check found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from phantrol.data.broken import REASONS
from phantrol.data.check import FileReport, Report
from phantrol.data.fixing import broken_lines

BAR_CELLS = 40
FEW_SHOWN = 0.1  # of the rows: fewer with a picture are told of
_EDGES = np.array([0, *(2**power * step // 2 for power in range(5, 21) for step in (2, 3))])  # 32 48 64 96 128 ...


def say(file: FileReport) -> list[str]:
    """Return a line for each broken row of a file: file, row or line, reason, details."""
    lines = []
    for fault in file.faults:
        place = f"[{fault.index}]" + (f", line {fault.line}" if fault.line is not None else "")
        lines.append(f"{file.path}{place}: {fault.reason}: {fault.detail}")
    return lines + ([f"{file.path}: {file.reason}: {file.fault}"] if file.fault else [])


def show(report: Report, console: Console) -> None:
    """Print the summary: how many rows are broken and why, how long rows are, how large pictures are, and where few
    rows have any, how many."""
    reasons = count_reasons(report)
    if reasons:
        table = Table("reason", "rows", "what it means", title="broken rows")
        for reason, rows in reasons.items():
            table.add_row(reason, f"{rows:,}", REASONS[reason])
        console.print(table)
    if len(report.tokens):
        limit = f", at most {report.max_tokens:,} allowed" if report.max_tokens else ""
        _show_bars(f"tokens a row{limit}", report.tokens, console)
    if len(report.sizes):
        _show_bars("longer side of the pictures in pixels", report.sizes.max(1), console)
    files = f"{len(report.files)} files" if len(report.files) > 1 else str(report.files[0].path)
    ends = sum(bool(file.fault) for file in report.files)
    of = f"{ends} of the files" if len(report.files) > 1 else "the file"
    cut = f", {of} not whole or without a row" if ends else ""
    if report.num_shown < FEW_SHOWN * report.num_rows:  # as where pictures lie under a name that nobody knows
        console.print(f"{report.num_shown:,} of {report.num_rows:,} rows have a picture", soft_wrap=True)
    rows = "row" if report.num_rows == 1 else "rows"
    told = f"{files}: {report.num_rows:,} {rows}, {report.num_broken:,} of them broken{cut}"
    console.print(told, soft_wrap=True, markup=False, emoji=False)  # a name may have what else would be markup


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain objects."""
    told = {
        "rows": report.num_rows,
        "broken": report.num_broken,
        "rows_with_pictures": report.num_shown,
        "files": [
            {"file": str(f.path), "rows": f.num_rows, "broken": len(f.faults), "fault": f.fault} for f in report.files
        ],
        "reasons": count_reasons(report),
        "broken_rows": list(broken_lines(report)),
    }
    if len(report.tokens):
        told["tokens"] = _summary(report.tokens)
    if len(report.sizes):
        told["images"] = {"width_px": _summary(report.sizes[:, 0]), "height_px": _summary(report.sizes[:, 1])}
    return told


def count_reasons(report: Report) -> dict[str, int]:
    """Return how many rows are broken for each reason, the most frequent first."""
    return dict(Counter(fault.reason for file in report.files for fault in file.faults).most_common())


def histogram(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (from, up to but not including, how many) of each bin; bins grow by halves of a power of two."""
    last = int(np.searchsorted(_EDGES, values.max(), "right"))
    edges = _EDGES if last < len(_EDGES) else np.append(_EDGES, int(values.max()) + 1)
    first = int(np.searchsorted(edges, values.min(), "right")) - 1
    edges = edges[first : last + 1]
    counts, _ = np.histogram(values, edges)
    return [(int(a), int(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def _summary(values: np.ndarray) -> dict[str, Any]:
    low, middle, high, top = np.percentile(values, (5, 50, 95, 99)).tolist()
    return {
        "count": len(values),
        "min": int(values.min()),
        "percentile_5": low,
        "median": middle,
        "mean": round(float(values.mean()), 2),
        "percentile_95": high,
        "percentile_99": top,
        "max": int(values.max()),
        "histogram": [{"from": a, "below": b, "count": n} for a, b, n in histogram(values)],
    }


def _show_bars(title: str, values: np.ndarray, console: Console) -> None:
    bins = histogram(values)
    most = max(count for _, _, count in bins)
    facts = _summary(values)
    table = Table(
        title=f"{title}: median {facts['median']:,.0f}, longest {facts['max']:,}", show_header=False, box=None
    )
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    for low, high, count in bins:
        cells = max(1, round(BAR_CELLS * count / most)) if count else 0
        table.add_row(f"{low:,} to {high - 1:,}", "█" * cells, f"{count:,}")
    console.print(table)
