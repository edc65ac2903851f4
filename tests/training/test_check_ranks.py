"""The script that holds several ranks against one: what it compares, and what it takes for a failure."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("check_ranks")


def lines(*losses: float, stage: str = "tune") -> list[dict]:
    return [{"stage": stage, "step": n, "loss": loss, "grad_norm": 2.0} for n, loss in enumerate(losses, start=1)]


def test_the_largest_difference_counts(script):
    assert script.off(lines(1.0, 2.0), lines(1.0, 2.0)) == 0
    assert script.off(lines(1.0, 2.0), lines(1.01, 2.5)) == pytest.approx(0.25)
    assert script.off(lines(1.0), [line | {"grad_norm": 1.0} for line in lines(1.0)]) == pytest.approx(0.5)


def test_other_steps_are_a_failure(script):
    assert script.off(lines(1.0, 2.0), lines(1.0)) == float("inf")
    assert script.off(lines(1.0), lines(1.0, stage="align")) == float("inf")


def test_a_run_goes_on_alone_and_a_failed_one_says_why(script, tmp_path):
    whole = script.train(tmp_path / "run", "float32")
    assert len(whole) == 8 and whole[0]["stage"] == "align"
    assert script.off(whole, script.go_on_alone(tmp_path / "run", "float32")) == 0
    with pytest.raises(RuntimeError, match="a folder in use"):
        script.train(tmp_path / "run", "float32")
