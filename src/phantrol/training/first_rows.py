"""The first rows of a run's sources, read before a model is built: a wrong path is not to be found hours later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phantrol.data.mixture import Group, Groups, Mixture, empty_part
from phantrol.data.pictures import picture_size
from phantrol.data.skipping import SkippingCollator, read_groups
from phantrol.training.recipe import Stage

FEW = 4  # groups of each source: some rows have no picture


def check_data(stage: Stage, seed: int) -> None:
    """Look at what a stage trains on and at what it holds out, for a loss that needs pairs until there is one in each.

    Raises ValueError as `check_source`, and for a loss that needs rejected answers where there are none.
    """
    for mixture in (stage.data, *([stage.held_out.data] if stage.held_out else ())):
        for number, (_, source) in enumerate(mixture.parts):
            check_source(source, number, seed)
    if not stage.loss.needs_pairs:
        return
    looked_at = [("first", Groups(stage.data, seed, stage.batch_size))]
    if stage.held_out:  # which is measured by the same loss
        looked_at.append(("held-out", Groups(stage.held_out.data, 0, stage.held_out.groups)))
    for which, groups in looked_at:
        drawn = (read_groups(groups, [position])[0] for position in range(len(groups)))
        if not any(example.rejected for group in drawn for example in group):
            raise ValueError(
                f"stage {stage.name!r}: got no rejected answer in the {which} {len(groups)} groups, expected some for "
                f"{type(stage.loss).__name__}; choose another source, or train with Sft"
            )


def check_source(source: Sequence[Group], number: int, seed: int) -> None:
    """Read a few groups of a source, with the heads of their pictures, and skip what training would skip.

    number  of its part in the mixture
    Raises ValueError for a source that is empty or cannot be opened, and as SkippingCollator does.
    """
    if not len(source):
        raise empty_part(number, source)
    SkippingCollator(Groups(Mixture(((1.0, source),)), seed, FEW), _see)(range(FEW))


def _see(groups: Sequence[Group]) -> dict[str, Any]:
    for message in (message for group in groups for example in group for message in example.messages):
        for picture in message.pictures:
            picture_size(picture)
    return {}
