"""The recipes of the papers: each published number, a stand-in of each trained, what they take."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from phantrol.data.mixture import Mixture
from phantrol.find import names
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training import estimating
from phantrol.training.estimating import RowShape, estimate, measure, measure_by_layers, recipe_config, typical
from phantrol.training.optimiser import hidden_matrices
from phantrol.training.recipe import load_recipe
from phantrol.training.recipe_json import recipe_from_json, recipe_to_json
from phantrol.training.run import run
from phantrol.training.stand_in import MadeUp, stand_in

# decoder, tower, bits; hidden size, layers, heads, heads of keys; parameters that the method adds, in thousands, as the
# papers count them (gates without biases; the four maps and three uses of Phantom, without its gates)
PUBLISHED = {
    "trol_1_8b": ("internlm2-chat-1_8b", "clip-vit-large", "nf4", (2048, 24, 16, 8), 49.152),
    "trol_3_8b": ("Phi-3-mini", "InternViT-300M", "int8", (3072, 32, 32, 32), 98.304),
    "trol_7b": ("internlm2-chat-7b", "clip-vit-large", "nf4", (4096, 32, 32, 8), 131.072),
    "phantom_0_5b": ("Qwen2-0.5B", "InternViT-300M", "int8", (896, 24, 14, 2), 1179.648),
    "phantom_1_8b": ("internlm2-chat-1_8b", "InternViT-300M", "int8", (2048, 24, 16, 8), 4718.592),
    "phantom_3_8b": ("Phi-3-mini", "InternViT-300M", "int8", (3072, 32, 32, 32), 3538.944),
    "phantom_7b": ("internlm2_5-7b-chat", "InternViT-300M", "int8", (4096, 32, 32, 8), 6291.456),
}
# of both stages: batch, accumulation, steps of one epoch, lr from and to, rank = alpha; the losses, and what is trained
TROL = (768, 6, 2961, 1e-4, 1e-6, 64), (Sft(), Sft()), ("projector.*", "*traversal_gate*")
PHANTOM = (128, 4, 15939, 1e-5, 1e-6, 256), (PhantomOptimization(2.0, 0.5), Sft()), ("projector.*", "*.phantom.*")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_number(name):
    recipe, (decoder, tower, bits, sizes, added) = load_recipe(name, ["root=there"]), PUBLISHED[name]
    (batch, accumulation, steps, lr, final_lr, rank), losses, first = TROL if name.startswith("trol") else PHANTOM
    model = recipe.model
    assert decoder in model.text.hub_id and tower in model.vision.hub_id and model.weights == bits
    assert (model.lora.rank, model.lora.alpha, model.lora.targets) == (rank, rank, ("all",))
    assert model.lora.vision == name.startswith("phantom")
    assert [stage.loss for stage in recipe.stages] == list(losses)
    assert [stage.train for stage in recipe.stages] == [first, (*first, "*lora_*")]
    for stage in recipe.stages:
        assert (stage.batch_size, stage.accumulation, stage.max_steps) == (batch, accumulation, steps)
        assert (stage.lr, stage.final_lr, stage.schedule, stage.optimiser) == (lr, final_lr, "cosine", "adamw")
        assert stage.precision == "bfloat16" and stage.gradient_checkpointing and stage.warmup_steps == 0
        assert all(source.path.startswith("there/") for _, source in stage.data.parts)
    config = recipe_config(recipe).text_config
    heads = (config.num_attention_heads, config.num_key_value_heads)
    assert (config.hidden_size, config.num_hidden_layers, *heads) == sizes
    assert isinstance(model.modifiers[0], TrolConfig if name.startswith("trol") else PhantomConfig)
    bare, head_size = recipe_config(recipe), config.hidden_size // config.num_attention_heads
    gates = config.hidden_size if name.startswith("trol") else 3 * 4 * head_size**2
    assert gates * config.num_hidden_layers / 1000 == added
    assert bare.image_px == (490 if "clip" in tower else 448) and bare.unshuffle == (1 if "clip" in tower else 2)


def test_the_rows_of_the_data_are_those_that_the_papers_count():
    parts = load_recipe("trol_7b").stages[0].data.parts
    assert sum(weight for weight, _ in parts) == 2_273_830 and len(parts) == 9
    ((_, triples),) = load_recipe("phantom_7b").stages[0].data.parts
    assert triples.path.endswith("Phantom.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_data_that_can_be_listed_written_and_changed(name):
    assert name in names("recipes") and "papers" not in names("recipes")
    recipe = load_recipe(name, ["root=a", "stages.tune.lr=2e-5", "model.lora.rank=8"])
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    assert recipe.stages[1].lr == 2e-5 and recipe.model.lora.rank == 8


@pytest.mark.parametrize(("name", "rows"), [("trol_1_8b", 768), ("phantom_7b", 128)])
def test_questions_together_leave_the_rows_of_a_batch_as_published(name, rows):
    recipe = load_recipe(name, ["together=8"])
    for stage in recipe.stages:
        assert stage.batch_size == rows // 8 and {source.together for _, source in stage.data.parts} == {8}
        assert estimating._rows_of_a_group(stage.data) == 8  # hours are counted by rows
    with pytest.raises(ValueError, match=f"together: got 7, expected a divisor of {rows}"):
        load_recipe(name, ["together=7"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_stand_in_trains_both_stages_and_leaves_a_model(name, tmp_path):
    small = stand_in(load_recipe(name))
    quick = dict(data=Mixture(((1.0, MadeUp()),)), max_steps=2, batch_size=2, accumulation=1, lr=1e-3)
    recipe = replace(small, stages=tuple(replace(stage, **quick) for stage in small.stages), log_every_steps=1)
    final = run(recipe, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)
    import phantrol

    model, _ = phantrol.load(final)
    assert not any(fnmatchcase(key, "*lora_*") for key in model.state_dict())  # merged


def test_a_recipe_with_arguments_says_which_it_needs():
    with pytest.raises(ValueError, match=r"needs model=... and data=... on the command line"):
        load_recipe("finetune_lora")
    recipe = load_recipe("finetune_lora", ["model=here", "data=a.json", "images=pics", "steps=7", "stages.0.lr=1e-5"])
    assert recipe.model.folder == "here" and recipe.stages[0].data.parts[0][1].images == "pics"
    assert recipe.stages[0].max_steps == 7 and recipe.stages[0].lr == 1e-5
    with pytest.raises(ValueError, match="the sizes of here are not here: "):
        recipe_config(recipe)
    with pytest.raises(ValueError, match=r"override steps: got 'many', expected int"):
        load_recipe("finetune_lora", ["model=a", "data=b", "steps=many"])
    with pytest.raises(ValueError, match="unknown key 'roots'"):
        load_recipe("trol_7b", ["roots=a"])


def test_a_step_of_what_a_newcomer_copies_has_eight_rows():
    words = ["model=a", "data=b.json"]
    for right in (1, 4, 8):
        assert load_recipe("finetune_lora", [*words, f"together={right}"]).stages[0].batch_size == 8 // right
    for wrong in (0, 3, 16):
        with pytest.raises(ValueError, match=f"together: got {wrong}, expected "):
            load_recipe("finetune_lora", [*words, f"together={wrong}"])


def test_what_a_newcomer_copies_trains_on_his_own_file(tmp_path):
    small = stand_in(load_recipe("phantom_0_5b"))
    model, processor = replace(small.model, lora=None, weights=None).build()
    model.save_pretrained(tmp_path / "model"), processor.save_pretrained(tmp_path / "model")
    rows = [{"question": f"What is {i}?", "answer": "red"} for i in range(8)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    words = [f"model={tmp_path / 'model'}", f"data={tmp_path / 'mine.json'}", "steps=2"]
    final = run(load_recipe("finetune_lora", words), tmp_path / "run")
    import phantrol

    tuned, _ = phantrol.load(final)
    before, after = model.state_dict(), tuned.state_dict()
    changed = [key for key in before if not before[key].equal(after[key])]
    assert changed and all("q_proj" in k or "_proj" in k or "projector" in k for k in changed)
    assert not any(".phantom." in key for key in changed)  # adapters are on the backbone's own maps alone


def test_the_estimate_counts_what_is_there():
    recipe = load_recipe("phantom_0_5b")
    align, tune = estimate(recipe, RowShape(1, 16, 8))
    linears = 24 * (896 * 896 * 2 + 2 * 896 * 128 + 3 * 896 * 4864)
    vision, table, projector = 304_012_288, 151936 * 896, 2 * 4096 + 4096 * 896 + 896 + 896**2 + 896
    phantom = 24 * (12 * 64**2 + 2 * 65)
    assert align.trained == projector + phantom
    rest = vision + table + projector + phantom + 24 * (896 + 256 + 2 * 896) + 896
    adapters = tune.trained - align.trained
    assert align.weights == pytest.approx(linears + 4 * (rest + adapters), rel=2e-4)
    assert tune.gradients == 4 * tune.trained and tune.optimiser == 8 * tune.trained
    per_layer = (896 + 896) * 2 + (896 + 128) * 2 + (896 + 4864) * 3
    assert adapters == 256 * 24 * (per_layer + 4 * 2048 + 2 * (1024 + 4096))
    assert align.rows == 15939 * 128
    assert all(flops > 7e13 for _, flops in estimating.GPUS.values())
    assert estimating.GPUS["H200 141GB"] == (141, 989.4e12)
    hours = [tune.hours("RTX 3090 24GB", count) for count in (1, 8)]
    assert hours[0] == pytest.approx(8 * hours[1])
    # forward and back of frozen linears: 2 and 2 operations a weight and token, and 2 more for what is trained
    tokens = 256 + 16 + 8
    assert tune.row_flops > 4 * linears * tokens and tune.row_flops < 14 * (linears + vision) * 1025
    assert typical(recipe).tiles == 4 and tune.activations > 1e7


@pytest.mark.parametrize(("name", "number"), [("trol_1_8b", 0), ("phantom_0_5b", 1)])
def test_one_layer_more_takes_as_much_as_every_other(name, number):
    recipe, row = load_recipe(name), RowShape(1, 32, 16)
    config, stage = estimating._cut(recipe_config(recipe), 3, 2), recipe.stages[number]
    whole = measure(recipe, stage, config, row)
    assert measure_by_layers(recipe, stage, config, row) == pytest.approx(whole, 0.01)
    deeper = estimating._cut(recipe_config(recipe), 4, 2)
    assert measure_by_layers(recipe, stage, deeper, row)[1] > 1.1 * whole[1]


def test_a_convolutional_tower_is_measured_as_a_whole(tiny_recipe):
    """It has no layers that are alike: its configuration names none."""
    recipe, row = tiny_recipe(), RowShape(1, 16, 8)
    tower = dict(model_type="efficientnet_lite", image_size=32)
    few, many = (
        replace(recipe, model=replace(recipe.model, vision={**tower, "num_stages": stages})) for stages in (3, 5)
    )
    (small, _), (align, tune) = estimate(few, row), estimate(many, row)
    assert measure(many, many.stages[1], recipe_config(many), row) == (tune.activations, tune.row_flops)
    assert align.weights == pytest.approx(4 * sum(p.numel() for p in many.model.build()[0].parameters()), rel=5e-3)
    assert align.weights > small.weights and align.row_flops > small.row_flops


def test_what_is_no_modifier_is_said_before_anything_is_estimated(tiny_recipe):
    model = tiny_recipe().model
    with pytest.raises(ValueError, match="'trol' is no modifier's configuration: expected, for example, "):
        recipe_config(replace(tiny_recipe(), model=replace(model, modifiers=("trol",))))
    with pytest.raises(ValueError, match=r"modifiers: got TrolConfig\(.*, expected a list of configurations"):
        replace(model, modifiers=model.modifiers[0])


def test_the_estimate_of_each_option(tiny_recipe, monkeypatch):
    recipe, row = tiny_recipe(), RowShape(1, 16, 8)
    align, tune = recipe.stages

    def of(stage, **changes):
        return estimate(replace(recipe, stages=(replace(stage, **changes),)), row)[0]

    muon, adamw = of(tune), of(tune, optimiser="adamw")
    model = recipe.model.build()[0]
    matrices = sum(p.numel() for p in model.parameters() if id(p) in hidden_matrices(model))
    assert adamw.optimiser == 8 * adamw.trained and adamw.optimiser - muon.optimiser == 4 * matrices > 0
    assert of(align).row_flops > of(align, loss=tune.loss).row_flops, "an answer and a wrong one"
    kept, again = of(tune), of(tune, gradient_checkpointing=True)
    assert again.activations < kept.activations and again.row_flops >= kept.row_flops
    monkeypatch.setattr(estimating, "GPUS", {"toy": (10, 1e12)})
    assert adamw.hours("toy", 2) == pytest.approx(adamw.rows * adamw.row_flops / (1e12 * 2 * 0.3) / 3600)
    assert adamw.rows_at_once("toy") == int((10e9 - adamw.fixed_bytes) / adamw.activations)
    larger = replace(adamw, weights=5e9, activations=2e9)
    assert larger.rows_at_once("toy") == 1  # 10 - 1.5 - 5 leave 3.5
    assert estimating.BYTES_OF["nf4"] == pytest.approx(0.516, abs=1e-3)
    assert replace(larger, weights=9e9).rows_at_once("toy") == 0


def test_rows_of_a_group_count_by_the_weights_of_a_mixture():
    class Source(list):
        def __init__(self, together):
            super().__init__([()])
            self.together = together

    mixture = Mixture(((3.0, Source(1)), (1.0, Source(5))))
    assert estimating._rows_of_a_group(mixture) == 2.0
