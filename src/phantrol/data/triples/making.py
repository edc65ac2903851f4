"""From files to a file of triples, with counts of what was accepted, what was not, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phantrol.data.broken import BrokenRow
from phantrol.data.messages import REJECTED_KINDS
from phantrol.data.triples.asking import Answers, Made
from phantrol.data.triples.endpoint import Asker, Endpoint
from phantrol.data.triples.journal import Journal
from phantrol.data.triples.reading import OwnRows
from phantrol.data.triples.rules import Rules
from phantrol.data.triples.writing import check_apart, check_out, triple, write_rows

Tell = Callable[[int, int], None]


@dataclass
class Usage:
    """What one role used, over all runs that share a journal: requests, tokens, and what they cost.

    uncounted  requests that the endpoint told no tokens of: tokens and cost are then lower bounds
    """

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    uncounted: int = 0


@dataclass
class Tally:
    """What was made of the rows.

    accepted  by kind;  refused  by kind and reason;  failed  {row, reason} of those that gave nothing for want of an
    answer, or because they are broken;  usage  of "ask" and "judge";  asked_now, retried  requests of this run
    """

    rows: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: list[dict[str, str]] = field(default_factory=list)
    usage: dict[str, Usage] = field(default_factory=dict)
    asked_now: int = 0
    retried: int = 0

    def rate(self, kind: str) -> float:
        """Return the share of accepted answers among those of a kind that were written."""
        refused = sum(count for (each, _), count in self.refused.items() if each == kind)
        return self.accepted[kind] / max(1, self.accepted[kind] + refused)


def journal_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal.jsonl")


def failed_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.failed.jsonl")


def make_by_rules(
    rows: OwnRows, out: Path, kinds: tuple[str, ...] = REJECTED_KINDS, seed: int = 0, tell: Tell | None = None
) -> Tally:
    """Write triples that rules make.

    Raises ValueError for a bad name of the file, one that is read itself, and rows that are not there.
    """
    check_kinds(kinds)
    _check_out(out, rows)
    tally = Tally()
    _write(Rules(kinds, seed)(rows), out, tally, len(rows), tell)
    return tally


def make_by_asking(
    rows: OwnRows,
    out: Path,
    asking: Endpoint,
    judging: Endpoint,
    kinds: tuple[str, ...] = REJECTED_KINDS,
    attempts: int = 2,
    parallel: int = 4,
    tell: Tell | None = None,
) -> Tally:
    """Write triples that one endpoint writes and another judges; every reply goes into a journal beside the file first.

    Run again with the same arguments, it goes on from the journal, asks only what is missing there, and writes the file
    that one run would have written. Raises ValueError for a bad name of the file, one that is read itself, rows that
    are not there, a client that is not installed, and an endpoint that answers nobody.
    """
    check_kinds(kinds)
    _check_out(out, rows)
    askers = askers_of(asking, judging)
    journal = Journal(journal_path(out))
    before, tally = len(journal), Tally()
    try:
        answers = Answers(*askers, journal, kinds, attempts, parallel)
        _write(answers(rows), out, tally, len(rows), tell)
        tally.asked_now, tally.retried = len(journal) - before, sum(asker.retried for asker in askers)
        tally.usage = _count(journal, {"ask": asking, "judge": judging})
    finally:
        journal.close()
    return tally


def askers_of(asking: Endpoint, judging: Endpoint) -> tuple[Asker, Asker]:
    """Return who asks each endpoint; requests to one address are counted together."""
    writer = Asker(asking)
    return writer, Asker(judging, writer.pace if judging.url == asking.url else None)


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Raise ValueError for a kind of wrong answers that is none."""
    unknown = [kind for kind in kinds if kind not in REJECTED_KINDS]
    if unknown or not kinds:
        raise ValueError(f"--kind: got {', '.join(unknown) or 'none'}, expected some of {', '.join(REJECTED_KINDS)}")


def _check_out(out: Path, rows: OwnRows) -> None:
    """Raise ValueError where the triples, or what lies beside them, cannot be written without harm."""
    check_out(out)
    check_apart((out, journal_path(out), failed_path(out)), rows.files)


def _write(made: Iterable[Made], out: Path, tally: Tally, total: int, tell: Tell | None) -> None:
    write_rows(_counted(made, out.parent, tally, total, tell), out)
    if tally.failed:
        write_rows(tally.failed, failed_path(out))
    else:
        failed_path(out).unlink(missing_ok=True)


def _counted(
    made: Iterable[Made], folder: Path, tally: Tally, total: int, tell: Tell | None
) -> Iterator[dict[str, Any]]:
    for each in made:
        tally.rows += 1
        failure = each.failure
        tally.refused.update(each.refused)
        for text, kind in each.rejected:
            try:
                found = triple(each.row, text, kind, folder)
            except BrokenRow as error:
                failure = failure or error.detail
                continue
            tally.accepted[kind] += 1
            yield found
        if failure:
            tally.failed.append({"row": each.row.where, "reason": failure})
        if tell is not None:
            tell(tally.rows, total)


def _count(journal: Journal, endpoints: dict[str, Endpoint]) -> dict[str, Usage]:
    usage = {role: Usage() for role in endpoints}
    for reply in journal.replies():
        used = usage[reply["role"]]
        used.requests += 1
        used.tokens_in += reply["tokens_in"]
        used.tokens_out += reply["tokens_out"]
        is_counted = reply["tokens_in"] and (reply["tokens_out"] or not reply["text"])  # no prompt has no tokens
        used.uncounted += not is_counted
    for role, endpoint in endpoints.items():
        usage[role].cost = endpoint.cost(usage[role].tokens_in, usage[role].tokens_out)
    return usage
