"""Files that are missing, broken or not as published: one line that names them, never a traceback, never a score."""

from __future__ import annotations

import base64
import json
import shutil

import pytest
from published_files import png, save_rows

from phantrol.evals.reading import picture_of, read_json, read_lines, read_parquet, read_tsv
from phantrol.find import find


def complaint(name, root, split=None, **options):
    benchmark = find("benchmarks", name)(data=root, **options)
    with pytest.raises(ValueError) as caught:
        benchmark.rows(split or benchmark.default_split)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


@pytest.fixture
def root(sets, tmp_path):
    """A copy of all made-up sets, to be broken."""
    return shutil.copytree(sets, tmp_path / "sets")


def test_no_data(tmp_path):
    assert "--data" in complaint("pope", None)
    assert "no such folder" in complaint("pope", tmp_path / "nowhere")
    text = complaint("pope", tmp_path)
    assert "coco_pope_random.json" in text or "val2014" in text
    assert "hub derek-thomas/ScienceQA" in complaint("scienceqa", tmp_path)  # where to get it
    assert "existence" in complaint("mme", tmp_path)


def test_no_such_split(sets):
    text = complaint("chartqa", sets, "train")
    assert "'train'" in text and "test, val" in text
    assert "chartqa: no val_human.json" in complaint("chartqa", sets, "val")


def test_one_file_of_several_is_missing(root):
    (root / "POPE/coco_pope_popular.json").unlink()
    assert "coco_pope_popular.json" in complaint("pope", root)
    shutil.rmtree(root / "SEED-Bench/SEED-Bench-image")
    assert "SEED-Bench-image" in complaint("seed_img", root)


def test_parquet(root):
    path = root / "CV-Bench/test_2d.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert "test_2d.parquet" in complaint("cvbench", root)
    path.write_bytes(b"not Parquet at all")
    assert "test_2d.parquet" in complaint("cvbench", root)
    path.write_bytes(b"")
    assert "test_2d.parquet" in complaint("cvbench", root)
    middle = len(whole) // 3  # the head and the tail are whole: it opens, and breaks where it is read
    path.write_bytes(whole[:4] + b"\xff" * middle + whole[4 + middle :])
    assert "test_2d.parquet is corrupt after row 0" in complaint("cvbench", root)


def test_a_column_is_missing(root):
    save_rows(root / "MMStar/mmstar.parquet", [{"index": 0, "question": "?", "image": b"", "answer": "A"}])
    text = complaint("mmstar", root)
    assert "mmstar.parquet[0]" in text and "'category'" in text and "question" in text
    rows = json.loads((root / "SEED-Bench/SEED-Bench.json").read_text())
    del rows["questions"][1]["choice_b"]
    (root / "SEED-Bench/SEED-Bench.json").write_text(json.dumps(rows))
    text = complaint("seed_img", root)
    assert "SEED-Bench.json[1]" in text and "'choice_b'" in text


def test_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"a":')
    with pytest.raises(ValueError, match=r"rows.json is no JSON"):
        read_json(path)
    path.write_text("[" + "9" * 5000 + "]")  # JSON, but more digits than Python reads
    with pytest.raises(ValueError, match=r"rows.json is no JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"rows.json is no JSON"):
        read_json(path)
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row["a"] for row in read_json(path)] == [1, 2]
    path.write_text('{"a": "b\u2028c\x85d"}\r\n{"a": 2}\n', "utf-8")  # no other character ends a line
    assert [row["a"] for row in read_json(path)] == ["b\u2028c\x85d", 2]
    assert read_lines(path) == ['{"a": "b\u2028c\x85d"}', '{"a": 2}']
    path.write_text('[{"a": 1}, 2]')
    with pytest.raises(ValueError, match=r"rows.json\[1\]: got a int"):
        read_json(path)
    path.write_text('\ufeff{"a": [1]}', "utf-8")
    assert read_json(path) == {"a": [1]}


def test_tables(tmp_path, root):
    path = tmp_path / "rows.tsv"
    path.write_text("index\timage\n")
    with pytest.raises(ValueError, match=r"rows.tsv has no rows"):
        read_tsv(path)
    path.write_text('index\tquestion\timage\n1\t"two\nlines"\tQUJD\n')
    assert [dict(row) for row in read_tsv(path)] == [{"index": "1", "question": "two\nlines", "image": "QUJD"}]
    path.write_bytes(b"index\timage\n1\t\xff\xfe\n")
    with pytest.raises(ValueError, match=r"rows.tsv is no table"):
        read_tsv(path)
    path.write_text("index\tanswer\timage\n1\tA\tQUJD\n2\n")
    with pytest.raises(ValueError, match=r"rows.tsv row 2: got more or fewer cells .* cut off"):
        read_tsv(path)
    table = root / "MMBench/mmbench_dev_20230712.tsv"
    table.write_text(table.read_text("utf-8").replace("\tcategory\t", "\tkind\t"), "utf-8")
    assert "'category'" in complaint("mmbench", root)


def test_right_answers_that_are_no_options(root):
    path = root / "LLVisionQA-QBench/llvisionqa_dev.json"
    path.write_text(path.read_text().replace('"correct_ans": "Fair"', '"correct_ans": "Superb"'))
    text = complaint("qbench", root)
    assert "llvisionqa_dev.json[0]" in text and "'Superb'" in text
    table = root / "MMBench/mmbench_dev_20230712.tsv"
    table.write_text(table.read_text("utf-8").replace("\tB\tstyle", "\tD\tstyle"), "utf-8")
    text = complaint("mmbench", root)
    assert "row 3" in text and "'D'" in text
    path = root / "HallusionBench/HallusionBench.json"
    path.write_text(path.read_text().replace('"gt_answer": "1"', '"gt_answer": "7"'))
    assert "HallusionBench publishes them: KeyError: '7'" in complaint("hallusionbench", root)
    path = root / "MME_Benchmark_release_version/existence/0.txt"
    path.write_text("Is there a cat?\tMaybe\n")
    assert "0.txt line 1" in complaint("mme", root)
    path.write_bytes(b"\xff\xfe")
    assert "0.txt is no text" in complaint("mme", root)


def test_right_answers_past_the_last_option(tmp_path):
    page = {"id": "p", "task_type": "action_prediction", "image": b"", "bbox": [0.1] * 4, "options": ["Home", "Cart"]}
    save_rows(tmp_path / "test-0.parquet", [{**page, "answer": 1}, {**page, "answer": 2}])
    text = complaint("visualwebbench", tmp_path)
    assert text == "test-0.parquet[1]: got the answer 2, expected the number of one of 2 options, from 0"
    facts = {
        "pid": "1",
        "question_type": "multi_choice",
        "metadata": {"task": "figure"},
        "decoded_image": {"bytes": b""},
    }
    save_rows(tmp_path / "testmini-0.parquet", [{**facts, "query": "?", "choices": ["12", "17"], "answer": "14"}])
    text = complaint("mathvista_judged", tmp_path)
    assert text == "testmini-0.parquet[0]: the right answer '14' is none of ('12', '17')"


def test_pictures(tmp_path):
    picture = png(1)
    assert picture_of(picture) == picture_of({"bytes": picture, "path": "1.png"}) == picture
    assert picture_of(base64.b64encode(picture).decode()) == picture
    assert picture_of("no base64!") == b"no base64!"  # which is no picture: its row is refused when it is asked


def test_folders_behind_links(sets, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ChartQA").symlink_to(sets / "ChartQA")
    (tmp_path / "other" / "ChartQA").mkdir(parents=True)
    (tmp_path / "other" / "ChartQA" / "test").symlink_to(sets / "ChartQA" / "test")
    for name in ("data", "other"):
        assert len(find("benchmarks", "chartqa")(data=tmp_path / name).rows("test")) == 6


def test_rows_of_several_files_come_in_order(tmp_path):
    for number in range(2):
        save_rows(tmp_path / f"{number}.parquet", [{"n": 10 * number + i} for i in range(70)])
    rows = list(read_parquet([tmp_path / "0.parquet", tmp_path / "1.parquet"]))
    assert [row["n"] for row in rows] == [*range(70), *range(10, 80)]
    assert rows[69].where == "0.parquet[69]" and rows[70].where == "1.parquet[0]"
