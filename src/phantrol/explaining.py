"""`phantrol explain`: one question about one picture, its answer, and the maps as a figure."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from phantrol.explain.figure import write_figure
from phantrol.explain.maps import trace_maps
from phantrol.harmless import harmless
from phantrol.inference.engine import Engine
from phantrol.models.image_processing import load_picture
from phantrol.whole_files import make_room


def explain_question(model: str, image: str, question: str, out: Path, max_new_tokens: int) -> None:
    """Answer, draw and say what was drawn.

    Raises ValueError for a picture that cannot be read, a question without text, a model with neither method, or a
    file that is not called .png or cannot stand there, before anything is loaded where that can be known.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: expected a name that ends in .png")
    if not question.strip():
        raise ValueError("a question without text: type what you want to know about the picture")
    picture = load_picture(image)
    make_room(out)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
    engine, console = Engine.open(model), Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    maps = trace_maps(engine.model, engine.processor, chat)
    answer = engine.answer(chat, max_new_tokens=max_new_tokens)
    write_figure(out, maps, answer.text)  # first: whoever reads what is printed may stop to
    console.print(harmless(answer.text, console.file))
    if maps.traversal is not None:
        ratios = maps.traversal.ratios
        console.print(f"Looked twice: w is {ratios.mean():.3g} on average and {ratios.max():.3g} at most.")
    if maps.phantom is not None:
        shares = maps.phantom.shares
        console.print(
            f"The phantom adds {shares.mean():.3g} of what a head says on average, {shares.max():.3g} at most."
        )
    for note in maps.notes:
        console.print(note)
    console.print(f"The maps are in {out}.")
