"""`convert`: a folder in the official layout becomes a phantrol model, whole or not at all, in little memory."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from recordings import COMBINATIONS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sources import FORMS, draw_source, whole_source, write_source, write_tokenizer
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

import phantrol
from phantrol import cli
from phantrol.models.released import convert as convert_module
from phantrol.models.released.convert import convert, load_official, write_shards
from phantrol.models.released.source import Source

BROKEN = 1e-3


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`sources(family, backbone, form, dtype)` writes one, the same each time: leave it as you found it."""
    made: dict[Any, Path] = {}

    def make(family: str, backbone: str, form: str = "shards", dtype: Any = torch.float32) -> Path:
        key = family, backbone, form, dtype
        if key not in made:
            made[key] = whole_source(tmp_path_factory.mktemp("source") / "official", *key)
        return made[key]

    return make


@pytest.fixture
def copy_of(sources: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A source to spoil."""

    def copy(*key: Any) -> Path:
        return Path(shutil.copytree(sources(*key), tmp_path / "spoilt"))

    return copy


def picture(width_px: int, height_px: int) -> Image.Image:
    numbers = torch.randint(0, 256, (height_px, width_px, 3), generator=torch.Generator().manual_seed(width_px))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def chats() -> list[Any]:
    """One with a picture of several tiles, one with a small one, and one without."""

    def chat(text: str, *pictures: Image.Image) -> list[dict[str, Any]]:
        parts = [{"type": "image", "image": each} for each in pictures]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    return [chat("what", picture(112, 56)), chat("what is it?", picture(40, 40)), chat("hello there, who are you")]


def encode(processor: Any, chat: list[Any]) -> dict[str, Tensor]:
    return processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )


@pytest.mark.parametrize(("family", "backbone"), COMBINATIONS)
def test_there_and_back(family: str, backbone: str, sources: Callable[..., Path], tmp_path: Path):
    """What is converted and loaded computes, to the bit, what the official folder does, batched and left-padded."""
    source = sources(family, backbone)
    done = convert(source, tmp_path / "new")
    model, processor = phantrol.load(tmp_path / "new")
    official = load_official(source)
    for parameter in model.parameters():  # where in a file a tensor lies changes the last bit of a product
        parameter.data = parameter.data.clone()
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {
        name: tuple(t.shape) for name, t in official.state_dict().items()
    }
    inputs = encode(processor, chats())
    assert (inputs["attention_mask"][:, 0] == 0).any() and (inputs["input_ids"] == model.config.image_token_id).any()
    assert torch.equal(model(**inputs).logits, official(**inputs).logits)
    assert done.num_tensors == len(load_all(tmp_path / "new"))
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 1, "eos_token_id": None}
    together = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    for row, chat in enumerate(chats()):
        alone = encode(processor, [chat])
        answer = model.generate(**alone, **options)[:, alone["input_ids"].shape[1] :]
        assert torch.equal(answer[0], together[row])


def load_all(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_the_files_are_those_that_transformers_looks_for(sources: Callable[..., Path], tmp_path: Path):
    out = tmp_path / "new"
    done = convert(sources("trol", "internlm2", "shards", torch.float16), out)
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "processor_config.json", "README.md"}
    assert not [name for name in os.listdir(tmp_path) if name != "new"]
    assert {tensor.dtype for tensor in load_all(out).values()} == {torch.float16} == {done.dtype}
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.dtype == torch.float16 and model.generation_config.num_beams == 5
    assert AutoProcessor.from_pretrained(out).image_token_id == model.config.image_token_id == 512
    assert [modifier["name"] for modifier in model.config.modifiers] == ["trol", "partial_lora"]
    card = (out / "README.md").read_text("utf-8")
    for words in (
        "arXiv:2406.12246",
        "partial_lora",
        "image features overwrite it",
        "--per-layer-gates",
        "phantrol ask",
    ):
        assert words in card


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_source_gives_the_same(form: str, sources: Callable[..., Path], tmp_path: Path):
    convert(sources("phantom", "qwen2", form, torch.bfloat16), tmp_path / "new")
    convert(sources("phantom", "qwen2", "shards", torch.bfloat16), tmp_path / "other")
    new, other = load_all(tmp_path / "new"), load_all(tmp_path / "other")
    assert new.keys() == other.keys() and all(torch.equal(new[name], other[name]) for name in new)
    assert all(tensor.dtype == torch.bfloat16 for tensor in new.values())


def test_gates_of_each_layer(sources: Callable[..., Path], tmp_path: Path):
    source = sources("trol", "phi3")
    done, each = convert(source, tmp_path / "one"), convert(source, tmp_path / "each", per_layer_gates=True)
    assert done.notes[0] == "the gates of the 4 layers are 4 different ones: the last one serves every layer"
    assert each.notes == ("the gates of the 4 layers are 4 different ones: each layer keeps its own",)
    gates = torch.load(source / "trol_gating.pt", weights_only=True)
    one, all_four = load_all(tmp_path / "one"), load_all(tmp_path / "each")
    name = "language_model.model.layers.{}.traversal_gate.weight"
    assert torch.equal(one[name.format(0)], gates["3.weight"]) and name.format(1) not in one
    assert all(torch.equal(all_four[name.format(i)], gates[f"{i}.weight"]) for i in range(4))
    (shared, processor), (own, _) = phantrol.load(tmp_path / "one"), phantrol.load(tmp_path / "each")
    inputs = encode(processor, chats())
    assert float((shared(**inputs).logits - own(**inputs).logits).abs().max()) > BROKEN


def test_equal_gates_are_nothing_to_report(tmp_path: Path):
    config, weights = draw_source("trol", "phi3")
    weights |= {name: weights[f"trol_gating.pt/0.{name.split('.')[-1]}"] for name in weights if "trol_gating" in name}
    write_tokenizer(write_source(tmp_path / "s", config, weights), "trol", "phi3", 500)
    assert all(note.startswith("dropped trol_gating.pt/0") for note in convert(tmp_path / "s", tmp_path / "new").notes)


def test_a_tied_head_stays_tied(tmp_path: Path):
    source = whole_source(tmp_path / "s", "phantom", "qwen2", tie_word_embeddings=True)
    convert(source, tmp_path / "new")
    assert "language_model.lm_head.weight" not in load_all(tmp_path / "new")
    model, processor = phantrol.load(tmp_path / "new")
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    inputs = encode(processor, chats())
    assert torch.equal(model(**inputs).logits, load_official(source)(**inputs).logits)


def test_the_image_token_may_stand_in_the_tokenizer_alone(tmp_path: Path):
    config, weights = draw_source("trol", "phi3")
    del config["image_token_index"]
    write_tokenizer(write_source(tmp_path / "s", config, weights), "trol", "phi3", 500)
    convert(tmp_path / "s", tmp_path / "new")
    assert phantrol.load(tmp_path / "new")[0].config.image_token_id == 500


def test_shards_have_the_names_of_the_hub(tmp_path: Path):
    tensors = {f"t{i}": torch.full((100,), i, dtype=torch.float32) for i in range(7)} | {"big": torch.zeros(1000)}
    assert write_shards(tensors.items(), tmp_path, shard_bytes=1000) == (8, 400 * 7 + 4000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == 6800
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)
    ]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


@pytest.mark.parametrize("form", ["shards", "pickled"])
def test_no_more_than_one_shard_is_held(form: str, sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    """Bytes of converted tensors that are alive at once: a shard of the result and one tensor, whatever the model's."""
    alive, peak = [0], [0]
    apply = convert_module._converted

    def released(size: int) -> None:
        alive[0] -= size

    def watched(*args: Any) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in apply(*args):
            alive[0] += tensor.nbytes
            weakref.finalize(tensor, released, tensor.nbytes)
            peak[0] = max(peak[0], alive[0])
            yield name, tensor
            del tensor

    monkeypatch.setattr(convert_module, "_converted", watched)
    shard_bytes = 150_000
    done = convert(sources("phantom", "internlm2", form), tmp_path / "new", shard_bytes=shard_bytes)
    gc.collect()
    largest = 512 * 64 * 4
    assert done.num_bytes > 6 * shard_bytes and alive[0] == 0
    assert peak[0] <= shard_bytes + 2 * largest
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 6
    phantrol.load(tmp_path / "new")


# --- what a user can get wrong


def spoil_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


def spoil_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """In the shard that holds O_PROJ."""
    path = next(path for path in folder.glob("*.safetensors") if O_PROJ in load_file(path))
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    for index in folder.glob("*.index.json"):
        table = json.loads(index.read_text("utf-8"))
        table["weight_map"] = {name: path.name for name in weights} | {
            name: file for name, file in table["weight_map"].items() if file != path.name
        }
        index.write_text(json.dumps(table), "utf-8")


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch /nonexistent/pwned",)


def other_model(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(folder)


def missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def wrong_shape(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.update({O_PROJ: torch.zeros(3, 5)}))


def unknown_backbone(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    spoil_config(folder, llm_config={**config["llm_config"], "architectures": ["GemmaForCausalLM"]})


def code(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload()}, protocol=2))


def zipped_code(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")


def no_tensors(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save([1, 2], folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_header(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"no safetensors at all")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", "utf-8")


def a_config_without_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["llm_config"]["max_position_embeddings"]
    spoil_config(folder, llm_config=config["llm_config"])


def missing_tensor(folder: Path) -> None:
    spoil_weights(folder, lambda weights: weights.pop(O_PROJ))


def extra_tensor(folder: Path) -> None:
    spoil_weights(
        folder, lambda weights: weights.update({"language_model.model.layers.0.adapter.weight": torch.ones(2)})
    )


def outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text("utf-8"))
    table["weight_map"] = {name: f"../{file}" for name, file in table["weight_map"].items()}
    index.write_text(json.dumps(table), "utf-8")


def no_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def another_image_token(folder: Path) -> None:
    spoil_config(folder, image_token_index=7)


O_PROJ = "language_model.model.layers.0.self_attn.o_proj.weight"
SPOILS = [
    (other_model, r"found architectures \['LlamaForCausalLM'\], model_type 'llama', .*expected vision_proj"),
    (
        missing_shard,
        "shard model-00002-of-00002.safetensors is missing in .* though model.safetensors.index.json names",
    ),
    (wrong_shape, rf"{O_PROJ} has shape \[3, 5\].*expected \[64, 64\]"),
    (unknown_backbone, "found architectures .*GemmaForCausalLM"),
    (
        code,
        r"pytorch_model.bin is a pickle that wants to run \w+\.system: refused|is broken, or saved by a PyTorch before",
    ),
    (zipped_code, r"pytorch_model.bin is a pickle that wants to run \w+\.system: refused"),
    (no_tensors, "holds a list: expected a table of tensors"),
    (truncated, "model-00001-of-00002.safetensors is broken or not whole"),
    (no_header, "model-00001-of-00002.safetensors is broken or not whole"),
    (no_config, "no config.json in"),
    (broken_config, "config.json is broken"),
    (a_config_without_heads, "config.json names no max_position_embeddings"),
    (missing_tensor, f"tensor {O_PROJ} is missing"),
    (
        extra_tensor,
        "tensor language_model.model.layers.0.adapter.weight is left over: no part of a phantom model on qwen2",
    ),
    (outside, "shard ../model-00001-of-00002.safetensors is missing"),
    (no_weights, "no weights in .*expected model.safetensors"),
    (no_tokenizer, "has no tokenizer"),
    (another_image_token, "the image token is 7 in the weights' configuration and 500 in the tokenizer"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["phantrol", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("spoil", "message"), SPOILS, ids=[spoil.__name__ for spoil, _ in SPOILS])
def test_what_a_user_can_get_wrong(
    spoil: Callable[[Path], None],
    message: str,
    copy_of: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    source = copy_of("phantom", "qwen2")
    spoil(source)
    capsys.readouterr()
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and complaint.count("\n") == 1, complaint
    assert re.search(message, complaint), complaint
    assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_trol_without_its_gates(copy_of: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    source = copy_of("trol", "phi3")
    (source / "trol_gating.pt").unlink()
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "no trol_gating.pt beside the weights" in complaint and "download it too" in complaint
    (source / "trol_gating.pt").write_bytes(pickle.dumps({"0.weight": Payload()}, protocol=2))
    status, _, complaint = run("convert", source, tmp_path / "new")
    assert status == 2 and "trol_gating.pt is a pickle that wants to run posix.system: refused" in complaint
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    status, _, complaint = run("convert", sources("phantom", "qwen2"), tmp_path / "new")
    assert status == 2 and "exists" in complaint and os.listdir(tmp_path / "new") == ["mine.txt"]


def test_no_such_source(run: Callable[..., Any], tmp_path: Path):
    for source, message in (
        ("nowhere", "no folder nowhere"),
        ("BK-Lee/TroL-0B", "no folder BK-Lee/TroL-0B, and the hub"),
    ):
        status, _, complaint = run("convert", source, tmp_path / "new")
        assert status == 2 and message in complaint and complaint.count("\n") == 1, complaint


@pytest.mark.parametrize("both", [True, False])
def test_a_hub_id_is_downloaded(both: bool, sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    folder, asked = sources("phantom", "qwen2"), []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder)

    files = [path.name for path in folder.iterdir()] + ["pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: files if both else files[-1:])
    convert("BK-Lee/Phantom-0.5B", tmp_path / "new")
    [(repository, patterns)] = asked
    assert repository == "BK-Lee/Phantom-0.5B" and {"*.json", "*.safetensors", "*.pt", "*.model"} <= set(patterns)
    assert ("*.bin" in patterns) != both
    assert "The weights of BK-Lee/Phantom-0.5B" in (tmp_path / "new" / "README.md").read_text("utf-8")


def test_a_fault_in_the_middle_leaves_nothing(sources: Callable[..., Path], tmp_path: Path, monkeypatch: Any):
    read, calls = Source.read, []

    def read_some(self: Source, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 50:
            raise OSError(28, "No space left on device")
        return read(self, name)

    monkeypatch.setattr(Source, "read", read_some)
    with pytest.raises(OSError, match="No space left"):
        convert(sources("phantom", "qwen2"), tmp_path / "new", shard_bytes=50_000)
    assert not os.listdir(tmp_path)


def test_the_command_says_what_it_did(sources: Callable[..., Path], run: Callable[..., Any], tmp_path: Path):
    status, output, _ = run("convert", sources("trol", "internlm2"), tmp_path / "new")
    assert status == 0
    lines = output.splitlines()
    assert lines[0].startswith("trol on internlm2: ") and "tensors" in lines[0]
    assert any("are 4 different ones: the last one serves every layer" in line for line in lines)
    assert any(
        line.startswith("dropped model.tok_embeddings.weight[512]: the row of the image token") for line in lines
    )
    assert lines[-1].startswith("The model is in ")
    status, output, _ = run("describe", tmp_path / "new")
    assert status == 0 and "partial_lora" in output
