"""Small made-up sets, each in the files that a benchmark publishes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from published_files import png, save, save_table
from published_parquet import blink, cvbench, mathvista, mmstar, visualwebbench


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


def mmbench_rows(words: tuple[str, ...]) -> list[dict[str, Any]]:
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
    save_table(root / "MMBench/mmbench_dev_20230712.tsv", mmbench_rows(("What is it", "Look.", "red", "blue")))


def mmbench_cn(root: Path) -> None:
    save_table(root / "MMBench/mmbench_dev_cn_20231003.tsv", mmbench_rows(("这是什么", "请看。", "红色", "蓝色")))


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
