"""PhantrolForConditionalGeneration: pictures and text in, text out.

B rows, N tokens of a row, D hidden size of the decoder, V vocabulary, I tiles of all pictures, S tile side in pixels,
P patches of a tile and Dv their size, s unshuffle factor, L = P / s² image tokens of a tile, M labelled tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput, can_return_tuple

from phantrol.models.block_attention import no_mask, use_block_attention
from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.generation import PictureGeneration
from phantrol.modifiers.graft import GraftedGeneration, graft, grafted_modifiers, modifier_configs
from phantrol.ops.blocks import Blocks
from phantrol.ops.images import join_patches, pixel_unshuffle, scatter_features
from phantrol.ops.logprobs import chunk_rows, token_logprobs


@dataclasses.dataclass
class PhantrolOutput(ModelOutput):
    """What the model returns.

    loss            []         mean cross entropy of the labelled tokens, when labels are given
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


class Projector(nn.Module):
    """[I, L, s²·Dv] → [I, L, D]: optional LayerNorm, linear, GELU, linear, and optionally a given size."""

    def __init__(self, config: PhantrolConfig, vision_size: int):
        super().__init__()
        size_in, size_out = vision_size * config.unshuffle**2, config.text_config.hidden_size
        self.norm = nn.LayerNorm(size_in) if config.projector_norm else nn.Identity()
        self.linear_1, self.linear_2 = nn.Linear(size_in, size_out), nn.Linear(size_out, size_out)
        self.rms = config.feature_rms

    def forward(self, features: Tensor) -> Tensor:
        features = self.linear_2(nn.functional.gelu(self.linear_1(self.norm(features))))
        return features if self.rms is None else self.rms * nn.functional.rms_norm(features, features.shape[-1:])


class GridPositions(nn.Module):
    """Where on its tile a feature lies: [I, L, D] plus x·a + y·b, with x and y from -1 to 1 and two learnt directions.

    A ramp, and not an embedding for each row and column: left of and above are then one linear reading away, while free
    embeddings, which share nothing between places, never learnt them in the same time (LOG.md).
    """

    def __init__(self, side: int, size: int, rms: float):
        super().__init__()
        self.side = side
        self.directions = nn.Parameter(rms * torch.randn(2, size))

    def forward(self, features: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, self.side, device=features.device, dtype=features.dtype)
        places = torch.cartesian_prod(ramp, ramp).flip(-1)  # row by row: (x, y)
        return features + places @ self.directions.to(features.dtype)


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
        **kwargs: Any,
    ) -> PhantrolOutput:
        """
        input_ids     [B, N]        with `image_token_id` where an image feature goes
        pixel_values  [I, 3, S, S]  tiles of all pictures of all rows, in reading order
        tile_order    [J]           rows that share pictures: the J tiles of all rows, each as its place in pixel_values
        labels        [B, N]        -100 where no loss is taken; token n predicts label n + 1
        blocks        several sequences in one row, none of which sees another: where each ends (see ops/blocks.py)

        Raises ValueError if nothing is given to read, if image tokens and pictures do not match, or embeddings come
        alone where the decoder wants ids too (`token_lookups`), or with pictures, whose places ids alone tell.
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
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids)
        if "per_layer_inputs" not in kwargs:
            kwargs |= self.token_lookups(input_ids)
        if features is not None:
            is_image = input_ids == self.config.image_token_id
            inputs_embeds = scatter_features(inputs_embeds, is_image, self.positions(features))
            if grafted_modifiers(self):
                kwargs.setdefault("image_mask", is_image)
        if labels is not None:
            kwargs.setdefault("prompt_mask", labels == -100)
        if blocks is not None:
            use_block_attention(self.get_decoder())
            kwargs["blocks"], attention_mask = blocks, no_mask(inputs_embeds)
        kwargs |= {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        loss = logits = logprobs = None
        if labels is None:
            outputs = self.language_model(logits_to_keep=logits_to_keep, **kwargs)
            logits = outputs.logits
        else:
            outputs = self.get_decoder()(**kwargs)
            head, hidden = output_head(self.language_model), outputs.last_hidden_state
            labelled = labels[:, 1:] != -100
            rows = chunk_rows(self.config.text_config.vocab_size)
            logprobs = token_logprobs(hidden[:, :-1][labelled], head, labels[:, 1:][labelled], rows)
            loss = -logprobs.mean()
        return PhantrolOutput(
            loss=loss,
            logits=logits,
            token_logprobs=logprobs,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _embed(self, input_ids: Tensor) -> Tensor:
        """[B, N] → word embeddings [B, N, D]; an image token may lie outside of the vocabulary."""
        if self.config.image_token_id >= self.config.text_config.vocab_size:
            # any row will do, since image features overwrite it
            input_ids = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
        return self.get_input_embeddings()(input_ids)

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
        return {"per_layer_inputs": self.get_decoder().get_per_layer_inputs(input_ids)}


@dataclasses.dataclass
class _HiddenAlone(BaseModelOutputWithPast):
    """The output of any family's decoder: what only some have, such as `router_logits`, is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _GivenHidden(nn.Module):
    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPast:
        return _HiddenAlone(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> nn.Module:  # where OPT and BART look for it
        return self


def output_head(language_model: nn.Module) -> Any:
    """Return hidden states → logits, exactly as this family does it, soft caps and scalings included.

    A view of the causal language model that shares its parameters, with a decoder that hands its input through: so no
    family's head is written again here.
    """
    view = copy.copy(language_model)
    view._modules = {**language_model._modules, language_model.base_model_prefix: _GivenHidden()}

    def head(hidden: Tensor) -> Tensor:
        rows = hidden if hidden.ndim == 3 else hidden[None]
        logits = type(view).forward(view, inputs_embeds=rows, use_cache=False).logits
        return logits if hidden.ndim == 3 else logits[0]

    return head


def vision_size(vision_config: Any) -> int:
    """Return the channels of a vision tower's last hidden state.

    Raises ValueError if the configuration does not say.
    """
    for name in ("hidden_size", "hidden_sizes", "embed_dim"):
        size = getattr(vision_config, name, None)
        if size:
            return size if isinstance(size, int) else size[-1]
    raise ValueError(f"{type(vision_config).__name__} has no hidden_size: expected the configuration of a vision tower")


@torch.no_grad()
def measure_grid(vision_config: Any, image_px: int) -> int:
    """Return how many patches lie along one side of a tile, by running the vision tower on shapes alone.

    Raises ValueError if the tower takes no pictures of this size, or its patches form no square: where they come as a
    grid, by its sides; where they come in a row, behind class and register tokens, by the sides of one patch.
    """
    with torch.device("meta"):
        tower = AutoModel.from_config(vision_config).eval()
        try:
            states = tower(torch.empty(1, 3, image_px, image_px)).last_hidden_state
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{type(tower).__name__} takes no pictures of {image_px} px: {error}") from None
    sides = states.shape[-2:] if states.ndim == 4 else getattr(vision_config, "patch_size", None)
    if isinstance(sides, list | tuple) and len(set(sides[-2:])) > 1:
        what = "a grid of" if states.ndim == 4 else "pixels of a patch,"
        raise ValueError(
            f"{type(tower).__name__} at {image_px} px: got {what} {sides[-2]} x {sides[-1]}, expected a square, as "
            "tiles are cut; use another vision tower"
        )
    if states.ndim == 4:
        return states.shape[-1]
    return int(states.shape[1] ** 0.5)  # class and register tokens are fewer than one more row of patches


AutoModelForImageTextToText.register(PhantrolConfig, PhantrolForConditionalGeneration, exist_ok=True)
