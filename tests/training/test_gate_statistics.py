"""What the gates say while a model trains: the right numbers, of the right tokens, and nothing is changed by asking."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from phantrol.data.collate import Collator
from phantrol.explain.phantom import term_share
from phantrol.losses.base import model_inputs
from phantrol.losses.sft import Sft
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.gate_statistics import GateStatistics
from phantrol.training.meters import Meters
from phantrol.training.run import run
from phantrol.training.speed import Speed


@pytest.fixture(scope="module")
def grafted(tiny_recipe):
    """A model whose gates and phantom say something, and a batch with padding."""
    torch.manual_seed(0)
    model, processor = tiny_recipe().model.build()
    for name, parameter in model.named_parameters():
        if "traversal_gate" in name or ".phantom." in name:
            torch.nn.init.normal_(parameter, std=2.0 if parameter.ndim > 1 else 0.01)
    data = tiny_recipe().stages[0].data
    batch = Collator(processor, pairs=False, pack=False)([data.group(index, 0) for index in range(4)])
    return model.eval(), batch


def heard(model, batch, step=2, every=2, **recipe):
    meters = Meters()
    with torch.no_grad(), GateStatistics(model, every, 100).listening(meters, batch, step):
        logits = Sft()(model, batch, {"tokens": 1, "pairs": 1}).loss
    return meters.take(Accelerator(cpu=True)), logits


def test_ratios_are_means_over_tokens_that_are_no_padding(grafted):
    model, batch = grafted
    lengths = batch["row_tokens"]
    assert min(lengths) < max(lengths) == batch["input_ids"].shape[1]
    said = {0: [], 1: []}
    layers = model.get_decoder().layers
    hooks = [
        layers[i].traversal_gate.register_forward_hook(lambda _, __, out, i=i: said[i].append(out)) for i in (0, 1)
    ]
    values, _ = heard(model, batch)
    for hook in hooks:
        hook.remove()
    for layer, (ratio,) in said.items():
        tokens = torch.cat([row[:n, 0] for row, n in zip(ratio, lengths, strict=True)])
        assert values[f"gates/layer_0{layer}/ratio"] == pytest.approx(float(tokens.mean()), rel=1e-5)
        assert values[f"gates/layer_0{layer}/over_half"] == pytest.approx(
            float((tokens > 0.5).float().mean()), rel=1e-5
        )
        assert values[f"gates/layer_0{layer}/ratio"] != pytest.approx(float(ratio.mean()), rel=1e-5)  # with padding
    assert values["gates/layer_00/ratio"] != values["gates/layer_01/ratio"]
    assert 0 < values["gates/layer_00/over_half"] < 1


def test_of_answers_that_do_not_traverse_nothing_is_said(tiny_recipe, grafted):
    _, batch = grafted
    torch.manual_seed(0)
    model, _ = replace(tiny_recipe().model, modifiers=(TrolConfig(tokens="prompt", gate_bias=0.0),)).build()
    gate = model.get_decoder().layers[0].traversal_gate
    torch.nn.init.normal_(gate.weight, std=2.0)
    told = []
    with gate.register_forward_hook(lambda _, __, out: told.append(out[..., 0])):
        values, _ = heard(model.eval(), batch)
    is_real = torch.arange(told[0].shape[1]) < torch.tensor(batch["row_tokens"])[:, None]
    asked, all_tokens = told[0][is_real & batch["prompt_mask"]], told[0][is_real]
    assert len(asked) < len(all_tokens)
    for name, of in (("ratio", lambda w: w.mean()), ("over_half", lambda w: (w > 0.5).float().mean())):
        assert values[f"gates/layer_00/{name}"] == pytest.approx(float(of(asked)), rel=1e-5)
        assert float(of(asked)) != pytest.approx(float(of(all_tokens)), rel=1e-4)


def test_the_share_of_the_phantom_is_that_of_the_explanation(grafted):
    model, batch = grafted
    phantom, told = model.get_decoder().layers[1].self_attn.phantom, []
    hooks = [
        gate.register_forward_hook(lambda _, args, out: told.append((args[0], out)))
        for gate in (phantom.gate_1, phantom.gate_2)
    ]
    values, _ = heard(model, batch)
    for hook in hooks:
        hook.remove()
    shares = []
    for (first, one), (both, two) in zip(told[::2], told[1::2], strict=True):
        real = [slice(0, n) for n in batch["row_tokens"]]
        # of all tokens as of one long vector, which is what a mean over a layer is
        flat = [torch.cat([x[i, part].flatten(0, 1) for i, part in enumerate(real)]) for x in (first, both, one, two)]
        added = term_share(*flat) * flat[0].double().square().mean(-1).sqrt()
        shares.append(float((added.square().mean() / flat[0].double().square().mean()).sqrt()))
    assert len(shares) == 2  # two passes
    assert values["phantom/layer_01/share"] == pytest.approx(sum(shares) / 2, rel=1e-4) and shares[0] > 0.01


def test_only_where_a_line_of_the_log_follows(grafted):
    model, batch = grafted
    assert heard(model, batch, step=1)[0] == {} and heard(model, batch, step=3)[0] == {}
    assert heard(model, batch, step=100, every=3)[0]  # the last step has a line of its own
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_share_a_gate_are_one(tiny_recipe):
    model, _ = replace(tiny_recipe().model, modifiers=(TrolConfig(share_gate=True),)).build()
    assert list(GateStatistics(model, 1, 1).gates.values()) == ["all"]
    plain, _ = replace(tiny_recipe().model, modifiers=()).build()
    statistics = GateStatistics(plain, 1, 1)
    assert not statistics.gates and not statistics.phantoms


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_run_is_the_same_to_the_bit_with_and_without(tiny_recipe, tmp_path, monkeypatch, metrics, checkpointing):
    recipe = tiny_recipe("log_every_steps=1", f"stages.align.gradient_checkpointing={checkpointing}")
    recipe = replace(recipe, stages=recipe.stages[:1])
    run(recipe, tmp_path / "with")
    monkeypatch.setattr(GateStatistics, "listening", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(Speed, "training_on", lambda *_: contextlib.nullcontext())
    run(recipe, tmp_path / "without")
    one, other = (load_file(tmp_path / name / "final/model.safetensors") for name in ("with", "without"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    seen = {name for line in metrics(tmp_path / "with") for name in line if "/" in name}
    assert seen == {f"gates/layer_0{i}/{what}" for i in (0, 1) for what in ("ratio", "over_half")} | {
        f"phantom/layer_0{i}/share" for i in (0, 1)
    }
    assert not any("/" in name for line in metrics(tmp_path / "without") for name in line)


def test_the_batch_says_how_long_its_rows_are(grafted):
    _, batch = grafted
    assert batch["row_tokens"] == batch["attention_mask"].sum(1).tolist()
    assert "row_tokens" not in model_inputs(batch)


def test_a_mean_is_over_all_values_whatever_they_came_in():
    meters, here = Meters(), Accelerator(cpu=True)
    for values, count in ((torch.tensor([1.0, 2.0, 3.0]), None), (7.0, None), (torch.tensor([4.0, 4.0]), 0.5)):
        meters.add("a" if count is None else "b", values, count)
    assert meters.take(here) == {"a": 13 / 4, "b": 16.0} and meters.take(here) == {}


def test_a_longer_micro_batch_counts_for_more(grafted):
    model, batch = grafted
    short, long = ({**batch, "row_tokens": [n] * len(batch["row_tokens"])} for n in (4, 12))
    apart = [heard(model, each)[0]["phantom/layer_01/share"] for each in (short, long)]
    meters = Meters()
    for each in (short, long):
        with torch.no_grad(), GateStatistics(model, 2, 100).listening(meters, each, 2):
            Sft()(model, each, {"tokens": 1, "pairs": 1})
    together = meters.take(Accelerator(cpu=True))["phantom/layer_01/share"]
    assert together == pytest.approx((4 * apart[0] + 12 * apart[1]) / 16, rel=1e-4)
    assert abs(apart[0] - apart[1]) > 1e-3
