"""A budget for second passes: what is left out does no work, keeps no cache, and can be taken back."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

import phantrol
from phantrol.bench.timing import token_bytes
from phantrol.calibrating import calibrate_folder, open_groups
from phantrol.cli import main
from phantrol.data.collate import Collator
from phantrol.data.sources.file import FileSource
from phantrol.data.sources.primer import PrimerSource
from phantrol.explain.traversal import trace_traversal
from phantrol.inference.calibrating import (
    calibrate,
    passes_within,
    record,
)
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.graft import load_grafted
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig, skip_traversal, traversing_gates

IDS = torch.tensor([[1, 5, 9, 33, 70, 12, 8]])
GROUPS = [PrimerSource(tasks={"shape": 1.0, "count": 1.0}, scenes=("shapes",))[i] for i in range(6)]


@pytest.fixture
def built(tiny_model):
    """Return (model of four layers, processor), whose gates are 0.02, 0.9, 0.1 and 0.5 whatever the token."""

    def make(decoder: dict[str, Any] | None = None, **trol: Any) -> tuple[Any, Any]:
        tokenizer = train_tokenizer([turn.text for group in GROUPS for e in group for turn in e.messages] * 4, 320)
        config = TrolConfig(**trol)
        options = {"num_hidden_layers": 4, **(decoder or {})}
        model, processor = tiny_model(tokenizer, [config, PhantomConfig(init="random")], **options)
        for layer, ratio in zip(model.get_decoder().layers, (0.02, 0.9, 0.1, 0.5), strict=True):
            torch.nn.init.zeros_(layer.traversal_gate.weight)
            layer.traversal_gate.bias.data.fill_(torch.tensor(ratio).logit() / 2)
        return model.eval(), processor

    return make


def run(model: Any) -> tuple[list[int], int, torch.Tensor]:
    """Return (how often each layer's attention ran, bytes of the cache, logits) of a prompt and two more tokens."""
    layers = model.get_decoder().layers
    calls = [0] * len(layers)

    def count(index: int) -> Any:
        return lambda *_: calls.__setitem__(index, calls[index] + 1)

    hooks = [layer.self_attn.register_forward_hook(count(index)) for index, layer in enumerate(layers)]
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        logits = [model(IDS[:, a:b], past_key_values=cache).logits for a, b in ((0, 5), (5, 6), (6, 7))]
    for hook in hooks:
        hook.remove()
    return calls, token_bytes(cache), torch.cat(logits, dim=1)


@pytest.mark.parametrize("tokens", ["all", "prompt"])
def test_what_is_skipped_does_no_work_and_keeps_no_cache(tiny_decoder, tokens: str):
    """As if the layers had never been grafted: calls, bytes and logits; and it can be taken back."""

    def grafted(**options: Any) -> Any:
        torch.manual_seed(3)
        return phantrol.graft(tiny_decoder("llama"), [TrolConfig(tokens=tokens, gate_bias=0.3, **options)])

    forwards = 3 if tokens == "all" else 1  # of which second passes are a part
    every, skipping, fewer = grafted(), grafted(skip=(0, 2)), grafted(layers=(1,))
    whole, budget, without = run(every), run(skipping), run(fewer)
    assert whole[0] == [3 + forwards] * 3
    assert budget[0] == [3, 3 + forwards, 3] == without[0]
    assert budget[1] == without[1] and (tokens == "prompt" or budget[1] * 3 == whole[1] * 2)
    assert torch.equal(budget[2], without[2]) and not torch.allclose(budget[2], whole[2], atol=1e-3)
    skip_traversal(every.get_decoder(), (0, 2))
    assert torch.equal(run(every)[2], budget[2]) and run(every)[:2] == budget[:2]
    skip_traversal(every.get_decoder(), ())
    assert torch.equal(run(every)[2], whole[2])
    skip_traversal(every.get_decoder(), (0, 1, 2))
    assert run(every)[0] == [3, 3, 3] and not traversing_gates(every.get_decoder())


def test_a_budget_is_saved_and_generates_as_without_a_cache(tiny_decoder, tmp_path: Path):
    trol = TrolConfig(gate_bias=0.3, share_gate=True, skip=(0,))
    model = phantrol.graft(tiny_decoder("llama"), [trol, PhantomConfig(init="random")])
    model.save_pretrained(tmp_path)
    again = load_grafted(tmp_path).eval()
    assert again.get_decoder().modifiers[0].config == trol
    assert list(traversing_gates(again.get_decoder())) == [1, 2]
    options = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    cached, plain = again.generate(IDS, **options), again.generate(IDS, use_cache=False, **options)
    assert torch.equal(cached, plain) and torch.equal(cached, model.generate(IDS, **options))


def test_what_is_recorded_is_what_the_layers_did(built):
    """w and ‖y - h1‖ / ‖h1‖ from the passes themselves, at real tokens alone."""
    model, processor = built()
    layers, seen = model.get_decoder().layers, []
    batch = Collator(processor, pairs=False, pack=False)(GROUPS[:3])
    hooks = [layers[1].register_forward_hook(lambda layer, args, y: seen.append(y))]
    hooks.append(layers[1].traversal_gate.register_forward_pre_hook(lambda gate, args: seen.append(args[0])))
    said = record(model, [batch])
    for hook in hooks:
        hook.remove()
    first, mixed = seen
    real = batch["attention_mask"].bool()
    expected = ((mixed - first).norm(dim=-1) / first.norm(dim=-1))[real]
    assert said.layers == (0, 1, 2, 3) and said.ratios.shape == (4, int(real.sum())) < (4, real.numel())
    torch.testing.assert_close(said.moved[1], expected)
    torch.testing.assert_close(said.ratios.mean(dim=1), torch.tensor([0.02, 0.9, 0.1, 0.5]), atol=1e-5, rtol=0)
    with torch.no_grad():
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "labels", "pixel_values")}
        assert said.loss == pytest.approx(float(model(**inputs, use_cache=False).loss), rel=1e-5)


def test_only_prompts_are_recorded_where_only_they_traverse(built):
    model, processor = built(tokens="prompt")
    batch = Collator(processor, pairs=False, pack=False)(GROUPS[:2])
    expected = int((batch["attention_mask"].bool() & (batch["labels"] == -100)).sum())
    assert record(model, [batch]).ratios.shape[1] == expected


@pytest.mark.parametrize(("budget", "skip"), [(1.3, (0, 2, 3)), (1.5, (0, 2)), (1.8, (0,)), (2, ()), (1, (0, 1, 2, 3))])
def test_the_layers_that_do_least_are_left_out(built, budget: float, skip: tuple[int, ...]):
    model, processor = built()
    found = calibrate(model, processor, GROUPS, budget, batch_size=4)
    assert found.skip == skip and found.cost == 1 + (4 - len(skip)) / 4 <= budget
    assert (found.loss == pytest.approx(found.recording.loss, rel=1e-6)) == (not skip)
    assert (found.loss == pytest.approx(found.loss_none, rel=1e-6)) == (len(skip) == 4)
    assert model.config.text_config.modifiers[0]["skip"] == list(skip)
    assert list(found.as_dict()["layers"][1]) == [
        "layer", "traverses", "moved", "ratio", "ratio_quantiles", "over_half",
    ]  # fmt: skip


def test_without_a_budget_there_is_a_layer_that_traverses(built, tmp_path: Path, capsys):
    assert [passes_within(None, layers, 2) for layers in (2, 3, 4, 24)] == [1, 1, 1, 7]
    model, processor = built()
    model.save_pretrained(tmp_path / "four")
    built(passes=3)[0].save_pretrained(tmp_path / "thrice")
    for name, costs_more in (("four", False), ("thrice", True)):
        processor.save_pretrained(tmp_path / name)
        found = calibrate_folder(tmp_path / name, "primer", ["tasks=shape", "scenes=shapes"], examples=2)
        assert found.skip == (0, 2, 3)
        assert ("A single layer costs more here than the usual budget of 1.3" in capsys.readouterr().out) == costs_more


def test_angles_that_the_longest_row_decides_are_those_of_each_row_alone(built):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 45}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0]}
    decoder = {"family": "phi3", "rope_parameters": rope, "original_max_position_embeddings": 45}
    model, processor = built({**decoder, "max_position_embeddings": 360, "pad_token_id": 0})
    rows = [[example] for group in GROUPS for example in group]  # some are shorter, some longer than 45 tokens
    losses = {calibrate(model, processor, rows, 1.5, batch_size=size).recording.loss for size in (1, 4)}
    assert len(losses) == 1


def test_the_maps_show_the_layers_that_still_traverse(built):
    model, processor = built(share_gate=True)
    skip_traversal(model.get_decoder(), (1,))
    chat = GROUPS[0][0].messages[0].as_chat()
    traced = trace_traversal(model, processor, [chat])
    assert traced.layers == (0, 2, 3) and traced.ratios.shape[0] == 3


def test_in_place_and_beside_from_the_command_line(built, tmp_path: Path, monkeypatch, capsys):
    model, processor = built()
    here, out = tmp_path / "model", tmp_path / "budget"
    model.save_pretrained(here)
    processor.save_pretrained(here)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    words = [
        "calibrate",
        str(here),
        "primer",
        "tasks=shape,count",
        "scenes=shapes",
        "--budget",
        "1.3",
        "--examples",
        "3",
    ]
    gates = tmp_path / "new" / "folder" / "gates.json"
    monkeypatch.setattr("sys.argv", ["phantrol", *words, "--out", str(out), "--json", str(gates)])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr().out
    assert not end.value.code and "1 of 4 layers traverse, 1.25 times" in shown
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before, "the model itself stays as it was"
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}
    assert {name for name in before if before[name] != after[name]} == {"config.json"} and set(after) == set(before)
    said = json.loads(gates.read_text())
    assert said["skip"] == [0, 2, 3]
    assert said["loss_none"] < said["loss"] and "as likely without any second pass: --budget 1 keeps none" in shown
    loaded, _ = phantrol.load(out)
    assert list(traversing_gates(loaded.get_decoder())) == [1]
    options = ["tasks=shape,count", "scenes=shapes"]
    assert calibrate_folder(out, "primer", options, budget=1, examples=3).loss == pytest.approx(said["loss_none"])
    losses = iter((2.0, 1.0))  # with none, and so
    monkeypatch.setattr("phantrol.inference.calibrating.answer_loss", lambda *_: next(losses))
    calibrate_folder(out, "primer", options, budget=1.5, examples=3)  # the gates are there still
    assert "as likely without" not in capsys.readouterr().out
    assert list(traversing_gates(phantrol.load(out)[0].get_decoder())) == [1, 3]
    listed = json.loads((out / "manifest.json").read_text())["files"]["config.json"]
    assert listed["size"] == (out / "config.json").stat().st_size and not list(out.glob(".*"))


def test_the_command_line_calibrates_on_the_accelerator(built, tmp_path: Path, monkeypatch):
    for part in built():
        part.save_pretrained(tmp_path)

    def calibrate(model, *_):
        raise ValueError(f"it is on {model.device}")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr("phantrol.calibrating.calibrate", calibrate)
    with pytest.raises(ValueError, match="it is on meta"):
        calibrate_folder(tmp_path, "primer", ["tasks=shape", "scenes=shapes"], examples=2)


def test_a_file_and_its_pictures_from_the_command_line(built, tmp_path: Path, monkeypatch, capsys):
    model, processor = built()
    here, data, pictures, out = (tmp_path / name for name in ("model", "rows.jsonl", "pictures", "budget"))
    model.save_pretrained(here)
    processor.save_pretrained(here)
    pictures.mkdir()
    rows = []
    for name, answer in (("red", "a red circle"), ("green", "two"), ("blue", "3"), ("white", "no, none at all")):
        Image.new("RGB", (48, 48), name).save(pictures / f"{name}.png")
        said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": answer}]
        rows.append({"image": f"{name}.png", "conversations": said})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    gates = out / "notes" / "gates.json"  # in the new folder itself

    def typed(*more: Path | str) -> int:
        words = [here, data, "--examples", "2", "--out", out, "--json", gates, *more]
        monkeypatch.setattr("sys.argv", ["phantrol", "calibrate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert typed() == 2 and "red.png: no such file" in capsys.readouterr().err and not out.exists()
    assert not typed("--images", pictures)
    found, source = json.loads(gates.read_text()), FileSource(data, images=pictures)
    expected = calibrate(model, processor, [source[0], source[2]], 1.3)  # two of four, evenly spread
    assert (found["tokens"], found["skip"]) == (expected.recording.ratios.shape[1], [0, 2, 3])
    assert found["loss_all"] == pytest.approx(expected.recording.loss, rel=1e-5)
    others = calibrate(model, processor, [source[1], source[3]], 1.3)
    assert found["loss_all"] != pytest.approx(others.recording.loss, rel=1e-3)  # the control: other rows, another loss
    assert list(traversing_gates(phantrol.load(out)[0].get_decoder())) == [1]


def test_errors(built, tmp_path: Path, tiny_decoder):
    with pytest.raises(ValueError, match=r"a budget of 1.1: expected 1 .* or 1.25 and more"):
        passes_within(1.1, 4, 2)
    with pytest.raises(ValueError, match=r"a budget of 0\.5"):
        passes_within(0.5, 4, 2)
    for budget in (inf, -inf, nan):
        with pytest.raises(ValueError, match=rf"a budget of {budget:g}: expected 1 .* or 1.25 and more"):
            passes_within(budget, 4, 2)
    with pytest.raises(ValueError, match=r"a budget of 1.33: expected 1 .* or 1.34 and more"):  # which is then taken
        passes_within(1.33, 3, 2)
    assert passes_within(1.34, 3, 2) == 1
    assert passes_within(1e308, 4, 2) == 4 and passes_within(1, 4, 2) == 0
    assert passes_within(1.3, 24, 2) == 7 and passes_within(2, 24, 2) == 24 and passes_within(1.5, 6, 4) == 1
    model, processor = built()
    with pytest.raises(ValueError, match="no examples to calibrate on"):
        calibrate(model, processor, [], 1.5)
    weight = model.get_decoder().layers[2].traversal_gate.weight
    weight.data[0, 0] = nan
    with pytest.raises(ValueError, match="logits are not finite: its weights hold NaN"):
        calibrate(model, processor, GROUPS, 1.5)
    weight.data[0, 0] = 0
    model.config.get_text_config().max_position_embeddings = 24
    with pytest.raises(ValueError, match=rf"example {GROUPS[0][0].id}: got \d+ tokens, expected at most 24"):
        calibrate(model, processor, GROUPS, 1.5)
    with pytest.raises(ValueError, match=r"TrolConfig.skip names \[7\]"):
        skip_traversal(model.get_decoder(), (7,))
    with pytest.raises(ValueError, match="no layer of this model traverses"):
        skip_traversal(tiny_decoder("llama").get_decoder(), ())
    with pytest.raises(ValueError, match="exists: choose another folder"):
        calibrate_folder(tmp_path, "primer", out=tmp_path)
    with pytest.raises(ValueError, match=r"inside lies in .*, and would be a copy of it"):
        calibrate_folder(tmp_path, "primer", out=tmp_path / "deep" / "inside")
    with pytest.raises(ValueError, match="no model folder some/hub-id"):
        calibrate_folder(Path("some/hub-id"), "primer")
    with pytest.raises(ValueError, match=r"file: .*'path'; name a file, or a source whose options all have a default"):
        open_groups("file", (), None, 1)
    with pytest.raises(ValueError, match="tasks are empty: name some, or leave them out for all"):
        open_groups("primer", ("tasks=",), None, 1)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is no folder"):
        calibrate_folder(tmp_path / "nowhere", "primer", out=tmp_path / "file" / "budget")
    for path, words in ((tmp_path / "file" / "gates.json", "is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=words):  # before a model is looked for, let alone changed
            calibrate_folder(tmp_path / "nowhere", "primer", json_path=path)
