"""Both methods under real vLLM, in the environment that `scripts/build_vllm_env.sh` makes; skipped where it is not.

The environment is `.venv-vllm`, or the folder that PHANTROL_VLLM_ENV names. `scripts/vllm_matrix.py` runs many more
cases.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = Path(os.environ.get("PHANTROL_VLLM_ENV") or HERE.parents[1] / ".venv-vllm")
REFUSED = "this server's Phantom was made ready for token"
# what `phantrol calibrate` writes: a layer with a gate that runs once
BUDGET = [{"name": "trol", "gate_bias": 0.2, "skip": [1]}, {"name": "phantom", "init": "random"}]
CASES = {
    "llama": {"family": "llama", "method": "both"},
    "qwen2": {"family": "qwen2", "method": "both", "requests": 40},
    "phi3": {"family": "phi3", "method": "both", "requests": 40},
    "trol switched off": {"method": "trol", "served": "plain", "requests": 40},
    "phantom switched off": {"method": "phantom", "served": "plain", "requests": 40},
    "budget": {"method": BUDGET, "requests": 40},
    "budget switched off": {"method": BUDGET, "served": "both", "requests": 40},
    "bfloat16": {"method": "both", "dtype": "bfloat16", "requests": 40},
}

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (ENVIRONMENT / "bin" / "vllm").exists(),
        reason=f"no vLLM in {ENVIRONMENT.name}: scripts/build_vllm_env.sh makes it",
    ),
]


def run(script: str, *arguments: str) -> list[dict[str, Any]]:
    """Return the lines of JSON that a script prints in vLLM's environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    command = [str(ENVIRONMENT / "bin" / "python"), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**inherited, **threads}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """All cases in one process: what takes time is the import of vLLM."""
    found = dict(zip(CASES, run("vllm_case.py", *map(json.dumps, CASES.values())), strict=True))
    assert not any("error" in result for result in found.values()), found
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "budget"])
def test_both_methods_answer_as_our_engine_does(results, family: str):
    result = results[family]
    assert result["equal"] == result["requests"] == CASES[family].get("requests", 100)
    assert result["prompts_equal"]
    # the comparison means something: answers differ from one another, and the prefix cache had work
    assert result["different_answers"] >= 0.9 * result["requests"] and result["cached_tokens"] > 500


@pytest.mark.parametrize("method", ["trol", "phantom", "budget"])
def test_the_comparison_sees_a_method_that_is_switched_off(results, method: str):
    result = results[f"{method} switched off"]
    assert result["prompts_equal"] and result["equal"] <= result["requests"] // 10


def test_bfloat16_rounds_as_our_own_does(results):
    result = results["bfloat16"]
    assert 0 < result["vllm_mean"] <= 1.25 * result["ours_mean"] + 1e-3
    assert result["prompts_equal"]


def test_a_prompt_with_another_first_token_is_refused_where_phantom_is(results):
    assert all(REFUSED in results[name]["other_first_token"] for name in ("llama", "qwen2", "phi3"))
    assert results["phantom switched off"]["other_first_token"] == ""


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_angles_that_the_length_decides_are_compiled(kind: str):
    ropes = {
        "longrope": {"factor": 2.0, "short_factor": [1.0 + i / 8 for i in range(16)], "long_factor": [9.0] * 16},
        "dynamic": {"factor": 2.0},
    }
    config = {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **ropes[kind]}}
    if kind == "longrope":
        config |= {"original_max_position_embeddings": 1024, "max_position_embeddings": 2048}
    family = {"longrope": "phi3", "dynamic": "llama"}[kind]
    case = {"family": family, "method": "both", "config": config, "compiled": True, "requests": 20}
    (result,) = run("vllm_case.py", json.dumps(case))
    assert result["equal"] == 20 and result["prompts_equal"] and result["different_answers"] >= 18, result
    assert result["compiled_models"] == 1


def test_vllm_serve_answers_as_our_engine_does():
    (result,) = run("vllm_server.py")
    assert result["equal"] == result["requests"] == 12 and result["different_answers"] >= 10
    assert result["typed_placeholder_status"] == 200
    assert result["other_first_token_status"] == 400 and REFUSED in result["other_first_token"]
