"""Arithmetic written out. The stand-in model says log-probabilities that the test chose: they are its one parameter."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from phantrol.find import find, names
from phantrol.losses.base import model_inputs, supervised

LOGPROBS = [-1.0, -2.0, -0.5, -3.0, -0.25, -4.0, -1.5]


class Says(nn.Module):
    """Returns the log-probabilities it is made of, those that `input_ids` points to."""

    def __init__(self, logprobs):
        super().__init__()
        self.logprobs = nn.Parameter(torch.tensor(logprobs, dtype=torch.float64))

    def forward(self, input_ids, labels=None, use_cache=True):
        return SimpleNamespace(token_logprobs=self.logprobs[input_ids])


def batch(tokens, sequence_ids, chosen=(), rejected=(), kinds=None, **more):
    return {
        "input_ids": torch.tensor(tokens),
        "labels": torch.tensor(tokens),
        "sequence_ids": torch.tensor(sequence_ids),
        "chosen": torch.tensor(chosen, dtype=torch.long),
        "rejected": torch.tensor(rejected, dtype=torch.long),
        "rejected_kind": torch.tensor(kinds or [0] * len(chosen), dtype=torch.long),
        "num_sequences": max(sequence_ids) + 1,
        "example_ids": ["a", "b"],
        **more,
    }


# sequence 0 says tokens 0 and 1, 1 (rejected) tokens 2 and 3, 2 (rejected) token 4, 3 tokens 5 and 6
PAIRS = batch(range(7), [0, 0, 1, 1, 2, 3, 3], chosen=(0, 0), rejected=(1, 2), kinds=[0, 1])


def log_sigmoid(x):
    return -log(1 + exp(-x))


def step(name, model=None, data=PAIRS, **options):
    loss, model = find("losses", name)(**options), model or Says(LOGPROBS)
    output = loss(model, data, loss.count(data))
    output.loss.backward()
    return output, model.logprobs.grad


def means(metrics):
    return {name: value.mean().item() for name, value in metrics.items() if value.numel()}


def test_all_are_found():
    assert {"dpo", "phantom_optimization", "sft"} <= set(names("losses"))


def test_sft_by_hand():
    output, gradient = step("sft")
    assert output.loss.item() == pytest.approx((1 + 2 + 4 + 1.5) / 4)  # the rejected tokens 2, 3, 4 do not count
    assert gradient.tolist() == [-0.25, -0.25, 0, 0, 0, -0.25, -0.25]


def test_phantom_optimization_by_hand():
    output, gradient = step("phantom_optimization")
    reward = [2 * (-1.0 - 2.0) / 2, 2 * (-0.5 - 3.0) / 2, 2 * -0.25]
    sft = (1 + 2 + 4 + 1.5) / 4
    preference = -(log_sigmoid(reward[0] - reward[1] - 0.5) + log_sigmoid(reward[0] - reward[2] - 0.5)) / 2
    assert output.loss.item() == pytest.approx(sft + preference, abs=1e-12)
    assert (gradient[:2] < -0.25).all()  # the chosen rises by more than imitation alone would have it
    assert (gradient[2:5] > 0).all()  # the rejected fall
    assert (gradient[5:] == -0.25).all()  # what has no pair is imitated only
    assert means(output.metrics) == pytest.approx(
        {
            "reward_accuracy": 0.5,
            "reward_accuracy_incorrect": 1.0,
            "reward_accuracy_ambiguous": 0.0,
            "reward_margin": ((-3 + 3.5) + (-3 + 0.5)) / 2,
        }
    )


def test_phantom_optimization_options_count():
    output, _ = step("phantom_optimization", beta=1.0, gamma=0.0)
    preference = -(log_sigmoid(-1.5 + 1.75) + log_sigmoid(-1.5 + 0.25)) / 2
    assert output.loss.item() == pytest.approx(2.125 + preference, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("word_alignment", {"max_share": 0.0}, "max_share is 0.0: expected a share above 0, at most 1"),
        ("word_alignment", {"max_share": 1.5}, "max_share is 1.5"),
        ("word_alignment", {"sharpness": float("inf")}, "sharpness is inf: expected a finite number"),
        ("word_alignment", {"sharpness": -10.0}, "sharpness is -10.0: expected a number above 0"),
        ("dpo", {"beta": "0.1"}, "beta is '0.1': expected a finite number"),
        ("dpo", {"beta": True}, "beta is True: expected a finite number"),
        ("phantom_optimization", {"beta": -2.0}, "beta is -2.0: expected a number above 0"),
        ("phantom_optimization", {"gamma": float("nan")}, "gamma is nan: expected a finite number"),
        ("dpo", {"beta": 0.0}, "beta is 0.0: expected a number above 0"),
        ("dpo", {"beta": float("nan")}, "beta is nan: expected a finite number"),
    ],
)
def test_options_that_teach_nothing_or_the_contrary(name, options, expected):
    with pytest.raises(ValueError, match=expected):
        find("losses", name)(**options)


def test_length_does_not_decide():
    """The same mean log-probability at another length is the same reward."""
    short = batch([0, 2], [0, 1], (0,), (1,))
    long = batch([0, 0, 0, 0, 2], [0, 0, 0, 0, 1], (0,), (1,))
    assert step("phantom_optimization", data=short)[0].loss.item() == pytest.approx(
        step("phantom_optimization", data=long)[0].loss.item()
    )


def test_phantom_optimization_without_pairs_is_sft():
    alone = batch(range(3), [0, 0, 1])
    output, _ = step("phantom_optimization", data=alone)
    assert output.loss.item() == step("sft", data=alone)[0].loss.item()
    assert means(output.metrics) == {}


def test_dpo_by_hand():
    reference = torch.tensor([-1.5, -1.0, -0.75, -2.0, -0.5, -9.0, -9.0], dtype=torch.float64)
    output, gradient = step("dpo", data=PAIRS | {"reference_logprobs": reference}, beta=0.1)
    reward = [0.1 * (-3.0 + 2.5), 0.1 * (-3.5 + 2.75), 0.1 * (-0.25 + 0.5)]
    expected = -(log_sigmoid(reward[0] - reward[1]) + log_sigmoid(reward[0] - reward[2])) / 2
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert (gradient[:2] < 0).all() and (gradient[2:5] > 0).all() and (gradient[5:] == 0).all()
    assert means(output.metrics)["reward_accuracy"] == 0.5


def test_dpo_starts_at_log_two():
    reference = torch.tensor(LOGPROBS, dtype=torch.float64)
    output, _ = step("dpo", data=PAIRS | {"reference_logprobs": reference})
    assert output.loss.item() == pytest.approx(log(2), abs=1e-12)


def test_dpo_without_pairs_says_so():
    with pytest.raises(ValueError, match=r"no preference pair .* a, b"):
        step("dpo", data=batch(range(2), [0, 0], reference_logprobs=torch.zeros(2)))


@pytest.mark.parametrize("name", ["sft", "phantom_optimization", "dpo"])
def test_parts_add_up_to_the_whole(name):
    """One batch with everything, or three micro-batches of unequal size: the same loss, the same gradient."""
    parts = [
        batch([0, 1, 2, 3], [0, 0, 1, 1], (0,), (1,)),
        batch([5], [0]),  # no pair here
        batch([4, 6, 6, 1, 2], [0, 1, 1, 2, 3], (0, 2), (1, 3), [1, 0]),
    ]
    whole = batch([0, 1, 2, 3, 5, 4, 6, 6, 1, 2], [0, 0, 1, 1, 2, 3, 4, 4, 5, 6], (0, 3, 5), (1, 4, 6), [0, 1, 0])
    for data in (*parts, whole):
        data["reference_logprobs"] = -torch.ones(len(data["sequence_ids"]), dtype=torch.float64)
    loss, together = find("losses", name)(), Says(LOGPROBS)
    totals = loss.count(whole)
    counts = [loss.count(part) for part in parts]
    assert totals == {key: sum(count[key] for count in counts) for key in totals}
    expected = loss(together, whole, totals).loss
    expected.backward()
    apart = Says(LOGPROBS)
    losses = [loss(apart, part, totals).loss for part in parts]
    sum(losses).backward()
    assert sum(losses).item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(apart.logprobs.grad, together.logprobs.grad, rtol=0, atol=1e-12)
    wrong = sum(loss(apart, part, loss.count(part) | {"pairs": 1}).loss for part in parts).item()
    assert abs(wrong - expected.item()) > 1e-3  # means of means would be something else


def test_supervised_and_model_inputs():
    assert supervised(PAIRS).tolist() == [True, True, False, False, False, True, True]
    assert set(model_inputs(PAIRS)) == {"input_ids", "labels"}
