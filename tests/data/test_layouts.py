"""Each published layout, with a made-up row in it: what is read must be the same conversation every time."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from phantrol.data.broken import BrokenRow
from phantrol.data.layouts import read_draft
from phantrol.data.pictures import picture_size, place

P = "P"  # stands for a picture in what is expected
PNG = io.BytesIO()
Image.new("RGB", (5, 4), "red").save(PNG, "PNG")
STRUCT = {"bytes": PNG.getvalue(), "path": None}
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG.getvalue()).decode()
ASKED = [("user", P, "What color?"), ("assistant", "red")]
PLAIN = [("user", "What color?"), ("assistant", "red")]
TWICE = [*ASKED, ("user", "And the sky?"), ("assistant", "blue")]
NO, MAYBE = ("green", "incorrect"), ("red or green", "ambiguous")


def said(**roles):
    return [{"role": role, "content": text} for role, text in roles.items()]


def human(text):
    return {"from": "human", "value": text}


LLAVA = [human("<image>\nWhat color?"), {"from": "gpt", "value": "red"}]
MORE = [human("And the sky?"), {"from": "gpt", "value": "blue"}]
PARTS = [{"type": "image"}, {"type": "text", "text": "What color?"}]
ARROW_PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What color?"}]

# name: (row, conversation, rejected)
LAYOUTS = {
    # as people have it
    "LLaVA": ({"id": 1, "image": "red.png", "conversations": LLAVA}, ASKED, []),
    "LLaVA, several turns": ({"image": "red.png", "conversations": LLAVA + MORE}, TWICE, []),
    "LLaVA, text only": ({"conversations": [human("What color?"), LLAVA[1]]}, PLAIN, []),
    "LLaVA, several images": (
        {"image": ["red.png", "green.jpg"], "conversations": [human("<image>\n<image>\nSame?"), LLAVA[1]]},
        [("user", P, P, "Same?"), ("assistant", "red")],
        [],
    ),
    "the picture comes after": (
        {"image": "red.png", "conversations": [human("What color?\n<image>"), LLAVA[1]]},
        [("user", "What color?", P), ("assistant", "red")],
        [],
    ),
    "a picture in the second question": (
        {"images": ["red.png", "green.jpg"], "conversations": [*LLAVA, human("<image>Now?"), LLAVA[1]]},
        [*ASKED, ("user", P, "Now?"), ("assistant", "red")],
        [],
    ),
    "ShareGPT": (
        {
            "system": "Be brief.",
            "conversations": [{"from": "user", "value": "What color?"}, {"from": "chatgpt", "value": "red"}],
        },
        [("system", "Be brief."), *PLAIN],
        [],
    ),
    "ShareGPT with a wrong answer": (
        {
            "images": ["red.png"],
            "conversations": LLAVA[:1],
            "chosen": LLAVA[1],
            "rejected": {"from": "gpt", "value": "green"},
        },
        ASKED,
        [NO],
    ),
    "messages": ({"messages": said(user="What color?", assistant="red")}, PLAIN, []),
    "messages with parts": (
        {"images": ["red.png"], "messages": [{"role": "user", "content": PARTS}, *said(assistant="red")]},
        ASKED,
        [],
    ),
    "messages with parts from Arrow": (
        {"images": [STRUCT], "messages": [{"role": "user", "content": ARROW_PARTS}, *said(assistant="red")]},
        ASKED,
        [],
    ),
    "messages that hold their pictures": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": "red.png"}, PARTS[1]]},
                *said(assistant="red"),
            ]
        },
        ASKED,
        [],
    ),
    "messages of OpenAI": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}, PARTS[1]]},
                *said(assistant="red"),
            ]
        },
        ASKED,
        [],
    ),
    "trl, preferences": (
        {
            "images": ["red.png"],
            "prompt": [{"role": "user", "content": PARTS}],
            "chosen": said(assistant="red"),
            "rejected": said(assistant="green"),
        },
        ASKED,
        [NO],
    ),
    "trl, preferences as text": ({"prompt": "What color?", "chosen": "red", "rejected": "green"}, PLAIN, [NO]),
    "trl, preferences without a prompt": (
        {"chosen": said(user="What color?", assistant="red"), "rejected": said(user="What color?", assistant="green")},
        PLAIN,
        [NO],
    ),
    "trl, prompt and completion": (
        {"prompt": said(user="What color?"), "completion": said(assistant="red")},
        PLAIN,
        [],
    ),
    "phantrol's own triples": (
        {
            "id": "a/0/ambiguous",
            "images": [STRUCT],
            "prompt": said(user="What color?"),
            "chosen": said(assistant="red"),
            "rejected": said(assistant="red or green"),
            "rejected_type": "ambiguous",
        },
        ASKED,
        [MAYBE],
    ),
    "The Cauldron": (
        {
            "images": [STRUCT],
            "texts": [
                {"user": "What color?", "assistant": "red", "source": "x"},
                {"user": "And the sky?", "assistant": "blue", "source": "x"},
            ],
        },
        TWICE,
        [],
    ),
    "Alpaca": (
        {"instruction": "Which color?", "input": "a rose", "output": "red"},
        [("user", "Which color?\na rose"), PLAIN[1]],
        [],
    ),
    "Alpaca without input": ({"instruction": "What color?", "input": "", "output": "red"}, PLAIN, []),
    "a column of JSON": (
        {"conversations": '[{"from": "human", "value": "What color?"}, {"from": "gpt", "value": "red"}]'},
        PLAIN,
        [],
    ),
    "a number as an answer": (
        {"question": "How many?", "answer": 268},
        [("user", "How many?"), ("assistant", "268")],
        [],
    ),
    "a folder of images": ({"file_name": "red.png", "question": "What color?", "answer": "red"}, ASKED, []),
    # the source files of the papers
    "sharegpt4v_instruct_gpt4-vision_cap100k.json": (
        {"id": "0", "image": "red.png", "conversations": LLAVA},
        ASKED,
        [],
    ),
    "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json": (
        {"id": "w", "model": "", "image": "red.png", "conversations": LLAVA + MORE},
        TWICE,
        [],
    ),
    "Evol-Instruct-GPT4-Turbo-143K.json": (
        {"id": "allava_0", "conversations": [human("What color?"), LLAVA[1]]},
        PLAIN,
        [],
    ),
    "SMR.json": ({"id": "arxivqa_1", "image": "deep/blue.webp", "conversations": LLAVA}, ASKED, []),
    "train.jsonl (DocDownstream)": (
        {
            "image": ["./red.png"],
            "messages": said(user="<|image|>What color?", assistant="red"),
            "task_name": "qa_sft",
            "dataset_name": "DocVQA",
        },
        ASKED,
        [],
    ),
    "detailed_explanation.jsonl (DocReason)": (
        {
            "image": ["./red.png"],
            "messages": said(user="<|image|>What color?", assistant="red"),
            "task_name": "qa_sft",
            "dataset_name": "ChartQA",
        },
        ASKED,
        [],
    ),
    "minigemini_pretrain.json": ({"id": "a", "image": "red.png", "conversations": LLAVA}, ASKED, []),
    "minigemini_instruction.json": ({"id": "a", "image": "red.png", "conversations": LLAVA}, ASKED, []),
    "gllava_align.parquet": ({"image": "red.png", "conversations": LLAVA}, ASKED, []),
    "gllava_qa.parquet": ({"image": "red.png", "conversations": LLAVA}, ASKED, []),
    "mathvision.parquet": (
        {
            "id": "4",
            "question": "What color?\n<image1>",
            "options": [],
            "image": "images/4.jpg",
            "decoded_image": STRUCT,
            "answer": "red",
            "solution": None,
            "level": 1,
            "subject": "counting",
        },
        [("user", "What color?", P), ("assistant", "red")],
        [],
    ),
    "mathvision.parquet, with options": (
        {"question": "<image1> Which?", "options": ["red", "blue"], "decoded_image": STRUCT, "answer": "A"},
        [("user", P, "Which?\nA. red\nB. blue"), ("assistant", "A")],
        [],
    ),
    "mathvision.parquet, options in the picture": (
        {"question": "<image1>Which?", "options": ["A", "B"], "decoded_image": STRUCT, "answer": "A"},
        [("user", P, "Which?"), ("assistant", "A")],
        [],
    ),
    "MathInstruct.json": ({"source": "x.json", "output": "red", "instruction": "What color?"}, PLAIN, []),
    "mathplus.parquet": ({"instruction": "What color?", "output": "red"}, PLAIN, []),
    "Phantom.json, as the paper's appendix calls the parts": (
        {"image": "red.png", "Question": "<image>What color?", "Answer": "red", "Rejected": "green"},
        ASKED,
        [NO],
    ),
    "Phantom.json, chosen and rejected": (
        {"image": "red.png", "question": "What color?", "chosen": "red", "rejected": "green"},
        ASKED,
        [NO],
    ),
    "Phantom.json, beside the answer": (
        {"image": "red.png", "conversations": [LLAVA[0], {"from": "gpt", "value": "red", "rejected": "green"}]},
        ASKED,
        [NO],
    ),
    "Phantom.json, both kinds": (
        {"question": "What color?", "answer": "red", "incorrect": "green", "ambiguous": "red or green"},
        PLAIN,
        [NO, MAYBE],
    ),
    "Phantom.json, several": (
        {"question": "What color?", "answer": "red", "rejected": ["green", "blue"]},
        PLAIN,
        [NO, ("blue", "incorrect")],
    ),
}


def spoken(row, folder: Path, fields=None):
    draft = read_draft(row, fields)
    messages = place(draft, folder)
    return [(m.role, *(part if isinstance(part, str) else P for part in m.parts)) for m in messages], [*draft.rejected]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, pictures):
    row, conversation, rejected = LAYOUTS[name]
    assert spoken(row, pictures) == (conversation, rejected)
    for message in place(read_draft(row), pictures):
        assert all(min(picture_size(picture)) > 0 for picture in message.pictures)


def test_names_of_ones_own(pictures):
    row = {"frage": "What color?", "antwort": "red", "question": "not this", "bild": "red.png"}
    own = {"question": "frage", "answer": "antwort", "images": "bild"}
    assert spoken(row, pictures, own) == (ASKED, [])
    other_names = {"prompt": "frage", "response": "antwort", "image": "bild"}  # for the same
    assert spoken(row, pictures, other_names) == (ASKED, [])
    with pytest.raises(BrokenRow, match=r"got the fields frage, antwort.*; name your own: fields=question=frage,"):
        spoken(row, pictures)
    with pytest.raises(ValueError, match="fields: got 'asked', expected some of id, turns"):
        spoken(row, pictures, {"asked": "frage"})
    with pytest.raises(ValueError, match="fields: got question, prompt, of which two stand for the same"):
        read_draft(row, {"question": "frage", "prompt": "aufgabe"})


def test_the_rows_of_the_documentation_are_read(pictures):
    """The examples of docs/data.md that are whole rows."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    rows = [found for found in re.findall(r"`(\{[^`]*\})`(?=[ ,|:])", text) if "..." not in found]
    assert len(rows) >= 6
    for row in rows:
        conversation, _ = spoken(json.loads(row.replace("\\|", "|")), pictures)
        assert conversation[-1][0] == "assistant" and (P in conversation[0]) == ("mage" in row)
