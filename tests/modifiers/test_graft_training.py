"""Training a grafted decoder: gradients, the identity start, and which tokens are a prompt when nothing is cached."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from modifier_sets import CASES, SETS
from torch import Tensor, nn

from phantrol.modifiers import phantom_attention
from phantrol.modifiers.enlarged_cache import EnlargedCache
from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import IDENTITY_BIAS, TrolConfig

PROMPT, PADS = 8, 5
EXACT, BROKEN = 1e-10, 1e-3
pytestmark = pytest.mark.usefixtures("float64_throughout")


@pytest.fixture
def training_case(request: pytest.FixtureRequest, build_case: Callable[[str, str], Any]) -> Iterator[Any]:
    case = build_case(*request.param)
    case.model.train()
    yield case
    case.model.gradient_checkpointing_disable()
    case.model.eval().zero_grad()


def gradients(case: Any) -> dict[str, Tensor]:
    """Return the gradient of each parameter, for two rows of which one begins with padding."""
    ids = torch.stack([torch.cat([case.ids.new_zeros(PADS), case.ids[0, :-PADS]]), case.ids[1]])
    case.model.zero_grad()
    output = case.model(
        ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100), prompt_length=PROMPT
    )
    output.loss.backward()
    return {name: parameter.grad.clone() for name, parameter in case.model.named_parameters()}


def checkpointed(case: Any, use_reentrant: bool = False) -> float:
    """Largest difference of gradients with and without gradient checkpointing."""
    runs = []
    hook = case.model.get_decoder().layers[1].self_attn.register_forward_hook(lambda *_: runs.append(1))
    plain, once = gradients(case), len(runs)
    case.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    recomputed = gradients(case)
    hook.remove()
    case.model.gradient_checkpointing_disable()
    assert len(runs) == 3 * once, "checkpointing computes each layer a second time"
    assert all(float(gradient.abs().max()) > 0 for gradient in plain.values()), "every parameter takes part"
    return max(float((recomputed[name] - plain[name]).abs().max()) for name in plain)


@pytest.mark.parametrize("training_case", CASES, ids="-".join, indirect=True)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_are_equal_under_checkpointing(training_case: Any, use_reentrant: bool):
    assert checkpointed(training_case, use_reentrant) < EXACT


@pytest.mark.parametrize("training_case", [("llama", name) for name in SETS], ids="-".join, indirect=True)
def test_a_state_on_the_module_spoils_checkpointing(training_case: Any):
    """A count of calls in a forward pass, which the recomputation finds higher, is whatever a module might remember."""
    calls = []

    def by_calls(module: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
        calls.append(1)
        return (inputs[0] * 0.99 ** len(calls),)

    hooks = [layer.mlp.register_forward_pre_hook(by_calls) for layer in training_case.model.get_decoder().layers]
    hooks.append(training_case.model.register_forward_pre_hook(lambda *_: calls.clear()))
    assert checkpointed(training_case) > BROKEN
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "training_case", [("llama", name) for name in SETS if "trol" in name], ids="-".join, indirect=True
)
def test_each_pass_is_a_checkpoint_of_its_own(training_case: Any):
    """In one for both passes the last map of each would be computed again; of a pass alone nobody needs its output."""
    decoder, products = training_case.model.get_decoder(), []
    layer = next(layer for layer in decoder.layers if getattr(layer, "traversal_passes", 1) > 1)
    hook = layer.mlp.down_proj.register_forward_hook(lambda *_: products.append(1))
    training_case.model.gradient_checkpointing_enable({"use_reentrant": False})
    gradients(training_case)
    hook.remove()
    assert len(products) == layer.traversal_passes


IDENTITIES = {
    "trol": [TrolConfig(gate_bias=IDENTITY_BIAS)],
    "trol_prompt": [TrolConfig(gate_bias=IDENTITY_BIAS, tokens="prompt", passes=3, share_gate=True)],
    "phantom": [PhantomConfig()],
    "phantom_drop": [PhantomConfig(logits="drop", train_eta=True, layers=(0, 2))],
    "both": [TrolConfig(gate_bias=IDENTITY_BIAS), PhantomConfig()],
}
NOT_IDENTITIES = {
    "trol": [TrolConfig(gate_bias=0)],
    "trol_prompt": [TrolConfig(gate_bias=0, tokens="prompt", passes=3, share_gate=True)],
    "phantom": [PhantomConfig(init="random")],
    "phantom_drop": [PhantomConfig(init="random", logits="drop", train_eta=True, layers=(0, 2))],
    "both": [TrolConfig(gate_bias=0), PhantomConfig()],
}


@torch.no_grad()
def moved(case: Any, configs: list[Any], dtype: torch.dtype) -> float:
    """Largest change of the logits when the backbone is grafted."""
    plain = copy.deepcopy(case.plain).to(dtype)
    torch.manual_seed(0)
    model = graft(copy.deepcopy(plain), configs)
    options = {"attention_mask": torch.ones_like(case.ids), "use_cache": False}
    with_modifiers = model(case.ids, **options, prompt_length=PROMPT).logits
    return float((with_modifiers - plain(case.ids, **options).logits).abs().max())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float64) for name in IDENTITIES), ("trol", torch.bfloat16), ("phantom", torch.bfloat16)],
    ids=str,
)
def test_an_identity_start_leaves_the_backbone_as_it_was(
    family: str, name: str, dtype: torch.dtype, build_case: Callable[[str, str], Any]
):
    case = build_case(family, "both")
    assert moved(case, IDENTITIES[name], dtype) < (EXACT if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", IDENTITIES)
def test_another_start_does_not(name: str, build_case: Callable[[str, str], Any]):
    assert moved(build_case("llama", "both"), NOT_IDENTITIES[name], torch.float64) > BROKEN


def test_the_default_start_of_trol_is_near_the_backbone(build_case: Callable[[str, str], Any]):
    near = moved(build_case("llama", "both"), [TrolConfig()], torch.float64)
    assert 1e-6 < near < 0.1 * moved(build_case("llama", "both"), [TrolConfig(gate_bias=0)], torch.float64)


@pytest.mark.parametrize("logits", ["exact", "drop"])
@torch.no_grad()
def test_dropout_takes_the_same_shares_from_both_halves(
    logits: str, build_case: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
):
    """With [v | v] for values, P·V and the term are one and the same, whatever P dropped."""
    case, own, halves = build_case("llama", "both"), phantom_attention.merge_halves, []
    model = graft(copy.deepcopy(case.plain), [PhantomConfig(logits=logits)]).train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.3

    def note(first: Tensor, term: Tensor, score: Tensor) -> Tensor:
        halves.append((first, term))
        return own(first, term, score)

    monkeypatch.setattr(EnlargedCache, "_side_by_side", lambda self, states, said: torch.cat([states, states], dim=-1))
    monkeypatch.setattr(phantom_attention, "merge_halves", note)
    one, other = (model(case.ids, use_cache=False).logits for _ in range(2))
    assert float((one - other).abs().max()) > BROKEN, "something was dropped"
    assert all(float((first - term).abs().max()) < EXACT for first, term in halves)


@pytest.mark.parametrize("logits", ["exact", "drop"])
def test_an_identity_start_can_learn(logits: str, build_case: Callable[[str, str], Any]):
    """A few steps of training move the phantom term off zero, and the loss down."""
    case = build_case("llama", "both")
    torch.manual_seed(0)
    model = graft(copy.deepcopy(case.plain), [PhantomConfig(logits=logits)])
    new = [parameter for name, parameter in model.named_parameters() if ".phantom." in name]
    optimizer = torch.optim.Adam(new, lr=0.02)
    losses = []
    for _ in range(4):
        loss = model(case.ids, labels=case.ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[-1] > 1e-2
    if logits == "exact":
        assert all(
            float(layer.self_attn.phantom.key.o_proj.weight.grad.abs().max()) > 0 for layer in model.model.layers
        )


@pytest.mark.parametrize("name", ["trol_prompt", "both_prompt"])
@torch.no_grad()
def test_a_prompt_mask_says_what_prompt_length_says(family: str, name: str, build_case: Callable[[str, str], Any]):
    case = build_case(family, name)
    mask = (torch.arange(case.ids.shape[1]) < PROMPT).expand_as(case.ids)
    full = case.full(case.ids)
    masked = case.model(case.ids, use_cache=False, prompt_mask=mask).logits
    assert float((masked - full).abs().max()) < EXACT
    no_prompt = case.model(case.ids, use_cache=False, prompt_mask=torch.zeros_like(mask)).logits
    assert float((no_prompt - full).abs().max()) > BROKEN


@pytest.mark.parametrize("name", ["trol_prompt", "both_prompt"])
@torch.no_grad()
def test_prompts_may_end_in_different_columns(name: str, build_case: Callable[[str, str], Any]):
    """As in a training batch: each row has its own prompt_mask, and equals that row alone with its prompt_length."""
    case = build_case("llama", name)
    ends = (3, PROMPT)
    mask = torch.arange(case.ids.shape[1]) < torch.tensor(ends)[:, None]
    together = case.model(case.ids, use_cache=False, prompt_mask=mask).logits
    for row, end in enumerate(ends):
        alone = case.full(case.ids[row : row + 1], prompt=end)[0]
        assert float((together[row] - alone).abs().max()) < EXACT
        other = case.full(case.ids[row : row + 1], prompt=end + 1)[0]
        assert float((together[row] - other).abs().max()) > BROKEN
