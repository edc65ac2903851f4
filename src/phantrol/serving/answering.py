"""What the scheduler says, in OpenAI's words: one object at the end, or a stream of them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from phantrol.inference.running import End, Event, Failure, Piece
from phantrol.inference.sampling import TokenLogprob
from phantrol.inference.scheduler import Scheduler
from phantrol.inference.speaking import CUT_CHARACTER
from phantrol.serving.errors import Refusal, server_fault
from phantrol.serving.reading import Question

BYTES_OF_CHARACTERS = {character: byte for byte, character in bytes_to_unicode().items()}


class Answering:
    """One question in the scheduler, and who waits for it, in an asyncio loop. Iterate over its events.

    heard  is called with each event as it is taken. Raises QueueFull at once if there is no room.
    """

    def __init__(self, scheduler: Scheduler, question: Question, heard: Callable[[Event], None] = lambda event: None):
        self.question, self._heard = question, heard
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        self._open = question.sampling.num_choices
        self.ticket = scheduler.submit(question.prompt, question.sampling, self._tell)

    def _tell(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def __aiter__(self) -> AsyncIterator[Piece | End]:
        return self

    async def __anext__(self) -> Piece | End:
        if not self._open:
            raise StopAsyncIteration
        event = await self._events.get()
        self._heard(event)
        if isinstance(event, Failure):
            self._open = 0
            raise server_fault()
        if isinstance(event, End):
            self._open -= 1
        return event

    def give_up(self) -> None:
        """Take no more: its time is over."""
        self._open = 0

    @property
    def is_done(self) -> bool:
        """Whether all that will be said was taken."""
        return not self._open

    @property
    def num_new_tokens(self) -> int:
        """Return how many tokens were said so far, in all choices."""
        return self.ticket.num_new_tokens

    def usage(self) -> dict[str, Any]:
        """Return the tokens so far; those of pictures are among those of the prompt."""
        prompt = len(self.question.prompt.input_ids)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.num_new_tokens,
            "total_tokens": prompt + self.num_new_tokens,
            "prompt_tokens_details": {"image_tokens": self.question.num_image_tokens, "cached_tokens": 0},
        }


class Wording:
    """Puts events into OpenAI's objects; `model` is the name by which clients know it."""

    def __init__(self, model: str, tokenizer: Any):
        self.model, self._tokenizer = model, tokenizer

    def head(self, kind: str) -> dict[str, Any]:
        """Return what all objects of one answer share."""
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}

    async def completion(self, answering: Answering) -> dict[str, Any]:
        """Return the whole answer."""
        count = answering.question.sampling.num_choices
        texts, told, reasons = [""] * count, [[] for _ in range(count)], [""] * count
        async for event in answering:
            if isinstance(event, Piece):
                texts[event.choice] += event.text
                told[event.choice] += event.logprobs
            else:
                reasons[event.choice] = event.reason
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": texts[i], "refusal": None},
                "logprobs": self._logprobs(answering, told[i]),
                "finish_reason": reasons[i],
            }
            for i in range(count)
        ]
        return {**self.head("chat.completion"), "choices": choices, "usage": answering.usage()}

    async def chunks(
        self, answering: Answering, include_usage: bool, left_s: float, request_s: float
    ) -> AsyncIterator[str]:
        """Yield the lines of the stream, for `left_s` of the `request_s` that a request has. What fails after its
        beginning is its last line, without [DONE]."""
        head = self.head("chat.completion.chunk") | ({"usage": None} if include_usage else {})

        def line(choice: int, delta: dict[str, Any], told: Any = None, reason: str | None = None) -> str:
            chunk = {"index": choice, "delta": delta, "logprobs": told, "finish_reason": reason}
            return _line({**head, "choices": [chunk]})

        for choice in range(answering.question.sampling.num_choices):
            yield line(choice, {"role": "assistant", "content": ""})
        ends = asyncio.get_running_loop().time() + left_s
        try:
            while True:
                async with asyncio.timeout_at(ends):  # around the waiting alone, never around a yield
                    event = await anext(answering, None)
                if event is None:
                    break
                if isinstance(event, Piece):
                    yield line(event.choice, {"content": event.text}, self._logprobs(answering, event.logprobs))
                else:
                    yield line(event.choice, {}, reason=event.reason)
        except TimeoutError:
            answering.give_up()
            yield _line(too_slow(request_s).body())
            return
        except Refusal as refusal:
            yield _line(refusal.body())
            return
        if include_usage:
            yield _line({**head, "choices": [], "usage": answering.usage()})
        yield "data: [DONE]\n\n"

    def _logprobs(self, answering: Answering, told: Any) -> dict[str, Any] | None:
        if answering.question.sampling.top_logprobs is None:
            return None
        return {"content": [self._token_logprob(each) for each in told], "refusal": None}

    def _token_logprob(self, told: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token, logprob) for token, logprob in told.top]
        return {**self._token(told.token, told.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._bytes(token)
        # JSON knows no infinity; this is what OpenAI says instead
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}

    def _bytes(self, token: int) -> bytes:
        """What a token adds to a text; a part of a character has no string of its own."""
        name = self._tokenizer.convert_ids_to_tokens(token) or ""
        if len(name) == 6 and name.startswith("<0x"):
            return bytes([int(name[3:5], 16)])
        text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if CUT_CHARACTER in text and all(character in BYTES_OF_CHARACTERS for character in name):
            return bytes(BYTES_OF_CHARACTERS[character] for character in name)
        return (" " + text if name.startswith("▁") and not text.startswith(" ") else text).encode()


def too_slow(request_s: float) -> Refusal:
    """Return what is said of a request that took too long."""
    return Refusal(504, f"the answer was not done within {request_s:g} seconds: ask for less", code="timeout")


def _line(content: dict[str, Any]) -> str:
    # in ASCII: clients that read line by line may take U+2028, U+2029 and U+0085 for ends of lines
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
