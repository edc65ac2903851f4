"""Conversations under vLLM: it renders chat templates itself, so ours must say where a picture's tokens stand."""

from __future__ import annotations

import json

from transformers.models.auto.processing_auto import AutoProcessor

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.processing import PhantrolProcessor as Processor

# content of parts becomes one string, as PhantrolProcessor renders it; a typed placeholder is text and no picture
FLATTEN = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
{%- set flat.text = '' -%}
{%- if message['content'] is string -%}
{%- set flat.text = message['content'] | replace(TOKEN, SPELLED) -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set flat.text = flat.text + (part['text'] | replace(TOKEN, SPELLED)) -%}
{%- elif part['type'] == 'image' -%}
{%- set flat.text = flat.text + SHOWN -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': flat.text}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def flattening_template(template: str, image_token: str, shown: str) -> str:
    """Return a chat template that takes text and image parts, from one that takes strings.

    shown  what stands for a picture in the prompt: its image token once, with what goes around it
    """
    prelude = FLATTEN.replace("SPELLED", json.dumps(f"{image_token[:1]} {image_token[1:]}"))
    prelude = prelude.replace("TOKEN", json.dumps(image_token)).replace("SHOWN", json.dumps(shown))
    return prelude + template


class PhantrolProcessor(Processor):
    """Our processor as vLLM sees it. It bears the same name, since a saved processor is looked up by its name."""

    # a property, since transformers reads in the signature of `__init__` which parts and options to load
    @property
    def chat_template(self) -> str:
        return flattening_template(self._template, self.image_token, self._shown("image", ""))

    @chat_template.setter
    def chat_template(self, template: str) -> None:
        self._template = template


def register_processor() -> None:
    """Let AutoProcessor open our processors so, in this process."""
    AutoProcessor.register(PhantrolConfig, PhantrolProcessor, exist_ok=True)
