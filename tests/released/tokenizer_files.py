"""Tokenizer files as the released checkpoints bring them: small ones, written field by field, and texts to try them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
RESERVED = [f"[UNUSED_TOKEN_{i}]" for i in (0, 1, 14, 145, 146)]
WORDS = {
    "latin": "the quick brown fox What color is the circle? naïve façade Übergröße año português Łódź straße œuvre ﬁn",
    "cjk": "你好世界 今天天气很好 红色的圆形 日本語のテキスト カタカナ ひらがな 한국어 문장 안녕하세요",
    "other": "مرحبا بالعالم नमस्ते दुनिया हिन्दी สวัสดีชาวโลก ภาษาไทย Привет мир ελληνικά שלום தமிழ்",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 😀 👍🏽 e\u0301 a\u0323\u0302 ﬀ ① ｆｕｌｌ \u200d \ufeff ½ ﷺ",
    "code": "def\tf(x):\n\treturn\tx**2 if(a==b){c+=1;} <div\tclass=\"x\"> &amp; \\n http://a.b/c?d=e [1,2,3] 0x41",
    "special": "<s> </s> <unk> <0x41> <0xE4> [UNUSED_TOKEN_145] [UNUSED_TOKEN_1 [UNUSED_TOKEN_14] UNUSED_TOKEN_145] "
    "<|im_start|> <ctrl> ▁ ▁▁ [[UNUSED_TOKEN_145]] [UNUSED_TOKEN_14[UNUSED_TOKEN_14]5]",
}  # fmt: skip
SPACES = [
    " ",
    "  ",
    "   ",
    "        ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\x00",
    "\x01",
    "\x7f",
    "\u0085",
]
ALL_WORDS = [word for words in WORDS.values() for word in words.split(" ")] + SPACES


def texts(count: int, seed: int = 0, scattered: float = 0.15) -> list[str]:
    """Many languages, spaces, control characters, what looks special; a part of it characters from anywhere."""
    draw = random.Random(seed)
    ranges = [(1, 0x2FF), (0x300, 0x36F), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0xE000, 0x10FFFF)]
    drawn = []
    for _ in range(count):
        if draw.random() < scattered:
            drawn.append("".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(0, 12))))
        else:
            words = [draw.choice(ALL_WORDS) + draw.choice(["", "", " ", "  "]) for _ in range(draw.randint(0, 10))]
            drawn.append("".join(words))
    return drawn


def write_model(
    path: Path,
    pieces: Sequence[tuple[str, float, int]],
    add_dummy_prefix: bool = False,
    remove_extra_whitespaces: bool = False,
    model_type: int = 2,
) -> bytes:
    """Write a tokenizer.model with an 'identity' normaliser and byte fallback; by default spaced as InternLM2's."""
    data = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for text, score, kind in pieces
    )
    data += _field(2, _field(3, model_type) + _field(35, 1) + _field(40, 0) + _field(41, 1) + _field(42, 2))
    data += _field(3, _field(1, b"identity") + _field(3, add_dummy_prefix) + _field(4, remove_extra_whitespaces))
    path.write_bytes(data)
    return data


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(int(value))


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def basic_pieces(reserved: Sequence[str] = RESERVED) -> list[tuple[str, float, int]]:
    """The specials, all bytes, and pieces that stand for themselves."""
    start = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    return [
        *start,
        *((f"<0x{i:02X}>", 0.0, BYTE) for i in range(256)),
        *((each, 0.0, USER_DEFINED) for each in reserved),
    ]


def small_pieces(seed: int = 0, merges: int = 120, reserved: Sequence[str] = RESERVED) -> list[tuple[str, float, int]]:
    """A vocabulary of letters, and of pairs of what came before them."""
    draw = random.Random(seed)
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    made = list("abcdefghiklmnoprstuwy▁")
    longer: list[str] = []
    while len(longer) < merges:
        piece = draw.choice(made) + draw.choice(made)
        if len(piece) < 8 and piece not in longer:
            longer.append(piece)
            made.append(piece)
    return basic_pieces(reserved) + [(piece, -float(i), NORMAL) for i, piece in enumerate([*longer, *letters])]


def write_byte_level(folder: Path, special: Sequence[str], swallows_space: Sequence[str] = ()) -> None:
    """Write a tokenizer.json that spells everything in bytes, and its tokenizer_config.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: i + 3 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, rstrip=token in swallows_space) for token in ("<s>", "</s>", *special)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, bos_token="<s>", eos_token="</s>", tokenizer_class="PreTrainedTokenizerFast")


def write_config(folder: Path, **config: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def write_tokenizer(folder: Path, family: str, backbone: str) -> Path:
    """Write the tokenizer files of a tiny released model, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if backbone == "internlm2":
        write_model(folder / "tokenizer.model", small_pieces())
        size = len(small_pieces())
        names = ["<image>"] if family == "trol" else ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
        added = {str(size + i): {"content": name, "special": True} for i, name in enumerate(names)}
        write_config(folder, added_tokens_decoder=added, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    else:
        phi3 = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
        turns = ["<|im_start|>", "<|im_end|>"] if backbone == "qwen2" else phi3
        write_byte_level(folder, [*turns, "<img>", "</img>", "<IMG_CONTEXT>"])
    return folder
