"""The layouts in which people keep conversations, as one table of names, and a row of any of them read as a draft.

LLaVA, ShareGPT, messages of Hugging Face and trl, preference pairs, questions with answers: a row is known by what it
holds, never by the name of its file. So a data set of one's own needs no code, at most a word in `NAMES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.broken import BrokenRow, is_null, kind_of, text_of
from phantrol.data.messages import REJECTED_KINDS
from phantrol.data.options import lettered_options, with_letters

# what a row may hold: the names under which it is found, upper and lower case alike, the first that is there wins
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "uid", "question_id", "sample_id", "qid", "pid", "idx"),
    "turns": ("conversations", "messages", "conversation", "dialogue", "dialog", "texts"),
    "system": ("system", "system_prompt"),
    "question": ("prompt", "question", "query", "instruction", "problem"),
    "input": ("input",),  # Alpaca: what the instruction is about
    "options": ("options", "choices"),
    "answer": ("chosen", "answer", "response", "output", "completion", "solution"),
    "rejected": ("rejected", "reject", "rejected_answer", "rejected_response", "wrong_answer", "negative", "lose"),
    "incorrect": ("incorrect", "incorrect_answer", "incorrect_and_ambiguous"),
    "ambiguous": ("ambiguous", "ambiguous_answer"),
    "rejected_kind": ("rejected_type", "rejected_kind"),
    # pixels before paths: MathVision has both, and its paths point into an archive; an address last, as none is fetched
    "images": (
        *("decoded_image", "images", "image", "jpg", "jpeg", "png", "webp", "image_path", "image_paths", "img_path"),
        *("image_file", "img", "file_name", "picture", "photo", "image_url"),
    ),
}
STANDS_FOR = {name: what for what, known in NAMES.items() for name in (what, *known)}
TURN_ROLE, TURN_TEXT = ("role", "from"), ("content", "value", "text")
PAIRS = (("user", "assistant"), ("question", "answer"))  # a turn that holds a question and its answer at once
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard", "bing"), "assistant"),
    "system": "system",
}


@dataclass(frozen=True)
class Turn:
    """What one side says: text, or parts as Hugging Face writes them, [{"type": "text" | "image", ...}]."""

    role: str
    content: str | Sequence[Mapping[str, Any]]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text") or "") for part in self.content if part.get("type") == "text")


@dataclass(frozen=True)
class Draft:
    """A row with its fields found: turns with placeholders still in them, references to images still unopened.

    rejected  (text, kind) of each answer to unlearn
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Any, ...]
    rejected: tuple[tuple[str, str], ...] = field(default=())

    @property
    def has_pictures(self) -> bool:
        parts = [part for turn in self.turns if not isinstance(turn.content, str) for part in turn.content]
        return bool(self.images) or any(part.get("type") in ("image", "image_url") for part in parts)


def names_of_own(pairs: Iterable[str]) -> dict[str, str]:
    """Return {"question": "frage"} of "question=frage". Raises ValueError for anything but NAME=YOURS."""
    found = [pair.partition("=") for pair in pairs]
    if any(not (name and own) for name, _, own in found):
        raise ValueError(f"fields: got {', '.join(pairs)}, expected NAME=YOURS, such as question=frage")
    return {name: own for name, _, own in found}


def read_draft(row: Any, names: Mapping[str, str] | None = None) -> Draft:
    """Return what a row holds.

    names  names of one's own, by what they stand for or any name for it in NAMES: {"question": "frage"}
    Raises BrokenRow for a row of no known layout, or with a field of another kind than expected.
    """
    if not isinstance(row, Mapping):
        raise BrokenRow("wrong-type", f"got a row that is {kind_of(row)}, expected an object with named fields")
    found = _find(row, names or {})
    turns = _context(found)
    if turns and isinstance(found.get("question"), str) and "turns" not in found:
        found = with_letters(found)
    answer, rejected = found.get("answer"), _rejected(found)
    if answer is not None and not (turns and turns[-1].role == "assistant"):
        said = _turns(answer, "answer") if _is_turns(answer) else [Turn("assistant", text_of(answer, "answer"))]
        begins_anew = said[0].role != "assistant"  # trl: the whole conversation, its question too
        turns = said if begins_anew else turns + said
    if not turns or ("turns" not in found and answer is None):
        keys = ", ".join(str(key) for key in list(row)[:8]) or "none"
        remedy = "name your own: fields=question=frage,answer=antwort, or --field question=frage --field answer=antwort"
        got = f"got the fields {keys}, expected conversations, messages or an answer"
        raise BrokenRow("unknown-layout", f"{got}; {remedy}")
    if found.get("system") and turns[0].role != "system":
        turns.insert(0, Turn("system", text_of(found["system"], "system")))
    _check_turns(turns)
    rejected += turns[-1].rejected
    return Draft(_name(found.get("id")), tuple(turns), _references(found.get("images")), rejected)


def _find(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    unknown = [name for name in names if name not in STANDS_FOR]
    if unknown:
        raise ValueError(f"fields: got {unknown[0]!r}, expected some of {', '.join(NAMES)}")
    if len({STANDS_FOR[name] for name in names}) < len(names):
        raise ValueError(f"fields: got {', '.join(names)}, of which two stand for the same: name each thing once")
    names = {STANDS_FOR[name]: own for name, own in names.items()}
    lower = {str(key).lower(): value for key, value in row.items() if not is_null(value)}
    found = {}
    for what, known in NAMES.items():
        for name in (names[what].lower(),) if what in names else known:
            if name in lower:
                found[what] = lower[name]
                break
    return found


def _context(found: Mapping[str, Any]) -> list[Turn]:
    """Return what comes before the answer, or the whole conversation."""
    if "turns" in found:
        return _turns(found["turns"], "conversation")
    if "question" not in found:
        return []
    if _is_turns(found["question"]):
        return _turns(found["question"], "question")
    question = text_of(found["question"], "question")
    more = [text_of(found["input"], "input")] if found.get("input") else []
    more += [lettered_options(found["options"])] if found.get("options") else []
    return [Turn("user", "\n".join(part for part in (question, *more) if part))]


def _rejected(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    kinds = {what: what for what in REJECTED_KINDS}
    if "rejected" in found:
        kind = found.get("rejected_kind", "incorrect")
        kinds["rejected"] = kind.strip().lower() or "incorrect" if isinstance(kind, str) else kind
        if kinds["rejected"] not in REJECTED_KINDS:
            expected = f"expected {' or '.join(REJECTED_KINDS)}"
            raise BrokenRow("wrong-type", f"got {str(kind)[:60]!r} as the kind of the rejected answer, {expected}")
    return tuple((text, kind) for what, kind in kinds.items() if what in found for text in _answers(found[what], what))


def _answers(value: Any, what: str) -> list[str]:
    """Return the texts of one wrong answer or of several."""
    if _is_turns(value):
        last = _turns(value, what)[-1]
        if last.role != "assistant":
            raise BrokenRow("turns", f"the {what} conversation ends with the {last.role}, expected the assistant")
        return [last.text]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text_of(each, what) for each in value]
    return [text_of(value, what)]


def _is_turns(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(name in value for name in TURN_ROLE)
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def _turns(value: Any, what: str) -> list[Turn]:
    if isinstance(value, str) and value.lstrip()[:1] == "[":  # a column of Parquet that holds JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:  # no JSON, a number too long, or brackets too deep
            raise BrokenRow("bad-json", f"the {what} is text that is no JSON: {getattr(error, 'msg', error)}") from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        got = "an empty list" if isinstance(value, Sequence) and not value else kind_of(value)
        raise BrokenRow("wrong-type", f"got a {what} that is {got}, expected a list of turns")
    return [turn for number, each in enumerate(value) for turn in _turn(each, f"turn {number + 1} of the {what}")]


def _turn(value: Any, where: str) -> list[Turn]:
    if not isinstance(value, Mapping):
        raise BrokenRow("wrong-type", f"{where} is {kind_of(value)}, expected an object with a role and a text")
    for asked, said in PAIRS:
        if isinstance(value.get(asked), str) and isinstance(value.get(said), str):
            return [Turn("user", value[asked]), Turn("assistant", value[said], _rejected(_find(value, {})))]
    role = next((value[name] for name in TURN_ROLE if not is_null(value.get(name))), None)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BrokenRow("wrong-type", f"{where} has the role {role!r}, expected one of {', '.join(ROLES)}")
    content = next((value[name] for name in TURN_TEXT if not is_null(value.get(name))), None)
    is_parts = isinstance(content, Sequence) and not isinstance(content, str)
    if is_parts and not all(isinstance(part, Mapping) for part in content):
        raise BrokenRow("wrong-type", f"{where} has parts that are no objects, expected {{'type': 'text' or 'image'}}")
    holds_more = len(value) > 2 and ROLES[role.lower()] == "assistant"  # a wrong answer beside the right one
    rejected = _rejected(_find(value, {})) if holds_more else ()
    return [Turn(ROLES[role.lower()], content if is_parts else text_of(content, where), rejected)]


def _check_turns(turns: list[Turn]) -> None:
    spoken = [turn for turn in turns if turn.role != "system"]
    if not spoken or spoken[0].role != "user" or spoken[-1].role != "assistant":
        roles = ", ".join(turn.role for turn in turns[:6])
        raise BrokenRow("turns", f"got the turns {roles}, expected the user's first and the assistant's last")
    early = next((number for number, turn in enumerate(turns[:-1], start=1) if turn.rejected), None)
    if early is not None:
        raise BrokenRow("turns", f"a rejected answer beside turn {early} of {len(turns)}, expected it beside the last")


def _references(value: Any) -> tuple[Any, ...]:
    """Return the images of a row as a tuple: a path, bytes, {"bytes", "path"}, or a list of such. Nulls are none."""
    if value is None or value == "":
        return ()
    several = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)
    return tuple(each for each in several if not _is_nothing(each))


def _is_nothing(image: Any) -> bool:
    """Whether it is a null, or an object of nulls, as columns of Arrow have where a row has no image."""
    return is_null(image) or (isinstance(image, Mapping) and all(part is None for part in image.values()))


def _name(value: Any) -> str:
    return "" if value is None else str(value)
