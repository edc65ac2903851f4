"""A step of decoding is one graph, the same at every step, and asks the device nothing; what it launches is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig, DynamicCache, PreTrainedModel, StaticCache

from phantrol.modifiers import growing_cache
from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.sequence import SequenceStep
from phantrol.modifiers.trol import TrolConfig

SETS = {
    "trol": [TrolConfig(gate_bias=0.2)],
    "trol_prompt": [TrolConfig(gate_bias=0.2, tokens="prompt")],
    "trol_budget": [TrolConfig(gate_bias=0.2, skip=(0, 2))],
    "phantom": [PhantomConfig(init="random")],
    "phantom_drop": [PhantomConfig(init="random", logits="drop", train_eta=True)],
    "both": [TrolConfig(gate_bias=0.2, tokens="prompt"), PhantomConfig(init="random")],
    "both_all": [TrolConfig(gate_bias=0.2), PhantomConfig(init="random")],
}
PROMPT, ANSWER = torch.tensor([[1, 5, 9, 33, 70, 12]]), (4, 7, 9, 3)
VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "transpose", "permute", "t", "slice", "select",
    "split", "split_with_sizes", "unbind", "squeeze", "unsqueeze", "alias", "detach", "as_strided", "promote_types",
}  # fmt: skip


def decode(model: PreTrainedModel, step: Callable[..., Any]) -> torch.Tensor:
    """Return the logits of a prompt's end and of the tokens after it, read by `step` with a static cache."""
    cache = StaticCache(config=model.config, max_cache_len=24)
    with torch.no_grad():
        logits = [model(PROMPT, past_key_values=cache, prompt_length=PROMPT.shape[1]).logits[:, -1]]
        for place, token in enumerate(ANSWER, start=PROMPT.shape[1]):
            # as `generate` prepares it: a position that is a tensor is the same graph at every step
            inputs = {"past_key_values": cache, "position_ids": torch.tensor([[place]])}
            logits.append(step(torch.tensor([[token]]), **inputs).logits[:, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("name", SETS)
def test_a_step_is_one_graph_for_all_steps(name: str, tiny_decoder: Callable[..., Any]):
    torch.manual_seed(0)
    model, counter = graft(tiny_decoder("llama"), SETS[name]), CompileCounter()
    torch._dynamo.reset()
    compiled = decode(model, torch.compile(model, backend=counter, fullgraph=True, dynamic=False))
    assert counter.frame_count == 1, "compiled once, and no part of it left to Python"
    torch.testing.assert_close(compiled, decode(model, model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["trol_prompt", "both_all"])
@torch.no_grad()
def test_a_mask_as_long_as_the_cache_is_one_graph(name: str, tiny_decoder: Callable[..., Any]):
    """It tells where each token stands, without a number that is read off the cache."""
    torch.manual_seed(0)
    model, counter, mask = graft(tiny_decoder("llama"), SETS[name]), CompileCounter(), torch.ones(1, 24)
    torch._dynamo.reset()
    compiled, logits = torch.compile(model, backend=counter, fullgraph=True, dynamic=False), []
    for step in (compiled, model):
        cache = StaticCache(config=model.config, max_cache_len=24)
        inputs = {"attention_mask": mask, "past_key_values": cache}
        model(PROMPT, prompt_length=PROMPT.shape[1], **inputs)
        logits.append(torch.cat([step(torch.tensor([[token]]), **inputs).logits for token in ANSWER]))
    assert counter.frame_count == 1
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_what_writes_into_the_cache_is_kept(tiny_decoder: Callable[..., Any]):
    """A compiler gets a graph in which nothing is written in place; what was written comes back into the cache."""
    torch.manual_seed(0)
    model = graft(tiny_decoder("llama", num_hidden_layers=1), SETS["both_all"])
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = decode(model, torch.compile(model, backend=counter, fullgraph=True, dynamic=False))
    assert counter.frame_count == 1
    torch.testing.assert_close(compiled, decode(model, model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["trol_prompt", "both_all"])
def test_generate_compiles_one_graph(name: str, tiny_decoder: Callable[..., Any]):
    """With a static cache, of rows of which one is padded: as `generate` does by itself where there is a GPU."""
    torch.manual_seed(0)
    model, graphs = graft(tiny_decoder("llama", num_hidden_layers=2), SETS[name]), []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiling = CompileConfig(fullgraph=True, dynamic=False, mode=None, backend=note)
    compiling._compile_all_devices = True
    ids = torch.tensor([[0, 0, 1, 5, 9, 33], [1, 44, 17, 23, 5, 7]])
    options = dict(attention_mask=ids.ne(0).long(), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    options |= dict(output_logits=True, return_dict_in_generate=True, pad_token_id=0)
    torch._dynamo.reset()
    compiled = model.generate(ids, cache_implementation="static", compile_config=compiling, **options)
    assert len(graphs) == 1
    eager = model.generate(ids, **options)
    torch.testing.assert_close(torch.stack(compiled.logits), torch.stack(eager.logits), atol=1e-5, rtol=0)
    assert len(compiled.logits) == 6 and len(graphs) == 1, "and the control was not compiled"


def test_a_step_that_asks_the_device_is_refused(tiny_decoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """The control: `fullgraph` does refuse a number that is read off a tensor."""
    model = graft(tiny_decoder("llama"), SETS["trol"])
    at_pass = SequenceStep.at_pass

    def asking(step: SequenceStep, pass_index: int) -> SequenceStep:
        return at_pass(step, pass_index) if float(model.get_decoder().layers[0].traversal_gate.bias[0]) else step

    monkeypatch.setattr(SequenceStep, "at_pass", asking)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        decode(model, torch.compile(model, backend=CompileCounter(), fullgraph=True, dynamic=False))


def test_the_prompt_ends_with_its_last_token(tiny_decoder: Callable[..., Any]):
    """And not with the first token of the answer: what the prompt alone needed is gone before it."""
    model = graft(tiny_decoder("llama"), SETS["trol_prompt"])
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(PROMPT[:, :4], past_key_values=cache, prompt_length=6)
        during = len(cache.layers)
        model(PROMPT[:, 4:], past_key_values=cache, prompt_length=6)
    assert cache.sequence_state.prompt_ended and len(cache.layers) == during - 3


class Launches(TorchDispatchMode):
    """Counts the operations that compute something: each of them is a kernel, where nothing fuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func.overloadpacket.__name__] += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def launches(tiny_decoder: Callable[..., Any], configs: list[Any]) -> int:
    """Return how many of them one more layer adds to a step of decoding."""
    found = []
    for layers in (2, 3):
        model = graft(tiny_decoder("llama", num_hidden_layers=layers), configs)
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(PROMPT, past_key_values=cache, prompt_length=6)
            model(PROMPT[:, :1], past_key_values=cache)  # a long text gets room for more
            with Launches() as mode:
                model(PROMPT[:, :1], past_key_values=cache)
        found.append(mode.counted.total())
    return found[1] - found[0]


@pytest.mark.parametrize("long_tokens", [3, 1024], ids=["grown in place", "copied"])
def test_how_many_kernels_a_layer_launches(
    tiny_decoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, long_tokens: int
):
    """TroL: two layers, and mixing them; of a prompt's traversal nothing is left. Phantom: a third more at most."""
    monkeypatch.setattr(growing_cache, "LONG_TOKENS", long_tokens)
    monkeypatch.setattr(growing_cache, "SPARE", 1)
    plain = launches(tiny_decoder, [])
    assert plain == 36
    assert launches(tiny_decoder, SETS["trol_prompt"]) == plain
    assert launches(tiny_decoder, SETS["trol"]) <= 2 * plain + 8
    for options in ({}, {"logits": "drop"}, {"anchors": 3}):
        assert launches(tiny_decoder, [PhantomConfig(init="random", **options)]) <= plain * 4 // 3
    released = launches(tiny_decoder, [PhantomConfig(init="random", eta=1e-4)])
    assert released == plain * 4 // 3 + 1, "one product with η"


@pytest.mark.parametrize("name", ["trol", "phantom", "both"])
@pytest.mark.parametrize("given", ["position_ids", "attention_mask"])
def test_a_whole_row_with_positions_or_its_own_mask_is_one_graph(
    name: str, given: str, tiny_decoder: Callable[..., Any]
):
    torch.manual_seed(0)
    model, tokens = graft(tiny_decoder("llama"), SETS[name]), PROMPT.shape[1]
    values = {
        "position_ids": torch.arange(tokens)[None],
        "attention_mask": torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None],
    }
    inputs = {given: values[given], "use_cache": False}
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(PROMPT, **inputs).logits
        torch.testing.assert_close(compiled, model(PROMPT, **inputs).logits, atol=1e-5, rtol=0)
