"""The first token of every prompt: what Phantom adds depends on it alone, so one server has one.

A causal model's first token sees nothing but itself. Its states in each layer are therefore constants of the model,
which a server computes once (`rehearsal.py`), and which hold for every request that begins with this token, however its
prompt is cut into chunks and whatever of it comes from a prefix cache. A prompt that begins otherwise is refused.
"""

from __future__ import annotations

from typing import Any

OPTION = "phantom_first_token"  # in the model's config.json, or given by --hf-overrides


def settle_first_token(model_config: Any) -> None:
    """Write into the configuration with which token prompts begin: what it says already, or the chat template's.

    Raises ValueError if neither tells, or if prompts would begin with a picture.
    """
    config = model_config.hf_config
    if getattr(config, OPTION, None) is None:
        setattr(config, OPTION, template_first_token(model_config))
    if getattr(config, OPTION) == getattr(config, "image_token_id", None):
        raise ValueError(
            "prompts of this model begin with a picture, on which everything that Phantom adds would depend: "
            "expected a chat template that begins with a fixed token, such as the tokenizer's beginning of sequence"
        )


def template_first_token(model_config: Any) -> int:
    """Return the id of the token that a rendered conversation begins with; without a template, that the tokenizer
    puts before a text.

    Raises ValueError if prompts begin with no fixed token.
    """
    from vllm.tokenizers import cached_tokenizer_from_config

    tokenizer = cached_tokenizer_from_config(model_config)
    if getattr(tokenizer, "chat_template", None):
        chats = ([{"role": "user", "content": text}] for text in ("a", "b"))
        shown = (tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats)
        first, other = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in shown)
    else:
        first, other = (tokenizer(text)["input_ids"][0] for text in ("a", "b"))
    if first != other:
        raise ValueError(
            f"prompts of this model begin with no fixed token, and Phantom needs one: expected a chat template, or a "
            f"tokenizer that begins a sequence; name it with --hf-overrides '{{\"{OPTION}\": ID}}'"
        )
    return first


def check_first_token(model_config: Any, token_ids: list[int] | None) -> None:
    """Raise vLLM's validation error, which its server answers with 400, if a prompt begins with another token."""
    expected = getattr(model_config.hf_config, OPTION, None)
    if expected is None or (token_ids and token_ids[0] == expected):
        return
    from vllm.exceptions import VLLMValidationError

    found = f"token {token_ids[0]}" if token_ids else "no token"
    raise VLLMValidationError(
        f"the prompt begins with {found}, and this server's Phantom was made ready for token {expected}: expected a "
        "conversation (/v1/chat/completions), or a prompt that begins with that token"
    )


def refuse_other_first_tokens() -> None:
    """Let vLLM ask `check_first_token` where it checks every prompt, of any route and of `LLM` alike.

    vLLM offers no place for such a check, so its own is wrapped. Raises RuntimeError where there is none to wrap: with
    another token the answers would be wrong, and nothing would say so.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    validate = getattr(InputProcessor, "_validate_model_input", None)
    if validate is None:
        raise RuntimeError("phantrol cannot check prompts under this version of vLLM: expected vllm 0.32")
    if getattr(validate, "checks_first_token", False):
        return

    def validate_with_first_token(self: Any, prompt_input: Any, prompt_type: str) -> None:
        validate(self, prompt_input, prompt_type)
        check_first_token(self.model_config, prompt_input.get("prompt_token_ids"))

    validate_with_first_token.checks_first_token = True
    InputProcessor._validate_model_input = validate_with_first_token
