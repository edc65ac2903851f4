"""`fast_tokenizer`: a SentencePiece BPE model, such as InternLM2's tokenizer.model, as a fast tokenizer.

It gives the ids and the texts that the sentencepiece library gives, and needs only transformers and tokenizers. Between
two added tokens (`<s>`, `<image>` ...) a text is tokenized for itself, as the slow tokenizers of the released models
do it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from phantrol.models.released.sentencepiece_model import (
    BPE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_model,
)

SPACE = "▁"  # how SentencePiece writes it
ALL_SPACES = 1 << 16  # more than a text begins with
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def fast_tokenizer(model_file: str | Path, special: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a SentencePiece BPE model.

    special  more tokens to call special, such as those of a chat template, where the vocabulary has them

    Tokens that tokenizer_config.json, added_tokens.json and special_tokens_map.json beside the file add or rename are
    there too, and what the first says on begin-of-sequence, padding side and chat template holds.

    Raises ValueError if the file is no SentencePiece BPE model, or works in a way that no fast tokenizer can, or if
    what lies beside it cannot be read. Warns where single pieces cannot be made as SentencePiece makes them.
    """
    try:
        return _make(Path(model_file), special)
    except ValueError:  # says itself what is wrong
        raise
    except Exception as error:  # settings of another kind than expected, wherever they are first used
        raise unreadable(Path(model_file).parent, error) from error


def unreadable(folder: Path, error: Exception) -> ValueError:
    """Return what to raise where a tokenizer's files are damaged, in one line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ValueError(f"the tokenizer of {folder} cannot be read: {reason}; copy its files from the checkpoint again")


def _make(model_file: Path, special: Iterable[str]) -> PreTrainedTokenizerFast:
    model, settings = read_model(model_file), _Settings(model_file.parent)
    _check(model, model_file)
    kinds = {CONTROL: True, UNKNOWN: True} | ({} if _cuts_late(model) else {USER_DEFINED: False})
    added = {
        index: AddedToken(model.pieces[index], special=kinds[kind], normalized=False)
        for index, kind in enumerate(model.types)
        if kind in kinds
    }
    added |= settings.added_tokens(model.pieces)
    pieces = list(model.pieces)
    for index, token in added.items():
        if index < len(pieces):
            pieces[index] = token.content
    if len(set(pieces)) < len(pieces):
        twice = next(piece for piece, times in Counter(pieces).items() if times > 1)
        raise ValueError(f"{settings.folder} names the token {twice!r} twice: expected each token once")
    places = {token.content: index for index, token in added.items()} | {piece: i for i, piece in enumerate(pieces)}
    for content in special:
        if content in places:
            added[places[content]] = AddedToken(content, special=True, normalized=False)
    tokenizer = _bpe(model, pieces)
    for index in sorted(added):
        tokenizer.add_tokens([added[index]])
        if tokenizer.token_to_id(added[index].content) != index:
            raise ValueError(
                f"{settings.folder} adds the token {added[index].content!r} with id {index}, but it would get "
                f"{tokenizer.token_to_id(added[index].content)}: expected ids in a row from {len(pieces)} on"
            )
    return _dressed(tokenizer, settings, model, pieces)


def _dressed(
    tokenizer: Tokenizer, settings: _Settings, model: SentencePieceModel, pieces: list[str]
) -> PreTrainedTokenizerFast:
    roles = {}
    for role, index in zip(ROLES, (model.bos_id, model.eos_id, model.unk_id, model.pad_id), strict=True):
        roles[role] = settings.role(role) or (pieces[index] if index >= 0 else None)
    bos = roles["bos_token"]
    if settings.config.get("add_bos_token") and bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    kept = ("model_max_length", "padding_side", "chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **{role: token for role, token in roles.items() if token},
        **{name: settings.config[name] for name in kept if settings.config.get(name)},
    )


class _Settings:
    """What the files beside a tokenizer.model say."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = self._read("tokenizer_config.json")
        self.roles = self._read("special_tokens_map.json")

    def role(self, role: str) -> str | None:
        return _content(self.config.get(role) or self.roles.get(role))

    def added_tokens(self, pieces: Sequence[str]) -> dict[int, AddedToken]:
        """{id: token}. Of tokens that are only named, those that are pieces keep their id, and others get the next.

        None is normalized: it stands in the text as it is, before spaces become pieces.
        """
        extra = self.config.get("additional_special_tokens") or self.roles.get("additional_special_tokens") or []
        named = [*(self.role(role) for role in ROLES), *map(_content, extra)]
        named = list(dict.fromkeys(content for content in named if content))
        tokens = {
            int(index): AddedToken(
                options["content"],
                special=options.get("special", False) or options["content"] in named,
                lstrip=options.get("lstrip", False),
                rstrip=options.get("rstrip", False),
                single_word=options.get("single_word", False),
                normalized=False,
            )
            for index, options in (self.config.get("added_tokens_decoder") or {}).items()
        }
        for content, index in self._read("added_tokens.json").items():
            tokens.setdefault(index, AddedToken(content, special=content in named, normalized=False))
        places = {piece: index for index, piece in enumerate(pieces)}
        have = {token.content for token in tokens.values()}
        for content in named:
            if content not in have:
                index = places.get(content, max([len(pieces) - 1, *tokens]) + 1)
                tokens[index] = AddedToken(content, special=True, normalized=False)
        return tokens

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is broken: {error}") from None


def _check(model: SentencePieceModel, model_file: str | Path) -> None:
    wrong = {
        "it is no BPE model": model.model_type != BPE,
        "it keeps spaces as they are (escape_whitespaces is off)": not model.escape_whitespaces,
        "it puts a space behind each word (treat_whitespace_as_suffix)": model.treat_whitespace_as_suffix,
        "a piece that stands for itself holds a space": any(" " in piece for piece in model.of_type(USER_DEFINED)),
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"{model_file} cannot become a fast tokenizer: {what}; expected one like InternLM2's")


def _cuts_late(model: SentencePieceModel) -> bool:
    """Are spaces changed in the text as a whole, before it is cut at the pieces that stand for themselves?

    If not, each text between two of them is tokenized as if it stood alone, which is what added tokens do.
    """
    changes = model.add_dummy_prefix or model.remove_extra_whitespaces or bool(model.charsmap)
    return changes or any(SPACE in piece for piece in model.of_type(USER_DEFINED))


def _bpe(model: SentencePieceModel, pieces: list[str]) -> Tokenizer:
    """pieces  those of the model, renamed where the settings say so."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [(left, right) for left, right in _merges(model) if {left, right, left + right} <= vocabulary.keys()]
    options = dict(unk_token=pieces[model.unk_id], fuse_unk=True, byte_fallback=model.byte_fallback)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, **options))
    tokenizer.normalizer, tokenizer.decoder = _normalizer(model), _decoder(model)
    whole = [piece for piece, kind in zip(pieces, model.types, strict=True) if kind == USER_DEFINED]
    if whole and _cuts_late(model):
        rest = [piece for piece, kind in zip(pieces, model.types, strict=True) if kind != USER_DEFINED]
        cut = pre_tokenizers.Split(Regex(_alternation(whole)), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, *_never_whole(rest, tokenizer.model)])
        tokenizer.model = models.BPE(vocabulary, merges, ignore_merges=True, **options)
    return tokenizer


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the highest score first."""
    made = {
        piece: score
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True)
        if kind == NORMAL
    }
    merges = []
    for piece in sorted((piece for piece in made if len(piece) > 1), key=made.get, reverse=True):
        ways = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        merges += [(left, right) for left, right in ways if left in made and right in made]
    lost = [piece for piece in made if len(piece) > 1 and any(character not in made for character in piece)]
    lost += [
        piece
        for piece in model.of_type(UNUSED)
        if any(piece[:i] in made and piece[i:] in made for i in range(1, len(piece)))
    ]
    if lost:
        warnings.warn(
            f"{len(lost)} pieces such as {lost[0]!r} are made of characters that are no pieces, or made and taken "
            "apart again: a fast tokenizer cannot do that, and spells them",
            stacklevel=4,
        )
    scores = [score for piece, score in made.items() if len(piece) > 1]
    if len(set(scores)) < len(scores):
        warnings.warn("pieces share a score: where two overlap, the one with the lower id is made", stacklevel=4)
    return merges


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    steps = []
    if model.charsmap:
        warnings.warn(
            "the model rewrites characters before it makes pieces (its normaliser is not 'identity'): that is done "
            "letter by letter here, so an accent that is typed behind its letter may stay apart from it",
            stacklevel=4,
        )
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", SPACE))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        steps.append(decoders.Strip(" ", ALL_SPACES if model.remove_extra_whitespaces else 1, 0))
    return decoders.Sequence(steps)


def _never_whole(pieces: Iterable[str], bpe: models.BPE) -> list[pre_tokenizers.Split]:
    """With `ignore_merges` a text that is exactly a piece becomes that piece, which makes the pieces that stand for
    themselves. Others that merging never makes, such as control pieces and bytes, must not be made either, so a text
    that is exactly one of them is cut where merging would end."""
    firsts: dict[str, list[str]] = defaultdict(list)
    depth: dict[str, int] = {}
    for piece in sorted(pieces, key=len):
        end = bpe.tokenize(piece)[0].offsets[1]
        rest = piece[end:]
        if rest:
            firsts[piece[:end]].append(rest)
            depth[piece] = 1 + depth.get(rest, 0)
    if not firsts:
        return []
    pattern = "|".join(rf"{re.escape(first)}(?={_alternation(rests)}\z)" for first, rests in sorted(firsts.items()))
    return [pre_tokenizers.Split(Regex(rf"\A(?:{pattern})"), "isolated")] * max(depth.values())


def _alternation(strings: Iterable[str]) -> str:
    """A regular expression that matches any of the strings, the longest first, with common beginnings written once."""
    branches: dict[str, list[str]] = defaultdict(list)
    for string in strings:
        branches[string[:1]].append(string[1:])
    ends_here = branches.pop("", None) is not None
    if not branches:
        return ""
    alternatives = "|".join(re.escape(first) + _alternation(rests) for first, rests in sorted(branches.items()))
    return f"(?:{alternatives}){'?' if ends_here else ''}"


def _content(token: Any) -> str | None:
    return token["content"] if isinstance(token, dict) else token
