from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, SiglipVisionConfig

import phantrol
from phantrol.explain.traversal import stretch_layers, trace_traversal
from phantrol.models.tokenizer import train_tokenizer

LAYERS = 3


def build(modifiers, seed=0, **image_options):
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    vision.vision_use_head = False
    tokenizer = train_tokenizer(["What color is the circle?"] * 4, 300)
    model, processor = phantrol.build(text, vision, modifiers, tokenizer=tokenizer, **image_options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((1.0 if "gate" in name else 0.2) * torch.randn_like(parameter))
    return model, processor


def ask(*parts):
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return [{"role": "user", "content": content}]


RED, WIDE = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (64, 32), "blue")


def test_the_ratios_are_what_the_gates_compute_from_the_first_pass():
    model, processor = build([phantrol.TrolConfig(gate_bias=0.0)])
    chat = ask(RED, "What color?")
    traversal = trace_traversal(model, processor, chat)
    # by hand: σ(2·(W h + b)) on what each layer gets
    inputs = []
    hooks = [
        layer.traversal_gate.register_forward_pre_hook(lambda gate, args: inputs.append((gate, args[0])))
        for layer in model.get_decoder().layers
    ]
    prompt = processor.encode(chat, add_generation_prompt=True)
    with torch.no_grad():
        model(torch.tensor([prompt.input_ids]), prompt.pixel_values)
        expected = [torch.sigmoid(2 * (h @ gate.weight.T + gate.bias))[0, :, 0] for gate, h in inputs]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(traversal.ratios, torch.stack(expected))
    assert traversal.ratios.std() > 0.01  # the gates do tell tokens apart
    assert traversal.layers == (0, 1, 2)
    assert len(traversal.tokens) == len(prompt.input_ids) == traversal.ratios.shape[1]
    assert "".join(traversal.tokens).endswith("<|assistant|>")
    assert sum(traversal.is_image) == 16
    assert all((text == "<image>") == flag for text, flag in zip(traversal.tokens, traversal.is_image, strict=True))


def test_no_hook_is_left_behind():
    model, processor = build([phantrol.TrolConfig()])
    trace_traversal(model, processor, ask(RED, "What?"))
    with pytest.raises(ValueError, match="without text"):
        trace_traversal(model, processor, ask(RED, ""))
    assert not any(layer.traversal_gate._forward_hooks for layer in model.get_decoder().layers)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"layers": (1,)}, (1,)),
        ({"share_gate": True}, (0, 1, 2)),
        ({"passes": 3}, (0, 1, 2)),
        ({"tokens": "prompt"}, (0, 1, 2)),
    ],
)
def test_every_kind_of_traversal(options, layers):
    model, processor = build([phantrol.TrolConfig(gate_bias=0.0, **options), phantrol.PhantomConfig(init="random")])
    traversal = trace_traversal(model, processor, ask(RED, "What?"))
    assert traversal.layers == layers
    assert traversal.ratios.shape == (len(layers), len(traversal.tokens))
    assert not torch.equal(traversal.ratios[0], traversal.ratios[-1]) or len(layers) == 1


def test_three_passes_report_the_first_decision():
    """Where the first gate of layer 0 sees the same states, it says the same, however many passes follow."""
    two, processor = build([phantrol.TrolConfig(gate_bias=0.0)])
    three, _ = build([phantrol.TrolConfig(gate_bias=0.0, passes=3)])
    three.load_state_dict(two.state_dict())
    chat = ask(RED, "What?")
    one, other = trace_traversal(two, processor, chat), trace_traversal(three, processor, chat)
    assert torch.equal(one.ratios[0], other.ratios[0])
    assert not torch.equal(one.ratios[1], other.ratios[1])


def test_a_model_without_gates_says_so():
    model, processor = build([phantrol.PhantomConfig()])
    with pytest.raises(ValueError, match="no layer of this model traverses"):
        trace_traversal(model, processor, ask(RED, "What?"))


def test_where_the_tokens_of_each_picture_are():
    model, processor = build([phantrol.TrolConfig()], max_tiles=2)
    traversal = trace_traversal(model, processor, ask(WIDE, "and", RED, "What color?"))
    wide, red = traversal.pictures
    assert wide.picture.size == (64, 32) and red.picture.size == (32, 32)
    # two tiles side by side, 16 tokens each: the first row of the left tile, then the first row of the right one
    first = traversal.is_image.index(True)
    assert wide.positions.shape == (4, 8)
    assert wide.positions[0].tolist() == [first, first + 1, first + 2, first + 3, *range(first + 16, first + 20)]
    assert wide.positions[3, -1] == first + 31
    # after them a thumbnail of 16 tokens, which belongs to no place; then the second picture
    assert red.positions.shape == (4, 4)
    assert red.positions.flatten().tolist() == [i for i, flag in enumerate(traversal.is_image) if flag][-16:]


def test_unshuffled_grids():
    model, processor = build([phantrol.TrolConfig()], unshuffle=2)
    traversal = trace_traversal(model, processor, ask(RED, "What?"))
    assert traversal.pictures[0].positions.shape == (2, 2)


def test_a_chat_without_pictures():
    model, processor = build([phantrol.TrolConfig()])
    chat = [{"role": "user", "content": "What color?"}, {"role": "assistant", "content": "red"}]
    traversal = trace_traversal(model, processor, chat)
    assert traversal.pictures == ()
    assert traversal.tokens[-1] == "<|end|>"


def test_stretching_hides_absolute_values():
    ratios = torch.tensor([[0.001, 0.002, 0.0015], [0.1, 0.9, 0.5], [0.3, 0.3, 0.3]])
    expected = torch.tensor([[0, 1, 0.5], [0, 1, 0.5], [0, 0, 0]])
    torch.testing.assert_close(stretch_layers(ratios), expected)
