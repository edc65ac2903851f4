"""The only currency of the data floor: messages, wrong answers, examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

Picture = Image.Image | Path

ROLES = ("system", "user", "assistant")
REJECTED_KINDS = ("incorrect", "ambiguous")


@dataclass(frozen=True)
class Message:
    """What one side says: text and pictures in the order in which they are read.

    A picture given as a `Path` stays unopened.
    Raises ValueError for an unknown role or a part that is neither text nor picture.
    """

    role: str
    parts: tuple[str | Picture, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r}: use one of {', '.join(ROLES)}")
        if isinstance(self.parts, str | Image.Image | Path):
            kind = type(self.parts).__name__
            raise ValueError(f"parts must be a tuple of texts and pictures, got a bare {kind}: write (part,)")
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            if not isinstance(part, str | Image.Image | Path):
                raise ValueError(f"a part must be a str, a PIL image or a Path, got {type(part).__name__}")

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))

    def as_chat(self) -> dict[str, Any]:
        """Return the message in the form chat templates take: {"role", "content": [image and text parts]}."""
        return {"role": self.role, "content": [_chat_part(part) for part in self.parts]}


@dataclass(frozen=True)
class Rejected:
    """An answer that must lose against the chosen one: it is wrong, or it dodges the question.

    Raises ValueError for a kind that there is not.
    """

    text: str
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in REJECTED_KINDS:
            raise ValueError(f"unknown kind of rejected answer {self.kind!r}: use one of {', '.join(REJECTED_KINDS)}")


@dataclass(frozen=True)
class Example:
    """A conversation that ends with the answer to learn, and the answers to unlearn in its place.

    Raises ValueError when the last message is not the assistant's.
    """

    id: str
    messages: tuple[Message, ...]
    rejected: tuple[Rejected, ...] = ()
    task: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "rejected", tuple(self.rejected))
        if not self.messages or self.messages[-1].role != "assistant":
            last = self.messages[-1].role if self.messages else "no message"
            raise ValueError(f"example {self.id}: the last message must be the assistant's, got {last}")


def _chat_part(part: str | Picture) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
