"""Tiny files in the formats that people have, and pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

import phantrol
from phantrol.models.tokenizer import train_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """Indices of files go to a folder of the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PHANTROL_CACHE", str(folder))
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with red.png, green.jpg and deep/blue.webp."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    Image.new("RGB", (64, 20), "green").save(folder / "green.jpg")
    Image.new("RGB", (33, 77), "blue").save(folder / "deep" / "blue.webp")
    return folder


class Breaking(ImageFile.ImageFile):
    """A format whose reader raises what readers of broken files do, when it opens one or when it decodes."""

    format = "BREAKING"

    def _open(self) -> None:
        if self.fp.read().endswith(b"open"):
            raise RuntimeError("the head makes no sense")
        self._mode, self._size = "RGB", (8, 6)

    def load(self) -> None:
        raise NotImplementedError("a tile of no known kind")


@pytest.fixture
def breaking(pictures, monkeypatch) -> dict[str, str]:
    """open.brk and load.brk among the pictures; what is said of each."""
    Image.init()  # all of the formats that there are, or some would come into the list that is put back
    monkeypatch.setattr(Image, "ID", ["BREAKING", *Image.ID])
    monkeypatch.setitem(Image.OPEN, "BREAKING", (Breaking, lambda head: head.startswith(b"BREAKING")))
    faults = {"open.brk": "the head makes no sense", "load.brk": "a tile of no known kind"}
    for name in faults:
        (pictures / name).write_bytes(b"BREAKING at " + name.removesuffix(".brk").encode())
    return {name: f"picture {pictures / name} is broken: {fault}" for name, fault in faults.items()}


def llava(
    name: str, image: str | None = None, asked: str = "<image>\nWhat color?", answer: str = "red"
) -> dict[str, Any]:
    """Return a row as LLaVA writes them."""
    said = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": said}


@pytest.fixture(name="llava")
def llava_fixture() -> Callable[..., dict[str, Any]]:
    return llava


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """`write("a.jsonl", rows)` writes rows in the format that the name says; bytes are written as they are."""

    def write_file(name: str, rows: Any) -> Path:
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        elif path.suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))
        return path

    return write_file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model, six tiles a picture."""
    from transformers import LlamaConfig, SiglipVisionConfig

    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = LlamaConfig(vocab_size=8, num_key_value_heads=2, max_position_embeddings=400, **sizes)
    vision = SiglipVisionConfig(image_size=32, patch_size=8, vision_use_head=False, **sizes)
    tokenizer = train_tokenizer(["What color is it? It is red, blue or green."] * 4, 300)
    built, processor = phantrol.build(text, vision, [], tokenizer=tokenizer, max_tiles=6)
    folder = tmp_path_factory.mktemp("model")
    built.save_pretrained(folder), processor.save_pretrained(folder)
    return folder, processor
