"""How much memory a model takes: its weights counted, its cache and activations seen in a run on shapes alone.

The model is made without weights, and read a prompt of tensors that have a shape and no data, while every storage that
comes and goes is counted. So the figures follow whatever the backbone and the modifiers do, and no formula has to.

B rows, N prompt tokens, I tiles, L image tokens of a tile, D hidden size, S tile side in pixels.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache

from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.quantised import BITS, FLOATS, GROUP_SIZE, backbone_linears, linears_to_quantise
from phantrol.modifiers.graft import graft, grafted_modifiers, modifier_configs
from phantrol.modifiers.sequence import sequence_state

DTYPES = (*FLOATS, *BITS)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked: B rows, each with `text_tokens` and `images` pictures of `tiles` tiles, and its answer."""

    text_tokens: int = 512
    images: int = 1
    tiles: int = 1
    answer_tokens: int = 256
    batch_size: int = 1


@dataclasses.dataclass(frozen=True)
class Phase:
    """Bytes that are alive beside the weights: the cache when the phase ends, and all else at the worst moment."""

    name: str
    cache: int
    activations: int


def on_shapes(config: PhantrolConfig) -> PhantrolForConditionalGeneration:
    """Return the model on the meta device: every name and shape, not a byte of weights."""
    with torch.device("meta"):
        return PhantrolForConditionalGeneration(config).eval()


def count_parameters(model: PhantrolForConditionalGeneration) -> dict[str, int]:
    """Return the parameters of each part: one entry a modifier, under its name; what is shared counts once."""
    config = model.config.text_config
    counts = {"vision_tower": _size(model.vision_tower), "projector": _size(model.projector)}
    counts["positions"] = _size(model.positions)
    with torch.device("meta"):
        counts["language_model"] = _size(AutoModelForCausalLM.from_config(config))
        for options, modifier in zip(model.config.modifiers, modifier_configs(config), strict=True):
            plain = AutoModelForCausalLM.from_config(copy.deepcopy(config))  # a graft is noted in its configuration
            counts[options["name"]] = _size(graft(plain, [modifier])) - counts["language_model"]
    return {part: count for part, count in counts.items() if count}


def weight_bytes(model: PhantrolForConditionalGeneration, dtype: str) -> int:
    """Return the bytes of all parameters in `dtype`, one of DTYPES.

    With "int8" and "int4" they are those of the backbone's linears with their scales (see `quantised.py`), and the rest
    in what it computes with. Raises ValueError if the name is none of them, or the model cannot be quantised so.
    """
    itemsize = compute_dtype(model.config, dtype).itemsize
    total = _size(model) * itemsize
    for name in linears_to_quantise(model, dtype) if dtype in BITS else ():
        weight = model.get_submodule(name).weight
        scales = 5 * weight.shape[0] if dtype == "int8" else 4 * weight.numel() // GROUP_SIZE
        total += weight.numel() * BITS[dtype] // 8 + scales - weight.numel() * itemsize
    return total


def cache_bytes(cache: Any) -> int:
    """Return the bytes that a cache holds: keys and values of every pass, and what it keeps of the anchors."""
    tensors = [getattr(layer, kind, None) for layer in cache.layers for kind in ("keys", "values")]
    storages = {tensor.untyped_storage() for tensor in tensors if tensor is not None}
    return sum(storage.nbytes() for storage in storages)


def compute_dtype(config: PhantrolConfig, dtype: str) -> torch.dtype:
    """Return what a model with such weights computes with: beside 8 bits it stays what it is saved in.

    Raises ValueError if the name is none of DTYPES.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: expected {', '.join(DTYPES)}")
    saved = config.dtype if dtype == "int8" else None
    return (saved or torch.bfloat16) if dtype in BITS else getattr(torch, dtype)


@torch.no_grad()
def phases(config: PhantrolConfig, prompt: Prompt, dtype: str = "bfloat16") -> list[Phase]:
    """Return what seeing the pictures, reading the prompt and writing the answer take, as `generate` does it.

    The peak of memory is the weights and the largest `cache + activations`. What is seen is what PyTorch's own CPU
    kernels are given and return, with fused attention; the scratch memory inside of a kernel is not, nor is a mask of
    rows with unequal lengths. With "int8", torchao's kernel writes one linear at a time in full, which is added.
    """
    model = on_shapes(config).to(compute_dtype(config, dtype))
    whole = max((model.get_submodule(name).weight.nbytes for name in backbone_linears(model)), default=0)
    cache = DynamicCache(config=config.text_config)
    if grafted_modifiers(model):  # lays the cache out, by copies that tensors without data do not allow
        sequence_state(cache, grafted_modifiers(model), config.text_config.num_hidden_layers)
    num_tiles = prompt.batch_size * prompt.images * prompt.tiles
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        with Watch(model, num_image_tokens(config, num_tiles)) as watch:
            found = list(_run(model, prompt, num_tiles, cache, watch))
    scratch = whole if dtype == "int8" else 0
    return [found[0], *(dataclasses.replace(phase, activations=phase.activations + scratch) for phase in found[1:])]


def _run(model: Any, prompt: Prompt, num_tiles: int, cache: Any, watch: Watch) -> Iterator[Phase]:
    rows, size, side = prompt.batch_size, model.config.text_config.hidden_size, model.config.image_px
    pixels = torch.empty(num_tiles, 3, side, side)
    features = model(pixel_values=pixels).image_features if num_tiles else None
    yield Phase("seeing the pictures", 0, watch.take_peak())
    num_tokens = prompt.text_tokens + num_image_tokens(model.config, num_tiles) // rows
    inputs = {"past_key_values": cache, "prompt_length": num_tokens, "logits_to_keep": 1}
    images = {}
    if num_tiles and grafted_modifiers(model):
        images["image_mask"] = torch.empty(rows, num_tokens, dtype=torch.bool)

    def tokens(number: int) -> dict[str, torch.Tensor]:
        lookups = model.token_lookups(torch.empty(rows, number, dtype=torch.long))
        return {"inputs_embeds": torch.empty(rows, number, size, dtype=model.dtype), **lookups}

    model(**tokens(num_tokens), **images, **inputs).logits.float()
    yield _phase("reading the prompt", cache, watch)
    del features
    if prompt.answer_tokens > 1:
        model(**tokens(prompt.answer_tokens - 1), **inputs)
        watch.take_peak()
    model(**tokens(1), **inputs).logits.float()
    yield _phase("writing the answer", cache, watch)


def _phase(name: str, cache: Any, watch: Watch) -> Phase:
    kept = cache_bytes(cache)
    return Phase(name, kept, watch.take_peak() - kept)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Watch(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, those of the model's own tensors left out."""

    def __init__(self, model: nn.Module, num_image_tokens: int):
        super().__init__()
        own = [*model.parameters(), *model.buffers()]
        self._known = {tensor.untyped_storage()._cdata for tensor in own}
        self._num_image_tokens, self._alive, self._peak = num_image_tokens, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        # what shapes do not tell: which tokens are of an image, and whether positions are so large that angles stretch
        if function is torch.ops.aten.nonzero.default:
            output = torch.empty(self._num_image_tokens, args[0].ndim, dtype=torch.long)
        elif function is torch.ops.aten._local_scalar_dense.default:
            output = 0
        else:
            output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return output

    def take_peak(self) -> int:
        """Return the most that was alive at once since this was last asked."""
        peak, self._peak = self._peak, self._alive
        return peak

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._alive += storage.nbytes()
            self._peak = max(self._peak, self._alive)
            weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self._alive -= nbytes
