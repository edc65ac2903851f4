"""The benchmarks that others publish: files in a folder, two protocols, and what most of them share."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import glob, iglob
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from PIL import Image

from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.drawing import draw
from phantrol.evals.letters import LETTERS, chosen_option, leading_letter
from phantrol.find import name_of, short_name
from phantrol.models.image_processing import load_picture
from phantrol.models.released.prompts import MAX_NEW_TOKENS

LETTER = "\nAnswer with the option's letter from the given choices directly."
SHORT = "\nAnswer the question using a single word or phrase."
GAP_PX = 10  # black, between pictures that the released evaluations join
NUM_BEAMS = {"trol": 5, "phantom": 3}  # of the released evaluations

Picture = bytes | Path


@dataclass(frozen=True)
class PublishedRow(Row):
    """A row of a file.

    choices  the texts of the options, that of A first
    group    what it stands and falls with, "" if it is alone
    facts    what else its file says of it
    """

    choices: tuple[str, ...] = ()
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedBenchmark(Benchmark):
    """A benchmark read from files. A subclass gives `questions` and `score`, and `overall` if it is no mean over rows.

    data      the folder with the files, or one with a folder of that name for each benchmark
    protocol  "standard": the benchmark's own definition; "paper": that of the evaluations released with TroL and
              Phantom, without their faults. docs/benchmarks.md has both, and the faults
    family    with "paper", whose: "trol" or "phantom"; None: that of the model

    Raises ValueError for a missing folder, file or split, and a file that is not as published; one line each.
    """

    splits: ClassVar[tuple[str, ...]] = ("test",)  # the first is asked if none is named
    headline: ClassVar[str | None] = "overall"
    folders: ClassVar[tuple[str, ...]] = ()  # what people call the folder of its files, in any case
    source: ClassVar[str] = ""  # where the files are published
    released_name: ClassVar[str] = ""  # the data set in the released evaluations
    picture_ends_line: ClassVar[bool] = True  # in the released prompts
    paper_suffix: ClassVar[str] = ""
    trol_suffix: ClassVar[str | None] = None  # of TroL's paper, where it is another
    standard_suffix: ClassVar[str] = ""

    data: Path | None = None
    protocol: Literal["paper", "standard"] = "standard"
    family: Literal["trol", "phantom"] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.default_split = cls.splits[0]

    def questions(self, split: str) -> Iterable[PublishedRow]:
        """Yield all rows of a split, in the order of the file."""
        raise NotImplementedError

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}: expected {', '.join(self.splits)}")
        try:
            questions = self.questions(split)
            rows = list(questions) if limit is None else draw(questions, limit, seed, self.group_of)
        except (LookupError, TypeError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.name}: a row is not as {self.source} publishes them: {said}") from error
        return [self.finish(row) for row in rows]

    def finish(self, row: PublishedRow) -> PublishedRow:
        """Return a row that will be asked, with what costs too much for those that will not."""
        return row

    def group_of(self, row: Row) -> str:
        return getattr(row, "group", "") or row.id

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        return {"overall": mean(score for _, score in self.scored(rows, texts))} if rows else {}

    def scored(self, rows: Sequence[Row], texts: Sequence[str]) -> list[tuple[Row, float]]:
        """Return each row with the score of its text."""
        return [(row, self.score(row, text)) for row, text in zip(rows, texts, strict=True)]

    def tokens_for(self, task: str) -> int:
        if self.protocol == "standard":
            return self.max_new_tokens
        return MAX_NEW_TOKENS[self.family or "phantom"].get(self.released_name, self.max_new_tokens)

    def for_engine(self, engine: Any) -> Self:
        if self.protocol == "standard" or self.family is not None:
            return self
        config = getattr(getattr(engine, "model", None), "config", None)
        grafted = {modifier["name"] for modifier in getattr(config, "modifiers", [])}
        return replace(self, family="trol" if grafted and "phantom" not in grafted else "phantom")

    def generation_options(self) -> dict[str, Any]:
        return {"num_beams": 1 if self.protocol == "standard" else NUM_BEAMS[self.family or "phantom"]}

    @contextmanager
    def session(self, engine: Any) -> Iterator[None]:
        processor = getattr(engine, "processor", None)
        if self.protocol == "standard" or self.picture_ends_line or processor is None:
            yield
            return
        kept = processor.image_suffix
        processor.image_suffix = kept.rstrip("\n")
        try:
            yield
        finally:
            processor.image_suffix = kept

    @property
    def name(self) -> str:
        return name_of("benchmarks", type(self))

    @property
    def suffix(self) -> str:
        """What the protocol writes behind a question."""
        if self.protocol == "standard":
            return self.standard_suffix
        return self.trol_suffix if self.family == "trol" and self.trol_suffix is not None else self.paper_suffix

    @property
    def root(self) -> Path:
        """The folder of the files."""
        if self.data is None:
            raise ValueError(f"{self.name} reads files: give their folder with --data; they are from {self.source}")
        data = Path(self.data).expanduser()
        if not data.is_dir():
            fault = " is a file: expected the folder that holds it" if data.exists() else ": no such folder"
            raise ValueError(f"--data {data}{fault}")
        wanted = {name.lower() for name in (self.name, *self.folders)}
        inside = sorted(path for path in data.iterdir() if path.name.lower() in wanted and path.is_dir())
        return inside[0] if inside else data

    def files(self, *patterns: str) -> list[Path]:
        """Return the files that the first pattern with any matches, as `data/test-*.parquet` does at any depth.

        Raises ValueError if there is none.
        """
        root = self.root
        for pattern in patterns:
            found = [root / name for name in glob(f"**/{pattern}", root_dir=root, recursive=True)]
            if files := sorted(path for path in found if path.is_file()):
                return files
        raise ValueError(f"{self.name}: no {' or '.join(patterns)} in {root}; the files are from {self.source}")

    def has(self, pattern: str) -> bool:
        """Whether there is such a file."""
        return next(iglob(f"**/{pattern}", root_dir=self.root, recursive=True), None) is not None

    def file(self, *patterns: str) -> Path:
        """Return the one file, that nearest to the top if there are several."""
        return min(self.files(*patterns), key=lambda path: len(path.parts))

    def folder(self, *names: str) -> Path:
        """Return the first of these folders that there is, in the folder of the files or beside it."""
        for name in names:
            for place in (self.root, self.root.parent):
                if (place / name).is_dir():
                    return place / name
        raise ValueError(f"{self.name}: no folder {' or '.join(names)} in {self.root}, expected the pictures there")

    def row(
        self, name: Any, task: str, pictures: Sequence[Picture], question: str, answer: str, **more: Any
    ) -> PublishedRow:
        """Return a row that shows the pictures and then asks, with the protocol's suffix; `more` as in PublishedRow."""
        shown = [{"type": "image", "image": picture} for picture in pictures]
        chat = [{"role": "user", "content": [*shown, {"type": "text", "text": question + self.suffix}]}]
        return PublishedRow(str(name), task, chat, answer, **more)


@dataclass(frozen=True)
class ChoiceBenchmark(PublishedBenchmark):
    """A published benchmark of multiple choice: the answer is a letter, of one of the row's `choices`.

    `rows` raises ValueError, naming the row, for an answer that is none.
    """

    paper_suffix: ClassVar[str] = LETTER
    standard_suffix: ClassVar[str] = LETTER

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        rows = super().rows(split, limit, seed)
        for row in rows:
            letters = LETTERS[: len(row.choices)]
            if row.answer not in tuple(letters):  # no answer would ever be right
                options = f"a letter from A to {letters[-1:]} of its {len(row.choices)} options"
                expected = options if letters else "its options, as in row(..., choices=choices)"
                where = f"{short_name(self.name)}, row {row.id}"
                raise ValueError(f"{where}: got the answer {row.answer!r}, expected {expected}")
        return rows

    def score(self, row: PublishedRow, text: str) -> float:
        if self.protocol == "paper":
            return float(leading_letter(text, len(row.choices)) == row.answer)
        return float(chosen_option(text, row.choices) == row.answer)


def lettered(choices: Iterable[str], between: str = "\n") -> str:
    """Return options as "A. one", "B. two" and so on."""
    return between.join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def join_pictures(row: PublishedRow) -> PublishedRow:
    """Return the row with its pictures joined to one, from left to right at one middle, as the released code does.

    Pictures of which one is broken stay as they are: it is met, and named, when its row is asked.
    """
    content = row.chat[0]["content"]
    shown = [part["image"] for part in content if part["type"] == "image"]
    if len(shown) < 2:
        return row
    try:
        opened = [load_picture(picture) for picture in shown]
    except ValueError:
        return row
    width, height = sum(picture.width + GAP_PX for picture in opened) - GAP_PX, max(each.height for each in opened)
    joined, left = Image.new("RGB", (width, height)), 0
    for picture in opened:
        joined.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + GAP_PX
    packed = io.BytesIO()
    joined.save(packed, "png", compress_level=1)  # packed, since all rows are held at once
    words = [part for part in content if part["type"] == "text"]
    return replace(row, chat=[{"role": "user", "content": [{"type": "image", "image": packed.getvalue()}, *words]}])


def mean(scores: Iterable[float]) -> tuple[float, int]:
    """Return (their mean, how many there are), and 0 for none."""
    scores = list(scores)
    return (sum(scores) / len(scores) if scores else 0.0), len(scores)


def mean_by(pairs: Iterable[tuple[str, float]]) -> dict[str, tuple[float, int]]:
    """Return for each name the mean of its scores and how many there are, in the order in which names come."""
    found: dict[str, list[float]] = {}
    for name, score in pairs:
        found.setdefault(name, []).append(score)
    return {name: mean(scores) for name, scores in found.items()}


def mean_of_tasks(scored: Sequence[tuple[Row, float]]) -> dict[str, tuple[float, int]]:
    """Return as "overall" the mean of the tasks' means, and how many rows there are."""
    tasks = mean_by((row.task, score) for row, score in scored)
    return {"overall": (mean(score for score, _ in tasks.values())[0], len(scored))}
