"""A judge: any model behind OpenAI's protocol, at temperature 0. What it was asked and what it said is kept.

A judgement that fails, whether nobody answers or the answer cannot be read, is missing; it is never a score.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phantrol.evals.benchmark import Row
from phantrol.evals.evaluation import Evaluation
from phantrol.evals.fingerprints import prompt_sha256
from phantrol.evals.journal import Journal
from phantrol.evals.report import COLUMNS, Missing
from phantrol.models.image_processing import load_picture

KEY = "OPENAI_API_KEY"  # the environment variable with the judge's key; it is never written anywhere
AT_ONCE = 8  # judgements that wait for their replies
TRIES, WAIT_S, TIMEOUT_S = 4, 2.0, 120.0
AGAIN = (408, 409, 429)  # statuses after which one may try again, as after those of a server's fault

Ask = Callable[..., str]  # (prompt, max_tokens=..., pictures=()) → the judge's reply


class NoVerdict(ValueError):
    """A judgement that failed: it is missing, and the report says so."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error like any other status: followed, it would take the key to another server."""

    def redirect_request(self, *asked: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Judge:
    """url  of the server, as http://127.0.0.1:8000/v1;  model  its name there

    Raises ValueError for a url that is none.
    """

    url: str
    model: str
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the judge's url is {self.url!r}: expected one like https://api.openai.com/v1")
        if parts.username or parts.password:
            raise ValueError(f"the judge's url holds a user: its key belongs into the variable {KEY}")

    def reply(self, prompt: str, max_tokens: int, pictures: Sequence[Any] = ()) -> tuple[str, str]:
        """Return what the judge says and the name of the model that said it. Raises NoVerdict if nobody answers."""
        shown = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
        content: Any = [{"type": "text", "text": prompt}, *shown] if shown else prompt
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        read = self._post(json.dumps(body).encode())
        try:
            said = read["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            said = None
        if not isinstance(said, str) or not said.strip():
            raise NoVerdict("the judge replied without a text")
        return _writable(said), _writable(str(read.get("model", self.model)))

    def _post(self, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        asked = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        opener = urllib.request.build_opener(_NoRedirects)
        for attempt in range(1, TRIES + 1):
            try:
                with opener.open(asked, timeout=TIMEOUT_S) as response:
                    read = json.load(response)
                    return read if isinstance(read, dict) else {}
            except urllib.error.HTTPError as error:
                reason = f"the judge's server says {error.code}: {_short(error)}"
                if error.code not in AGAIN and error.code < 500:
                    raise NoVerdict(reason) from None
            # out of reach, cut off, no JSON, JSON too deep to be read
            except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
                reason = f"the judge does not answer: {getattr(error, 'reason', error)}"
            if attempt < TRIES:
                time.sleep(self.wait_s * 2 ** (attempt - 1))
        raise NoVerdict(reason)


def judge_answers(found: Evaluation, judge: Judge, kept: Path | None = None) -> tuple[Evaluation, dict[str, Any]]:
    """Return the evaluation with the judge's scores, and what its card says of the judge.

    kept  a file for prompts and replies: a judgement that is there is not asked for again, unless it could not be read
    Raises ValueError if that file has another judge's.
    """
    journal = None if kept is None else Journal(kept, {"url": judge.url, "model": judge.model, "temperature": 0})
    names: set[str] = set()
    lock = threading.Lock()

    def grade(pair: tuple[Row, Any], anew: bool = False) -> dict[str, float] | NoVerdict:
        row, sample = pair
        asker = _Asker(judge, journal, lock, names, row, anew)
        try:
            return found.benchmark.judge(row, sample.texts["model"], asker)
        except NoVerdict as failure:  # a kept reply need not be the judge's last word
            return grade(pair, anew=True) if asker.was_kept else failure

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            verdicts = list(pool.map(grade, zip(found.rows, found.report.samples, strict=True)))
    finally:
        if journal is not None:
            journal.close()
    good = [index for index, verdict in enumerate(verdicts) if not isinstance(verdict, NoVerdict)]
    rows = tuple(found.rows[index] for index in good)
    scores = [verdicts[index] for index in good]
    samples = tuple(
        dataclasses.replace(found.report.samples[index], scores={"model": verdicts[index]}) for index in good
    )
    failed = tuple(
        Missing(row.id, row.task, str(verdict))
        for row, verdict in zip(found.rows, verdicts, strict=True)
        if isinstance(verdict, NoVerdict)
    )
    overall = {
        name: dict.fromkeys(COLUMNS) | {"model": value, "n": number}
        for name, (value, number) in found.benchmark.overall_of(rows, scores).items()
    }
    report = dataclasses.replace(found.report, samples=samples, overall=overall, missing=found.report.missing + failed)
    card = {"url": judge.url, "model": judge.model, "answered_as": sorted(names), "temperature": 0}
    card |= {"prompts": found.benchmark.judge_prompts, "judged": len(good), "failed": len(failed)}
    return dataclasses.replace(found, rows=rows, report=report), card


@dataclasses.dataclass
class _Asker:
    """An `Ask` for one row.

    journal    of replies, None to keep none;  lock  of it and of `names`, those of the models that replied
    anew       whether what the journal has is asked for once more;  was_kept  whether the last reply was from there
    """

    judge: Judge
    journal: Journal | None
    lock: threading.Lock
    names: set[str]
    row: Row
    anew: bool = False
    was_kept: bool = False

    def __call__(self, prompt: str, max_tokens: int = 256, pictures: Sequence[Any] = ()) -> str:
        shown = [{"type": "image", "image": picture} for picture in pictures]
        sha256 = prompt_sha256([{"role": "user", "content": [{"type": "text", "text": prompt}, *shown]}])
        before = None if self.journal is None or self.anew else self.journal.get(sha256, max_tokens)
        self.was_kept = before is not None
        if before is None:
            said, name = self.judge.reply(prompt, max_tokens, pictures)
            before = {"id": self.row.id, "prompt": prompt, "text": said, "model": name}
            before |= {"prompt_sha256": sha256, "max_new_tokens": max_tokens}
            if self.journal is not None:
                with self.lock:
                    self.journal.add([before])
        with self.lock:
            self.names.add(before.get("model", self.judge.model))
        return before["text"]


def _data_url(picture: Any) -> str:
    file = io.BytesIO()
    load_picture(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _writable(text: str) -> str:
    """Return a text with "?" for halves of characters, which JSON can say and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _short(error: urllib.error.HTTPError) -> str:
    """Return the beginning of what a server says of an error, or why that cannot be read."""
    try:
        said = error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as cut:
        said = str(cut)
    return " ".join(said.split())[:200]
