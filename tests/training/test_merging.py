"""Adapters on full and on quantised weights: trained, merged at the end or by `phantrol merge`, and opened again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import phantrol
from phantrol.models.quantised import is_quantised, quantise_for_adapters
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.training.checkpoint import checkpoints, last_whole_checkpoint
from phantrol.training.merging import _built, merge, merged
from phantrol.training.new_model import Lora, SavedModel
from phantrol.training.recipe_json import recipe_from_json
from phantrol.training.run import run
from phantrol.training.trainable import train_only
from phantrol.training.weights import load_weights

IDS = torch.tensor([[9, 30, 17, 20, 30, 31, 40]])
TRAINED = ("projector.*", "*lora_*", "*traversal_gate*", "*.phantom.*")


@pytest.fixture(scope="module")
def adapted(tiny_recipe):
    """`adapted(weights)` returns the tiny recipe with adapters, in sizes that nf4 takes."""

    def recipe(weights=None, **model_options):
        made = tiny_recipe()
        text = {**made.model.text, "hidden_size": 128, "intermediate_size": 128, "num_key_value_heads": 4}
        lora = Lora(rank=4, targets=("q_proj", "v_proj", "down_proj"))
        model = replace(made.model, text=text, lora=lora, weights=weights, **model_options)
        align, tune = (replace(s, max_steps=3, lr=1e-2, optimiser="adamw") for s in made.stages)
        return replace(made, model=model, stages=(align, replace(tune, train=TRAINED)))

    return recipe


@pytest.fixture(scope="module", params=[None, "int8", "nf4"])
def finished(request, adapted, tmp_path_factory):
    """A run with adapters on weights of each kind."""
    out_dir = tmp_path_factory.mktemp("runs") / "run"
    run(adapted(request.param), out_dir)
    return out_dir


def logits(model, ids=IDS):
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits


def with_adapters(run_dir):
    recipe = recipe_from_json((run_dir / "recipe.json").read_text())
    model, _ = _built(recipe)
    load_weights(model, [p for stage in recipe.stages for p in stage.train], last_whole_checkpoint(run_dir).path)
    return model


def test_merged_by_hand_and_at_the_end_of_a_run_alike(finished, tmp_path):
    out = merge(finished, tmp_path / "merged")
    model, processor = phantrol.load(out)
    unmerged = with_adapters(finished)
    torch.testing.assert_close(logits(model), logits(unmerged), rtol=0, atol=1e-5)
    with unmerged.disable_adapter():  # the adapters do matter
        assert (logits(model) - logits(unmerged)).abs().max() > 1e-2
    final, _ = phantrol.load(finished / "final")
    for (name, one), (_, other) in zip(model.state_dict().items(), final.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    start = _built(recipe_from_json((out / "recipe.json").read_text()))[0].state_dict()
    for what in ("traversal_gate", ".phantom.", "projector"):  # these are trained whole, and are in the model
        one, other = ({n: t for n, t in state.items() if what in n} for state in (start, unmerged.state_dict()))
        assert one.keys() == other.keys() and any(not torch.equal(one[name], other[name]) for name in one)
    assert processor.encode([{"role": "user", "content": "What color?"}]).input_ids


def test_a_checkpoint_is_merged_as_it_was_then(finished, tmp_path):
    first = finished / "stages" / "1-tune" / "checkpoint-1"
    early, _ = phantrol.load(merge(first, tmp_path / "early"))
    last, _ = phantrol.load(finished / "final")
    assert (logits(early) - logits(last)).abs().max() > 1e-4


def test_a_checkpoint_of_an_earlier_stage_holds_what_that_had_trained(finished, tmp_path):
    end = finished / "stages" / "0-align" / "checkpoint-3"  # before adapters are trained
    model, _ = phantrol.load(merge(end, tmp_path / "aligned"))
    start = _built(recipe_from_json((finished / "recipe.json").read_text()))[0]
    assert not torch.equal(logits(model), logits(start))


def test_a_checkpoint_that_is_not_whole_is_not_merged(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    checkpoint = tmp_path / "run" / "stages" / "1-tune" / "checkpoint-3"
    spoilt = bytearray((checkpoint / "trained.safetensors").read_bytes())
    spoilt[-1] ^= 1
    (checkpoint / "trained.safetensors").write_bytes(spoilt)
    with pytest.raises(ValueError, match=r"trained\.safetensors: got sha256 .*use another checkpoint"):
        merge(checkpoint, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_stopped_quantised_run_goes_on_to_the_same_bits(adapted, tmp_path, metrics):
    whole, halves = adapted("nf4"), tmp_path / "halves"
    tune = replace(whole.stages[1], precision="bfloat16", gradient_checkpointing=True)
    whole = replace(whole, stages=(tune,))
    run(whole, tmp_path / "whole")
    run(whole, halves)
    for path in (halves / "final", halves / "stages" / "0-tune" / "checkpoint-3"):
        shutil.rmtree(path)
    run(whole, halves, resume=True)
    assert metrics(halves) == metrics(tmp_path / "whole")
    one, other = (phantrol.load(folder / "final")[0].state_dict() for folder in (halves, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("patterns", [("*",), ("*lora_*", "*lm_head*")], ids=str)
def test_tied_embeddings_that_are_trained_beside_adapters_are_saved_once(adapted, tmp_path, metrics, patterns):
    """By the one name or the other, and a stopped run goes on with them to the same bits."""
    made, out = adapted(), tmp_path / "run"
    recipe = replace(made, stages=(replace(made.stages[1], train=patterns),))
    final = run(recipe, out)
    whole, lines = phantrol.load(final)[0].state_dict(), metrics(out)
    tied = [name for name in load_file(checkpoints(out)[0].path / "trained.safetensors") if "lora_" not in name]
    assert sum(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in tied) == 1
    for path in (final, checkpoints(out)[-1].path):
        shutil.rmtree(path)
    again = phantrol.load(run(recipe, out, resume=True))[0].state_dict()
    assert metrics(out) == lines and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_gradients_pass_through_quantised_weights(adapted, weights):
    """As they pass through the very numbers that the quantised weights stand for."""
    quantised, _ = replace(adapted(weights).model, modifiers=(phantrol.TrolConfig(),)).build()
    plain, _ = _built(replace(adapted(weights), model=replace(adapted().model, modifiers=(phantrol.TrolConfig(),))))
    torch.manual_seed(0)
    names = [name for name, parameter in quantised.named_parameters() if is_quantised(parameter)]
    assert len(names) == 2 * 7 and all("language_model.model.layers." in name for name in names)
    source = dict(quantised.named_parameters())
    for name, parameter in plain.named_parameters():
        value = source[name]
        if name in names:
            value = value.get_original_weight() if weights == "nf4" else value.dequantize()
        parameter.data.copy_(value.data)
    results = []
    for model in (quantised, plain):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        train_only(model, ("*lora_*",))
        loss = model.eval()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_trained_stays_whole(adapted):
    model, _ = adapted("int8").model.build()
    for name, parameter in model.named_parameters():
        kept = "traversal_gate" in name or ".phantom." in name or "lora_" in name or "projector" in name
        assert not (kept and is_quantised(parameter)), name
    with pytest.raises(ValueError, match=r"is quantised; expected adapters"):
        train_only(model, ("*",))


def test_errors(adapted, tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match="weights='int8' and no lora"):
        replace(tiny_recipe().model, weights="int8")
    with pytest.raises(ValueError, match="weights='int8' and no lora"):
        SavedModel("somewhere", weights="int8")
    model, _ = adapted().model.build()
    with pytest.raises(ValueError, match="int4 has no gradients"):
        quantise_for_adapters(model, "int4")
    small = replace(tiny_recipe().model, lora=Lora(), weights="nf4")
    with pytest.raises(ValueError, match="nf4 takes multiples of 16384; take int8"):
        small.build()
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(tmp_path, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists: choose another"):
        merge(tmp_path, tmp_path / "there")
    run_dir = run(tiny_recipe("stages.0.max_steps=1", "stages.1.max_steps=1"), tmp_path / "plain").parent
    for folder in (run_dir, run_dir / "final", run_dir / "stages/1-tune/checkpoint-1"):
        with pytest.raises(ValueError, match="nothing to merge"):
            merge(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_peft_saved(adapted, tmp_path):
    described = adapted()
    base, processor = replace(described.model, lora=None).build()
    for part in (base, processor):
        part.save_pretrained(tmp_path / "base")
    model = Lora(rank=4).put_on(phantrol.load(tmp_path / "base")[0])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.05)
    model.save_pretrained(tmp_path / "adapter")
    merged, _ = phantrol.load(merge(tmp_path / "adapter", tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["down_proj", "embed_tokens"]},
        {"target_modules": ["down_proj", "lm_head"]},
        {"target_modules": ["down_proj"], "trainable_token_indices": [4, 9]},
    ],
    ids=["embeddings", "head", "rows of the embeddings"],
)
def test_adapters_on_one_of_two_tied_weights_leave_the_other_as_it_was(adapted, tmp_path, options):
    """The head is the weight of the word embeddings: what is merged into the one must not be in the other."""
    peft = pytest.importorskip("peft")
    described = replace(adapted().model, lora=None)
    base, processor = described.build()
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    for part in (base, processor):
        part.save_pretrained(tmp_path / "base")
    where = peft.LoraConfig(r=2, **options)
    model = peft.get_peft_model(phantrol.load(tmp_path / "base")[0], where)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(len(name))))
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    opened, _ = phantrol.load(merge(tmp_path / "adapter", tmp_path / "merged"))
    at_the_end = merged(model, replace(adapted(), model=described), ())  # as a run ends
    for found in (opened, at_the_end):
        torch.testing.assert_close(logits(found), wanted, rtol=0, atol=1e-4)
        assert not found.config.tie_word_embeddings and not found.config.text_config.tie_word_embeddings
    assert (wanted - logits(base)).abs().max() > 0.1


@pytest.fixture
def saved(adapted, tmp_path):
    """`saved(config, modifiers)` saves adapters of PEFT and their base; returns (their folder, what to ask, logits)."""
    peft = pytest.importorskip("peft")

    def save(config, modifiers=()):
        base, processor = replace(adapted().model, lora=None, modifiers=modifiers).build()
        shown = [{"type": "image", "image": Image.new("RGB", (32, 32), "red")}, {"type": "text", "text": "What color?"}]
        asked = processor.encode([{"role": "user", "content": shown}])
        inputs = {"input_ids": torch.tensor([asked.input_ids]), "pixel_values": asked.pixel_values}
        assert base.config.image_token_id in asked.input_ids
        draw(base, "lora_B")
        for part in (base, processor):
            part.save_pretrained(tmp_path / "base")
        model = peft.get_peft_model(phantrol.load(tmp_path / "base")[0], config).eval()
        draw(model, *(name for name, parameter in model.named_parameters() if parameter.requires_grad))
        model.save_pretrained(tmp_path / "adapter")
        with torch.inference_mode():
            return tmp_path / "adapter", inputs, model(**inputs).logits

    def draw(model, *names):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if any(each in name for each in names):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(len(name))))

    return save


PARTIAL = (PartialLoraConfig(rank=4, alpha=4.0),)
KINDS = {
    "LORA": ("LoraConfig", {"r": 2}),
    "LOKR": ("LoKrConfig", {"r": 2}),
    "Dora": ("LoraConfig", {"r": 2, "use_dora": True}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 8}),
}


@pytest.mark.parametrize(("modifiers", "kind"), [(PARTIAL, kind) for kind in KINDS] + [((), "Dora"), ((), "IA3")])
def test_what_image_tokens_alone_add_is_merged_or_refused(saved, tmp_path, modifiers, kind):
    """PEFT merges into weights: what scales or rotates the sum of a weight and a partial LoRA does not fit in there."""
    peft = pytest.importorskip("peft")
    name, options = KINDS[kind]
    linears = r".*language_model\.model\.layers\.\d+\.\w+\.(q_proj|down_proj)"
    folder, inputs, wanted = saved(getattr(peft, name)(target_modules=linears, **options), modifiers)
    if modifiers and kind not in ("LORA", "LOKR"):
        with pytest.raises(
            ValueError, match=rf"layers\.0\.\S+_proj: got adapters of the kind {kind} on a linear with a"
        ):
            merge(folder, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
        return
    opened, _ = phantrol.load(merge(folder, tmp_path / "merged"))
    with torch.inference_mode():
        torch.testing.assert_close(opened.eval()(**inputs).logits, wanted, rtol=0, atol=1e-4)
        plain = phantrol.load(tmp_path / "base")[0].eval()(**inputs).logits
    assert (plain - wanted).abs().max() > 1e-2


def test_adapters_that_peft_cannot_merge(saved, tmp_path):
    peft = pytest.importorskip("peft")
    folder, *_ = saved(peft.LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"these adapters cannot be merged: RuntimeError: .*bias.*; use them unmerged"):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
