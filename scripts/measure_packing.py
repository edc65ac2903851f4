"""Useful tokens a second with padding_free against rows padded to the longest, on lengths such as the papers train on.

    python scripts/measure_packing.py [--batches 12] [--only NAME ...] [--json FILE]

Which data sets, and how many examples of each: the papers' (TroL, section 3 and its repository; Phantom, section 3).
How long their texts are, how large their pictures, and how many questions there are about one picture, neither paper
says: those columns of MIX are our estimates, lengths as a median number of tokens and a spread (log-normal). Image
tokens then follow from each paper's own tiling. The decoder is a small one of width 256, and all lengths are divided by
8: so attention has the share of the work that it has in a decoder of width 2048 at full length. Both sides get the same
examples in turn; useful tokens are those of the sequences, once for each sequence that has them, padding left out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, SiglipVisionConfig

from phantrol.data.collate import Collator
from phantrol.data.messages import Example, Message, Rejected
from phantrol.losses.base import model_inputs
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.ops.images import best_tile_grid

SHORTER, VOCABULARY = 8, 4096
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
# micro-batch of one GPU: 768 / 6 accumulation / 8 GPUs [TroL, section 4], 128 / 4 / 8 [Phantom, section 4]
RUNS = {  # name: (examples of a micro-batch, tiles, wrong answers, questions about a picture together, modifiers)
    "TroL": (16, False, False, False, [TrolConfig()]),
    "TroL, questions together": (16, False, False, True, [TrolConfig()]),
    "TroL-3.8B": (16, True, False, False, [TrolConfig()]),
    "TroL-3.8B, questions together": (16, True, False, True, [TrolConfig()]),
    "Phantom, step 1": (4, True, True, False, [PhantomConfig()]),
    "Phantom, step 1, questions together": (4, True, True, True, [PhantomConfig()]),
    "Phantom, step 2": (4, True, False, False, [PhantomConfig()]),
    "Phantom, step 2, questions together": (4, True, False, True, [PhantomConfig()]),
}


def image_tokens(sizes: Sequence[tuple[int, int]], tiled: bool, draw: Random) -> int:
    """Return the tokens of one picture: 35 x 35, or 256 for each of at most 6 tiles of 448 px and the thumbnail."""
    if not sizes:
        return 0
    if not tiled:
        return 1225
    columns, rows = best_tile_grid(*draw.choice(sizes), 448, 6)
    return 256 * (columns * rows + (columns * rows > 1))


def groups_of(tiled: bool, pairs: bool, together: bool, seed: int = 0) -> Any:
    """Yield groups for ever; a text is how many tokens it has, and the seed that draws them."""
    draw = Random(seed)
    for number in iter(lambda: draw.getrandbits(60), None):
        weights = [row[0] / (row[5] if together else 1) for row in MIX.values()]
        _, sizes, asked, said, spread, questions = draw.choices(list(MIX.values()), weights)[0]
        picture = f"{image_tokens(sizes, tiled, draw) // SHORTER} {number}"
        yield tuple(
            example(f"{number}-{i}", picture, asked, said, spread, pairs, draw)
            for i in range(questions if together else 1)
        )


def example(name: str, picture: str, asked: int, said: int, spread: float, pairs: bool, draw: Random) -> Example:
    def text(tokens: int) -> str:
        return f"{max(1, round(tokens * math.exp(draw.gauss(0, spread)) / SHORTER))} {draw.getrandbits(60)}"

    messages = (Message("user", (picture, text(asked))), Message("assistant", (text(said),)))
    return Example(name, messages, (Rejected(text(said), "incorrect"),) if pairs else ())


def encode(chat: list[dict[str, Any]]) -> Any:
    ids, mask = [1], [False]
    for message in chat:
        for part in message["content"]:
            length, seed = map(int, part["text"].split())
            ids += Random(seed).choices(range(4, VOCABULARY), k=length)
            mask += [message["role"] == "assistant"] * length
    return SimpleNamespace(input_ids=ids, answer_mask=mask, pixel_values=None)


PROCESSOR = SimpleNamespace(
    image_processor=None, image_token_id=3, encode=encode, tokenizer=SimpleNamespace(pad_token_id=0)
)


def build(modifiers: list[Any]) -> PhantrolForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4
    )
    text.modifiers = [config_to_dict(config) for config in modifiers]
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=16
    )
    config = PhantrolConfig(text, vision, image_token_id=3, image_px=32, image_grid=2, unshuffle=1)
    return PhantrolForConditionalGeneration(config).train()


def measure(name: str, batches: int) -> dict[str, Any]:
    """Return useful tokens a CPU second of both sides, and the ratio, over so many micro-batches taken in turn."""
    size, tiled, pairs, together, modifiers = RUNS[name]
    torch.manual_seed(0)
    model, loss = build(modifiers), PhantomOptimization() if pairs else Sft()
    sides = {True: Collator(PROCESSOR, pairs, True, padding_free=True), False: Collator(PROCESSOR, pairs, pack=False)}
    seconds, slots, useful = {True: 0.0, False: 0.0}, {True: 0, False: 0}, 0
    source = groups_of(tiled, pairs, together)
    for number in range(-1, batches):  # the first is not counted
        groups = []
        while sum(map(len, groups)) < size:
            groups.append(next(source))
        for free in (True, False) if number % 2 else (False, True):
            start, batch = time.process_time(), sides[free](groups)
            loss(model, batch, loss.count(batch)).loss.backward()
            model.zero_grad(set_to_none=True)
            if number >= 0:
                seconds[free] += time.process_time() - start
                slots[free] += batch["input_ids"].numel()
                useful += 0 if free else int(model_inputs(batch)["attention_mask"].sum())
    return {
        "name": name,
        "batch": size,
        "useful_tokens": useful,
        "slots_padded": slots[False] / useful,
        "slots_padding_free": slots[True] / useful,
        "tokens_per_s_padded": useful / seconds[False],
        "tokens_per_s_padding_free": useful / seconds[True],
        "ratio": seconds[False] / seconds[True],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.only:
        rows.append(measure(name, options.batches))
        row = rows[-1]
        print(
            f"{name}, {row['batch']} at once: {row['tokens_per_s_padding_free']:.0f} against "
            f"{row['tokens_per_s_padded']:.0f} useful tokens a CPU second, {row['ratio']:.2f} times; slots a useful "
            f"token {row['slots_padding_free']:.2f} against {row['slots_padded']:.2f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
