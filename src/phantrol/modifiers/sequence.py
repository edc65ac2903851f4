"""What is known about a sequence, and where: on its cache, never on a module.

Two requests that take turns on one model, beams that change places, and a prompt that comes in chunks stay apart
because everything that a modifier must remember between two forward passes lies in layers of the cache itself. A cache
of a grafted decoder has, after its own L layers, one more per (pass, decoder layer) and per memory of the anchor.

B rows, N tokens of this forward pass, T tokens of a mask, k anchors, A heads of an anchor of all kinds, d head size,
R image tokens of all rows, F inputs of a linear, r rank of a partial LoRA.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from phantrol.modifiers.base import LayerModifier
from phantrol.modifiers.growing_cache import GrowingLayer
from phantrol.ops.blocks import Blocks

KEYS_AND_VALUES = "keys and values"
STATE_KEY = (0, -1, "state")


class AnchorLayer(DynamicLayer):
    """A cache layer that keeps what heads of k anchors say, [B, k, A, d], and takes part in beams and row selection.

    constants  what was worked out with it and is the same for all rows
    """

    constants: Any = None
    is_compileable = True
    supports_early_init = False

    def keep(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.is_initialized = keys, values, True

    def get_seq_length(self) -> int:
        return 1 if self.is_initialized else 0

    def crop(self, *args: Any) -> None:
        """Taking back tokens never takes back the first one."""


class SequenceState(AnchorLayer):
    """A cache layer without tensors: where the other extra layers are, and what has already been seen.

    It is a layer so that `cache.reset()` reaches it. Also found as `cache.sequence_state`.
    """

    def __init__(self, slots: dict[tuple[int, int, str], int], first_pass_slots: int, fresh_layers: list[Any]):
        super().__init__()
        self.slots = slots  # (pass, decoder layer, what) → index into cache.layers
        self.first_pass_slots = first_pass_slots  # cache.layers up to here serve the first pass
        self.fresh_layers = fresh_layers  # an empty copy of each layer that the cache began with
        self.reset()

    def reset(self) -> None:
        self.begun = False  # the extra layers stand ready
        self.anchors_complete = False  # the anchors of every row have been seen
        self.prompt_ended = False  # a token of an answer has been seen

    def crop(self, *args: Any) -> None:
        self.anchors_complete = False  # of several anchors the later ones may be among what is taken back


@dataclasses.dataclass(frozen=True)
class SequenceStep:
    """What one forward pass knows about its sequences; each decoder layer gets it as the keyword `sequence`.

    anchor_index     [B]  where in this chunk the anchor of each row is; None once all anchors have been seen
    anchor_in_chunk  [B]  False where the anchor lies in an earlier or a later chunk
    prompt           True or False for all tokens, or [B, N] or [1, N] with True on tokens of the prompt
    image_rows       which tokens are of an image; None if none is, or no modifier asks
    blocks           where the sequences of the one row end, if it holds several; each begins with its own anchor
    places           [B, N] or [1, N]  how many real tokens each token has before it in its row, -1 on padding; None if
                     no modifier asks, or all anchors have been seen
    """

    state: SequenceState | None = None
    anchor_index: Tensor | None = None
    anchor_in_chunk: Tensor | None = None
    prompt: bool | Tensor = True
    pass_index: int = 0
    image_rows: ImageRows | None = None
    blocks: Blocks | None = None
    places: Tensor | None = None

    def at_pass(self, pass_index: int) -> SequenceStep:
        return dataclasses.replace(self, pass_index=pass_index)

    def to(self, device: Any, **how: Any) -> SequenceStep:
        """Return it with its tensors on that device: accelerate asks, where layers lie on several."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {name: part.to(device, **how) for name, part in parts.items() if isinstance(part, Tensor | ImageRows)}
        return dataclasses.replace(self, **moved)


class ImageRows:
    """Where the image tokens of one forward pass are, R of B·N, worked out once for all linears of all layers.

    image_mask [B, N], True on image tokens;  index [R], their rows of [B·N, ...]
    """

    def __init__(self, image_mask: Tensor, index: Tensor):
        self.index, self._num_tokens = index, image_mask.numel()
        self._taken: tuple[Tensor, nn.Module, Tensor] | None = None

    def take(self, x: Tensor, layer: nn.Module) -> Tensor:
        """Return layer(x) of the image tokens alone, [R, r]; x [B, N, F].

        Asked again for the same x and the same layer, as queries, keys and values do, it is not computed again.
        Raises ValueError if x does not hold the tokens of the forward pass in their order.
        """
        if self._taken is None or self._taken[0] is not x or self._taken[1] is not layer:
            rows = x.reshape(-1, x.shape[-1])
            if len(rows) != self._num_tokens:
                raise ValueError(
                    f"a linear got {len(rows)} rows in a forward pass of {self._num_tokens} tokens: a partial LoRA "
                    "expects decoders whose linears see every token in order"
                )
            self._taken = x, layer, layer(rows[self.index])
        return self._taken[2]

    def to(self, device: Any, **how: Any) -> ImageRows:
        moved = copy.copy(self)
        moved.index, moved._taken = self.index.to(device, **how), None
        return moved


def image_rows(image_mask: Tensor | None, num_rows: int, num_tokens: int) -> ImageRows | None:
    """Return where image tokens are, or None if there are none; image_mask [B, N], True on image tokens.

    Raises ValueError if the mask is not of these tokens.
    """
    if image_mask is None:
        return None
    if tuple(image_mask.shape) != (num_rows, num_tokens):
        raise ValueError(
            f"image_mask is {list(image_mask.shape)}, expected [{num_rows}, {num_tokens}]: one entry for each token of "
            "this forward pass"
        )
    index = image_mask.flatten().nonzero().squeeze(1)
    # while training, none of them still gives the LoRA gradients, of 0: ranks that share it must all have them
    return ImageRows(image_mask, index) if len(index) or torch.is_grad_enabled() else None


def sequence_state(cache: Cache, modifiers: Sequence[LayerModifier], num_layers: int) -> SequenceState:
    """Return the state of the sequences in `cache`; at their beginning, give the cache the layers that it needs.

    Raises ValueError if the cache was filled without the modifiers (what they should have remembered is lost), has more
    layers than the decoder, or is offloaded.
    """
    if getattr(cache, "offloading", False):  # it fetches the layer after the one at hand, which is not the next slot
        raise ValueError("got an offloaded cache, expected one that stays where the model is: leave out `offloading`")
    length = cache.get_seq_length()  # of a static cache a tensor, which must not be read at each step
    state = getattr(cache, "sequence_state", None)
    if state is None:
        if int(length) > 0:
            raise ValueError(
                f"the cache holds {int(length)} tokens that were not computed by this grafted model: "
                "expected an empty cache, or one that this model filled"
            )
        state = cache.sequence_state = _lay_out(cache, modifiers, num_layers)
    if not state.begun or (isinstance(length, int) and length == 0):
        _begin(cache, state)
    return state


def end_prompt(cache: Cache, state: SequenceState) -> None:
    """Forget what only the prompt's own later passes needed."""
    del cache.layers[state.first_pass_slots :]
    state.prompt_ended = True


def real_tokens(attention_mask: Tensor | dict, num_tokens: int, past_tokens: int) -> Tensor:
    """Return which tokens of each row are no padding: [B, past + N] bool.

    attention_mask  [B, past + N] with 1 on real tokens, or [B, 1, N, T] as attention takes it, which says of all that
                    came before only whether something did: then the token before the new ones stands for it
    """
    mask = _widest(attention_mask) if isinstance(attention_mask, dict) else attention_mask
    if mask.ndim != 4:
        return mask[:, : past_tokens + num_tokens] != 0
    sees = _who_sees_whom(mask)
    start = min(past_tokens, sees.shape[-1] - num_tokens)
    # every real token attends to itself, also under a sliding window; who sees earlier chunks had its anchor there
    own = sees[:, :, start : start + num_tokens].diagonal(dim1=1, dim2=2)
    earlier = sees[:, :, :start].flatten(1).any(dim=-1, keepdim=True)
    return F.pad(torch.cat([earlier, own], dim=1), (past_tokens - 1, 0))  # -1, where nothing was earlier, cuts it off


def check_shared_anchors(attention_mask: Tensor | dict | None, past_tokens: int, anchor: Tensor, span: int) -> None:
    """Raise ValueError if the anchors of a row cannot be told, or are not those of all that it holds.

    anchor  [B] where the first real token of each row is;  span  tokens from the first anchor to the last
    """
    mask = _widest(attention_mask) if isinstance(attention_mask, dict) else attention_mask
    if mask is None or mask.ndim != 4:
        return
    if past_tokens > 0 and span == 1:
        return  # behind padding alone
    if past_tokens > 0:
        raise ValueError(
            f"got an attention mask {list(mask.shape)} after {past_tokens} tokens, and not all anchors have been seen: "
            "expected one of [B, past + N], which says where rows begin, and a dynamic cache: for a static one "
            "`generate` makes such masks itself"
        )
    if torch.compiler.is_compiling():
        return  # a graph cannot ask
    sees = _who_sees_whom(mask).expand(len(anchor), -1, -1)  # [B, N, T], T ≥ N: a static cache has room for more
    place = torch.arange(sees.shape[1], device=sees.device)[:, None]
    early = (anchor[:, None] + torch.arange(span, device=sees.device)).clamp(max=sees.shape[-1] - 1)[:, None]
    hidden = ~sees.gather(-1, early.expand(-1, sees.shape[1], -1)) & (place > early)  # [B, N, span]
    # a sliding window hides what is far: all before it too, and never the token just before
    sees_earlier = sees.any(-1, keepdim=True) & (sees.to(torch.uint8).argmax(-1, keepdim=True) < early)
    # [B, N] the token before is another sequence's; padding behind a row sees not even itself
    begins = F.pad(~sees.diagonal(-1, 1, 2), (1, 0), value=True) & sees.diagonal(0, 1, 2)
    if bool((hidden & (sees_earlier | begins[..., None])).any()):
        raise ValueError(
            f"a row holds sequences that share fewer than the {span} tokens from the first anchor to the last: "
            "expected a longer common beginning, fewer anchors, or a row for each (pack=false)"
        )


def _widest(masks: dict[str, Tensor]) -> Tensor:
    """One mask per kind of attention: all agree on what is padding."""
    return masks.get("full_attention", next(iter(masks.values())))


def _who_sees_whom(mask: Tensor) -> Tensor:
    """[B, 1, N, T] as attention takes it → [B, N, T] bool."""
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0


def _lay_out(cache: Cache, modifiers: Sequence[LayerModifier], num_layers: int) -> SequenceState:
    if len(cache.layers) > num_layers:
        raise ValueError(
            f"the cache has {len(cache.layers)} layers, the decoder {num_layers}: expected a cache that was made from "
            "this decoder's configuration"
        )
    if cache.layer_class_to_replicate is not None:  # a cache that grows by itself: fix its own layers first
        while len(cache.layers) < num_layers:
            cache.layers.append(cache.layer_class_to_replicate())
    while len(cache.layers) < num_layers:  # transformers 5.17 gives none to layers that take the keys of earlier ones
        cache.layers.append(AnchorLayer())
    passes = [max(modifier.passes(i) for modifier in modifiers) for i in range(num_layers)]
    memories = [[name for modifier in modifiers for name in modifier.memories(i)] for i in range(num_layers)]
    cache.layers[:] = [
        GrowingLayer(enlarged=bool(remembered)) if type(layer) is DynamicLayer else layer
        for layer, remembered in zip(cache.layers, memories, strict=True)
    ]
    slots: dict[tuple[int, int, str], int] = {}
    for pass_index in range(max(passes)):
        running = [i for i in range(num_layers) if pass_index < passes[i]]
        keys = [(pass_index, i, KEYS_AND_VALUES) for i in running]
        keys += [(pass_index, i, name) for i in running for name in memories[i]]
        keys += [STATE_KEY] if pass_index == 0 else []
        for key in keys:
            slots[key] = len(slots)
    if any(memories):  # a cache that was allocated early has room for keys and values that are not enlarged
        for layer in cache.layers:
            layer.is_initialized = False
    fresh = [copy.deepcopy(layer) for layer in cache.layers]
    return SequenceState(slots, first_pass_slots=slots[STATE_KEY] + 1, fresh_layers=fresh)


def _begin(cache: Cache, state: SequenceState) -> None:
    for layer in cache.layers[len(state.fresh_layers) :]:
        layer.reset()
    for pass_index, layer_idx, what in list(state.slots)[len(cache.layers) :]:
        if what == KEYS_AND_VALUES:
            cache.layers.append(copy.deepcopy(state.fresh_layers[layer_idx]))
        else:
            cache.layers.append(state if (pass_index, layer_idx, what) == STATE_KEY else AnchorLayer())
    state.reset()
    state.begun = True
