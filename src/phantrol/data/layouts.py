"""The layouts in which people keep conversations, as one table of names, and a row of any of them read as a draft.

LLaVA, ShareGPT, messages of Hugging Face and trl, preference pairs, questions with answers: a row is known by what it
holds, never by the name of its file. So a data set of one's own needs no code, at most a word in `NAMES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phantrol.data.broken import BrokenRow
from phantrol.data.messages import REJECTED_KINDS

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
        raise BrokenRow("wrong-type", f"got a row that is {_kind(row)}, expected an object with named fields")
    found = _find(row, names or {})
    turns = _context(found)
    if turns and isinstance(found.get("question"), str) and "turns" not in found:
        found = _lettered(found)
    answer, rejected = found.get("answer"), _rejected(found)
    if answer is not None and not (turns and turns[-1].role == "assistant"):
        said = _turns(answer, "answer") if _is_turns(answer) else [Turn("assistant", _text(answer, "answer"))]
        begins_anew = said[0].role != "assistant"  # trl: the whole conversation, its question too
        turns = said if begins_anew else turns + said
    if not turns or ("turns" not in found and answer is None):
        keys = ", ".join(str(key) for key in list(row)[:8]) or "none"
        remedy = "name your own: fields=question=frage,answer=antwort, or --field question=frage --field answer=antwort"
        got = f"got the fields {keys}, expected conversations, messages or an answer"
        raise BrokenRow("unknown-layout", f"{got}; {remedy}")
    if found.get("system") and turns[0].role != "system":
        turns.insert(0, Turn("system", _text(found["system"], "system")))
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
    lower = {str(key).lower(): value for key, value in row.items() if not _is_null(value)}
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
    question = _text(found["question"], "question")
    more = [_text(found["input"], "input")] if found.get("input") else []
    more += [_choices(found["options"])] if found.get("options") else []
    return [Turn("user", "\n".join(part for part in (question, *more) if part))]


def _choices(options: Any) -> str:
    """Return the options with their letters, or nothing where they are bare letters: the picture holds them then."""
    if isinstance(options, str):
        return options
    if isinstance(options, Mapping):
        return "\n".join(f"{letter}. {_text(option, 'option')}" for letter, option in options.items())
    if not isinstance(options, Sequence):
        raise BrokenRow("wrong-type", f"got options that are {_kind(options)}, expected a list")
    letters = [_letter_of(number) for number in range(len(options))]
    texts = [_text(option, "option") for option in options]
    return "" if texts == letters else "\n".join(f"{a}. {b}" for a, b in zip(letters, texts, strict=True))


def _lettered(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with answers that are numbers of options, from 0, as the letters of `_choices`."""
    options = found.get("options")
    if not options or isinstance(options, str) or not isinstance(options, Sequence):
        return dict(found)
    answers = [what for what in ("answer", "rejected", *REJECTED_KINDS) if what in found]
    return {**found, **{what: _letter(found[what], options, what) for what in answers}}


def _letter(answer: Any, options: Sequence[Any], what: str) -> Any:
    """Return the letter of a bare number, or the option that it is in value where it numbers none, and anything else as
    it is, also a number that is itself an option.

    Raises BrokenRow for a number, and a capital letter, of no option.
    """
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [_letter(each, options, what) for each in answer]
    is_digits = isinstance(answer, str) and answer.strip().isdecimal()
    is_beyond = isinstance(answer, str) and answer.strip() in tuple(map(_letter_of, range(len(options), 26)))
    if not (is_digits or is_beyond) and (isinstance(answer, bool) or not isinstance(answer, int | float)):
        return answer
    texts = [_text(option, "option").strip() for option in options]
    if answer in options or (not isinstance(answer, int) and _text(answer, what).strip() in texts):
        return answer
    number = int(answer) if is_digits and len(answer) < 9 else answer
    if number not in range(len(options)):
        if same := [text for text in texts if text == str(answer) or _value(text) == number]:
            return same[0]
        expected = f"expected one of them, its letter, or its number from 0 to {len(options) - 1}"
        raise BrokenRow("wrong-type", f"got {str(answer)[:60]} as {what} to {len(options)} options, {expected}")
    return _letter_of(int(number))


def _letter_of(number: int) -> str:
    return chr(ord("A") + number)


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
        return [_text(each, what) for each in value]
    return [_text(value, what)]


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
        got = "an empty list" if isinstance(value, Sequence) and not value else _kind(value)
        raise BrokenRow("wrong-type", f"got a {what} that is {got}, expected a list of turns")
    return [turn for number, each in enumerate(value) for turn in _turn(each, f"turn {number + 1} of the {what}")]


def _turn(value: Any, where: str) -> list[Turn]:
    if not isinstance(value, Mapping):
        raise BrokenRow("wrong-type", f"{where} is {_kind(value)}, expected an object with a role and a text")
    for asked, said in PAIRS:
        if isinstance(value.get(asked), str) and isinstance(value.get(said), str):
            return [Turn("user", value[asked]), Turn("assistant", value[said], _rejected(_find(value, {})))]
    role = next((value[name] for name in TURN_ROLE if not _is_null(value.get(name))), None)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BrokenRow("wrong-type", f"{where} has the role {role!r}, expected one of {', '.join(ROLES)}")
    content = next((value[name] for name in TURN_TEXT if not _is_null(value.get(name))), None)
    is_parts = isinstance(content, Sequence) and not isinstance(content, str)
    if is_parts and not all(isinstance(part, Mapping) for part in content):
        raise BrokenRow("wrong-type", f"{where} has parts that are no objects, expected {{'type': 'text' or 'image'}}")
    holds_more = len(value) > 2 and ROLES[role.lower()] == "assistant"  # a wrong answer beside the right one
    rejected = _rejected(_find(value, {})) if holds_more else ()
    return [Turn(ROLES[role.lower()], content if is_parts else _text(content, where), rejected)]


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
    return _is_null(image) or (isinstance(image, Mapping) and all(part is None for part in image.values()))


def _is_null(value: Any) -> bool:
    """Whether it is None, or NaN, which pandas writes for what is missing."""
    return value is None or (isinstance(value, float) and value != value)


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_null(value):
        return str(value)
    raise BrokenRow("wrong-type", f"got {'nothing' if _is_null(value) else _kind(value)} as {what}, expected text")


def _name(value: Any) -> str:
    return "" if value is None else str(value)


def _kind(value: Any) -> str:
    names = {
        (type(None),): "nothing",
        (Mapping,): "an object",
        (str,): "text",
        (bool,): "true or false",
        (int, float): "a number",
        (list, tuple): "a list",
    }
    return next((name for kind, name in names.items() if isinstance(value, kind)), type(value).__name__)
