"""How much one request may ask for, and all of them together."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Every bound of the server. None of them can be lifted by a request.

    rows, queue        answers under way, and requests that wait; more are told to come again (429)
    request_s          from a request's first byte to its answer's last
    body_s             in which a body must have come
    body_bytes         of a request; pictures come in base64, which is a third larger than their files
    image_pixels       of one picture, checked before it is decoded
    image_s            in which a remote picture must have come; waiting for one of the connections does not count
    image_bytes        of one remote picture
    images, messages, text_characters, prompt_tokens   of one request
    answer_tokens, choices   of one request; answer_tokens is also what a request gets that does not say
    drain_s            that running answers get after SIGTERM; by default request_s, in which each of them is over

    Raises ValueError for a limit that is not above 0; queue and images may be 0.
    """

    rows: int = 16
    queue: int = 64
    request_s: float = 300.0
    body_s: float = 30.0
    body_bytes: int = 32_000_000
    images: int = 8
    image_pixels: int = 24_000_000
    image_bytes: int = 16_000_000
    image_s: float = 10.0
    messages: int = 256
    text_characters: int = 400_000
    prompt_tokens: int = 16_384
    answer_tokens: int = 1024
    choices: int = 8
    drain_s: float | None = None

    def __post_init__(self) -> None:
        if self.drain_s is None:
            object.__setattr__(self, "drain_s", self.request_s)
        for field in dataclasses.fields(self):
            value, smallest = getattr(self, field.name), 0 if field.name in ("queue", "images") else 1e-3
            if not value >= smallest:  # so that nan is refused too
                raise ValueError(f"the limit {field.name} is {value}: expected more than 0")
