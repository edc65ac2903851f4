"""TroL-3.8B: Phi-3-mini behind InternViT-300M, 8 bits.

    phantrol train trol_3_8b root=DATA --out runs/trol_3_8b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe trol_3_8b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import INTERNVIT, PHI3_MINI, trol
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return trol(PHI3_MINI, INTERNVIT, "int8", root, together)
