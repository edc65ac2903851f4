"""Phantom-1.8B: InternLM2-1.8B behind InternViT-300M, 8 bits.

    phantrol train phantom_1_8b root=DATA --out runs/phantom_1_8b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe phantom_1_8b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import INTERNLM2_1_8B, phantom
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return phantom(INTERNLM2_1_8B, root, together)
