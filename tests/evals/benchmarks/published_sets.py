"""Small made-up sets, each in the files that a benchmark publishes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet


def png(number: int, size_px: tuple[int, int] = (24, 16)) -> bytes:
    """Return a picture of one colour, another one for each number."""
    packed = io.BytesIO()
    Image.new("RGB", size_px, (number * 40 % 256, number * 90 % 256, number * 7 % 256)).save(packed, "png")
    return packed.getvalue()


def cell(number: int, **more: Any) -> dict[str, Any]:
    return {"bytes": png(number, **more), "path": f"{number}.png"}


def save(path: Path, content: bytes | str | Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")


def save_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def save_table(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = ["\t".join(rows[0])] + ["\t".join(str(value) for value in row.values()) for row in rows]
    save(path, "\n".join(lines) + "\n")


def scienceqa(root: Path) -> None:
    choices, answers = ["iron", "wood", "glass"], (1, 0, 2, 0)
    problems = {
        str(number): {
            "question": f"Which one is it, {number}?",
            "choices": choices,
            "answer": answers[number],
            "hint": "Look closely." if number else "",
            "image": None if number == 3 else "image.png",
            "subject": "natural science" if number < 2 else "social science",
        }
        for number in range(4)
    }
    save(root / "ScienceQA/problems.json", problems)
    save(root / "ScienceQA/pid_splits.json", {"test": ["0", "1", "2", "3"], "val": ["0"], "train": []})
    for number in range(3):
        save(root / f"ScienceQA/images/test/{number}/image.png", png(number))


def ai2d(root: Path) -> None:
    texts = ["leaf", "root", "stem", "seed"]
    for number in range(3):
        asked = {
            f"What is at T in {number}?": {
                "abcLabel": number == 1,
                "answerTexts": texts,
                "correctAnswer": number,
                "questionId": f"{number}.png-0",
            }
        }
        save(root / f"ai2d/questions/{number}.png.json", {"imageName": f"{number}.png", "questions": asked})
        save(root / f"ai2d/images/{number}.png", png(number))
        save(root / f"ai2d/abc_images/{number}.png", png(number + 10))
    save(root / "ai2d/ai2d_test_ids.csv", "0\n1\n")


def chartqa(root: Path) -> None:
    human = [
        {"imgname": "1.png", "query": "How many bars?", "label": "5"},
        {"imgname": "1.png", "query": "Is the blue bar larger?", "label": "Yes"},
    ]
    augmented = [
        {"imgname": "2.png", "query": "What was the turnover in 2010?", "label": "1200"},
        {"imgname": "2.png", "query": "Which country led in 2011?", "label": "Norway"},
        {"imgname": "3.png", "query": "What share was it?", "label": "12"},
        {"imgname": "4.png", "query": "What share was it?", "label": "13"},
    ]
    save(root / "ChartQA/test/test_human.json", human)
    save(root / "ChartQA/test/test_augmented.json", augmented)
    for number in (1, 2, 3, 4):
        save(root / f"ChartQA/test/png/{number}.png", png(number))


def seed_img(root: Path) -> None:
    asked = [
        {
            "answer": "ABCD"[number],
            **{f"choice_{letter}": word for letter, word in zip("abcd", ("One", "Two", "Three", "Four"), strict=True)},
            "data_id": f"{number}_7",
            "data_type": "video" if number == 3 else "image",
            "question": f"How many towels are in {number}?",
            "question_id": str(100 + number),
            "question_type_id": 10 if number == 3 else (5, 1, 5)[number],
        }
        for number in range(4)
    ]
    save(root / "SEED-Bench/SEED-Bench.json", {"questions": asked, "question_type": {"Instances Counting": 5}})
    for number in range(3):
        save(root / f"SEED-Bench/SEED-Bench-image/{number}_7", png(number))


def seed_2_plus(root: Path) -> None:
    folder = root / "SEED-Bench-2-plus"
    asked = [
        {
            "answer": "BC"[number],
            **{f"choice_{letter}": word for letter, word in zip("ABCD", ("Oslo", "Bonn", "Rome", "Bern"), strict=True)},
            "data_id": f"text_rich/{number}.png",
            "question": f"Where does line {number} end?",
            "question_id": f"text_rich_{number}",
            "question_image_type": ("map", "chart")[number],
        }
        for number in range(2)
    ]
    save(folder / "SEED-Bench-2-plus-text-rich.json", asked)
    for number in range(2):
        save(folder / f"text_rich/{number}.png", png(number))


def pope(root: Path) -> None:
    for way in ("random", "popular", "adversarial"):
        lines = [
            {
                "question_id": number + 1,
                "image": f"COCO_val2014_{number // 2}.jpg",
                "text": f"Is there a {'dog' if number % 2 else 'tree'} in the image?",
                "label": "no" if number % 2 else "yes",
            }
            for number in range(6)
        ]
        save(root / f"POPE/coco_pope_{way}.json", "".join(json.dumps(line) + "\n" for line in lines))
    for number in range(3):
        save(root / f"coco2014/val2014/COCO_val2014_{number}.jpg", png(number))


def hallusionbench(root: Path) -> None:
    def asked(category: str, figure: int, question: int, answer: str, shown: bool) -> dict[str, Any]:
        return {
            "category": category,
            "subcategory": "chart" if category == "VS" else "illusion",
            "visual_input": "1" if shown else "0",
            "set_id": "0",
            "figure_id": str(figure),
            "question_id": str(question),
            "question": f"Is circle {question} larger?",
            "gt_answer_details": "...",
            "gt_answer": answer,
            "filename": f"./{category}/{figure}.png" if shown else None,
        }

    save(
        root / "HallusionBench/HallusionBench.json",
        [
            asked("VD", 0, 0, "1", True),
            asked("VD", 0, 1, "0", True),
            asked("VD", 1, 0, "0", True),
            asked("VD", 1, 1, "1", True),
            asked("VS", 0, 0, "1", False),
            asked("VS", 1, 0, "0", True),
        ],
    )
    for name in ("VD/0", "VD/1", "VS/1"):  # as published, some files end otherwise than the list says
        save(
            root / f"HallusionBench/hallusion_bench/{name}.{'PNG' if name == 'VS/1' else 'png'}",
            png(len(name) + ord(name[-1]) + ord(name[1])),
        )


def mme(root: Path) -> None:
    folder = root / "MME_Benchmark_release_version"
    for number in range(2):
        lines = [f"Is there a {thing} in this image? Please answer yes or no." for thing in ("cat", "dog")]
        text = f"{lines[0]}\tYes\n{lines[1]}\tNo\n"
        save(folder / f"existence/{number}.txt", text)
        save(folder / f"existence/{number}.jpg", png(number))
        save(folder / f"code_reasoning/questions_answers_YN/{number}.txt", text)
        save(folder / f"code_reasoning/images/{number}.png", png(number + 5))


def _mmbench_rows(words: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "question": f"{words[0]} {index}?",
            "hint": words[1] if index == 7 else "",
            "A": words[2],
            "B": words[3],
            "C": "None" if index == 7 else "",
            "D": "",
            "answer": {7: "C", 9: "A", 11: "B"}[index],
            "category": "scene" if index == 7 else "style",
            "image": base64.b64encode(png(index)).decode(),
        }
        for index in (7, 9, 11)
    ]


def mmbench(root: Path) -> None:
    save_table(root / "MMBench/mmbench_dev_20230712.tsv", _mmbench_rows(("What is it", "Look.", "red", "blue")))


def mmbench_cn(root: Path) -> None:
    save_table(root / "MMBench/mmbench_dev_cn_20231003.tsv", _mmbench_rows(("这是什么", "请看。", "红色", "蓝色")))


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


def qbench(root: Path) -> None:
    asked = [
        {
            "img_path": f"{number}.jpg",
            "question": "Is this picture clear?" if number else "How sharp is it?",
            "candidates": ["Yes", "No"] if number else ["Sharp", "Fair", "Blurred"],
            "correct_ans": "No" if number else "Fair",
            "type": 0 if number else 2,
            "concern": 0,
        }
        for number in range(2)
    ]
    save(root / "LLVisionQA-QBench/llvisionqa_dev.json", asked)
    for number in range(2):
        save(root / f"LLVisionQA-QBench/images/{number}.jpg", png(number))


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


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (
        scienceqa,
        ai2d,
        chartqa,
        seed_img,
        seed_2_plus,
        pope,
        hallusionbench,
        mme,
        mmbench,
        mmbench_cn,
        mmstar,
        qbench,
        cvbench,
        blink,
        mathvista,
        visualwebbench,
    )
}
