"""What a judge's reply says, and which urls are a judge's."""

from __future__ import annotations

import pytest

from phantrol.evals.judged import NoVerdict, read_pair, read_share, read_yes
from phantrol.evals.judging import Judge


@pytest.mark.parametrize(
    ("read", "reply", "verdict"),
    [
        (read_share, "0.7", 0.7),
        (read_share, " 1.0\n", 1.0),
        (read_share, "Correctness: 0.0", 0.0),
        (read_share, "1", 1.0),
        (read_share, "10", None),
        (read_share, "1.5", None),
        (read_share, "", None),
        (read_share, "I cannot say. 0.5", None),
        (read_pair, "8 9\nFine.", (0.8, 0.9)),
        (read_pair, "7.5, 10", (0.75, 1.0)),
        (read_pair, "8 9 7", None),
        (read_pair, "Assistant 1: 8, Assistant 2: 9", None),
        (read_pair, "0 9", None),
        (read_pair, "", None),
        (read_yes, "1", 1.0),
        (read_yes, "Judgement: 0.", 0.0),
        (read_yes, "10", None),
        (read_yes, "yes", None),
    ],
)
def test_replies(read, reply, verdict):
    if verdict is None:
        with pytest.raises(NoVerdict):
            read(reply)
    else:
        assert read(reply) == verdict


def test_a_judge_is_a_server():
    for url in ("api.openai.com", "ftp://x", "http://me:secret@x/v1"):
        with pytest.raises(ValueError, match="the judge's url") as error:
            Judge(url, "gpt")
        assert "secret" not in str(error.value)
