"""One stage: what goes into a step, and that its cut into micro-batches does not matter."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from phantrol.losses.dpo import Dpo
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.models.configuration import most_tokens
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.training import sharding_zero
from phantrol.training.ranks import process_state
from phantrol.training.stage_collator import collator
from phantrol.training.trainer import StageTrainer

LOSSES = [Sft(), PhantomOptimization(), Dpo(beta=1.0)]


def built(recipe, dtype=torch.float64):
    """A model without dropout, in which a wrong order of sums shows."""
    text = {**recipe.model.text, "attention_dropout": 0.0}
    torch.manual_seed(0)
    model, processor = replace(recipe.model, text=text).build()
    return model.to(dtype), processor


def train(recipe, out, dtype=torch.float64, prepare=None, **change):
    recipe = replace(recipe, stages=(replace(recipe.stages[0], name="only", **change),), save_every_steps=1000)
    model, processor = built(recipe, dtype)
    trainer = StageTrainer(model, processor, recipe, 0, out)
    trainer.args.save_strategy = "no"
    if prepare:
        prepare(trainer)
    assert trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, trainer


@pytest.mark.parametrize("loss", LOSSES)
def test_four_times_one_is_one_times_four(tiny_recipe, tmp_path, loss):
    change = dict(loss=loss, train=("*",), max_steps=3, batch_size=4, warmup_steps=0, lr=1e-2)
    runs = [train(tiny_recipe(), tmp_path, accumulation=n, **change) for n in (1, 2, 4)]
    assert len(runs[0][0]) == 3 and runs[0][0][0] != runs[0][0][1]
    for losses, trainer in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-6)
        for one, other in zip(runs[0][1].model.parameters(), trainer.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)

    def means_of_means(trainer):
        """Negative control: totals of each micro-batch by itself."""
        trainer.get_batch_samples, original = None, trainer.get_batch_samples

        def apart(*args):
            batches, totals = original(*args)
            return batches, {name: value / 4 for name, value in totals.items()}

        compute_loss = trainer.compute_loss
        trainer.get_batch_samples = apart
        trainer.compute_loss = lambda model, inputs, num_items_in_batch: (
            compute_loss(
                model, inputs, num_items_in_batch=loss.count(inputs) | {"pairs": max(1, len(inputs["chosen"]))}
            )
            / 4
        )

    wrong, _ = train(tiny_recipe(), tmp_path, accumulation=4, prepare=means_of_means, **change)
    assert abs(wrong[1] - runs[0][0][1]) > 1e-4


def test_losses_are_looked_at_once_a_step(tiny_recipe, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(StageTrainer, "check_finite", lambda self, what, value: seen.append((what, float(value))))
    losses, _ = train(tiny_recipe("log_every_steps=1"), tmp_path, accumulation=2, batch_size=4, max_steps=2)
    assert [what for what, _ in seen] == ["loss", "gradient norm"] * 2
    assert [value for what, value in seen if what == "loss"] == pytest.approx(losses)


def test_a_cuda_build_without_a_gpu_trains_on_the_cpu(monkeypatch):
    found, engine = torch.device("cuda"), ModuleType("deepspeed")
    engine.init_distributed, engine.ops = (lambda *_, **__: None), SimpleNamespace(__compatible_ops__={})
    monkeypatch.setitem(sys.modules, "deepspeed", engine)
    monkeypatch.setitem(sys.modules, "deepspeed.ops", engine.ops)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr("phantrol.training.sharding_zero.os", SimpleNamespace(environ={}))
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else found
    )
    monkeypatch.setattr("phantrol.training.ranks.PartialState", lambda **given: given)
    assert process_state()["cpu"]
    sharding_zero._init_distributed()
    assert sharding_zero.os.environ == {"DS_ACCELERATOR": "cpu"}


def test_data_come_in_the_order_of_the_mixture(tiny_recipe, tmp_path):
    seen = []

    def watch(trainer):
        collate = trainer.data_collator
        trainer.data_collator = lambda groups: seen.append([e.id for g in groups for e in g]) or collate(groups)

    train(tiny_recipe("workers=0"), tmp_path, prepare=watch)
    stage, seed = tiny_recipe().stages[0], tiny_recipe().stage_seed(0)
    groups = [stage.data.group(index, seed) for index in range(16)]
    assert [name for ids in seen for name in ids] == [e.id for group in groups for e in group]
    assert [len(ids) for ids in seen] == [4] * 8  # two groups of two examples a micro-batch


def test_an_epoch_that_begins_draws_nothing(tiny_recipe, tmp_path):
    trainer = StageTrainer(*built(tiny_recipe()), tiny_recipe(), 0, tmp_path)
    before = torch.get_rng_state()
    next(iter(trainer.get_train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)  # dropout draws from it


def test_tokens_are_counted_before_a_batch_is_moved(tiny_recipe, tmp_path):
    trainer = StageTrainer(*built(tiny_recipe()), tiny_recipe(), 0, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["counts"] == trainer.stage.loss.count(batch) and batch["counts"]["tokens"] > 0


def test_workers_change_nothing(tiny_recipe, tmp_path):
    losses = [train(tiny_recipe(f"workers={n}"), tmp_path)[0] for n in (0, 1)]
    assert losses[0] == losses[1]


def test_a_frozen_tower_stands_in_eval_mode(tiny_recipe, tmp_path):
    modes = []

    def watch(trainer):
        model = trainer.model
        model.projector.register_forward_hook(lambda *_: modes.append((model.vision_tower.training, model.training)))

    train(tiny_recipe(), tmp_path, prepare=watch)
    assert set(modes) == {(False, True)}
    modes.clear()
    train(tiny_recipe(), tmp_path, prepare=watch, train=("*",))
    assert set(modes) == {(True, True)}


def test_what_is_not_trained_does_not_move(tiny_recipe, tmp_path):
    before, _ = built(tiny_recipe(), torch.float32)
    _, trainer = train(tiny_recipe(), tmp_path, torch.float32)
    moved = {
        n for (n, a), b in zip(before.named_parameters(), trainer.model.parameters(), strict=True) if not a.equal(b)
    }
    assert moved and all(
        name.startswith("projector.") or "traversal_gate" in name or ".phantom." in name for name in moved
    )


def test_bfloat16_ends_with_its_stage(tiny_recipe, tmp_path):
    whole, _ = train(tiny_recipe(), tmp_path, torch.float32)
    half, trainer = train(tiny_recipe(), tmp_path, torch.float32, precision="bfloat16")
    assert whole != half and half == pytest.approx(whole, rel=0.02)
    assert "forward" not in vars(trainer.model)  # autocast was wrapped around it
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@pytest.mark.filterwarnings("error:.*checkpointing:FutureWarning")  # a name that transformers will take away
def test_gradient_checkpointing_changes_nothing(tiny_recipe, tmp_path):
    def is_on(model):
        return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())

    plain, _ = train(tiny_recipe(), tmp_path)
    saving, trainer = train(tiny_recipe(), tmp_path, gradient_checkpointing=True)
    assert saving == pytest.approx(plain, rel=1e-6) and is_on(trainer.model)
    recipe = tiny_recipe("stages.0.max_steps=1", "stages.0.warmup_steps=0")
    StageTrainer(trainer.model, trainer.processor, recipe, 0, tmp_path)
    assert not is_on(trainer.model)  # and ends with its stage, too


def test_the_reference_is_the_model_at_the_start(tiny_recipe, tmp_path):
    losses, trainer = train(tiny_recipe(), tmp_path, loss=Dpo(), train=("*",), accumulation=1, warmup_steps=0)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    start, _ = built(tiny_recipe())
    for one, other in zip(start.parameters(), trainer.reference.copy.parameters(), strict=True):
        assert torch.equal(one, other) and not other.requires_grad


def with_adapters(model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=r".*language_model.*(q_proj|v_proj)")
    return peft.get_peft_model(model, config)


PARTIAL = (PartialLoraConfig(rank=2, alpha=4.0),)


@pytest.mark.parametrize(
    "patterns, modifiers, copied",
    [
        (("*lora_*",), (), False),
        (("*lora_*", "projector.*"), (), True),
        (("*lora_*",), PARTIAL, True),
        (("*.lora_*.default.*",), PARTIAL, False),
    ],
)
def test_the_reference_under_peft(tiny_recipe, tmp_path, patterns, modifiers, copied):
    """New adapters are switched off; where more than PEFT's is trained, there is a copy. Both are the same model."""
    change = dict(loss=Dpo(), train=patterns, max_steps=3, warmup_steps=0)
    recipe = tiny_recipe()
    model = replace(recipe.model, modifiers=recipe.model.modifiers + modifiers)
    recipe = replace(recipe, model=model, stages=(replace(recipe.stages[0], **change),))
    model, processor = built(recipe)
    model = with_adapters(model)
    trainer = StageTrainer(model, processor, recipe, 0, tmp_path)
    assert (trainer.reference.copy is not None) == copied
    batch = trainer.data_collator([recipe.stages[0].data.group(index, 0) for index in range(4)])
    before = trainer.reference(model, batch)
    trainer.args.save_strategy = "no"
    trainer.train()
    assert any(parameter.any() for name, parameter in model.named_parameters() if "lora_B" in name)
    torch.testing.assert_close(trainer.reference(model, batch), before, rtol=0, atol=0)
    assert model.training


def test_patterns_hold_under_peft(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    recipe = replace(recipe, stages=(replace(recipe.stages[0], train=("projector.*", "*lora_*")),))
    model, processor = built(recipe)
    StageTrainer(with_adapters(model), processor, recipe, 0, tmp_path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("projector") or "lora_" in name}


def test_attention_without_masks_is_refused_for_packing(tiny_recipe):
    stage = tiny_recipe().stages[0]
    model, processor = built(tiny_recipe())
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match=r"stage 'align': got pack=True on flash_attention_2.*stages\.align\.pack=false"
    ):
        collator(model, processor, stage)
    assert collator(model, processor, replace(stage, pack=False)).pack is False


def test_the_collator_knows_model_and_loss(tiny_recipe):
    model, processor = built(tiny_recipe(), torch.bfloat16)
    align, tune = (collator(model, processor, stage) for stage in tiny_recipe().stages)
    assert align.pairs and not tune.pairs and align.dtype == torch.bfloat16 and align.window_tokens is None
    assert align.max_tokens == most_tokens(model.config) > 0
    model.config.text_config.sliding_window = 7
    assert collator(model, processor, tiny_recipe().stages[0]).window_tokens == 7
    model.config.text_config.use_sliding_window = False
    assert collator(model, processor, tiny_recipe().stages[0]).window_tokens is None


def test_the_configuration_is_left_alone(tiny_recipe, tmp_path):
    before = built(tiny_recipe())[0].config.to_dict()
    _, trainer = train(tiny_recipe(), tmp_path)
    after = trainer.model.config.to_dict()
    assert {k: v for k, v in after.items() if before.get(k) != v} in ({}, {"use_cache": True})


@pytest.mark.parametrize(
    "change", [{}, {"optimiser": "muon"}, {"lrs": (("projector.*", 0.3),)}, {"optimiser": "muon", "muon_lr": 0.5}]
)
def test_the_learning_rate_that_is_told_is_the_recipes(tiny_recipe, tmp_path, change):
    change = dict(train=("projector.*", "language_model.*"), lr=1e-2, warmup_steps=1, schedule="constant") | change
    _, trainer = train(tiny_recipe(), tmp_path, torch.float32, max_steps=3, accumulation=1, **change)
    assert [line["learning_rate"] for line in trainer.state.log_history if "loss" in line] == [5e-3, 1e-2, 1e-2]
    assert (trainer.optimizer.param_groups[0]["lr"] == 1e-2) == (len(change) == 4)  # what Trainer would tell


def test_sigterm_is_only_watched_while_training(tiny_recipe, tmp_path):
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def watch(trainer):
        collate = trainer.data_collator
        trainer.data_collator = lambda groups: seen.append(signal.getsignal(signal.SIGTERM)) or collate(groups)

    train(tiny_recipe("workers=0"), tmp_path, prepare=watch)
    assert seen and all(handler is not before for handler in seen) and signal.getsignal(signal.SIGTERM) is before


def test_gradients_are_scaled_down_to_the_norm_of_the_recipe(tiny_recipe, tmp_path):
    """With plain SGD: a step of AdamW is the same at any scale of its gradients, one of SGD is lr times their norm."""

    def watch(trainer):
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        before.extend((parameter, parameter.detach().clone()) for parameter in trained)
        trainer.optimizer = torch.optim.SGD(trained, lr=trainer.stage.lr)

    before = []
    change = dict(max_steps=1, warmup_steps=0, accumulation=1, max_grad_norm=1e-3)
    _, trainer = train(tiny_recipe("workers=0"), tmp_path, prepare=watch, **change)
    assert trainer.state.log_history[0]["grad_norm"] > 0.01  # so that there is something to scale down
    moved = torch.cat([(parameter - old).flatten() for parameter, old in before]).norm().item()
    assert moved == pytest.approx(trainer.stage.lr * 1e-3, rel=1e-3)


def test_each_stage_and_each_seed_draws_its_own(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    other = replace(recipe, seed=recipe.seed + 1)
    assert len({each.stage_seed(number) for each in (recipe, other) for number in (0, 1)}) == 4
    for number in (0, 1):
        trainer = StageTrainer(*built(recipe), recipe, number, tmp_path)
        assert trainer.args.seed == trainer.train_dataset.seed == recipe.stage_seed(number)


@pytest.mark.parametrize("patterns", [("*lora_*",), ("*",)])
def test_the_reference_takes_no_dropout(tiny_recipe, tmp_path, patterns):
    change = dict(loss=Dpo(), train=patterns, max_steps=1)
    recipe = replace(tiny_recipe(), stages=(replace(tiny_recipe().stages[0], **change),))
    model, processor = recipe.model.build()  # attention drops a tenth
    if patterns == ("*lora_*",):
        model = with_adapters(model)
    trainer = StageTrainer(model, processor, recipe, 0, tmp_path)
    batch = trainer.data_collator([recipe.stages[0].data.group(index, 0) for index in range(4)])
    model.train()
    said = [trainer.reference(model, batch) for _ in range(2)]
    assert torch.equal(*said) and model.training


def test_adapters_that_say_something_already_are_no_start_to_go_back_to(tiny_recipe, tmp_path):
    recipe = replace(tiny_recipe(), stages=(replace(tiny_recipe().stages[0], loss=Dpo(), train=("*lora_*",)),))
    model, processor = built(recipe)
    model = with_adapters(model)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(0.1)
    assert StageTrainer(model, processor, recipe, 0, tmp_path).reference.copy is not None


def test_the_reference_computes_in_the_precision_of_its_stage(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    recipe = replace(recipe, stages=(replace(recipe.stages[0], loss=Dpo(), train=("*",), precision="bfloat16"),))
    text = {**recipe.model.text, "attention_dropout": 0.0}
    model, processor = replace(recipe.model, text=text).build()
    trainer = StageTrainer(model, processor, recipe, 0, tmp_path)
    batch = trainer.data_collator([recipe.stages[0].data.group(index, 0) for index in range(4)])
    trainer.add_reference(model, batch)
    said = batch.pop("reference_logprobs")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trainer.reference(model, batch)
    assert torch.equal(said, rounded) and not torch.equal(said, trainer.reference(model, batch))
