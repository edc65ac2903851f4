"""What is known about a sequence, and where: on its cache, never on a module.

Two requests that take turns on one model, beams that change places, and a prompt that comes in chunks stay apart
because everything that a modifier must remember between two forward passes lies in layers of the cache itself. A cache
of a grafted decoder has, after its own L layers, one more per (pass, decoder layer) and per memory of the anchor.

B rows, N tokens of this forward pass, k anchors, A heads of an anchor of all kinds, d head size.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from phantrol.modifiers.base import LayerModifier
from phantrol.modifiers.growing_cache import GrowingLayer
from phantrol.modifiers.image_rows import ImageRows
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
