"""scripts/train_on_gpu.sh: its legs, with a stand-in for phantrol that notes its calls and ends as it is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_on_gpu.sh"
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> calls
code=$(head -1 codes); sed -i 1d codes
case $code in
    hang) exec sleep 60 ;;
    trained) mkdir -p run/final; touch run/final/config.json; exit 0 ;;
    *) exit "$code" ;;
esac
"""
TRAIN = "train my_recipe seed=1 stages.tune.lr=1e-3 --out run --resume"
REPORT = "report run --split val,test_comp,test_style,test_para --limit 100 --batch-size 256"


@pytest.fixture
def call(tmp_path):
    """call(codes, **environment) runs the script with a stand-in that ends so, and returns its exit code and calls."""
    stand_in = tmp_path / "phantrol"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def run(*codes, **environment):
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            ["bash", SCRIPT, "my_recipe", "seed=1", "stages.tune.lr=1e-3"],
            cwd=tmp_path,
            env=os.environ | dict(PHANTROL=str(stand_in), OUT="run") | environment,
            timeout=280,
        )
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


@pytest.mark.parametrize("legs", [dict(LEG_S="0"), {}])
def test_all_in_one_leg(call, legs):
    assert call("trained", 0, **legs) == (0, [TRAIN, REPORT])


def test_a_stop_in_each_part(call):
    assert call(143, 143, "trained", 143, 0) == (0, [TRAIN, TRAIN, TRAIN, REPORT, REPORT])


def test_one_leg_alone(call):
    assert call(143, LEGS="1") == (75, [TRAIN])
    assert call("trained", 143, LEGS="1") == (75, [TRAIN, REPORT])
    assert call(0, LEGS="1") == (0, [REPORT])


def test_a_mistake_ends_it(call):
    assert call(2) == (2, [TRAIN])
    assert call("trained", 1) == (1, [TRAIN, REPORT])


def test_a_leg_has_an_end(call):
    """What hangs is stopped when the leg is over."""
    assert call("hang", "trained", "hang", LEG_S="3", GRACE_S="1", LEGS="2") == (75, [TRAIN, TRAIN, REPORT])


def test_other_options(call):
    changes = dict(SPLITS="val", LIMIT="7", BATCH_SIZE="3")
    assert call("trained", 0, **changes)[1][1] == "report run --split val --limit 7 --batch-size 3"
