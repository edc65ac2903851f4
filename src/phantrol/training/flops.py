"""What a model computes, counted as it computes it, and what the machine could do at most.

Counted are products of matrices, convolutions and attention, a multiply-add as two operations: second passes, frozen
parts (whose weights have no backward pass) and image tokens as they come. What gradient checkpointing computes again is
left out, as in PaLM's model FLOPs utilisation (arXiv:2204.02311, appendix B); so are element-wise operations, the
optimiser, and kernels of quantised weights that are no product of matrices to torch.

B rows, H heads, N queries, T keys, d size of a head, dv size of a value.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# dense bfloat16 with sums in float32, 10^12 operations a second, by the makers' data sheets
NAMED_GPUS = {  # the first that is found in the name
    r"GB200": 2500.0,
    r"B200": 2250.0,
    r"H200 NVL|H100 NVL": 835.5,
    r"H200|H100 (80GB HBM3|SXM)|GH200": 989.4,
    r"H100 PCIe": 756.0,
    r"A100": 312.0,
    r"L40S": 362.05,
    r"\bL40\b": 181.05,
    r"\bL4\b": 121.0,
    r"\bA10\b": 125.0,
    r"RTX A6000": 154.8,
    r"RTX 4090": 165.2,
    r"RTX 3090": 71.0,
}
# of the square matrices that are multiplied to measure a machine, for as long as that takes no time
_SIDES = {"cpu": (128, 256, 512, 1024), "cuda": (1024, 2048, 4096, 8192)}
_TRIES = 5
_ENOUGH_S = 0.25
_highest: dict[tuple[torch.device, torch.dtype], float] = {}  # operations a second, measured or reached


class FlopCounter(TorchDispatchMode):
    """Adds up the operations of what runs inside it; every operation runs as it would outside.

    flops  so far
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = _formula(func._overloadpacket)
        # gradients are only recorded in a backward pass where something is computed again
        is_recomputed = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
        if formula is not None and not is_recomputed:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def named_peak(gpu: str) -> float:
    """Return the dense bfloat16 operations a second of a GPU by its name, 0 if it is not known."""
    return next((tera * 1e12 for pattern, tera in NAMED_GPUS.items() if re.search(pattern, gpu)), 0.0)


def peak_flops(device: torch.device, dtype: torch.dtype, reached: float = 0.0) -> float:
    """Return the most operations a second of a device: of a GPU known by name, else those of a large matrix product.

    reached  what a computation did a second. If it is more than was measured, that was measured in a bad moment, or
             with a product that this device is slow at: it is measured again, and the highest of all is kept
    """
    is_listed = device.type == "cuda" and dtype == torch.bfloat16
    if is_listed and (known := named_peak(torch.cuda.get_device_name(device))):
        return known
    highest = _highest.get((device, dtype), -1.0)
    if reached > highest:
        # float32 too: a processor without instructions for bfloat16 multiplies it a hundred times slower
        found = (_measured(device, each) for each in dict.fromkeys((dtype, torch.float32)))
        highest = _highest[device, dtype] = max(highest, reached, *found)
    return highest


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of some products, each size warmed up; nothing is drawn, so that training stays as it was."""
    fastest = 0.0
    for side in _SIDES.get(device.type, (1024, 2048)):
        matrix, size_began_s = torch.full((side, side), 0.5, device=device, dtype=dtype), time.perf_counter()
        for _ in range(1 + _TRIES):
            began_s = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # waits for the device
            fastest = max(fastest, 2 * side**3 / (time.perf_counter() - began_s))
        if time.perf_counter() - size_began_s > _ENOUGH_S:  # a larger one takes eight times as long
            break
    return fastest


def _formula(operation: Any) -> Callable[..., int] | None:
    return _FUSED_ATTENTION.get(operation) or flop_registry.get(operation)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    """query [B, H, N, d], key [B, H, T, d], value [B, H, T, dv]: two products."""
    return 2 * query.shape[:3].numel() * key.shape[2] * (query.shape[3] + value.shape[3])


def _attention_backward(
    _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, **___: Any
) -> int:
    return 2 * _attention(query, key, value)


_aten = torch.ops.aten
# torch's own table has no CPUs, refuses grouped heads before 2.12, and counts what a backward kernel computes again
_FUSED_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention: _attention,
    _aten._scaled_dot_product_efficient_attention: _attention,
    _aten._scaled_dot_product_cudnn_attention: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}
