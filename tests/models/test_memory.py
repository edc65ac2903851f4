"""What `memory.py` says of a model from shapes alone, against the same model with its weights, run and measured.

B 2 rows; H 8 query heads, K 4 key/value heads, d 32; two pictures of three tiles with 16 tokens each in every row.
"""

from __future__ import annotations

import resource

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, DynamicCache, SiglipVisionConfig

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.memory import Prompt, cache_bytes, count_parameters, on_shapes, phases, weight_bytes
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.quantised import backbone_linears
from phantrol.modifiers.base import config_to_dict
from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

ROWS, TEXT, IMAGES, TILES, TILE_TOKENS, ANSWER = 2, 200, 2, 3, 16, 10
PROMPT = Prompt(TEXT, IMAGES, TILES, ANSWER, ROWS)
NUM_TOKENS = TEXT + IMAGES * TILES * TILE_TOKENS
IMAGE_TOKEN, LAYERS, HEADS, KEY_HEADS, HEAD_DIM = 3, 4, 8, 4, 32
PLAIN = LAYERS * KEY_HEADS * 2 * HEAD_DIM  # numbers of a token in the cache of the backbone
QUERY, KEY, VALUE = (2 * heads * HEAD_DIM for heads in (HEADS, KEY_HEADS, KEY_HEADS))  # of an anchor, a layer and pass
# set: modifiers, cache of a token after the prompt and after the answer as multiples of PLAIN, and of an anchor
SETS = {
    "none": ([], 1, 1, 0, 0),
    "trol_prompt": ([TrolConfig(tokens="prompt")], 1, 1, 0, 0),  # the second pass's part goes with the prompt's end
    "trol_all": ([TrolConfig()], 2, 2, 0, 0),
    "trol_3_passes": ([TrolConfig(passes=3, layers=(0, 2))], 2, 2, 0, 0),
    "phantom": ([PhantomConfig()], 2, 2, *[LAYERS * (QUERY + KEY + VALUE)] * 2),
    "phantom_drop": ([PhantomConfig(logits="drop")], 1.5, 1.5, *[LAYERS * VALUE] * 2),
    "both": ([PhantomConfig(), TrolConfig()], 4, 4, *[2 * LAYERS * (QUERY + KEY + VALUE)] * 2),
    "both_prompt": (
        [TrolConfig(tokens="prompt"), PhantomConfig(layers=(1, 2))],
        *(1.5, 1.5),
        *[2 * (QUERY + KEY + VALUE)] * 2,
    ),
    "partial_lora": ([PartialLoraConfig(rank=32), TrolConfig(tokens="prompt", share_gate=True)], 1, 1, 0, 0),
}


def sized(modifiers, family: str = "llama", **options) -> PhantrolConfig:
    sizes = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    sizes |= dict(num_key_value_heads=KEY_HEADS, vocab_size=2000, max_position_embeddings=4096)
    tokens = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    text = AutoConfig.for_model(family, **{**sizes, **tokens, **options})
    text.modifiers = [config_to_dict(modifier) for modifier in modifiers]
    vision = SiglipVisionConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=112,
        patch_size=14,
    )
    vision.vision_use_head = False
    return PhantrolConfig(text, vision, image_px=112, image_grid=8, unshuffle=2, image_token_id=IMAGE_TOKEN)


class Run:
    """The model with random weights, asked as PROMPT says, token by token, under PyTorch's own record of memory.

    cache_after_prompt, cache_at_end, and peaks of everything but the weights and the pixels, in bytes
    """

    @torch.no_grad()
    def __init__(self, config: PhantrolConfig, dtype: torch.dtype):
        torch.manual_seed(0)
        model = PhantrolForConditionalGeneration(config).to(dtype).eval()
        ids = torch.randint(5, 500, (ROWS, NUM_TOKENS))
        ids[:, 10 : 10 + NUM_TOKENS - TEXT] = IMAGE_TOKEN
        side = config.image_px
        self.pixels = torch.randn(ROWS * IMAGES * TILES, 3, side, side)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            with record_function("see"):
                model(pixel_values=self.pixels)
            cache, length = DynamicCache(config=config.text_config), NUM_TOKENS
            with record_function("read"):
                inputs = {"past_key_values": cache, "prompt_length": length, "logits_to_keep": 1}
                model(input_ids=ids, pixel_values=self.pixels, **inputs).logits.float()
            self.cache_after_prompt = own_count(cache)
            for _ in range(ANSWER - 1):
                model(input_ids=ids[:, :1], **inputs)
            with record_function("write"):
                model(input_ids=ids[:, :1], **inputs).logits.float()
        self.cache_at_end = own_count(cache)
        events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        self.peak, alive, phase = dict.fromkeys(("see", "read", "write"), 0), 0, None
        for event in events:
            phase = event.name() if event.name() in self.peak else phase
            if event.name() == "[memory]":
                alive += event.nbytes()
                self.peak[phase] = max(self.peak[phase], alive)


def own_count(cache) -> int:
    """The bytes of all tensors of a cache, each as large as it looks."""
    tensors = [getattr(layer, kind, None) for layer in cache.layers for kind in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("name", SETS)
def test_cache_and_activations_are_those_of_a_real_run(name):
    config = sized(SETS[name][0])
    (seeing, reading, writing), run = phases(config, PROMPT, "float32"), Run(config, torch.float32)
    assert seeing.cache == 0
    assert reading.cache == run.cache_after_prompt
    assert writing.cache == run.cache_at_end
    _, after_prompt, at_end, anchors_after_prompt, anchors_at_end = SETS[name]
    assert reading.cache == 4 * ROWS * (NUM_TOKENS * PLAIN * after_prompt + anchors_after_prompt)
    assert writing.cache == 4 * ROWS * ((NUM_TOKENS + ANSWER) * PLAIN * at_end + anchors_at_end)
    pixels = run.pixels.nbytes  # these the run had before it was watched
    assert seeing.activations - pixels == pytest.approx(run.peak["see"], rel=0.1)
    assert reading.activations + reading.cache - pixels == pytest.approx(run.peak["read"], rel=0.1)
    assert writing.activations + writing.cache - pixels == pytest.approx(run.peak["write"], rel=0.1)


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_other_families_in_bfloat16(family):
    config = sized([TrolConfig(), PhantomConfig()], family)
    (seeing, reading, writing), run = phases(config, PROMPT, "bfloat16"), Run(config, torch.bfloat16)
    assert (reading.cache, writing.cache) == (run.cache_after_prompt, run.cache_at_end)
    pixels = run.pixels.nbytes
    assert seeing.activations - pixels == pytest.approx(run.peak["see"], rel=0.1)
    assert reading.activations + reading.cache - pixels == pytest.approx(run.peak["read"], rel=0.1)


def test_the_cache_of_a_sliding_window_stops_growing():
    config = sized([TrolConfig()], "mistral", sliding_window=50)
    _, reading, writing = phases(config, PROMPT, "float32")
    run = Run(config, torch.float32)
    # what transformers keeps of a window is a view of more: the bytes that are held are at least those that it looks at
    assert run.cache_at_end <= writing.cache < phases(sized([TrolConfig()]), PROMPT, "float32")[2].cache
    assert run.cache_after_prompt <= reading.cache


def test_a_prompt_without_pictures():
    seeing, reading, writing = phases(sized([PartialLoraConfig(rank=4)]), Prompt(TEXT, images=0, answer_tokens=1))
    assert seeing.activations == seeing.cache == 0
    assert reading.cache == 2 * TEXT * PLAIN and writing.cache == 2 * (TEXT + 1) * PLAIN


def test_angles_that_stretch_with_the_position_do_not_disturb():
    scaling = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    config = sized([TrolConfig()], rope_parameters=scaling, max_position_embeddings=64)
    plain = phases(sized([TrolConfig()]), PROMPT)
    assert [phase.cache for phase in phases(config, PROMPT)] == [phase.cache for phase in plain]


@pytest.mark.parametrize("name", SETS)
def test_parameters_of_each_part(name):
    config = sized(SETS[name][0])
    model = PhantrolForConditionalGeneration(config)
    counts = count_parameters(on_shapes(config))
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["vision_tower"] == sum(parameter.numel() for parameter in model.vision_tower.parameters())
    parts = {"trol": "traversal_gate", "phantom": "phantom", "partial_lora": "lora_"}
    for part, mark in parts.items():
        found = sum(p.numel() for key, p in model.named_parameters() if f".{mark}" in key)
        assert counts.get(part, 0) == found, part
    assert weight_bytes(on_shapes(config), "float32") == sum(p.nbytes for p in model.parameters())
    assert weight_bytes(on_shapes(config), "float16") == sum(p.nbytes for p in model.half().parameters())


def test_counting_leaves_the_configuration_as_it_was():
    config = sized([TrolConfig(), PhantomConfig()])
    model, before = on_shapes(config), config.to_dict()
    count_parameters(model), weight_bytes(model, "int4")
    assert config.to_dict() == before and len(model.config.modifiers) == 2


def test_seven_billion_parameters_take_no_memory():
    sizes = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = sized([PhantomConfig()], num_key_value_heads=8, **sizes | dict(vocab_size=92544))
    assert weight_bytes(on_shapes(config), "float16") > 15e9
    assert phases(config, Prompt(text_tokens=10_000, answer_tokens=1))[1].cache > 2.5e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="'int2': expected float32, bfloat16, float16, int8, int4"):
        phases(sized([]), PROMPT, "int2")


def test_a_cache_counts_what_is_shared_once():
    cache = DynamicCache()
    cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    cache.layers[0].values = cache.layers[0].keys[:, :, :1]
    assert cache_bytes(cache) == 4 * 24


def test_int8_has_its_largest_linear_in_full_beside_it(monkeypatch):
    config = sized([])
    told = phases(config, PROMPT, "int8")
    largest = max(on_shapes(config).get_submodule(name).weight.numel() for name in backbone_linears(on_shapes(config)))
    monkeypatch.setattr("phantrol.models.memory.backbone_linears", lambda model: [])
    without = phases(config, PROMPT, "int8")
    apart = [one.activations - other.activations for one, other in zip(told, without, strict=True)]
    assert apart == [0, *[2 * largest] * (len(told) - 1)], "in bfloat16, where the decoder computes"
