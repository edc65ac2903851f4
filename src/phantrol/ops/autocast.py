"""Numbers that stay in the precision they are given in, where training computes all else in half of it."""

from __future__ import annotations

import torch
from torch import Tensor

_KINDS = ("cpu", "cuda", "hpu", "maia", "mps", "mtia", "xla", "xpu", torch._C._get_privateuse1_backend_name())
# asked before anything is compiled: torch 2.11 cannot ask within a graph
_HAVE_AUTOCAST = frozenset(kind for kind in _KINDS if torch.amp.is_autocast_available(kind))


def without_autocast(like: Tensor) -> torch.autocast:
    """Return a context in which autocast is off where `like` [...] lies; not every device has one, nor have shapes."""
    kind = like.device.type
    return torch.autocast(kind if kind in _HAVE_AUTOCAST else "cpu", enabled=False)
