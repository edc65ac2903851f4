"""Phantom-0.5B: Qwen2-0.5B behind InternViT-300M, 8 bits.

    phantrol train phantom_0_5b root=DATA --out runs/phantom_0_5b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe phantom_0_5b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import QWEN2_0_5B, phantom
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return phantom(QWEN2_0_5B, root, together)
