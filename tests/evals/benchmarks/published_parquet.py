"""Small made-up sets of the benchmarks that are published as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from published_files import cell, png, save_rows


def mmstar(root: Path) -> None:
    rows = [
        {
            "index": number,
            "question": f"What is {number}?\nOptions: A: red, B: blue, C: green, D: pink",
            "image": png(number),
            "answer": "BD"[number],
            "category": ("math", "logical reasoning")[number],
            "l2_category": ("geometry", "diagram reasoning")[number],
            "meta_info": {"source": "made up"},
        }
        for number in range(2)
    ]
    save_rows(root / "MMStar/mmstar.parquet", rows)


def cvbench(root: Path) -> None:
    def asked(number: int, kind: str, task: str, source: str) -> dict[str, Any]:
        return {
            "idx": number,
            "type": kind,
            "task": task,
            "image": cell(number),
            "question": "How many?",
            "choices": ["2", "0", "3"],
            "answer": "(B)",
            "prompt": "How many? Select from the following choices.\n(A) 2\n(B) 0\n(C) 3",
            "source": source,
        }

    flat = [asked(0, "2D", "Count", "ADE20K"), asked(1, "2D", "Count", "COCO"), asked(2, "2D", "Relation", "COCO")]
    save_rows(root / "CV-Bench/test_2d.parquet", flat)
    save_rows(root / "CV-Bench/test_3d.parquet", [asked(3, "3D", "Depth", "Omni3D")])


def blink(root: Path) -> None:
    for task, number_of_pictures in {"Counting": 1, "Jigsaw": 3}.items():
        rows = [
            {
                "idx": f"val_{task}_{number}",
                "sub_task": task,
                "question": "Which?",
                **{
                    f"image_{i}": cell(number + 3 * i, size_px=(24, 8 + 8 * (i == 1)))
                    if i <= number_of_pictures
                    else None
                    for i in range(1, 5)
                },
                "choices": ["the left", "the right"],
                "answer": "(B)",
                "prompt": "Which?\n(A) the left\n(B) the right",
            }
            for number in range(2)
        ]
        save_rows(root / f"BLINK/{task}/val-00000-of-00001.parquet", rows)


def mathvista(root: Path) -> None:
    def asked(pid: int, answer: str, answer_type: str, precision: float | None = None, choices: Any = None) -> Any:
        return {
            "pid": str(pid),
            "question": "How much?",
            "image": f"images/{pid}.jpg",
            "decoded_image": cell(pid),
            "choices": choices,
            "unit": None,
            "precision": precision,
            "answer": answer,
            "question_type": "multi_choice" if choices else "free_form",
            "answer_type": answer_type,
            "metadata": {"task": "geometry problem solving" if choices else "math word problem"},
            "query": f"Hint: Please answer.\nQuestion: How much, {pid}?",
        }

    rows = [
        asked(1, "1.2", "float", 1.0),
        asked(2, "1000", "integer"),
        asked(3, "145°", "text", None, ["135°", "140°", "145°"]),
        asked(4, "[1, 2]", "list"),
    ]
    save_rows(root / "MathVista/data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows)


def visualwebbench(root: Path) -> None:
    box = [0.1, 0.25, 0.5, 0.75]
    rows = {
        "web_caption": {"answer": "A shop for shoes. Free returns"},
        "heading_ocr": {"answer": "Welcome to the zoo"},
        "webqa": {"question": "Who wrote it?", "answer": ["Ada Lovelace", "Lovelace"]},
        "element_ocr": {"bbox": box, "answer": "Sign up here"},
        "element_ground": {"elem_desc": "the search field", "answer": 2},
        "action_prediction": {"bbox": box, "options": ["Home", "Cart", "Help"], "answer": 1},
        "action_ground": {"instruction": "log in", "answer": 0},
    }
    for number, (task, facts) in enumerate(rows.items()):
        made = [{"id": f"{task}_{i}", "task_type": task, "image": cell(number + 10 * i), **facts} for i in range(2)]
        save_rows(root / f"VisualWebBench/{task}/test-00000-of-00001.parquet", made)
