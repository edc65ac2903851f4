"""The options of a question get letters, and an answer that is the number of one becomes its letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phantrol.data.broken import BrokenRow, kind_of, text_of
from phantrol.data.messages import REJECTED_KINDS


def lettered_options(options: Any) -> str:
    """Return the options with their letters, or nothing where they are bare letters: the picture holds them then.

    Raises BrokenRow for options that are neither text, a list nor an object, or hold what is no text.
    """
    if isinstance(options, str):
        return options
    if isinstance(options, Mapping):
        return "\n".join(f"{letter}. {text_of(option, 'option')}" for letter, option in options.items())
    if not isinstance(options, Sequence):
        raise BrokenRow("wrong-type", f"got options that are {kind_of(options)}, expected a list")
    letters = [_letter_of(number) for number in range(len(options))]
    texts = [text_of(option, "option") for option in options]
    return "" if texts == letters else "\n".join(f"{a}. {b}" for a, b in zip(letters, texts, strict=True))


def with_letters(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with answers that are numbers of options, from 0, as the letters of `lettered_options`.

    Raises BrokenRow for a number, and a capital letter, of no option.
    """
    options = found.get("options")
    if isinstance(options, Mapping) and list(options) == [_letter_of(number) for number in range(len(options))]:
        options = list(options.values())  # {"A": "red", "B": "blue"} is ["red", "blue"]
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
    beyond = tuple(map(_letter_of, range(len(options), 26)))
    is_beyond = isinstance(answer, str) and answer.strip().strip("().") in beyond
    if not (is_digits or is_beyond) and (isinstance(answer, bool) or not isinstance(answer, int | float)):
        return answer
    texts = [text_of(option, "option").strip() for option in options]
    if answer in options or (not isinstance(answer, int) and text_of(answer, what).strip() in texts):
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
