"""Ranks of one run as processes of this machine, and the recipe that they share. No test.

Ranks are forked, one thread each, and talk over gloo on a free port of loopback; those that hang are killed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from accelerate.state import AcceleratorState

from phantrol.training.trainer import StageTrainer

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="pip install 'phantrol[deepspeed]'")
ENGINES = ["none", "fsdp", *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))]
PATIENCE_S = 150  # a busy machine takes its time; a rank that hangs never comes


def start_ranks(action: Callable[[], object], count: int) -> list[int]:
    """Run `action` as each of `count` ranks, as torchrun starts them; return their process ids. 0: without torchrun."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(max(count, 1)):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            here = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count, MASTER_PORT=port)
            if count:
                os.environ |= {name: str(value) for name, value in here.items()} | {"MASTER_ADDR": "localhost"}
            AcceleratorState._reset_state(reset_partial_state=True)  # this process was alone so far
            torch.set_num_threads(1)
            action()
            if torch.distributed.is_initialized():  # rank 0 holds what the others meet by, and may be done before them
                torch.distributed.barrier()
        except SystemExit as stop:
            os._exit(stop.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return children


def exit_codes(children: list[int], patience_s: float = PATIENCE_S) -> list[int | None]:
    """Return the exit codes of processes; one that fails takes the others along, and None says that one hung."""
    codes: dict[int, int | None] = {}
    until = time.monotonic() + patience_s
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until or any(code not in (0, 143) for code in codes.values()):
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = None
        time.sleep(0.01)
    return [codes[child] for child in children]


def on_ranks(count: int, action: Callable[[], object]) -> None:
    codes = exit_codes(start_ranks(action, count))
    assert codes == [0] * max(count, 1), (
        f"exit codes {codes}; None hung for {PATIENCE_S} s, or was killed when another failed"
    )


def same_curve(one: list[dict], other: list[dict], rel: float = 1e-6) -> None:
    assert [(line["stage"], line["step"]) for line in other] == [(line["stage"], line["step"]) for line in one]
    for a, b in zip(one, other, strict=True):
        for name in ("loss", "reward_margin"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=rel, abs=1e-6), (name, a, b)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=20 * rel), (a, b)


def count_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: let each rank divide its loss by its own number of tokens, not by that of all ranks."""
    counted = StageTrainer.get_batch_samples

    def own_totals(trainer, iterator, num_batches, device):
        batches, _ = counted(trainer, iterator, num_batches, device)
        totals = [trainer.stage.loss.count(batch) for batch in batches]
        return batches, {name: 2 * sum(count[name] for count in totals) for name in totals[0]}

    monkeypatch.setattr(StageTrainer, "get_batch_samples", own_totals)
