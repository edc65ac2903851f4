"""One case of vLLM beside our engine: the same tiny model answers the same requests in both. No test: see test_vllm.py.

    .venv-vllm/bin/python tests/serving/vllm_case.py '{"family": "qwen2", "method": "both"}' ...

runs in the environment that `scripts/build_vllm_env.sh` makes, and prints a line of JSON for each case. Its options:

family    llama, qwen2, phi3, ...; config: further options of the decoder's configuration
method    plain, trol, phantom, both, or a list of modifiers' options
served    a control: vLLM serves the same weights with this method in place of it
text      a text-only model
requests, compiled, dtype, ranks, and whatever else vLLM's `LLM` takes
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import tempfile
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, SiglipVisionConfig

import phantrol
from phantrol.models.tokenizer import SPECIAL_TOKENS, train_tokenizer
from phantrol.modifiers.base import config_from_dict

WORDS = [a + b + c for a in "bdfgklmn" for b in ("a", "e", "i", "o", "oo") for c in "lmnprst"]
TROL, PHANTOM = {"name": "trol", "gate_bias": 0.2}, {"name": "phantom", "init": "random"}
METHODS = {"plain": [], "trol": [TROL], "phantom": [PHANTOM], "both": [TROL, PHANTOM]}
METHODS |= {"phantom_drop": [PHANTOM | {"logits": "drop"}]}
TEXT = dict(hidden_size=128, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
)
NEW_TOKENS, SYSTEM_WORDS = 12, 60
SCHEDULING = dict(max_num_batched_tokens=64, max_num_seqs=16, enable_prefix_caching=True, block_size=32)


def build(family: str, modifiers: list[Any], text_only: bool = False, **options: Any) -> tuple[Any, Any]:
    """Return a model with weights so large that a lost state changes its words, and its processor or tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 700)
    sizes = {**TEXT, "max_position_embeddings": 1024, "pad_token_id": 0, "vocab_size": len(tokenizer), **options}
    text = AutoConfig.for_model(family, **sizes)
    if text_only:
        text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        model = phantrol.graft(AutoModelForCausalLM.from_config(text), modifiers).eval()
    else:
        vision = SiglipVisionConfig(**VISION)
        vision.vision_use_head = False
        model, tokenizer = phantrol.build(text, vision, modifiers, tokenizer=tokenizer, max_tiles=3)
    with torch.no_grad():
        # seeds by name, so that a backbone is the same with and without a method
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name) + hash_of(name)))
            parameter.add_(0.12 * noise if "norm" not in name else 0.3 * noise)
            if name.endswith("traversal_gate.bias"):
                parameter.fill_(0.2)
    return model, tokenizer


def modifiers_of(method: str | list[dict[str, Any]]) -> list[Any]:
    return [config_from_dict(one) for one in (METHODS[method] if isinstance(method, str) else method)]


def hash_of(name: str) -> int:
    return sum((index + 1) * ord(letter) for index, letter in enumerate(name))


def requests(number: int, text_only: bool) -> list[list[dict[str, Any]]]:
    """Chats of mixed length, most with pictures, many of which begin alike, so that a prefix cache has work."""
    chance, chats = random.Random(0), []
    system = {"role": "system", "content": " ".join(chance.choices(WORDS, k=SYSTEM_WORDS))}
    for _ in range(number):
        content: list[dict[str, Any]] = []
        for _ in range(chance.choice((1, 1, 2, 3))):
            if not text_only and chance.random() < 0.6:
                content.append({"type": "image", "image": picture(chance)})
            content.append({"type": "text", "text": " ".join(chance.choices(WORDS, k=chance.choice((1, 2, 5, 16))))})
        user = {"role": "user", "content": content}
        chats.append([system, user] if chance.random() < 0.5 else [user])
    return chats


def picture(chance: random.Random) -> Image.Image:
    width, height = chance.choice(((32, 32), (64, 32), (40, 90), (96, 33)))
    pixels = bytes(chance.randrange(256) for _ in range(12))
    return Image.frombytes("RGB", (2, 2), pixels).resize((width, height))


def encode(processor: Any, chat: list[dict[str, Any]], text_only: bool) -> Any:
    if not text_only:
        return processor.encode(chat, add_generation_prompt=True)
    flat = [{**m, "content": m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]} for m in chat]
    text = processor.apply_chat_template(flat, tokenize=False, add_generation_prompt=True)
    ids = processor(text, add_special_tokens=False)["input_ids"]
    return phantrol.models.processing.Encoding(ids, [False] * len(ids))


@torch.inference_mode()
def our_answers(model: Any, processor: Any, prompts: list[Any], text_only: bool) -> list[list[int]]:
    """Return the greedy tokens of each prompt, asked alone."""
    answers = []
    end = processor.eos_token_id if text_only else processor.end_of_turn_id
    for prompt in prompts:
        inputs = {"input_ids": torch.tensor([prompt.input_ids])}
        if prompt.pixel_values is not None:
            inputs["pixel_values"] = prompt.pixel_values
        output = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end
        )
        answers.append(output[0, len(prompt.input_ids) :].tolist())
    return answers


@torch.inference_mode()
def our_logprobs(model: Any, prompt: Any, said: list[int]) -> torch.Tensor:
    """Return log p of tokens that were said after a prompt: [len(said)]."""
    inputs = {"input_ids": torch.tensor([prompt.input_ids])}
    if prompt.pixel_values is not None:
        inputs["pixel_values"] = prompt.pixel_values
    read = model(**inputs, use_cache=True)
    # what was said is fed without pictures: an image token among it is a word like any other
    more = model(input_ids=torch.tensor([said]), past_key_values=read.past_key_values, use_cache=True)
    logits = torch.cat([read.logits[0, -1:], more.logits[0, :-1]]).float()
    return logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]


def single_tokens(ids: list[int], chat: list[dict[str, Any]], processor: Any) -> tuple[list[int], list[Image.Image]]:
    """Return a prompt with one image token for each picture, as vLLM expands them, and the pictures."""
    pictures = [
        p["image"] for m in chat if isinstance(m["content"], list) for p in m["content"] if p["type"] == "image"
    ]
    token, short, sizes = processor.image_token_id, [], []
    for image in pictures:
        sizes.append(
            len(processor.image_processor([image])["pixel_values"]) * (processor.image_grid // processor.unshuffle) ** 2
        )
    place = 0
    while place < len(ids):
        short.append(ids[place])
        place += sizes.pop(0) if ids[place] == token else 1
    return short, pictures


@dataclasses.dataclass
class Prepared:
    """A case of which our half is done. It comes first, since vLLM changes transformers' classes under our feet.

    given      what vLLM is asked: one image token for each picture, and the pictures
    logprobs   of our answers, by our own model: "exact" in float32 and "ours" in the case's dtype
    """

    case: dict[str, Any]
    folder: str
    prompts: list[list[int]]
    given: list[dict[str, Any]]
    answers: list[list[int]]
    logprobs: dict[str, torch.Tensor]


def prepare(case: dict[str, Any], folder: str) -> Prepared:
    """Build the model of a case, ask it ourselves, and save it (or, with `served`, another of its weights) for vLLM."""
    method, text_only, config = case.get("method", "both"), case.get("text", False), case.get("config", {})
    modifiers = modifiers_of(method)
    family, dtype = case.get("family", "llama"), getattr(torch, case.get("dtype", "float32"))
    model, processor = build(family, modifiers, text_only, **config)
    model.to(dtype).float()  # its weights are those that vLLM will have
    chats = requests(case.get("requests", 100), text_only)
    prompts = [encode(processor, chat, text_only) for chat in chats]
    answers, logprobs = our_answers(model, processor, prompts, text_only), {}
    if dtype != torch.float32:
        for name, precision in (("exact", torch.float32), ("ours", dtype)):
            model.to(precision)
            said = zip(prompts, answers, strict=True)
            logprobs[name] = torch.cat([our_logprobs(model, *one) for one in said])
    served = model.to(dtype)
    if "served" in case:
        served, _ = build(family, modifiers_of(case["served"]), text_only, **config)
        served.load_state_dict(model.state_dict(), strict=False)
    served.save_pretrained(folder)
    processor.save_pretrained(folder)
    given = []
    for chat, prompt in zip(chats, prompts, strict=True):
        ids, pictures = (prompt.input_ids, []) if text_only else single_tokens(prompt.input_ids, chat, processor)
        given.append({"prompt_token_ids": ids} | ({"multi_modal_data": {"image": pictures}} if pictures else {}))
    return Prepared(case, folder, [prompt.input_ids for prompt in prompts], given, answers, logprobs)


def serve(prepared: Prepared) -> dict[str, Any]:
    """Ask vLLM the same, and say how much of it is the same."""
    from vllm import LLM, SamplingParams
    from vllm.compilation.counter import compilation_counter
    from vllm.distributed import cleanup_dist_env_and_memory

    case = dict(prepared.case)
    for name in ("family", "method", "served", "text", "config", "requests"):
        case.pop(name, None)
    dtype, ranks = case.pop("dtype", "float32"), case.pop("ranks", 1)
    options = {"enforce_eager": not case.pop("compiled", False), "tensor_parallel_size": ranks, **SCHEDULING}
    options |= {"distributed_executor_backend": "uni"} if ranks == 1 else {}
    llm = LLM(prepared.folder, dtype=dtype, max_model_len=1024, seed=0, disable_log_stats=False, **{**options, **case})
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    outputs = llm.generate(prepared.given, sampling, use_tqdm=False)
    theirs = [list(output.outputs[0].token_ids) for output in outputs]
    result = {
        "requests": len(theirs),
        "equal": sum(one == their for one, their in zip(prepared.answers, theirs, strict=True)),
        "prompts_equal": [output.prompt_token_ids for output in outputs] == prepared.prompts,
        "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs),
        "tokens": sum(map(len, prepared.answers)),
        "different_answers": len(set(map(tuple, prepared.answers))),
        "compiled_models": compilation_counter.num_models_seen,
        "other_first_token": refusal(llm, prepared.given[0]["prompt_token_ids"][1:4]),
    }
    if prepared.logprobs:
        forced = [
            {**given, "prompt_token_ids": given["prompt_token_ids"] + said}
            for given, said in zip(prepared.given, prepared.answers, strict=True)
            if can_be_forced(said)
        ]
        result |= logprob_gaps(prepared, llm, forced)
    del llm
    cleanup_dist_env_and_memory()
    return result


def refusal(llm: Any, tokens: list[int]) -> str:
    """Return how vLLM refuses a prompt of these tokens; empty if it answers."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    try:
        llm.generate([{"prompt_token_ids": tokens}], SamplingParams(max_tokens=1), use_tqdm=False)
    except VLLMValidationError as error:
        return str(error)[:120]
    return ""


def can_be_forced(answer: list[int]) -> bool:
    """An image token that was said would ask for a picture in a prompt."""
    return SPECIAL_TOKENS.index("<image>") not in answer


def logprob_gaps(prepared: Prepared, llm: Any, forced: list[dict[str, Any]]) -> dict[str, float]:
    """Return how far vLLM's and our own log-probabilities of our answers are from those in float32."""
    from vllm import SamplingParams

    outputs = llm.generate(forced, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    said = [answer for answer in prepared.answers if can_be_forced(answer)]
    theirs = [
        [row[token].logprob for row, token in zip(output.prompt_logprobs[-len(answer) :], answer, strict=True)]
        for output, answer in zip(outputs, said, strict=True)
    ]
    kept = torch.tensor([can_be_forced(answer) for answer in prepared.answers for _ in answer])
    exact = prepared.logprobs["exact"][kept]
    vllm = torch.tensor([value for row in theirs for value in row])
    gaps = {"vllm": (vllm - exact).abs(), "ours": (prepared.logprobs["ours"][kept] - exact).abs()}
    found = {f"{name}_{what}": getattr(gap, what)() for name, gap in gaps.items() for what in ("mean", "max")}
    return {name: round(float(value), 5) for name, value in found.items()}


def main(cases: list[dict[str, Any]]) -> None:
    """Run cases after one another in this process: what takes time is the import of vLLM."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = [prepare(case, f"{folder}/{index}") for index, case in enumerate(cases)]
        for one in prepared:
            try:
                result = serve(one)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"[-2000:]}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main([json.loads(argument) for argument in sys.argv[1:]])
