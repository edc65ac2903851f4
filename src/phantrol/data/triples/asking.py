"""Wrong answers from a language model, judged by another, as the triples of Phantom were made [Phantom, section 3].

Differs: what the judge lets pass there went to people; here it is taken, and counts say how much that was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from phantrol.data.messages import REJECTED_KINDS
from phantrol.data.triples.endpoint import Asker, RefusedRequest
from phantrol.data.triples.journal import Journal, key_of
from phantrol.data.triples.prompts import asking_prompt, judging_prompt, read_answer, read_verdict
from phantrol.data.triples.reading import Row
from phantrol.data.triples.validating import fault_of

FAILED_IN_A_ROW = 20  # rows whose requests all fail: then it is the endpoint, not the rows
VERDICTS = {True: "", False: "refused by the judge", None: "no verdict"}


@dataclass(frozen=True)
class Made:
    """What became of a row: (text, kind) of each wrong answer, (kind, reason) of those not to be had, and a failure."""

    row: Row
    rejected: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    failure: str = ""


@dataclass
class Answers:
    """Asks for the wrong answers of rows, `parallel` of them at once, and keeps their order.

    attempts  how often an answer that is not good is asked for, each time told what was not good
    """

    asking: Asker
    judging: Asker
    journal: Journal
    kinds: tuple[str, ...] = REJECTED_KINDS
    attempts: int = 2
    parallel: int = 4

    def __call__(self, rows: Iterable[Row]) -> Iterator[Made]:
        """Yield what becomes of each row. Raises ValueError if the endpoint answers none any more."""
        waiting: deque[Future[Made]] = deque()
        failed = 0
        pool = ThreadPoolExecutor(self.parallel)
        try:
            for row in rows:
                waiting.append(pool.submit(self._make, row))
                while len(waiting) >= 4 * self.parallel:
                    failed = yield from self._take(waiting, failed)
            while waiting:
                failed = yield from self._take(waiting, failed)
        finally:
            pool.shutdown(cancel_futures=True)

    def _take(self, waiting: deque[Future[Made]], failed: int) -> Iterator[Made]:
        made = waiting.popleft().result()
        failed = failed + 1 if made.failure and made.row.example else 0 if made.row.example else failed
        if failed >= FAILED_IN_A_ROW:
            raise ValueError(
                f"{failed} rows one after the other failed: {made.failure}; run it again to go on from here"
            )
        yield made
        return failed

    def _make(self, row: Row) -> Made:
        if row.example is None:
            return Made(row, failure=row.fault)
        rejected: list[tuple[str, str]] = []
        refused: list[tuple[str, str]] = []
        for kind in self.kinds:
            try:
                text, reason = self._wrong_answer(row, kind, [said for said, _ in rejected])
            except RefusedRequest as error:
                return Made(row, tuple(rejected), tuple(refused), str(error))
            if reason:
                refused.append((kind, reason))
            else:
                rejected.append((text, kind))
        return Made(row, tuple(rejected), tuple(refused))

    def _wrong_answer(self, row: Row, kind: str, said: list[str]) -> tuple[str, str]:
        """Return (an answer, "") or ("", why the last one was not good)."""
        tried: tuple[str, ...] = ()
        reason = ""
        for attempt in range(self.attempts):
            prompt = asking_prompt(kind, row.question, row.answer, tried)
            text = read_answer(self._reply(row, f"{kind} {attempt}", self.asking, prompt, None))
            reason = "said already" if text in said else fault_of(text, row.answer, kind)
            if not reason:
                prompt = judging_prompt(kind, row.question, row.answer, text)
                reason = VERDICTS[read_verdict(self._reply(row, "judge", self.judging, prompt, 0.0))]
            if not reason:
                return text, ""
            tried += (text,) if text.strip() else ()
        return "", reason

    def _reply(self, row: Row, role: str, asker: Asker, prompt: list[dict[str, Any]], temperature: float | None) -> str:
        key = key_of(row.where, role, asker.endpoint.model, prompt)
        reply = self.journal.find(key)
        if reply is None:
            reply = asker.ask(prompt, temperature)
            role = "judge" if role == "judge" else "ask"
            self.journal.write(key, {"row": row.where, "role": role, "model": asker.endpoint.model, **reply})
        return reply["text"]
