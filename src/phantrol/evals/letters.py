"""Which option an answer chooses, and whether it says yes or no. What is not said is None, which is never right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from phantrol.evals.metrics import normalise, plain

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of options
# no letters of options
_ARTICLE = r"A\s+(?!(?:and|or|is|was|because|since|seems|rather than|instead of|over)\b)[a-z]|I\s|I'"
_SAYS_CN = r"(?:我?选择?|应选|正确)?答案(?:是|为|选)?|我?选择?项?|应选"
_SAYS = rf"(?i:\b(?:answer|option|choice|letter)\b(?:\s+is\b|\s*:)?)|{_SAYS_CN}"
_CONCLUDES = r"(?i:\banswer(?:\s+is\b|\s*:)(?:\s+(?:option|choice|letter)\b)?)|答案(?:是|为|选)?"
_DENIES = re.compile(  # up to the letter that is denied
    r"(?:(?:\b(?:not|cannot|except|neither|nor)|n't) +(?:(?:be|the|option|answer|choice|letter) +)*"
    r"|不是|不应?选择?)\**",
    re.IGNORECASE,
)
_UNREFUTED = (  # behind a letter; "B is not ..." alone may well be the answer
    r"(?!\W*\b(?:is|was)(?:\s+(?:wrong|incorrect|false)|(?:\s+not|n't)\s+(?:the\s+)?(?:right|correct|answer))\b)"
)
_GAP = r"[^!-~]"  # behind a mark: a space, a line end, or Chinese, which has no spaces
_ALONE = re.compile(r"^[\s(\[{*\"']*([A-Za-z])[\s)\]}*\"'.,:;!]*$")
_STATED, _CONCLUDED = (
    re.compile(
        rf"(?:{says})[\s:*\"'(\[]*(?!{_ARTICLE})"
        r"([A-Z](?![A-Za-z'])|[b-z](?![A-Za-z'])|a(?=[)\].,:;!]|\s*$))"  # a small a is the article, but at an end
        rf"{_UNREFUTED}"
    )
    for says in (_SAYS, _CONCLUDES)
)
_ENDS = r"(?<=[.,!?:;]\s)([A-Z])(?=[.:]?$)"  # "..., B."
_BEGINS = re.compile(  # "B. red", but not "A. red B. blue", nor "A. No, B."
    rf"\A[\s(\[*\"']*([A-Za-z])[*\"']*[)\].:]+[*\"']*(?={_GAP}){_UNREFUTED}"
    rf"(?!(?s:.*)(?<![A-Za-z'.])(?!(?i:\1))(?:[A-Za-z](?:\)|[.:]{_GAP})|{_ENDS}))"
)
_MARKED = re.compile(  # an X) within (X) is none of its own: it may be denied
    rf"(?<![A-Za-z'.])(?<!not )(?:\(([A-Za-z])\)|([A-Z])(?=(?<!\(.)\)|[.:]{_GAP})|{_ENDS}){_UNREFUTED}"
)
_SET_OFF = re.compile(  # a mark that is no end of a sentence, as in "darker than C. It"
    rf"\([A-Za-z]\)|(?<![A-Za-z'.])[A-Z]\)|(?:^|[.!?:;\n])[\s*\"'\[]*[A-Z][.:](?:{_GAP}|$)"
)
_BARE = re.compile(rf"(?<![A-Za-z'.\d])(?<!not )(?!{_ARTICLE})([A-Z])(?![A-Za-z'\d]|-[A-Za-z]){_UNREFUTED}")
_PAIRED = re.compile(  # "A or B", "A and B.": neither is chosen
    r"(?<![A-Za-z'])([A-Z])\)?\s*(?:(?:/|or\b)\s*\(?([A-Z])(?![A-Za-z'])"
    r"|(?:,|&|and\b)\s*\(?([A-Z])(?=\)?\s*(?:[.,;]|$|are\b)))"
)
_LEADS = re.compile(
    rf"[\s(\[*\"']*(?:(?:(?i:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option)\s*(?:is\b)?)|{_SAYS_CN})[\s:(\[]*)?"
    rf"(?!{_ARTICLE})([A-Z](?![A-Za-z'])|[a-z](?![A-Za-z']|\s+[a-z]))"
    rf"(?!\)?\s*(?:,|/|&|or\b|and\b)\s*\(?[A-Z](?![A-Za-z])){_UNREFUTED}"
)
_BOTH = re.compile(r"\b(yes|no)\W+(?:(?:or|and)\W+)?(yes|no)\b")
_REFUSES = re.compile(
    r"\b(?:no idea|no way (?:to|of)|no information|not (?:sure|certain|clear|possible|able)|unsure|unclear|uncertain"
    r"|unable|unknown|cannot|can not|can't|don't know|do not know|sorry|impossible to|(?:difficult|hard) to (?:say"
    r"|tell))\b"
)
_UNSURE = re.compile(  # of the answer itself: what "cannot fly" is none of
    r"\b(?:no idea|no way (?:to|of)|no information|not (?:sure|certain|clear)|unsure|unclear|uncertain|don't know"
    r"|do not know|sorry|(?:I|we)(?:\s+am|\s+are|'m|'re)?\s+(?:cannot|can not|can't|unable|not able)"
    r"|(?:cannot|can not|can't|(?:unable|not able|not possible|impossible|difficult|hard) to)\s+(?:\w+ly\s+)?(?:be\s+)?"
    r"(?:answer|determin|identif|judge|know|said|say|tell|told)\w*)\b",
    re.IGNORECASE,
)


def chosen_option(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer chooses, wherever it says so, or None: none, several, or refused.

    choices  the texts of the options, that of A first; an empty text is an option that has none

    In this order: the letter behind "the answer is" or "答案："; the only letter alone in a line; a marked letter at
    the beginning ("(B) red", "B. red"), unless another one is marked too or ends the text; the letter behind
    "option", "choice", "letter" or "answer"; "B)" or "(B)" anywhere, "B." or "B:" where a line or a sentence begins; a
    letter as a word, unless it is the article "A" or "I"; the only option whose text occurs, as a whole and not within
    that of another one that occurs. Two letters by one rule are none, and so is one in an option's text ("vitamin D").
    What is denied ("not B", "neither A nor B", "B is wrong", "not red") is not chosen, and the text of an option behind
    a refusal neither.
    """
    text = plain(text).strip()
    known = LETTERS[: len(choices)]
    rest = text
    for choice in sorted((plain(choice).strip() for choice in choices), key=len, reverse=True):
        if len(choice) > 1:
            rest = re.sub(_whole(choice), " ", rest, flags=re.IGNORECASE)
    rest = _DENIES.sub(" not ", rest)
    lines = "\n".join(line for line in text.splitlines() if _ALONE.match(line))
    marked = ((_MARKED, rest),) if _SET_OFF.search(rest) else ()
    rules = ((_CONCLUDED, rest), (_ALONE, lines), (_BEGINS, rest), (_STATED, rest), *marked, (_BARE, rest))
    for pattern, said in rules:
        letters = set().union(*(_named(found, said) for found in pattern.finditer(said))) & set(known)
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return _by_text(text, dict(zip(known, choices, strict=True)))


def chosen_letter(text: str) -> str | None:
    """Return the option whose letter a text chooses, wherever it says so, or None if it chooses none or several."""
    return chosen_option(text, ("",) * len(LETTERS))


def option_letter(text: str, answer: str) -> float:
    """1 if the letter that the text chooses, as in "B", "(b)", "B. red" or "The answer is B.", is the answer's."""
    return float(chosen_letter(text) == answer.strip().upper())


def _named(found: re.Match[str], said: str) -> set[str]:
    """Return the letter that was found, and with it the one that it stands in a pair with."""
    at = found.start(found.lastindex)
    pairs = [pair for pair in _PAIRED.finditer(said) if pair.start() <= at < pair.end()]
    return {found[found.lastindex].upper(), *(letter for pair in pairs for letter in pair.groups() if letter)}


def leading_letter(text: str, num_choices: int) -> str | None:
    """Return the option letter with which an answer begins, or None.

    "B", "(b)", "B. red", "Option B", "The answer is B" begin with it; "Both" and "A dog" do not.
    """
    found = _LEADS.match(plain(text))
    letter = found[1].upper() if found else ""
    return letter if letter and letter in LETTERS[:num_choices] else None


def said_yes_or_no(text: str) -> Literal["yes", "no"] | None:
    """Return what an answer says: its first word, or else the only one of the two that occurs; a "not" is a no.

    "yes or no" and a refusal say neither.
    """
    said = leading_yes_or_no(text)
    if said is not None or _BOTH.search(plain(text).lower()) or refuses(text):
        return said
    words = set(re.findall(r"[a-z']+", plain(text).lower()))
    negated = any(word in ("no", "not", "none", "never", "nor") or word.endswith("n't") for word in words)
    if negated:
        return None if "yes" in words else "no"
    return "yes" if "yes" in words else None


def refuses(text: str) -> bool:
    """Whether an answer says nothing: it is empty, or says that it cannot be answered."""
    return not plain(text).strip() or bool(_REFUSES.search(plain(text).lower()))


def leading_yes_or_no(text: str) -> Literal["yes", "no"] | None:
    """Return the yes or no with which an answer begins."""
    text = plain(text).lower().strip(" \t\n\"'(*[.,")
    if _BOTH.match(text):
        return None
    found = re.match(r"(yes|no)\b(?! (?:idea|way|information))", text)
    return found[1] if found else None  # type: ignore[return-value]


def _by_text(text: str, choices: dict[str, str]) -> str | None:
    said = normalise(_before_refusal(text, choices.values()))
    options = {letter: normalise(choice) for letter, choice in choices.items()}
    found = {letter: option for letter, option in options.items() if option and re.search(_whole(option), said)}
    longest = [
        letter
        for letter, option in found.items()
        if not any(other != option and re.search(_whole(option), other) for other in found.values())
    ]
    if len(longest) != 1:
        return None
    denied = rf"(?:不是|(?:not|n't|except)\s)\s*(?:be\s+)?(?:(?:an?|the)\s+)?{_whole(options[longest[0]])}"
    return None if re.search(denied, text, re.IGNORECASE) else longest[0]


def _before_refusal(text: str, choices: Iterable[str]) -> str:
    """Return what is said before the words that nothing can be said; those of an option ("unclear") are none."""
    hidden = text
    for choice in filter(_UNSURE.search, map(plain, choices)):
        hidden = re.sub(_whole(choice.strip()), lambda found: " " * len(found[0]), hidden, flags=re.IGNORECASE)
    found = _UNSURE.search(hidden)
    return text[: found.start()] if found else text


def _whole(words: str) -> str:
    """Return a pattern for words that are no part of others: "1" is none of "-1", "10" and "1.5"."""
    return rf"(?<![A-Za-z\d-])(?<!\d[.,]){re.escape(words)}(?![A-Za-z\d]|[.,]\d)"
