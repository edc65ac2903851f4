"""Official tensor names to ours, as tables.

One rule takes one official tensor to one of ours, or a fused one to several; whatever no rule takes must be dropped by
name, with the reason.

H query heads, K key/value heads, d head size, V vocabulary, D hidden size, I input size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from transformers import PretrainedConfig

from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.released.layout import GATE_FILE, Layout
from phantrol.models.released.parts import Shape, Shapes


@dataclass(frozen=True)
class Rule:
    """Names with {placeholders} equal on both sides: {i} a number, the others words; [...] may be left out.

    split  how a fused tensor falls into the parts that `ours` names: a key of SPLITS
    """

    official: str
    ours: str | tuple[str, ...]
    split: str = "whole"


@dataclass(frozen=True)
class Move:
    """One official tensor, the names of ours that are made of it, and how."""

    source: str
    targets: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, ...]]

    def apply(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return our tensors, each in memory of its own."""
        parts = zip(self.targets, self.split(tensor), strict=True)
        return {name: part.clone(memory_format=torch.contiguous_format) for name, part in parts}


@dataclass(frozen=True)
class Plan:
    """moves  what becomes of the official tensors;  dropped  {name: reason} of those, or rows of those, left behind."""

    moves: tuple[Move, ...]
    dropped: Mapping[str, str]


LAYER, CLIP, VIT = "model.layers.{i}.", "vit.vision_tower.vision_model.", "vision_model.encoder.layers.{i}."
OUR_VIT, ATTENTION = "vision_tower.encoder.layer.{i}.", "language_model." + LAYER + "self_attn."
QKV = ("q_proj", "k_proj", "v_proj")
EMBEDDINGS = {
    backbone: Rule(f"model.{name}.weight", "language_model.model.embed_tokens.weight", "vocabulary")
    for backbone, name in (("internlm2", "tok_embeddings"), ("phi3", "embed_tokens"), ("qwen2", "embed_tokens"))
}
# phantrol's decoders are stock classes under "language_model.", and so are Phi-3's and Qwen2's official names
STOCK = (
    Rule(LAYER + "{name}", "language_model." + LAYER + "{name}"),
    Rule("model.norm.weight", "language_model.model.norm.weight"),
    Rule("lm_head.weight", "language_model.lm_head.weight"),
)
# InternLM2 is Llama with other names and one interleaved wqkv; [ffn.] where it has a partial LoRA
INTERNLM2 = (
    Rule("output.weight", "language_model.lm_head.weight"),
    Rule("model.norm.weight", "language_model.model.norm.weight"),
    Rule(LAYER + "attention_norm.{part}", "language_model." + LAYER + "input_layernorm.{part}"),
    Rule(LAYER + "ffn_norm.{part}", "language_model." + LAYER + "post_attention_layernorm.{part}"),
    Rule(LAYER + "attention.wqkv.lora_A.weight", ATTENTION + "q_proj.lora_A.weight"),  # keys and values share it
    Rule(LAYER + "attention.wqkv.[ffn.]{part}", tuple(f"{ATTENTION}{x}.{{part}}" for x in QKV), "interleaved"),
    Rule(LAYER + "attention.wo.[ffn.]{part}", ATTENTION + "o_proj.{part}"),
    Rule(LAYER + "feed_forward.w1.[ffn.]{part}", "language_model." + LAYER + "mlp.gate_proj.{part}"),
    Rule(LAYER + "feed_forward.w3.[ffn.]{part}", "language_model." + LAYER + "mlp.up_proj.{part}"),
    Rule(LAYER + "feed_forward.w2.[ffn.]{part}", "language_model." + LAYER + "mlp.down_proj.{part}"),
)
DECODERS = {"internlm2": INTERNLM2, "phi3": STOCK, "qwen2": STOCK}
PHANTOM = (
    Rule(LAYER + "{attention}.xattn_{kind}_phantom.linear_{x}.weight", ATTENTION + "phantom.{kind}.{x}_proj.weight"),
    Rule(LAYER + "{attention}.gating_phantom_{x}.{part}", ATTENTION + "phantom.gate_{x}.{part}"),
)
GATE = "language_model." + LAYER + "traversal_gate.{part}"
INTERNVIT = (
    Rule("vision_model.embeddings.class_embedding", "vision_tower.embeddings.cls_token"),
    Rule("vision_model.embeddings.position_embedding", "vision_tower.embeddings.position_embeddings"),
    Rule(
        "vision_model.embeddings.patch_embedding.{part}", "vision_tower.embeddings.patch_embeddings.projection.{part}"
    ),
    Rule(VIT + "attn.qkv.{part}", tuple(f"{OUR_VIT}attention.{x}.{{part}}" for x in QKV), "thirds"),
    Rule(VIT + "attn.proj.{part}", OUR_VIT + "attention.projection_layer.{part}"),
    Rule(VIT + "attn.{x}_norm.{part}", OUR_VIT + "attention.{x}_norm.{part}"),
    Rule(VIT + "mlp.{name}", OUR_VIT + "mlp.{name}"),
    Rule(VIT + "norm1.{part}", OUR_VIT + "layernorm_before.{part}"),
    Rule(VIT + "norm2.{part}", OUR_VIT + "layernorm_after.{part}"),
    Rule(VIT + "ls{x}", OUR_VIT + "lambda_{x}"),
    Rule("vision_proj.0.{part}", "projector.norm.{part}"),
    Rule("vision_proj.1.{part}", "projector.linear_1.{part}"),
    Rule("vision_proj.3.{part}", "projector.linear_2.{part}"),
)
CLIP_490 = (
    Rule(CLIP + "{name}", "vision_tower.{name}"),
    Rule("vision_proj.0.{part}", "projector.linear_1.{part}"),
    Rule("vision_proj.2.{part}", "projector.linear_2.{part}"),
)
BUFFERS = {
    "{name}.rotary_emb.{part}": "a buffer: rotary angles are computed from the configuration",
    "{name}.embeddings.position_ids": "a buffer: the numbers 0, 1, 2 ... of the positions",
}
ONE_GATE = "the released loader leaves the last entry of trol_gating in every layer; --per-layer-gates keeps each"
OLD_GATE = f"the released loader takes the gates from {GATE_FILE}"
AGAIN = "; a file may be cut off, or of another model: download the weights again"
TIED = "the head is tied to the embeddings"
EXTRA_ROW = "the row of the image token, beyond the head's vocabulary: image features overwrite it"


def plan(layout: Layout, shapes: Shapes, need_vision: bool = True) -> Plan:
    """Return what becomes of each official tensor.

    need_vision  False lets a vision tower be missing that the layout found no tensors of
    Raises ValueError, naming the first of them, if a tensor is not known, missing, or has another shape than the
    configuration says.
    """
    moves, dropped, unknown = [], {}, []
    if layout.family == "trol" and not any("trol_gating" in name for name in shapes):
        raise ValueError(
            f"no {GATE_FILE} beside the weights, nor model.trol_gating or a Phantom's xattn_*_phantom in them: TroL's "
            "gates are in that file of the same repository; download it too"
        )
    for name, shape in shapes.items():
        if reason := _drop_reason(name, layout, shapes):
            dropped[name] = reason
        elif (move := _move(name, layout)) is None:
            unknown.append(name)
        else:
            moves.append(move)
            if name == _embeddings_name(layout) and shape[0] == layout.text.vocab_size + 1:
                dropped[f"{name}[{layout.text.vocab_size}]"] = EXTRA_ROW
    _check(layout, shapes, moves, unknown, need_vision)
    return Plan(tuple(moves), dropped)


def target_shapes(layout: Layout) -> dict[str, Shape]:
    """Return names and shapes of all tensors of the phantrol model, which is built without memory for them.

    Raises ValueError if its classes refuse the configuration.
    """
    try:
        with torch.device("meta"):
            model = PhantrolForConditionalGeneration(layout.config)
    except (KeyError, ZeroDivisionError, AssertionError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"config.json describes no model that can be built: {reason}; copy it again") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if layout.tied:
        del shapes["language_model.lm_head.weight"]
    return shapes


def official_name(target: str, layout: Layout) -> str:
    """Return the official tensor that one of ours is made of."""
    attention = "attention" if layout.backbone == "internlm2" else "self_attn"
    lora = any(modifier["name"] == "partial_lora" for modifier in layout.config.modifiers)
    for rule in _rules(layout):
        for ours in (rule.ours,) if isinstance(rule.ours, str) else rule.ours:
            found = _pattern(ours).fullmatch(target)
            if found:
                values = {"attention": attention} | found.groupdict()
                if ours == GATE and not layout.per_layer_gates:
                    values["i"] = str(layout.text.num_hidden_layers - 1)
                fused = lora and not values.get("part", "").startswith("lora_")
                return re.sub(r"\[(.*?)\]", r"\1" if fused else "", rule.official).format(**values)
    return target


def _rules(layout: Layout) -> list[Rule]:
    decoder = [*DECODERS[layout.backbone], EMBEDDINGS[layout.backbone]]
    if layout.family == "phantom":
        decoder = [*PHANTOM, *decoder]
    else:
        decoder = [Rule("model.trol_gating.{i}.{part}", GATE), *decoder]
    within = [Rule(layout.prefix + rule.official, rule.ours, rule.split) for rule in decoder]
    vision = INTERNVIT if layout.config.projector_norm else CLIP_490
    return [Rule(f"{GATE_FILE}/{{i}}.{{part}}", GATE), *within, *vision]


def match(name: str, rules: Iterable[Rule]) -> tuple[tuple[str, ...], str] | None:
    """Return the names that an official tensor has here, and how it falls into them, or None if no rule takes it."""
    for rule in rules:
        found = _pattern(rule.official).fullmatch(name)
        if found:
            ours = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
            return tuple(target.format(**found.groupdict()) for target in ours), rule.split
    return None


def _move(name: str, layout: Layout) -> Move | None:
    found = match(name, _rules(layout))
    if found is None:
        return None
    targets, split = found
    if not layout.per_layer_gates:  # the first layer owns the gate that all share: the last one that is loaded
        last = layout.text.num_hidden_layers - 1
        targets = tuple(re.sub(rf"\.{last}(?=\.traversal_gate\.)", ".0", target) for target in targets)
    return Move(name, targets, partial(SPLITS[split], text=layout.text))


def _drop_reason(name: str, layout: Layout, shapes: Shapes) -> str | None:
    for pattern, reason in BUFFERS.items():
        if _pattern(pattern).fullmatch(name):
            return reason
    if layout.tied and name == f"{layout.prefix}lm_head.weight":
        return TIED
    gate = re.fullmatch(r"(.*trol_gating(?:\.pt/|\.))(\d+)\.(weight|bias)", name)
    if gate and layout.family == "trol":
        if GATE_FILE not in gate[1] and any(other.startswith(GATE_FILE) for other in shapes):
            return OLD_GATE
        if not layout.per_layer_gates and int(gate[2]) < layout.text.num_hidden_layers - 1:
            return ONE_GATE
    return None


def _check(layout: Layout, shapes: Shapes, moves: list[Move], unknown: list[str], need_vision: bool) -> None:
    expected, made = target_shapes(layout), {}
    for move in moves:
        shape = list(shapes[move.source])
        try:
            parts = move.split(torch.empty(shape, device="meta"))
        except (RuntimeError, ValueError, IndexError):
            raise ValueError(f"{move.source} has shape {shape}, which does not fall into parts{AGAIN}") from None
        for target, part in zip(move.targets, parts, strict=True):
            if target in made:
                raise ValueError(f"{move.source} and {made[target]} both give {target}: expected one of them")
            made[target] = move.source
            if target in expected and tuple(part.shape) != expected[target]:
                which = "" if list(part.shape) == shape else f", of which {target} would be {list(part.shape)}"
                raise ValueError(
                    f"{move.source} has shape {shape}{which}: expected {list(expected[target])}, as config.json and "
                    f"the other tensors have it{AGAIN}"
                )
    unknown += [source for target, source in made.items() if target not in expected]
    missing = [target for target in expected if target not in made]
    if layout.vision is None and not need_vision:
        missing = [target for target in missing if not target.startswith("vision_tower.")]
    if missing:
        raise ValueError(f"{_some([official_name(target, layout) for target in missing])} missing{AGAIN}")
    if unknown:
        raise ValueError(f"{_some(unknown)} left over: no part of a {layout.family} model on {layout.backbone}{AGAIN}")


def _some(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return f"tensor {names[0]} is" if len(names) == 1 else f"{len(names)} tensors such as {names[0]} are"


def _embeddings_name(layout: Layout) -> str:
    return layout.prefix + EMBEDDINGS[layout.backbone].official


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\[", "(?:").replace(r"\]", ")?")
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda found: f"(?P<{found[1]}>{_kind(found[1])})", pattern))


def _kind(placeholder: str) -> str:
    return r"\d+" if placeholder == "i" else r"[\w.]+" if placeholder in ("name", "part") else r"\w+"


def _whole(tensor: Tensor, text: PretrainedConfig) -> tuple[Tensor, ...]:
    return (tensor,)


def _vocabulary(tensor: Tensor, text: PretrainedConfig) -> tuple[Tensor, ...]:
    """[V or V + 1, D] → [V, D]: the row of an image token beyond the vocabulary stays behind."""
    extra = tensor.shape[0] - text.vocab_size
    return (tensor[: text.vocab_size] if extra == 1 else tensor,)


def _thirds(tensor: Tensor, text: PretrainedConfig) -> tuple[Tensor, ...]:
    """[3·D, ...] → queries, keys and values, [D, ...] each."""
    return tensor.chunk(3)


def _interleaved(tensor: Tensor, text: PretrainedConfig) -> tuple[Tensor, ...]:
    """[(H + 2·K)·d, I] → [H·d, I], [K·d, I], [K·d, I]: each key/value head comes as its queries, its key, its value."""
    groups = text.num_attention_heads // text.num_key_value_heads
    heads = tensor.unflatten(0, (text.num_key_value_heads, groups + 2, text.hidden_size // text.num_attention_heads))
    queries, keys, values = heads.split([groups, 1, 1], dim=1)
    return queries.flatten(0, 2), keys.flatten(0, 2), values.flatten(0, 2)


SPLITS = {"whole": _whole, "vocabulary": _vocabulary, "thirds": _thirds, "interleaved": _interleaved}
