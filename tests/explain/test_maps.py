from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

import phantrol
from phantrol.explain import lettering
from phantrol.explain.colours import heat_colour
from phantrol.explain.figure import LEFT, LINE, MARGIN, WIDTH, _pictures, draw_figure, write_figure
from phantrol.explain.lettering import width, wrap
from phantrol.explain.maps import maps_as_json, trace_maps
from phantrol.explain.traversal_figure import THINNEST_PX, draw_overlay
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer

TROL, PHANTOM = phantrol.TrolConfig(gate_bias=0.0), phantrol.PhantomConfig(init="random")


def chat(question="What color is it?", *sizes):
    pictures = [{"type": "image", "image": Image.new("RGB", size, "red")} for size in sizes]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def build(tiny_model):
    tokenizer = train_tokenizer(["What color is it?"] * 4, 300)
    return lambda *modifiers: tiny_model(tokenizer, modifiers, noise=0.3)


@pytest.fixture(scope="module")
def maps(build):
    return trace_maps(*build(TROL, PHANTOM), chat("What color is it?", (40, 20)))


def test_both_maps_in_one_go(maps):
    assert maps.notes == ()
    assert maps.traversal.ratios.shape == (2, len(maps.prompt.tokens))
    assert maps.phantom.rows == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert maps.pictures[0].picture.size == (40, 20)


def test_only_the_logits_of_one_token_are_computed(build):
    model, processor = build(TROL, PHANTOM)
    shapes = []
    model.register_forward_hook(lambda module, args, output: shapes.append(output.logits.shape[:2]))
    trace_maps(model, processor, chat("What color is it?", (40, 20)))
    assert shapes == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("modifier", "there", "missing", "word"),
    [(TROL, "traversal", "phantom", "no Phantom"), (PHANTOM, "phantom", "traversal", "no TroL")],
)
def test_a_model_with_one_method_says_so_in_one_line(build, modifier, there, missing, word):
    maps = trace_maps(*build(modifier), chat("What?", (32, 32)))
    assert getattr(maps, missing) is None and getattr(maps, there) is not None
    assert len(maps.notes) == 1 and word in maps.notes[0]
    assert maps.prompt.question == "What?"
    assert draw_figure(maps).width == WIDTH
    said = maps_as_json(Engine(*build(modifier)), chat("What?", (32, 32)))
    assert said[missing] is None and said["notes"] == list(maps.notes)


def test_a_plain_model_is_refused(build):
    with pytest.raises(ValueError, match="neither TroL nor Phantom"):
        trace_maps(*build(), chat())


def test_the_numbers_for_programs(build, maps):
    said = maps_as_json(Engine(*build(TROL, PHANTOM)), chat("What color is it?", (40, 20)))
    torch.testing.assert_close(torch.tensor(said["traversal"]["ratios"]), maps.traversal.ratios, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(torch.tensor(said["phantom"]["by_token"]), maps.phantom.by_token(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(torch.tensor(said["phantom"]["by_head"]), maps.phantom.by_head(), rtol=1e-3, atol=1e-7)
    assert said["phantom"]["rows"][1] == {"layer": 0, "pass": 2}
    assert said["traversal"]["layers"] == [0, 1]
    assert said["pictures"] == [{"width_px": 40, "height_px": 20, "positions": maps.pictures[0].positions.tolist()}]
    flags = [said["is_image"][index] for line in said["pictures"][0]["positions"] for index in line]
    assert all(flags) and sum(said["is_image"]) == 16
    assert said["colours"][0] == "#{:02x}{:02x}{:02x}".format(*heat_colour(0)) and len(said["colours"]) == 33


def test_the_figure_shows_the_numbers(maps):
    """Every cell of the traversal map has the colour of its ratio, where the figure says that it is."""
    figure = draw_figure(maps)
    ratios = maps.traversal.ratios
    expected = [[heat_colour(float(w / ratios.max())) for w in row] for row in ratios]
    room, column = WIDTH - LEFT - 2 * MARGIN, (WIDTH - LEFT - 2 * MARGIN) / ratios.shape[1]
    middles = [MARGIN + LEFT + round((index + 0.5) * column) for index in range(ratios.shape[1])]
    assert middles[-1] < MARGIN + LEFT + room

    def at(y):
        return [figure.getpixel((x, y)) for x in middles]

    def near(got, wanted):
        return all(abs(a - b) <= 2 for g, w in zip(got, wanted, strict=True) for a, b in zip(g, w, strict=True))

    for row in expected:
        assert any(near(at(y), row) for y in range(0, figure.height, 10))
    assert not any(near(at(y), expected[0][::-1]) for y in range(0, figure.height, 10))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_picture_that_is_one_line_can_be_seen(maps, size):
    """Its frame is drawn around it, and over no pixel of it."""
    found = dataclasses.replace(maps.pictures[0], picture=Image.new("RGB", size, "red"))
    panels = _pictures(found, maps)
    assert panels.getpixel((MARGIN, 1)) == panels.getpixel((MARGIN + 7, 8)) == (255, 0, 0)
    assert panels.getpixel((MARGIN - 1, 1)) == panels.getpixel((MARGIN, 0)) == LINE
    overlay = draw_overlay(found.picture, torch.tensor([[0.0, 1.0]]), 0.0, 1.0)
    assert min(overlay.size) == THINNEST_PX and len(overlay.getcolors()) > 1


@pytest.mark.parametrize("number", range(1000, 1008))
def test_one_token_of_many_is_seen(maps, number):
    """More tokens than the figure has columns of pixels: of those that share one, the largest shows."""
    ratios = torch.zeros(2, 3000)
    ratios[:, number] = 1
    prompt = dict(tokens=("x",) * 3000, is_image=(False,) * 3000, pictures=())
    traversal = dataclasses.replace(maps.traversal, layers=(0, 1), ratios=ratios, **prompt)
    figure = draw_figure(dataclasses.replace(maps, traversal=traversal, phantom=None))
    at = MARGIN + LEFT + round((number + 0.5) / 3000 * (WIDTH - LEFT - 2 * MARGIN))
    beside = figure.crop((at - 1, 0, at + 2, figure.height)).getcolors(maxcolors=1 << 24)
    assert sum(count for count, colour in beside if colour == heat_colour(1)) >= 50  # pixels high


def test_no_caption_runs_into_the_margin(maps):
    traversal = dataclasses.replace(maps.traversal, ratios=maps.traversal.ratios / 1000)  # long numbers
    phantom = dataclasses.replace(maps.phantom, shares=maps.phantom.shares / 1000)
    figure = draw_figure(dataclasses.replace(maps, traversal=traversal, phantom=phantom))
    margin = figure.crop((WIDTH - MARGIN, 0, WIDTH, figure.height))
    assert margin.getextrema() == ((255, 255),) * 3


def test_characters_that_no_font_knows_are_named(maps, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lettering, "_installed", tuple)
    write_figure(tmp_path / "maps.png", maps, "Red.\x03\u200b")  # what no font draws is no font's fault
    assert not caplog.records
    write_figure(tmp_path / "maps.png", maps, "红 is 红色\n")
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'maps.png'} has ? for 红色: no font here knows them; install one")


def test_writing_is_whole_or_not_at_all(maps, tmp_path, monkeypatch):
    write_figure(tmp_path / "new" / "maps.png", maps, "red")
    with Image.open(tmp_path / "new" / "maps.png") as written:
        assert written.size[0] == WIDTH and round(written.info["dpi"][0]) == 300
    with pytest.raises(ValueError, match=r"ends in \.png"):
        write_figure(tmp_path / "maps.jpg", maps)

    def full(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_figure(tmp_path / "full.png", maps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


@pytest.mark.parametrize("question", ["é ñ 漢字 😀 \u202e\n" * 40, "W" * 900, "What?"])
def test_any_question_and_answer_can_be_drawn(maps, question):
    named = dataclasses.replace(maps, traversal=dataclasses.replace(maps.traversal, question=question))
    assert draw_figure(named, question).height > 500


def test_lines_fit():
    lines = wrap("a few words and onewordthatislongerthanwhatthelinecanholdofit", 20, 200, 9)
    assert len(lines) > 2 and all(width(line, 20) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == "afewwordsandonewordthatislongerthanwhatthelinecanholdofit"
    assert wrap("many words " * 50, 20, 200, 2)[1].endswith("...")
