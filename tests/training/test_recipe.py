from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from phantrol.data.mixture import Mixture
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.training.overrides import override
from phantrol.training.recipe import Recipe, Stage, load_recipe
from phantrol.training.recipe_json import differences, recipe_from_json, recipe_to_json

DATA = Mixture(((1.0, range(5)),))
STAGE = Stage("align", DATA, Sft(), ("projector.*",), lr=1e-3, max_steps=10, batch_size=4)


@dataclass(frozen=True)
class Model:
    size: int = 3

    def build(self):
        raise AssertionError("a recipe loads nothing")


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(name="a/b"), "stage name: got 'a/b', expected letters"),
        (dict(data=[1]), r"got data=\[1\], expected a Mixture"),
        (dict(loss="sft"), "got loss='sft', expected an instance of a loss"),
        (dict(loss=Sft), "expected an instance of a loss"),
        (dict(train="*"), r"got train='\*', expected a tuple"),
        (dict(train=()), "expected a tuple of name patterns"),
        (dict(lr=0), "got lr=0, expected a positive number"),
        (dict(lr=float("nan")), "got lr=nan, expected a positive number"),
        (dict(max_steps=0), "got max_steps=0, expected a whole number, at least 1"),
        (dict(max_steps=2.5), "got max_steps=2.5, expected a whole number"),
        (dict(batch_size=True), "got batch_size=True"),
        (dict(batch_size=5, accumulation=2), "got batch_size=5, expected a multiple of accumulation=2"),
        (dict(warmup_steps=-1), "got warmup_steps=-1, expected a whole number, at least 0"),
        (dict(schedule="cosinus"), "got schedule='cosinus', expected one of cosine, linear, constant"),
        (dict(optimiser="sgd"), "expected one of adamw, muon"),
        (dict(precision="half"), "expected one of auto, float32, bfloat16"),
        (dict(final_lr=1.0), "got final_lr=1.0, expected at most lr=0.001"),
        (dict(weight_decay=-1), "got weight_decay=-1, expected a number, at least 0"),
        (dict(max_grad_norm=0), "got max_grad_norm=0, expected a positive number"),
        (dict(betas=(0.9, 1.0)), "expected two numbers in"),
        (dict(pack="no"), "got pack='no', expected True or False"),
        (dict(padding_free=1), "got padding_free=1, expected True or False"),
        (dict(gradient_checkpointing="no"), "got gradient_checkpointing='no', expected True or False"),
    ],
)
def test_a_stage_is_checked(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(STAGE, **change)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(model=3), "got model=3, expected a frozen dataclass with build"),
        (dict(stages=[STAGE]), "expected a tuple of at least one Stage"),
        (dict(stages=()), "expected a tuple of at least one Stage"),
        (dict(stages=(STAGE, STAGE)), r"got stages=\['align', 'align'\], expected names that differ"),
        (dict(seed=-1), "got seed=-1, expected 0 to"),
        (dict(workers=-1), "got workers=-1, expected a whole number, at least 0"),
        (dict(save_every_steps=0), "got save_every_steps=0"),
        (dict(report_to="tensorboard"), "got report_to='tensorboard', expected a tuple of names, such as"),
    ],
)
def test_a_recipe_is_checked(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(Recipe(Model(), (STAGE,)), **change)


def changed(*changes):
    return override(Recipe(Model(), (STAGE, replace(STAGE, name="tune", loss=PhantomOptimization()))), changes)


def test_overrides_reach_every_part():
    recipe = changed(
        "seed=3",
        "model.size=7",
        "stages.0.lr=1e-4",
        "stages.align.max_steps=5",
        "stages.tune.loss.beta=1",
        "stages.1.train=projector.*, *gate*",
        "stages.tune.schedule=linear",
        "stages.tune.pack=false",
        "stages.tune.betas=0.9,0.95",
        "stages.align.data.parts.0.0=2",
    )
    align, tune = recipe.stages
    assert (recipe.seed, recipe.model.size, align.lr, align.max_steps) == (3, 7, 1e-4, 5)
    assert isinstance(align.max_steps, int) and isinstance(tune.loss.beta, float)
    assert (tune.loss.beta, tune.train, tune.schedule) == (1.0, ("projector.*", "*gate*"), "linear")
    assert (tune.pack, tune.betas, tune.lr) == (False, (0.9, 0.95), 1e-3)
    assert align.data.parts == ((2.0, range(5)),)


def test_a_star_reaches_all_stages():
    recipe = changed("stages.*.lr=3e-4", "stages.*.accumulation=1")
    assert [(stage.lr, stage.accumulation) for stage in recipe.stages] == [(3e-4, 1), (3e-4, 1)]
    assert changed("stages.*.lr=3e-4", "stages.1.lr=1e-5").stages[1].lr == 1e-5


@pytest.mark.parametrize(
    "change, complaint",
    [
        ("stages.*.rate=1", "unknown key 'rate', expected one of name, data"),
        ("stages.0.lr", "got no '=', expected KEY=VALUE"),
        ("stages.0.rate=1", "unknown key 'rate', expected one of name, data, loss, train, lr, max_steps"),
        ("stage.0.lr=1", "unknown key 'stage', expected one of model, stages, seed"),
        ("sed=1", "expected one of model, stages, seed, .*; did you mean seed\\?$"),
        ("lr=1e-3", r"expected one of model, stages, seed, .*; did you mean stages\.tune\.lr=1e-3\?$"),
        ("size=7", r"expected one of model, stages, seed, .*; did you mean model\.size=7\?$"),
        ("stages.1.gamma=0", r"expected one of name, data, .*; did you mean stages\.1\.loss\.gamma=0\?$"),
        ("stages.2.lr=1", "unknown key '2', expected one of align, tune, a number below 2"),
        ("stages.alig.lr=1", "unknown key 'alig', expected one of align, tune"),
        ("stages.0.lr=fast", "got 'fast', expected float"),
        ("stages.0.max_steps=2.5", "got '2.5', expected int"),
        ("stages.0.pack=perhaps", "got 'perhaps', expected bool"),
        ("stages.0.schedule=up", "got 'up', expected one of cosine, linear, constant"),
        ("stages.0.betas=0.9", "got '0.9', expected tuple"),
        ("stages.0.lrs=5", r"override stages.0.lrs: got '5', expected tuple\[tuple\[str, float\]"),
        ("stages.0.lrs={[]:1}", r"got '\{\[\]:1\}', expected tuple"),
        ("stages.0.lr.x=1", "got 'x' after a float, which has no parts"),
        ("stages.0.max_steps=0", "got max_steps=0, expected a whole number, at least 1"),  # checked as if written so
    ],
)
def test_overrides_that_do_not_fit(change, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        changed(change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_does_not_matter(order):
    recipe = changed(*["stages.0.batch_size=6", "stages.0.accumulation=3"][::order])
    assert (recipe.stages[0].batch_size, recipe.stages[0].accumulation) == (6, 3)


def test_the_last_change_of_a_field_counts():
    """Also if an earlier one fits only beside one that comes after it."""
    words = ["batch_size=6", "accumulation=4", "accumulation=2", "batch_size=8"]
    stage = changed(*(f"stages.0.{word}" for word in words)).stages[0]
    assert (stage.batch_size, stage.accumulation) == (8, 2)
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        changed("stages.0.lr", "stages.0.lr=1e-3")


@dataclass(frozen=True)
class Kinds:
    maybe: int | None = None
    either: float | str = 1.0
    path: Path = Path("a")
    choice: Literal[1, "two"] = 1
    numbers: tuple[int, ...] = ()
    mapping: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    "change, value",
    [
        ("maybe=3", 3),
        ("maybe=none", None),
        ("either=2", 2.0),
        ("either=two", "two"),
        ("path=/b/c", Path("/b/c")),
        ("choice=1", 1),
        ("choice=two", "two"),
        ("numbers=1,2", (1, 2)),
        ("numbers=", ()),
        ("mapping={'a': 1}", {"a": 1}),
    ],
)
def test_kinds_of_values(change, value):
    found = getattr(override(Kinds(), [change]), change.partition("=")[0])
    assert found == value and type(found) is type(value)


def test_load_recipe(tiny_path, tmp_path):
    recipe = load_recipe(str(tiny_path), ["seed=5"])
    assert recipe.seed == 5 and [stage.name for stage in recipe.stages] == ["align", "tune"]
    (tmp_path / "odd.py").write_text("def recipe():\n    return 3\n")
    with pytest.raises(ValueError, match="returned int, expected a Recipe"):
        load_recipe(str(tmp_path / "odd.py"))
    with pytest.raises(ValueError, match="unknown name 'nowhere'"):
        load_recipe("nowhere")


WITH_ARGUMENTS = """
from tiny_recipe import recipe as tiny
from phantrol.training.recipe import Recipe
def recipe(model: str, steps: int = 3) -> Recipe:
    return tiny()
"""


@pytest.mark.parametrize(
    "change, complaint",
    [
        ("step=3", "unknown key 'step', expected one of model, steps, stages, seed, .*, sharding; did you mean steps"),
        ("modle=a", "unknown key 'modle', expected one of model, steps, stages, .*; did you mean model"),
        ("x=1", "unknown key 'x', expected one of model, steps, stages, .*, sharding$"),
        ("lr=1", "this recipe needs model=... on the command line"),
    ],
)
def test_arguments_of_a_recipe_are_named_beside_its_fields(tmp_path, tiny_path, monkeypatch, change, complaint):
    monkeypatch.syspath_prepend(tiny_path.parent)
    (tmp_path / "mine.py").write_text(WITH_ARGUMENTS)
    with pytest.raises(ValueError, match=complaint):
        load_recipe(str(tmp_path / "mine.py"), [change])
    with pytest.raises(ValueError, match=r"did you mean stages\.tune\.lr=1\?"):
        load_recipe(str(tmp_path / "mine.py"), ["model=a", "lr=1"])
    with pytest.raises(ValueError, match=r"unknown key 'weights', .*did you mean model\.weights=int8\?"):
        load_recipe("finetune_lora", ["model=a", "data=b", "weights=int8"])
    assert load_recipe(str(tmp_path / "mine.py"), ["model=a", "stages.0.lr=1", "seed=4"]).seed == 4


def test_json_there_and_back(tiny_recipe):
    recipe = tiny_recipe("stages.tune.lr=0.00012345678901234567")
    text = recipe_to_json(recipe)
    assert recipe_from_json(text) == recipe
    assert json.loads(text)["stages"][0]["loss"] == {
        "class": "phantrol.losses.phantom_optimization:PhantomOptimization",
        "beta": 2.0,
        "gamma": 0.5,
    }


def test_json_of_every_kind():
    for value in (Kinds(), Kinds(3, "x", Path("b"), "two", (1, 2), {"a": 1.5})):
        recipe = Recipe(replace(Holder(), kinds=value), (replace(STAGE, data=Mixture(((1.0, ("a",)),))),))
        assert recipe_from_json(recipe_to_json(recipe)) == recipe


@dataclass(frozen=True)
class Holder(Model):
    kinds: Kinds | None = None


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "the recipe is no JSON"),
        ("3", "got a int, expected a Recipe"),
        ('{"class": "phantrol.nowhere:X"}', "needs phantrol.nowhere:X, which is not there"),
        ('{"class": "phantrol.losses.sft:X"}', "needs phantrol.losses.sft:X, which is not there"),
        ('{"class": "os:system", "command": "ls"}', "names os:system, expected a dataclass"),
        ('{"class": "phantrol.losses.sft:Sft", "beta": 1}', "Sft has changed since"),
        ('{"class": "phantrol.training.recipe:Recipe", "seed": 1}', "Recipe has changed since"),
    ],
)
def test_json_that_does_not_fit(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        recipe_from_json(text)


def test_json_cannot_hold_everything():
    with pytest.raises(ValueError, match=r"recipe\.model\.size: got a set, expected numbers"):
        recipe_to_json(Recipe(Model({3}), (STAGE,)))


def written(*changes):
    recipe = changed(*changes)  # ranges are not for JSON
    data = Mixture(((1.0, ("a",)),))
    return recipe_to_json(replace(recipe, stages=tuple(replace(stage, data=data) for stage in recipe.stages)))


def test_differences_name_the_place():
    one, other = (written(change) for change in ("seed=1", "seed=2"))
    assert differences(one, one) == []
    assert differences(one, other) == ["seed: 1, not 2"]
    more = written("seed=1", "stages.1.loss.beta=3", "stages.1.lr=2")
    assert differences(more, one) == ["stages.1.loss.beta: 3.0, not 2.0", "stages.1.lr: 2.0, not 0.001"]
    other_loss = '{"loss": {"class": "a:B"}, "parts": [1]}', '{"loss": {"class": "a:C", "x": 1}, "parts": [1, 2]}'
    assert differences(*other_loss) == [
        'loss.class: "a:B", not "a:C"', "loss.x: null, not 1", "parts: [1], not [1, 2]"
    ]  # fmt: skip
