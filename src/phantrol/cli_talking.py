"""The verbs `chat` and `explain` of the command line. Heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[
    str | None, typer.Option(help="int8 or int4: less memory, with a small loss; or float32, bfloat16, float16")
]

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="RUN/final of `phantrol train`, a converted folder, or a hub id")
]


def chat(
    model: Model,
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="shown with the first question")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="length of an answer, in tokens")] = 256,
    weights: Weights = None,
) -> None:
    """Talk with a model in the terminal, over several turns; /help says how. Reads questions from a pipe too."""
    from phantrol.chatting import chat as talk

    talk(model, image, max_new_tokens=max_new_tokens, weights=weights)


def explain(
    model: Model,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="a picture")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="about the picture")],
    out: Annotated[Path, typer.Option(help="the figure, a PNG")] = Path("explain.png"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="length of the answer, in tokens")] = 64,
) -> None:
    """Draw where a model looked twice, and what its phantom adds, as a figure to print."""
    from phantrol.explaining import explain_question

    explain_question(model, image, question, out, max_new_tokens)
