"""What the methods cost on an accelerator, and how near to its limits they come: one command, no download.

    python scripts/bench_gpu.py --json runs/gpu.json
    python scripts/bench_gpu.py --json runs/compiled.json --shapes 0.5B --layers 4 --dtype float32 --batches 1 \
        --works decode,decode_compiled --prompt 512

Random weights in bfloat16 of InternLM2-1.8B's and 7B's shapes, batches of 1 and 32, prompts of 2,048 tokens; each
method in turn with the plain backbone, medians. Rows are as of `phantrol bench`, named SHAPE.bBATCH.METHOD.WORK, with

share        decode: bytes of weights (once for each pass) and of the cache, over the time, as a share of the bandwidth;
             prefill, train_step: products, without those that checkpointing repeats, over the time, as a share of the
             matrix throughput
plain_share  the same of the plain backbone
off          decode_compiled: how far the logits of a compiled step are from those of the whole text read at once, not
             compiled, as a share of the largest logit; {"plain", "ours"}

The limits are given, or measured: by a copy of 1 GiB, and by the name of a GPU or else a large product. `decode` is
eager, `decode_compiled` has a static cache and torch.compile(mode="reduce-overhead"), which is CUDA graphs on a GPU and
C++ on a CPU, where there must be a compiler. Without an accelerator: one thread, CPU seconds.

A row that does not fit says so in `error`, one that cannot be run in `failed`, and then the exit code is 1. The same
command goes on where it was stopped: it leaves out the rows that its file has, with the limits that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel, StaticCache

from phantrol.bench.run import machine, versions
from phantrol.bench.timing import token_bytes
from phantrol.modifiers.graft import graft, grafted_modifiers
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.tables import first_line
from phantrol.training.flops import FlopCounter, peak_flops
from phantrol.training.recomputing import set_gradient_checkpointing
from phantrol.whole_files import make_room, write_text

SHAPES = {
    # the vocabulary as `phantrol bench` has it
    "0.5B": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)
    | dict(num_key_value_heads=2, vocab_size=8192),
    "1.8B": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=16),
    "7B": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32),
    "tiny": dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=16, vocab_size=256),
}
COPIES = 8  # in a measurement of the bandwidth, so that what it takes to begin one does not count
WORKS = ("prefill", "decode", "decode_compiled", "train_step")


def methods(layers: int) -> dict[str, tuple[Any, ...]]:
    trol, phantom = TrolConfig(tokens="prompt", gate_bias=0.0), PhantomConfig(init="random")
    skip = tuple(range(int(0.3 * layers + 1e-6), layers))
    return {
        "trol_prompt": (trol,),
        "trol_all": (TrolConfig(gate_bias=0.0),),
        "trol_budget": (dataclasses.replace(trol, skip=skip),),
        "phantom": (phantom,),
        "phantom_drop": (dataclasses.replace(phantom, logits="drop"),),
        "both": (trol, phantom),
    }


@dataclasses.dataclass(frozen=True)
class Limits:
    """bytes_s  of memory;  flop_s  of products of matrices, both a second"""

    bytes_s: float
    flop_s: float


@dataclasses.dataclass(frozen=True)
class Ready:
    """run  returns the seconds of one run;  amount  bytes or products that it needs;  limit  how many fit a second

    off  see `off` of a row
    """

    run: Callable[[], float]
    amount: float
    limit: float
    off: float | None = None


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--shapes", type=some_of(SHAPES), default="1.8B,7B")
    parser.add_argument("--layers", type=count, help="fewer of them; by default all of the shape")
    parser.add_argument("--methods", type=some_of(methods(1)), default=",".join(methods(1)))
    parser.add_argument("--batches", type=lambda text: [count(each) for each in text.split(",")], default="1,32")
    parser.add_argument("--works", type=some_of(WORKS), default=",".join(WORKS))
    parser.add_argument("--prompt", type=count, default=2048, help="tokens")
    parser.add_argument("--tokens", type=count, default=16, help="that are decoded in a run")
    parser.add_argument("--runs", type=count, default=5)
    parser.add_argument("--train-batch", type=count, default=4, help="largest batch of a training step")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--gb-s", type=float, help="bandwidth of the memory; by default measured")
    parser.add_argument("--tflop-s", type=float, help="matrix throughput; by default measured")
    chosen = parser.parse_args(arguments)
    make_room(chosen.json)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype = getattr(torch, chosen.dtype)
    found = {
        "machine": machine(torch.get_num_threads()) | {"device": device_name(device), "dtype": chosen.dtype},
        "options": {name: getattr(chosen, name) for name in ("layers", "prompt", "tokens", "runs", "gb_s", "tflop_s")},
        "versions": versions(),
    }
    try:
        before = rows_before(chosen.json, found)
    except ValueError as error:
        parser.error(str(error))
    if before:
        limits = Limits(**before["limits"])
    else:
        measured = measure_limits(device, dtype) if not (chosen.gb_s and chosen.tflop_s) else Limits(0, 0)
        limits = Limits((chosen.gb_s or 0) * 1e9 or measured.bytes_s, (chosen.tflop_s or 0) * 1e12 or measured.flop_s)
    rows: list[dict[str, Any]] = before["rows"] if before else []
    found |= {"limits": dataclasses.asdict(limits), "rows": rows}
    for shape in chosen.shapes:
        layers = chosen.layers or SHAPES[shape]["num_hidden_layers"]
        for method in chosen.methods:
            todo: dict[str, tuple[int, str]] = {}
            for batch in chosen.batches:
                for work in chosen.works:
                    rows_of = min(batch, chosen.train_batch) if work == "train_step" else batch
                    todo[f"{shape}.b{rows_of}.{method}.{work}"] = (rows_of, work)
            todo = {name: each for name, each in todo.items() if name not in [row["name"] for row in rows]}
            if not todo:
                continue
            configs = methods(layers)[method]
            sides = {
                name: build(shape, grafts, dtype, device, layers) for name, grafts in (("plain", ()), ("ours", configs))
            }
            for name, (batch, work) in todo.items():
                try:
                    row = measure(sides, work, batch, chosen, limits)
                except Exception as error:  # whatever it is, the other rows are worth having
                    row = {"failed": f"{type(error).__name__}: {first_line(error)}"}
                rows.append({"name": name} | row)
                print(json.dumps(rows[-1]), flush=True)
                write_text(chosen.json, json.dumps(found, indent=1) + "\n")
                if "failed" in row and is_lost(device):
                    print(f"the {device.type} device is lost to this process: the same command goes on", flush=True)
                    return rows
            del sides
            free()
    return rows


def rows_before(path: Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier run left in `path`, None without one.

    Raises ValueError if that was on another machine, with other versions or options, or is no such file.
    """
    if not path.exists():
        return None
    try:
        before = json.loads(path.read_text("utf-8"))
        apart = [key for key, value in found.items() if key != "machine" and before[key] != value]
        apart += ["machine"] if before["machine"] | {"load": 0} != found["machine"] | {"load": 0} else []
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is no table of this script: remove it, or name another --json") from None
    if apart:
        each = "; ".join(f"{key}: got {before[key]}, expected {found[key]}" for key in apart)
        raise ValueError(f"{path} is of another run ({each}): remove it, or name another --json")
    return before


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"got {name}, expected some of {','.join(known)}")
        return text.split(",")

    return read


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected whole numbers of 1 or more")
    return int(text)


def build(
    shape: str, configs: tuple[Any, ...], dtype: torch.dtype, device: torch.device, layers: int | None = None
) -> PreTrainedModel:
    sizes = dict(vocab_size=92544, num_key_value_heads=8, max_position_embeddings=8192) | SHAPES[shape]
    sizes["num_hidden_layers"] = layers or sizes["num_hidden_layers"]
    torch.manual_seed(0)
    with torch.device(device):
        return graft(AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype), configs).eval()


def measure(sides: dict[str, PreTrainedModel], work: str, batch: int, chosen: Any, limits: Limits) -> dict[str, Any]:
    """Return ratio, medians and shares of one work; {"error"} where it does not fit."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    shares: dict[str, float] = {}
    off: dict[str, float] = {}
    ready: dict[str, Ready] = {}
    try:
        for side, model in sides.items():
            ready[side] = prepare(model, work, batch, chosen, limits)
            shares[side] = ready[side].amount / ready[side].limit
            off |= {} if ready[side].off is None else {side: ready[side].off}
            ready[side].run()
        for run in range(chosen.runs):
            for side in sides if run % 2 else reversed(sides):
                seconds[side].append(ready[side].run())
    except torch.OutOfMemoryError as error:
        return {"error": first_line(error)}
    finally:
        ready.clear()
        for model in sides.values():
            model.zero_grad(set_to_none=True)
            set_gradient_checkpointing(model.eval(), False)
        torch._dynamo.reset()
        free()
    ratios = [ours / plain for ours, plain in zip(seconds["ours"], seconds["plain"], strict=True)]
    ours, plain = (statistics.median(seconds[side]) for side in ("ours", "plain"))
    return {
        "ratio": statistics.median(ratios), "ours": ours, "plain": plain,
        "unit": "s/token" if work.startswith("decode") else "s", "runs": chosen.runs,
        "share": shares["ours"] / ours, "plain_share": shares["plain"] / plain,
    } | ({"off": off} if off else {})  # fmt: skip


def prepare(model: PreTrainedModel, work: str, batch: int, chosen: Any, limits: Limits) -> Ready:
    """Return a work of one side, which has not run yet but for what must be done before."""
    device = model.device
    prompt = torch.arange(chosen.prompt, device=device).expand(batch, -1) % (model.config.vocab_size - 16) + 16
    known = {"prompt_length": chosen.prompt} if grafted_modifiers(model) else {}
    if work == "train_step":
        set_gradient_checkpointing(model.train(), True)

        def step() -> None:
            model(prompt, labels=prompt, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)

        return Ready(lambda: timed(step, device), count_flops(step), limits.flop_s)
    if work == "prefill":

        @torch.no_grad()
        def read() -> None:
            model(prompt, past_key_values=DynamicCache(config=model.config), logits_to_keep=1, **known)

        return Ready(lambda: timed(read, device), count_flops(read), limits.flop_s)
    compiled = work == "decode_compiled"
    length = chosen.prompt + chosen.tokens * (chosen.runs + 2)
    cache = StaticCache(model.config, max_cache_len=length) if compiled else DynamicCache(config=model.config)
    forward = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False) if compiled else model
    with torch.no_grad():
        model(prompt, past_key_values=cache, logits_to_keep=1, **known)
    token, place = prompt[:, :1].clone(), torch.full((batch, 1), chosen.prompt, device=device)

    @torch.no_grad()
    def answer() -> None:
        for _ in range(chosen.tokens):
            forward(token, past_key_values=cache, position_ids=place)
            place.add_(1)

    off = None
    if compiled:
        with torch.no_grad():
            step = forward(token, past_key_values=cache, position_ids=place).logits
            whole = model(torch.cat([prompt, token], dim=1), use_cache=False, logits_to_keep=1, **known).logits
        off = float((step - whole).abs().max() / whole.abs().max())
        place.add_(1)
    bytes_a_token = weight_bytes(model) + token_bytes(cache)
    return Ready(lambda: timed(answer, device) / chosen.tokens, bytes_a_token, limits.bytes_s, off)


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights that one token reads: a layer's once for each of its passes over an answer."""
    decoder = model.get_decoder()
    total = size_of(decoder.norm) + size_of(model.lm_head)
    for layer in decoder.layers:
        answers = getattr(layer, "traversal_tokens", "prompt") == "all"
        total += size_of(layer) * (layer.traversal_passes if answers else 1)
    return total


def size_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def count_flops(work: Callable[[], None]) -> float:
    with FlopCounter() as counter:
        work()
    return float(counter.flops)


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    one = torch.empty(2**24 if device.type == "cpu" else 2**30, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)

    def copy() -> None:
        for _ in range(COPIES):
            other.copy_(one)

    copying_s = min(timed(copy, device) for _ in range(10)) / COPIES
    return Limits(2 * one.numel() / copying_s, peak_flops(device, dtype))


def is_lost(device: torch.device) -> bool:
    """Return whether nothing can be run any more, as after a wrong access to CUDA's memory."""
    try:
        timed(lambda: None, device)
    except RuntimeError:
        return True
    return False


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cpu":  # which others may be using too
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    failed = [row["name"] for row in main() if "failed" in row]
    if failed:
        print(f"failed: {', '.join(failed)}; to measure a row again, remove it from the table", flush=True)
    sys.exit(bool(failed))
