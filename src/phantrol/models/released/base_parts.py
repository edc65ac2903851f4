"""The pretrained parts that the released models began from, by hub id, as folders of stock Hugging Face classes.

Their sizes are known before anything is downloaded, so a recipe that names them can be described, and tried on a part
of the same kind that is small. InternLM2 and InternViT exist on the hub only with code of their own: their weights are
taken by the rules of `mapping.py`, once, into the cache folder. CLIP's positions are made for larger pictures there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.image_processing_auto import get_image_processor_config

from phantrol.cached import written_once
from phantrol.models.packaged import write_model, write_normalisation
from phantrol.models.released.catalogue import INTERNLM2_1_8B, INTERNLM2_7B, INTERNVIT_300M, PHI3_MINI, QWEN2_0_5B
from phantrol.models.released.convert import SHARD_BYTES, write_shards
from phantrol.models.released.mapping import EMBEDDINGS, INTERNLM2, INTERNVIT, SPLITS, Rule, match
from phantrol.models.released.parts import CLIP_PX, clip_config, internvit_config, text_config
from phantrol.models.released.prompts import dialect
from phantrol.models.released.source import Source, find_source
from phantrol.models.released.tokenizer import fast_tokenizer
from phantrol.tables import first_line

Kind = Literal["internlm2", "phi3", "qwen2", "internvit", "clip"]
SIZES: dict[str, Mapping[str, Any]] = {
    "internlm/internlm2-chat-1_8b": INTERNLM2_1_8B,
    "internlm/internlm2-chat-7b": INTERNLM2_7B,
    "internlm/internlm2_5-7b-chat": INTERNLM2_7B,
    "microsoft/Phi-3-mini-4k-instruct": PHI3_MINI,
    "Qwen/Qwen2-0.5B-Instruct": QWEN2_0_5B,
    "OpenGVLab/InternViT-300M-448px": INTERNVIT_300M,
    "openai/clip-vit-large-patch14-336": {},
}
STOCK = ("phi3", "qwen2")  # transformers opens these as they are


@dataclass(frozen=True)
class BasePart:
    """A decoder or a vision tower on the hub.

    hub_id  also a folder that holds the same;  kind  which of the families that the released models are made of

    Raises ValueError for a kind that there is not.
    """

    hub_id: str
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}: expected one of {', '.join(get_args(Kind))}")

    def configuration(self) -> PretrainedConfig:
        """Return the configuration that its weights will have, from what is known here: nothing is downloaded.

        Raises ValueError for a hub id whose sizes are not known.
        """
        if self.hub_id not in SIZES:
            raise ValueError(
                f"the sizes of {self.hub_id} are not known before it is here: known are {', '.join(SIZES)}"
            )
        sizes = SIZES[self.hub_id]
        if self.kind == "clip":
            return clip_config({}, None)
        if self.kind == "internvit":
            return internvit_config(sizes, {})
        tied = self.kind == "qwen2"  # as the public checkpoint; the released Phantom-0.5B has a head of its own
        return text_config({}, sizes, {}, "", self.kind, tied)

    def small(self) -> dict[str, Any]:
        """Return the configuration of a part of the same kind that takes no time and no memory, as a mapping."""
        heads = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
        if self.kind == "clip":
            return dict(model_type="clip_vision_model", image_size=28, patch_size=7, projection_dim=32, **heads)
        if self.kind == "internvit":
            tower = dict(model_type="internvl_vision", image_size=[28, 28], patch_size=[7, 7], attention_bias=True)
            return tower | heads | dict(use_mean_pooling=True)
        types = {"internlm2": "llama", "phi3": "phi3", "qwen2": "qwen2"}
        sizes = heads | dict(hidden_size=256, intermediate_size=256)  # nf4 scales 256 blocks of 64 weights together
        ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
        keys = 4 if self.kind == "phi3" else 2
        return dict(model_type=types[self.kind], num_key_value_heads=keys, vocab_size=300, **sizes, **ids)

    def folder(self) -> str | Path:
        """Return what `from_pretrained` opens: the hub id itself, or a folder that is written at the first call.

        Raises ValueError if the hub does not give it, or what it gives is not of this kind.
        """
        if self.kind in STOCK:
            return self.hub_id
        name = self.hub_id.replace("/", "--")
        folder, unpack = {
            "internlm2": (f"{name}-stock", self._write_decoder),
            "internvit": (f"{name}-stock-normalised", self._write_tower),
            "clip": (f"{name}-{CLIP_PX}px-normalised", self._write_clip),
        }[self.kind]
        return written_once(folder, unpack)

    @torch.no_grad()
    def _write_decoder(self, folder: Path) -> None:
        source = Source(find_source(self.hub_id))
        config = text_config(source.config, source.config, source.shapes, "", self.kind, tied=False)
        config.architectures, config.dtype = ["LlamaForCausalLM"], source.dtype
        self._write(source, (*INTERNLM2, EMBEDDINGS["internlm2"]), "", "language_model.", config, folder)
        speech = dialect("phantom", "internlm2")
        tokenizer = fast_tokenizer(source.folder / "tokenizer.model", speech.special_tokens)
        tokenizer.chat_template = tokenizer.chat_template or speech.chat_template
        tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def _write_tower(self, folder: Path) -> None:
        source = Source(find_source(self.hub_id))
        shapes = {f"vision_model.{name}": shape for name, shape in source.shapes.items()}
        config = internvit_config(source.config, shapes)
        config.architectures, config.dtype = ["InternVLVisionModel"], source.dtype
        self._write(source, INTERNVIT, "vision_model.", "vision_tower.", config, folder)
        write_normalisation(get_image_processor_config(source.folder), folder)

    @torch.no_grad()
    def _write_clip(self, folder: Path) -> None:
        from transformers import CLIPVisionModel

        try:
            model = CLIPVisionModel.from_pretrained(self.hub_id)
        except OSError as error:
            raise ValueError(f"the hub gives no {self.hub_id}: {first_line(error)}") from None
        stretch_positions(model, CLIP_PX)
        write_model(model, folder)
        write_normalisation(get_image_processor_config(self.hub_id), folder)

    def _write(
        self, source: Source, rules: tuple[Rule, ...], theirs: str, ours: str, config: PretrainedConfig, folder: Path
    ) -> None:
        """theirs  what the rules have before the official names;  ours  what they have before those of the part"""
        folder.mkdir()
        auto = AutoModelForCausalLM if self.kind == "internlm2" else AutoModel
        with torch.device("meta"):
            expected = set(auto.from_config(config).state_dict())
        unknown: list[str] = []
        moved = _moved(source, rules, theirs, ours, config, unknown)
        write_shards((expected.remove(name) or (name, tensor) for name, tensor in moved), folder, SHARD_BYTES)
        if unknown or expected:
            what = f"a tensor {unknown[0]}" if unknown else f"no tensor {min(expected)}"
            raise ValueError(f"{self.hub_id} is no {self.kind}: it has {what}")
        config.save_pretrained(folder)


def stretch_positions(model: Any, image_px: int) -> None:
    """Give a CLIP tower positions for tiles of `image_px`: the row of the class token stays, the grid is enlarged, as
    the released code does it, by a bicubic of its embeddings."""
    module = getattr(model, "vision_model", model)
    old = module.embeddings.position_embedding.weight
    before, after = model.config.image_size // model.config.patch_size, image_px // model.config.patch_size
    grid = old[1:].T.reshape(1, -1, before, before).float()
    grid = F.interpolate(grid, (after, after), mode="bicubic", align_corners=False).flatten(2)[0].T
    table = torch.nn.Embedding(after**2 + 1, old.shape[1], dtype=old.dtype)
    table.weight.copy_(torch.cat([old[:1], grid.to(old.dtype)]))
    module.embeddings.position_embedding = table
    module.embeddings.num_patches, module.embeddings.num_positions = after**2, after**2 + 1
    module.embeddings.register_buffer("position_ids", torch.arange(after**2 + 1)[None], persistent=False)
    model.config.image_size = module.embeddings.image_size = image_px


def _moved(
    source: Source, rules: tuple[Rule, ...], theirs: str, ours: str, config: PretrainedConfig, unknown: list[str]
) -> Iterator[tuple[str, Tensor]]:
    for name in source.shapes:
        found = match(theirs + name, rules)
        if found is None:
            if not name.endswith(("inv_freq", "position_ids")):  # buffers
                unknown.append(name)
            continue
        targets, split = found
        parts = SPLITS[split](source.read(name), config)
        for target, part in zip(targets, parts, strict=True):
            yield target.removeprefix(ours), part.clone(memory_format=torch.contiguous_format)
