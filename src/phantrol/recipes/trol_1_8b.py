"""TroL-1.8B: InternLM2-1.8B behind CLIP-L, 4 bits.

    phantrol train trol_1_8b root=DATA --out runs/trol_1_8b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe trol_1_8b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import CLIP_L, INTERNLM2_1_8B, trol
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return trol(INTERNLM2_1_8B, CLIP_L, "nf4", root, together)
