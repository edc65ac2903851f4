"""What `generate` must know about pictures: which row's tiles are whose when rows multiply, ids that no logit has, and
when a text is read again from its first token, its pictures too.

B rows, E copies of each row (beams, or several answers), N tokens of a row, V logits, I tiles of all rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

from phantrol.models.configuration import num_image_tokens
from phantrol.models.longrope import switch_lengths


class PictureGeneration:
    """Mixed in before a model that takes `pixel_values` [I, 3, S, S] of all rows in reading order."""

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Copy each row E times. Tiles are many to a row: they are seen once, and `tile_order` says whose they are.

        transformers would copy tile by tile, and hand the first row's second tile to its second copy.
        """
        pixel_values = kwargs.pop("pixel_values", None)
        order = None
        if pixel_values is not None and input_ids is not None and expand_size > 1:
            order = self._tile_order(input_ids, len(pixel_values), expand_size, kwargs.get("past_key_values"))
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        if pixel_values is not None:
            kwargs["pixel_values"] = pixel_values
        return input_ids, kwargs if order is None else {**kwargs, "tile_order": order}

    def _tile_order(self, input_ids: Tensor, num_tiles: int, expand_size: int, cache: Cache | None) -> Tensor:
        is_image, per_tile = input_ids == self.config.image_token_id, num_image_tokens(self.config)
        if cache is not None and int(is_image.sum()) != num_tiles * per_tile:
            is_image = is_image[:, int(cache.get_seq_length()) :]  # the ids of all turns, the tiles of the new ones
        num_tokens = is_image.sum(dim=1)  # [B]
        if int(num_tokens.sum()) != num_tiles * per_tile:
            raise ValueError(
                f"{int(num_tokens.sum())} image tokens for {num_tiles} tiles: expected {per_tile} for each tile"
            )
        rows = torch.arange(num_tiles, device=input_ids.device).split((num_tokens // per_tile).tolist())
        return torch.cat([row.repeat(expand_size) for row in rows])

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_mask: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers' own, but a text that grows beyond a switch of `longrope` is read again from its first token:
        the keys in the cache were turned by other angles.

        Raises ValueError if the tokens before are not given (chunks of a prompt, or the new ids of a later turn), or
        their pictures (a later turn brings its own alone).
        """
        new = input_ids.shape[1] if next_sequence_length is None else next_sequence_length
        if new > 1 and past_key_values is not None and not is_first_iteration:
            is_first_iteration = not past_key_values.get_seq_length()  # an assistant's, to which it is not told
        if is_first_iteration and inputs_embeds is not None:
            image_mask = self._image_mask(image_mask, input_ids, inputs_embeds.shape[1])
        switches = switch_lengths(self.config)
        # with a switch alone: of a static cache each step would wait for the device
        past = int(past_key_values.get_seq_length()) if switches and past_key_values is not None else 0
        if past:
            length = past + new if position_ids is None else int(position_ids.max()) + 1  # of the longest row
            if any(length - new <= switch < length for switch in switches):
                if inputs_embeds is not None:  # the prompt; ids behind it are the answer's
                    image_mask = self._image_mask(image_mask, input_ids, inputs_embeds.shape[1], past + new)
                    said = input_ids[:, input_ids.shape[1] - (past + new - inputs_embeds.shape[1]) :]
                    inputs_embeds = torch.cat([inputs_embeds, self._embed(said)], dim=1)
                elif input_ids.shape[1] < past + new:
                    raise ValueError(
                        f"got the last {input_ids.shape[1]} of {past + new} tokens, with which the text outgrows the "
                        f"switch of its longrope at {switches}: expected the ids of all, without prefill_chunk_size"
                    )
                elif (missing := self._missing_tiles(input_ids, **kwargs)) != 0:
                    raise ValueError(
                        f"the text outgrows the switch of its longrope at {switches} and is read again, but the "
                        f"pictures of {missing} tiles are not given: expected those of all turns, and no cache"
                    )
                past_key_values = next_sequence_length = None
                is_first_iteration = True  # else pictures are left out
        if image_mask is not None and is_first_iteration:  # ids behind the prompt are the answer's, and no images
            kwargs["image_mask"] = image_mask if next_sequence_length is None else image_mask[:, -next_sequence_length:]
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _image_mask(
        self, image_mask: Tensor | None, input_ids: Tensor, prompt: int, length: int | None = None
    ) -> Tensor | None:
        """Return where embeddings of a prompt are image features, [B, prompt], and of all tokens so far [B, length]; as
        said, or as the ids beside them tell, if they are the ids of all."""
        length = length or prompt
        if image_mask is None and input_ids.shape[1] == length:
            image_mask = input_ids[:, :prompt] == self.config.image_token_id
        return None if image_mask is None else torch.nn.functional.pad(image_mask, (0, length - prompt))

    def _missing_tiles(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, tile_order: Tensor | None = None, **kwargs: Any
    ) -> int:
        tiles = pixel_values if tile_order is None else tile_order
        wanted = int((input_ids == self.config.image_token_id).sum()) // num_image_tokens(self.config)
        return wanted - (0 if tiles is None else len(tiles))

    def _get_candidate_generator(self, *args: Any, generation_config: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        # drafts beyond the switch would turn the tokens before it too, and those refused leave their keys behind
        if any(input_ids.shape[1] <= switch < generation_config.max_length for switch in switch_lengths(self.config)):
            raise ValueError(
                "got an answer that may outgrow the switch of longrope, on whose two sides drafted tokens have other "
                "angles: expected a shorter one, or neither assistant_model nor prompt_lookup_num_tokens"
            )
        return super()._get_candidate_generator(
            *args, generation_config=generation_config, input_ids=input_ids, **kwargs
        )

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*args, **kwargs)
        beyond = self.config.image_token_id + 1 - self.config.text_config.vocab_size
        if beyond <= 0:
            return processors
        own = [one for one in processors if isinstance(one, UnbatchedClassifierFreeGuidanceLogitsProcessor)]
        widened = _Widened([one for one in processors if one not in own], beyond)
        return LogitsProcessorList([*own, widened]) if own else widened  # it compares with logits of the model itself


class _Widened(LogitsProcessorList):
    """Processors that read a prompt whose image token lies outside of the vocabulary, such as a repetition penalty:
    they see `beyond` more scores [B, V + beyond], impossible ones, so that every id of the prompt has its own."""

    def __init__(self, processors: list[LogitsProcessor], beyond: int):
        super().__init__(processors)
        self.beyond = beyond

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(scores, (0, self.beyond), value=-torch.inf)
        return super().__call__(input_ids, wide)[..., : scores.shape[-1]]
