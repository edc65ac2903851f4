"""What is counted while a stage trains: operations as by hand, recomputation left out, and what a device can do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.checkpoint import checkpoint

from phantrol.training import flops, speed
from phantrol.training.flops import FlopCounter, peak_flops
from phantrol.training.speed import COUNTED_BATCHES, Speed

N, A, B, C = 5, 7, 11, 13


def counted(work):
    with FlopCounter() as counter:
        work()
    return counter.flops


@pytest.fixture
def two():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(A, B, bias=False), nn.Linear(B, C, bias=False))


def test_a_product_is_two_operations_a_multiplication(two):
    x = torch.randn(N, A)
    forward = 2 * N * A * B + 2 * N * B * C
    assert counted(lambda: two(x)) == forward
    # backward: the gradient of each weight, and that of what lies between; nobody asks for that of x
    assert counted(lambda: two(x).sum().backward()) == forward + 2 * N * A * B + 2 * (2 * N * B * C)


def test_a_frozen_part_has_no_backward_pass_for_its_weights(two):
    x = torch.randn(N, A)
    forward = 2 * N * A * B + 2 * N * B * C
    two[0].requires_grad_(False)
    assert counted(lambda: two(x).sum().backward()) == forward + 2 * N * B * C
    two[0].requires_grad_(True)
    two[1].requires_grad_(False)
    assert counted(lambda: two(x).sum().backward()) == forward + 2 * N * B * C + 2 * N * A * B


def test_what_is_computed_again_is_left_out(two):
    x = torch.randn(N, A)
    plain = counted(lambda: two(x).sum().backward())
    assert counted(lambda: checkpoint(two, x, use_reentrant=False).sum().backward()) == plain


@pytest.mark.parametrize("gradients", [False, True])
def test_fused_attention_on_a_cpu(gradients):
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=gradients) for n in (4, 6, 6))
    forward = 2 * 2 * (2 * 3 * 4 * 6 * 8)

    def attend():
        out = F.scaled_dot_product_attention(query, key, value)
        return out.sum().backward() if gradients else out

    assert counted(attend) == (3 if gradients else 1) * forward


@pytest.mark.parametrize(
    "kernel", ["flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"]
)
def test_every_device_counts_attention_alike_with_grouped_heads(kernel):
    query, key = torch.empty(2, 16, 4, 8), torch.empty(2, 8, 6, 8)
    forward = 2 * 2 * (2 * 16 * 4 * 6 * 8)
    operation, backward = (getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{end}") for end in ("", "_backward"))
    assert flops._formula(operation)(query, key, key, 0.0, True, scale=1.0, out_val=()) == forward
    assert flops._formula(backward)(query, query, key, key, query, query, scale=1.0, out_val=()) == 2 * forward


def test_a_gpu_is_known_by_its_name(monkeypatch):
    names = {
        "NVIDIA H200": 989.4, "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756.0, "NVIDIA A100-SXM4-80GB": 312.0,
        "NVIDIA H200 NVL": 835.5, "NVIDIA H100 NVL": 835.5, "NVIDIA GB200": 2500.0, "NVIDIA B200": 2250.0,
        "NVIDIA L4": 121.0, "NVIDIA L40S": 362.05, "NVIDIA L40": 181.05, "NVIDIA A10": 125.0,
        "NVIDIA GeForce RTX 4090": 165.2, "NVIDIA RTX A6000": 154.8,
    }  # fmt: skip
    for name, tera in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda"), torch.bfloat16) == tera * 1e12
    measured = []
    monkeypatch.setattr(flops, "_highest", {})
    monkeypatch.setattr(flops, "_measured", lambda device, dtype: measured.append(dtype) or 1.0)
    peak_flops(torch.device("cuda"), torch.float32)  # the table is of bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Unheard of 7")
    peak_flops(torch.device("cuda"), torch.bfloat16)
    assert measured == [torch.float32, torch.bfloat16, torch.float32]


def test_a_cpu_is_measured_once_and_nothing_is_drawn():
    state = torch.get_rng_state()
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak > 1e8 and peak_flops(torch.device("cpu"), torch.float32) == peak
    assert torch.equal(torch.get_rng_state(), state)


def test_a_peak_that_is_exceeded_is_none(monkeypatch):
    device, measured = torch.device("cpu"), [1e6, 3e6, 2e6, 0.0]
    monkeypatch.setattr(flops, "_highest", {})
    monkeypatch.setattr(flops, "_measured", lambda device, dtype: measured.pop(0))
    assert peak_flops(device, torch.float32) == 1e6
    assert peak_flops(device, torch.float32, 1e6) == 1e6 and len(measured) == 3  # it was met, not exceeded
    assert peak_flops(device, torch.float32, 2e6) == 3e6  # in a better moment
    assert peak_flops(device, torch.float32, 2.5e6) == 3e6 and len(measured) == 2
    assert peak_flops(device, torch.float32, 4e6) == 4e6  # no moment is as good as what was reached
    assert peak_flops(device, torch.float32) == 4e6 and len(measured) == 1


def test_a_device_can_do_in_float32_what_it_cannot_in_bfloat16(monkeypatch):
    speeds = {torch.bfloat16: 1e6, torch.float32: 1e8}
    monkeypatch.setattr(flops, "_highest", {})
    monkeypatch.setattr(flops, "_measured", lambda device, dtype: speeds[dtype])
    assert peak_flops(torch.device("cpu"), torch.bfloat16) == 1e8


@pytest.mark.parametrize(("product_s", "largest"), [(0.3, 2), (0.03, 8)])
def test_measuring_ends_where_a_product_takes_long(monkeypatch, product_s, largest):
    now, sides, full = [0.0], [], torch.full

    def clock():
        now[0] += product_s / 2  # between the first look and the second: half
        return now[0]

    monkeypatch.setattr(flops, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(flops, "_SIDES", {"cpu": (2, 4, 8)})
    monkeypatch.setattr(flops.torch, "full", lambda size, *a, **o: sides.append(size[0]) or full(size, *a, **o))
    monkeypatch.setattr(flops, "_ENOUGH_S", 1.0)
    assert flops._measured(torch.device("cpu"), torch.float32) == pytest.approx(2 * largest**3 / (product_s / 2))
    assert sides == [side for side in (2, 4, 8) if side <= largest]


def test_speed_is_what_happened_by_the_time_it_took(monkeypatch, two):
    now = [100.0]
    # not the clock of all: a server that another test runs in a thread would wait by it for hours
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: now[0]))
    reached = []
    monkeypatch.setattr(speed, "peak_flops", lambda device, dtype, seen: reached.append(seen) or 1e6)
    measured = Speed(torch.float32)
    per_batch = 2 * N * A * B + 2 * N * B * C
    for _ in range(COUNTED_BATCHES + 4):  # the last four are taken to be like the others
        measured.steps += 1
        with measured.training_on({"row_tokens": [3, 2], "num_pictures": 1}):
            two(torch.randn(N, A))
        now[0] += 0.5
    with measured.paused():
        now[0] += 1000
    with measured.waiting():
        now[0] += 2.5
    taken = measured.take(Accelerator(cpu=True))
    assert taken["tokens_per_s"] == 8 and taken["pictures_per_s"] == 1.6 and taken["step_s"] == 0.625
    assert taken["waited"] == 0.2  # of the time, and the speed is by the clock
    assert reached == pytest.approx([per_batch / 0.625])
    assert taken["mfu"] == pytest.approx(per_batch / 0.625 / 1e6, abs=1e-4)
    assert taken["tflops"] == pytest.approx(per_batch / 0.625 / 1e12, abs=1e-6)
    assert measured.tokens == 0 and measured.since_s == now[0] and measured.waited_s == 0
