"""The verbs and flags, all of them: whoever adds one changes this list, and means it."""

import typer

from phantrol.cli import app

VERBS = {
    "demo": ["overrides", "--out", "--limit", "--seed"],
    "train": ["recipe", "overrides", "--out", "--resume", "--dry-run"],
    "eval": ["model", "benchmark", "options", "--split", "--limit", "--seed", "--batch-size", "--json"],
    "ask": ["model", "images_and_question", "--max-new-tokens"],
    "describe": ["thing", "overrides"],
    "list": ["kind"],
    "doctor": [],
}


def test_verbs_and_flags():
    commands = typer.main.get_command(app).commands
    found = {
        name: [parameter.opts[0] for parameter in command.params if parameter.name != "help"]
        for name, command in commands.items()
    }
    assert found == VERBS


def test_every_verb_and_flag_says_what_it_is_for():
    for name, command in typer.main.get_command(app).commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None) or getattr(parameter, "metavar", None), (name, parameter.name)
