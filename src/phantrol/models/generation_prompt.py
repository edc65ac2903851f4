"""Chat templates whose generation prompt is all that they write before an answer, so that training reads what inference
will.

Some write more: Qwen3's an empty `<think>` block before the last answer, Mistral's a space before each. A model is
trained behind that, so it is asked behind that. Where it stands before the last answer alone, earlier answers of a
conversation are trained as they are read there, as history.
"""

from __future__ import annotations

import json
from typing import Any

from jinja2 import TemplateError

_ANSWER = "\ue000"  # of Unicode's private use area: no template writes it by itself
_ASKED = [{"role": "user", "content": "a"}]
_ASKED_AGAIN = [*_ASKED, {"role": "assistant", "content": "a"}, *_ASKED]


def complete_generation_prompt(template: str, tokenizer: Any) -> str:
    """Return the chat template, with what it writes between its generation prompt and an answer added to the former.

    tokenizer  that renders it
    Raises ValueError if it takes no question and answer, if its generation prompt is not how what it writes before an
    answer begins, and if what follows there is not the same before a second answer.
    """
    try:
        first = _between(template, tokenizer, _ASKED)
    except TemplateError as error:
        raise ValueError(
            f"the chat template refuses a question and its answer: {error}; expected one for both"
        ) from None
    try:
        later = _between(template, tokenizer, _ASKED_AGAIN)
    except TemplateError:
        later = first  # it takes one question alone
    if first != later:
        raise ValueError(
            f"the chat template writes {first!r} between its generation prompt and the first answer, and {later!r} "
            "before a second one: expected the same; mend it, so that a model is asked as it is trained"
        )
    if not first:
        return template
    wanted = "add_generation_prompt"
    asked = [_rendered(template, tokenizer, _ASKED, True, **switch) for switch in ({}, {"enable_thinking": False})]
    if asked[1] == asked[0] + first:  # Qwen3's own switch writes it already
        wanted += " and enable_thinking is not defined"
    # "+" keeps the whitespace before it, and Jinja leaves out one line end behind the last line
    added = f"{{%+ if {wanted} %}}{{{{ {json.dumps(first, ensure_ascii=False)} }}}}{{% endif %}}"
    return template.removesuffix("\n") + added


def _between(template: str, tokenizer: Any, chat: list[dict[str, str]]) -> str:
    asked = _rendered(template, tokenizer, chat, True)
    whole = _rendered(template, tokenizer, [*chat, {"role": "assistant", "content": _ANSWER}], False)
    read, answer, _ = whole.partition(_ANSWER)
    if not answer or not read.startswith(asked):
        raise ValueError(
            f"the chat template ends a prompt with {asked[-60:]!r}, but before an answer in training it writes "
            f"{read[-60:]!r}: expected all of the former there; mend it, so that a model is asked as it is trained"
        )
    return read[len(asked) :]


def _rendered(
    template: str, tokenizer: Any, chat: list[dict[str, str]], add_generation_prompt: bool, **switches: bool
) -> str:
    options = dict(chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt)
    return tokenizer.apply_chat_template(chat, **options, **switches)
