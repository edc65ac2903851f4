"""The splits of Primer and what each may show, ask and mention."""

from __future__ import annotations

from dataclasses import dataclass

from phantrol.data.primer.sprite_packs import BUNDLED, SpritePack
from phantrol.data.primer.vocabulary import ALL_PAIRS, HELD_OUT_PAIRS, TRAIN_PAIRS, Pair

PAGES = ("ocr", "charts", "tables", "documents", "diagrams")  # kinds with words on them
FIGURES = ("figures",)


@dataclass(frozen=True)
class Split:
    """What a split is made of.

    pairs            colour-shape pairs that its pictures show and its questions are about
    mentioned        pairs that may stand in wrong answers, options and distractors
    objects          fewest and most objects in a picture, unless a curriculum says otherwise
    style            how shapes and sprites are drawn: "plain" or "sketch"
    held_out_wording whether questions use the wordings that training never reads
    scene_kinds      kinds of pictures, and "text" (no picture), as far as the split tests something with them
    unseen           whether words, scales and numbers are those that training never shows nor says
    more             whether charts, tables and the like have more items than in training
    pack             sprites that its pictures show and its questions are about
    extra_fonts      whether `test_style` writes in the fonts of the extra as well
    """

    name: str
    pairs: tuple[Pair, ...] = TRAIN_PAIRS
    mentioned: tuple[Pair, ...] = TRAIN_PAIRS
    objects: tuple[int, int] = (1, 3)
    style: str = "plain"
    held_out_wording: bool = False
    scene_kinds: tuple[str, ...] = ("shapes", "sprites", "text", *PAGES, *FIGURES)
    unseen: bool = False
    more: bool = False
    pack: SpritePack = BUNDLED
    extra_fonts: bool = False


SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split("train"),
        Split("val"),
        Split("test_comp", pairs=HELD_OUT_PAIRS, mentioned=ALL_PAIRS, scene_kinds=("shapes", *PAGES), unseen=True),
        Split("test_style", style="sketch", scene_kinds=("shapes", "sprites", *PAGES, *FIGURES)),
        Split("test_para", held_out_wording=True),
        Split("test_hard", objects=(4, 6), scene_kinds=("shapes", "sprites", *PAGES), more=True),
    )
}


def find_split(name: str) -> Split:
    """Return the split of this name. Raises ValueError with the known names."""
    if name not in SPLITS:
        raise ValueError(f"unknown Primer split {name!r}: use one of {', '.join(SPLITS)}")
    return SPLITS[name]
