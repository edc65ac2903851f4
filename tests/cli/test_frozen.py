"""The verbs and flags, all of them: whoever adds one changes this list, and means it."""

import typer

from phantrol.cli import app

VERBS = {
    "demo": ["overrides", "--out", "--limit", "--seed"],
    "train": ["recipe", "overrides", "--out", "--resume", "--dry-run"],
    "eval": [
        "model", "benchmark", "options", "--data", "--protocol", "--split", "--limit", "--seed", "--batch-size",
        "--beams", "--weights", "--json", "--keep-going", "--check-batch", "--judge", "--judge-model",
    ],
    "eval compare": ["a", "b", "--json"],
    "eval table": ["results", "--out", "--published"],
    "eval lmms": ["model", "tasks", "more", "--batch-size"],
    "ablate": [
        "recipe", "variants", "--seeds", "--out", "--limit", "--split", "--benchmark", "--drop-models", "--dry-run",
    ],
    "ask": ["model", "images_and_question", "--max-new-tokens", "--beams", "--weights"],
    "chat": ["model", "image", "--max-new-tokens", "--weights"],
    "explain": ["model", "image", "question", "--out", "--max-new-tokens"],
    "serve": [
        "model", "--host", "--port", "--name", "--api-key", "--allow-image-host", "--weights", "--rows", "--queue",
        "--answer-tokens", "--prompt-tokens", "--timeout",
    ],
    "report": ["run", "--split", "--limit", "--seed", "--batch-size"],
    "merge": ["folder", "out"],
    "calibrate": [
        "model", "data", "options", "--budget", "--out", "--images", "--examples", "--batch-size", "--json",
    ],
    "convert": ["source", "out", "--per-layer-gates"],
    "describe": [
        "thing",
        "overrides",
        "--prompt-tokens",
        "--images",
        "--tiles",
        "--answer-tokens",
        "--batch-size",
        "--dtype",
        "--json",
    ],
    "bench": ["names", "--runs", "--threads", "--json"],
    "verify": ["folder", "--dtype"],
    "list": ["kind"],
    "doctor": [],
    "data preview": [
        "--out", "--family", "--task", "--split", "--count", "--size", "--start", "--sprites", "--extra-fonts",
    ],
    "data export": [
        "out", "--format", "--family", "--task", "--split", "--count", "--size", "--start", "--questions", "--sprites",
        "--extra-fonts", "--like",
    ],
    "data triples": [
        "files", "--out", "--rules", "--url", "--model", "--judge-url", "--judge-model", "--images", "--field",
        "--kind", "--limit", "--per-minute", "--parallel", "--attempts", "--retries", "--timeout", "--max-tokens",
        "--price-in", "--price-out", "--judge-price-in", "--judge-price-out", "--temperature", "--seed",
    ],
    "data check": [
        "files", "--images", "--field", "--model", "--max-tokens", "--decode", "--allow", "--fix", "--json",
        "--workers",
    ],
}  # fmt: skip


def commands(group=None, prefix=""):
    """Return every verb with its command: those of `phantrol data` have two words."""
    found = {}
    for name, command in (group or typer.main.get_command(app)).commands.items():
        found |= commands(command, f"{prefix}{name} ") if hasattr(command, "commands") else {prefix + name: command}
    return found


def test_verbs_and_flags():
    found = {
        name: [parameter.opts[0] for parameter in command.params if parameter.name != "help"]
        for name, command in commands().items()
    }
    assert found == VERBS


def test_every_verb_and_flag_says_what_it_is_for():
    for name, command in commands().items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None) or getattr(parameter, "metavar", None), (name, parameter.name)
