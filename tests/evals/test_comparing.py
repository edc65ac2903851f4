"""Two results row by row, and tables and figures of several beside what the papers published."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from phantrol.evals.card import read_reports
from phantrol.evals.compare import compare_files
from phantrol.evals.figure import write_table
from phantrol.evals.tables import collect, read_papers, to_latex, to_markdown


def one_row(name, prompt="", group=None, **scores):
    return {"id": f"{name}", "group": group or f"{name}", "task": "t", "prompt_sha256": prompt, "scores": scores}


def test_a_clear_difference_is_found(bare_report, tmp_path):
    report = bare_report
    report["rows"] = [one_row(i, t=0.0) for i in range(40)]
    (tmp_path / "worse.json").write_text(json.dumps(report))
    for row in report["rows"][:30]:
        row["scores"]["t"] = 1.0
    report["rows"].append(one_row("lone", t=1.0))
    report["card"]["judge"] = {"model": "gpt"}
    report["card"]["speaker"]["decoding"] = {"num_beams": 5}
    (tmp_path / "better.json").write_text(json.dumps(report))
    found = compare_files(tmp_path / "worse.json", tmp_path / "better.json")
    each = found.differences[0]
    assert (each.a, each.b, each.rows) == (0.0, 0.75, 40) and each.low > 0.5 and each.p < 1e-6
    assert any("0 rows of A and 1 of B have no partner" in remark for remark in found.remarks)
    assert any("the judge is None and gpt: their scores do not compare" in remark for remark in found.remarks)
    assert any("decoding is " in remark and "and {'num_beams': 5}" in remark for remark in found.remarks)
    report["split"] = "test"
    (tmp_path / "other.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="expected a benchmark and split that both have"):
        compare_files(tmp_path / "worse.json", tmp_path / "other.json")
    (tmp_path / "bare.json").write_text("{}")
    with pytest.raises(ValueError, match="no results with a card"):
        compare_files(tmp_path / "bare.json", tmp_path / "other.json")
    with pytest.raises(ValueError, match="no file"):
        compare_files(tmp_path / "none.json", tmp_path / "other.json")


def test_p_is_corrected_and_the_table_says_who_is_better(bare_report, tmp_path):
    for name, better in (("a", 0.0), ("b", 1.0)):
        rows = [one_row(i, t=better * (i < 8), u=better * (i < 6)) for i in range(10)]
        (tmp_path / f"{name}.json").write_text(json.dumps(bare_report | {"rows": rows}))
    found = compare_files(tmp_path / "a.json", tmp_path / "b.json")
    t, u, mean = found.differences
    assert (t.p, u.p, mean.p) == (pytest.approx(2 / 2**8), pytest.approx(2 / 2**6), None)
    assert (t.p_holm, u.p_holm, mean.p_holm) == (pytest.approx(4 / 2**8), pytest.approx(2 / 2**6), None)
    cells = [next(iter(column.cells)) for column in found.table().columns]
    assert (cells[1:4], cells[5]) == (["0.0", "80.0", "+80.0"], "0.016"), "p as corrected, .008 alone"


def test_a_group_of_rows_counts_once_and_other_prompts_are_named(bare_report, tmp_path):
    """Four groups of ten rows, all better by unequal sums: 2 of 2⁴ signs, not 2 of 2⁴⁰."""
    for name, better in (("a", 0.0), ("b", 1.0)):
        bare_report["rows"] = [
            one_row(i, name, f"{i // 10}", t=better * (i % 10 < 5 + i // 10), u=better / (2 + i % 10))
            for i in range(40)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(bare_report))
    found = compare_files(tmp_path / "a.json", tmp_path / "b.json")
    t, _, mean = found.differences
    assert t.p == 2 / 2**4 and (t.a, t.b) == (0.0, 0.65)
    assert mean.low <= mean.b - mean.a <= mean.high
    assert any("40 of 40 rows were asked with another prompt or picture" in remark for remark in found.remarks)


def test_scores_that_are_no_means_are_compared_over_the_same_rows_alone(bare_report, tmp_path):
    report, whole, fewer = bare_report, tmp_path / "whole.json", tmp_path / "fewer.json"
    report |= {"rows": [one_row(i, t=1.0) for i in range(3)], "overall": {"f1": {"model": 0.5, "n": 3}}}
    whole.write_text(json.dumps(report))
    assert [each.name for each in compare_files(whole, whole).differences] == ["t", "f1"]
    report |= {"rows": report["rows"][1:], "overall": {"f1": {"model": 1.0, "n": 2}}}  # as it may be over fewer rows
    fewer.write_text(json.dumps(report))
    for pair in ((fewer, whole), (whole, fewer)):
        found = compare_files(*pair)
        assert [(each.name, each.a, each.b) for each in found.differences] == [("t", 1.0, 1.0)]
        assert any("no means over rows: f1; ask both the same rows" in remark for remark in found.remarks)


def test_a_score_that_is_no_mean_rests_on_the_fewer_rows(bare_report, tmp_path):
    for name, number in (("a", 3), ("b", 2)):
        more = {"rows": [one_row(1, t=1.0)], "overall": {"f1": {"model": 0.5, "n": number}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(bare_report | more))
    for pair in ("ab", "ba"):
        found = compare_files(*(tmp_path / f"{name}.json" for name in pair))
        assert [(each.name, each.rows) for each in found.differences] == [("t", 1), ("f1", 2)]


def test_no_interval_where_no_draw_differs(bare_report, tmp_path):
    """+0.0 to +0.0 would be more than five rows can tell."""
    report = bare_report
    report["rows"] = [one_row(i, t=0.0, u=i / 5) for i in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(report))
    report["rows"][0]["scores"]["u"] = 1.0
    (tmp_path / "b.json").write_text(json.dumps(report))
    same, other, mean = compare_files(tmp_path / "a.json", tmp_path / "b.json").differences
    assert (same.name, same.low, same.high, same.p) == ("t", None, None, 1.0)
    assert other.low == 0 < other.high and mean.low == 0 < mean.high
    nothing = compare_files(tmp_path / "a.json", tmp_path / "a.json")
    assert {each.low for each in nothing.differences} == {None} and "to +0.0" not in str(
        list(nothing.table().columns[4].cells)
    )


@pytest.fixture
def published(bare_report, tmp_path):
    """A file with made-up results on four benchmarks of the papers."""
    report, reports = bare_report, []
    for name, value, scale in (
        ("pope", 80.0, 100),
        ("mme", 1400.0, 2800),
        ("mmstar", 40.0, 100),
        ("own_set", 50.0, 100),
    ):
        headline = {"name": "overall", "value": value, "low": value - 2, "high": value + 2, "scale": scale}
        card = report["card"] | {"headline": headline, "protocol": "paper", "limit": 9 if name == "pope" else None}
        reports.append(report | {"benchmark": name, "model": "runs/mine_1/final", "card": card})
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"benchmarks": reports}))
    return path


def test_a_table_beside_the_papers(published):
    found = collect([published])
    assert list(found.columns.values()) == ["POPE", "MME", "MMStar", "own_set"]
    lines = to_markdown(found).splitlines()
    cells = ["80.0 (78.0–82.0)<sup>1</sup>", "1400 (1398–1402)", "40.0 (38.0–42.0)", "50.0 (48.0–52.0)"]
    assert lines[2] == "| mine_1/final | paper | " + " | ".join(cells) + " |"
    assert "| TroL-7B | published: TroL | 87.8 | 2308 | 51.3 | – |" in lines
    assert "| Phantom-0.5B | published: Phantom | 86.0 | 1743 | – | – |" in lines
    assert "1. POPE: at most 9 rows of each task were asked, of all that there are." in lines
    assert any(line.startswith("Published, not measured here: Lee et al., TroL") for line in lines)
    ours = to_markdown(collect([published], published=False))
    assert "TroL" not in ours and "Phantom" not in ours
    latex = to_latex(found)
    assert r"mine\_1/final & paper & 80.0 (78.0--82.0)$^{1}$ & 1400" in latex
    assert latex.count(r"\hline") == 4 and r"own\_set" in latex
    with pytest.raises(ValueError, match="two results on pope"):
        collect([published, published])


def test_two_benchmarks_of_one_file_name_are_two_columns(bare_report, tmp_path):
    headline = {"name": "overall", "value": 50.0, "low": 40.0, "high": 60.0, "scale": 100}
    reports = [
        bare_report | {"benchmark": f"/sets/{name}/photos.py", "card": bare_report["card"] | {"headline": headline}}
        for name in "ab"
    ]
    path = tmp_path / "s.json"
    for held, titles in ((reports, ["photos a/photos.py", "photos b/photos.py"]), (reports[:1], ["photos"])):
        path.write_text(json.dumps({"benchmarks": held}))
        assert list(collect([path]).columns.values()) == titles


def test_options_that_differ_are_named(bare_report, tmp_path):
    bare_report["rows"] = [one_row(1, t=1.0)]
    for name, sha256 in (("a", {}), ("b", {"data_sha256": "0123456789ab"})):
        report = bare_report | {"card": bare_report["card"] | {"options": {"data": "a/test.jsonl"} | sha256}}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    found = compare_files(tmp_path / "a.json", tmp_path / "b.json")
    assert "mine val: option data_sha256 is None and 01234567" in found.remarks
    assert not any("test.jsonl" in remark for remark in found.remarks)


def test_what_else_differs_is_named(bare_report, tmp_path):
    card = bare_report["card"]
    for name in "ab":
        speaker = card["speaker"] | {"weights_sha256": name, "dtype": name, "weights": name, "versions": {"x": name}}
        mine = card | {"speaker": speaker, "protocol": name, "batch_size": name}
        report = bare_report | {"rows": [one_row(1, t=1.0)], "card": mine}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    said = compare_files(tmp_path / "a.json", tmp_path / "b.json").remarks
    expected = {f"mine val: {name} is a and b" for name in ("dtype", "weights", "protocol", "batch_size")}
    assert set(said) == expected | {"mine val: versions is {'x': 'a'} and {'x': 'b'}"}
    same = compare_files(tmp_path / "a.json", tmp_path / "a.json").remarks
    assert same == ("mine val: both have the same weights",)


def test_tasks_that_are_not_there_are_named(published, tmp_path):
    reports = read_reports(published)
    reports[1]["card"]["headline"]["left_out"] = ["count", "OCR"]
    (tmp_path / "some.json").write_text(json.dumps({"benchmarks": reports}))
    lines = to_markdown(collect([tmp_path / "some.json"])).splitlines()
    assert "| 1400 (1398–1402)<sup>2</sup> |" in lines[2]
    assert "2. MME of mine_1/final: 2 tasks are not there (count, OCR), the others stand for all." in lines


def test_the_papers_rows_are_those_of_the_tables():
    papers = read_papers()
    rows = {row["model"]: row["scores"] for row in papers["rows"]}
    assert len(rows) == 7 and all(set(scores) <= set(papers["columns"]) for scores in rows.values())
    assert (rows["TroL-7B"]["mmbench"], rows["TroL-7B"]["mathvista"], rows["TroL-7B"]["mm_vet"]) == (83.5, 51.8, 54.7)
    assert (rows["Phantom-7B"]["mme"], rows["Phantom-1.8B"]["pope"], rows["Phantom-0.5B"]["blink"]) == (
        2126,
        89.6,
        39.3,
    )
    from phantrol.find import names

    assert set(papers["columns"]) <= set(names("benchmarks"))


def test_figures(published, tmp_path):
    for more in (True, False):
        write_table(collect([published], more), tmp_path / f"{more}.png")
    with_papers, alone = (Image.open(tmp_path / f"{more}.png") for more in (True, False))
    assert with_papers.height > alone.height or with_papers.width > alone.width
    blue = sum(count for count, colour in alone.convert("RGB").getcolors(1 << 20) if colour[2] > 150 > colour[0])
    assert blue > 1000  # bars and the radar of our row
    write_table(collect([published]), tmp_path / "t.md")
    write_table(collect([published]), tmp_path / "t.tex")
    with pytest.raises(ValueError, match=r"\.md, \.tex or \.png"):
        write_table(collect([published]), tmp_path / "t.pdf")
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.stem == "t") == [".md", ".tex"]
