"""Useful tokens a second with padding_free against rows padded to the longest, on lengths such as the papers train on.

    python scripts/measure_packing.py [--steps 4] [--only NAME ...] [--json FILE]

Which data sets, and how many examples of each: the papers' (TroL, section 3 and its repository; Phantom, section 3).
How long their texts are, how large their pictures, and how many questions there are about one picture, neither paper
says: those columns of MIX are our estimates, lengths as a median number of tokens and a spread (log-normal). Image
tokens then follow from each paper's own tiling. The decoder is a small one of width 256, and all lengths are divided by
8: so attention has the share of the work that it has in a decoder of width 2048 at full length. Its head has the share
of the parameters that InternLM2-1.8B's has.

What is measured is one GPU's part of some optimiser steps: the same rows on both sides. Padded, they lie in
micro-batches of the paper's size, in an order that knows nothing of lengths and pictures. Without padding they lie in
micro-batches of as many rows, or of twice as many (`largest` is the tokens that the largest one computes). Useful
tokens are those of the sequences, once for each sequence that has them, padding left out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, SiglipVisionConfig

from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message, Rejected
from phantrol.data.mixture import Mixture
from phantrol.data.sharing import SharedRows, share
from phantrol.losses.base import model_inputs
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.processing import Encoding
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.ops.images import best_tile_grid

SHORTER, VOCABULARY = 8, 1536
PHOTO, PAGE, CHART = (
    ((640, 480), (640, 427), (480, 640), (500, 375)),
    ((1700, 2200), (1240, 1754)),
    ((850, 600), (800, 557)),
)
FIGURE = ((320, 180), (240, 240), (400, 200), (180, 260))
NONE: tuple[tuple[int, int], ...] = ()
# name: (examples [TroL], pictures in pixels, median tokens of the question side, of the answer side, spread of both,
# questions about one picture). The 41k conversations in ShareGPT4V-Instruction that have no picture stand by themselves
MIX = {
    "ShareGPT4V-Caption": (91_021, PHOTO, 20, 200, 0.3, 1),
    "ShareGPT4V-Instruction": (624_015, PHOTO, 60, 110, 0.8, 1),
    "of it, text only": (40_688, NONE, 250, 800, 0.7, 1),
    "ALLaVA-4V-Text": (143_000, NONE, 80, 480, 0.6, 1),
    "MiniGemini-Instruction": (27_670, CHART, 30, 10, 0.5, 2),
    "DocDownstream": (574_268, PAGE, 30, 20, 0.9, 4),
    "DocReason": (25_877, PAGE, 30, 150, 0.4, 3),
    "GLLaVA-Align": (60_252, FIGURE, 30, 70, 0.4, 6),
    "GLLaVA-QA": (117_205, FIGURE, 90, 110, 0.5, 12),
    "MathVision": (3_040, FIGURE, 70, 10, 0.5, 1),
    "MathInstruct": (262_040, NONE, 70, 170, 0.7, 1),
    "MathPlus": (304_754, NONE, 80, 280, 0.7, 1),
}


@dataclass(frozen=True)
class Run:
    """One GPU's part of an optimiser step.

    padded, packed  examples of a micro-batch on each side;  together  rows of a group (see FileSource)
    """

    padded: int
    packed: int
    examples: int
    tiled: bool
    pairs: bool
    together: int
    modifier: Any


# 768 / 8 GPUs in 6 micro-batches [TroL, section 4], 128 / 8 in 4 [Phantom, section 4]; groups of 16 and of 8 rows
RUNS = {
    "TroL": Run(16, 16, 96, False, False, 1, TrolConfig()),
    "TroL, together": Run(16, 16, 96, False, False, 16, TrolConfig()),
    "TroL-3.8B": Run(16, 16, 96, True, False, 1, TrolConfig()),
    "TroL-3.8B, together": Run(16, 16, 96, True, False, 16, TrolConfig()),
    "Phantom, step 1": Run(4, 4, 16, True, True, 1, PhantomConfig()),
    "Phantom, step 1, together": Run(4, 8, 16, True, True, 8, PhantomConfig()),
    "Phantom, step 2": Run(4, 4, 16, True, False, 1, PhantomConfig()),
    "Phantom, step 2, together": Run(4, 8, 16, True, False, 8, PhantomConfig()),
}
PICTURES = 4096  # of each data set


@dataclass(frozen=True)
class DataSet:
    """One line of MIX as a source: group → examples, whose texts are a number of tokens and a seed to draw them."""

    name: str
    run: Run

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        return tuple(map(self._example, self._rows[index]))

    @cached_property
    def _rows(self) -> SharedRows:
        _, sizes, _, _, _, questions = MIX[self.name]
        pictures = np.arange(1, PICTURES + 1, dtype=np.uint64).repeat(questions)
        return share(pictures if sizes else np.zeros_like(pictures), self.run.together)

    def _example(self, row: int) -> Example:
        _, sizes, asked, said, spread, questions = MIX[self.name]
        seen, draw = Random(f"{self.name} {row // questions}"), Random(f"{self.name} row {row}")
        picture = f"{image_tokens(sizes, self.run.tiled, seen) // SHORTER} {seen.getrandbits(60)}"
        texts = [
            f"{max(1, round(n * math.exp(draw.gauss(0, spread)) / SHORTER))} {draw.getrandbits(60)}"
            for n in (asked, said, said)
        ]
        messages = (Message("user", (picture, texts[0])), Message("assistant", (texts[1],)))
        wrong = (Rejected(texts[2], "incorrect"),) if self.run.pairs else ()
        return Example(f"{self.name} {row}", messages, wrong)


def image_tokens(sizes: Sequence[tuple[int, int]], tiled: bool, draw: Random) -> int:
    """Return the tokens of one picture: 35 x 35, or 256 for each of at most 6 tiles of 448 px and the thumbnail."""
    if not sizes:
        return 0
    if not tiled:
        return 1225
    columns, rows = best_tile_grid(*draw.choice(sizes), 448, 6)
    return 256 * (columns * rows + (columns * rows > 1))


def encode(chat: list[dict[str, Any]]) -> Encoding:
    ids, mask = [1], [False]
    for message in chat:
        for part in message["content"]:
            length, seed = map(int, part["text"].split())
            ids += Random(seed).choices(range(4, VOCABULARY), k=length)
            mask += [message["role"] == "assistant"] * length
    return Encoding(ids, mask)


PROCESSOR = SimpleNamespace(
    image_processor=None, image_token_id=3, encode=encode, tokenizer=SimpleNamespace(pad_token_id=0)
)


def build(modifier: Any) -> PhantrolForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4
    )
    text.modifiers = [config_to_dict(modifier)]
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=16
    )
    config = PhantrolConfig(text, vision, image_token_id=3, image_px=32, image_grid=2, unshuffle=1)
    return PhantrolForConditionalGeneration(config).train()


def micro_batches(run: Run, mixture: Mixture, steps: int) -> dict[str, list[list[list[Any]]]]:
    """Return the groups of each micro-batch of each step, on both sides.

    Padded rows are drawn at random from those of all steps: rows that are together are alike in length, and who pads
    has none together.
    """
    count, size = run.examples // run.together, run.packed // run.together
    groups = [mixture.group(index) for index in range(steps * count)]
    rows = [(example,) for group in groups for example in group]
    Random(0).shuffle(rows)

    def cut(items: list[Any], a_step: int, at_once: int) -> list[list[list[Any]]]:
        return [[items[i : i + at_once] for i in range(n, n + a_step, at_once)] for n in range(0, len(items), a_step)]

    return {"packed": cut(groups, count, size), "padded": cut(rows, run.examples, run.padded)}


def measure(name: str, steps: int) -> dict[str, Any]:
    """Return useful tokens a CPU second of both sides over so many steps, in turn, and the ratio of their times."""
    run = RUNS[name]
    torch.manual_seed(0)
    model, loss = build(run.modifier), PhantomOptimization() if run.pairs else Sft()
    mixture = Mixture(tuple((row[0], DataSet(name, run)) for name, row in MIX.items()))
    sides = {
        "packed": Collator(PROCESSOR, run.pairs, padding_free=True),
        "padded": Collator(PROCESSOR, run.pairs, pack=False),
    }
    seconds, slots = ({side: [] for side in sides} for _ in range(2))
    useful = 0
    batches = micro_batches(run, mixture, steps)
    for step in range(-1, steps):  # before the first, one micro-batch that is not counted
        for side in sorted(sides, reverse=step % 2 == 0):
            start = time.process_time()
            for groups in batches[side][step] if step >= 0 else batches[side][0][:1]:
                batch = sides[side](groups)
                loss(model, batch, loss.count(batch)).loss.backward()
                if step >= 0:
                    slots[side].append(batch["input_ids"].numel())
                    useful += 0 if side == "packed" else int(model_inputs(batch)["attention_mask"].sum())
            model.zero_grad(set_to_none=True)
            if step >= 0:
                seconds[side].append(time.process_time() - start)
    return {
        "name": name,
        "useful_tokens": useful,
        **{f"slots_{side}": sum(slots[side]) / useful for side in sides},
        **{f"largest_{side}": max(slots[side]) for side in sides},
        **{f"tokens_per_s_{side}": useful / sum(seconds[side]) for side in sides},
        "ratio": sum(seconds["padded"]) / sum(seconds["packed"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.only:
        rows.append(measure(name, options.steps))
        row = rows[-1]
        print(
            f"{name}: {row['tokens_per_s_packed']:.0f} against {row['tokens_per_s_padded']:.0f} useful tokens a CPU "
            f"second, {row['ratio']:.2f} times; tokens computed "
            f"for a useful one {row['slots_packed']:.2f} against {row['slots_padded']:.2f}; largest micro-batch "
            f"{row['largest_packed']} against {row['largest_padded']}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
