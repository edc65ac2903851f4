"""A modifier, a loss, a data source, a benchmark and a recipe are one new file each: here they are, and they run."""

import json

from safetensors.torch import load_file

MODIFIER = '''
"""Louder: a layer's output times a learnt number."""
import dataclasses
import torch
from phantrol.modifiers.base import LayerModifier, mark_initialized

@dataclasses.dataclass(frozen=True)
class LouderConfig:
    start: float = 1.5

class Louder:
    def forward(self, hidden_states, *args, **kwargs):
        return super().forward(hidden_states, *args, **kwargs) * self.louder.weight

class LouderModifier(LayerModifier):
    Config, mixin = LouderConfig, Louder

    def attach(self, layer, layer_idx, text_config):
        layer.louder = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(layer.louder.weight, self.config.start)
        mark_initialized(layer.louder)

MODIFIER = LouderModifier
'''

LOSS = '''
"""Half of the usual."""
from dataclasses import dataclass
from phantrol.losses.base import Loss, LossOutput, token_logprobs

@dataclass(frozen=True)
class Half(Loss):
    def __call__(self, model, batch, totals):
        return LossOutput(-token_logprobs(model, batch).sum() / (2 * totals["tokens"]), {"halves": 1.0})

LOSS = Half
'''

SOURCE = '''
"""One grey picture after another."""
from dataclasses import dataclass
from PIL import Image
from phantrol.data.messages import Example, Message

@dataclass(frozen=True)
class Greys:
    pictures: int = 16

    def __len__(self):
        return self.pictures

    def __getitem__(self, index):
        picture = Image.new("RGB", (64, 64), (16 * index,) * 3)
        answer = "dark" if index < 8 else "bright"
        messages = (Message("user", (picture, "How bright is it?")), Message("assistant", (answer,)))
        return (Example(f"grey/{index}", messages, task="grey"),)

SOURCE = Greys
'''

BENCHMARK = '''
"""Is it dark?"""
from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.metrics import exact_match
from phantrol.find import find

class Grey(Benchmark):
    max_new_tokens = 2

    def rows(self, split, limit=None, seed=0):
        examples = [example for index in range(16) for example in find("sources", "FOLDER/greys.py")()[index]]
        return [Row(e.id, e.task, [e.messages[0].as_chat()], e.messages[1].text) for e in examples][:limit]

    def score(self, row, text):
        return exact_match(text, row.answer)

BENCHMARK = Grey
'''

RECIPE = '''
"""The recipe primer_tiny with all of the above."""
from dataclasses import replace
from phantrol.data.mixture import Mixture
from phantrol.find import find
from phantrol.recipes.primer_tiny import recipe as tiny

def recipe():
    base = tiny()
    modifier = find("modifiers", "FOLDER/louder.py").Config()
    data = Mixture(((1.0, find("sources", "FOLDER/greys.py")()),))
    stage = replace(base.stages[1], name="greys", data=data, loss=find("losses", "FOLDER/half.py")(), max_steps=2,
                    warmup_steps=0, batch_size=2, precision="float32")
    return replace(base, model=replace(base.model, modifiers=(modifier,)), stages=(stage,), log_every_steps=1)
'''


def test_five_files_train_and_score_a_model(tmp_path, phantrol):
    files = {"louder": MODIFIER, "half": LOSS, "greys": SOURCE, "darkness": BENCHMARK, "mine": RECIPE}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text.replace("FOLDER", str(tmp_path)))
    out = tmp_path / "run"
    done = phantrol("train", tmp_path / "mine.py", "--out", out)
    assert done.code == 0, done.error
    weights = load_file(out / "final" / "model.safetensors")
    louder = [value.item() for name, value in weights.items() if name.endswith("louder.weight")]
    assert len(louder) == 3 and all(value != 1.5 for value in louder)  # each layer has one, and it has learnt
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["stage"] == "greys" and rows[0]["halves"] == 1.0
    scored = phantrol("eval", out / "final", tmp_path / "darkness.py", "--limit", 16, "--json", tmp_path / "s.json")
    assert scored.code == 0, scored.error
    assert json.loads((tmp_path / "s.json").read_text())["scores"]["grey"]["n"] == 16
