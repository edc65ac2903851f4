"""What an attention mask says of its rows: which tokens are no padding, and whether an anchor is that of all.

B rows, N tokens of this forward pass, T tokens of a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
