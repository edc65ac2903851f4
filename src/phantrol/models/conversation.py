"""A conversation taken apart: its texts, its pictures, and where each of them goes in a rendered chat template."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from reprlib import repr as in_short
from typing import Any

Chat = Sequence[Mapping[str, Any]]  # [{"role": ..., "content": text or [{"type": "text"|"image", ...}]}]


class TemplateRefusal(ValueError):
    """The chat template takes no such conversation: roles that it does not know, or in another order."""


def number_parts(chat: Chat) -> tuple[list[dict[str, Any]], list[tuple[str, str]], list[Any]]:
    """Split a chat into messages of ("text"|"image", number) parts, its (role, text)s, and its pictures.

    Raises ValueError for what is no chat, a question without text, a text that was not UTF-8, an image part without a
    picture, and parts of any other type.
    """
    messages, texts, pictures = [], [], []
    for message in chat:
        role, parts = _role_and_parts(message)
        numbered = []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text":
                numbered.append(("text", len(texts)))
                texts.append((role, _text_of(part)))
            elif kind == "image":
                numbered.append(("image", len(pictures)))
                pictures.append(picture_of(part))
            elif isinstance(part, Mapping):
                raise ValueError(f"unknown part of type {kind!r}: expected 'text' or 'image'")
            else:
                raise ValueError(f'a part {in_short(part)}: expected {{"type": "text", "text": ...}}, or "image"')
        if role == "user" and not any(texts[index][1].strip() for kind, index in numbered if kind == "text"):
            raise ValueError("a question without text: type what you want to know about the picture")
        messages.append({"role": role, "content": numbered})
    return messages, texts, pictures


def parts_of(message: Mapping[str, Any]) -> list[Any]:
    """Return the content of a message as parts: a text alone is one of them."""
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def pictures_of(chat: Chat) -> list[Any]:
    """Return the pictures of a chat, in their order: in memory, as bytes, or as paths."""
    return [picture_of(part) for message in chat for part in parts_of(message) if part["type"] == "image"]


def picture_of(part: Mapping[str, Any]) -> Any:
    """Return the picture of an image part, or its file. Raises ValueError if it has none."""
    found = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
    if found is None:
        raise ValueError(f"an image part with {sorted(part)}: expected one with 'image', a picture or a file")
    return found


def _role_and_parts(message: Any) -> tuple[str, list[Any]]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise ValueError(
            f'a message {in_short(message)}: expected a chat, a list of {{"role": "user", "content": text or parts}}'
        )
    content = message.get("content")
    if content is not None and not isinstance(content, str | list | tuple):
        raise ValueError(f"a message with content {in_short(content)}: expected text, or a list of parts")
    return role, parts_of(message)


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"a part of type 'text' with text {in_short(text)}: expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes that are no UTF-8 come from terminals and pipes as lone surrogates
        raise ValueError(f"character {error.start + 1} of a text is not UTF-8: type or send it as UTF-8") from None
    return text


class Seal:
    """Marks ("text", 3) as a string that no text of the chat contains, so that a rendered template can be cut there.

    The mark is one character of Unicode's private use area; `texts` are the (role, text)s of the chat.
    Raises ValueError if the texts hold them all.
    """

    def __init__(self, texts: list[tuple[str, str]]):
        everything = "".join(text for _, text in texts)
        self.mark = next((chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in everything), None)
        if self.mark is None:
            raise ValueError("the text holds every character of Unicode's private use area: leave one of them out")

    def __call__(self, kind: str, index: int) -> str:
        return f"{self.mark}{kind}:{index}{self.mark}"

    def split(self, rendered: str) -> list[tuple[str, str]]:
        pieces = re.split(f"{self.mark}(text|image):([0-9]+){self.mark}", rendered)
        found = [("template", pieces[0])]
        for kind, index, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            found += [(kind, index), ("template", after)]
        return found


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the model reads, and what it says then.

    prompt           ("template", text), ("text", number) and ("image", number), up to where the assistant begins
    answer           numbers of the assistant's texts
    follows_answer   the prompt begins with what the template writes behind an answer: its end of turn
    """

    prompt: tuple[tuple[str, str], ...]
    answer: tuple[int, ...] = ()
    follows_answer: bool = False


def split_turns(pieces: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]]) -> list[Turn]:
    """Cut a rendered conversation, as `Seal.split` gives it, where the assistant begins to speak, and where it ends.

    texts  the (role, text)s of the conversation
    """
    turns: list[Turn] = []
    prompt: list[tuple[str, str]] = []
    answer: list[int] = []
    for kind, content in pieces:
        if kind == "text" and texts[int(content)][0] == "assistant":
            answer.append(int(content))
        elif (kind, content) != ("template", ""):
            if answer:
                turns.append(Turn(tuple(prompt), tuple(answer), bool(turns) and prompt[0][0] == "template"))
                prompt, answer = [], []
            prompt.append((kind, content))
    follows = bool(turns) and bool(prompt) and prompt[0][0] == "template"
    return [*turns, Turn(tuple(prompt), tuple(answer), follows)] if prompt or answer else turns
