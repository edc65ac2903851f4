"""PhantrolForConditionalGeneration: pictures and text in, text out.

B rows, N tokens of a row, D hidden size of the decoder, V vocabulary, I tiles of all pictures, S tile side in pixels,
P patches of a tile and Dv their size, s unshuffle factor, L = P / s² image tokens of a tile, M labelled tokens.
"""

from __future__ import annotations

import dataclasses
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, is_tracing

from phantrol.models.block_attention import no_mask, use_block_attention
from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.generation import PictureGeneration
from phantrol.models.output_head import output_head
from phantrol.models.projector import GridPositions, Projector
from phantrol.models.vision_sizes import vision_size
from phantrol.modifiers.base import of_modifiers
from phantrol.modifiers.graft import GraftedGeneration, graft, grafted_modifiers, modifier_configs
from phantrol.ops.blocks import Blocks
from phantrol.ops.images import join_patches, pixel_unshuffle, scatter_features
from phantrol.ops.logprobs import chunk_rows, token_logprobs


@dataclasses.dataclass
class PhantrolOutput(ModelOutput):
    """What the model returns.

    loss            []         cross entropy of the labelled tokens, when labels are given
    logits          [B, N, V]  when no labels are given: with them, only what they need is computed
    token_logprobs  [M]        log p of each labelled token, row by row; what every loss of phantrol is made of
    image_features  [I, L, D]  when pictures come without text: the decoder is not run
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    token_logprobs: Tensor | None = None
    image_features: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class PhantrolForConditionalGeneration(GraftedGeneration, PictureGeneration, PreTrainedModel, GenerationMixin):
    """A vision tower, a projector and a grafted decoder, all of them Hugging Face's own classes."""

    config_class = PhantrolConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: PhantrolConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector = Projector(config, vision_size(config.vision_config))
        if config.feature_positions:
            side = config.image_grid // config.unshuffle
            self.positions = GridPositions(side, config.text_config.hidden_size, 0.7 * (config.feature_rms or 1.0))
        else:
            self.positions = nn.Identity()
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        graft(self.language_model, modifier_configs(config.text_config))
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers' own. Raises ValueError if tensors of a graft are missing: nothing would draw them."""
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        missing = of_modifiers(model, [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
        if missing:
            raise ValueError(
                f"{model.name_or_path} does not fit its config.json: missing_keys, or of another size: {missing[:3]}; "
                "save the model again, or copy it again, or load it as it was saved and graft it then"
            )
        return (model, report) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[I, 3, S, S] pixels, normalised → [I, L, D] features in the space of word embeddings, not yet placed."""
        pixels = pixel_values.to(self.dtype)
        patches = join_patches(self.vision_tower(pixels).last_hidden_state, self.config.image_grid**2)  # [I, P, Dv]
        features = self.projector(pixel_unshuffle(patches, self.config.unshuffle))
        assert features.shape[1] == num_image_tokens(self.config)
        return features

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        tile_order: Tensor | None = None,
        blocks: Blocks | None = None,
        image_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> PhantrolOutput:
        """
        input_ids     [B, N]        with `image_token_id` where an image feature goes
        pixel_values  [I, 3, S, S]  tiles of all pictures of all rows, in reading order
        tile_order    [J]           rows that share pictures: the J tiles of all rows, each as its place in pixel_values
        labels        [B, N]        -100 where no loss is taken; token n predicts label n + 1
        blocks        several sequences in one row, none of which sees another: where each ends (see ops/blocks.py)
        image_mask    [B, N]        True where inputs_embeds are image features; input_ids beside them tell it too
        num_items_in_batch          labelled tokens of all micro-batches of a step, by which the loss is divided

        Raises ValueError if nothing is given to read, if image tokens and pictures do not match, or embeddings come
        alone where ids are wanted too (`token_lookups`, `_check_pictureless`), or with pictures, whose places ids alone
        tell; if no label is a token, without `num_items_in_batch`; and in training with router logits, whose loss is
        not taken.
        """
        if pixel_values is not None and input_ids is None and inputs_embeds is not None:
            raise ValueError(
                "got pixel_values and inputs_embeds without input_ids, which say where image features go: expected "
                "input_ids too, or embeddings in which the features lie already, and no pixel_values"
            )
        features = None if pixel_values is None else self.get_image_features(pixel_values)
        if features is not None and tile_order is not None:
            features = features[tile_order.to(features.device)]
        if input_ids is None and inputs_embeds is None:
            if features is None:
                raise ValueError("got neither input_ids, inputs_embeds nor pixel_values: expected one of them")
            return PhantrolOutput(image_features=features)
        if features is None:
            self._check_pictureless(input_ids, inputs_embeds, attention_mask, image_mask, past_key_values)
        if "per_layer_inputs" not in kwargs:
            kwargs |= self.token_lookups(input_ids)
        kwargs |= self._embeddings(input_ids, inputs_embeds, features, image_mask)
        if blocks is not None:
            use_block_attention(self.get_decoder())
            kwargs["blocks"], attention_mask = blocks, no_mask(kwargs["inputs_embeds"])
        kwargs |= {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if labels is None:
            outputs = self.language_model(logits_to_keep=logits_to_keep, **kwargs)
            said = {"logits": outputs.logits}
        else:
            outputs = self.get_decoder()(**{"prompt_mask": labels == -100, **kwargs})
            logprobs = self._label_logprobs(outputs, labels)
            said = {"loss": _cross_entropy(logprobs, num_items_in_batch), "token_logprobs": logprobs}
        states = {name: outputs[name] for name in ("past_key_values", "hidden_states", "attentions") if name in outputs}
        return PhantrolOutput(**said, **states)

    def _embeddings(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        features: Tensor | None,
        image_mask: Tensor | None,
    ) -> dict[str, Tensor | None]:
        """Return inputs_embeds [B, N, D] with the features in their places, and for grafted layers where these are."""
        is_image = None
        if input_ids is not None and (features is not None or inputs_embeds is not None):
            is_image = input_ids == self.config.image_token_id
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids)
        if features is not None:
            inputs_embeds = scatter_features(inputs_embeds, is_image, self.positions(features))
        if not grafted_modifiers(self):
            return {"inputs_embeds": inputs_embeds}
        return {"inputs_embeds": inputs_embeds, "image_mask": is_image if image_mask is None else image_mask}

    def _embed(self, input_ids: Tensor) -> Tensor:
        """[B, N] → word embeddings [B, N, D]; an image token may lie outside of the vocabulary."""
        if self.config.image_token_id >= self.config.text_config.vocab_size:
            # any row will do, since image features overwrite it
            input_ids = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
        return self.get_input_embeddings()(input_ids)

    def _check_pictureless(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        image_mask: Tensor | None,
        cache: Any,
    ) -> None:
        """Raise ValueError if a text without pictures begins with image tokens in it, padding aside, or if embeddings
        come alone where a modifier wants to know which are image features.

        The ids of a text that goes on are not looked at: no step may wait for the device, and drafts hold any token.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if image_mask is not None or given.shape[1] == 1 or is_tracing(given):
            return
        if input_ids is None and any(modifier.image_only for modifier in grafted_modifiers(self)):
            raise ValueError(
                "got inputs_embeds alone, but a modifier works on image features only: give image_mask too, True where "
                "they are, or input_ids"
            )
        if inputs_embeds is not None or (cache is not None and cache.get_seq_length() > 0):
            return
        is_image = input_ids == self.config.image_token_id
        if isinstance(attention_mask, Tensor) and attention_mask.shape == input_ids.shape:  # generate may give a dict
            is_image = is_image & (attention_mask != 0)
        if is_image.any():
            raise ValueError(
                f"got image tokens ({self.config.image_token_id}) in input_ids and no pixel_values: expected those of "
                "their pictures, as the processor returns them"
            )

    def _label_logprobs(self, outputs: Any, labels: Tensor) -> Tensor:
        """→ log p of each labelled token, [M], from what the decoder returns. Logits of others are never computed."""
        if self.training and getattr(outputs, "router_logits", None):
            raise ValueError(
                "got output_router_logits=True in training, but the loss has no part that balances experts: expected "
                "False, in text_config too"
            )
        labelled, rows = labels[:, 1:] != -100, chunk_rows(self.config.text_config.vocab_size)
        hidden = outputs.last_hidden_state[:, :-1][labelled]
        return token_logprobs(hidden, output_head(self.language_model), labels[:, 1:][labelled], rows)

    def token_lookups(self, input_ids: Tensor | None) -> dict[str, Tensor]:
        """Return {"per_layer_inputs": [B, N, layers, size]} of ids [B, N] where the decoder, such as Gemma 3n or 4,
        looks up the token in each layer beside its embedding, and nothing for others. Of an image it is padding's.

        Raises ValueError if there are no ids: from embeddings alone such a decoder would compute another function.
        """
        if not getattr(self.config.text_config, "hidden_size_per_layer_input", None):
            return {}
        if input_ids is None:
            raise ValueError(
                f"got inputs_embeds alone, but each layer of {type(self.get_decoder()).__name__} looks up the token as "
                "well: give input_ids, or per_layer_inputs too"
            )
        padding = self.config.text_config.pad_token_id or 0
        input_ids = input_ids.masked_fill(input_ids == self.config.image_token_id, padding)
        look_up = self.get_decoder().get_per_layer_inputs
        # of Gemma 4 in transformers 5.17 they have no default
        embeddings = {"inputs_embeds": None} if "inputs_embeds" in signature(look_up).parameters else {}
        return {"per_layer_inputs": look_up(input_ids, **embeddings)}


def _cross_entropy(logprobs: Tensor, num_items: Tensor | int | None) -> Tensor:
    """[M] → their mean, or the share of a mean over `num_items` tokens, as transformers' Trainer wants it."""
    if num_items is not None:
        return -logprobs.sum() / torch.as_tensor(num_items, device=logprobs.device).clamp(min=1)  # 0: nothing to learn
    if not len(logprobs):
        raise ValueError(
            "got labels without a token to predict: all are -100 but perhaps the first of a row, which nothing comes "
            "before; label a token of an answer, or leave labels out"
        )
    return -logprobs.mean()


AutoModelForImageTextToText.register(PhantrolConfig, PhantrolForConditionalGeneration, exist_ok=True)
