"""What a stage computes in: "auto" is bfloat16 where the device multiplies it, and float32, said aloud, elsewhere."""

from __future__ import annotations

import io
from types import MappingProxyType

import pytest
import torch
from rich.console import Console

from phantrol.training.precision import computing_dtype, multiplies_bfloat16, remark_on
from phantrol.training.run import run

CPU = torch.device("cpu")
WITH, WITHOUT = {"avx512_bf16": True}, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture
def processor_with(monkeypatch):
    """`processor_with(capabilities)` lets torch say that the processor has these."""

    def pretend(capabilities: dict[str, bool]) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(capabilities), raising=False)

    return pretend


@pytest.mark.parametrize(
    "capabilities, expected",
    [(WITH, True), ({"amx_bf16": True}, True), (WITHOUT, False), ({"avx512_f": True}, False), ({"bf16": True}, False)],
)
def test_a_processor_multiplies_bfloat16_by_its_own_instructions(processor_with, capabilities, expected):
    processor_with(capabilities)
    assert multiplies_bfloat16(CPU) is expected
    assert computing_dtype("auto", CPU) == (torch.bfloat16 if expected else torch.float32)


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert computing_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize("capabilities", [WITH, WITHOUT])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_named_is_computed(processor_with, capabilities, precision):
    processor_with(capabilities)
    assert computing_dtype(precision, CPU) == getattr(torch, precision)


@pytest.mark.parametrize(
    "precision, capabilities, expected",
    [
        ("auto", WITH, None),
        ("bfloat16", WITH, None),
        ("float32", WITHOUT, None),
        ("auto", WITHOUT, "computes in float32: this cpu has no instructions"),
        ("bfloat16", WITHOUT, "precision=float32 or auto"),
    ],
)
def test_a_user_is_told_what_costs_time(processor_with, precision, capabilities, expected):
    processor_with(capabilities)
    remark = remark_on(precision, CPU)
    assert remark is None if expected is None else expected in remark


@pytest.mark.parametrize("capabilities, same, other", [(WITH, "bfloat16", "float32"), (WITHOUT, "float32", "bfloat16")])
def test_a_stage_computes_in_what_the_processor_has(
    processor_with, tiny_recipe, metrics, tmp_path, capabilities, same, other
):
    processor_with(capabilities)
    log = io.StringIO()
    for precision in ("auto", same, other):
        changes = ("max_steps=2", "warmup_steps=1", f"precision={precision}")
        recipe = tiny_recipe("log_every_steps=1", *(f"stages.*.{change}" for change in changes))
        run(recipe, tmp_path / precision, console=Console(file=log, width=200) if precision == "auto" else None)
    assert metrics(tmp_path / "auto") == metrics(tmp_path / same) != metrics(tmp_path / other)
    assert ("tune computes in float32" in log.getvalue()) is (same == "float32")
