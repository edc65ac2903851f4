"""The partial LoRA on a tiny Llama: what it adds, to which tokens, and who shares what.

B 2 rows, N 11 tokens, every fourth word of the vocabulary stands for an image (conftest.py).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phantrol.modifiers.graft import graft, load_grafted
from phantrol.modifiers.image_rows import ImageRows, image_rows
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.sequence import SequenceStep

EXACT, BROKEN = 1e-10, 1e-3
pytestmark = pytest.mark.usefixtures("float64_throughout")


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def model(tiny_decoder: Callable[..., Any]) -> Any:
    """Rank 3, α/r = 2, B so large that what it adds matters."""
    model = graft(tiny_decoder("llama").double(), [PartialLoraConfig(rank=3, alpha=6.0)])
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.3)
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(2))


def test_each_linear_is_the_formula(model: Any):
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]).bool()
    layer = model.model.layers[1]
    # queries and keys share A; what is worked out for them is not the others'
    linears = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.gate_proj, layer.mlp.up_proj)
    seen: list[Tensor] = []
    layer.self_attn.forward = lambda *args, **kwargs: (seen.extend(linear(x) for linear in linears), (x, None))[1]
    layer(x, sequence=step(mask), position_embeddings=None)
    for linear, output in zip(linears, seen, strict=True):
        plain = nn.functional.linear(x, linear.weight)
        added = 2.0 * x @ linear.lora_A.weight.T @ linear.lora_B.weight.T
        assert float((output - torch.where(mask[..., None], plain + added, plain)).abs().max()) < EXACT
        assert torch.equal(linear(x), plain), "outside of a layer's forward pass no token is of an image"


def step(mask: Tensor) -> Any:
    return SequenceStep(image_rows=image_rows(mask, *mask.shape))


def test_queries_keys_and_values_share_a(model: Any, tiny_decoder: Callable[..., Any]):
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.lora_A is attention.k_proj.lora_A is attention.v_proj.lora_A
    assert attention.q_proj.lora_A is not attention.o_proj.lora_A
    names = {name.split("layers.0.")[1] for name in model.state_dict() if "layers.0." in name and "lora_A" in name}
    linears = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert names == {f"{name}.lora_A.weight" for name in linears}
    apart = graft(tiny_decoder("llama"), [PartialLoraConfig(rank=3, share_qkv=False)])
    assert sum("lora_A" in name for name in apart.state_dict()) == 3 * 7


def test_a_fresh_one_changes_nothing(tiny_decoder: Callable[..., Any], ids: Tensor):
    plain = tiny_decoder("llama").double()
    model = graft(copy.deepcopy(plain), [PartialLoraConfig(rank=3)])
    assert torch.equal(model(ids, image_mask=ids > 0).logits, plain(ids).logits)


def test_no_image_no_work(model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []
    take = ImageRows.take
    monkeypatch.setattr(ImageRows, "take", lambda self, *args: (calls.append(args[1]), take(self, *args))[1])
    plain = model(ids).logits
    assert torch.equal(model(ids, image_mask=torch.zeros_like(ids).bool()).logits, plain) and not calls
    assert float((model(ids, image_mask=ids % 4 == 0).logits - plain).abs().max()) > BROKEN
    assert len(calls) == 3 * 7


def test_a_is_computed_once_for_queries_keys_and_values(model: Any, ids: Tensor):
    lora_A, calls = model.model.layers[0].self_attn.q_proj.lora_A, []
    lora_A.register_forward_hook(lambda *args: calls.append(args))
    model(ids, image_mask=ids % 4 == 0)
    assert len(calls) == 1 and len(calls[0][1][0]) == int((ids % 4 == 0).sum())


def test_it_adapts_the_backbone_and_not_other_modifiers(tiny_decoder: Callable[..., Any]):
    for configs in ([PhantomConfig(), PartialLoraConfig(rank=3)], [PartialLoraConfig(rank=3), PhantomConfig()]):
        model = graft(tiny_decoder("llama"), configs)
        assert not any("phantom" in name and "lora" in name for name in model.state_dict())


def test_two_threads_stay_apart(model: Any, ids: Tensor):
    """One request with an image and one without run at once on one model; each layer waits for the other thread."""
    expected = model(ids, image_mask=ids % 4 == 0).logits, model(ids).logits
    barrier, results = threading.Barrier(2), {}
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *args: (barrier.wait(timeout=240), None)[1])

    def run(name: int, mask: Tensor | None) -> None:
        with torch.no_grad():
            results[name] = model(ids, image_mask=mask).logits

    threads = [threading.Thread(target=run, args=(i, mask)) for i, mask in enumerate((ids % 4 == 0, None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[i], expected[i]) for i in range(2))


def test_it_comes_back_from_a_file(model: Any, ids: Tensor, tmp_path: Path):
    model.save_pretrained(tmp_path)
    other = load_grafted(tmp_path, dtype=torch.float64)
    assert torch.equal(other(ids, image_mask=ids % 4 == 0).logits, model(ids, image_mask=ids % 4 == 0).logits)
    attention = other.model.layers[2].self_attn
    assert attention.q_proj.lora_A is attention.v_proj.lora_A


def test_torch_compile_takes_it(model: Any, ids: Tensor):
    compiled = torch.compile(model, backend="eager")
    for mask in (ids % 4 == 0, None):
        difference = compiled(ids, image_mask=mask, use_cache=False).logits - model(ids, image_mask=mask).logits
        assert float(difference.abs().max()) < EXACT


def test_what_a_user_can_get_wrong(model: Any, ids: Tensor, tiny_decoder: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"image_mask is \[2, 10\], expected \[2, 11\]"):
        model(ids, image_mask=(ids % 4 == 0)[:, 1:])
    with pytest.raises(ValueError, match=r"PartialLoraConfig\.rank is 0: expected 1 or more"):
        PartialLoraConfig(rank=0)
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_decoder("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"LlamaDecoderLayer has adapters of PEFT, .*; graft first, then adapt"):
        graft(adapted, [PartialLoraConfig(rank=3)])
    rows = image_rows(ids % 4 == 0, 2, 11)
    with pytest.raises(ValueError, match="a linear got 5 rows in a forward pass of 22 tokens"):
        rows.take(torch.zeros(5, 32), nn.Identity())
