"""Questions of one's own: any file that training reads, asked up to the last answer of each row, which is the truth."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import names_of_own
from phantrol.data.messages import Example, Picture
from phantrol.data.pictures import stored_bytes
from phantrol.data.rows.arrow_rows import SINGLE
from phantrol.data.rows.opening import find_files
from phantrol.data.sources.file import FileSource
from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.benchmarks.primer import METRICS
from phantrol.evals.drawing import draw
from phantrol.evals.fingerprints import files_sha256, picture_sha256
from phantrol.evals.metrics import normalise, numbers_in, only_number, rouge_l
from phantrol.evals.published import PublishedRow, mean

FREE_CHARACTERS, FREE_TOKENS = 40, 256  # an answer so long is a sentence of its own; the most tokens for one


@dataclass(frozen=True)
class OwnFile(Benchmark):
    """JSON, JSONL, Parquet or a folder of `datasets`, in any layout of data/layouts.py, by a path or a pattern.

    data    the file;  images  the folder that paths of images start from; by default that of the file
    fields  names of one's own fields: ("question=frage", "answer=antwort")

    The form of an answer is its task, and chooses how it is scored: `yesno`, `letter`, `number`, and `short` and `free`
    by exact match; of `free` ones, which are sentences, `free_rouge_l` is ROUGE-L. Overall is the mean over rows.
    Rows about the same pictures are one group. Raises ValueError for a file or folder that is not there, a row that
    training could not read either, and a split other than "test".
    """

    default_split: ClassVar[str] = "test"
    headline: ClassVar[str | None] = "overall"

    data: Path | None = None
    images: Path | None = None
    fields: tuple[str, ...] = ()
    max_new_tokens: int = 64

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        if split != "test":
            raise ValueError(f"file has no split {split!r}: expected test; name another file with --data")
        if self.data is None:
            raise ValueError("file asks rows of your own: name their file with --data test.jsonl")
        source = FileSource(self.data, self.images, names_of_own(self.fields))
        met: Counter[str] = Counter()
        rows = (_row(source[index][0], met) for index in range(len(source)))
        try:
            return list(rows) if limit is None else draw(rows, limit, seed, self.group_of)
        except BrokenRow as error:
            remedy = "`phantrol data check` finds all such rows, and its --fix leaves them out"
            raise ValueError(f"{error}; {remedy}") from None

    def scores(self, row: Row, text: str) -> dict[str, float]:
        relaxed = {"free_rouge_l": rouge_l(text, row.answer)} if row.task == "free" else {}
        return {row.task: self.score(row, text)} | relaxed

    def score(self, row: Row, text: str) -> float:
        return METRICS[row.task](text, row.answer)

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        return {"overall": mean(self.score(row, text) for row, text in zip(rows, texts, strict=True))}

    def group_of(self, row: PublishedRow) -> str:
        return row.group or row.id

    def data_sha256(self) -> str | None:
        """Return the hash of all files with rows, one behind the other; of one file it is what `sha256sum` says.

        Raises ValueError for a folder of `datasets` whose state.json does not name its files.
        """
        if self.data is None:
            return None
        found = [_saved_files(path) if path.is_dir() else [path] for path in find_files(self.data)]
        return files_sha256(path for paths in found for path in paths)

    def tokens_for(self, task: str) -> int:
        return max(FREE_TOKENS, self.max_new_tokens) if task == "free" else self.max_new_tokens


def _saved_files(folder: Path) -> list[Path]:
    """Return the files with the rows of a folder of `datasets`: what it caches beside them says nothing of them."""
    try:
        files = [folder / each["filename"] for each in json.loads((folder / SINGLE).read_text("utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no whole data set that save_to_disk wrote: {SINGLE}: {error!r}") from None
    absent = [path for path in files if not path.is_file()]
    if absent:
        raise ValueError(f"{folder} is no whole data set that save_to_disk wrote: there is no file {absent[0]}")
    return files


def form_of(answer: str) -> str:
    """Return which kind of answer it is: a key of Primer's METRICS. A number with a unit is words: "5 m" is no 5 km."""
    if normalise(answer) in ("yes", "no"):
        return "yesno"
    if re.fullmatch(r"\(?[A-Z]\)?\.?", answer):
        return "letter"
    has_unit = re.search(r"\d\s*[^\W\d_]", answer)
    if only_number(answer) is not None and len(set(numbers_in(answer))) == 1 and not has_unit:
        return "number"
    return "free" if len(answer) > FREE_CHARACTERS else "short"


def _row(example: Example, met: Counter[str]) -> PublishedRow:
    """Return what is asked of an example.

    met  how often its id came before: files of a pattern may share their names
    """
    *asked, said = example.messages
    answer = said.text.strip()
    form = form_of(answer)
    pictures = [picture for message in asked for picture in message.pictures]
    group = "|".join(map(_key, pictures))
    chat = [{"role": message.role, "content": [*map(_part, message.parts)]} for message in asked]
    met[example.id] += 1
    name = example.id if met[example.id] == 1 else f"{example.id} ({met[example.id]})"
    return PublishedRow(name, form, chat, answer.strip("().") if form == "letter" else answer, group=group)


def _key(picture: Picture) -> str:
    return str(picture) if isinstance(picture, Path) else picture_sha256(stored_bytes(picture) or picture)


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": stored_bytes(part) or part}  # no pixels yet: all rows are held at once


BENCHMARK = OwnFile
