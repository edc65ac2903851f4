from __future__ import annotations

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from phantrol.evals.benchmark import Row
from phantrol.evals.report import Sample
from phantrol.explain.colours import heat_colour, heat_image
from phantrol.explain.curves import curve_section, read_metrics
from phantrol.explain.gallery import Shown, choose_gallery
from phantrol.explain.report import write_report
from phantrol.explain.traversal import PictureTokens, Traversal
from phantrol.explain.traversal_figure import draw_overlay, heat_map, traversal_section
from phantrol.tables import round_ticks, short_number

VOID = {"meta", "img", "br", "link", "input", "line", "rect", "circle", "path", "image"}
NASTY = '<script>alert("x")</script> & "quotes" \' <b>'

SCORES = {
    "shape": {"model": 0.9, "shuffled": 0.2, "prior": 0.15, "n": 100},
    "left_right": {"model": 0.7, "shuffled": 0.5, "prior": 0.55, "n": 100},
}
METRICS = [
    *({"stage": "align", "step": step, "loss": 3 - step / 100, "lr": 0.1} for step in range(10, 101, 10)),
    *({"stage": "prefer", "step": s, "loss": 1.0, "reward_accuracy": 0.5 + s / 100} for s in range(10, 41, 10)),
]


def traversal(layers=(1, 4), scale=1.0) -> Traversal:
    ratios = scale * torch.tensor([[0.1, 0.2, 0.4, 0.8, 0.1, 0.3], [0.5, 0.5, 0.5, 0.5, 0.5, 0.6]])[: len(layers)]
    tokens = ("<s>", "<image>", "<image>", "<image>", "<image>", " red?")
    flags = tuple(token == "<image>" for token in tokens)
    picture = PictureTokens(Image.new("RGB", (40, 40), "white"), torch.tensor([[1, 2], [3, 4]]))
    return Traversal("Is it red?", ratios, layers, tokens, flags, (picture,))


def write(path, **changes) -> str:
    options = dict(
        title="A tiny model",
        recipe="primer_tiny",
        modifiers=["TroL", "Phantom"],
        parameters=1_203_456,
        seconds=171.2,
        device="a CPU",
        scores=SCORES,
        split="val",
        reproduce="phantrol demo --seed 0",
        metrics=METRICS,
        gallery=[
            Shown("shape", "What shape is it?", "star", "star", True, Image.new("RGB", (64, 64), "red"), "circle"),
            Shown("shape", "What shape is it?", "star", "cross", False, Image.new("RGB", (64, 64), "blue"), "star"),
            Shown("text_only", "1 plus 1?", "2", "", False),
        ],
        traversals=[traversal()],
    )
    write_report(path, **(options | changes))
    return path.read_text("utf-8")


class Page(HTMLParser):
    """Checks that tags close in order; collects text, tags and what is referred to."""

    def __init__(self, content: str):
        super().__init__()
        self.open, self.texts, self.tags, self.references = [], [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts).replace("\xa0", " "))


def test_the_page_says_what_was_found(tmp_path):
    page = Page(write(tmp_path / "deep" / "report.html"))
    assert (
        "1.2 million parameters with TroL and Phantom, trained by the recipe primer_tiny in 2 min 51 s on a CPU"
        in page.text
    )
    assert "it scores 80 %; with the pictures exchanged 35 %" in page.text
    assert "phantrol demo --seed 0" in page.text
    for words in ("left right", "83–94", "Wrong", "layer 4", "Is it red?", "align", "prefer"):
        assert words in page.text
    bars = [attrs["style"] for tag, attrs in page.tags if tag == "b"]
    assert bars == ["width:90.0%", "width:70.0%", "width:80.0%"]
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", "h2", "h2", "h2", "h2", "h2"]
    assert all("alt" in attrs for tag, attrs in page.tags if tag == "img")


def test_equal_scores_are_explained_where_there_are_some(tmp_path):
    remark = "A task without pictures has the same score with shuffled images"
    assert remark not in Page(write(tmp_path / "seen.html")).text
    sums = {"sums": {"model": 0.8, "shuffled": 0.8, "prior": 0.1, "n": 10}}
    assert remark in Page(write(tmp_path / "both.html", scores=SCORES | sums)).text


def test_the_page_needs_nothing_but_itself(tmp_path):
    content = write(tmp_path / "report.html")
    page = Page(content)
    assert page.references
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in page.references)
    assert not re.search(r"https?://|@import|url\(", content)
    assert "prefers-color-scheme: dark" in content and 'name="viewport"' in content
    for tag, attrs in page.tags:
        if tag == "a":
            assert any(a.get("id") == attrs["href"][1:] for _, a in page.tags)


def test_whatever_people_and_models_write_is_text(tmp_path):
    shown = [Shown(NASTY, NASTY, NASTY, NASTY, False, None, NASTY)]
    bad = traversal()
    bad = Traversal(NASTY, bad.ratios, bad.layers, (NASTY,) * 6, bad.is_image, bad.pictures)
    rows = [{"stage": NASTY, "step": 1, "loss": 1.0}]
    scores = {NASTY: SCORES["shape"]}
    texts = dict.fromkeys(("title", "recipe", "device", "split", "reproduce", "note"), NASTY)
    options = dict(gallery=shown, traversals=[bad], metrics=rows, scores=scores, modifiers=[NASTY])
    content = write(tmp_path / "report.html", **options, **texts)
    page = Page(content)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count('<script>alert("x")</script>') > 10


def test_a_question_of_no_words_is_shown_too(tmp_path):
    page = Page(write(tmp_path / "report.html", gallery=[Shown("shape", "", "star", "cross", False)]))
    assert "star" in page.text


def test_parts_that_there_are_none_of_are_left_out(tmp_path):
    page = Page(write(tmp_path / "report.html", gallery=[], traversals=[], metrics=[], modifiers=[]))
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert ids == ["scores", "again"]
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["#scores", "#again"]
    with pytest.raises(ValueError, match="no scores"):
        write(tmp_path / "other.html", scores={})
    assert not (tmp_path / "other.html").exists()


def test_metrics_are_read_from_the_file_of_a_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    assert read_metrics(path) == METRICS
    assert write(tmp_path / "a.html", metrics=path) == write(tmp_path / "b.html")
    path.write_text(json.dumps(METRICS[0]) + "\n" + '{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is broken"):
        read_metrics(path)


def points(section: str) -> list[list[tuple[float, float]]]:
    drawn = re.findall(r'class="curve" d="([^"]*)"', section)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", d)] for d in drawn]


def test_the_curves_are_where_the_numbers_are():
    align, prefer, reward = points(curve_section(METRICS))
    assert len(align) == 10 and len(prefer) == len(reward) == 4
    # the loss falls evenly from 2.9 to 2: upwards is less on the screen
    assert all(b[1] - a[1] == pytest.approx(align[1][1] - align[0][1], abs=0.11) for a, b in itertools.pairwise(align))
    assert align[0][1] < align[-1][1]
    # the second stage goes on to the right of the first, in proportion: its step 40 is step 140 of all
    assert prefer[0][0] > align[-1][0]
    per_step = (align[-1][0] - align[0][0]) / 90
    assert prefer[-1][0] - align[-1][0] == pytest.approx(40 * per_step, abs=0.3)
    # reward accuracy 0.9 on an axis from 0 to 1, and its figure shows only the stage that has it
    section = curve_section(METRICS)
    figure = section[section.index("Reward accuracy") :]
    assert ">align<" not in figure and ">prefer<" in figure
    ticks = {float(v): float(y) for y, v in re.findall(r'class="tick" x="38\.0" y="([\d.]+)"[^>]*>([\d.]+)<', figure)}
    assert reward[-1][1] + 4 == pytest.approx(ticks[0.0] + 0.9 * (ticks[1.0] - ticks[0.0]), abs=0.2)


def test_no_curve_without_numbers():
    assert curve_section([]) == ""
    assert "Reward" not in curve_section(METRICS[:3])


def test_round_ticks_and_short_numbers():
    assert round_ticks(0, 3.1) == [0, 1, 2, 3]
    assert round_ticks(0, 0.018, about=4) == [0, 0.005, 0.01, 0.015]
    assert round_ticks(2, 2) == [2]
    assert [short_number(v) for v in (0, 1500, 2e6, 0.00034, 0.123456, 42)] == [
        "0",
        "1.5k",
        "2M",
        "0.00034",
        "0.123",
        "42",
    ]


def oklab_lightness(colour) -> float:
    linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
    r, g, b = linear
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return 0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short


def test_equal_steps_of_a_share_are_equal_steps_of_lightness():
    lightness = [oklab_lightness(heat_colour(step / 20)) for step in range(21)]
    steps = np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() / steps.min() < 1.3
    assert heat_colour(-1) == heat_colour(0) and heat_colour(2) == heat_colour(1)


def test_a_heat_image_has_a_pixel_for_each_value():
    image = heat_image(np.array([[0.0, 1.0], [0.5, 2.0], [1.0, -1.0]]), 0.0, 1.0)
    assert image.size == (2, 3)
    assert image.getpixel((0, 0)) == image.getpixel((1, 2)) == heat_colour(0)
    assert image.getpixel((1, 0)) == image.getpixel((1, 1)) == heat_colour(1)
    assert heat_image(np.ones((2, 2)), 1.0, 1.0).getpixel((0, 0)) == heat_colour(0)  # nothing to tell apart


def pixels_of(figure: str) -> np.ndarray:
    encoded = re.search(r'href="data:image/png;base64,([^"]+)"', figure)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def test_raw_maps_show_absolute_values_and_stretched_ones_hide_them():
    raw, stretched = pixels_of(heat_map(traversal())), pixels_of(heat_map(traversal(), stretched=True))
    assert raw.shape == stretched.shape == (2, 6, 3)
    assert tuple(raw[0, 3]) == heat_colour(1)  # 0.8 is the largest w
    assert tuple(map(int, raw[1, 0])) == pytest.approx(heat_colour(0.5 / 0.8), abs=6)
    assert tuple(stretched[1, 0]) == heat_colour(0) and tuple(stretched[1, 5]) == heat_colour(1)
    # a model that hardly traverses: stretched it looks the same, its numbers do not
    faint = traversal(scale=0.001)
    assert np.array_equal(pixels_of(heat_map(faint, stretched=True)), stretched)
    assert "0.1 – 0.8" in heat_map(traversal(), stretched=True) and "0.0001 – 0.0008" in heat_map(faint, stretched=True)
    assert "0 to 0.8" in heat_map(traversal()) and "own range" in heat_map(traversal(), stretched=True)


def test_an_overlay_lays_each_token_where_it_is_in_the_picture():
    picture = Image.new("RGB", (40, 20), "white")
    overlay = draw_overlay(picture, torch.tensor([[0.0, 1.0]]), 0.0, 1.0, size_px=80)
    assert overlay.size == (80, 40)
    assert overlay.getpixel((10, 20)) == heat_colour(0)
    assert overlay.getpixel((70, 20)) == heat_colour(1)
    picture.paste("black", (20, 0, 40, 20))
    shaded = draw_overlay(picture, torch.tensor([[0.0, 1.0]]), 0.0, 1.0, size_px=80)
    assert sum(shaded.getpixel((70, 20))) < sum(heat_colour(1))  # the picture shows through


@pytest.mark.parametrize("shades", [(0, 0), (76, 76), (255, 255), (0, 25), (30, 200)])
def test_where_a_picture_is_brightest_the_colours_are_the_legends(shades):
    """Also in a picture of one colour, black or not."""
    picture = Image.new("L", (40, 20), shades[0])
    picture.paste(shades[1], (20, 0, 40, 20))
    overlay = draw_overlay(picture.convert("RGB"), torch.ones(1, 2), 0.0, 1.0, size_px=40)
    assert overlay.getpixel((35, 10)) == heat_colour(1)
    assert (overlay.getpixel((5, 10)) == heat_colour(1)) == (shades[0] == shades[1])


def test_a_long_prompt_gets_no_token_labels_and_a_short_one_does():
    short = traversal()
    assert "red?" in heat_map(short)
    many = 300
    flags = tuple(10 <= i < 210 for i in range(many))
    long = Traversal("q", torch.rand(1, many), (0,), ("word",) * many, flags, ())
    assert "200 image tokens" in heat_map(long) and ">word<" not in heat_map(long)
    assert traversal_section([long])  # without pictures too
    assert traversal_section([]) == ""


def test_the_gallery_takes_rows_as_they_come_and_then_mistakes():
    picture = Image.new("RGB", (8, 8), "red")
    question = [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]
    rows = [Row(str(i), "t", [{"role": "user", "content": question}], "yes") for i in range(8)]
    right = [True, False, True, True, True, False, False, True]

    def sample(row, is_right):
        said = "yes" if is_right else "no"
        scores = {"model": {"t": float(is_right)}, "shuffled": {"t": 0.0}, "prior": {"t": 0.0}}
        return Sample(row.id, "t", f"what? {row.id}", "yes", {"model": said, "shuffled": "maybe", "prior": ""}, scores)

    samples = [sample(row, flag) for row, flag in zip(rows, right, strict=True)]
    shown = choose_gallery(rows, samples, per_task=3, more_wrong=1)
    assert [item.question[-1] for item in shown] == ["0", "1", "2", "5"]
    assert [item.right for item in shown] == [True, False, True, False]
    assert shown[0].picture.getpixel((0, 0)) == (255, 0, 0) and shown[0].said_blind == "maybe"
