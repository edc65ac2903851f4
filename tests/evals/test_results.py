"""Results that can be trusted: answers that are kept, a card, comparisons, tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from phantrol.evals.card import read_reports
from phantrol.evals.compare import compare_files
from phantrol.evals.fingerprints import prompt_sha256, weights_sha256
from phantrol.evals.journal import Journal
from phantrol.evals.runner import Wanted, run_benchmarks
from phantrol.inference.engine import Engine
from phantrol.models.tokenizer import train_tokenizer

OPTIONS = ["tasks=shape,captions,existence"]
SPEAKER = {"weights_sha256": "abc", "dtype": "float32"}


def test_the_card(models, scored):
    (report,) = read_reports(scored / "a.json")
    card = report["card"]
    file = Path(models[0]) / "model.safetensors"
    said = subprocess.run(["sha256sum", file], capture_output=True, text=True).stdout.split()[0]
    assert card["speaker"]["weights_sha256"] == said
    assert card["speaker"]["decoding"] == {"do_sample": False, "num_beams": 1}
    assert card["speaker"]["dtype"] == "float32"
    assert {"phantrol", "torch", "transformers", "python"} <= set(card["speaker"]["versions"])
    assert (card["batch_size"], card["limit"], card["usual_split"], card["protocol"]) == (16, 8, True, None)
    assert card["max_new_tokens"] == {"shape": 8, "captions": 64, "existence": 8}
    assert card["options"]["tasks"] == ["shape", "captions", "existence"]
    assert card["batch_check"] == {"batch_size": 1, "rows": 5, "different": 0}
    for name, (low, high) in card["intervals"].items():
        if name in report["scores"]:
            assert low <= report["scores"][name]["model"] <= high
            assert high > low  # also where no answer is right
    assert card["headline"]["name"] == "mean of tasks"


def test_the_same_card_from_batches_of_1_and_of_16(compared):
    (one,), (many,) = (read_reports(compared / name) for name in ("alone.json", "a.json"))
    assert one["card"].pop("batch_size") == 1 and many["card"].pop("batch_size") == 16
    assert one["card"].pop("batch_check") == {"batch_size": 16, "rows": 5, "different": 0}
    many["card"].pop("batch_check")
    assert one == many


def test_a_comparison(compared):
    found = compare_files(compared / "a.json", compared / "b.json")
    names = [each.name for each in found.differences]
    assert names[:2] == ["shape", "captions"] and "mean of tasks" in names and "existence_f1" in names
    (a,), (b,) = (read_reports(compared / name) for name in ("a.json", "b.json"))
    for each in found.differences:
        if each.name in a["scores"]:
            assert (each.a, each.b) == (a["scores"][each.name]["model"], b["scores"][each.name]["model"])
            assert each.low is None or each.low <= each.b - each.a <= each.high
            assert each.p <= each.p_holm <= 1
    assert next(each for each in found.differences if each.name == "existence_f1").p is None
    assert found.remarks == ()
    same = compare_files(compared / "a.json", compared / "alone.json")
    assert all(each.a == each.b and each.p in (1.0, None) for each in same.differences)
    assert any("same weights" in remark for remark in same.remarks)
    assert any("batch_size is 16 and 1" in remark for remark in same.remarks)


def test_every_answer_is_kept_with_its_prompt(scored):
    lines = [json.loads(line) for line in (scored / "a.primer.answers.jsonl").read_text().splitlines()]
    assert set(lines[0]["speaker"]) >= {"weights_sha256", "decoding", "dtype", "versions"}
    (report,) = read_reports(scored / "a.json")
    kept = {line["prompt_sha256"] for line in lines[1:]}
    assert {row["prompt_sha256"] for row in report["rows"]} < kept  # and those with shuffled images
    assert {line["column"] for line in lines[1:]} == {"model", "shuffled"}
    assert all(line["finish_reason"] in ("stop", "length") and line["num_new_tokens"] for line in lines[1:])


def test_what_is_kept_is_not_asked_again(models, scored, tmp_path, monkeypatch):
    for end in ("json", "primer.answers.jsonl"):
        (tmp_path / f"a.{end}").write_bytes((scored / f"a.{end}").read_bytes())
    monkeypatch.setattr(Engine, "_generate", lambda *args, **options: pytest.fail("the model was asked"))
    wanted = Wanted(limit=8, batch_size=16)
    run_benchmarks(models[0], ["primer"], wanted, json_path=tmp_path / "a.json", options=OPTIONS)
    (again,), (before,) = read_reports(tmp_path / "a.json"), read_reports(scored / "a.json")
    before["card"]["batch_check"] = None
    assert again == before
    with pytest.raises(ValueError, match="holds answers with weights_sha256"):
        run_benchmarks(models[1], ["primer"], wanted, json_path=tmp_path / "a.json", options=OPTIONS)


ANSWERING = """
import sys, time
from phantrol.evals.runner import Wanted, run_benchmarks
from phantrol.inference.engine import Engine
generate, batches = Engine._generate, []
def until_the_fourth(*args, **options):
    batches.append(args)
    if len(batches) == 4:
        time.sleep(1000)  # here it is killed
    return generate(*args, **options)
Engine._generate = until_the_fourth
model, path = sys.argv[1:]
run_benchmarks(model, ["primer"], Wanted(limit=8, batch_size=2), json_path=path, options=["tasks=shape,existence"])
"""


def test_a_run_that_is_killed_goes_on(models, tmp_path, monkeypatch):
    path, answers = tmp_path / "k.json", tmp_path / "k.primer.answers.jsonl"
    process = subprocess.Popen([sys.executable, "-c", ANSWERING, models[0], str(path)], env=dict(os.environ))
    while process.poll() is None and (not answers.exists() or answers.read_bytes().count(b"\n") < 7):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = answers.read_bytes().count(b"\n") - 1
    assert kept == 6 and not path.exists()
    with answers.open("ab") as file:
        file.write(b'{"prompt_sha256": "cut off')  # as a kill in the middle of a line leaves it
    asked = []
    generate = Engine._generate
    monkeypatch.setattr(
        Engine, "_generate", lambda self, prompts, *rest: (asked.extend(prompts), generate(self, prompts, *rest))[1]
    )
    options = ["tasks=shape,existence"]
    (after,) = run_benchmarks(models[0], ["primer"], Wanted(limit=8, batch_size=4), json_path=path, options=options)
    assert len(asked) == 32 - kept
    assert after.card.batch_size == [2, 4]
    (fresh,) = run_benchmarks(models[0], ["primer"], Wanted(limit=8, batch_size=4), options=options)
    assert fresh.samples == after.samples


def test_a_journal(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Journal(path, SPEAKER) as journal:
        journal.add([{"prompt_sha256": "p", "max_new_tokens": 8, "text": "né", "batch_size": 3}])
    with Journal(path, SPEAKER) as journal:
        assert journal.get("p", 8)["text"] == "né" and journal.get("p", 9) is None
        assert journal.batch_sizes == [3]
    with pytest.raises(ValueError, match="dtype float32, and now it is bfloat16"):
        Journal(path, SPEAKER | {"dtype": "bfloat16"})
    path.write_text("no journal\n")
    with pytest.raises(ValueError, match="no file of answers"):
        Journal(path, SPEAKER)


HEAD, LINE = json.dumps({"speaker": SPEAKER}), '{"prompt_sha256": "p", "max_new_tokens": 4, "text": "hi"}'


@pytest.mark.parametrize(
    "lines",
    [
        (HEAD, LINE, HEAD, LINE),  # two of them, one behind the other
        (HEAD, "{}", LINE),
        (HEAD, LINE.replace('"p"', "[]")),
        (HEAD, LINE.replace('"hi"', "5")),
        (HEAD, LINE.replace("4", "null")),
        (HEAD, LINE, LINE.replace('"text"', '"batch_size": "a", "text"')),
        (HEAD, "[" * 100_000),
        ('{"speaker": "x"}', LINE),
        ('{"speaker": null}', LINE),
        (LINE,),
    ],
)
def test_other_json_is_no_journal(lines, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join((HEAD, LINE)) + "\n")
    with Journal(path, SPEAKER) as journal:
        assert journal.get("p", 4)["text"] == "hi"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl is no file of answers: remove it, or write elsewhere$"):
        Journal(path, SPEAKER)


def test_a_second_process_is_refused_a_journal(tmp_path):
    path = tmp_path / "a.pope.answers.jsonl"
    with Journal(path, SPEAKER) as journal:
        code = f"from phantrol.evals.journal import Journal; Journal({str(path)!r}, {SPEAKER!r})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert second.returncode and "is in use by another process: wait for it" in second.stderr
        journal.add([{"prompt_sha256": "p", "max_new_tokens": 8, "text": "yes", "batch_size": 1}])
    assert len(path.read_text().splitlines()) == 2  # the refused one left nothing
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0  # the lock went with the first


def test_a_prompt_is_its_words_and_its_pixels(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    for name in ("one", "two"):
        red.save(tmp_path / f"{name}.png")

    def asked(picture, text="What?"):
        return prompt_sha256(
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]
        )

    assert asked(tmp_path / "one.png") == asked(tmp_path / "two.png") == asked((tmp_path / "one.png").read_bytes())
    assert len({asked(red), asked(blue), asked(red, "What? "), asked(tmp_path / "one.png")}) == 4
    with pytest.raises(ValueError, match=r"none\.png"):
        asked(tmp_path / "none.png")


def test_weights_in_memory_have_a_hash_too(tiny_model):
    tokenizer = train_tokenizer(["red blue"] * 4, 300)
    model, _ = tiny_model(tokenizer, [])
    before = weights_sha256(model)
    assert weights_sha256(model) == before
    next(model.parameters()).data.view(-1)[0] += 1
    assert weights_sha256(model) != before


BROKEN = """
from dataclasses import dataclass
from pathlib import Path
from PIL import Image
from phantrol.evals.benchmark import Benchmark, Row

@dataclass(frozen=True)
class Folder(Benchmark):
    data: Path | None = None
    def rows(self, split, limit=None, seed=0):
        ask = {"type": "text", "text": "Which color?"}
        files = sorted(self.data.iterdir())
        return [
            Row(file.stem, "paint", [{"role": "user", "content": [{"type": "image", "path": str(file)}, ask]}], "red")
            for file in files
        ]

BENCHMARK = Folder
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder.py").write_text(BROKEN)
    (tmp_path / "pictures").mkdir()
    for i, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def test_a_picture_that_cannot_be_read(models, folder, capsys):
    (folder / "pictures" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    name, data = str(folder / "folder.py"), folder / "pictures"
    with pytest.raises(ValueError, match=r"row \d: .*1\.png.*--keep-going"):
        run_benchmarks(models[0], [name], Wanted(), data)
    path = folder / "scores.json"
    (report,) = run_benchmarks(models[0], [name], Wanted(keep_going=True), data, json_path=path)
    assert report.scores["paint"]["n"] == 3
    assert [(row.id, row.task) for row in report.missing] == [("1", "paint")]
    assert "1.png" in report.missing[0].reason
    assert "missing: 1 (paint)" in capsys.readouterr().out
    (read,) = read_reports(path)
    assert [row["id"] for row in read["missing"]] == ["1"] and len(read["rows"]) == 3
    for file in data.iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 4 rows could be asked"):
        run_benchmarks(models[0], [name], Wanted(keep_going=True), data)


def test_the_row_whose_own_picture_is_broken_is_named(models, folder):
    """It comes last, and each row before it may be shown its picture in the shuffled column."""
    (folder / "pictures" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"row 3: .*3\.png"):
        run_benchmarks(models[0], [str(folder / "folder.py")], Wanted(), folder / "pictures")


def test_what_a_benchmark_does_not_take(models, folder):
    with pytest.raises(ValueError, match="needs no data"):
        run_benchmarks(models[0], ["primer"], Wanted(), folder)
    names = ["primer", str(folder / "folder.py")]  # of several, those that read files get the data
    reports = run_benchmarks(models[0], names, Wanted(limit=2), folder / "pictures")
    assert [report.benchmark for report in reports] == names
    with pytest.raises(ValueError, match="but one protocol"):
        run_benchmarks(models[0], ["primer"], Wanted(), protocol="paper")
    with pytest.raises(ValueError, match="unknown name 'papa'"):
        run_benchmarks("no/model", ["primer", "papa"], Wanted())


def test_what_cannot_be_asked_or_written_is_found_before_the_model_is_loaded(tmp_path, models, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="unknown Primer split ''"):
        run_benchmarks(models[0], ["primer"], Wanted(split="", limit=2))
    monkeypatch.setattr(Engine, "open", lambda *args: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="no benchmark is named"):
        run_benchmarks(models[0], [], Wanted())
    with pytest.raises(ValueError, match="file is no folder"):
        run_benchmarks(models[0], ["primer"], Wanted(limit=2), json_path=tmp_path / "file" / "scores.json")
