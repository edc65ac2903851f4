"""The engine: conversations in, answers out. It knows no file formats and no prompts; the processor does.

B rows, N tokens of a row.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.utils.logging import disable_progress_bar

from phantrol.freed_memory import keep_freed_memory
from phantrol.inference.batches import alike, in_batches
from phantrol.inference.finite_logits import FiniteLogits
from phantrol.inference.options import check_options
from phantrol.inference.ranking import Ranking, encode_choices, rank
from phantrol.inference.speaking import Speaker
from phantrol.inference.streaming import StopWhenAsked, TokenQueue
from phantrol.models.building import load
from phantrol.models.configuration import most_tokens
from phantrol.models.conversation import Chat
from phantrol.models.processing import Encoding


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    num_new_tokens  the end of turn included
    finish_reason   "stop": the model ended its turn, or said a stop string; "length": it was cut off before
    """

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    finish_reason: Literal["stop", "length"]


class Engine:
    """A model and its processor, ready to answer. Never by chance unless asked to: as many beams as the model's
    generation config says, which is one, greedy, unless the model was released with more.

    A chat is a list of {"role", "content"} with content as text, or as parts {"type": "text", "text"} and
    {"type": "image", "image": a picture or a file}. `options` are those of `generate`: num_beams, do_sample,
    temperature, top_p, stop_strings ..., but for those in `inference.options.REFUSED`. The model is put into eval mode,
    and stays where it is. Several threads may share an engine.

    Every method raises ValueError for a chat that the processor refuses, for `max_new_tokens` below 1, if prompt and
    answer are longer than what the model can read, and for an option that is refused.
    """

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor
        end = model.generation_config.eos_token_id
        ends = [processor.end_of_turn_id] if end is None else end
        self.end_ids = [ends] if isinstance(ends, int) else list(ends)
        names = processor.tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)])
        self._byte_ids = frozenset(names) - {None, processor.tokenizer.unk_token_id}

    @classmethod
    def open(cls, model: str | Path, weights: str | None = None) -> Engine:
        """Return an engine of a saved model (a folder or a hub id), on the accelerator if there is one.

        weights  "int8", "float32" ..., as for `load`
        """
        disable_progress_bar()  # one more for each file of weights, between a user and an answer
        loaded, processor = load(model, weights)
        if torch.accelerator.is_available():
            loaded.to(torch.accelerator.current_accelerator())
        keep_freed_memory()
        return cls(loaded, processor)

    @property
    def name(self) -> str:
        """Where the model came from: a folder, a hub id, or "" if it was built here."""
        return getattr(self.model.config, "_name_or_path", "")

    def answer(self, chat: Chat, max_new_tokens: int = 64, **options: Any) -> Answer:
        """Return what the model says next in one chat."""
        check_options(options)
        return self._generate([self.encode(chat, max_new_tokens)], max_new_tokens, options)[0]

    def answer_batch(
        self, chats: Sequence[Chat], max_new_tokens: int = 64, batch_size: int = 32, **options: Any
    ) -> list[Answer]:
        """Return the answers in the order of the chats; each is the one that the chat gets alone."""
        answers: dict[int, Answer] = {}
        for index, answer in self.answer_each(chats, max_new_tokens, batch_size, **options):
            if isinstance(answer, ValueError):
                raise answer
            answers[index] = answer
        return [answers[index] for index in range(len(chats))]

    def answer_each(
        self, chats: Sequence[Chat], max_new_tokens: int = 64, batch_size: int = 32, **options: Any
    ) -> Iterator[tuple[int, Answer | ValueError]]:
        """Yield (position, answer) batch by batch, as they come; for a chat that is refused, its ValueError.

        Prompts of like length share a batch. The next prompts are read, and their pictures decoded, while the model is
        at work on these. Whoever closes the iterator stops that too.
        """
        check_options(options)

        def said(prompts: list[list[Encoding]]) -> list[Answer]:
            rows = alike(self.model, [prompt for (prompt,) in prompts], max_new_tokens)
            return [answer for some in rows for answer in self._generate(some, max_new_tokens, options)]

        yield from in_batches(len(chats), lambda i: [self.encode(chats[i], max_new_tokens)], said, batch_size)

    def rank_each(
        self, chats: Sequence[Chat], choices: Sequence[Sequence[str]], batch_size: int = 32
    ) -> Iterator[tuple[int, Ranking | ValueError]]:
        """Yield (position, how likely each of its choices is as the answer) in the same way; nothing is generated.

        choices     for each chat, texts of answers;  batch_size  most texts at once; those of a chat stay together
        """

        def read(index: int) -> list[Encoding]:
            return encode_choices(self.processor, chats[index], choices[index], self.check_length)

        def ranked(groups: list[list[Encoding]]) -> list[Ranking]:
            if len(alike(self.model, [row for group in groups for row in group])) == 1:
                return rank(self.model, groups, self.pad_id)
            alone = [[rank(self.model, [[row]], self.pad_id)[0] for row in group] for group in groups]
            return [Ranking(tuple(found.logprobs[0] for found in group)) for group in alone]

        most = max((len(texts) for texts in choices), default=1)
        yield from in_batches(len(chats), read, ranked, max(min(1, batch_size), batch_size // max(1, most)))

    def stream(self, chat: Chat, max_new_tokens: int = 64, **options: Any) -> Generator[str, None, Answer]:
        """Yield the answer in pieces as they come; joined, they are the text of `answer`. It returns the Answer.

        Beams are compared at the end, so none of them can be sent before: a stream has `num_beams=1`, whatever the
        model's generation config says, and raises ValueError if more are asked for.
        A faulty chat raises here and now, not at the first piece. An error of the model raises where the next piece was
        awaited. Whoever closes the generator stops the model.
        """
        if options.get("num_beams", 1) != 1:
            raise ValueError(f"a stream with num_beams={options['num_beams']}: expected 1; beams come with `answer`")
        options["num_beams"] = 1
        check_options(options)
        return self._stream(self.encode(chat, max_new_tokens), max_new_tokens, options)

    def _stream(self, prompt: Encoding, max_new_tokens: int, options: dict[str, Any]) -> Generator[str, None, Answer]:
        tokens, stop = TokenQueue(), StopWhenAsked()

        def work() -> None:
            try:
                answer = self._generate([prompt], max_new_tokens, options, streamer=tokens, stop=stop)[0]
                tokens.queue.put(answer)
            except BaseException as error:  # whatever it is, it belongs to the reader of the stream
                tokens.queue.put(error)

        thread = threading.Thread(target=work, name="phantrol-stream", daemon=True)
        thread.start()
        speaker = Speaker(self)
        try:
            while not isinstance(got := tokens.queue.get(), Answer):
                if isinstance(got, BaseException):
                    raise got
                for token in got:
                    speaker.hear(token)
                if piece := speaker.say()[0]:
                    yield piece
            if got.text != speaker.said:
                yield got.text[len(speaker.said) :]
            return got
        finally:
            stop.asked.set()
            thread.join()

    def encode(self, chat: Chat, max_new_tokens: int) -> Encoding:
        """Return the prompt of a chat, which leaves room for an answer of `max_new_tokens`."""
        if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}: expected a whole number, 1 or more")
        if not chat:
            raise ValueError("the chat is empty: expected at least one message")
        prompt = self.processor.encode(chat, add_generation_prompt=True)
        self.check_length(prompt, max_new_tokens)
        return prompt

    def check_length(self, prompt: Encoding, max_new_tokens: int = 0) -> None:
        """Raise ValueError if a prompt with an answer of so many tokens is longer than what the model can read."""
        limit = most_tokens(self.model.config)
        if limit is not None and len(prompt.input_ids) + max_new_tokens > limit:
            raise ValueError(
                f"the prompt has {len(prompt.input_ids)} tokens and max_new_tokens is {max_new_tokens}, but the model "
                f"reads at most {limit}: shorten the chat, show fewer pictures, or ask for fewer tokens"
            )

    def _generate(
        self,
        prompts: Sequence[Encoding],
        max_new_tokens: int,
        options: dict[str, Any],
        streamer: BaseStreamer | None = None,
        stop: StoppingCriteria | None = None,
    ) -> list[Answer]:
        inputs = self.pad_left(prompts)
        options = {"do_sample": False, **options}
        for name, kind in (("temperature", float), ("top_k", int)):  # transformers asks for the very type
            if options.get(name) is not None:
                options[name] = kind(options[name])
        stop_strings, stops = options.pop("stop_strings", None), None
        if stop_strings is not None:
            stops = StopStringCriteria(options.get("tokenizer") or self._own_tokenizer, stop_strings)
        self.model.eval()
        finite = FiniteLogits()
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                eos_token_id=self.end_ids,
                pad_token_id=self.pad_id,
                num_return_sequences=1,
                return_dict_in_generate=False,
                streamer=streamer,
                logits_processor=LogitsProcessorList([finite]),
                stopping_criteria=StoppingCriteriaList(each for each in (stops, stop) if each is not None),
                **options,
            )
        finite.check()
        start = inputs["input_ids"].shape[1]
        answers = []
        for prompt, row in zip(prompts, output, strict=True):
            ids, ended = self._without_padding(row, start, stops)
            answers.append(Answer(self.decode(ids), len(prompt.input_ids), len(ids), "stop" if ended else "length"))
        return answers

    def _without_padding(self, row: Tensor, start: int, stops: StopStringCriteria | None) -> tuple[list[int], bool]:
        """The new tokens of a row [start + N], and whether its turn ended, which others of the batch may have outlived.

        After a stop string there is padding, which may be the very token that ends a turn.
        """
        ids = row[start:].tolist()
        end = next((index for index, token in enumerate(ids) if token in self.end_ids), None)
        if end is not None:
            ids = ids[: end + 1]
        if stops is None:
            return ids, end is not None
        padding = (index for index, token in enumerate(ids) if index and token == self.pad_id)
        stopped = (index for index in (*padding, len(ids)) if stops(row[None, : start + index], None))
        last = next(stopped, None)
        return ids[:last], end is not None or last is not None

    def num_certain(self, ids: list[int]) -> int:
        """Return how many tokens decode to the same text whatever follows: not bytes of a character that others may
        still complete. SentencePiece's tokens for single bytes are read as one run, which one wrong byte spoils."""
        length = len(ids)
        while length and ids[length - 1] in self._byte_ids:
            length -= 1
        return length

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer."""
        # tidying up spaces would change text that a stream has already sent
        return self.processor.decode(ids, clean_up_tokenization_spaces=False)

    @cached_property
    def _own_tokenizer(self) -> Any:
        # looking for stop strings switches special tokens on, which another thread's prompt has perhaps switched off
        return copy.deepcopy(self.processor.tokenizer)

    @property
    def pad_id(self) -> int:
        """The token that fills up short rows; it is masked."""
        pad_id = self.processor.tokenizer.pad_token_id
        return self.end_ids[0] if pad_id is None else pad_id

    def pad_left(self, prompts: Sequence[Encoding]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask [B, N] and pixel_values of all rows in order, on the device of the model."""
        longest = max(len(prompt.input_ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
            mask[row, longest - len(prompt.input_ids) :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        pixels = [prompt.pixel_values for prompt in prompts if prompt.pixel_values is not None]
        if pixels:
            inputs["pixel_values"] = torch.cat(pixels)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
