"""scripts/measure_budget.py: each point is the score of what was skipped at that moment, at the cost of just that."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phantrol.data.sources.primer import PrimerSource
from phantrol.evals.benchmarks.primer import PrimerBenchmark
from phantrol.find import import_file
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.trol import TraversalGate, TrolConfig, skip_traversal, traversing_gates

script = import_file(Path(__file__).parents[2] / "scripts" / "measure_budget.py")
WORTH = {0: 4, 1: 2, 3: 1}  # of 8 questions so many more are answered right where this layer traverses
GATES = {0: 0.5, 1: 0.1, 3: 0.9}
BY_W = (3, 0, 1)


class Seeing:
    """An engine whose answers say which layers traverse, and through whose gates some tokens pass."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor, self.rounds = model, processor, 0

    def answer_batch(self, chats: Any, max_new_tokens: int, batch_size: int) -> list[Any]:
        self.rounds += 1
        gates = traversing_gates(self.model.get_decoder())
        right = sum(WORTH[layer] for layer, gate in gates.items() if gate(torch.ones(2, 5, 32)).any())
        return [SimpleNamespace(text=answer if i < right else "no") for i, answer in enumerate(self.answers)]


@pytest.fixture
def engine(tiny_model: Any) -> Seeing:
    texts = [turn.text for i in range(4) for e in PrimerSource(tasks={"shape": 1.0})[i] for turn in e.messages]
    trol = TrolConfig(layers=tuple(WORTH), passes=3)
    model, processor = tiny_model(train_tokenizer(texts * 4, 320), [trol], num_hidden_layers=4)
    for layer, gate in traversing_gates(model.get_decoder()).items():
        torch.nn.init.zeros_(gate.weight)
        gate.bias.data.fill_(torch.tensor(GATES[layer]).logit() / 2)
    seeing = Seeing(model.eval(), processor)
    seeing.answers = [row.answer for row in PrimerBenchmark(tasks=("shape",), scenes=("shapes",)).rows("val", 8, 1)]
    return seeing


def test_points_are_what_was_measured(engine: Seeing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(script.Engine, "open", lambda model: engine)
    words = ["MODEL", "--out", tmp_path / "new" / "curve", "--tasks", "shape", "--limit", 8, "--draws", 2]
    monkeypatch.setattr("sys.argv", ["measure_budget.py", *map(str, words), "--examples", "2"])
    script.main()
    found = json.loads((tmp_path / "new" / "curve.json").read_text())
    assert (found["model"], found["tasks"], found["questions"]) == ("MODEL", ["shape"], 8)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["curve.json", "curve.png"]
    ratios = {each["layer"]: each["ratio"] for each in found["layers"]}
    assert ratios == pytest.approx(GATES, abs=1e-5)
    by_moved = sorted(WORTH, key={each["layer"]: each["moved"] for each in found["layers"]}.get, reverse=True)

    def score(*orders: Any) -> list[float]:
        return [sum(WORTH[i] for order in orders for i in order[:kept]) / 8 / len(orders) for kept in range(4)]

    drawn = [[random.Random(draw).sample(tuple(WORTH), kept) for kept in range(4)] for draw in range(2)]
    at_random = [sum(WORTH[i] for draw in drawn for i in draw[kept]) / 16 for kept in range(4)]
    expected = {"layers": score(by_moved), "by w": score(BY_W), "random layers": at_random}
    # of gates that say the same of all tokens, those that are kept are whole layers, shuffled or not
    expected |= {"tokens": score(BY_W), "shuffled": score(BY_W)}
    assert {name: [point["score"] for point in curve] for name, curve in found["points"].items()} == expected
    for name, curve in found["points"].items():
        control = found["points"].get(
            {"layers": "random layers", "by w": "random layers", "tokens": "shuffled"}.get(name)
        )
        for index, point in enumerate(curve):
            lost, low, high = point["lost"]
            assert lost == sum(WORTH.values()) / 8 - point["score"] and low <= lost <= high
            assert (low < high) == (lost > 0), "nothing is lost of all passes, and that is sure"
            assert ("ahead" in point) == (control is not None)
            assert control is None or point["ahead"][0] == pytest.approx(point["score"] - control[index]["score"])
    for curve in found["points"].values():  # three passes: a layer of four adds two quarters
        assert [point["cost"] for point in curve] == pytest.approx([1, 1.5, 2, 2.5])
    subsets = {frozenset(order[:kept]) for order in (by_moved, BY_W) for kept in range(4)}
    subsets |= {frozenset(subset) for draw in drawn for subset in draw}
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == engine.rounds == len(subsets) + 2 * 4, "what lies on several curves is measured once"
    assert {f"layers {sorted(kept)}: {sum(WORTH[i] for i in kept) / 8:.4f}" for kept in subsets} < set(shown)


def test_differences_are_drawn_within_their_tasks():
    """Two tasks that each answer alike are sure, however far apart; rows that stand together count once."""
    differences = np.array([1.0] * 50 + [0.0] * 50)
    apart = [(str(i), "count" if i < 50 else "shape") for i in range(100)]
    assert script.paired(apart, differences) == [0.5, 0.5, 0.5]
    mean, low, high = script.paired([(str(i), "count") for i in range(100)], differences)
    together = script.paired([(str(i // 10), "count") for i in range(100)], differences)
    assert together[1] < low < mean == 0.5 < high < together[2] and high - low == pytest.approx(0.196, abs=0.03)


def test_tokens_are_kept_counted_and_shuffled():
    gate = TraversalGate(1, 0.0)
    gate.weight.data.fill_(1.0)
    states = torch.arange(-3.0, 5.0).view(1, 8, 1)  # w rises from token to token, and is 1/2 at the fourth
    plain, seen = gate(states), {}
    for shuffle in (False, True):
        with script.only([gate, gate], 0.5, shuffle) as counted:
            seen[shuffle] = gate(states)
        assert counted == {"kept": 5, "all": 8}, "a gate that layers share is asked once"
    assert torch.equal(seen[False], plain * (plain >= 0.5))
    assert int((seen[True] > 0).sum()) == 5 and not torch.equal(seen[True] > 0, seen[False] > 0)
    assert torch.equal(gate(states), plain), "and all is as before"


def test_the_figure_is_as_wide_as_the_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dots = []
    dot = script.Canvas.dot
    monkeypatch.setattr(script.Canvas, "dot", lambda self, x, y, *rest: (dots.append((x, y)), dot(self, x, y, *rest)))
    points = [{"cost": 1.0, "score": 0.2}, {"cost": 1.05, "score": 0.4}, {"cost": 1.1, "score": 0.3}]
    script.draw({"layers": points}, tmp_path / "curve.png")
    (left, bottom), (middle, top), (right, between) = dots
    assert (left, right) == (54, 524) and middle == pytest.approx(289)
    assert (top, bottom) == (46, 296) and between == pytest.approx(171)


def test_a_layer_that_is_skipped_counts_for_nothing(engine: Seeing):
    """The control of the engine above: its answers do depend on what traverses."""
    skip_traversal(engine.model.get_decoder(), (0, 3))
    said = [answer.text for answer in engine.answer_batch([], 8, 100)]
    assert said == [*engine.answers[:2], *["no"] * 6]
