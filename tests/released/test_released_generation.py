"""Generation as released: beams, lengths, stop tokens; and answers that are cut nowhere else."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image, ImageDraw
from tokenizer_files import small_pieces, write_byte_level, write_config, write_model, write_tokenizer
from transformers import LlamaConfig, SiglipVisionConfig

import phantrol
from phantrol.inference.engine import Engine
from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.released.processor import released_generation, released_processor
from phantrol.models.released.prompts import dialect
from phantrol.modifiers.base import config_to_dict

KINDS = [("trol", "internlm2"), ("trol", "phi3"), ("phantom", "qwen2"), ("phantom", "internlm2"), ("phantom", "phi3")]
MODIFIERS = {
    "trol": phantrol.TrolConfig(tokens="prompt", share_gate=True, gate_bias=0.2),
    "phantom": phantrol.PhantomConfig(init="random", eta=0.5),
}


def tiny_config(family: str, vocab_size: int, image_token_id: int) -> PhantrolConfig:
    sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2)
    text = LlamaConfig(num_hidden_layers=2, vocab_size=vocab_size, num_key_value_heads=1, eos_token_id=2, **sizes)
    text.modifiers = [config_to_dict(MODIFIERS[family])]
    vision = SiglipVisionConfig(num_hidden_layers=1, image_size=32, patch_size=8, **sizes)
    vision.vision_use_head = False
    return PhantrolConfig(text, vision, image_token_id=image_token_id, image_px=32, image_grid=4)


@pytest.fixture(scope="module")
def open_engine(tmp_path_factory):
    """`open_engine(family, backbone)`: an engine of a tiny model with large random weights, saved and loaded again."""
    engines = {}

    def make(family: str, backbone: str) -> Engine:
        if (family, backbone) not in engines:
            folder = write_tokenizer(tmp_path_factory.mktemp(f"{family}_{backbone}"), family, backbone)
            processor = released_processor(folder, family, backbone, tiny_config(family, 600, -1))
            image_token_id = processor.image_token_id
            # as released: TroL on InternLM2 has no logit for the image token
            vocab_size = image_token_id if (family, backbone) == ("trol", "internlm2") else len(processor.tokenizer)
            torch.manual_seed(0)
            model = PhantrolForConditionalGeneration(tiny_config(family, vocab_size, image_token_id))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.4 * torch.randn_like(parameter))
            model.generation_config = released_generation(family, backbone, processor)
            model.save_pretrained(folder / "out")
            processor.save_pretrained(folder / "out")
            engines[family, backbone] = Engine(*phantrol.load(folder / "out"))
        return engines[family, backbone]

    return make


def picture(colour: str, size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).ellipse((5, 5, 18, 15), fill="white")
    return image


def ask(*parts: str | Image.Image) -> list[dict]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def chats() -> list[list[dict]]:
    return [
        ask(picture("red", (64, 32)), picture("green", (20, 20)), "What is it?"),
        ask("no picture"),
        ask(picture("blue", (20, 60)), "What?"),
    ]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_settings(open_engine, kind):
    engine = open_engine(*kind)
    settings, tokenizer = engine.model.generation_config, engine.processor.tokenizer
    assert (settings.num_beams, settings.do_sample) == ({"trol": 5, "phantom": 3}[kind[0]], False)
    end = tokenizer.convert_tokens_to_ids(dialect(*kind).end_of_turn)
    assert set(settings.eos_token_id) == {2, end}
    assert settings.pad_token_id == tokenizer.eos_token_id == 2
    assert settings.max_new_tokens == {"trol": 512, "phantom": 256}[kind[0]]
    assert engine.processor.end_of_turn_id == end


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_beams_come_by_themselves_and_batches_change_nothing(open_engine, chats, kind):
    engine = open_engine(*kind)
    alone = [engine.answer(chat, max_new_tokens=8) for chat in chats]
    assert engine.answer_batch(chats, max_new_tokens=8) == alone
    assert alone == [engine.answer(chat, max_new_tokens=8, num_beams=dialect(*kind).num_beams) for chat in chats]
    greedy = [engine.answer(chat, max_new_tokens=8, num_beams=1) for chat in chats]
    assert alone != greedy
    for chat, answer in zip(chats, greedy, strict=True):
        assert "".join(engine.stream(chat, max_new_tokens=8)) == answer.text


def test_beams_are_better_than_greed(open_engine, chats):
    """What beams promise: never a less likely answer, and here a more likely one; worked out without generate."""
    engine = open_engine("trol", "internlm2")

    def log_likelihood(chat, num_beams):
        prompt = engine.processor.encode(chat, add_generation_prompt=True)
        given = torch.tensor([prompt.input_ids])
        options = dict(max_new_tokens=3, min_new_tokens=3, num_beams=num_beams, pixel_values=prompt.pixel_values)
        whole = engine.model.generate(given, **options)
        total = 0.0
        for length in range(given.shape[1], whole.shape[1]):
            logits = engine.model(whole[:, :length], prompt.pixel_values, prompt_length=given.shape[1]).logits[0, -1]
            logits[engine.model.generation_config.eos_token_id] = -torch.inf  # min_new_tokens
            total += logits.log_softmax(-1)[whole[0, length]].item()
        return total

    with torch.no_grad():
        gains = [log_likelihood(chat, 40) - log_likelihood(chat, 1) for chat in chats]
    assert min(gains) > -1e-4
    assert max(gains) > 1e-2


def test_a_stream_takes_no_beams(open_engine, chats):
    with pytest.raises(ValueError, match="num_beams=2: expected 1"):
        open_engine("phantom", "qwen2").stream(chats[1], num_beams=2)


@pytest.mark.parametrize("options", [dict(repetition_penalty=1.5), dict(no_repeat_ngram_size=2)], ids=str)
def test_penalties_with_an_image_token_that_has_no_logit(open_engine, chats, options):
    engine = open_engine("trol", "internlm2")
    assert engine.model.config.image_token_id == engine.model.config.text_config.vocab_size
    answers = [engine.answer(chat, max_new_tokens=12, num_beams=1, **options) for chat in chats]
    assert answers != [engine.answer(chat, max_new_tokens=12, num_beams=1) for chat in chats]
    assert engine.answer_batch(chats, max_new_tokens=12, num_beams=1) != answers


SAID = "The assistant\nsays: user\n<b>assistant\n</b> and\nassistant\n"


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_answers_end_at_the_end_of_turn_and_nowhere_else(open_engine, monkeypatch, kind):
    """The released filters cut at "assistant\\n", which answers may hold, or say two tokens more than the turn."""
    engine = open_engine(*kind)
    tokenizer, speech = engine.processor.tokenizer, dialect(*kind)
    end = tokenizer.convert_tokens_to_ids(speech.end_of_turn)
    said = tokenizer(SAID, add_special_tokens=False)["input_ids"]
    after = tokenizer("\n</s>", add_special_tokens=False)["input_ids"]

    def generate(input_ids, **options):
        assert set(options["eos_token_id"]) == {2, end}
        return torch.cat([input_ids, torch.tensor([[*said, end, *after]])], dim=1)

    monkeypatch.setattr(engine.model, "generate", generate)
    answer = engine.answer(ask("What?"), max_new_tokens=200)
    assert (answer.text, answer.num_new_tokens, answer.finish_reason) == (SAID.strip(), len(said) + 1, "stop")


def test_the_terminator_stops_generation(open_engine, chats):
    """Another token takes its place, one that the model says: no token comes behind it."""
    engine = open_engine("trol", "internlm2")
    free = engine.answer(chats[0], max_new_tokens=10, num_beams=1)
    prompt = engine.processor.encode(chats[0], add_generation_prompt=True)
    ids = engine.model.generate(
        torch.tensor([prompt.input_ids]), pixel_values=prompt.pixel_values, max_new_tokens=10, num_beams=1
    )[0, len(prompt.input_ids) :].tolist()
    assert engine.processor.decode(ids) == free.text
    stops = engine.model.generate(
        torch.tensor([prompt.input_ids]), pixel_values=prompt.pixel_values, max_new_tokens=10, num_beams=1,
        eos_token_id=[2, ids[4]],
    )[0, len(prompt.input_ids) :].tolist()  # fmt: skip
    assert stops == ids[: ids.index(ids[4]) + 1]


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda folder: None, "has no tokenizer: expected tokenizer.model or tokenizer.json"),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"nothing"), "is no SentencePiece model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
        (
            lambda folder: [write_byte_level(folder, []), (folder / "tokenizer_config.json").write_text("{")],
            "cannot be read|is broken",
        ),
    ],
)
def test_folders_without_a_tokenizer_say_so(tmp_path, write, complaint):
    write(tmp_path)
    with pytest.raises(ValueError, match=complaint) as error:
        released_processor(tmp_path, "trol", "phi3", tiny_config("trol", 600, -1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("family", "end"), [("trol", "</s>"), ("phantom", "<|user|>")])
def test_whose_end_of_sequence_counts(tmp_path, family, end):
    """TroL goes by its tokenizer's, Phantom by its configuration's."""
    write_tokenizer(tmp_path, family, "phi3")
    config = tiny_config(family, 600, -1)
    config.eos_token_id = released_processor(tmp_path, family, "phi3", config).tokenizer.convert_tokens_to_ids(
        "<|user|>"
    )
    processor = released_processor(tmp_path, family, "phi3", config)
    assert processor.tokenizer.eos_token == end
    stops = processor.tokenizer.convert_tokens_to_ids([end, "<|end|>"])
    assert released_generation(family, "phi3", processor).eos_token_id == stops


@pytest.mark.parametrize("family", ["phantom", "trol"])
@pytest.mark.parametrize("ends", [[3, 4], [4], [], [700]])
def test_each_configured_end_of_sequence_counts(tmp_path, family, ends):
    """For Phantom; TroL goes by its tokenizer's. Of an empty list, or of ids that are none, nothing is taken."""
    write_tokenizer(tmp_path, family, "phi3")
    config = tiny_config(family, 600, -1)
    config.eos_token_id = ends
    processor = released_processor(tmp_path, family, "phi3", config)
    known = [end for end in ends if end < 600 and family == "phantom"] or [2]
    assert processor.tokenizer.eos_token_id == known[0]
    stops = released_generation(family, "phi3", processor, config).eos_token_id
    assert stops == [*known, processor.end_of_turn_id]


def test_tokens_that_the_files_do_not_call_special_become_so(tmp_path):
    """Also where no file names them: the reserved pieces of InternLM2, and an image token that must be added."""
    pieces = small_pieces()
    write_model(tmp_path / "tokenizer.model", pieces)
    write_config(tmp_path, bos_token="<s>")
    processor = released_processor(tmp_path, "trol", "internlm2", tiny_config("trol", 600, -1))
    assert processor.image_token_id == len(pieces)
    names = {"[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", "<image>"}
    assert names <= set(processor.tokenizer.all_special_tokens)
    assert "[UNUSED_TOKEN_14]" not in processor.tokenizer.all_special_tokens
    processor.save_pretrained(tmp_path / "out")
    again = type(processor).from_pretrained(tmp_path / "out")
    assert names <= set(again.tokenizer.all_special_tokens)
    assert again.end_of_turn_id == [piece for piece, *_ in pieces].index("[UNUSED_TOKEN_145]")


@pytest.mark.parametrize("special", [True, False])
def test_phi3_tokens_that_swallow_what_follows(tmp_path, special):
    """Phi-3's own files: role tokens that strip whitespace, some of which are not called special."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    write_byte_level(tmp_path, ["<img>", "</img>", "<IMG_CONTEXT>", *(roles if special else [])], swallows_space=roles)
    if not special:
        whole = json.loads((tmp_path / "tokenizer.json").read_text())
        size = max(token["id"] for token in whole["added_tokens"]) + 1
        flags = dict(single_word=False, lstrip=False, rstrip=True, normalized=False, special=False)
        whole["added_tokens"] += [{"id": size + i, "content": role, **flags} for i, role in enumerate(roles)]
        (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    processor = released_processor(tmp_path, "phantom", "phi3", tiny_config("phantom", 600, -1))
    processor.save_pretrained(tmp_path / "out")
    for each in (processor, type(processor).from_pretrained(tmp_path / "out")):
        chat = ask("What?")
        ids = each.encode(chat, add_generation_prompt=True).input_ids
        rendered = each.apply_chat_template(chat, add_generation_prompt=True)
        assert ids == each.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert each.tokenizer.decode(ids) == "<|user|>What?<|end|><|assistant|>"
        assert each.decode(ids) == "What?"
