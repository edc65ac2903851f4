"""`phantrol data check`: exit code 0, 1 or 2, a line for each broken row, and the good rows written out."""

import json

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """train.json with three good rows, and a broken one as the second."""
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "pics" / "red.png")

    def row(name, image):
        said = [{"from": "human", "value": "<image>\nWelche Farbe?"}, {"from": "gpt", "value": "röt"}]
        return {"id": name, "image": image, "conversations": said}

    rows = [row("a", "red.png"), row("b", "gone.png"), row("c", "red.png"), row("d", "red.png")]
    (tmp_path / "train.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return tmp_path


def test_a_broken_row_is_named_and_the_exit_code_is_1(phantrol, folder):
    done = phantrol("data", "check", "train.json", "--images", "pics")
    assert done.code == 1
    assert "train.json[1], line 1: image-missing: picture pics/gone.png: no such file" in done.out
    assert "train.json: 4 rows, 1 of them broken" in done.out


def test_fix_writes_the_good_rows_which_then_pass(phantrol, folder):
    done = phantrol("data", "check", "train.json", "--images", "pics", "--fix", "good")
    assert done.code == 1 and "good/broken.jsonl" in done.error.replace("\n", "")
    again = phantrol("data", "check", "good", "--images", "pics")  # broken.jsonl in it is no data
    assert again.code == 0 and "3 rows, 0 of them broken" in again.out
    assert [row["id"] for row in json.loads((folder / "good" / "train.json").read_text("utf-8"))] == ["a", "c", "d"]
    taken = phantrol("data", "check", "train.json", "--images", "pics", "--fix", "good")
    assert taken.code == 2 and "good is in use" in taken.error


def test_two_files_of_one_name_are_refused_before_they_are_read(phantrol, folder):
    (folder / "other").mkdir()
    (folder / "other" / "train.json").write_bytes((folder / "train.json").read_bytes())
    done = phantrol("data", "check", "train.json", "other", "--images", "pics", "--fix", "good")
    assert done.code == 2 and "several files are called train.json, and all go into good" in done.error
    assert done.out == "" and not (folder / "good").exists()


def test_json_is_for_programs(phantrol, folder):
    done = phantrol("data", "check", "train.json", "--images", "pics", "--json")
    told = json.loads(done.out)
    assert done.code == 1 and told["rows"] == 4 and told["broken"] == 1
    assert told["broken_rows"][0]["row"] == 1 and told["broken_rows"][0]["reason"] == "image-missing"
    let = phantrol("data", "check", "train.json", "--images", "pics", "--json", "--allow", "image-missing")
    assert let.code == 0 and json.loads(let.out)["broken"] == 0


def test_tokens_are_counted_with_a_model(phantrol, folder, workplace):
    model = str(workplace.folder / "runs" / "demo" / "final")
    done = phantrol("data", "check", "train.json", "--images", "pics", "--model", model, "--allow", "image-missing")
    assert done.code == 0 and "tokens a row" in done.out
    short = phantrol("data", "check", "train.json", "--images", "pics", "--model", model, "--max-tokens", "9")
    assert short.code == 1 and "tokens, expected at most 9" in short.out


def test_names_of_ones_own(phantrol, folder):
    (folder / "own.jsonl").write_text('{"frage": "Was?", "antwort": "Das."}\n', "utf-8")
    done = phantrol("data", "check", "own.jsonl")
    assert done.code == 1 and "--field question=frage --field answer=antwort" in done.out.replace("\n", "")
    assert phantrol("data", "check", "own.jsonl", "--field", "question=frage", "--field", "answer=antwort").code == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["nowhere.json"], "no file nowhere.json"),
        (["train.json", "--allow", "ugly"], "unknown reason 'ugly'"),
        (["train.json", "--max-tokens", "9"], "needs a model that counts them: name it with --model"),
        (["train.json", "--model", "nowhere"], "no processor in nowhere"),
        (["train.json", "--field", "question"], "expected NAME=YOURS"),
        (["train.json", "--field", "asked=frage"], "fields: got 'asked'"),
        (["train.json", "--images", "nope", "--fix", "good"], "images nope: no such folder, expected the folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(phantrol, folder, options, complaint):
    done = phantrol("data", "check", *options)
    assert done.code == 2 and complaint in done.error and len(done.error.strip().splitlines()) == 1


def test_an_export_is_drawn_again_and_its_file_is_checked(phantrol, folder):
    assert phantrol("data", "export", "drawn", "--count", "2", "--size", "64", "--task", "shape").code == 0
    same = phantrol("data", "check", "drawn")
    assert same.code == 0 and "the same samples" in same.out
    rows = phantrol("data", "check", "drawn/llava.json")
    assert rows.code == 0 and "2 rows, 0 of them broken" in rows.out


@pytest.mark.parametrize("file", ["llava.json", "data.parquet"])
def test_an_export_with_a_broken_manifest_is_not_taken_for_rows_alone(phantrol, folder, file):
    (folder / "train.json").rename(folder / "pics" / file)
    (folder / "pics" / "manifest.json").write_text("{")
    done = phantrol("data", "check", "pics")
    assert done.code == 2 and "pics/manifest.json is broken" in done.error and "export again" in done.error
    assert done.out == "" and len(done.error.splitlines()) == 1


@pytest.mark.parametrize("text", ["[]", "{}", '{"generator": "another"}', "a list of my pictures"])
def test_a_manifest_of_something_else_is_said_to_be_so(phantrol, folder, text):
    (folder / "train.json").rename(folder / "pics" / ("train.json" if text.startswith("a ") else "llava.json"))
    (folder / "pics" / "manifest.json").write_text(text)
    done = phantrol("data", "check", "pics", "--json")
    assert done.code == 1 and json.loads(done.out)["rows"] == 4, done.error
    said = "pics/manifest.json is none of phantrol's: rows are checked, nothing is drawn again"
    assert said in done.error.splitlines()
    assert "none of phantrol's" not in phantrol("data", "check", "pics/*.json").error
