"""VisualWebBench: seven tasks about screenshots of web pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from phantrol.evals.benchmark import Row
from phantrol.evals.letters import LETTERS, chosen_option
from phantrol.evals.metrics import rouge_l, rouge_n
from phantrol.evals.published import PublishedBenchmark, PublishedRow, lettered, mean_of_tasks
from phantrol.evals.reading import Record, picture_of, read_parquet

PAGE = "You are given a screenshot of a webpage"
BOX = f"{PAGE} with a red rectangle bounding box. The [x1, y1, x2, y2] coordinates of the bounding box is {{box}}.\n"
LABELLED = "In this website screenshot, I have labeled IDs for some HTML elements as candicates. Tell me which one "
ONLY = ", and do not output any explanation or any other contents"
CHOOSE = f"\n\nYou should directly tell me your choice in a single uppercase letter{ONLY}.\n"
PROMPTS = {  # as published, their misspelling included
    "web_caption": f"{PAGE}. Please generate the meta web description information of this webpage, i.e., content "
    'attribute in <meta name="description" content=""> HTML element.\n\nYou should use the following format'
    f'{ONLY}:\n<meta name="description" content="YOUR ANSWER">\n',
    "heading_ocr": f"{PAGE}. Please generate the main text within the screenshot, which can be regarded as the heading "
    f"of the webpage.\n\nYou should directly tell me the main content{ONLY}.\n",
    "webqa": f"{{question}}\nYou should directly tell me your answer in the fewest words possible{ONLY}.\n",
    "element_ocr": f"{BOX}Please perform OCR in the bounding box and recognize the text content within the red "
    "bounding box.\n\nYou should use the following format:\nThe text content within the red bounding box is: "
    "<YOUR ANSWER>\n",
    "element_ground": f"{LABELLED}best matches the description: {{element}}{CHOOSE}",
    "action_prediction": f"{BOX}Please select the best webpage description that matches the new webpage after clicking "
    f"the selected element in the bounding box:\n{{choices}}{CHOOSE}",
    "action_ground": f"{LABELLED}I should click to complete the following task: {{instruction}}{CHOOSE}",
}
CHOSEN = ("element_ground", "action_prediction", "action_ground")
NUM_LABELS = 8  # candidates on a screenshot, at most
_FRAMES = {
    "web_caption": re.compile(r'<meta name="description" content="(.*)"\s*/?>', re.DOTALL),
    "element_ocr": re.compile(r"^[^:]*\bbox is:\s*(.*)$", re.DOTALL),
}


@dataclass(frozen=True)
class VisualWebBench(PublishedBenchmark):
    """TASK/test-*.parquet. ROUGE-L for captions and OCR, ROUGE-1 for web questions, the letter for the other three.

    Overall is the mean of the tasks.
    """

    folders: ClassVar[tuple[str, ...]] = ("VisualWebBench",)
    source: ClassVar[str] = "hub visualwebbench/VisualWebBench"
    released_name: ClassVar[str] = "visualwebbench"
    all_tasks: ClassVar[tuple[str, ...]] = tuple(PROMPTS)
    max_new_tokens = 512

    def questions(self, split: str) -> Iterator[PublishedRow]:
        for row in read_parquet(self.files("test-*.parquet", "*.parquet")):
            task, answer = row["task_type"], row["answer"]
            choices: tuple[str, ...] = ()
            if task in CHOSEN:
                texts = row.get("options") if task == "action_prediction" else None
                choices = tuple(map(str, texts)) if texts else ("",) * NUM_LABELS
                if int(answer) not in range(len(choices)):
                    expected = f"expected the number of one of {len(choices)} options, from 0"
                    raise ValueError(f"{row.where}: got the answer {answer!r}, {expected}")
                answer = LETTERS[int(answer)]
            golds = [answer] if isinstance(answer, str) else list(map(str, answer))
            more = {"choices": choices, "facts": {"golds": golds}}
            yield self.row(row["id"], task, [picture_of(row["image"])], _prompt(row, choices), golds[0], **more)

    def score(self, row: PublishedRow, text: str) -> float:
        if row.choices:
            return float(chosen_option(text, row.choices) == row.answer)
        golds = row.facts["golds"]
        if row.task == "webqa":
            return max(rouge_n(text, gold) for gold in golds)
        frame = _FRAMES[row.task].search(text) if row.task in _FRAMES else None
        return rouge_l(frame[1].strip(" \"'") if frame else text, golds[0])

    def overall(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, tuple[float, int]]:
        return mean_of_tasks(self.scored(rows, texts))


def _prompt(row: Record, choices: Sequence[str]) -> str:
    if row["task_type"] not in PROMPTS:
        raise ValueError(f"{row.where}: unknown task_type {row['task_type']!r}: expected {', '.join(PROMPTS)}")
    box: Any = row.get("bbox")
    return PROMPTS[row["task_type"]].format(
        question=row.get("question"),
        element=row.get("elem_desc"),
        instruction=row.get("instruction"),
        choices=lettered(choices),
        box=None if box is None else [float(edge) for edge in box],
    )


BENCHMARK = VisualWebBench
