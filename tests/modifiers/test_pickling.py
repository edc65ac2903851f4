"""A grafted model goes through pickle, `torch.save` and deepcopy as a plain one does, and into another process."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phantrol.models.block_attention import use_block_attention
from phantrol.modifiers.graft import graft

NAMES = ("trol", "phantom", "both")
FAMILY = "llama"


def through_pickle(protocol: int) -> Any:
    return lambda model: pickle.loads(pickle.dumps(model, protocol))


def through_torch(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "pickle": through_pickle(pickle.HIGHEST_PROTOCOL),
    "old pickle": through_pickle(0),
    "torch.save": through_torch,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_the_same_model(tiny_decoder, sets, way, name):
    model, ids = graft(tiny_decoder(FAMILY), sets[name]), torch.arange(3, 15)[None]
    copied = WAYS[way](model)
    assert [type(part) for part in copied.modules()] == [type(part) for part in model.modules()]
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
    expected = model(ids).logits
    assert torch.equal(copied(ids).logits, expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert torch.equal(model(ids).logits, expected)


def test_another_process_opens_it(tiny_decoder, seeing, sets, tmp_path: Path):
    ids = torch.arange(3, 15)[None]
    for number, model in enumerate((graft(tiny_decoder(FAMILY), sets["both"]), seeing(sets["trol"]))):
        use_block_attention(model.get_decoder())  # as after a row of several sequences
        torch.save((ids, model(ids).logits), tmp_path / f"logits_{number}.pt")
        torch.save(model, tmp_path / f"model_{number}.pt")
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "for number in range(2):\n"
        "    model = torch.load(f'{sys.argv[1]}/model_{number}.pt', weights_only=False)\n"
        "    ids, logits = torch.load(f'{sys.argv[1]}/logits_{number}.pt')\n"
        "    assert torch.equal(model(ids).logits, logits)\n"
        "    assert 'Traversed' in repr(model)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
