"""Phantom-7B: InternLM2.5-7B behind InternViT-300M, 8 bits.

    phantrol train phantom_7b root=DATA --out runs/phantom_7b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe phantom_7b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import INTERNLM2_5_7B, phantom
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return phantom(INTERNLM2_5_7B, root, together)
