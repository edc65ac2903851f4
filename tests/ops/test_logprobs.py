from __future__ import annotations

import json
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.profiler import ProfilerActivity, profile

from phantrol.ops.logprobs import chunk_rows, sequence_means, sequence_sums, token_logprobs


def head_and_inputs(num_tokens=7, hidden_size=4, vocab_size=11, dtype=torch.float64):
    torch.manual_seed(0)
    head = nn.Linear(hidden_size, vocab_size, dtype=dtype)
    return head, torch.randn(num_tokens, hidden_size, dtype=dtype), torch.randint(vocab_size, (num_tokens,))


def soft_capped(head):
    return lambda hidden: 2.0 * torch.tanh(head(hidden) / 2.0)


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 7, 100])
def test_equals_log_softmax(chunk_tokens):
    head, hidden, targets = head_and_inputs()
    expected = head(hidden).log_softmax(-1)[torch.arange(7), targets]
    actual = token_logprobs(hidden, head, targets, chunk_tokens, 0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk_tokens", [2, 100])
@pytest.mark.parametrize("post", [lambda head: head, soft_capped])
def test_gradients_are_exact(chunk_tokens, post):
    head, hidden, targets = head_and_inputs()
    hidden.requires_grad_()

    def value(hidden, weight, bias):
        linear = post(lambda x: nn.functional.linear(x, weight, bias))
        return token_logprobs(hidden, linear, targets, chunk_tokens, 0)

    assert gradcheck(value, (hidden, head.weight, head.bias))


@pytest.mark.parametrize("chunk_tokens", [2, 100])
def test_gradients_reach_a_head_that_is_a_module(chunk_tokens):
    head, hidden, targets = head_and_inputs()
    token_logprobs(hidden, head, targets, chunk_tokens, 0).sum().backward()
    actual = head.weight.grad.clone()
    head.zero_grad()
    head(hidden).log_softmax(-1)[torch.arange(7), targets].sum().backward()
    torch.testing.assert_close(actual, head.weight.grad, rtol=0, atol=1e-13)


def test_no_more_than_a_chunk_of_logits_at_a_time():
    head, hidden, targets = head_and_inputs()
    hidden.requires_grad_()
    rows, kept = [], []

    def watched(chunk):
        rows.append(chunk.shape[0])
        return head(chunk)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        loss = token_logprobs(hidden, watched, targets, 3, 3).sum()
    assert max(rows) == 3 and sum(rows) == 7
    assert not any(shape[-1:] == (11,) and len(shape) == 2 for shape in kept)  # no logits wait for the backward pass
    loss.backward()
    assert max(rows) == 3 and sum(rows) == 14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_summed_in_float32(dtype):
    head, hidden, targets = head_and_inputs(vocab_size=5000, dtype=dtype)
    actual = token_logprobs(hidden, head, targets % 5000, 2, 0)
    assert actual.dtype == torch.float32
    expected = head(hidden).double().log_softmax(-1)[torch.arange(7), targets % 5000]
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


def test_few_tokens_are_not_computed_twice():
    head, hidden, targets = head_and_inputs()
    rows = []
    token_logprobs(hidden, lambda states: rows.append(len(states)) or head(states), targets, 3, 7).sum().backward()
    assert rows == [7]


def peak_bytes(tmp_path, call):
    """The most that tensors take together while `call` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    watched.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    taken = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate(num_bytes for _, num_bytes in taken))


def test_a_large_vocabulary_takes_the_memory_of_two_chunks(tmp_path):
    """A cross entropy holds three tensors of all logits, and so would autograd's own log_softmax, of a chunk."""
    head, hidden, targets = head_and_inputs(768, 4, 4096, torch.float32)
    hidden.requires_grad_()
    ours = peak_bytes(tmp_path, lambda: token_logprobs(hidden, head, targets, 128, 0).sum().backward())
    whole = peak_bytes(tmp_path, lambda: nn.functional.cross_entropy(head(hidden), targets).backward())
    row = 4 * 4096
    assert 2 * 128 * row <= ours < 2.2 * 128 * row and 3 * 768 * row <= whole


@pytest.mark.parametrize(("vocab_size", "rows"), [(49_152, 341), (256_000, 65), (1000, 1024), (2**25, 1)])
def test_a_chunk_takes_at_most_64_mib(vocab_size, rows):
    assert chunk_rows(vocab_size) == rows


def test_nothing_to_predict():
    head, hidden, targets = head_and_inputs(num_tokens=0)
    hidden.requires_grad_()
    logprobs = token_logprobs(hidden, head, targets)
    assert logprobs.shape == (0,)
    logprobs.sum().backward()  # a rank without labelled tokens still takes part in the backward pass


def test_as_many_targets_as_states():
    head, hidden, targets = head_and_inputs()
    with pytest.raises(ValueError, match="7 hidden states and 6 targets"):
        token_logprobs(hidden, head, targets[:6])


def test_sums_and_means_by_hand():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([2, 0, 2, 2])
    assert sequence_sums(values, ids, 4).tolist() == [2, 0, 13, 0]
    assert sequence_means(values, ids, 4).tolist() == [2, 0, 13 / 3, 0]
    sequence_means(values, ids, 4)[2].backward()
    assert values.grad.tolist() == [1 / 3, 0, 1 / 3, 1 / 3]
