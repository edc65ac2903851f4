"""Results of several files in one table, beside what the papers published: Markdown, LaTeX, or a figure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from phantrol.evals.card import read_reports
from phantrol.find import short_name

PAPERS = "paper_scores.json"  # beside this file
LATEX = str.maketrans({sign: f"\\{sign}" for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}", "–": "--"})


@dataclass(frozen=True)
class Cell:
    """value  as papers print it: percent, or points;  low, high  its 95 % interval, None for published numbers
    scale     what stands for everything right;  notes  numbers of the footnotes that belong to it
    """

    value: float
    low: float | None = None
    high: float | None = None
    scale: float = 100
    notes: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        return self.value / self.scale


@dataclass(frozen=True)
class TableRow:
    """A model, with the protocol that it was asked by, or what a paper published of it."""

    name: str
    how: str
    published: bool
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Results:
    """columns  {benchmark: its title};  footnotes  what is to be known of some cells, from 1 on;  sources  of the rows
    that are published"""

    columns: dict[str, str]
    rows: tuple[TableRow, ...]
    footnotes: tuple[str, ...]
    sources: tuple[str, ...]


def collect(paths: Sequence[Path], published: bool = True) -> Results:
    """Return what files of `phantrol eval --json` hold, a row for each model and protocol.

    published  with the rows of the papers, for the benchmarks that they have
    Raises ValueError for a file without results, and for two results of one model on one benchmark.
    """
    papers = read_papers()
    reports = [report for path in paths for report in read_reports(path)]
    columns = _columns(reports, papers["columns"])
    ours: dict[tuple[str, str, str], dict[str, Cell]] = {}
    footnotes: list[str] = []
    for report in reports:
        card, column = report["card"], _column(report)
        bits = card["speaker"]["weights"]
        name = _short(report["model"]) + (f", {bits}" if bits else "")
        key = (name, card["protocol"] or "–", json.dumps(card["speaker"] | {"decoding": None}, sort_keys=True))
        row = ours.setdefault(key, {})
        if column in row:
            raise ValueError(f"{name} has two results on {_asked(report)[0]}: give one of them")
        if card["headline"] is None:
            why = "is judged, and has no score without a judge"
            if card["judge"]:
                why = f"has no score: none of {len(report['missing'])} rows could be judged by {card['judge']['model']}"
            footnotes.append(f"{columns[column]} of {name} {why}.")
            continue
        notes = _notes(report, columns[column])
        footnotes += [note for note in notes if note not in footnotes]
        headline = card["headline"]
        numbers = tuple(footnotes.index(note) + 1 for note in notes)
        row[column] = Cell(headline["value"], headline["low"], headline["high"], headline["scale"], numbers)
    order = [name for name in papers["columns"] if name in columns]
    columns = {name: columns[name] for name in [*order, *(name for name in columns if name not in order)]}
    rows = [TableRow(name, protocol, False, cells) for (name, protocol, _), cells in ours.items()]
    theirs = _published(papers, columns, ours.values()) if published else []
    used = [
        papers["sources"][name] for name in papers["sources"] if any(row.how == f"published: {name}" for row in theirs)
    ]
    return Results(columns, (*rows, *theirs), tuple(footnotes), tuple(used))


def read_papers() -> dict[str, Any]:
    """Return what the papers published: sources, notes, columns {benchmark: title}, and rows."""
    return json.loads(files("phantrol.evals").joinpath(PAPERS).read_text("utf-8"))


def to_markdown(found: Results) -> str:
    lines = ["| model | protocol | " + " | ".join(found.columns.values()) + " |"]
    lines += ["|---|---|" + "---:|" * len(found.columns)]
    for row in found.rows:
        cells = [_shown(row.cells.get(column)) for column in found.columns]
        lines.append("| " + " | ".join([row.name, row.how, *cells]) + " |")
    return "\n\n".join(["\n".join(lines), *_remarks(found)]) + "\n"


def to_latex(found: Results) -> str:
    """Return a tabular, with a line between our rows and the published ones. It needs no package."""
    lines = [r"\begin{tabular}{ll" + "r" * len(found.columns) + "}", r"\hline"]
    titles = ("model", "protocol", *(title.translate(LATEX) for title in found.columns.values()))
    lines += [" & ".join(titles) + r" \\", r"\hline"]
    before = False
    for row in found.rows:
        if row.published and not before:
            lines.append(r"\hline")
        before = row.published
        cells = (_shown_latex(row.cells.get(column)) for column in found.columns)
        lines.append(" & ".join([row.name.translate(LATEX), row.how.translate(LATEX), *cells]) + r" \\")
    lines += [r"\hline", r"\end{tabular}", *(f"% {remark}" for remark in _remarks(found))]
    return "\n".join(lines) + "\n"


def _published(papers: dict[str, Any], columns: dict[str, str], ours: Any) -> list[TableRow]:
    scales = {column: cell.scale for cells in ours for column, cell in cells.items()}
    rows = []
    for row in papers["rows"]:
        cells = {
            name: Cell(row["scores"][name], scale=scales.get(name, 100)) for name in columns if name in row["scores"]
        }
        if cells:
            rows.append(TableRow(row["model"], f"published: {row['paper']}", True, cells))
    return rows


def _notes(report: dict[str, Any], title: str) -> list[str]:
    """Return what a reader of one number must know, beside its protocol."""
    card, said = report["card"], []
    if card["limit"] is not None:
        said.append(f"{title}: at most {card['limit']} rows of each task were asked, of all that there are.")
    left_out = card["headline"].get("left_out")
    if left_out:
        of = f"{title} of {_short(report['model'])}"
        said.append(f"{of}: {len(left_out)} tasks are not there ({', '.join(left_out)}), the others stand for all.")
    if report["missing"]:
        said.append(f"{title} of {_short(report['model'])}: {len(report['missing'])} rows are missing.")
    if card["judge"]:
        said.append(f"{title}: judged by {card['judge']['model']}, with phantrol's prompts.")
    return said


def _remarks(found: Results) -> list[str]:
    said = [f"{number}. {note}" for number, note in enumerate(found.footnotes, 1)]
    if any(not row.published for row in found.rows):
        said.append("In parentheses: the 95 % interval over questions.")
    return said + [f"Published, not measured here: {source}." for source in found.sources]


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    marks = "".join(f"<sup>{number}</sup>" for number in cell.notes)
    return number_of(cell) + (f" ({ends_of(cell)})" if cell.low is not None else "") + marks


def _shown_latex(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    marks = "".join(f"$^{{{number}}}$" for number in cell.notes)
    return number_of(cell) + (f" ({ends_of(cell).translate(LATEX)})" if cell.low is not None else "") + marks


def number_of(cell: Cell) -> str:
    """Return a number as papers print it: points without a fraction, percent with one digit."""
    return f"{cell.value:.0f}" if cell.scale > 100 else f"{cell.value:.1f}"


def ends_of(cell: Cell) -> str:
    digits = 0 if cell.scale > 100 else 1
    return f"{cell.low:.{digits}f}–{cell.high:.{digits}f}"


def _columns(reports: Sequence[dict[str, Any]], papers: dict[str, str]) -> dict[str, str]:
    """Return {column: its title}, which says where the benchmark is from, or which questions of one's own these are,
    where else two would be alike."""
    asked = {_column(report): _asked(report) for report in reports}
    titles = {column: papers.get(column, title) for column, (title, *_) in asked.items()}
    number = Counter(titles.values())
    return {
        column: title if number[title] == 1 else " ".join((title, *filter(None, (place, sha256[:8]))))
        for (column, title), (_, place, sha256) in zip(titles.items(), asked.values(), strict=True)
    }


def _column(report: dict[str, Any]) -> str:
    """Return what has a column of its own: questions of one's own go by their hash, wherever they lie."""
    title, place, sha256 = _asked(report)
    return " ".join(filter(None, (_name(report) if sha256 else title, place, sha256)))


def _asked(report: dict[str, Any]) -> tuple[str, str, str]:
    """Return (the benchmark, and of questions of one's own where they are from; the end of the path of a benchmark in
    a file of one's own; the hash of the questions), the last two empty where there is none."""
    name, options = report["benchmark"], report["card"].get("options") or {}
    place = "/".join(Path(name).parts[-2:]) if name.endswith(".py") else ""
    return " ".join(filter(None, (_name(report), options.get("data")))), place, options.get("data_sha256") or ""


def _name(report: dict[str, Any]) -> str:
    """Return the benchmark, with its split where that is not the usual one."""
    return short_name(report["benchmark"]) + ("" if report["card"]["usual_split"] else f" {report['split']}")


def _short(model: str) -> str:
    """Return the end of a folder's name that tells runs apart: runs/demo/final → demo/final."""
    return "/".join(Path(model).parts[-2:]) if model else "a model in memory"
