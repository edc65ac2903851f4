"""From what a user types about Primer to a source: families, tasks, a split, sprites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from phantrol.data.primer.curriculum import work_out
from phantrol.data.primer.tasks import FAMILIES, TASKS
from phantrol.data.sources.primer import PrimerSource


def choose_source(families: Sequence[str] = (), tasks: Sequence[str] = (), **options: object) -> PrimerSource:
    """Return the source of some families, or of some tasks, or of all that the other options allow.

    families, tasks  names, also several with commas between them;  options  fields of PrimerSource
    Raises ValueError for an unknown family or task, for one that the split does not ask, for both at once, and for
    names that name nothing.
    """
    families, tasks = _split_up("families", families), _split_up("tasks", tasks)
    source = PrimerSource(**options)
    if families and tasks:
        raise ValueError("families and tasks were both given: name one of them")
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"unknown Primer family {', '.join(unknown)}: use some of {', '.join(FAMILIES)}")
    if families:
        possible = work_out(source.curriculum, source.split, source.size_px).tasks
        missing = [name for name in families if all(TASKS[task].family != name for task in possible)]
        if missing:
            here = dict.fromkeys(TASKS[task].family for task in possible)
            raise ValueError(
                f"Primer split {source.split} at {source.size_px} px asks no {', '.join(missing)}: it has "
                f"{', '.join(here)}"
            )
        weights = {name: weight for name, weight in possible.items() if TASKS[name].family in families}
    else:
        weights = {name: TASKS[name].weight if name in TASKS else 1.0 for name in tasks}
    captions = source.captions and (not weights or "captions" in weights)
    return replace(source, tasks=weights or None, captions=captions)


def _split_up(kind: str, names: Sequence[str]) -> list[str]:
    parts = [part for name in names for part in name.replace(" ", "").split(",") if part]
    if names and not parts:
        raise ValueError(f"{kind} are empty: name some, or leave them out for all")
    return parts
