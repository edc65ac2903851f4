"""The README's commands and code are run as they stand, with less to train and local models in place of hub ids."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

from phantrol.ablation.variants import GROUPS
from phantrol.bench.cases import CASES
from phantrol.models.building import load
from phantrol.models.released.catalogue import RELEASES

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "released"))

from sources import whole_source  # noqa: E402

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, block in BLOCKS
    for line in block.splitlines()
    if kind == "bash" and line.split("#")[0].strip()
]
VERBS = [command for command in COMMANDS if command.startswith("phantrol ")]


def test_the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in ("make demo", "make test"):
        assert command in COMMANDS
        assert re.search(rf"^{command.split()[1]}:", makefile, re.M)
    assert {command.split()[0] for command in COMMANDS} == {"make", "phantrol"}


def test_continuous_integration_calls_the_readme_s_test_command():
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.fixture(scope="module")
def released_source(tmp_path_factory):
    """A tiny Phantom in the layout of the released ones."""
    return whole_source(tmp_path_factory.mktemp("released") / "official", "phantom", "qwen2")


@pytest.mark.parametrize("command", VERBS)
def test_each_command_of_the_readme(here, phantrol, quick, released_source, command):
    args = shlex.split(command)[1:]
    if args[0] == "train":
        args[2:2] = quick
    if args[0] == "eval":
        args += ["--limit", "2"]
    if args[0] == "bench":  # its rows have tests of their own, on smaller shapes
        assert set(args[1:]) <= set(CASES)
        args[1:] = ["import_s", "--runs", "1"]
    if args[0] == "ablate":  # two variants of the group, whose other ones have tests of their own
        args[2:3] = [variant.name for variant in GROUPS[args[2]]][::3][:2]
    if args[0] == "convert":
        assert args[1] in {release.hub_id for release in RELEASES.values()}
        args[1] = str(released_source)
    done = phantrol(*args)
    assert done.code == 0, (command, done.error)


def test_the_python_of_the_readme(here, tmp_path):
    _, processor = load(here / "runs" / "demo" / "final")
    config = AutoConfig.for_model(
        "llama", vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "decoder")
    processor.tokenizer.save_pretrained(tmp_path / "decoder")
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    SiglipVisionModel(vision).save_pretrained(tmp_path / "tower")
    code = "\n".join(block for kind, block in BLOCKS if kind == "python" and "import phantrol" in block)
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path / "decoder"))
    code = code.replace("google/siglip2-base-patch16-224", str(tmp_path / "tower"))
    assert "graft" in code and "build" in code and "Engine" in code
    exec(compile(code, "README.md", "exec"), {})


def test_the_files_of_one_s_own_of_the_architecture(here, phantrol):
    section = (
        (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## A file of your own\n")[1].split("\n## ")[0]
    )
    blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.S)
    for kind, text in blocks:
        if kind == "python":
            (here / text.split()[1]).write_text(text)
    (command,) = [text for kind, text in blocks if kind == "bash"]
    done = phantrol(*shlex.split(command)[1:])
    assert done.code == 0, done.error
    stage = json.loads((here / "runs" / "greys" / "recipe.json").read_text())["stages"][0]
    assert "my_loss.py" in json.dumps(stage["loss"]) and "my_source.py" in json.dumps(stage["data"])
    refused = phantrol("train", "my_recipe.py", "model=runs/demo/final", "stages.0.loss=my_loss.py", "--dry-run")
    assert refused.code == 2 and "expected Loss; import it in a recipe file" in refused.error
