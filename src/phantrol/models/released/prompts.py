"""How each released model is spoken to: its chat template, what stands for a picture, where an answer ends, how long
it may be. The strings were read from the released code, and are held against what it rendered (tests/released).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

TROL_SYSTEM = (
    "You are AI model created by Byung-Kwan Lee, Ph.D. candidate, KAIST EE, of which AI model name is TroL (Traversal "
    "of Layers). You must give helpful, detailed, and polite answers to the user's questions"
)
CLIP_490 = {
    "antialias": False,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
SIX_TILES = {"max_tiles": 6, "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}

LETTER_TASKS = ("sqa", "mmbench", "mmbench_dev", "seed", "ai2d", "mmstar", "pope", "chartqa", "hallusionbench", "mme")
TEXT_TASKS = ("mathvista", "mathverse", "visualwebbench")
CHAT_TASKS = ("llava", "mm-vet")
MAX_NEW_TOKENS: dict[str, dict[str, int]] = {  # by family and data set; "demo" is a conversation
    "trol": {
        "demo": 512,
        **dict.fromkeys((*LETTER_TASKS, "qbench", "vqav2", "gqa", "mmmu", "textvqa"), 5),
        **dict.fromkeys((*TEXT_TASKS, "vizwiz", "blink", "cvbench", "seed-2-plus", "llava_wilder", "mm-vet-v2"), 512),
        **dict.fromkeys(CHAT_TASKS, 1024),
    },
    "phantom": {
        "demo": 256,
        **dict.fromkeys((*LETTER_TASKS, "qbench", "blink", "cvbench", "seed-2-plus"), 5),
        **dict.fromkeys(TEXT_TASKS, 512),
        **dict.fromkeys((*CHAT_TASKS, "llava_wilder", "mm-vet-v2"), 1024),
    },
}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How one released model is spoken to.

    chat_template     Jinja
    image_token       stands for one feature of a picture;  image_prefix, image_suffix  around those of one picture
    end_of_turn       what ends an answer, and stops generation
    special_tokens    every token of the template, end_of_turn among them
    num_beams         of the released evaluation
    max_new_tokens    {data set: tokens}
    image_options     of PhantrolImageProcessor
    """

    chat_template: str
    image_token: str
    image_prefix: str
    image_suffix: str
    end_of_turn: str
    special_tokens: tuple[str, ...]
    num_beams: int
    max_new_tokens: Mapping[str, int]
    image_options: Mapping[str, Any]


def dialect(family: str, backbone: str) -> Dialect:
    """Return the dialect of a family, "trol" or "phantom", on a backbone, "internlm2", "phi3" or "qwen2".

    Raises ValueError if no model of this kind was released.
    """
    if (family, backbone) not in _DIALECTS:
        known = ", ".join(" on ".join(each) for each in _DIALECTS)
        raise ValueError(f"no released model is {family} on {backbone}: expected {known}")
    return _DIALECTS[family, backbone]


def _template(
    start: str, end: str, after_answer: str = "", begin: str = "", between: str = "", system: str = ""
) -> str:
    """Turns `start` text `end`, joined by `between`, with ROLE in `start` for who speaks.

    begin         before all turns;  after_answer  behind the end of an answer
    system        what the system says where the conversation has no message of its own
    """

    def turn(role: str, text: str) -> str:
        return start.replace("ROLE", role) + text + end

    def shown(text: str) -> str:
        return "{{ " + json.dumps(text) + " }}" if text else ""

    default = "{% if messages[0]['role'] != 'system' %}" + shown(turn("system", system) + between) + "{% endif %}"
    before_role, after_role = start.split("ROLE")
    return "".join(
        (
            shown(begin),
            default if system else "",
            "{% for message in messages %}",
            "{% if not loop.first %}" + shown(between) + "{% endif %}" if between else "",
            shown(before_role) + "{{ message['role'] }}" + shown(after_role) + "{{ message['content'] }}" + shown(end),
            "{% if message['role'] == 'assistant' %}" + shown(after_answer) + "{% endif %}" if after_answer else "",
            "{% endfor %}",
            "{% if add_generation_prompt %}" + shown(between + start.replace("ROLE", "assistant")) + "{% endif %}",
        )
    )


def _trol(start: str, end: str, special: tuple[str, ...], **pictures: Any) -> Dialect:
    options = {"after_answer": "\n</s>", "begin": "<s>", "between": "\n", "system": TROL_SYSTEM}
    return Dialect(
        chat_template=_template(start, end, **options),
        end_of_turn=end,
        special_tokens=special,
        num_beams=5,
        max_new_tokens=MAX_NEW_TOKENS["trol"],
        **pictures,
    )


def _phantom(start: str, end: str, special: tuple[str, ...]) -> Dialect:
    return Dialect(
        chat_template=_template(start, end),
        end_of_turn=end,
        special_tokens=special,
        num_beams=3,
        max_new_tokens=MAX_NEW_TOKENS["phantom"],
        image_token="<IMG_CONTEXT>",
        image_prefix="<img>",
        image_suffix="</img>",
        image_options=SIX_TILES,
    )


_PHI3_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_CHATML = _phantom("<|im_start|>ROLE\n", "<|im_end|>", ("<|im_start|>", "<|im_end|>"))
_DIALECTS = {
    ("trol", "internlm2"): _trol(
        "[UNUSED_TOKEN_146]ROLE\n",
        "[UNUSED_TOKEN_145]",
        ("[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"),
        image_token="<image>",
        image_prefix="",
        image_suffix="\n",
        image_options=CLIP_490,
    ),
    ("trol", "phi3"): _trol(
        "<|ROLE|>\n",
        "<|end|>",
        _PHI3_TOKENS,
        image_token="<IMG_CONTEXT>",
        image_prefix="<img>",
        image_suffix="</img>\n",
        image_options=SIX_TILES,
    ),
    ("phantom", "qwen2"): _CHATML,
    ("phantom", "internlm2"): _CHATML,
    ("phantom", "phi3"): _phantom("<|ROLE|>\n", "<|end|>", _PHI3_TOKENS),
}
