"""Which tokens of a forward pass are of an image, and what a partial LoRA has worked out for them.

B rows, N tokens of this forward pass, R image tokens of all rows, F inputs of a linear, r rank of a partial LoRA.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


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
