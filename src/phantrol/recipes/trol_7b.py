"""TroL-7B: InternLM2-7B behind CLIP-L, 4 bits.

    phantrol train trol_7b root=DATA --out runs/trol_7b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe trol_7b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import CLIP_L, INTERNLM2_7B, trol
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return trol(INTERNLM2_7B, CLIP_L, "nf4", root, together)
