"""Documents: no wrong answer is a right one."""

from __future__ import annotations

from phantrol.data.primer import Curriculum, generator, sample
from phantrol.evals.metrics import number


def test_no_wrong_total_is_the_right_one(monkeypatch):
    """ "about 29" is 29.00, one in twenty of the totals, half of whose dodges would say so."""
    monkeypatch.setattr(generator, "draw", lambda scene, size_px: None)
    curriculum = Curriculum({"document_total": 1.0}, questions=1, captions=False)
    turns = [sample("train", "documents", index, 192, curriculum).turns[0] for index in range(400)]
    assert sum(turn.answer.endswith(".00") for turn in turns) > 10
    dodges = [turn.rejected[1].text for turn in turns]
    assert all(any(dodge.startswith(word) for dodge in dodges) for word in ("about", "between"))
    for turn in turns:
        assert not any(number(rejected.text, turn.answer) for rejected in turn.rejected), (turn.answer, turn.rejected)
