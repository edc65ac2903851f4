"""What a request asks, read: its messages become a chat with decoded pictures, and the chat a prompt.

Pictures are decoded and prompts are tokenized in threads of their own, for a few requests at a time, so that the memory
of decoded pictures is bounded and a large one holds up no stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from phantrol.inference.engine import Engine
from phantrol.inference.sampling import Sampling
from phantrol.models.configuration import most_tokens
from phantrol.models.conversation import Chat, TemplateRefusal
from phantrol.models.processing import Encoding
from phantrol.serving.errors import Refusal
from phantrol.serving.fetching import Fetcher
from phantrol.serving.limits import Limits
from phantrol.serving.pictures import decode_picture, picture_bytes
from phantrol.serving.protocol import ChatRequest, ImagePart, Message, TextPart

AT_ONCE = 2  # requests whose pictures are in memory
PRIVATE = re.compile(r"0x[0-9a-f]{4,}|(?:/[\w.-]+){2,}", re.IGNORECASE)  # addresses of memory, and paths


@dataclasses.dataclass(frozen=True)
class Question:
    """A request, ready for the scheduler. num_image_tokens are those of the prompt that stand for pictures."""

    prompt: Encoding
    sampling: Sampling
    num_image_tokens: int


class Reader:
    """Reads requests for one engine, within limits."""

    def __init__(self, engine: Engine, limits: Limits, fetcher: Fetcher):
        self.engine, self.limits, self.fetcher = engine, limits, fetcher
        self._places = asyncio.Semaphore(AT_ONCE)
        self._decoding = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="phantrol-pictures")
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="phantrol-prompts")

    def close(self) -> None:
        """End the threads."""
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._encoding.shutdown(wait=False, cancel_futures=True)

    async def question(self, asked: ChatRequest) -> Question:
        """Return what a request asks. Raises Refusal."""
        limits, wanted, num_choices = self.limits, asked.answer_tokens, asked.n or 1
        if wanted is not None and wanted > limits.answer_tokens:
            field = "max_completion_tokens" if asked.max_tokens is None else "max_tokens"
            message = f"an answer of {wanted} tokens: expected at most {limits.answer_tokens}"
            raise Refusal(400, message, field, "limit_exceeded")
        if num_choices > min(limits.choices, limits.rows):
            most = min(limits.choices, limits.rows)
            raise Refusal(400, f"{num_choices} choices: expected at most {most}", "n", "limit_exceeded")
        _, prompt = await self._read(asked.messages)
        sampling = Sampling(
            max_new_tokens=self._answer_tokens(len(prompt.input_ids), wanted),
            temperature=asked.temperature or 0.0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=asked.seed,
            stop=asked.stops,
            num_choices=num_choices,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )
        image_token = self.engine.processor.image_token_id
        return Question(prompt, sampling, prompt.input_ids.count(image_token))

    async def chat(self, messages: Sequence[Message]) -> Chat:
        """Return messages as a chat that an engine understands, with decoded pictures, and not too long. Raises
        Refusal."""
        chat, prompt = await self._read(messages)
        self._answer_tokens(len(prompt.input_ids), 1)
        return chat

    async def _read(self, messages: Sequence[Message]) -> tuple[Chat, Encoding]:
        files = await self._files(messages)
        async with self._places if files else contextlib.nullcontext():  # who shows no picture waits for nobody's
            chat = await self._chat(messages, files)
            return chat, await self._in(self._encoding, self._encode, chat)

    async def _files(self, messages: Sequence[Message]) -> list[bytes]:
        """The files of all pictures; whatever can be counted is counted before one of them is touched."""
        limits = self.limits
        parts = [part for message in messages if not isinstance(message.content, str) for part in message.content]
        urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
        texts = [message.content for message in messages if isinstance(message.content, str)]
        texts += [part.text for part in parts if isinstance(part, TextPart)]
        for what, found, limit in (
            ("messages", len(messages), limits.messages),
            ("pictures", len(urls), limits.images),
            ("parts", len(parts), limits.messages + limits.images),
            ("characters of text", sum(map(len, texts)), limits.text_characters),
        ):
            if found > limit:
                raise Refusal(400, f"{found} {what}: expected at most {limit}", "messages", "limit_exceeded")
        return [await picture_bytes(url, self.fetcher) for url in urls]

    async def _chat(self, messages: Sequence[Message], files: Sequence[bytes]) -> Chat:
        pictures = iter([await self._in(self._decoding, decode_picture, file, self.limits) for file in files])
        chat: list[dict[str, Any]] = []
        for message in messages:
            content: Any = message.content
            if not isinstance(content, str):
                content = [
                    {"type": "text", "text": part.text}
                    if isinstance(part, TextPart)
                    else {"type": "image", "image": next(pictures)}
                    for part in content
                ]
            chat.append({"role": "system" if message.role == "developer" else message.role, "content": content})
        return chat

    def _encode(self, chat: Chat) -> Encoding:
        try:
            return self.engine.processor.encode(chat, add_generation_prompt=True)  # its length is looked at later
        except TemplateRefusal:
            raise Refusal(400, "this model does not take these roles in this order", "messages") from None
        except ValueError as error:
            raise conversation_refusal(error) from None

    def _answer_tokens(self, num_prompt_tokens: int, wanted: int | None) -> int:
        limits = self.limits
        if num_prompt_tokens > limits.prompt_tokens:
            message = f"the prompt has {num_prompt_tokens} tokens: expected at most {limits.prompt_tokens}"
            raise Refusal(400, message, "messages", "context_length_exceeded")
        context = most_tokens(self.engine.model.config)
        if context is None:
            return wanted or limits.answer_tokens
        room = context - num_prompt_tokens
        if (wanted or 1) > room:
            raise Refusal(
                400,
                f"the prompt has {num_prompt_tokens} tokens and the answer may take {wanted or 1}, but the model reads "
                f"at most {context}",
                "messages",
                "context_length_exceeded",
            )
        return min(wanted or limits.answer_tokens, room)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


def conversation_refusal(error: ValueError) -> Refusal:
    """Return what a client is told of a ValueError: its message, unless that says something of this machine."""
    message = str(error)
    return Refusal(400, "this conversation cannot be read" if PRIVATE.search(message) else message, "messages")
