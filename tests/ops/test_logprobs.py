from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from phantrol.ops.logprobs import sequence_means, sequence_sums, token_logprobs


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


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_vocabulary_takes_a_quarter_of_the_memory():
    """4,096 tokens of 49,152: a cross entropy of whole logits holds three such tensors, 2,304 MiB (measured: 2,314)."""
    code = """
import re, torch
from phantrol.ops.logprobs import chunk_rows, token_logprobs
hidden, weight = torch.randn(4096, 8, requires_grad=True), torch.randn(49152, 8, requires_grad=True)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before = peak()
token_logprobs(hidden, lambda states: states @ weight.T, torch.arange(4096), chunk_rows(49152)).sum().backward()
print(peak() - before)
"""
    ours_mib = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert 64 < float(ours_mib) < 2304 / 4


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
