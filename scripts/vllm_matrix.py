"""Every combination that docs/serving.md claims, vLLM beside our engine, one line a case.

    .venv-vllm/bin/python scripts/vllm_matrix.py [WORD ...]     only cases whose name holds one of the words

Exit code 1 if a case is not as it should be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CASE = Path(__file__).parents[1] / "tests" / "serving" / "vllm_case.py"
FAMILIES, METHODS = ("llama", "qwen2", "phi3"), ("plain", "trol", "phantom", "both")
TROL, PHANTOM = {"name": "trol", "gate_bias": 0.2}, {"name": "phantom", "init": "random"}
BUDGET = {**TROL, "skip": [1]}  # what `phantrol calibrate` writes: a layer with a gate that runs once
THREADS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # else a rank wants a memory node of its own
LONGROPE = {  # which reads 2,048 tokens, by other angles beyond the 1,024 that vLLM is given
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}
    | {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16},
    "original_max_position_embeddings": 1024,
    "max_position_embeddings": 2048,
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
WINDOW = {"sliding_window": 48, "use_sliding_window": True, "max_window_layers": 1}


def cases() -> dict[str, dict[str, Any]]:
    """Return the options of each case (see tests/serving/vllm_case.py) by its name."""
    found = {f"eager-{f}-{m}": {"family": f, "method": m} for f in FAMILIES for m in METHODS}
    found |= {f"off-{f}-{m}": {"family": f, "method": m, "served": "plain"} for f in FAMILIES for m in METHODS[1:]}
    found |= {f"bf16-{f}-{m}": {"family": f, "method": m, "dtype": "bfloat16"} for f in FAMILIES for m in METHODS}
    found |= {f"text-{f}-both": {"family": f, "method": "both", "text": True} for f in FAMILIES}
    found |= {f"ranks-llama-{m}": {"method": m, "ranks": 2} for m in ("phantom", "both")}
    found |= {
        "option-some-layers": {"method": [{**TROL, "layers": [1]}, {**PHANTOM, "layers": [0, 2]}]},
        "option-three-passes": {"method": [{**TROL, "passes": 3}, PHANTOM]},
        "option-drop": {"method": [{**PHANTOM, "logits": "drop"}]},
        "option-shared-gate-trained-eta": {
            "method": [{**TROL, "share_gate": True}, {**PHANTOM, "train_eta": True, "eta": 0.5}]
        },
        "option-window-qwen2": {"family": "qwen2", "method": "both", "config": WINDOW},
        "option-longrope": {"family": "phi3", "method": "both", "config": LONGROPE},
        "option-budget": {"method": [BUDGET, PHANTOM]},
        "off-budget": {"method": [BUDGET, PHANTOM], "served": "both"},
        "option-granite": {"family": "granite", "method": "both", "config": {"logits_scaling": 2.0}},
    }
    found |= {f"compiled-{f}-{m}": {"family": f, "method": m, "compiled": True} for f in FAMILIES for m in METHODS}
    ropes = {"longrope": ("phi3", LONGROPE), "dynamic": ("llama", DYNAMIC)}
    found |= {
        f"compiled-{name}": {"family": family, "method": "both", "config": config, "compiled": True}
        for name, (family, config) in ropes.items()
    }
    return found


def is_right(name: str, case: dict[str, Any], result: dict[str, Any]) -> bool:
    phantom = case["method"] in ("phantom", "both") or PHANTOM["name"] in json.dumps(case["method"])
    if bool(result["other_first_token"]) != (phantom and case.get("served") != "plain"):
        return False
    if name.startswith("off"):  # at least nine in ten answers change when the method is switched off
        return result["equal"] <= result["requests"] // 10
    if name.startswith("bf16"):  # vLLM's rounding is of the size of our own
        return result["vllm_mean"] <= 1.25 * result["ours_mean"] + 1e-3 and result["prompts_equal"]
    return result["equal"] == result["requests"] and result["prompts_equal"]


def run(group: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the results of cases that one process runs."""
    command = [sys.executable, str(CASE), *map(json.dumps, group)]
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**THREADS, **os.environ}
        ) as process:
            for line in process.stdout:
                if line.startswith(('{"requests"', '{"error"')):
                    yield json.loads(line)
        if process.returncode:
            log.seek(0)
            yield {"error": log.read()[-2000:]}


def main(words: list[str]) -> int:
    chosen = {name: one for name, one in cases().items() if not words or any(word in name for word in words)}
    # vLLM compiles a class once a process, and ranks are processes of their own
    alone = [[name] for name, one in chosen.items() if one.get("compiled") or one.get("ranks")]
    together = [name for name in chosen if [name] not in alone]
    wrong = 0
    for group in ([together] if together else []) + alone:
        results = run([chosen[name] for name in group])
        for name in group:
            result = next(results, {"error": "its process ended"})
            verdict = "failed" if "error" in result else "ok" if is_right(name, chosen[name], result) else "wrong"
            wrong += verdict != "ok"
            print(f"{verdict:6} {name:32} {json.dumps(result)}", flush=True)
        for result in results:
            print(f"failed {group} {json.dumps(result)}", flush=True)
            wrong += 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
