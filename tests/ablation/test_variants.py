"""A variant changes exactly what it says, and everything else is the same: data, order, steps, weights at the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import set_seed

from phantrol.ablation.changing import PICTURES_OF_A_SEED, with_preference, with_seed, with_settled_precision
from phantrol.ablation.costs import CostBook
from phantrol.ablation.deeper import with_layers
from phantrol.ablation.run import Experiment, _costs, plan
from phantrol.ablation.starting import started_alike
from phantrol.ablation.variants import PLAIN, TROL, VARIANTS, Variant, choose_variants
from phantrol.data.mixture import Groups
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training import precision
from phantrol.training.new_model import SavedModel
from phantrol.training.recipe import load_recipe
from phantrol.training.recipe_json import differences, recipe_to_json

BY_NAME = {variant.name: variant for variant in VARIANTS}


def changed(recipe, name, against="plain"):
    """Return where the recipes of two variants differ, as {place: value of the first}."""
    lines = differences(recipe_to_json(BY_NAME[name](recipe)), recipe_to_json(BY_NAME[against](recipe)))
    return {line.partition(": ")[0] for line in lines}


@pytest.mark.parametrize(
    ("name", "against", "places"),
    [
        ("trol", "plain", {"model.modifiers", "stages.0.train"}),
        ("phantom", "plain", {"model.modifiers", "stages.0.train"}),
        ("both", "plain", {"model.modifiers", "stages.0.train"}),
        ("plain_po", "plain", {"stages.0.loss.class", "stages.0.loss.beta", "stages.0.loss.gamma"}),
        ("trol_po", "trol", {"stages.0.loss.class", "stages.0.loss.beta", "stages.0.loss.gamma"}),
        ("both_po", "both", {"stages.0.loss.class", "stages.0.loss.beta", "stages.0.loss.gamma"}),
        ("trol_all_all", "trol", set()),
        ("trol_all_none", "trol", set()),
        ("trol_prompt_prompt", "trol", {"model.modifiers.0.tokens"}),
        ("trol_prompt_all", "trol_prompt_prompt", set()),
        ("trol_lower_half", "trol", {"model.modifiers.0.layers"}),
        ("trol_three_passes", "trol", {"model.modifiers.0.passes"}),
        ("plain_bf16", "plain", {"stages.0.precision", "stages.1.precision"}),
        ("phantom_small_bf16", "phantom_small_fp32", {"stages.0.precision", "stages.1.precision"}),
        ("phantom_small_fp32", "phantom", {"model.modifiers.0.eta"}),
        ("phantom_trained_fp32", "phantom_small_fp32", {"model.modifiers.0.train_eta"}),
        ("phantom_released_fp32", "phantom_small_fp32", {"model.modifiers.0.init"}),
        ("plain_deeper", "plain", {"model.text.num_hidden_layers"}),
    ],
)
def test_a_variant_changes_what_it_says_and_nothing_else(tiny_recipe, name, against, places):
    assert changed(tiny_recipe(), name, against) == places


def test_what_the_recipe_has_is_kept(tiny_recipe):
    recipe = tiny_recipe()
    own = (TrolConfig(layers=(1,), gate_bias=-1.0), PhantomConfig(layers=(0,), eta=0.5))
    recipe = replace(recipe, model=replace(recipe.model, modifiers=own))
    assert TROL(recipe).model.modifiers == own[:1]
    assert BY_NAME["both"](recipe).model.modifiers == own
    assert BY_NAME["trol_every_layer"](recipe).model.modifiers == (TrolConfig(layers="all", gate_bias=-1.0),)
    assert BY_NAME["phantom_small_fp32"](recipe).model.modifiers == (PhantomConfig(layers=(0,), eta=1e-4),)


def test_lower_layers_are_the_first_ones():
    recipe = load_recipe("primer_tiny", ["model.text={'model_type': 'llama', 'num_hidden_layers': 12}"])
    layers = {name: BY_NAME[f"trol_lower_{name}"](recipe).model.modifiers[0].layers for name in ("half", "quarter")}
    assert layers == {"half": (0, 1, 2, 3, 4, 5), "quarter": (0, 1, 2)}


def test_layers_of_a_part_of_the_hub_are_counted_without_the_hub():
    recipe = load_recipe("phantom_0_5b")
    assert BY_NAME["trol_lower_quarter"](recipe).model.modifiers[0].layers == tuple(range(6))
    with pytest.raises(ValueError, match=r"Qwen2-0.5B-Instruct.* cannot be made deeper"):
        with_layers(recipe, 25)


def test_stages_train_what_is_there(tiny_recipe):
    trains = {name: BY_NAME[name](tiny_recipe()).stages[0].train for name in ("plain", "trol", "phantom", "both")}
    assert trains == {
        "plain": ("projector.*",),
        "trol": ("projector.*", "*traversal_gate*"),
        "phantom": ("projector.*", "*.phantom.*"),
        "both": ("projector.*", "*traversal_gate*", "*.phantom.*"),
    }
    assert BY_NAME["both"](tiny_recipe()).stages[1].train == ("*",)


def test_phantom_optimization_without_a_stage_for_it_goes_to_the_first_sft(tiny_recipe):
    recipe = with_preference(tiny_recipe(), False)
    assert [type(stage.loss) for stage in recipe.stages] == [Sft, Sft]
    assert [type(stage.loss) for stage in with_preference(recipe, True).stages] == [PhantomOptimization, Sft]


def test_all_variants_see_the_same_data_in_the_same_order(tiny_recipe):
    arms = plan(tiny_recipe(), choose_variants(["methods", "tokens", "layers", "dimension"]))

    def seen(recipe):
        return [
            [[example.id for example in group] for group in (groups[index] for index in range(len(groups)))]
            for number, stage in enumerate(recipe.stages)
            for groups in [Groups(stage.data, recipe.stage_seed(number), stage.max_steps * stage.batch_size)]
        ]

    expected = seen(tiny_recipe())
    assert all(seen(arm.recipe) == expected for arm in arms)
    assert seen(with_seed(arms[0].recipe, 1)) != expected  # or else the comparison above says nothing


def test_each_seed_draws_pictures_of_its_own():
    recipe = load_recipe("primer_tiny")
    other = with_seed(recipe, 2)
    assert other.seed == 2
    starts = {source.start for stage in other.stages for _, source in stage.data.parts}
    assert starts == {2 * PICTURES_OF_A_SEED}
    assert with_seed(recipe, 0) == recipe


def test_variants_start_with_the_same_weights(tiny_recipe):
    arms = {arm.variant.name: arm for arm in plan(tiny_recipe(), choose_variants(["methods"]))}

    def weights(model):
        set_seed(7)
        return model.build()[0].state_dict()

    plain = weights(arms["plain"].recipe.model)
    for name in ("trol", "phantom", "both"):
        ours = weights(arms[name].recipe.model)
        assert plain.keys() < ours.keys()
        assert all(torch.equal(tensor, ours[key]) for key, tensor in plain.items())
    alone = weights(arms["phantom"].recipe.model.model)  # drawn alone it starts elsewhere
    assert not all(torch.equal(tensor, alone[key]) for key, tensor in plain.items())


def test_variants_that_train_alike_train_once(tiny_recipe):
    arms = {arm.variant.name: arm.trained_as for arm in plan(tiny_recipe(), choose_variants(["trol", "tokens"]))}
    assert arms == {
        "plain": "plain",
        "trol": "trol",
        "trol_all_all": "trol",
        "trol_all_prompt": "trol",
        "trol_all_none": "trol",
        "trol_prompt_prompt": "trol_prompt_prompt",
        "trol_prompt_all": "trol_prompt_prompt",
    }


def test_a_precision_that_is_the_recipes_own_trains_once(tiny_recipe, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: device.type == "cuda")
    recipe = tiny_recipe("stages.align.precision=auto")  # and float32 in the other stage
    for device, shared in (("cpu", "plain"), ("cuda", "plain_fp32")):
        settled = with_settled_precision(recipe, torch.device(device))
        arms = plan(settled, choose_variants(["plain_fp32", "plain_bf16"]))
        assert {arm.variant.name: arm.trained_as for arm in arms} == {
            "plain": "plain", "plain_fp32": shared, "plain_bf16": "plain_bf16",
        }  # fmt: skip
        assert arms[0].recipe.stages[0].precision == {"cpu": "float32", "cuda": "bfloat16"}[device]


def test_what_is_compared_comes_with_all_that_it_is_compared_with():
    names = [variant.name for variant in choose_variants(["phantom_one_bf16", "trol"])]
    assert names == ["plain", "plain_bf16", "phantom_one_bf16", "trol"]


@pytest.mark.parametrize("name", ["", "../mine", "a/b", ".hidden", "two words"])
def test_a_name_that_is_no_folders(name):
    with pytest.raises(ValueError, match=r"expected letters, digits"):
        Variant(name, "what")


def test_options_that_are_none():
    with pytest.raises(ValueError, match=r"variant mine: got phantom=True, expected None or options, as in \{\}"):
        Variant("mine", "what", phantom=True)


def test_what_a_variant_is_asked_with():
    trained = (TrolConfig(layers=(1,)), PhantomConfig())
    assert TROL.modifiers_asked(trained) == trained
    assert BY_NAME["trol_all_prompt"].modifiers_asked(trained) == (TrolConfig((1,), tokens="prompt"), PhantomConfig())
    assert BY_NAME["trol_all_none"].modifiers_asked(trained) == (PhantomConfig(),)
    assert BY_NAME["phantom_taken_out"].modifiers_asked(trained) == (TrolConfig(layers=(1,)),)


def test_choosing():
    assert choose_variants() == VARIANTS
    assert [variant.name for variant in choose_variants(["trol"])] == ["plain", "trol"]
    names = [variant.name for variant in choose_variants(["plain", "phantom_one_bf16"])]
    assert names == ["plain", "plain_bf16", "phantom_one_bf16"]
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_a_users_variants(tmp_path, tiny_recipe):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from phantrol.ablation.variants import Variant\n"
        "VARIANTS = (Variant('wide', 'a wide gate', trol={'gate_bias': 0.0}),\n"
        "            Variant('short', 'another seed', change=lambda recipe: replace(recipe, seed=9)))\n"
    )
    plain, wide, short = choose_variants([str(path)])
    assert (plain, wide.name, short.name) == (PLAIN, "wide", "short")
    assert wide(tiny_recipe()).model.modifiers[0].gate_bias == 0.0
    assert short(tiny_recipe()).seed == 9


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda recipe: None, "its change returned a NoneType, expected the changed Recipe"),
        (lambda recipe: replace(recipe, model=SavedModel("runs/x")), "runs/x is no folder here"),
        (lambda recipe: replace(recipe, stages=(replace(recipe.stages[0], train=("no.*",)),)), "train: got pattern"),
    ],
)
def test_a_variant_that_fails_is_named(change, complaint, tiny_recipe, squares):
    variants = (PLAIN, Variant("mine", "what fails", change=change))
    with pytest.raises(ValueError, match=f"^variant mine: {complaint}"):
        recipe = tiny_recipe()
        _costs(Experiment("tiny", recipe, plan(recipe, variants), 1, 3, ("val",), squares), CostBook())


def test_bad_input(tmp_path, tiny_recipe):
    with pytest.raises(ValueError, match=r"unknown variant 'troll': known are the groups methods.*plain_deeper"):
        choose_variants(["troll"])
    for name, text in (("empty.py", ""), ("none.py", "VARIANTS = ()\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="holds no VARIANTS"):
            choose_variants([str(tmp_path / name)])
    (tmp_path / "twice.py").write_text(
        "from phantrol.ablation.variants import Variant\nVARIANTS = (Variant('trol', 'another one'),)\n"
    )
    with pytest.raises(ValueError, match="two variants are called 'trol'"):
        choose_variants(["trol", str(tmp_path / "twice.py")])
    recipe = tiny_recipe()
    aligned = replace(recipe, stages=tuple(replace(stage, loss=WordAlignment()) for stage in recipe.stages))
    with pytest.raises(ValueError, match=r"no stage for Phantom Optimization: got align \(WordAlignment\)"):
        BY_NAME["plain_po"](aligned)
    with pytest.raises(ValueError, match="a AlikeModel: expected a NewModel or a SavedModel"):
        PLAIN(started_alike(recipe, recipe))
    with pytest.raises(ValueError, match="TrolConfig has no option gate: known are layers, passes"):
        Variant("x", "y", trol={"gate": 1})(recipe)
    gates = replace(recipe, stages=(replace(recipe.stages[0], train=("*traversal_gate*",)), recipe.stages[1]))
    with pytest.raises(ValueError, match="without the method nothing is left"):
        PLAIN(gates)
