"""SentencePiece models as fast tokenizers: the ids and texts of the sentencepiece library, whatever the text."""

from __future__ import annotations

import io
import random
import time

import pytest
from tokenizer_files import (
    ALL_WORDS,
    NORMAL,
    RESERVED,
    UNUSED,
    USER_DEFINED,
    basic_pieces,
    small_pieces,
    texts,
    write_config,
    write_model,
)
from transformers import AutoTokenizer

from phantrol.models.released.sentencepiece_model import read_model
from phantrol.models.released.tokenizer import fast_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")


def train(folder, **options):
    """A model that the library itself trains, with InternLM2-like reserved pieces and a control piece."""
    draw, sentences = random.Random(0), []
    for _ in range(2500):
        sentences.append(draw.choice(["", " ", " "]).join(draw.choices(ALL_WORDS, k=draw.randint(1, 12))))
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, model_type="bpe", vocab_size=700, byte_fallback=True,
        character_coverage=0.98, user_defined_symbols=RESERVED, control_symbols=["<ctrl>"], minloglevel=3,
        num_threads=1, **options,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return written.getvalue()


def disagreements(model, tokenizer, samples):
    """Texts that get other ids, or whose ids get another text; typed special tokens are text for both."""
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    wrong = []
    for text in samples:
        expected = reference.encode(text)
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if ids != expected or tokenizer.decode(expected, skip_special_tokens=True) != reference.decode(expected):
            wrong.append(text)
    return wrong


SETTINGS = [(prefix, tidy) for prefix in (False, True) for tidy in (False, True)]


@pytest.mark.parametrize(("prefix", "tidy"), SETTINGS)
def test_ids_and_texts_are_those_of_the_library(tmp_path, prefix, tidy):
    options = dict(add_dummy_prefix=prefix, remove_extra_whitespaces=tidy, normalization_rule_name="identity")
    model = train(tmp_path, **options)
    samples = texts(2500, seed=1)
    assert disagreements(model, fast_tokenizer(tmp_path / "tokenizer.model"), samples) == []
    # the control: a file that says otherwise about spaces is told apart
    other = train(tmp_path, **options | dict(add_dummy_prefix=not prefix))
    assert len(disagreements(other, fast_tokenizer(tmp_path / "tokenizer.model"), samples[:300])) == 0
    assert len(disagreements(model, fast_tokenizer(tmp_path / "tokenizer.model"), samples[:300])) > 200


def test_a_saved_tokenizer_is_the_same(tmp_path):
    model = train(tmp_path, add_dummy_prefix=True, remove_extra_whitespaces=True, normalization_rule_name="identity")
    fast_tokenizer(tmp_path / "tokenizer.model").save_pretrained(tmp_path / "saved")
    assert disagreements(model, AutoTokenizer.from_pretrained(tmp_path / "saved"), texts(800, seed=2)) == []


def test_rules_that_rewrite_characters_are_applied_with_a_warning(tmp_path):
    model = train(tmp_path, normalization_rule_name="nmt_nfkc")
    with pytest.warns(UserWarning, match="letter by letter"):
        tokenizer = fast_tokenizer(tmp_path / "tokenizer.model")
    plain = [text for text in texts(1500, seed=3, scattered=0) if "\u0323" not in text and "\r\n" not in text]
    assert len(plain) > 700
    assert disagreements(model, tokenizer, plain) == []
    assert disagreements(model, tokenizer, ["a\u0323\u0302"])  # what the warning is about


def random_pieces(draw, in_order):
    """A small vocabulary that no training would give: any pieces, in any order, some that merging cannot reach."""
    letters = list("▁ab<>s[U1x") + ["0"] * (draw.random() < 0.5)
    reserved = ["[U1]", "[U12]", "ab", "▁b▁", "a<"][: draw.randint(0, 5)]
    made, longer = list(letters), []
    for _ in range(draw.randint(3, 25)):
        piece = draw.choice(made) + draw.choice(made)
        if len(piece) < 8 and piece not in {*longer, *reserved, "<s>"}:
            longer.append(piece)
            made.append(piece)
    if not in_order:
        draw.shuffle(longer)
    normal = [(piece, -float(i), NORMAL) for i, piece in enumerate([*longer, *letters])]
    return [*basic_pieces(reserved), ("[UNUSED]", 0.0, UNUSED), *normal]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.filterwarnings("ignore:.*spells them")
def test_vocabularies_that_no_training_would_give(tmp_path, in_order):
    for seed in range(40):
        draw = random.Random(seed)
        spaces = dict(add_dummy_prefix=draw.random() < 0.5, remove_extra_whitespaces=draw.random() < 0.5)
        model = write_model(tmp_path / "tokenizer.model", random_pieces(draw, in_order), **spaces)
        parts = [*" ab<>s[U1]x0é", "[U1]", "[U12]", "<s>", "<0x0A>", "ab", "  ", "aaaa", "abab", "[UNUSED]"]
        samples = ["".join(draw.choices(parts, k=draw.randint(0, 14))) for _ in range(120)]
        assert disagreements(model, fast_tokenizer(tmp_path / "tokenizer.model"), samples) == [], (seed, spaces)


def test_the_file_is_read_as_the_library_reads_it(tmp_path):
    data = train(tmp_path, add_dummy_prefix=False, normalization_rule_name="nfkc")
    reference, model = sentencepiece.SentencePieceProcessor(model_proto=data), read_model(tmp_path / "tokenizer.model")
    size = reference.get_piece_size()
    assert list(model.pieces) == [reference.id_to_piece(i) for i in range(size)]
    assert list(model.scores) == [reference.get_score(i) for i in range(size)]
    asks = [reference.is_unknown, reference.is_control, None, reference.is_unused, reference.is_byte]
    for kind, ask in enumerate(asks, start=2):
        assert ask is None or [type_ == kind for type_ in model.types] == [ask(i) for i in range(size)]
    assert (model.unk_id, model.bos_id, model.eos_id, model.pad_id) == (0, 1, 2, -1)
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces, bool(model.charsmap)) == (False, True, True)


def chunks_by_hand(reference, text, added):
    """What the slow tokenizers of the released models do: each text between added tokens for itself."""
    ids, rest = [], text
    while rest:
        found = min(((rest.find(token), token) for token in added if token in rest), default=(len(rest), None))
        ids += reference.encode(rest[: found[0]]) + ([added[found[1]]] if found[1] else [])
        rest = rest[found[0] + len(found[1] or "") :]
    return ids


@pytest.mark.parametrize("prefix", [False, True])
def test_added_tokens(tmp_path, prefix):
    pieces = small_pieces()
    model = write_model(tmp_path / "tokenizer.model", pieces, add_dummy_prefix=prefix)
    size, renamed = len(pieces), next(i for i, piece in enumerate(pieces) if piece[0] == "[UNUSED_TOKEN_14]")
    named = {renamed: "<|im_end|>", size: "<img>", size + 1: "</img>"}
    write_config(
        tmp_path,
        added_tokens_decoder={
            str(i): {"content": name, "special": True, "normalized": True} for i, name in named.items()
        },
        additional_special_tokens=["<IMG_CONTEXT>", "[UNUSED_TOKEN_146]"],
        add_bos_token=True,
        pad_token={"content": "</s>"},
    )
    (tmp_path / "added_tokens.json").write_text(f'{{"<tool>": {size + 2}}}')
    tokenizer = fast_tokenizer(tmp_path / "tokenizer.model")
    added = {name: i for i, name in named.items()} | {
        "<tool>": size + 2,
        "<IMG_CONTEXT>": size + 3,
        "<s>": 1,
        "</s>": 2,
    }
    added["[UNUSED_TOKEN_146]"] = [piece for piece, *_ in pieces].index("[UNUSED_TOKEN_146]")
    assert tokenizer.convert_tokens_to_ids(list(added)) == list(added.values())
    assert tokenizer.convert_ids_to_tokens(renamed) == "<|im_end|>"
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice([*added, "a word", " the  ring\n", "[UNUSED_TOKEN_1]", "<im"]) for _ in range(8))
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == chunks_by_hand(reference, text, added)
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id == 1
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "</s>")
    special = [added[name] for name in ("<|im_end|>", "<img>", "<IMG_CONTEXT>", "[UNUSED_TOKEN_146]", "<s>")]
    assert tokenizer.decode(special, skip_special_tokens=True) == ""
    assert tokenizer.decode([added["<tool>"]], skip_special_tokens=True) == "<tool>"


def test_added_tokens_with_a_gap_are_refused(tmp_path):
    pieces = small_pieces()
    write_model(tmp_path / "tokenizer.model", pieces)
    (tmp_path / "added_tokens.json").write_text(f'{{"<image>": {len(pieces) + 3}}}')
    with pytest.raises(ValueError, match=f"'<image>' with id {len(pieces) + 3}, but it would get {len(pieces)}"):
        fast_tokenizer(tmp_path / "tokenizer.model")


def test_a_vocabulary_of_the_real_size_takes_seconds(tmp_path):
    draw, seen, longer = random.Random(0), set(), []
    letters = ["▁", *map(chr, range(33, 127)), *map(chr, range(0x4E00, 0x4E00 + 6000))]
    made = letters[:95]
    reserved = [f"[UNUSED_TOKEN_{i}]" for i in range(147)]
    start = basic_pieces(reserved)
    while len(longer) < 92544 - len(start) - len(letters):
        piece = draw.choice(made) + draw.choice(made) if draw.random() < 0.7 else "".join(draw.sample(letters, 2))
        if piece not in seen and len(piece) <= 16:
            seen.add(piece)
            longer.append(piece)
            made += [piece] if piece.isascii() else []
    pieces = start + [(piece, -float(i), NORMAL) for i, piece in enumerate([*longer, *letters])]
    model = write_model(tmp_path / "tokenizer.model", pieces)
    began = time.process_time()
    tokenizer = fast_tokenizer(tmp_path / "tokenizer.model")
    assert time.process_time() - began < 60  # measured: 3 s
    assert len(tokenizer) == len(pieces) == 92544
    samples = ["".join(draw.choices([*longer, *reserved], k=12)).replace("▁", " ") for _ in range(300)]
    assert disagreements(model, tokenizer, samples) == []


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "no tokenizer model"),
        (lambda path: path.write_bytes(b""), "has no pieces"),
        (lambda path: path.write_bytes(b"{not a model}"), "is no SentencePiece model"),
        (
            lambda path: path.write_bytes(write_model(path, small_pieces())[:500]),
            "is no SentencePiece model .it is cut",
        ),
        (lambda path: write_model(path, small_pieces(), model_type=1), "it is no BPE model"),
        (lambda path: write_model(path, [*small_pieces(), ("a b", 0.0, USER_DEFINED)]), "holds a space"),
    ],
)
def test_what_cannot_be_converted_says_so(tmp_path, write, complaint):
    write(tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match=complaint):
        fast_tokenizer(tmp_path / "tokenizer.model")


def test_what_can_only_be_approached_is_warned_of(tmp_path):
    spelled = [*basic_pieces(), ("ab", -1.0, NORMAL), ("a", -2.0, NORMAL)]
    write_model(tmp_path / "tokenizer.model", spelled)
    with pytest.warns(UserWarning, match="1 pieces such as 'ab'"):
        fast_tokenizer(tmp_path / "tokenizer.model")
    tied = [*basic_pieces(), ("ab", -1.0, NORMAL), ("ba", -1.0, NORMAL), ("a", -2.0, NORMAL), ("b", -3.0, NORMAL)]
    write_model(tmp_path / "tokenizer.model", tied)
    with pytest.warns(UserWarning, match="share a score"):
        fast_tokenizer(tmp_path / "tokenizer.model")
