"""A saved model goes on with what is grafted on it, and variants of it start at one point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import phantrol
from phantrol.ablation.changing import PICTURES_OF_A_SEED, num_layers
from phantrol.ablation.costs import answering_costs, training_flops
from phantrol.ablation.run import ablate, plan
from phantrol.ablation.variants import VARIANTS, choose_variants
from phantrol.modifiers.graft import modifier_configs
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.estimating import recipe_config
from phantrol.training.new_model import Lora, SavedModel
from phantrol.training.recipe import load_recipe
from phantrol.training.recipe_json import recipe_from_json, recipe_to_json

pytest.importorskip("peft")
BY_NAME = {variant.name: variant for variant in VARIANTS}
BOTH = (TrolConfig(gate_bias=phantrol.IDENTITY_BIAS), PhantomConfig())
CHAT = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
IDS = torch.tensor([[9, 30, 17, 20, 30, 31, 40]])


@pytest.fixture(scope="module")
def saved(tiny_recipe, tmp_path_factory):
    """`saved(modifiers)` is the folder of the tiny model with these."""

    def folder(modifiers):
        path = tmp_path_factory.mktemp("saved")
        torch.manual_seed(0)
        model, processor = replace(tiny_recipe().model, modifiers=modifiers).build()
        model.save_pretrained(path)
        processor.save_pretrained(path)
        return str(path)

    return folder


@pytest.fixture(scope="module")
def plain(saved):
    return saved(())


def continued(tiny_recipe, folder, **options):
    recipe = tiny_recipe()
    tune = replace(recipe.stages[1], train=("projector.*", "*lora_*", "*traversal_gate*"), max_steps=2)
    return replace(recipe, model=SavedModel(folder, lora=Lora(rank=2), **options), stages=(tune,))


def test_a_saved_model_costs_what_a_new_one_does(tiny_recipe, saved):
    new = replace(tiny_recipe(), model=replace(tiny_recipe().model, modifiers=BOTH))
    old = replace(new, model=SavedModel(saved(BOTH)))
    assert training_flops(old) == training_flops(new) and answering_costs(old, [CHAT]) == answering_costs(new, [CHAT])


@pytest.mark.parametrize("modifiers", [["trol"], [TrolConfig], [TrolConfig(layers=(99,))]])
@pytest.mark.parametrize("grafted", [True, False])
def test_what_is_no_modifier_is_refused_whatever_was_saved(saved, plain, grafted, modifiers):
    with pytest.raises(ValueError, match="expected"):
        SavedModel(saved(BOTH) if grafted else plain, modifiers=modifiers).configuration()


def test_a_number_without_its_point_is_the_same_number(saved):
    folder = saved((TrolConfig(), PhantomConfig()))
    assert SavedModel(folder, modifiers=[PhantomConfig(eta=1), TrolConfig(gate_bias=-4)]).configuration()
    with pytest.raises(ValueError, match="expected the same, or None"):
        SavedModel(folder, modifiers=[PhantomConfig(), TrolConfig(gate_bias=-3)]).configuration()


def test_sizes_are_those_of_a_saved_model_of_ours(plain, tmp_path):
    """transformers opens any folder as any configuration, and fills in what is missing."""
    with pytest.raises(ValueError, match="is not a whole model"):
        SavedModel(str(tmp_path)).configuration()
    assert num_layers(SavedModel(plain)) == num_layers(SavedModel(plain, modifiers=BOTH)) == 2


def test_it_is_grafted_where_it_was_saved_and_computes_the_same(plain, tmp_path):
    before, processor = phantrol.load(plain)
    model, _ = SavedModel(plain, modifiers=BOTH).build()
    assert modifier_configs(model.config.text_config) == list(BOTH)
    weights, grafted = before.state_dict(), model.state_dict()
    assert weights.keys() < grafted.keys() and all(torch.equal(grafted[name], weights[name]) for name in weights)
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, before(IDS).logits, rtol=0, atol=1e-5)
        # a gate that is open says something else
        opened = SavedModel(plain, modifiers=(TrolConfig(gate_bias=0.0),)).build()[0]
        assert (opened(IDS).logits - before(IDS).logits).abs().max() > 1e-3
        # and what is saved of it is opened with it
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        torch.testing.assert_close(phantrol.load(tmp_path)[0](IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_one_that_has_modifiers_keeps_them_and_gets_no_others(saved):
    folder = saved(BOTH)
    for modifiers in (None, BOTH, BOTH[::-1]):
        model, _ = SavedModel(folder, modifiers=modifiers).build()
        assert modifier_configs(model.config.text_config) == list(BOTH)
    listed = (TrolConfig(layers=[0]),)  # which comes back as a tuple
    assert SavedModel(saved(listed), modifiers=listed).configuration().text_config.modifiers[0]["layers"] == [0]
    for modifiers in ((), BOTH[:1], (TrolConfig(), PhantomConfig())):
        other = SavedModel(folder, modifiers=modifiers)
        for asked in (other.build, other.configuration):
            with pytest.raises(ValueError, match=r"was saved with \[Trol.*the same, or None; only a plain"):
                asked()


def test_bad_modifiers(plain):
    with pytest.raises(ValueError, match="modifiers: got 'trol', expected a list of configurations"):
        SavedModel(plain, modifiers="trol")
    wrong = SavedModel(plain, modifiers=(TrolConfig(layers=(7,)),))
    for asked in (wrong.build, wrong.configuration):
        with pytest.raises(ValueError, match="7"):
            asked()


def test_its_configuration_and_its_recipe_say_what_it_will_have(tiny_recipe, plain):
    recipe = continued(tiny_recipe, plain, modifiers=BOTH)
    assert modifier_configs(recipe_config(recipe).text_config) == list(BOTH)
    assert not modifier_configs(recipe_config(continued(tiny_recipe, plain)).text_config)
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    assert num_layers(recipe.model) == 2
    with pytest.raises(ValueError, match="cannot be made deeper"):
        BY_NAME["plain_deeper"](recipe)


def test_variants_start_at_one_point(tiny_recipe, plain):
    """Adapters too, whatever a modifier draws before them."""
    recipe = continued(tiny_recipe, plain, modifiers=BOTH)
    arms = {arm.variant.name: arm.recipe for arm in plan(recipe, choose_variants(["plain", "both"]))}
    models = {}
    for name, arm in arms.items():
        torch.manual_seed(0)
        models[name] = dict(arm.model.build()[0].named_parameters())
    assert models["plain"].keys() < models["both"].keys()
    assert any("lora_A" in name for name in models["plain"])
    assert all(torch.equal(models["both"][name], tensor) for name, tensor in models["plain"].items())
    assert arms["plain"].model.model.modifiers == () and arms["both"].model.model.modifiers == BOTH


def test_the_experiment_runs_from_it(tiny_path, plain, squares, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from dataclasses import replace\nfrom phantrol.training.recipe import load_recipe\n"
        "from phantrol.training.new_model import SavedModel\n"
        f"def recipe(model: str):\n    tiny = load_recipe({tiny_path!r})\n"
        "    return replace(tiny, model=SavedModel(model), stages=tiny.stages[1:])\n"
    )
    words = [f"model={plain}", "stages.tune.max_steps=2", "stages.tune.warmup_steps=0"]
    out = tmp_path / "out"
    ablate(str(recipe), out, ["plain", "trol", "trol_all_none"], words, 1, 3, ("val",), squares)
    before = phantrol.load(plain)[0].state_dict()
    for name, grafted in (("plain", False), ("trol", True)):
        (run,) = (out / "runs" / name).iterdir()
        model = phantrol.load(run / "final")[0]
        assert bool(modifier_configs(model.config.text_config)) is grafted
        moved = [key for key, tensor in model.state_dict().items() if key in before and (tensor != before[key]).any()]
        assert moved
    assert "trol_all_none" in (out / "report.md").read_text()


def test_the_recipe_goes_on_with_pictures_that_were_not_taught():
    recipe, new = load_recipe("primer_continued", ["model=somewhere"]), load_recipe("primer_smollm2", [])
    assert recipe.model == SavedModel("somewhere", lora=new.model.lora, modifiers=new.model.modifiers)
    (tune,), taught = recipe.stages, new.stages[-1]
    for (share, source), (same_share, before) in zip(tune.data.parts, taught.data.parts, strict=True):
        assert share == same_share and replace(source, start=before.start) == before
        after_all_seeds = source.start + tune.max_steps * tune.batch_size
        assert before.start + taught.max_steps * taught.batch_size < source.start < after_all_seeds < PICTURES_OF_A_SEED
