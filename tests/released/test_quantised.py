"""8-bit and 4-bit weights: what is quantised and what is not, what it saves, and what it costs in the logits.

`pytest tests/released/test_quantised.py -k loss -rP` prints the table of docs/results.md.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import phantrol
from phantrol.models.memory import on_shapes, weight_bytes
from phantrol.models.quantised import backbone_linears, loading_options, quantise_for_adapters, quantise_linear
from phantrol.models.released.convert import load_official
from phantrol.models.tokenizer import train_tokenizer
from phantrol.modifiers.partial_lora import PartialLoraConfig, PartlyAdapted

RECORDED = Path(__file__).parents[1] / "recorded"
QUANTISED = re.compile(r"language_model\.model\.layers\.\d\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")
WAYS = [("int8", torch.float32), ("int8", torch.bfloat16), ("int4", torch.bfloat16)]
IDS = torch.tensor([[9, 3, 3, 3, 3, 17, 20, 30, 31, 40], [8, 3, 3, 3, 3, 5, 60, 61, 62, 63]])


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """A saved model with every modifier, sizes that suit 4 bits, and float32 weights large enough to matter."""
    modifiers = [phantrol.TrolConfig(tokens="prompt", gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    tokenizer = train_tokenizer(["red blue green", "What color is the circle?"] * 4, 320)
    lora = PartialLoraConfig(rank=4, alpha=4.0)
    sizes = dict(hidden_size=64, intermediate_size=96, vocab_size=320)
    model, processor = tiny_model(tokenizer, [*modifiers, lora], noise=0.05, **sizes)
    path = tmp_path_factory.mktemp("models") / "model"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def inner_bytes(parameter: Tensor) -> int:
    """The bytes of what a parameter is made of."""
    if type(parameter.data) is Tensor:
        return parameter.nbytes
    names, _ = parameter.data.__tensor_flatten__()
    return sum(getattr(parameter.data, name).nbytes for name in names)


def quantised(model, weights: str):
    """A model in memory whose linears were quantised after it was loaded."""
    for name in backbone_linears(model):
        quantise_linear(model.get_submodule(name), weights)
    return model


def logits(model) -> Tensor:
    ids = IDS.to(model.device)
    with torch.no_grad():
        return model(ids, image_mask=ids == 3, prompt_length=ids.shape[1]).logits.float().cpu()


@pytest.mark.parametrize(("weights", "dtype"), WAYS)
def test_the_linears_of_the_backbone_and_nothing_else(folder, weights, dtype):
    plain, _ = phantrol.load(folder, dtype=dtype)
    model, _ = phantrol.load(folder, weights, dtype=dtype)
    changed = {name for name, parameter in model.named_parameters() if type(parameter.data) is not Tensor}
    assert changed == {name for name, _ in plain.named_parameters() if QUANTISED.fullmatch(name)}
    assert len(changed) == 2 * 7 and {f"{name}.weight" for name in backbone_linears(plain)} == changed
    for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if name not in changed:
            assert torch.equal(ours.cpu(), theirs), name
    assert isinstance(model.language_model.model.layers[1].mlp.down_proj, PartlyAdapted)


@pytest.mark.parametrize(("weights", "dtype"), WAYS)
def test_quantised_while_loading_is_quantised_afterwards(folder, weights, dtype):
    plain, _ = phantrol.load(folder, dtype=dtype)
    model, _ = phantrol.load(folder, weights, dtype=dtype)
    plain.to(model.device)  # where 4 bits are packed in another way
    before, loaded = logits(plain), logits(model)
    assert torch.equal(loaded, logits(quantised(plain, weights)))
    assert 1e-4 < float((loaded - before).abs().max() / before.std()) < 2  # something happened, and not too much


@pytest.mark.parametrize(("weights", "dtype"), WAYS)
def test_the_memory_is_what_describe_says(folder, weights, dtype):
    plain, _ = phantrol.load(folder, dtype=dtype)
    model, _ = phantrol.load(folder, weights, dtype=dtype)
    found = sum(inner_bytes(parameter) for parameter in model.parameters())
    linears = [name for name, _ in plain.named_parameters() if QUANTISED.fullmatch(name)]
    padding = 0
    if weights == "int4" and model.device.type == "cuda":  # torchao fills inputs up to a multiple of 1,024 there
        padding = sum(rows * (-inputs % 1024) for rows, inputs in (plain.get_parameter(name).shape for name in linears))
    assert found == weight_bytes(on_shapes(plain.config), weights) + padding // 2 + 4 * padding // 32  # with scales
    ratio = sum(inner_bytes(model.get_parameter(name)) for name in linears)
    ratio /= sum(plain.get_parameter(name).nbytes for name in linears)
    assert padding or ratio < {"int8": 0.55, "int4": 0.32}[weights]


@pytest.mark.parametrize(("weights", "dtype"), WAYS)
def test_cached_steps_give_what_one_pass_gives(folder, weights, dtype):
    model, _ = phantrol.load(folder, weights, dtype=dtype)
    options, ids = {"prompt_length": 6}, IDS.to(model.device)
    with torch.no_grad():
        whole = model(ids, image_mask=ids == 3, **options).logits
        first = model(ids[:, :6], image_mask=ids[:, :6] == 3, use_cache=True, **options)
        cache, steps = first.past_key_values, [first.logits]
        for end in range(7, ids.shape[1] + 1):
            steps.append(model(ids[:, end - 1 : end], past_key_values=cache, **options).logits)
    difference = float((torch.cat(steps, dim=1) - whole).abs().max() / whole.std())
    assert difference < (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", FRESH_PROCESS], capture_output=True, text=True, timeout=280)
    assert float(done.stdout) < -0.4, done.stderr  # of the weights' bytes, half of which are gone


# what an allocator keeps depends on all that was allocated before
FRESH_PROCESS = """
import torch
from phantrol.models.quantised import quantise_linear

def memory_in_use():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

torch.set_num_threads(1)
linears = [torch.nn.Linear(1024, 4096, bias=False, dtype=torch.bfloat16) for _ in range(12)]
full, before = sum(linear.weight.nbytes for linear in linears), memory_in_use()
for linear in linears:
    quantise_linear(linear.requires_grad_(False), "int8")
print((memory_in_use() - before) / full)
"""


def recorded_loss(name: str, weights: str | None, dtype: torch.dtype) -> dict[str, float]:
    """How far the logits of a recorded model are from those that the official code gave in float32, on real tokens."""
    folder = RECORDED / name
    io, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text("utf-8"))
    model = load_official(folder, dtype=dtype, need_vision=False)
    if weights is not None:
        quantised(model, weights)
    real, ids = io["attention_mask"] == 1, io["input_ids"]
    with torch.no_grad():
        ours = model(
            inputs_embeds=io["hidden_states"][0].to(dtype),
            attention_mask=io["attention_mask"],
            image_mask=ids == config["image_token_index"],
            prompt_length=ids.shape[1],
        ).logits.float()[real]
    theirs = io["prefill_logits"][real]
    p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
    return {
        "divergence": float((p.exp() * (p - q)).sum(-1).mean()),
        "largest": float((ours - theirs).abs().max() / theirs.std()),
        "same": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    }


@pytest.mark.parametrize("name", ["trol_internlm2", "phantom_qwen2"])
def test_loss_in_the_logits_of_the_recorded_models(name):
    found = {way: recorded_loss(name, *way) for way in ((None, torch.float32), (None, torch.bfloat16), *WAYS)}
    for (weights, dtype), loss in found.items():
        sizes = "  ".join(f"{key} {value:.2e}" for key, value in loss.items())
        print(f"{name:15} {weights or 'plain':5} {str(dtype).removeprefix('torch.'):8}  {sizes}")
    plain, rounded, int8, _, int4 = found.values()
    assert plain["largest"] < 1e-4 and plain["same"] == 1
    assert int8["divergence"] < 3e-3 and int8["same"] > 0.9  # of the size of rounding to bfloat16
    assert int4["divergence"] < 0.3 and int4["same"] > 0.4
    assert plain["divergence"] < int8["divergence"] < int4["divergence"] and rounded["divergence"] < int4["divergence"]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_it_is_not_saved_and_says_what_to_do(folder, tmp_path, weights):
    model, _ = phantrol.load(folder, weights)
    with pytest.raises(ValueError, match=f"{weights} weights are not saved: save the model as loaded without"):
        model.save_pretrained(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_four_bits_come_with_bfloat16(folder):
    model, _ = phantrol.load(folder, "int4")
    assert model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"int4 weights and torch\.float32: expected bfloat16"):
        phantrol.load(folder, "int4", dtype=torch.float32)


def test_sizes_that_do_not_suit_four_bits_are_named(tiny_model, tmp_path):
    tokenizer = train_tokenizer(["red blue green"] * 4, 300)
    for part in tiny_model(tokenizer, [phantrol.TrolConfig()], dtype=torch.bfloat16):  # 48 numbers inside the mlp
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"down_proj maps 48 to 32 numbers: int4 takes multiples of 32"):
        phantrol.load(tmp_path, "int4")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_mixture_whose_experts_would_stay_whole_is_refused(family, tiny_model, tmp_path):
    tokenizer = train_tokenizer(["red blue green"] * 4, 300)
    sizes = dict(num_local_experts=4, num_experts=4, moe_intermediate_size=48, head_dim=8)
    model, processor = tiny_model(tokenizer, [phantrol.TrolConfig()], family, **sizes)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    said = r"weights would leave \d\d% of the decoder's layers whole: got .* experts, expected .*; leave --weights out"
    with pytest.raises(ValueError, match=f"int8 {said}"):
        phantrol.load(tmp_path, "int8")
    with pytest.raises(ValueError, match=f"int8 {said}"):
        weight_bytes(on_shapes(phantrol.load(tmp_path)[0].config), "int8")
    with pytest.raises(ValueError, match=f"nf4 {said}"):
        quantise_for_adapters(model, "nf4")
    assert backbone_linears(model), "adapters still find them"


def test_unknown_weights_and_a_missing_library_are_one_line(folder, monkeypatch):
    with pytest.raises(ValueError, match="'int3': expected int8 or int4"):
        phantrol.load(folder, "int3")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else real(name, *rest)
    )
    with pytest.raises(ValueError, match=r"int8 weights need torchao: pip install 'phantrol\[quant\]'"):
        loading_options("int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_on_a_gpu_as_on_a_cpu(folder, weights):
    on_cpu = quantised(phantrol.load(folder, dtype=torch.bfloat16)[0], weights)
    on_gpu, _ = phantrol.load(folder, weights, dtype=torch.bfloat16)
    assert on_gpu.device.type == "cuda"
    ours, theirs = logits(on_gpu), logits(on_cpu)
    assert float((ours - theirs).abs().max() / theirs.std()) < 0.2
