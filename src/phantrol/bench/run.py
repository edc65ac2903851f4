"""`phantrol bench`: the rows one asks for, on one thread, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from phantrol.bench.cases import CASES, build_sides
from phantrol.bench.timing import Row, measure
from phantrol.freed_memory import keep_freed_memory
from phantrol.tables import number_table
from phantrol.whole_files import make_room, write_text

STARTS: dict[str, list[str]] = {  # what a fresh interpreter runs, in seconds; there is no plain side
    "import_s": ["-c", "import phantrol"],
    "help_s": ["-m", "phantrol.cli", "--help"],
}
PACKAGES = ("phantrol", "torch", "transformers", "safetensors", "tokenizers")


def bench(names: Sequence[str] = (), runs: int = 5, threads: int = 1, json_path: Path | None = None) -> list[Row]:
    """Measure, print, and write the rows, each as soon as it is there. Without names, all of them.

    Raises ValueError for an unknown name, for fewer than 1 run, and if `json_path` cannot be written.
    """
    unknown = sorted(set(names) - {*CASES, *STARTS})
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}: known are {', '.join([*CASES, *STARTS])}")
    if runs < 1:
        raise ValueError(f"{runs} runs: expected 1 or more; a median deserves at least 5")
    if json_path is not None:
        make_room(json_path)
    console = Console(highlight=False, stderr=True)
    wanted = [name for name in (*CASES, *STARTS) if name in names or not names]
    done: list[Row] = []

    def report(row: Row) -> None:
        done.append(row)
        console.print(f"{row.name}: {row.ratio:.3f}")
        if json_path is not None:  # now: all rows take half an hour, and not every run sees its end
            lines = [dataclasses.asdict(row) for row in sorted(done, key=lambda row: wanted.index(row.name))]
            found = {"machine": machine(threads), "versions": versions(), "rows": lines}
            write_text(json_path, json.dumps(found, indent=1) + "\n")

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()  # as training and answering do; of both sides
    try:
        rows = _measure_all(wanted, runs, report)
    finally:
        torch.set_num_threads(before)
    Console(highlight=False).print(_table(rows))
    return rows


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "load": os.getloadavg()[0], "dtype": "float32"}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that count."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that was not installed
            from phantrol.version import __version__

            found[name] = __version__
    return found


def _measure_all(names: Sequence[str], runs: int, report: Callable[[Row], None]) -> list[Row]:
    rows: dict[str, Row] = {}
    for sides in dict.fromkeys(CASES[name].sides for name in names if name in CASES):
        models = None
        for name in names:
            if name in CASES and CASES[name].sides == sides:
                models = models or build_sides(CASES[name])
                rows[name] = measure(name, CASES[name], models, runs)
                report(rows[name])
        del models
        gc.collect()
    for name in names:
        if name in STARTS:
            rows[name] = _start(name, runs)
            report(rows[name])
    return [rows[name] for name in names]


def _start(name: str, runs: int) -> Row:
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *STARTS[name]], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds[1:])  # the first one reads the disk
    return Row(name, median, median, None, "s", runs)


def _table(rows: Sequence[Row]) -> Table:
    table = number_table("name", "ours / plain", "ours", "plain", "unit", "runs")
    for row in rows:
        ratio = "" if row.plain is None else f"{row.ratio:.3f}"
        plain = "" if row.plain is None else f"{row.plain:.4g}"
        table.add_row(row.name, ratio, f"{row.ours:.4g}", plain, row.unit, str(row.runs))
    return table
