"""Primer: pictures drawn on the fly, with everything that is true of them. No download.

    from phantrol.data.primer import sample
    sample("train", "attributes", 0).turns[0].question

Three rules hold everywhere: the answer is drawn before the scene, evenly, so that a text-only reader stays at chance;
a sample is a pure function of (VERSION, split, family, index); and `train` and `val` never mention a held-out
colour-shape pair, wrong answers included.
"""

from phantrol.data.primer.curriculum import Curriculum
from phantrol.data.primer.generator import VERSION, Sample, Turn, sample
from phantrol.data.primer.splits import SPLITS
from phantrol.data.primer.tasks import FAMILIES, TASKS

__all__ = ["FAMILIES", "SPLITS", "TASKS", "VERSION", "Curriculum", "Sample", "Turn", "sample"]
