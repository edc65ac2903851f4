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
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# dense bfloat16 with sums in float32, 10^12 operations a second, by the makers' data sheets
NAMED_GPUS = {
    r"B200": 2250.0,
    r"H200|H100 (80GB HBM3|SXM)|GH200": 989.4,
    r"H100 NVL": 835.5,
    r"H100 PCIe": 756.0,
    r"A100": 312.0,
    r"L40S": 362.05,
    r"\bL40\b": 181.05,
    r"\bL4\b": 121.0,
    r"\bA10\b": 125.0,
    r"RTX 4090": 165.2,
    r"RTX 3090": 71.0,
}
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices that are multiplied to measure a machine
_TRIES = 5


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


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the most operations a second of a device: of a GPU known by name, else those of a large matrix product."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for pattern, tera in NAMED_GPUS.items():
            if re.search(pattern, name):
                return tera * 1e12
    return _measured(device, dtype)


@cache
def _measured(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of a few products, after one to warm up; nothing is drawn, so that training stays as it was."""
    side = _SIDE.get(device.type, 2048)
    matrix, fastest_s = torch.full((side, side), 0.5, device=device, dtype=dtype), float("inf")
    for _ in range(1 + _TRIES):
        began_s = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        fastest_s = min(fastest_s, time.perf_counter() - began_s)
    return 2 * side**3 / fastest_s


def _formula(operation: Any) -> Callable[..., int] | None:
    return _ATTENTION_ON_CPU.get(operation) or flop_registry.get(operation)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    """query [B, H, N, d], key [B, H, T, d], value [B, H, T, dv]: two products."""
    return 2 * query.shape[:3].numel() * key.shape[2] * (query.shape[3] + value.shape[3])


def _attention_backward(
    _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, **___: Any
) -> int:
    return 2 * _attention(query, key, value)


# torch's own table knows the fused attention of GPUs alone
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
