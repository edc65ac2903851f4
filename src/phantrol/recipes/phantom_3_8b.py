"""Phantom-3.8B: Phi-3-mini behind InternViT-300M, 8 bits.

    phantrol train phantom_3_8b root=DATA --out runs/phantom_3_8b

What is published and what is ours: papers.py. Memory and hours: `phantrol describe phantom_3_8b`.
"""

from __future__ import annotations

from phantrol.recipes.papers import PHI3_MINI, phantom
from phantrol.training.recipe import Recipe


def recipe(root: str = "data", together: int = 1) -> Recipe:
    return phantom(PHI3_MINI, root, together)
