"""PhantrolProcessor: a conversation with pictures becomes token ids, a mask of what the model must say, and tiles.

Whatever a user types is text: the string of the image token, or of any other special token, inside a question is
spelled out in ordinary tokens. Only the chat template and real pictures make special tokens.

B rows, N tokens, I tiles of all pictures, S tile side in pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.auto.processing_auto import AutoProcessor
from transformers.processing_utils import ProcessorMixin

from phantrol.models.configuration import PhantrolConfig, num_image_tokens
from phantrol.models.conversation import Chat, Seal, TemplateRefusal, Turn, number_parts, split_turns
from phantrol.models.generation_prompt import complete_generation_prompt
from phantrol.models.text_encoding import MAX_REMEMBERED, TextEncoder


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One conversation.

    input_ids     N token ids
    answer_mask   N flags: True on tokens that the model must say, its text and its end of turn
    pixel_values  [I, 3, S, S], or None without pictures
    """

    input_ids: list[int]
    answer_mask: list[bool]
    pixel_values: Tensor | None = None

    @property
    def last_answer(self) -> int:
        """Where the last answer begins. Raises ValueError if there is none."""
        flags = self.answer_mask
        if not any(flags):
            raise ValueError("the conversation has no answer: expected a message of the assistant")
        return max(place for place, said in enumerate(flags) if said and not (place and flags[place - 1]))


class PhantrolProcessor(ProcessorMixin):
    """An image processor and a tokenizer that agree with the model on how many tokens a picture takes.

    image_grid, unshuffle       as in PhantrolConfig
    image_token                 a special token of the tokenizer, one for each image feature
    image_prefix, image_suffix  special tokens or text around the features of one picture
    Raises ValueError if the tokenizer has no `image_token`, and for a chat template as `complete_generation_prompt`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_grid: int = 14,
        unshuffle: int = 1,
        image_token: str = "<image>",
        image_prefix: str = "",
        image_suffix: str = "",
        chat_template: str | None = None,
        **kwargs: Any,
    ):
        self.image_grid, self.unshuffle, self.image_token = image_grid, unshuffle, image_token
        self.image_prefix, self.image_suffix = image_prefix, image_suffix
        given = chat_template or tokenizer.chat_template
        template = complete_generation_prompt(given, tokenizer) if isinstance(given, str) else given
        if tokenizer.chat_template == given:
            tokenizer.chat_template = template  # which is saved, and rendered by others, too
        super().__init__(image_processor, tokenizer, chat_template=template, **kwargs)
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._text = TextEncoder(tokenizer)
        self._renderings: dict[Any, list[Turn]] = {}
        if self.image_token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"the tokenizer has no token {image_token!r}: add it as a special token")

    def encode(self, chat: Chat, add_generation_prompt: bool = False) -> Encoding:
        """Return the ids, the answer mask and the tiles of one conversation.

        chat  messages with content as text or as parts {"type": "text", "text"} and {"type": "image", "image"}
        Raises ValueError for a message without text or pictures, an unknown part, or a picture that cannot be read.
        """
        return self.encode_group([chat], add_generation_prompt)[0]

    def encode_group(self, chats: Sequence[Chat], add_generation_prompt: bool = False) -> list[Encoding]:
        """Encode several conversations; a picture that they share (the same object) is cut into tiles once."""
        tiles: dict[int, Tensor] = {}
        return [self._encode(chat, add_generation_prompt, tiles) for chat in chats]

    def _encode(self, chat: Chat, add_generation_prompt: bool, tiles: dict[int, Tensor]) -> Encoding:
        messages, texts, pictures = number_parts(chat)
        for picture in pictures:
            if id(picture) not in tiles:
                tiles[id(picture)] = self.image_processor([picture])["pixel_values"]
        ids: list[int] = []
        answers: list[bool] = []
        for turn in self._turns(messages, texts, add_generation_prompt):
            read, said, ends_turn = self.read_and_said(turn, texts)
            num_tiles = [len(tiles[id(pictures[int(content)])]) for kind, content in turn.prompt if kind == "image"]
            read = self._with_features(read, num_tiles)
            ids += read
            ids += said
            answers += [ends_turn] * min(1, len(read))
            answers += [False] * (len(read) - 1)
            answers += [True] * len(said)
        cut = [tiles[id(picture)] for picture in pictures]
        return Encoding(ids, answers, None if not cut else cut[0] if len(cut) == 1 else torch.cat(cut))

    def read_and_said(self, turn: Turn, texts: Sequence[tuple[str, str]]) -> tuple[list[int], list[int], bool]:
        """Return the ids that the model reads in a turn, one for each picture, those that it must say then, and whether
        the first id read is the end of the turn before, which it must say too.

        texts  the (role, text)s of the conversation
        """
        prompt = tuple(
            (kind != "text", texts[int(content)][1] if kind == "text" else self._shown(kind, content))
            for kind, content in turn.prompt
        )
        read = self._text.prompt(prompt)
        said = self._text.typed("".join(texts[number][1] for number in turn.answer)) if turn.answer else []
        return read, said, turn.follows_answer and bool(read) and read[0] in self._text.special_ids

    def _shown(self, kind: str, content: str) -> str:
        return content if kind == "template" else f"{self.image_prefix}{self.image_token}{self.image_suffix}"

    def _with_features(self, ids: list[int], num_tiles: Sequence[int]) -> list[int]:
        """`ids` with one image token for each picture → as many as its tiles have features."""
        if not num_tiles:
            return ids
        if ids.count(self.image_token_id) != len(num_tiles):
            raise ValueError(
                f"{len(num_tiles)} pictures but {ids.count(self.image_token_id)} tokens {self.image_token!r} in the "
                "prompt: the chat template, image_prefix and image_suffix must hold none"
            )
        expanded, start = [], 0
        for number in num_tiles:
            place = ids.index(self.image_token_id, start)
            expanded += ids[start:place] + [self.image_token_id] * num_image_tokens(self, number)
            start = place + 1
        return expanded + ids[start:]

    def _turns(
        self, messages: list[dict[str, Any]], texts: list[tuple[str, str]], add_generation_prompt: bool
    ) -> list[Turn]:
        """The chat template, rendered around sealed parts and cut at them. What it gives depends on the shape of the
        conversation alone, so it is rendered once for each shape; but for a template that asks what day it is."""
        seal = Seal(texts)
        shape = (repr(messages), seal.mark, add_generation_prompt, self.chat_template)
        turns = self._renderings.get(shape)  # another thread may clear them
        if turns is None:
            rendered = self._rendered(messages, seal, add_generation_prompt)
            turns = split_turns(seal.split(rendered), texts)
            if len(self._renderings) >= MAX_REMEMBERED:
                self._renderings.clear()
            if "strftime_now" not in str(self.chat_template):
                self._renderings[shape] = turns
        return turns

    @property
    def end_of_turn_id(self) -> int:
        """The token that ends the assistant's turn, which generation stops at.

        Raises ValueError if the chat template ends a turn with no special token: a model could never learn to stop.
        """
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        encoding = self.encode(chat)
        last = max(index for index, flag in enumerate(encoding.answer_mask) if flag)
        if encoding.input_ids[last] not in self._text.special_ids:
            raise ValueError("the chat template does not end an assistant's turn with a special token: add one")
        return encoding.input_ids[last]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        padding: bool | str = False,
        padding_side: str = "left",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare prompts that are already rendered, with `image_token` once for each picture.

        text    one prompt or several;  images  the pictures of all prompts, flat or one list a prompt
        → input_ids, attention_mask [B, N], pixel_values [I, 3, S, S]
        Raises ValueError for text that is none, if a prompt holds more or fewer placeholders than pictures, and for
        `truncation` and `max_length`, which would have to cut a picture's tokens. For text that a user typed take
        `apply_chat_template`, where a typed placeholder is text.
        """
        _refuse_cutting(kwargs)
        prompts = list(text or []) if text is None or isinstance(text, list | tuple) else [text]
        strange = [type(prompt).__name__ for prompt in prompts if not isinstance(prompt, str)]
        if strange:  # most processors of transformers take pictures first
            raise ValueError(f"text: got {strange[0]}, expected text first: processor(text=..., images=...)")
        counts = [prompt.count(self.image_token) for prompt in prompts]
        pictures = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
        given = None
        if pictures and all(isinstance(group, list | tuple) for group in pictures):  # one list a prompt
            given = [len(group) for group in pictures]
            pictures = [picture for group in pictures for picture in group]
        if sum(counts) != len(pictures) or (given is not None and given != counts):
            raise ValueError(
                f"{given or len(pictures)} pictures for {counts} placeholders {self.image_token!r} in "
                f"{len(prompts)} prompts: expected one placeholder for each picture"
            )
        tiles = self.image_processor(pictures) if pictures else None
        sizes = iter([] if tiles is None else tiles["num_tiles"])
        rows = []
        for prompt, count in zip(prompts, counts, strict=True):
            shown = prompt.replace(self.image_token, self._shown("image", ""))
            rows.append(self._with_features(self._text.prompt(((True, shown),)), list(islice(sizes, count))))
        pixels = None if tiles is None else tiles["pixel_values"]
        return self._batch(rows, pixels, padding, padding_side, return_tensors)

    def apply_chat_template(
        self,
        conversation: Any,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str | None = None,
        padding: bool | str = True,
        padding_side: str = "left",
        **kwargs: Any,
    ) -> Any:
        """As in transformers: conversation(s) → text, or with `tokenize=True` the model's inputs. See `encode`."""
        _refuse_cutting(kwargs)
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        chats = list(conversation) if batched else [conversation]
        if not tokenize:
            rendered = [self._render(chat, add_generation_prompt) for chat in chats]
            return rendered if batched else rendered[0]
        encodings = [self.encode(chat, add_generation_prompt) for chat in chats]
        pixels = [e.pixel_values for e in encodings if e.pixel_values is not None]
        rows = [e.input_ids for e in encodings]
        batch = self._batch(rows, torch.cat(pixels) if pixels else None, padding, padding_side, return_tensors)
        return batch if return_dict else batch["input_ids"]

    def decode(self, ids: Any, **kwargs: Any) -> str | list[str]:
        """Return the text of an answer, or of several, without special tokens and the white space around it."""
        text = self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})
        return [each.strip() for each in text] if isinstance(text, list) else text.strip()

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def _render(self, chat: Chat, add_generation_prompt: bool) -> str:
        chat, texts, _ = number_parts(chat)

        def shown(kind: str, index: int) -> str:
            return texts[index][1] if kind == "text" else self.image_token

        return self._rendered(chat, shown, add_generation_prompt)

    def _rendered(
        self, messages: list[dict[str, Any]], shown: Callable[[str, int], str], add_generation_prompt: bool
    ) -> str:
        """The chat template of numbered messages, each part as it is shown."""
        chat = [{"role": m["role"], "content": "".join(shown(*part) for part in m["content"])} for m in messages]
        options = dict(chat_template=self.chat_template, tokenize=False, add_generation_prompt=add_generation_prompt)
        try:
            return self.tokenizer.apply_chat_template(chat, **options)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateRefusal(
                f"the chat template refuses a conversation of {roles}: {error}; expected roles that it knows, in order"
            ) from None

    def _batch(
        self,
        rows: list[list[int]],
        pixel_values: Any,
        padding: bool | str,
        padding_side: str,
        return_tensors: str | None,
    ) -> BatchFeature:
        options = dict(padding=padding or False, padding_side=padding_side, return_tensors=return_tensors)
        batch = dict(self.tokenizer.pad({"input_ids": rows}, **options))
        return BatchFeature(batch if pixel_values is None else {**batch, "pixel_values": pixel_values})


def _refuse_cutting(options: Mapping[str, Any]) -> None:
    """Others that are unknown change nothing; these would have to cut a picture's tokens, or be passed over unsaid."""
    asked = {name: options[name] for name in ("truncation", "max_length") if options.get(name)}
    if asked:
        raise ValueError(f"got {asked}, but prompts with pictures are not cut: leave it out, or shorten the text")


AutoProcessor.register(PhantrolConfig, PhantrolProcessor, exist_ok=True)
