"""8-bit and 4-bit weights through torchao, on a CPU and on a GPU.

The linear maps that the backbone itself has in its layers are quantised, nothing else: gates, phantom, partial LoRA,
projector, vision tower, embeddings and head stay as they are. A grafted layer stays what it is, since only the
parameter `weight` of an nn.Linear is exchanged. Quantised while loading, tensor by tensor, so that a model never takes
the memory of its full precision.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

BITS = {"int8": 8, "int4": 4}
FLOATS = ("float32", "bfloat16", "float16")  # dtypes to load a model in as it is
GROUP_SIZE = 32  # weights that share a scale in 4 bits; the smallest that the kernels take, and the smallest loss
TRAINABLE = ("int8", "nf4")  # gradients pass through; torchao's kernels of int4 have none
NF4_BLOCK, NF4_SCALES = 64, 256  # weights that share a scale, and scales that share one of their own [QLoRA, section 3]
NAME = "phantrol"  # under which transformers finds what is below


def loading_options(weights: str, **kwargs: Any) -> dict[str, Any]:
    """Return `kwargs` for `from_pretrained`, completed so that it quantises to `weights`, on the accelerator if any.

    weights  "int8": one scale a row; "int4": one scale and zero point for 32 weights, and bfloat16 beside them
    Raises ValueError for other names, for int4 with another dtype, and if torchao is not installed.
    """
    check(weights, kwargs.get("dtype"))
    if weights == "int4":
        kwargs["dtype"] = torch.bfloat16
    if torch.accelerator.is_available():
        kwargs.setdefault("device_map", torch.accelerator.current_accelerator().type)
    return {**kwargs, "quantization_config": QuantisedConfig(weights)}


def quantise_for_adapters(model: PreTrainedModel, weights: str) -> PreTrainedModel:
    """Quantise the decoder's linear maps of a model in memory, for adapters to be trained on them.

    weights  "int8": one scale a row; "nf4": 4 bits and doubly quantised scales           [QLoRA, section 3]
    Raises ValueError for other names, if torchao is not installed, and as `linears_to_quantise`.
    """
    if weights not in TRAINABLE:
        raise ValueError(
            f"weights is {weights!r}: expected {' or '.join(TRAINABLE)} under adapters, or None; int4 has no gradients"
        )
    _need_torchao(weights)
    for name in linears_to_quantise(model, weights):
        quantise_linear(model.get_submodule(name), weights)
    return model


def is_quantised(parameter: torch.Tensor) -> bool:
    """Return whether a parameter is quantised, by torchao or as integers."""
    return not parameter.is_floating_point() or type(parameter.data).__module__.startswith("torchao.")


def backbone_linears(model: PreTrainedModel) -> set[str]:
    """Return the names, in the grafted model, of the linear maps that the plain backbone has in its layers."""
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    linears = (name for name, module in _plain_layers(decoder).named_modules() if isinstance(module, nn.Linear))
    return {f"{prefix}.layers.{name}" for name in linears}


def linears_to_quantise(model: PreTrainedModel, weights: str) -> list[str]:
    """Return the names of `backbone_linears`, sorted.

    Raises ValueError if one does not suit 4 bits, and if they hold less than half of what the layers do, as in a
    mixture, whose experts are no linears.
    """
    names = sorted(backbone_linears(model))
    in_linears = sum(model.get_submodule(name).weight.numel() for name in names)
    in_all = sum(parameter.numel() for parameter in _plain_layers(model.get_decoder()).parameters())
    if 2 * in_linears < in_all:
        raise ValueError(
            f"{weights} weights would leave {1 - in_linears / in_all:.0%} of the decoder's layers whole: got numbers "
            "of no linear, such as a mixture's experts, expected a decoder of linears; leave --weights out"
        )
    for name in names:
        check_sizes(model.get_submodule(name), weights, name)
    return names


def _plain_layers(decoder: nn.Module) -> nn.Module:
    """Return the layers that the decoder had before it was grafted, on the meta device."""
    config = copy.deepcopy(decoder.config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).get_decoder().layers


def quantise_linear(linear: nn.Linear, weights: str) -> None:
    """Exchange the weight of one linear map, whose sizes `linears_to_quantise` has checked."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    if weights == "nf4":
        from torchao.quantization import NF4Tensor

        quantised = NF4Tensor.from_tensor(linear.weight.detach(), NF4_BLOCK, NF4_SCALES)
        linear.weight = nn.Parameter(quantised, requires_grad=False)
    else:
        options = _int4_options(linear.weight.device) if weights == "int4" else Int8WeightOnlyConfig()
        quantize_(linear, options, filter_fn=lambda module, _: module is linear)
    _return_freed_memory()


def check(weights: str, dtype: Any) -> None:
    """Raise ValueError, with the remedy, if weights cannot be quantised so."""
    if weights not in BITS:
        raise ValueError(
            f"weights is {weights!r}: expected {' or '.join(BITS)}, or for a whole model when it is loaded "
            f"{', '.join(FLOATS)}, or None for the model's own dtype"
        )
    if weights == "int4" and dtype not in (None, "auto", "bfloat16", torch.bfloat16):
        raise ValueError(f"int4 weights and {dtype}: expected bfloat16, which alone has fast kernels; or take int8")
    _need_torchao(weights)


def _need_torchao(weights: str) -> None:
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"{weights} weights need torchao: pip install 'phantrol[quant]'")


def check_sizes(linear: nn.Linear, weights: str, name: str) -> None:
    """Raise ValueError if a linear map does not suit 4 bits: kernels take 32 inputs and 16 outputs at once."""
    if weights == "int4" and (linear.in_features % GROUP_SIZE or linear.out_features % 16):
        raise ValueError(
            f"{name} maps {linear.in_features} to {linear.out_features} numbers: int4 takes multiples of {GROUP_SIZE} "
            "and of 16; take int8"
        )
    if weights == "nf4" and linear.weight.numel() % (NF4_BLOCK * NF4_SCALES):
        raise ValueError(
            f"{name} has {linear.weight.numel()} weights: nf4 takes multiples of {NF4_BLOCK * NF4_SCALES}; take int8"
        )


def _return_freed_memory() -> None:
    """Without this, what glibc keeps of the temporaries of quantising in 8 bits is four times what the weights take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _int4_options(device: torch.device) -> Any:
    """Each kind of device has a layout of its own, in which the weights must be packed where they will be used."""
    if device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=GROUP_SIZE)
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(group_size=GROUP_SIZE, int4_packing_format="tile_packed_to_4d")


@register_quantization_config(NAME)
class QuantisedConfig(QuantizationConfigMixin):
    """What `from_pretrained` is told: weights are "int8" or "int4"."""

    def __init__(self, weights: str, **kwargs: Any):
        self.quant_method, self.weights = NAME, weights


@register_quantizer(NAME)
class Quantiser(HfQuantizer):
    """Tells the loading of transformers which tensors to quantise, and how."""

    is_trainable = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        # checked now, since what a tensor raises later reaches the log alone
        self._linears = set(linears_to_quantise(model, self.quantization_config.weights))

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, _, leaf = param_name.rpartition(".")
        return leaf == "weight" and module in self._linears

    def get_quantize_ops(self) -> ConversionOps:
        return _QuantiseWhenLoaded(self.quantization_config.weights)

    def is_serializable(self) -> bool:
        raise ValueError(
            f"{self.quantization_config.weights} weights are not saved: save the model as loaded without `weights`, "
            "and quantise it when it is loaded"
        )


class _QuantiseWhenLoaded(ConversionOps):
    def __init__(self, weights: str):
        self.weights = weights

    def convert(
        self,
        input_dict: dict[str, Any],
        model: Any = None,
        full_layer_name: str = "",
        missing_keys: Any = None,
        **_: Any,
    ) -> dict[str, Any]:
        (value,) = input_dict.values()
        linear = model.get_submodule(full_layer_name.removesuffix(".weight"))
        linear.weight = nn.Parameter(value[0] if isinstance(value, list) else value, requires_grad=False)
        quantise_linear(linear, self.weights)
        missing_keys.discard(full_layer_name)
        linear._is_hf_initialized = linear.weight._is_hf_initialized = True
        return {}
