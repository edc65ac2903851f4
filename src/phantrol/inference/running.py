"""The batch that is answered right now: rows come between two steps, and leave as soon as they are done.

B rows, P tokens of the longest row in the cache.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from phantrol.inference.engine import Engine
from phantrol.inference.finite_logits import NOT_FINITE
from phantrol.inference.joining import crop_padding, end_prompts, join_caches, joining_fault, new_cache
from phantrol.inference.sampling import Sampling, TokenLogprob, choose_tokens, penalties, token_logprobs
from phantrol.inference.speaking import Speaker
from phantrol.models.longrope import switch_lengths
from phantrol.models.processing import Encoding
from phantrol.modifiers.graft import grafted_modifiers

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Piece:
    """More of the answer with this number; either part may be empty."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True)
class End:
    """The end of the answer with this number. num_new_tokens counts the end of turn too."""

    choice: int
    reason: Literal["stop", "length"]
    num_new_tokens: int


@dataclasses.dataclass(frozen=True)
class Failure:
    """The model failed on this request, which is over."""

    error: Exception


Event = Piece | End | Failure


@dataclasses.dataclass(eq=False)
class Ticket:
    """One request: what it asks, who listens, and whether anyone still does. `tell` is called by the batch's thread,
    which counts the tokens of all its choices."""

    prompt: Encoding
    sampling: Sampling
    tell: Callable[[Event], None]
    cancelled: bool = False
    num_new_tokens: int = 0

    def cancel(self) -> None:
        """Ask for no more; its rows are free after the step under way."""
        self.cancelled = True


@dataclasses.dataclass(eq=False)
class _Row:
    ticket: Ticket
    choice: int
    speaker: Speaker
    generator: torch.Generator | None


@dataclasses.dataclass(eq=False)
class Read:
    """Prompts that were read: their cache, mask [B, N] and the logits of their last tokens [B, V]."""

    tickets: tuple[Ticket, ...]
    cache: Any
    mask: Tensor
    logits: Tensor


class RunningBatch:
    """Rows that are decoded together. Each says what it would say alone, whoever comes and goes beside it.

    fault  why requests of this model have to run one at a time; None if they can share a batch
    """

    def __init__(self, engine: Engine):
        self.engine, self.fault = engine, joining_fault(engine.model)
        self._switches = switch_lengths(engine.model.config)
        # its own: who reads prompts elsewhere switches special tokens of the engine's off and on
        self._tokenizer = copy.deepcopy(engine.processor.tokenizer)
        self.clear()

    def clear(self) -> list[Ticket]:
        """Drop everything; return whose rows were dropped."""
        tickets = list(dict.fromkeys(row.ticket for row in getattr(self, "rows", [])))
        self.rows: list[_Row] = []
        self._cache: Any = None
        self._mask: Tensor | None = None  # [B, P], 1 on tokens and 0 on padding
        return tickets

    @torch.inference_mode()
    def read(self, tickets: Sequence[Ticket]) -> Read:
        """Run the model over the prompts, together. Nothing is said yet, and nobody has joined."""
        assert self.fault is None or (len(tickets) == 1 and not self.rows)
        return Read(tuple(tickets), *self._read([ticket.prompt for ticket in tickets]))

    @torch.inference_mode()
    def admit(self, read: Read) -> None:
        """Say the first tokens of what was read; whoever goes on joins the others."""
        rows, places = [], []
        for place, ticket in enumerate(read.tickets):
            for choice in range(ticket.sampling.num_choices):
                speaker = Speaker(self.engine, ticket.sampling.stop, self._tokenizer)
                rows.append(_Row(ticket, choice, speaker, ticket.sampling.generator(choice)))
                places.append(place)
        kept = [number for number, goes_on in enumerate(self._say(rows, read.logits[places])) if goes_on]
        if kept:
            index = torch.tensor([places[number] for number in kept], device=read.mask.device)
            read.cache.batch_select_indices(index)
            self._join([rows[number] for number in kept], read.cache, read.mask[index])

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row; rows that are done, or cancelled, leave."""
        if not self.rows:
            return
        positions = self._mask.sum(dim=1, keepdim=True)
        if self._switches and int(positions.max()) in self._switches:  # keys in the cache were turned by other angles
            self._cache, self._mask, logits = self._read_again()
        else:
            tokens = torch.tensor([[row.speaker.ids[-1]] for row in self.rows], device=self._mask.device)
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
            logits = self._forward(
                input_ids=tokens, attention_mask=self._mask, position_ids=positions, past_key_values=self._cache
            )
        self._keep(self._say(self.rows, logits))

    def drop_cancelled(self) -> None:
        """Free the rows that nobody waits for any more."""
        self._keep([not row.ticket.cancelled for row in self.rows])

    def _read(self, texts: Sequence[Encoding], **options: Any) -> tuple[Any, Tensor, Tensor]:
        """→ a cache in which the texts are, their mask [B, N], and the logits of their last tokens [B, V]."""
        inputs, cache = self.engine.pad_left(texts), new_cache(self.engine.model)
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(**inputs, position_ids=positions, past_key_values=cache, **options)
        end_prompts(self.engine.model, cache)
        return cache, mask, logits

    def _read_again(self) -> tuple[Any, Tensor, Tensor]:
        """As `_read`, of the rows with what they have said: choices of one request, as long as each other."""
        prompt = self.rows[0].ticket.prompt
        texts = [dataclasses.replace(prompt, input_ids=[*prompt.input_ids, *row.speaker.ids]) for row in self.rows]
        options = {"prompt_length": len(prompt.input_ids)} if grafted_modifiers(self.engine.model) else {}
        return self._read(texts, **options)

    def _forward(self, **inputs: Any) -> Tensor:
        """→ logits of each row's last token [B, V], in float32 or finer."""
        output = self.engine.model(**inputs, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    def _say(self, rows: Sequence[_Row], logits: Tensor) -> list[bool]:
        """Choose each row's token and tell its listener; return which rows go on.

        A request fails, and it alone, if the logits of one of its rows are not finite.
        """
        broken = ~logits.amax(dim=-1).isfinite()
        failed = {row.ticket for row, is_broken in zip(rows, broken.tolist(), strict=True) if is_broken}
        for ticket in failed:
            log.error("a request failed: %s", NOT_FINITE)
            ticket.tell(Failure(ArithmeticError(NOT_FINITE)))
        if failed:  # no token can be drawn of such a row, nor of the others beside it
            logits = logits.masked_fill(broken[:, None], 0)
        samplings = [row.ticket.sampling for row in rows]
        tokens = choose_tokens(self._penalised(rows, logits), samplings, [row.generator for row in rows])
        told = token_logprobs(logits, tokens, samplings)
        each_row = zip(rows, tokens, told, strict=True)
        return [row.ticket not in failed and self._tell(row, *said) for row, *said in each_row]

    def _penalised(self, rows: Sequence[_Row], logits: Tensor) -> Tensor:
        """logits [B, V], each row's changed by its own tokens so far, as the model's generation config asks for."""
        changed = penalties(self.engine.model.generation_config)
        if not changed:
            return logits
        ids = [torch.tensor([row.ticket.prompt.input_ids + row.speaker.ids], device=logits.device) for row in rows]
        return torch.cat([changed(each, row) for each, row in zip(ids, logits.split(1), strict=True)])

    def _tell(self, row: _Row, token: int, told: TokenLogprob | None) -> bool:
        speaker, is_end = row.speaker, token in self.engine.end_ids
        speaker.hear(token, None if is_end else told)
        row.ticket.num_new_tokens += 1
        is_last = is_end or speaker.stopped or len(speaker.ids) >= row.ticket.sampling.max_new_tokens
        text, logprobs = speaker.end() if is_last else speaker.say()
        if text or logprobs:
            row.ticket.tell(Piece(row.choice, text, tuple(logprobs)))
        if is_last:
            reason = "stop" if is_end or speaker.stopped else "length"
            row.ticket.tell(End(row.choice, reason, len(speaker.ids)))
        return not is_last and not row.ticket.cancelled

    def _join(self, rows: list[_Row], cache: Any, mask: Tensor) -> None:
        if self.rows:
            join_caches(self._cache, cache)
            length = max(self._mask.shape[1], mask.shape[1])
            self._mask = torch.cat([_pad_mask(self._mask, length), _pad_mask(mask, length)])
        else:
            self._cache, self._mask = cache, mask
        self.rows = [*self.rows, *rows]
        self._crop()

    def _keep(self, flags: Sequence[bool]) -> None:
        if all(flags):
            return
        if not any(flags):
            self.clear()
            return
        index = torch.tensor([row for row, flag in enumerate(flags) if flag], device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        self.rows = [row for row, flag in zip(self.rows, flags, strict=True) if flag]
        self._crop()

    def _crop(self) -> None:
        """Forget columns that are padding in every row: the longest row may have left."""
        padding = int(self._mask.any(dim=0).to(torch.int32).argmax())
        if padding and self.fault is None:
            crop_padding(self._cache, padding)
            self._mask = self._mask[:, padding:]


def _pad_mask(mask: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))
