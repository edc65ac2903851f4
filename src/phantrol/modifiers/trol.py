"""TroL: a decoder layer runs again on its own output, and each token mixes the passes (arXiv:2406.12246).

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterable
from functools import partial
from math import isfinite
from typing import Any, Literal

from torch import Tensor, nn

from phantrol.modifiers.base import ALL, LayerModifier, OwnLinear, config_to_dict, mark_initialized, placed_like
from phantrol.modifiers.layer_kinds import finds_keys
from phantrol.modifiers.pass_cache import PassCache
from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.traversal import mix_passes, traversal_ratio

NO_TRAVERSAL = "no layer of this model traverses: graft TrolConfig() on its decoder"


@dataclasses.dataclass(frozen=True)
class TrolConfig:
    """Options of layer traversal.

    layers      "all", or the indices of the layers that traverse, each with a gate
    skip        of these the ones left out to save time (`phantrol calibrate` chooses them): they run once, have no slot
                in the cache, and keep their gates, so that another budget can be chosen later
    passes      how many times such a layer runs: 2 in the paper; with more, each pass decides whether to go on
    tokens      "all": prompt and answer traverse, in training and inference alike, with a cache for every pass
                "prompt": only the prompt does, as released; the cache then holds the first pass alone
    gate_bias   b at the start, where w = σ(2b): -4 gives 3e-4, near enough to the backbone and still trainable. An
                untrained backbone breaks at w = 0.5 [TroL, table 7]. IDENTITY_BIAS leaves it exactly as it was
    share_gate  one gate for all layers, as the released loader ends up with
    Raises ValueError for an option out of range.
    """

    layers: Literal["all"] | tuple[int, ...] = ALL
    passes: int = 2
    tokens: Literal["all", "prompt"] = "all"
    gate_bias: float = -4.0
    share_gate: bool = False
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.passes, int) or self.passes < 2:
            raise ValueError(
                f"TrolConfig.passes is {self.passes!r}: expected 2 or more, since one pass is the backbone"
            )
        if self.tokens not in ("all", "prompt"):
            raise ValueError(f"TrolConfig.tokens is {self.tokens!r}: expected 'all' or 'prompt'")
        is_number = isinstance(self.gate_bias, (int, float)) and not isinstance(self.gate_bias, bool)
        if not is_number or not isfinite(self.gate_bias):
            raise ValueError(f"TrolConfig.gate_bias is {self.gate_bias!r}: expected a number, such as -4.0")
        if not isinstance(self.share_gate, bool):
            raise ValueError(f"TrolConfig.share_gate is {self.share_gate!r}: expected True or False")


IDENTITY_BIAS = -40.0  # tanh(-40) is -1 in any float, so that w is 0


class TraversalGate(OwnLinear):
    """hidden states [B, N, D] → ratio w [B, N, 1]: one fully connected layer, read on the output of the first pass."""

    def __init__(self, hidden_size: int, bias: float, **factory: Any):
        super().__init__(hidden_size, 1, **factory)
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return traversal_ratio(hidden_states, self.weight, self.bias)


class Traversed:
    """Mixed in before a decoder layer L: y = (1 - w)·L(x) + w·L(L(x)), w = gate(L(x)).        [TroL, section 3]

    With P passes h1 = L(x), h2 = L(h1), ... the rule folds, with w_p = gate(h_p):

        y = (1 - w1)·h1 + w1·((1 - w2)·h2 + w2·(...))

    Differs: the released code traverses whenever more than one token comes at once, so its output depends on how a
    prompt is cut into chunks. Here each pass owns its keys and values, and `tokens` says who traverses. Keys and values
    that later layers take over (Gemma 3n and 4) are the first pass's, which each token has.

    What transformers collects inside of a layer, `output_attentions` and `output_router_logits`, comes once a pass, in
    the order in which passes run; hidden states, which a layer returns, come once a layer.

    With gradient checkpointing each pass is a checkpoint of its own. In one for both, the backward pass would compute
    the first pass to its end again, as the input of the second, and the second, as an input of the mix: a training
    step then costs 2.15 times the plain one in place of 2.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # transformers makes one checkpoint of the forward of each class of layers
        if getattr(vars(cls).get("forward"), "__wrapped__", None) is Traversed.forward:
            del cls.forward

    gate_owner: nn.Module | None = None  # the layer that has the gate, where layers share one

    @property
    def traversal_gate(self) -> nn.Module:
        """The gate of this layer, or its owner's, as it is now: PEFT may have put an adapter or a copy in its place."""
        return (self if self.gate_owner is None else self.gate_owner)._modules["traversal_gate"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(self, *args, **kwargs)  # older versions make one checkpoint of all here

    def _one_pass(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        run = partial(super().forward, **kwargs)
        if self.training and getattr(self, "gradient_checkpointing", False):
            return self._gradient_checkpointing_func(run, hidden_states, *args)
        return run(hidden_states, *args)

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        past_key_values: Any = None,
        sequence: SequenceStep | None = None,
        **kwargs: Any,
    ) -> Any:
        step = sequence or SequenceStep()
        output = self._one_pass(hidden_states, *args, past_key_values=past_key_values, sequence=step, **kwargs)
        in_tuple = isinstance(output, tuple)
        first, *rest = output if in_tuple else (output,)
        prompt = True if self.traversal_tokens == "all" else step.prompt
        if prompt is False or self.traversal_passes == 1:
            return output
        if kwargs.get("shared_kv_states") is not None:  # what later passes write there goes no further
            kwargs["shared_kv_states"] = copy.copy(kwargs["shared_kv_states"])
        passes, ratios = [first], []
        for pass_index in range(1, self.traversal_passes):
            step = step.at_pass(pass_index)
            cache = None if past_key_values is None else PassCache(past_key_values, step)
            output = self._one_pass(passes[-1], *args, past_key_values=cache, sequence=step, **kwargs)
            ratio = self.traversal_gate(passes[-1]).to(passes[-1].device)  # a shared gate may lie on another one
            ratios.append(ratio if prompt is True else ratio * prompt[..., None])
            passes.append(output[0] if in_tuple else output)
        mixed = passes.pop()
        for earlier, ratio in zip(reversed(passes), reversed(ratios), strict=True):
            mixed = mix_passes(earlier, mixed, ratio)
        return (mixed, *rest) if in_tuple else mixed


class Trol(LayerModifier):
    """Layer traversal: the chosen layers run several times, each with a gate of its own or all with one."""

    Config, mixin, depth = TrolConfig, Traversed, 0

    def __init__(self, config: TrolConfig, num_layers: int):
        super().__init__(config, num_layers)
        if not isinstance(config.skip, (tuple, list)):
            raise ValueError(
                f"TrolConfig.skip is {config.skip!r}: expected a tuple of layers that traverse, {self.layers}"
            )
        unknown = [i for i in config.skip if i not in self.layers]
        if unknown:
            raise ValueError(
                f"TrolConfig.skip names {unknown}: expected some of the layers that traverse, {self.layers}"
            )
        self.prompt_only = config.tokens == "prompt"
        self._gate_owner: nn.Module | None = None

    def check(self, layer: nn.Module) -> None:
        takes = list(inspect.signature(type(layer).forward).parameters)[1:]
        if "past_key_values" not in takes:  # under another name each pass would write over the one before
            raise ValueError(
                f"TroL cannot run {type(layer).__name__} more than once: got a layer that takes {', '.join(takes)}, "
                "expected one that takes its cache as past_key_values, so that each pass has a slot of its own; graft "
                "another decoder, such as Llama or Qwen"
            )
        if finds_keys(layer):
            raise ValueError(
                f"TroL cannot run {type(layer).__name__} more than once: it finds its keys by an index, which has one "
                "slot in the cache for all passes; name layers of other attention, TrolConfig(layers=(...)), or graft "
                "another decoder, such as Llama or Qwen"
            )

    def attach(self, layer: nn.Module, layer_idx: int, text_config: Any) -> None:
        layer.traversal_passes, layer.traversal_tokens = self.passes(layer_idx), self.config.tokens
        if self._gate_owner is not None:
            # held without registering it: the first layer owns the gate, and a checkpoint names it once
            layer.__dict__["gate_owner"] = self._gate_owner
            return
        factory = placed_like(next(layer.parameters()))
        layer.traversal_gate = TraversalGate(text_config.hidden_size, self.config.gate_bias, **factory)
        mark_initialized(layer.traversal_gate)
        if self.config.share_gate:
            self._gate_owner = layer

    def passes(self, layer_idx: int) -> int:
        return self.config.passes if layer_idx in self.layers and layer_idx not in self.config.skip else 1


def traversal_of(decoder: nn.Module) -> Trol:
    """Return the graft that lets layers of a decoder run again. Raises ValueError if there is none."""
    for modifier in getattr(decoder, "modifiers", []):
        if isinstance(modifier, Trol):
            return modifier
    raise ValueError(NO_TRAVERSAL)


def traversing_gates(decoder: nn.Module) -> dict[int, TraversalGate]:
    """Return the gate of each layer that runs more than once, by its number; layers that share one gate all name it."""
    return {
        index: layer.traversal_gate
        for index, layer in enumerate(decoder.layers)
        if getattr(layer, "traversal_passes", 1) > 1
    }


def skip_traversal(decoder: nn.Module, skip: Iterable[int]) -> None:
    """Let these layers of a grafted decoder run once, in place, and all others with a gate as they were trained.

    What `save_pretrained` writes says so too. Caches that were begun before do not fit any more.
    Raises ValueError if the decoder has no traversal, or a layer no gate.
    """
    before = traversal_of(decoder)
    config = dataclasses.replace(before.config, skip=tuple(sorted(skip)))
    trol = Trol(config, len(decoder.layers))
    decoder.modifiers[decoder.modifiers.index(before)] = trol
    for index in trol.layers:
        decoder.layers[index].traversal_passes = trol.passes(index)
    written = config_to_dict(config)
    decoder.config.modifiers = [
        written if options["name"] == written["name"] else options for options in decoder.config.modifiers
    ]


MODIFIER = Trol
