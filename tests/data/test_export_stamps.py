"""An export of a folder of stamps holds wherever it is checked from, and wherever the folder goes."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from phantrol.data.choosing import choose_source
from phantrol.data.export import check, export, export_again


@pytest.mark.parametrize("family", ["objects", "diagrams"])
def test_a_folder_of_stamps_may_be_named_from_anywhere_and_moved(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["frog", "cat", "owl", "pear", "bread", "rocket", "key", "lamp"]):
        path = tmp_path / "stamps" / "animals" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (40, 40), (30 * number, 90, 200, 255)).save(path)
        path.with_suffix(".txt").write_text(f"A {name}.\n", "utf-8")
    out = export(choose_source([family], size_px=192, sprites="stamps"), tmp_path / "out", count=4)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert check(out) == ""
    (tmp_path / "stamps").rename(tmp_path / "moved")
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["source"]["sprites"] == str(tmp_path / "stamps")  # asserted, as packs are kept by name
    manifest["source"]["sprites"] = "../moved"
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert check(out) == ""
    again = export_again(out, tmp_path / "again")
    assert json.loads((again / "manifest.json").read_text("utf-8"))["specs_sha256"] == manifest["specs_sha256"]
