"""A phantrol model as lmms-eval sees one: messages in, texts out, in batches. Imported by lmms-eval alone."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from phantrol.evals.lmms import fingerprints, model_args
from phantrol.inference.engine import Engine
from phantrol.models.conversation import parts_of

MAX_NEW_TOKENS = 256  # of tasks that say nothing
SAMPLING = ("temperature", "top_p", "top_k")


class Phantrol(lmms):
    """pretrained  a saved model's folder or a hub id;  batch_size  questions at once
    weights_sha256, settings_sha256  what `phantrol.evals.lmms.fingerprints` finds there
    weights        "int8", "float32" ..., as for `phantrol.load`

    Raises ValueError for hashes that are missing or not those of the model.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        weights_sha256: str | None = None,
        settings_sha256: str | None = None,
        batch_size: int | str | None = 1,
        weights: str | None = None,
        **others: Any,
    ):
        super().__init__()
        unknown = [name for name in others if name not in ("device", "max_batch_size")]
        if unknown:
            raise ValueError(f"phantrol takes no {', '.join(unknown)} among --model_args")
        if fingerprints(pretrained) != {"weights_sha256": weights_sha256, "settings_sha256": settings_sha256}:
            raise ValueError(
                f"the hashes among --model_args are not those of {pretrained}, and lmms-eval's cache goes by them: "
                f"use --model_args {model_args(pretrained)}, or `phantrol eval lmms`, which does"
            )
        self.engine = Engine.open(pretrained, weights)
        self.batch_size = int(batch_size or 1)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return the answers in the order of the requests; requests that want the same of `generate` share batches."""
        answers: dict[int, GenerationResult] = {}
        groups: dict[tuple[int, tuple[tuple[str, Any], ...]], list[int]] = {}
        for index, request in enumerate(requests):
            tokens, options = _generation(dict(request.args[2]))
            groups.setdefault((tokens, tuple(sorted(options.items()))), []).append(index)
        for (tokens, options), indices in groups.items():
            chats = [self._chat(requests[index]) for index in indices]
            said = self.engine.answer_batch(chats, tokens, self.batch_size, **dict(options))
            for index, answer in zip(indices, said, strict=True):
                text = _until(answer.text, requests[index].args[2].get("until"))
                counts = TokenCounts(input_tokens=answer.num_prompt_tokens, output_tokens=answer.num_new_tokens)
                answers[index] = GenerationResult(text, counts)
        return [answers[index] for index in range(len(requests))]

    def _chat(self, request: Instance) -> list[dict[str, Any]]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        chat = []
        for message in doc_to_messages(self.task_dict[task][split][doc_id]):
            parts = [_part(part, task) for part in parts_of(message)]
            chat.append({"role": message["role"], "content": parts})
        return chat

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("phantrol answers questions: choose tasks whose output_type is generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("phantrol answers one round: choose tasks whose output_type is generate_until")


def _part(part: dict[str, Any], task: str) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image":
        return {"type": "image", "image": part["url"]}
    raise ValueError(f"task {task} shows {part['type']}: phantrol sees pictures")


def _generation(wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the most tokens of an answer, and options of `generate`: by chance only if the task says so."""
    tokens = int(wanted.get("max_new_tokens") or MAX_NEW_TOKENS)
    options: dict[str, Any] = {"num_beams": int(wanted.get("num_beams") or 1)}
    if wanted.get("do_sample") and (wanted.get("temperature") or 0) > 0:
        options |= {"do_sample": True} | {name: wanted[name] for name in SAMPLING if wanted.get(name) is not None}
    return tokens, options


def _until(text: str, ends: Any) -> str:
    """Return the text before the first of the strings at which a task wants it to end."""
    for end in [ends] if isinstance(ends, str) else ends or []:
        text = text.split(end)[0] if end else text
    return text
