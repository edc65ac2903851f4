"""Word alignment: image features learn to point at the words for what they show, before the decoder is ever run.

A decoder that starts to read image features which mean nothing learns to ignore them. So a first stage draws, for each
word that answers about a picture contain, one of its features towards the decoder's own embedding of that word, and the
features of other pictures away from it. It costs a small part of a pass through the decoder.

B rows, I tiles of all rows, L features of a tile, N tokens of a row, D hidden size, W words of the batch, W2 pairs of
words.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phantrol.losses.base import Batch, Loss, LossOutput


@dataclass(frozen=True)
class WordAlignment(Loss):
    """BCE over words of s·(max_l cos(f_l, e_w) - t), with label 1 if the answers about the picture contain word w.

    A word is a token of the answers, or two tokens in a row, whose embeddings are then added: so "red circle" asks one
    feature to be both. Words and labels come from the micro-batch, no list is given: with more of them to a step each
    has fewer rows and words to tell apart. Rows without a picture are skipped.

    max_share   words in more than this share of the rows tell pictures apart too little and are left out
    sharpness   s;  threshold  t of a single word;  pair_threshold  t of a pair
    """

    reads_rows: ClassVar[bool] = True

    max_share: float = 0.5
    sharpness: float = 10.0
    threshold: float = 0.3
    pair_threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_share <= 1:
            raise ValueError(f"WordAlignment.max_share is {self.max_share!r}: expected a share above 0, at most 1")
        if self.sharpness <= 0:  # below 0 features would flee the words for what they show
            raise ValueError(f"WordAlignment.sharpness is {self.sharpness!r}: expected a number above 0, such as 10.0")

    def __call__(self, model: nn.Module, batch: Batch, totals: dict[str, int]) -> LossOutput:
        if "pixel_values" not in batch:
            return LossOutput(torch.zeros((), device=batch["input_ids"].device, requires_grad=True))
        inner = getattr(model, "module", model)  # a distributed wrapper hides the embeddings
        features = model(pixel_values=batch["pixel_values"], tile_order=batch.get("tile_order")).image_features
        owner = _owners(batch["input_ids"] == inner.config.image_token_id, features.shape[1])
        words, pairs, has_word, has_pair = batch_words(batch["labels"][owner], self.max_share)
        embed = inner.get_input_embeddings()  # called, and not read: it may be spread over ranks
        with torch.no_grad():  # the targets stand still
            single, double = embed(words).float(), F.normalize(embed(pairs).float(), dim=-1).sum(1)
        word_loss = self._loss(features, single, has_word, self.threshold)
        pair_loss = self._loss(features, double, has_pair, self.pair_threshold)
        share = len(owner) / max(totals["pictures"], 1)
        return LossOutput((word_loss + pair_loss) * share)

    def fewest_groups(self) -> int:
        return ceil(1 / self.max_share)  # in fewer rows every word is in more than its share of them

    def count(self, batch: Batch) -> dict[str, int]:
        return super().count(batch) | {"pictures": len(batch.get("pixel_values", ()))}

    def _loss(self, features: Tensor, targets: Tensor, present: Tensor, threshold: float) -> Tensor:
        """features [I, L, D], targets [W, D], present [I, W] → scalar; 0 if the batch has no such words."""
        if not len(targets):
            return features.sum() * 0
        cosine = F.normalize(features.float(), dim=-1) @ F.normalize(targets, dim=-1).T  # [I, L, W]
        logits = self.sharpness * (cosine.amax(1) - threshold)
        return F.binary_cross_entropy_with_logits(logits, present.to(logits.dtype))


def batch_words(labels: Tensor, max_share: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the words and the pairs of words that tell the rows apart, and which row has which.

    labels  [B, N], -100 where nothing is said
    →       words [W], pairs [W2, 2], has_word [B, W], has_pair [B, W2]
    """
    rows = labels.shape[0]
    words, has_word = _presence(labels, labels != -100, rows, max_share)
    kept = torch.isin(labels, words)
    base = int(labels.max()) + 1 if rows else 1
    codes = labels[:, :-1] * base + labels[:, 1:]
    pairs, has_pair = _presence(codes, kept[:, :-1] & kept[:, 1:], rows, max_share)
    return words, torch.stack([pairs // base, pairs % base], dim=1), has_word, has_pair


def _presence(codes: Tensor, valid: Tensor, rows: int, max_share: float) -> tuple[Tensor, Tensor]:
    row_of, _ = valid.nonzero(as_tuple=True)
    found, index = codes[valid].unique(return_inverse=True)
    present = torch.zeros(rows, len(found), dtype=torch.bool, device=codes.device)
    present[row_of, index] = True
    telling = present.float().mean(0) <= max_share
    return found[telling], present[:, telling]


def _owners(is_image: Tensor, features_per_tile: int) -> Tensor:
    """Return the row of each tile, [I], from where the image tokens of the rows are, [B, N]."""
    tiles = is_image.sum(1) // features_per_tile
    return torch.arange(len(tiles), device=tiles.device).repeat_interleave(tiles)


LOSS = WordAlignment
