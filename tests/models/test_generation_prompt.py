"""What a chat template writes between its generation prompt and an answer is read in training and in inference."""

from __future__ import annotations

import copy

import pytest

from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.models.processing import PhantrolProcessor
from phantrol.serving.vllm.chat import flattening_template

PLAIN = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATES = {
    "nothing between": (PLAIN, ""),
    # as Mistral's: no generation prompt, and a space before each answer
    "a space": (
        "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} "
        "{{ m['content'] }}<|end|>{% endif %}{% endfor %}",
        " ",
    ),
    # as Qwen3's: an empty block before the last answer, not before those that are history
    "a block in the last turn": (
        "{%- for m in messages %}\n{{- '<|' + m['role'] + '|>\\n' }}\n"
        "{%- if m['role'] == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n"
        "{{- m['content'] + '<|end|>\\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n{{- '<|assistant|>\\n' }}\n{%- endif %}\n",
        "<think>\n\n</think>\n\n",
    ),
    "quotes, braces, and white space at the end": (
        PLAIN.replace("<|{{ m['role'] }}|>", "<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}\n \n  "
                      "{{ '}}\"\\'é😀' }}{% endif %}") + "\n \n  \n",
        "}}\"'é😀",  # behind the white space, which the generation prompt has too
    ),
}  # fmt: skip
REFUSED = {
    "ends a prompt with .*<think>.*expected all of the former there": PLAIN.replace(
        "<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}"
    ),
    "expected all of the former there": "<s>{{ messages[0]['content'] }}<|assistant|>",  # shows no answer
    "writes 'A' .*, and 'B' .*: expected the same": PLAIN.replace(
        "|>{{ m['content']", "|>{% if m['role'] == 'assistant' %}{{ 'A' if loop.index == 2 else 'B' }}{% endif %}"
        "{{ m['content']",
    ),
    "refuses a question and its answer: no roles": "{{ raise_exception('no roles') }}",
}  # fmt: skip
TURNS = [
    {"role": "user", "content": "What color?"},
    {"role": "assistant", "content": "red and blue"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "green"},
]


def make(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return PhantrolProcessor(PhantrolImageProcessor(image_px=32), tokenizer, image_grid=4)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answered", [1, 2])
def test_an_answer_is_asked_for_behind_what_it_was_trained_behind(tokenizer, tmp_path, name, answered):
    template, between = TEMPLATES[name]
    processor = make(tokenizer, template)
    chat, answer = TURNS[: 2 * answered - 1], TURNS[2 * answered - 1]
    trained = processor.encode([*chat, answer])
    prompt = processor.encode(chat, add_generation_prompt=True).input_ids
    said = [*tokenizer(answer["content"], add_special_tokens=False)["input_ids"], processor.end_of_turn_id]
    assert trained.input_ids[: len(prompt) + len(said)] == prompt + said
    assert trained.answer_mask[len(prompt) :][: len(said)] == [True] * len(said)
    assert not any(trained.answer_mask[len(prompt) + len(said) :])
    assert sum(trained.answer_mask[: len(prompt)]) == (
        0 if answered == 1 else 1 + len(tokenizer("red and blue").input_ids)
    )

    rendered = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert rendered.endswith(between)
    processor.save_pretrained(tmp_path)
    again = PhantrolProcessor.from_pretrained(tmp_path)
    flat = flattening_template(again.chat_template, "<image>", "<image>")  # as vLLM renders it by itself
    for template in (again.chat_template, again.tokenizer.chat_template, flat):
        options = dict(chat_template=template, tokenize=False, add_generation_prompt=True)
        assert again.tokenizer.apply_chat_template(chat, **options) == rendered


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_without_generation_prompt_is_rendered_as_ever(tokenizer, name):
    template, between = TEMPLATES[name]
    processor = make(tokenizer, template)
    options = dict(chat_template=template, tokenize=False)
    for chat in (TURNS[:1], TURNS[:2], TURNS):
        assert processor.apply_chat_template(chat) == tokenizer.apply_chat_template(chat, **options)
        asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, **options)
        assert processor.apply_chat_template(chat, add_generation_prompt=True) == asked + between
    assert between or processor.chat_template == template


def test_a_template_for_one_question_alone(tokenizer):
    alone = "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}"
    assert make(tokenizer, alone + PLAIN).chat_template == alone + PLAIN


@pytest.mark.parametrize("complaint", REFUSED)
def test_refused(tokenizer, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(tokenizer, REFUSED[complaint])


def test_a_block_that_the_template_can_write_itself_is_written_once(tokenizer):
    block = "<think>\n\n</think>\n\n"
    template, _ = TEMPLATES["a block in the last turn"]
    own = (
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    )
    processor = make(tokenizer, template.removesuffix("{%- endif %}\n") + own + "{%- endif %}\n")
    options = dict(chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True)
    for switch in ({}, {"enable_thinking": False}):
        assert tokenizer.apply_chat_template(TURNS[:1], **options, **switch).count(block) == 1
    assert tokenizer.apply_chat_template(TURNS[:1], **options, enable_thinking=True).count(block) == 0


def test_a_conversation_that_the_template_refuses(tokenizer):
    alone = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    processor, chat = make(tokenizer, alone + PLAIN), [{"role": "system", "content": "a"}, *TURNS[:1]]
    for asked in (processor.encode, processor.apply_chat_template):
        with pytest.raises(ValueError, match="refuses a conversation of system, user: no system role; expected roles"):
            asked(chat)
