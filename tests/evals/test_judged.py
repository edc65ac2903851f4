"""Judged sets: made-up files in the published formats, answers for the official graders, a judge that is a server."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest
from PIL import Image

import phantrol
from phantrol.evals.card import find_headline, read_reports
from phantrol.evals.evaluation import evaluate_rows
from phantrol.evals.judging import Judge, judge_answers
from phantrol.evals.metrics import wilson_interval
from phantrol.evals.runner import Wanted, run_benchmarks
from phantrol.evals.score_intervals import find_intervals
from phantrol.evals.tables import collect, to_markdown
from phantrol.find import find, names
from phantrol.models.image_processing import load_picture
from phantrol.models.tokenizer import train_tokenizer

JUDGED = ("llava_w", "llava_wilder", "mathverse", "mathvista_judged", "mm_vet", "mm_vet_v2")
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with one small set of each kind, as published."""
    root = tmp_path_factory.mktemp("sets")
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    pictures = {name: Image.new("RGB", (20, 10), colour) for name, colour in colours.items()}

    def folder(name, *shown):
        (root / name / "images").mkdir(parents=True)
        for each in shown:
            pictures[each].save(root / name / "images" / f"{each}.png")
        return root / name

    vet = folder("mm-vet", "red", "blue")
    entries = {
        "v1_0": {
            "imagename": "red.png",
            "question": "What is x?",
            "answer": "-1<AND>-5",
            "capability": ["ocr", "math"],
        },
        "v1_1": {"imagename": "blue.png", "question": "Who is it?", "answer": "Ada<OR>Byron", "capability": ["rec"]},
    }
    (vet / "mm-vet.json").write_text(json.dumps(entries))
    vet = folder("mm-vet-v2", "red", "blue")
    asked = "Compare<IMG>red.png<IMG>with<IMG>blue.png"
    entries = {"v2_0": {"question": asked, "answer": "colour", "capability": ["rec", "seq"], "added_in": "v2"}}
    (vet / "mm-vet-v2.json").write_text(json.dumps(entries))
    wild = folder("llava-bench-in-the-wild", "red", "blue")
    kinds = (("red", "conv"), ("red", "detail"), ("blue", "conv"))
    lines = {
        "questions": [
            {"question_id": i, "image": f"{n}.png", "text": f"Ask {i}?", "category": kind}
            for i, (n, kind) in enumerate(kinds)
        ],
        "context": [{"id": n, "image": f"{n}.png", "caption": f"All is {n}."} for n in ("red", "blue")],
        "answers_gpt4": [{"question_id": i, "text": f"reference {i}"} for i in range(3)],
    }
    for name, objects in lines.items():
        (wild / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in objects))
    wilder = root / "LLaVA-Bench-Wilder" / "data"
    wilder.mkdir(parents=True)
    table = [
        {"question_id": f"w{i}", "Question": f"Wild {i}?", "Answer": f"right {i}", "Category": "x", "image": picture}
        for i, picture in enumerate(pictures.values())
    ]
    datasets.Dataset.from_list(table).cast_column("image", datasets.Image()).to_parquet(str(wilder / "small.parquet"))
    verse = folder("mathverse", "red", "blue")
    problem = {"question": "What is 1 + 1?", "answer": "2", "question_type": "free-form", "query_wo": "Q: 1 + 1?"}
    entries = [
        {**problem, "sample_index": str(p * 5 + v), "problem_index": str(p), "problem_version": version,
         "image": f"images/{('red', 'blue')[p]}.png", "metadata": {"subject": "Algebra"}}
        for p in range(2)
        for v, version in enumerate(VERSIONS)
    ]  # fmt: skip
    (verse / "testmini.json").write_text(json.dumps(entries))
    text_only = [{**entries[0], "problem_version": "Text_Only", "image": "", "problem_index": str(p)} for p in range(2)]
    (verse / "testmini_text_only.json").write_text(json.dumps(text_only))
    vista = root / "mathvista"
    vista.mkdir()
    shared = {"question": "Q", "unit": "", "metadata": {"task": "figure"}}
    kinds = [
        {"question_type": "multi_choice", "answer_type": "text", "choices": ["12 cm", "17 cm"], "answer": "17 cm"},
        {"question_type": "free_form", "answer_type": "integer", "choices": None, "answer": "14"},
        {"question_type": "free_form", "answer_type": "float", "choices": None, "answer": "1.2"},
        {"question_type": "free_form", "answer_type": "list", "choices": None, "answer": "[2007, 2008]"},
    ]
    table = [
        {**shared, **kind, "query": f"Q{i}", "precision": 1.0, "pid": str(i), "decoded_image": pictures["red"]}
        for i, kind in enumerate(kinds)
    ]
    data = datasets.Dataset.from_list(table).cast_column("decoded_image", datasets.Image())
    data.to_parquet(str(vista / "testmini-0.parquet"))
    return root


def evaluated(name, sets, say, **options):
    """Ask a benchmark an engine that answers with `say(number of the row)`."""
    asked = []

    def answer_each(chats, max_new_tokens, batch_size, **more):
        asked.extend(chats)
        return ((i, SimpleNamespace(text=say(i))) for i in range(len(chats)))

    benchmark = find("benchmarks", name)(data=sets, **options)
    engine = SimpleNamespace(name="runs/mine", answer_each=answer_each)
    found = evaluate_rows(engine, benchmark, benchmark.default_split, limit=None)
    return found, asked


def test_they_are_benchmarks():
    assert {name for name in names("benchmarks") if find("benchmarks", name).judged} == set(JUDGED)


@pytest.mark.parametrize("name", JUDGED)
def test_asked_once_and_without_a_score(name, sets):
    found, asked = evaluated(name, sets, str)
    assert len(asked) == len({sample.prompt_sha256 for sample in found.report.samples})
    assert found.report.scores == {} and found.report.overall == {} and not found.report.missing
    assert all(set(sample.texts) == {"model"} for sample in found.report.samples)


def test_mm_vet(sets, server, tmp_path):
    found, _ = evaluated("mm_vet", sets, lambda i: f"said {i}")
    found.benchmark.write_official(found.rows, ["one", "zwei é"], "m", tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text()) == {"v1_0": "one", "v1_1": "zwei é"}
    server.say = lambda prompt: "0.5" if "-1 <AND> -5" in prompt else "1.0"
    graded, card = judge_answers(found, server.judge)
    assert graded.report.overall["overall"]["model"] == 0.75
    means = {name: scores["model"] for name, scores in graded.report.scores.items()}
    assert means == {"math": 0.5, "ocr": 0.5, "rec": 1.0}
    assert (card["model"], card["answered_as"], card["judged"], card["failed"]) == ("made-up", ["made-up-1"], 2, 0)
    assert {body["temperature"] for body, _ in server.asked} == {0}
    assert all(any(f"said {i}" in body["messages"][0]["content"] for body, _ in server.asked) for i in range(2))


def test_a_failed_judgement_is_missing_and_never_a_score(sets, server):
    found, _ = evaluated("mm_vet", sets, str)
    for reply, reason in (
        ("I think it is good", "expected a number"),
        (500, "says 500"),
        (400, "says 400"),
        ("", "without"),
    ):
        server.asked.clear()
        server.say = lambda prompt, reply=reply: reply if "Ada" in prompt else "0.4"
        graded, card = judge_answers(found, server.judge)
        assert [row.id for row in graded.report.missing] == ["v1_1"] and reason in graded.report.missing[0].reason
        assert graded.report.overall["overall"] == {"model": 0.4, "shuffled": None, "prior": None, "n": 1}
        assert "rec" not in graded.report.scores and (card["judged"], card["failed"]) == (1, 1)
        assert len(server.asked) == (5 if reply == 500 else 2)  # a server's fault is tried again, a refusal is not
    server.http.server_close()
    graded, card = judge_answers(found, Judge("http://127.0.0.1:9/v1", "none", wait_s=0.0))
    assert graded.report.samples == () and graded.report.overall == {} and card["failed"] == 2
    assert "does not answer" in graded.report.missing[0].reason


def test_what_the_judge_said_is_kept(sets, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    found, _ = evaluated("mathverse", sets, lambda i: f"The result is {i}")
    kept = tmp_path / "judgements.jsonl"
    server.say = lambda prompt: "1" if prompt.endswith("1 or 0:") else "2"
    first, _ = judge_answers(found, server.judge, kept)
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == 1 + len(server.asked) and "prompt" in lines[1] and lines[1]["model"] == "made-up-1"
    assert server.asked[0][1] == "Bearer hush" and "hush" not in kept.read_text()
    server.asked.clear()
    again, card = judge_answers(found, server.judge, kept)
    assert server.asked == [] and again.report == first.report and card["answered_as"] == ["made-up-1"]
    with pytest.raises(ValueError, match="model made-up"):
        judge_answers(found, Judge(server.judge.url, "another"), kept)


def test_mm_vet_v2_shows_pictures_where_they_belong(sets):
    _, (chat,) = evaluated("mm_vet_v2", sets, str)
    kinds = [part["type"] for part in chat[0]["content"]]
    assert kinds == ["text", "image", "text", "image"]
    _, (chat,) = evaluated("mm_vet_v2", sets, str, protocol="paper")
    picture, words = chat[0]["content"]
    joined = load_picture(picture["image"])
    assert words["text"] == "Compare\nwith" and joined.size == (20 + 10 + 20, 10)
    colours = [joined.getpixel((x, 5)) for x in (5, 25, 45)]
    assert colours == [(255, 0, 0), (0, 0, 0), (0, 0, 255)]


def test_llava_w(sets, server, tmp_path):
    found, _ = evaluated("llava_w", sets, lambda i: f"said {i}")
    found.benchmark.write_official(found.rows, ["a", "b", "c"], "mine", tmp_path / "o.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["prompt"], line["text"], line["model_id"]) for line in lines] == [
        (0, "Ask 0?", "a", "mine"), (1, "Ask 1?", "b", "mine"), (2, "Ask 2?", "c", "mine"),
    ]  # fmt: skip
    server.say = lambda prompt: "8 4\nbecause" if "Ask 1?" in prompt else "9, 10\nbecause"
    graded, _ = judge_answers(found, server.judge)
    assert graded.report.overall["overall"]["model"] == pytest.approx(24 / 26)
    assert graded.report.overall["conv"]["model"] == pytest.approx(20 / 18)  # better than the reference
    prompt = next(body["messages"][0]["content"] for body, _ in server.asked if "Ask 2?" in str(body))
    assert "All is blue." in prompt and "reference 2" in prompt and "said 2" in prompt


@pytest.mark.parametrize(
    ("grades", "ratio", "ends"),
    [(("8 9", "8 9", "8 8"), 26 / 24, (1.0, 18 / 16)), (("4 5", "4 5", "10 8"), 1.0, (0.8, 1.25))],
)
def test_the_interval_of_a_ratio_goes_beyond_one(grades, ratio, ends, sets, server):
    """The first two questions are about one picture: halves have the ratio of that one, or of the other."""
    found, _ = evaluated("llava_w", sets, str)
    server.say = lambda prompt: next(pair for i, pair in enumerate(grades) if f"Ask {i}?" in prompt)
    graded, _ = judge_answers(found, server.judge)
    intervals = find_intervals(found.benchmark, graded.rows, graded.report)
    assert graded.report.overall["overall"]["model"] == pytest.approx(ratio)
    assert intervals["overall"] == pytest.approx(ends)
    headline = find_headline(found.benchmark, graded.report, intervals)
    assert [headline[name] for name in ("value", "low", "high")] == pytest.approx([100 * x for x in (ratio, *ends)])


def test_llava_wilder_shows_the_judge_the_picture(sets, server):
    found, _ = evaluated("llava_wilder", sets, str)
    server.say = lambda prompt: "10 7\n"
    graded, _ = judge_answers(found, server.judge)
    assert graded.report.overall["overall"] == {"model": pytest.approx(0.7), "shuffled": None, "prior": None, "n": 3}
    content = server.asked[0][0]["messages"][0]["content"]
    assert content[1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_mathverse(sets, server, tmp_path):
    found, asked = evaluated("mathverse", sets, lambda i: "it is 2")
    assert [row.task for row in found.rows].count("Text Only") == 2
    assert len({str(chat[0]["content"]) for chat in asked if len(chat[0]["content"]) == 1}) == 1
    found.benchmark.write_official(found.rows, ["x"] * 12, "m", tmp_path / "o.json")
    official = json.loads((tmp_path / "o.json").read_text())
    assert official[0]["model_answer"] == "x" and official[0]["problem_version"] == "Text Dominant"
    server.say = lambda prompt: "2" if not prompt.endswith("1 or 0:") else "1"
    graded, _ = judge_answers(found, server.judge)
    assert graded.report.overall["overall"] == {"model": 1.0, "shuffled": None, "prior": None, "n": 10}
    paper, _ = evaluated("mathverse", sets, str, protocol="paper")
    assert judge_answers(paper, server.judge)[0].report.overall["overall"]["n"] == 12


def test_mathvista_in_full(sets, server, tmp_path):
    found, _ = evaluated("mathvista_judged", sets, lambda i: f"answer {i}")
    replies = {0: "17cm", 1: "14.0", 2: "1.23", 3: "[2007,2008]"}
    server.say = lambda prompt: next(reply for i, reply in replies.items() if f"answer {i}" in prompt)
    assert judge_answers(found, server.judge)[0].report.overall["overall"]["model"] == 1
    replies |= {0: "A", 1: "about 15", 2: "null", 3: "2007"}
    assert judge_answers(found, server.judge)[0].report.overall["overall"]["model"] == 0
    replies |= {1: "9" * 400, 2: "9" * 400, 3: "[{[]: 1}]"}  # no numbers to a float, and no list to Python
    assert judge_answers(found, server.judge)[0].report.overall["overall"] == {
        "model": 0, "shuffled": None, "prior": None, "n": 4,
    }  # fmt: skip
    found.benchmark.write_official(found.rows, list("abcd"), "m", tmp_path / "o.json")
    official = json.loads((tmp_path / "o.json").read_text())
    assert official["3"]["response"] == "d" and official["0"]["choices"] == ["12 cm", "17 cm"]


def test_one_question_alone(sets, tmp_path):
    root = shutil.copytree(sets / "llava-bench-in-the-wild", tmp_path / "llava_w")
    for file in root.glob("*.jsonl"):
        file.write_text(file.read_text().splitlines()[0] + "\n")
    assert [row.id for row in find("benchmarks", "llava_w")(data=tmp_path).rows("test")] == ["0"]


def test_a_missing_file_is_one_line(sets, tmp_path):
    with pytest.raises(ValueError, match=r"no mm-vet\.json"):
        (tmp_path / "images").mkdir()
        find("benchmarks", "mm_vet")(data=tmp_path).rows("test")
    with pytest.raises(ValueError, match="no split 'val'"):
        find("benchmarks", "mathverse")(data=sets).rows("val")


def test_the_whole_way(sets, server, tiny_model, tmp_path, capsys):
    tokenizer = train_tokenizer(["Ask this? What is x who it"] * 4, 300)
    made, processor = tiny_model(tokenizer, [phantrol.TrolConfig(gate_bias=0.2)], image_px=32, noise=0.4)
    made.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    path, both = tmp_path / "s.json", ["mm_vet", "llava_w"]
    options = ["max_new_tokens=6"]
    run_benchmarks(str(tmp_path / "model"), both, Wanted(), sets, json_path=path, options=options)
    assert "no judge was named" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "s.mm_vet.official.json").read_text())) == {"v1_0", "v1_1"}
    assert len((tmp_path / "s.llava_w.official.jsonl").read_text().splitlines()) == 3
    assert [report["card"]["headline"] for report in read_reports(path)] == [None, None]
    wanted = Wanted(judge=server.judge)
    server.say = lambda prompt: "I refuse"
    with pytest.raises(
        ValueError, match=r"mm_vet, llava_w: no answer could be judged by made-up: .*'I refuse'.*alone$"
    ):
        run_benchmarks(str(tmp_path / "model"), both, wanted, sets, json_path=path, options=options)
    with pytest.raises(ValueError, match=r"; mend that; with --json the answers would have been kept$"):
        run_benchmarks(str(tmp_path / "model"), ["llava_w"], wanted, sets, options=options)
    assert "has no score: none of 2 rows could be judged by made-up." in to_markdown(collect([path]))
    server.say = lambda prompt: "0.5" if prompt.endswith("Number:") else "10 8" if "Ask 0?" in prompt else "no"
    run_benchmarks(str(tmp_path / "model"), both, wanted, sets, json_path=path, options=options)
    vet, wild = read_reports(path)
    low, high = (
        pytest.approx(50 + sign * 50 * wilson_interval(0, 2)[1]) for sign in (-1, 1)
    )  # of two, both half right
    assert vet["card"]["headline"] == {"name": "overall", "value": 50.0, "low": low, "high": high, "scale": 100}
    assert vet["card"]["judge"]["model"] == "made-up" and "Ground truth" in vet["card"]["judge"]["prompts"]["share"]
    assert wild["card"]["headline"]["value"] == 80 and len(wild["missing"]) == 2
    assert "2 rows are missing" in capsys.readouterr().out
