"""What a modifier is, and how a decoder layer takes one on.

A modifier never copies a decoder. Grafting swaps the class of each decoder layer for one that puts the modifier's mixin
before the layer's own class, and adds the modifier's parameters to the existing module: `LlamaDecoderLayer` becomes
`TraversedLlamaDecoderLayer(Traversed, LlamaDecoderLayer)`. So every key of the backbone keeps its name, and PEFT,
gradient checkpointing, `torch.compile` and FSDP see ordinary modules. `print(model)` shows what was done.

A file in this folder is complete with a frozen dataclass of options, a mixin, a `LayerModifier`, and MODIFIER.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phantrol.find import find, name_of

ALL = "all"


class LayerModifier:
    """One modifier with its options, for a decoder of `num_layers` layers. Subclasses override what they need.

    Raises ValueError for `layers` that the decoder does not have.
    """

    # a frozen dataclass; its field `layers`, if it has one, is "all" or a tuple of layer indices
    Config: ClassVar[type]
    mixin: ClassVar[type]  # goes before the layer's own class
    depth: ClassVar[int] = 1  # 0: wraps the whole layer, 1: works inside it; decides who is outermost
    prompt_only: bool = False  # later passes serve the prompt alone: their slots are dropped when the answer begins
    image_only: bool = False  # it works on image tokens: layers are told which they are

    def __init__(self, config: Any, num_layers: int):
        self.config, self.num_layers = config, num_layers
        layers = getattr(config, "layers", ALL)
        chosen = range(num_layers) if layers == ALL else layers
        if not isinstance(chosen, (range, tuple, list)):
            chosen = ()  # none, which is refused below
        self.layers = tuple(i for i in range(num_layers) if i in chosen)
        if not self.layers or len(self.layers) < len(chosen):  # with one twice too
            raise ValueError(
                f"{type(config).__name__}.layers is {layers}: expected 'all' or indices from 0 to {num_layers - 1}, "
                f"since the decoder has {num_layers} layers, each once"
            )

    def check(self, layer: nn.Module) -> None:
        """Raise ValueError if a decoder layer cannot take this modifier; asked of all layers before any is changed."""

    def check_decoder(self, layers: nn.ModuleList) -> None:
        """Raise ValueError if what a decoder's layers have to do with each other forbids it; asked after `check`."""

    def attach(self, layer: nn.Module, layer_idx: int, text_config: Any) -> None:
        """Add parameters to one decoder layer, initialised, in the dtype and on the device of the layer."""

    def passes(self, layer_idx: int) -> int:
        """Return how many times this layer runs; each pass owns a key and value slot of the cache."""
        return 1

    def memories(self, layer_idx: int) -> tuple[str, ...]:
        """Return the names of what each pass of this layer keeps of the anchor, besides keys and values."""
        return ()

    @property
    def anchor_span(self) -> int:
        """Tokens of a row from its first anchor to its last; 0 if nothing is remembered of any."""
        return 1 if self.memories(self.layers[0]) else 0

    def prepare(self, decoder: nn.Module) -> None:
        """Do what must be done before a forward pass of the decoder, for example choose the attention function."""


class OwnLinear(nn.Module):
    """A linear map that a modifier brings, [..., in] → [..., out]: named and drawn as an nn.Linear, and none.

    What adapts or exchanges each nn.Linear of a model (PEFT's "all-linear") would go past what the modifier does with
    weight and bias besides.
    """

    def __init__(self, in_features: int, out_features: int, **factory: Any):
        super().__init__()
        drawn = nn.Linear(in_features, out_features, **factory)
        self.weight, self.bias = drawn.weight, drawn.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def check_list(modifiers: Any) -> None:
    """Raise ValueError for modifiers that are no list: one configuration alone, a name, a mapping."""
    if not isinstance(modifiers, list | tuple):
        raise ValueError(f"modifiers: got {modifiers!r}, expected a list of configurations, such as [TrolConfig()]")


def modifier_of(config: Any, num_layers: int) -> LayerModifier:
    """Return the modifier that `config` holds the options of: the MODIFIER of the file that defines its class.

    Raises ValueError if that file defines none.
    """
    modifier = getattr(sys.modules[type(config).__module__], "MODIFIER", None)
    if modifier is None or not isinstance(config, modifier.Config):
        raise ValueError(
            f"{config!r} is no modifier's configuration: expected, for example, TrolConfig() or PhantomConfig()"
        )
    return modifier(config, num_layers)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return {"name": ..., **options}, the form that config.json holds: with lists, since JSON has no tuples."""
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(config).items()}
    return {"name": name_of("modifiers", type(config)), **options}


def config_from_dict(options: Mapping[str, Any]) -> Any:
    """Return the options that `config_to_dict` wrote.

    Raises ValueError if the name or one of the options is unknown.
    """
    if "name" not in options:
        raise ValueError(f"a modifier without a name: {dict(options)}; expected, for example, {{'name': 'trol'}}")
    name, options = options["name"], {key: value for key, value in options.items() if key != "name"}
    config_class = find("modifiers", name).Config
    known = [field.name for field in dataclasses.fields(config_class)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"modifier {name!r} has no option {', '.join(unknown)}: known are {', '.join(known)}")
    # a frozen configuration compares by value
    return config_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


@cache
def mixed_class(mixin: type, base: type) -> type:
    """Return the class (mixin, base), made once per pair, so that grafted layers of one kind share one class."""
    # transformers looks up under str(class), which reads the qualified name, what a model can record (hidden states)
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__reduce_ex__": _taken_apart}
    return type(mixin.__name__ + base.__name__, (mixin, base), names)


def _taken_apart(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """As pickle and deepcopy take any object apart, but its class, which goes by its base's name, is mixed anew."""
    make, arguments, *state = object.__reduce_ex__(module, max(2, protocol))
    mixins, base = [], type(module)
    while vars(base).get("__reduce_ex__") is _taken_apart:
        mixin, base = base.__bases__
        mixins.insert(0, mixin)
    # whoever derived a class of their own from a mixed one answers for it
    return (_mixed_anew, (base, *mixins), *state) if mixins else (make, arguments, *state)


def _mixed_anew(base: type, *mixins: type) -> nn.Module:
    """Return an empty module of the class; `mixins` from the innermost."""
    for mixin in mixins:
        base = mixed_class(mixin, base)
    return base.__new__(base)


def mix_in(module: nn.Module, mixin: type) -> None:
    """Put `mixin` before the class of an existing module, which keeps its parameters."""
    module.__class__ = mixed_class(mixin, type(module))


def placed_like(parameter: Tensor) -> dict[str, Any]:
    """Return device and dtype for new parameters beside this one; beside quantised ones the default dtype."""
    dtype = parameter.dtype if parameter.is_floating_point() else torch.get_default_dtype()
    return {"device": parameter.device, "dtype": dtype}


def mark_initialized(module: nn.Module) -> None:
    """Tell transformers that these parameters hold their start values, so that no later `post_init` redraws them."""
    for part in module.modules():
        part._is_hf_initialized = part.is_of_modifier = True


def of_modifiers(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """Return those of the names of a model's tensors that modifiers brought, which transformers does not draw."""
    owners = dict(model.named_modules())
    return [key for key in sorted(keys) if getattr(owners.get(key.rpartition(".")[0]), "is_of_modifier", False)]
