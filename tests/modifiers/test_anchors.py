"""Several anchors: what one row alone gives, whatever shares the batch, the row or the cache with it.

N tokens of a row, k anchors.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from phantrol.data.packing import visible
from phantrol.inference.joining import join_caches
from phantrol.models.block_attention import no_mask, use_block_attention
from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.ops.blocks import additive

EXACT, BROKEN = 1e-10, 1e-3
SPAN = 5  # of the set phantom_anchors: three anchors, two tokens apart
pytestmark = pytest.mark.usefixtures("float64_throughout", "no_grad")


@pytest.fixture
def case(build_case):
    return build_case("llama", "phantom_anchors")


def regrafted(case, *configs):
    """The same weights with other options of the modifiers."""
    model = graft(copy.deepcopy(case.plain), list(configs))
    model.load_state_dict(case.model.state_dict())
    return model


def test_anchors_that_never_come_change_nothing(case):
    one = regrafted(case, PhantomConfig())(case.ids).logits
    far = regrafted(case, PhantomConfig(anchors=4, anchor_stride=99))(case.ids).logits
    assert (one - far).abs().max() < EXACT
    three = case.model(case.ids).logits
    assert (one - three)[:, :2].abs().max() < EXACT, "before the second anchor there is one"
    assert (one - three)[:, 2:].abs().max() > BROKEN


def test_tokens_that_are_taken_back(case):
    """An anchor among them is another one when other tokens come."""
    cache, other = DynamicCache(config=case.model.config), case.ids.flip(0)
    case.step(case.ids[:, :7], cache)
    cache.crop(-4)
    mixed = torch.cat([case.ids[:, :3], other[:, 3:]], dim=1)
    again = [case.step(mixed[:, 3:4], cache), case.step(mixed[:, 4:], cache)]
    assert (torch.cat(again, 1) - case.full(mixed)[:, 3:]).abs().max() < EXACT


def test_a_row_that_joins_before_its_anchors_are_complete(case):
    long, short = case.ids[:1], case.ids[1:, :8]
    running, joining = DynamicCache(config=case.model.config), DynamicCache(config=case.model.config)
    case.step(long[:, :9], running)
    case.step(short[:, :3], joining)
    join_caches(running, joining)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :6] = 0
    for step in range(2):
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
        tokens = torch.stack([long[0, 9 + step], short[0, 3 + step]])[:, None]
        logits = case.step(tokens, running, mask)
        assert (logits[0, 0] - case.full(long)[0, 9 + step]).abs().max() < EXACT
        assert (logits[1, 0] - case.full(short)[0, 3 + step]).abs().max() < EXACT


@pytest.mark.parametrize("ends", [None, (6, 11), (3, 6, 7, 8, 9, 10, 11)], ids=["whole", "prompt", "steps"])
def test_padding_between_a_prompt_and_its_answer(case, ends):
    """A short prompt beside a long one, both padded on the right: padding is no anchor, and none of the answer's is."""
    ids, mask = case.ids.clone(), torch.ones(2, 11, dtype=torch.long)
    ids[0, 2:6] = mask[0, 2:6] = 0
    logits = case.full(ids, mask) if ends is None else case.feed(ids, ends, mask=mask)
    for row, real, alone in zip(logits, mask.bool(), case.ids, strict=True):
        assert (row[real] - case.full(alone[real][None])[0]).abs().max() < EXACT


def packed(case, prefix, *suffixes):
    """One row [prefix][suffix 1][suffix 2], as training packs it, and the logits of each suffix behind the prefix."""
    segments = [0] * prefix + [number for number, length in enumerate(suffixes, 1) for _ in range(length)]
    positions = [*range(prefix), *(prefix + place for length in suffixes for place in range(length))]
    ids = torch.randint(3, 97, (1, len(segments)), generator=torch.Generator().manual_seed(3))
    mask = additive(visible(torch.tensor([segments])), torch.float64)
    together = case.model(ids, attention_mask=mask, position_ids=torch.tensor([positions]), use_cache=False).logits
    parts = []
    for number in range(1, len(suffixes) + 1):
        own = torch.tensor([segment in (0, number) for segment in segments])
        parts.append((together[:, own], case.model(ids[:, own], use_cache=False).logits))
    return max(float((one - other).abs().max()) for one, other in parts)


def test_a_packed_row_shares_its_anchors(case):
    assert packed(case, SPAN, 3, 4) < EXACT
    assert packed(case, 3, 4) < EXACT, "one sequence alone may have them anywhere"
    with pytest.raises(
        ValueError, match=r"share fewer than the 5 tokens .* fewer anchors, or a row for each \(pack=false\)"
    ):
        packed(case, SPAN - 1, 3, 4)


def test_rows_one_after_another_without_padding(case):
    rows = [case.ids[:1, :7], case.ids[1:, :2], case.ids[1:, :6]]
    ends = torch.tensor([row.shape[1] for row in rows]).cumsum(0).tolist()
    joined, positions = torch.cat(rows, 1), torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    model = copy.deepcopy(case.model)
    use_block_attention(model.get_decoder())
    given = dict(blocks=[(end, None) for end in ends], attention_mask=no_mask(joined), position_ids=positions)
    logits = model(joined, use_cache=False, **given).logits
    shared = additive(visible(torch.tensor([[0] * 4 + [1, 1, 2]])), torch.float64)  # within a block, too
    with pytest.raises(ValueError, match="share fewer than the 5 tokens"):
        model(joined, use_cache=False, **given | dict(blocks=[(7, shared), *given["blocks"][1:]]))
    for row, part in zip(rows, logits.split([row.shape[1] for row in rows], dim=1), strict=True):
        assert (part - case.full(row)).abs().max() < EXACT


def test_where_rows_begin_must_be_known(case):
    """A mask as attention takes it says that a row began, and not where."""
    cache = StaticCache(config=case.model.config, max_cache_len=12)
    seen = torch.ones(12, 12, dtype=torch.bool).tril()[None, None]
    case.model(case.ids[:1, :3], attention_mask=seen[:, :, :3], past_key_values=cache)
    with pytest.raises(ValueError, match=r"\[1, 1, 1, 12\] after 3 tokens.*expected one of \[B, past \+ N\]"):
        case.model(case.ids[:1, 3:4], attention_mask=seen[:, :, 3:4], past_key_values=cache)
    whole = StaticCache(config=case.model.config, max_cache_len=12)
    case.model(case.ids[:1, :SPAN], attention_mask=seen[:, :, :SPAN], past_key_values=whole)
    after = case.model(case.ids[:1, SPAN : SPAN + 1], attention_mask=seen[:, :, SPAN : SPAN + 1], past_key_values=whole)
    assert (after.logits - case.full(case.ids[:1])[:, SPAN : SPAN + 1]).abs().max() < EXACT


def test_generation_and_gradients(case):
    model = case.model
    greedy = model.generate(case.ids, max_new_tokens=4, do_sample=False)
    uncached = model.generate(case.ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(greedy, uncached)
    with torch.enable_grad():
        loss = model(case.ids, labels=case.ids, use_cache=False).loss
        names, parameters = zip(*((n, p) for n, p in model.named_parameters() if ".phantom." in n), strict=True)
        grads = torch.autograd.grad(loss, parameters)
    assert all(grad.abs().max() > 0 for name, grad in zip(names, grads, strict=True)), names


@pytest.mark.parametrize("name", ["anchors", "anchor_stride"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_bad_options(name, value):
    with pytest.raises(ValueError, match=rf"PhantomConfig\.{name} is .*: expected a whole number, at least 1"):
        PhantomConfig(**{name: value})
