"""The processor and the generation settings of a released model, from the tokenizer files beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.image_processing import PhantrolImageProcessor
from phantrol.models.processing import PhantrolProcessor
from phantrol.models.released.prompts import Dialect, dialect
from phantrol.models.released.tokenizer import fast_tokenizer, unreadable


def released_processor(folder: str | Path, family: str, backbone: str, config: PhantrolConfig) -> PhantrolProcessor:
    """Return the processor of a released model.

    folder            in the official layout: tokenizer.model or tokenizer.json (or vocab.json and merges.txt), with
                      tokenizer_config.json and added_tokens.json where there are some
    family, backbone  as for `dialect`;  config  its image sizes count, and the first of its end-of-sequence tokens
    Raises ValueError if the folder has no tokenizer, a broken one or that of another model, or `dialect` knows no such
    model.
    """
    speech = dialect(family, backbone)
    tokenizer = _open_tokenizer(Path(folder), backbone, speech)
    if speech.end_of_turn not in tokenizer.get_vocab():
        raise ValueError(
            f"the tokenizer in {folder} has no {speech.end_of_turn}, which ends a turn of {family} on {backbone}: "
            "expected the tokenizer files of the same checkpoint; download them again"
        )
    _mark_special(tokenizer, speech)
    if family == "phantom" or tokenizer.eos_token is None:  # TroL goes by its tokenizer, Phantom by its configuration
        ends = _ends(config, tokenizer)
        if ends:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = speech.chat_template
    return PhantrolProcessor(
        PhantrolImageProcessor(config.image_px, **speech.image_options),
        tokenizer,
        image_grid=config.image_grid,
        unshuffle=config.unshuffle,
        image_token=speech.image_token,
        image_prefix=speech.image_prefix,
        image_suffix=speech.image_suffix,
    )


def released_generation(
    family: str, backbone: str, processor: PhantrolProcessor, config: PhantrolConfig | None = None
) -> GenerationConfig:
    """Return how the released evaluation generates: beams, never by chance.

    config  of a Phantom, each of whose end-of-sequence tokens ends an answer: a tokenizer knows one alone

    Differs: the token that ends a turn stops generation too; the released TroL says two tokens more, and cuts them.
    """
    speech = dialect(family, backbone)
    configured = _ends(config, processor.tokenizer) if family == "phantom" and config is not None else []
    ends = [*(configured or [processor.tokenizer.eos_token_id]), processor.end_of_turn_id]
    return GenerationConfig(
        num_beams=speech.num_beams,
        do_sample=False,
        max_new_tokens=speech.max_new_tokens["demo"],
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(end for end in ends if end is not None)),
        pad_token_id=processor.tokenizer.pad_token_id,
    )


def no_tokens(family: str, config: PhantrolConfig, tokenizer: Any) -> list[int]:
    """Return the end-of-sequence tokens that a Phantom's configuration names and its tokenizer does not have."""
    return [end for end in _named_ends(config) if family == "phantom" and not 0 <= end < len(tokenizer)]


def _ends(config: PhantrolConfig, tokenizer: Any) -> list[int]:
    """The end-of-sequence tokens of a configuration, which names one, several or none, as far as they are tokens."""
    return [end for end in _named_ends(config) if 0 <= end < len(tokenizer)]


def _named_ends(config: PhantrolConfig) -> list[int]:
    ends = config.eos_token_id
    return list(ends) if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]


def _open_tokenizer(folder: Path, backbone: str, speech: Dialect) -> Any:
    model, whole = folder / "tokenizer.model", folder / "tokenizer.json"
    special = (*speech.special_tokens, speech.image_token)
    # the released InternLM2 tokenizers are slow ones, whose code is not here; their model is
    if model.is_file() and (backbone == "internlm2" or not whole.is_file()):
        return fast_tokenizer(model, special)
    if whole.is_file():
        return _load(PreTrainedTokenizerFast, folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _load(AutoTokenizer, folder)
    raise ValueError(f"{folder} has no tokenizer: expected tokenizer.model or tokenizer.json beside the weights")


def _load(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder)
    except Exception as error:  # tokenizers and json each have their own kind
        raise unreadable(folder, error) from error


def _mark_special(tokenizer: Any, speech: Dialect) -> None:
    """Make the tokens of the template and the picture special, where the files do not call them so."""
    known = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    wanted = [*(token for token in speech.special_tokens if token in tokenizer.get_vocab()), speech.image_token]
    have = tokenizer.all_special_tokens
    for content in wanted:
        if content not in have or not known[content].special:
            token = known.get(content) or AddedToken(content, normalized=False)
            token.special = True  # whatever whitespace it strips it goes on to strip
            tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
