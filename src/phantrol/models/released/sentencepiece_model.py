"""Reading tokenizer.model, the file of a SentencePiece model, without the library that wrote it.

It is a protocol buffer, of which six kinds of fields matter here; their numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of pieces
BPE = 2  # a type of model


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says.

    pieces, scores, types     of each id; of two pieces that could be made, the one with the higher score is
    charsmap                  rules that rewrite characters before all else, precompiled; empty: none
    add_dummy_prefix          a space before every text
    remove_extra_whitespaces  none at its ends, and never two
    unk_id, bos_id, eos_id, pad_id  -1 if there is none
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    model_type: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    treat_whitespace_as_suffix: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int

    def of_type(self, *types: int) -> list[str]:
        return [piece for piece, type_ in zip(self.pieces, self.types, strict=True) if type_ in types]


def read_model(file: str | Path) -> SentencePieceModel:
    """Raises ValueError if there is no such file, or it is no SentencePiece model."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"no tokenizer model {path}: expected the file of a SentencePiece model")
    try:
        model = _parse(path.read_bytes())
    except (ValueError, struct.error, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no SentencePiece model ({error}): copy it again") from None
    if not model.pieces:
        raise ValueError(f"{path} is no SentencePiece model (it has no pieces): copy it again")
    return model


def _parse(data: bytes) -> SentencePieceModel:
    pieces, scores, types = [], [], []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append(piece[1].decode("utf-8"))
            scores.append(piece.get(2, 0.0))
            types.append(piece.get(3, NORMAL))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    ids = {name: _signed(trainer.get(number, default)) for name, number, default in _IDS}
    return SentencePieceModel(
        tuple(pieces),
        tuple(scores),
        tuple(types),
        model_type=trainer.get(3, 1),
        byte_fallback=bool(trainer.get(35, False)),
        charsmap=normalizer.get(2, b""),
        add_dummy_prefix=bool(normalizer.get(3, True)),
        remove_extra_whitespaces=bool(normalizer.get(4, True)),
        escape_whitespaces=bool(normalizer.get(5, True)),
        treat_whitespace_as_suffix=bool(trainer.get(24, False)),
        **ids,
    )


_IDS = (("unk_id", 40, 0), ("bos_id", 41, 1), ("eos_id", 42, 2), ("pad_id", 43, -1))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of each field of a message, by the protocol buffers' wire format."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind == 5:
            value, place = struct.unpack_from("<f", data, place)[0], place + 4
        elif kind == 1:
            value, place = data[place : place + 8], place + 8
        elif kind == 2:
            length, place = _varint(data, place)
            value, place = data[place : place + length], place + length
            if len(value) < length:
                raise ValueError("it is cut off")
        else:
            raise ValueError(f"a field of kind {kind}")
        yield key >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
