"""The variants of the experiment, as data. One entry is one way to change a recipe; the rest stays as it is.

A file of your own with `VARIANTS = (Variant("wide_gate", "...", trol={"gate_bias": 0.0}), ...)` is given by its path:
`phantrol ablate primer_tiny plain my_variants.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from phantrol.ablation.changing import with_methods, with_precision, with_preference
from phantrol.ablation.costs import training_flops
from phantrol.ablation.deeper import match_compute
from phantrol.find import import_file
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.precision import Precision
from phantrol.training.recipe import Recipe


def unchanged(recipe: Recipe) -> Recipe:
    return recipe


@dataclass(frozen=True)
class Variant:
    """One way to change a recipe: `variant(recipe)` is the changed recipe, a pure function.

    name        of letters, digits, "_", "-" and ".": its runs lie in a folder of that name
    what        a line for the report
    trol, phantom  None: without the method. Else options that differ from the recipe's own configuration of it, or from
                the defaults where it has none; `layers` may also be "lower half" or "lower quarter"
    preference  with Phantom Optimization (see `with_preference`); False: SFT in its place, for as many steps
    precision   of every stage, and of the weights when questions are asked; None: as in the recipe
    compute_of  a variant whose training this plain one equals in FLOPs, by more layers
    asked_tokens  which tokens traverse when questions are asked: "all", "prompt", "none"; None: as in training
    asked_without_phantom  the phantom dimension is taken out when questions are asked
    against     the variant that it is compared with
    change      a last change of the recipe, whatever it is

    Raises ValueError for a name that is no folder's, and options that are none.
    """

    name: str
    what: str
    trol: Mapping[str, Any] | None = None
    phantom: Mapping[str, Any] | None = None
    preference: bool = False
    precision: Precision | None = None
    compute_of: Variant | None = None
    asked_tokens: Literal["all", "prompt", "none"] | None = None
    asked_without_phantom: bool = False
    against: str = "plain"
    change: Callable[[Recipe], Recipe] = unchanged

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"a variant is called {self.name!r}: expected letters, digits, '_', '-' and '.'")
        for method, options in (("trol", self.trol), ("phantom", self.phantom)):
            if not isinstance(options, Mapping | None):
                raise ValueError(f"variant {self.name}: got {method}={options!r}, expected None or options, as in {{}}")

    def __call__(self, recipe: Recipe, count: Callable[[Recipe], float] = training_flops) -> Recipe:
        """Return the changed recipe. `count` tells the FLOPs of a recipe's training.

        Raises ValueError if the recipe does not have what is to be changed, or `change` returns none.
        """
        changed = with_precision(with_preference(recipe, self.preference), self.precision)
        changed = with_methods(changed, self.trol, self.phantom)
        if self.compute_of is not None:
            changed = match_compute(changed, count(self.compute_of(recipe, count)), count)
        changed = self.change(changed)
        if not isinstance(changed, Recipe):
            raise ValueError(f"its change returned a {type(changed).__name__}, expected the changed Recipe")
        return changed

    def modifiers_asked(self, modifiers: Sequence[Any]) -> tuple[Any, ...]:
        """Return the modifiers with which a model that was trained with `modifiers` is asked."""
        asked = []
        for config in modifiers:
            if isinstance(config, TrolConfig) and self.asked_tokens is not None:
                if self.asked_tokens == "none":
                    continue
                config = replace(config, tokens=self.asked_tokens)
            if not (isinstance(config, PhantomConfig) and self.asked_without_phantom):
                asked.append(config)
        return tuple(asked)


PLAIN = Variant("plain", "the decoder alone")
TROL = Variant("trol", "TroL, in the layers of the recipe, or in all", trol={})
PHANTOM = Variant("phantom", "the phantom dimension, in the layers of the recipe, or in all", phantom={})
BOTH = Variant("both", "TroL and the phantom dimension", trol={}, phantom={})

METHODS = (
    PLAIN,
    TROL,
    PHANTOM,
    BOTH,
    *(
        replace(variant, name=f"{variant.name}_po", what=f"{variant.what}; Phantom Optimization", preference=True)
        for variant in (PLAIN, TROL, PHANTOM, BOTH)
    ),
)
TOKENS = (
    Variant("trol_all_all", "prompt and answer traverse in training and when asked", trol={"tokens": "all"}),
    Variant(
        "trol_all_prompt", "trained with all, asked with the prompt", trol={"tokens": "all"}, asked_tokens="prompt"
    ),
    Variant("trol_all_none", "trained with all, asked without traversal", trol={"tokens": "all"}, asked_tokens="none"),
    Variant("trol_prompt_prompt", "the prompt alone traverses, as released", trol={"tokens": "prompt"}),
    Variant(
        "trol_prompt_all", "trained with the prompt, asked with all", trol={"tokens": "prompt"}, asked_tokens="all"
    ),
)
LAYERS = (
    Variant("trol_every_layer", "TroL in every layer, as in the paper", trol={"layers": "all"}),
    Variant("trol_lower_half", "TroL in the lower half of the layers", trol={"layers": "lower half"}),
    Variant("trol_lower_quarter", "TroL in the lower quarter of the layers", trol={"layers": "lower quarter"}),
    Variant("trol_three_passes", "TroL with three passes", trol={"passes": 3}),
)
COMPUTE = (
    Variant("plain_deeper", "the decoder alone, with more layers: the training FLOPs of trol", compute_of=TROL),
    Variant("plain_deeper_both", "the decoder alone, with more layers: the training FLOPs of both", compute_of=BOTH),
)
ETAS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "released": ("η = 1e-4, random at the start, as released", {"eta": 1e-4, "init": "random"}),
    "small": ("η = 1e-4", {"eta": 1e-4}),
    "one": ("η = 1", {"eta": 1.0}),
    "trained": ("η trained, from 1e-4", {"eta": 1e-4, "train_eta": True}),
    "anchors": ("η = 1, four anchors, 8 tokens apart", {"eta": 1.0, "anchors": 4, "anchor_stride": 8}),
}
DIMENSION = (
    Variant("phantom_taken_out", "trained with phantom, asked without", phantom={}, asked_without_phantom=True),
    *(
        variant
        for precision, short in (("float32", "fp32"), ("bfloat16", "bf16"))
        for variant in (
            Variant(f"plain_{short}", f"the decoder alone, in {precision}", precision=precision),
            *(
                Variant(
                    f"phantom_{name}_{short}",
                    f"phantom, {what}; in {precision}",
                    phantom=options,
                    precision=precision,
                    against=f"plain_{short}",
                )
                for name, (what, options) in ETAS.items()
            ),
        )
    ),
)  # fmt: skip
GROUPS = {"methods": METHODS, "tokens": TOKENS, "layers": LAYERS, "compute": COMPUTE, "dimension": DIMENSION}
VARIANTS = tuple(variant for group in GROUPS.values() for variant in group)


def choose_variants(wanted: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Return the variants of these names, groups or files, and those that they are compared with; without names, all.

    Raises ValueError for an unknown name, and for two variants of one name.
    """
    known = {variant.name: variant for variant in VARIANTS}
    chosen: list[Variant] = []
    for name in wanted or GROUPS:
        if name.endswith(".py"):
            chosen += _read_variants(Path(name))
        elif name in GROUPS or name in known:
            chosen += GROUPS.get(name) or (known[name],)
        else:
            raise ValueError(
                f"unknown variant {name!r}: known are the groups {', '.join(GROUPS)}, and {', '.join(known)}; "
                "or give a .py file with VARIANTS"
            )
    while missing := [variant for variant in chosen if variant.against not in {other.name for other in chosen}]:
        name = missing[0].against
        if name not in known:
            raise ValueError(f"a variant is compared with {name!r}, which is not there: known are {', '.join(known)}")
        chosen.insert(chosen.index(missing[0]), known[name])  # which may be compared with another one in its turn
    found = {variant.name: variant for variant in chosen}
    doubled = [variant.name for variant in chosen if found[variant.name] != variant]
    if doubled:
        raise ValueError(f"two variants are called {doubled[0]!r}: give one of them another name")
    return tuple(found.values())


def _read_variants(path: Path) -> tuple[Variant, ...]:
    found = getattr(import_file(path), "VARIANTS", None)
    if not isinstance(found, tuple | list) or not found or not all(isinstance(each, Variant) for each in found):
        raise ValueError(f"{path} holds no VARIANTS: expected a tuple of Variant(name, what, ...)")
    return tuple(found)
