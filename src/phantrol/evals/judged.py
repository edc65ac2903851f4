"""Benchmarks that no rule can score. Their answers are written as the official graders read them, or a judge scores
them with the prompts below, which are phantrol's own: the official ones belong to the graders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from phantrol.evals.benchmark import Row, question_text
from phantrol.evals.fingerprints import texts_sha256
from phantrol.evals.judging import Ask, NoVerdict
from phantrol.evals.published import PublishedBenchmark, PublishedRow, mean
from phantrol.models.conversation import pictures_of
from phantrol.whole_files import write_text

SHARE = """\
Grade an answer against the ground truth. In the ground truth, <AND> joins parts that must all be in the answer, and \
<OR> joins alternatives of which one is enough. Reply with one number alone, from 0.0 (all wrong) to 1.0 (all right) \
in steps of 0.1.

Question: {question}
Ground truth: {truth}
Answer: {answer}
Number:"""
PAIR = """\
{context}[Question]
{question}

[Assistant 1]
{reference}
[End of Assistant 1]

[Assistant 2]
{answer}
[End of Assistant 2]

Two assistants answered a question about an image{shown}. Rate each for helpfulness, relevance, accuracy and level of \
detail, from 1 (worst) to 10 (best); {rule}the order in which they stand must not count. The first line of your reply \
is the two numbers alone, that of Assistant 1 first, with a space between them. Say why from the second line on."""
EXTRACT = """\
Below is what a model replied to a mathematical question. Reply with its final answer alone, as it stands there: a \
letter of an option, a number, an expression. If it gives none, reply with null.

Question: {question}
Model's reply: {answer}
Final answer:"""
SAME = """\
Is an answer to a mathematical question the same as the right one? Another way of writing the same value, such as \
0.5 m and 50 cm, is the same; of a question with options, the letter and the text of an option are the same. Reply \
with 1 alone if it is, with 0 alone if it is not.

Question: {question}
Right answer: {truth}
Answer: {extracted}
1 or 0:"""
_AROUND = r"[\s*`\"'()\[\]]*"  # Markdown, quotes and brackets; a minus would make it another number
_NAMED = r"[^\W\d_]+:"


@dataclass(frozen=True)
class JudgedBenchmark(PublishedBenchmark):
    """A published benchmark whose answers a judge scores. A subclass gives `questions`, `judge` and `official`.

    judge_prompts    {name: the prompts that the judge is asked with}: they go into the card
    official_ending  of the file for the official grader
    """

    judged: ClassVar[bool] = True
    judge_prompts: ClassVar[dict[str, str]] = {}
    official_ending: ClassVar[str] = ".json"

    max_new_tokens: int = 1024

    def scores(self, row: Row, text: str) -> dict[str, float]:
        return {}  # no rule can tell

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        """Return the scores of an answer by name, from 0 to 1. Raises NoVerdict if the judge's reply says none."""
        raise NotImplementedError

    def overall_of(self, rows: Sequence[Row], scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
        """Return "overall", from the judge's scores of each row: by default the mean of each row's first one."""
        return {"overall": mean(next(iter(each.values())) for each in scores)} if scores else {}

    def official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str) -> Any:
        """Return the answers in the form that the official grader reads: what is JSON, or a list for .jsonl."""
        raise NotImplementedError

    def write_official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str, path: Path) -> None:
        """Write the answers for the official grader."""
        found = self.official(rows, texts, model)
        if self.official_ending == ".jsonl":
            write_text(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found))
        else:
            write_text(path, json.dumps(found, ensure_ascii=False, indent=1) + "\n")


@dataclass(frozen=True)
class ComparedBenchmark(JudgedBenchmark):
    """A judged benchmark in which the judge grades the model's answer beside a reference. The score is the sum of the
    model's grades over the sum of the reference's; it can be above 100 %.

    shown  what the judge knows of the picture;  rule  what else it must know;  judge_sees  whether it sees the picture
    A row's facts may have a "context", the picture in words, and have its "question_id".
    """

    judge_prompts: ClassVar[dict[str, str]] = {"pair": PAIR}
    official_ending: ClassVar[str] = ".jsonl"
    highest_score: ClassVar[float] = inf
    shown: ClassVar[str] = ""
    rule: ClassVar[str] = ""
    judge_sees: ClassVar[bool] = False

    def judge(self, row: PublishedRow, text: str, ask: Ask) -> dict[str, float]:
        context = f"[Context]\n{row.facts['context']}\n\n" if "context" in row.facts else ""
        asked = {"question": question_text(row), "reference": row.answer, "answer": text}
        prompt = PAIR.format(context=context, shown=self.shown, rule=self.rule, **asked)
        pictures = pictures_of(row.chat) if self.judge_sees else ()
        reference, model = read_pair(ask(prompt, max_tokens=1024, pictures=pictures))
        return {"model": model, "reference": reference}

    def overall_of(self, rows: Sequence[Row], scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
        found = {"overall": ratio_of_pairs(scores)} if scores else {}
        tasks = sorted({row.task for row in rows})
        for task in tasks if len(tasks) > 1 else []:
            found[task] = ratio_of_pairs([each for row, each in zip(rows, scores, strict=True) if row.task == task])
        return found

    def official(self, rows: Sequence[PublishedRow], texts: Sequence[str], model: str) -> list[dict[str, Any]]:
        """One object a line, as LLaVA's review scripts read answers."""
        lines = []
        for row, text in zip(rows, texts, strict=True):
            own = {"question_id": row.facts["question_id"], "prompt": question_text(row), "text": text}
            lines.append(own | {"answer_id": texts_sha256([row.id, text])[:22], "model_id": model, "metadata": {}})
        return lines


def read_share(reply: str) -> float:
    """Return the share of 1 that is the judge's reply; an explanation may stand on further lines.

    Raises NoVerdict for any other reply.
    """
    number = r"(0(?:\.[0-9]+)?|1(?:\.0+)?)"
    more = r"(?:\n(?!\s*\d).*)?"
    found = re.fullmatch(rf"{_AROUND}(?:{_NAMED}{_AROUND})?{number}\.?{_AROUND}{more}", reply, re.DOTALL)
    if not found:
        raise NoVerdict(f"the judge replied {_shown(reply)}: expected a number from 0.0 to 1.0")
    return float(found[1])


def read_pair(reply: str) -> tuple[float, float]:
    """Return the two grades on the first line of a judge's reply, as shares of 10. Raises NoVerdict for any other."""
    first = reply.strip().splitlines()[0].replace(",", " ").replace(";", " ") if reply.strip() else ""
    words = first.split()
    grades = [float(word) for word in words if re.fullmatch(r"\d+(?:\.\d+)?", word)]
    if len(grades) != 2 or len(words) != 2 or not all(1 <= grade <= 10 for grade in grades):
        raise NoVerdict(f"the judge replied {_shown(reply)}: expected two grades from 1 to 10 on its first line")
    return grades[0] / 10, grades[1] / 10


def read_yes(reply: str) -> float:
    """Return 1 or 0 of a judge's reply. Raises NoVerdict for any other."""
    found = re.fullmatch(rf"{_AROUND}(?:{_NAMED}{_AROUND})?([01])\.?{_AROUND}", reply)
    if not found:
        raise NoVerdict(f"the judge replied {_shown(reply)}: expected 1 or 0")
    return float(found[1])


def same_as_truth(question: str, truth: str, answer: str, ask: Ask) -> float:
    """Return whether a long answer comes to the right result: its result is taken out, then compared.

    Raises NoVerdict if the judge says neither 1 nor 0.
    """
    extracted = ask(EXTRACT.format(question=question, answer=answer), max_tokens=128).strip()
    return read_yes(ask(SAME.format(question=question, truth=truth, extracted=extracted), max_tokens=8))


def ratio_of_pairs(scores: Sequence[Mapping[str, float]]) -> tuple[float, int]:
    """Return the sum of "model" over that of "reference": how near the answers come to the reference's."""
    reference = sum(each["reference"] for each in scores)
    return sum(each["model"] for each in scores) / reference if scores else 0.0, len(scores)


def _shown(reply: Any) -> str:
    return repr(" ".join(str(reply).split())[:60])
