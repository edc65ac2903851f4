"""A model of a million parameters learns to see, from nothing, in minutes on two CPU cores.

    phantrol demo                         train, evaluate, ask, and a report
    phantrol train primer_tiny --out runs/tiny

Three stages, all on pictures that Primer draws while it trains; budgets are in steps. Why each one is here, and what
was tried and failed, is in LOG.md.
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.data.mixture import Mixture
from phantrol.data.sources.primer import PrimerSource
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import NewModel, TrainedTokenizer
from phantrol.training.recipe import Recipe, Stage

IMAGE_PX = 64
VOCABULARY = 512  # all 256 bytes, the special tokens, and every word that is used here
TASKS = {
    "shape": 0.8,
    "colour_several": 0.8,
    "colour_one": 0.2,
    "existence": 1.3,
    "count": 0.3,
    "left_right": 3.0,  # the last to be learnt, and the one that wants most
    "outermost": 0.6,
}
NAMED = {"shape": 1.0, "colour_several": 1.0, "colour_one": 0.3}  # answers that are words for what is shown


def recipe() -> Recipe:
    shapes = PrimerSource(tasks=TASKS, size_px=IMAGE_PX, questions_per_picture=8, scenes=("shapes",), sprites=64)
    # with one object alone, any colour that is seen is right: pictures of several keep that shortcut from being learnt
    several = replace(
        shapes, tasks={name: weight for name, weight in TASKS.items() if name != "colour_one"}, min_objects=2
    )
    mixture = Mixture(((0.4, shapes), (0.6, several)))
    model = NewModel(
        text=dict(
            model_type="llama",
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.05,
        ),
        vision=dict(
            model_type="stem_vision",
            image_size=IMAGE_PX,
            # 64 px to 6 x 6 tokens; the last convolution has no padding, so that no token is half of rim
            stem=[[32, 5, 2, 2], [64, 3, 2, 1], [128, 3, 2, 1], [128, 3, 1, 0]],
        ),
        modifiers=(TrolConfig(layers=(1,), gate_bias=-1.0), PhantomConfig(layers=(2,))),
        tokenizer=TrainedTokenizer(mixture, groups=1000, vocab_size=VOCABULARY),
        options=dict(match_embeddings=True, feature_positions=True, projector_norm=False),
        attention="eager",  # of short rows with a mask, twice as fast on a CPU as sdpa
    )
    align = Stage(
        "align",
        data=Mixture(((1.0, replace(shapes, tasks=NAMED, questions_per_picture=1)),)),
        loss=WordAlignment(),
        train=("vision_tower.*", "projector.*"),
        lr=1.5e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        warmup_steps=30,
        max_steps=600,
        batch_size=32,
        precision="auto",
    )
    tune = replace(
        align,
        name="tune",
        data=mixture,
        loss=Sft(),
        train=("*",),
        lr=2e-3,
        muon_lr=0.015,
        weight_decay=0.05,
        warmup_steps=60,
        max_steps=900,
        batch_size=16,
        optimiser="muon",
        precision="float32",
    )
    prefer = replace(
        tune,
        name="prefer",
        # each question brings two wrong answers, so half as many of them fill a row
        data=Mixture(tuple((weight, replace(source, questions_per_picture=4)) for weight, source in mixture.parts)),
        loss=PhantomOptimization(),
        lr=2e-4,
        muon_lr=1.5e-3,
        warmup_steps=5,
        max_steps=40,
    )
    return Recipe(model=model, stages=(align, tune, prefer), seed=0)
