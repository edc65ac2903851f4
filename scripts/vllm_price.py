"""What a method costs under vLLM on this machine: CPU seconds beside the plain model's, taken in turns.

    .venv-vllm/bin/python scripts/vllm_price.py [--method phantom] [--eager] [--rounds 7] [--shape smollm2-135m]

The model has the decoder of the shape with random weights; two engines live side by side and answer the same requests
in turns, so that whatever else the machine does falls on both. Printed are tokens a CPU second of reading (long
prompts, one new token) and of saying (short prompts, many new tokens), as shares of the plain model's: medians over the
rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"})
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# vLLM advises tcmalloc; the C library's malloc behaves alike if it is told to keep what it has
os.environ.update({"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"})
sys.path.append(str(Path(__file__).parents[1] / "tests" / "serving"))

SHAPES = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3,
                         num_hidden_layers=30, vocab_size=49152),
    "llama-1b-layers": dict(hidden_size=2048, intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8,
                            num_hidden_layers=4, vocab_size=49152),
}  # fmt: skip
WORK = {"reading": (4, 256, 1), "saying": (8, 32, 32)}  # requests, tokens of a prompt, new tokens


def work(connection: Any, folder: str, eager: bool) -> None:
    """In a process of its own: load a model, then do what is asked for and answer with the CPU seconds that it took."""
    from vllm import LLM, SamplingParams

    llm = LLM(folder, dtype="float32", enforce_eager=eager, max_model_len=1024, enable_prefix_caching=False, seed=0,
              distributed_executor_backend="uni", max_num_batched_tokens=1024, block_size=32)  # fmt: skip
    connection.send("ready")
    while (name := connection.recv()) is not None:
        number, length, new = WORK[name]
        prompts = [
            {"prompt_token_ids": [1, *(3 + (i * 7 + j * 13) % 300 for j in range(length - 1))]} for i in range(number)
        ]
        sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        start = time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False)
        connection.send(time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--method", default="phantom", help="phantom, phantom_drop, trol, both or plain (a control: 1.00)"
    )
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which vLLM does by default")
    options = parser.parse_args()

    import vllm_case

    from phantrol.modifiers.base import config_from_dict

    context, workers = get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        for index, method in enumerate(("plain", options.method)):
            path = f"{folder}/{index}-{method}"
            modifiers = [config_from_dict(one) for one in vllm_case.METHODS[method]]
            model, processor = vllm_case.build("llama", modifiers, **SHAPES[options.shape])
            model.save_pretrained(path)
            processor.save_pretrained(path)
            del model
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, path, options.eager), daemon=True)
            process.start()
            assert here.recv() == "ready"
            workers.append((here, process))
        took: dict[tuple[str, int], list[float]] = {}
        for round_index in range(options.rounds + 1):
            for name in WORK:
                order = range(2) if round_index % 2 else (1, 0)
                for index in order:
                    workers[index][0].send(name)
                    seconds = workers[index][0].recv()
                    if round_index:  # the first round warms up
                        took.setdefault((name, index), []).append(seconds)
        for here, process in workers:
            here.send(None)
            process.join(60)
    for name in WORK:
        plain, ours = took[name, 0], took[name, 1]
        shares = [p / o for p, o in zip(plain, ours, strict=True)]
        number, length, new = WORK[name]
        tokens = number * (length if name == "reading" else new)
        print(
            f"{options.method} {options.shape} {'eager' if options.eager else 'compiled'} {name}: "
            f"{statistics.median(shares):.3f} of plain "
            f"(from {min(shares):.3f} to {max(shares):.3f}, {len(shares)} rounds); "
            f"{tokens / statistics.median(plain):.0f} and {tokens / statistics.median(ours):.0f} tokens a CPU second"
        )


if __name__ == "__main__":
    main()
