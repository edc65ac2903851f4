"""The door to lmms-eval, which holds data, prompts and graders of many benchmarks: its entry point, and its command.

    phantrol eval lmms MODEL mmstar,pope     the same as
    lmms-eval --model phantrol --model_args pretrained=MODEL,weights_sha256=...,settings_sha256=... --tasks mmstar,pope

lmms-eval keeps answers under the arguments of a model. The hashes of the weights and of what stands beside them are
among the arguments, and `Phantrol` refuses others than it finds, so that an answer is never taken for that of a model
which was trained on, or converted again, in the same folder.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from phantrol.evals.fingerprints import settings_sha256, weights_sha256
from phantrol.models.building import check_folder

INSTALL = 'pip install "phantrol[eval]", then pip install --no-deps lmms-eval==0.7.3'


def manifest() -> Any:
    """Return what lmms-eval registers: the model `phantrol`. It asks through the entry points `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="phantrol", chat_class_path="phantrol.evals.lmms_model.Phantrol")


def fingerprints(pretrained: str) -> dict[str, str]:
    """Return the hashes that belong among the arguments of a model, a folder or a hub id that is on this machine.

    Raises ValueError if it is neither.
    """
    saved = SimpleNamespace(config=SimpleNamespace(_name_or_path=pretrained), state_dict=dict)
    settings = settings_sha256(saved)
    if settings is None:
        raise ValueError(f"{pretrained}: no such folder, and no hub id whose files are on this machine")
    return {"weights_sha256": weights_sha256(saved), "settings_sha256": settings}


def model_args(pretrained: str) -> str:
    """Return the arguments of a model as lmms-eval takes them.

    Raises ValueError for a name that they cannot hold, and as `fingerprints`.
    """
    if any(sign in pretrained for sign in ",="):
        raise ValueError(f"the model {pretrained!r} has a comma or an equals sign: lmms-eval takes neither, rename it")
    return ",".join(f"{name}={value}" for name, value in {"pretrained": pretrained, **fingerprints(pretrained)}.items())


def run_lmms(model: str, tasks: str, batch_size: int, more: Sequence[str] = ()) -> int:
    """Run lmms-eval's own command on a model; return its exit code, or 1 if the evaluation failed.

    more  further arguments of lmms-eval, as --limit 8 or --include_path FOLDER
    Raises ValueError if lmms-eval is not installed, there is no such model, or its folder is not whole.
    """
    if Path(model).exists():
        check_folder(Path(model))
    if importlib.util.find_spec("lmms_eval") is None:
        raise ValueError(f"lmms-eval is not installed: {INSTALL}")
    command = [sys.executable, "-m", __name__, "--model", "phantrol", "--model_args", model_args(model)]
    command += ["--tasks", tasks, "--batch_size", str(batch_size), *more]
    return subprocess.run(command).returncode


def main() -> None:
    """Run lmms-eval's command in this process; exit with 1 if an evaluation failed, which it logs and exits with 0."""
    import lmms_eval.__main__ as command

    evaluate, succeeded = command.cli_evaluate_single, []
    is_first = os.environ.get("RANK", "0") == "0"  # the others have no results

    def evaluate_and_note(args: Any) -> Any:
        succeeded.append(False)
        found = evaluate(args)
        succeeded[-1] = not is_first or found[0] is not None
        return found

    command.cli_evaluate_single = evaluate_and_note
    command.cli_evaluate()
    sys.exit(0 if all(succeeded) else 1)


if __name__ == "__main__":
    main()
