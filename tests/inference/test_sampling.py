"""The choice of the next token: temperature, top_p, and where chance comes from."""

from __future__ import annotations

import dataclasses

import torch

from phantrol.inference.sampling import Sampling, _draw, choose_tokens

COLD = (5e-324, 1e-50, 1e-40, 1e-30, 1e-6)  # temperatures


def test_choice_by_chance_follows_temperature_and_top_p():
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]]).repeat(4000, 1)

    def shares(**options):
        sampling = Sampling(seed=0, **options)
        generator = sampling.generator(0)
        tokens = choose_tokens(logits, [sampling] * len(logits), [generator] * len(logits))
        return torch.bincount(torch.tensor(tokens), minlength=4) / len(logits)

    assert torch.allclose(shares(temperature=1.0), logits[0].softmax(-1), atol=0.03)
    assert torch.allclose(shares(temperature=2.0), (logits[0] / 2).softmax(-1), atol=0.03)
    kept = logits[0, :2].softmax(-1)
    assert torch.allclose(shares(temperature=1.0, top_p=0.8), torch.cat([kept, torch.zeros(2)]), atol=0.03)
    for most_likely in (dict(temperature=1.0, top_p=0.0), *(dict(temperature=cold) for cold in (*COLD, 0.0))):
        assert shares(**most_likely)[0] == 1


def test_each_row_has_its_own_temperature_and_top_p():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(3, 1)
    rows = [Sampling(temperature=t, top_p=p, seed=0) for t, p in ((1e-6, 1.0), (100.0, 1.0), (100.0, 0.1))]
    generators = [each.generator(0) for each in rows]
    drawn = torch.tensor([choose_tokens(logits, rows, generators) for _ in range(60)])
    assert [len(column.unique()) for column in drawn.T] == [1, 3, 1]


def test_a_top_p_of_1_leaves_nothing_out():
    """In float32 sums of many probabilities reach 1 before the unlikely ones, which may be drawn all the same."""
    logits = 4 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0))
    one, last = torch.ones(1, 1), torch.full((1, 1), 1 - 2.0**-24)
    assert _draw(logits, one, one, last) == _draw(logits, one, torch.inf * one, last)


def test_a_sampling_says_what_it_is():
    assert dataclasses.replace(Sampling(), temperature=1.0).generator(0) is not None
    assert Sampling().generator(0) is None
    seeds = [Sampling(temperature=1.0).generator(0).initial_seed() for _ in range(4)]
    assert len(set(seeds)) == 4  # without a seed, different each time
    one, other = (Sampling(temperature=1.0, seed=seed).generator(choice) for seed, choice in ((3, 1), (4, 0)))
    assert one.initial_seed() != other.initial_seed()  # neighbours share nothing
