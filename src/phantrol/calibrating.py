"""The verb `calibrate`: a folder's model, a budget for its second passes, and what was chosen written and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from phantrol.data.choosing import choose_source
from phantrol.data.sources.file import FileSource
from phantrol.find import find
from phantrol.inference.calibrating import USUAL_BUDGET, Calibration, calibrate
from phantrol.inference.engine import Engine
from phantrol.models.building import check_folder
from phantrol.tables import number_table
from phantrol.training.checkpoint import MANIFEST, replace_text, written_beside
from phantrol.training.overrides import override
from phantrol.whole_files import make_room, write_text

CONFIG = "config.json"


def calibrate_folder(
    folder: Path,
    data: str,
    options: Sequence[str] = (),
    budget: float | None = None,
    out: Path | None = None,
    images: Path | None = None,
    examples: int = 100,
    batch_size: int = 8,
    json_path: Path | None = None,
) -> Calibration:
    """Do what `phantrol calibrate` does: choose, print, write into `out` or in place, and what was found as JSON.

    Raises ValueError as `calibrate`, `open_groups` and `write_calibrated` do, and if `json_path` cannot be written.
    """
    if out is not None:
        _check_apart(out, folder)
        make_room(out)
    if json_path is not None and (out is None or out.absolute() not in json_path.absolute().parents):
        make_room(json_path)
    check_folder(folder)  # no hub id: what is written lies beside the weights
    engine = Engine.open(folder)
    found = calibrate(engine.model, engine.processor, open_groups(data, options, images, examples), budget, batch_size)
    written = write_calibrated(folder, out, engine.model.get_decoder().config.modifiers)
    if json_path is not None:
        write_text(json_path, json.dumps(found.as_dict(), indent=1) + "\n")
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_table(found))
    said = found.recording
    kept = len(said.layers) - len(found.skip)
    console.print(
        f"{kept} of {len(said.layers)} layers traverse, {found.cost:.3g} times the plain decoder's passes. Loss of the "
        f"answers {said.loss:.4f} with all, {found.loss:.4f} so, {found.loss_none:.4f} with none. It is in {written}.",
        soft_wrap=True,
    )
    if budget is None and found.cost > USUAL_BUDGET:
        console.print(f"A single layer costs more here than the usual budget of {USUAL_BUDGET:g}.", soft_wrap=True)
    if kept and found.loss_none <= found.loss:
        console.print("These answers are as likely without any second pass: --budget 1 keeps none.", soft_wrap=True)
    return found


def open_groups(data: str, options: Sequence[str], images: Path | None, count: int) -> list[Any]:
    """Return so many groups of examples, evenly spread over a source.

    data  the name of a source, such as primer, or a file that `phantrol data check` reads;  options  its fields, as
    size_px=64. Raises ValueError for an unknown name or option, one that is missing, and a row that is broken.
    """
    if data == "primer":  # whose tasks are weights by name, but names when they are typed
        tasks = [option.removeprefix("tasks=") for option in options if option.startswith("tasks=")]
        source, options = choose_source(tasks=tasks), [each for each in options if not each.startswith("tasks=")]
    elif Path(data).exists() or Path(data).suffix not in ("", ".py"):
        source = FileSource(data, images=images)
    else:
        try:
            source = find("sources", data)()
        except TypeError as error:
            raise ValueError(f"{data}: {error}; name a file, or a source whose options all have a default") from None
    source = override(source, options)
    size = min(len(source), count)
    stride = 1 if hasattr(source, "pictures") else len(source) / max(size, 1)  # one without end is as good anywhere
    return [source[int(i * stride)] for i in range(size)]


def write_calibrated(folder: Path, out: Path | None, modifiers: Sequence[dict[str, Any]]) -> Path:
    """Write which layers are skipped into the configuration of a model's folder, or of a copy of it.

    out  a folder that does not exist yet, or None: the folder itself, of which one file changes
    Raises ValueError if `out` exists, or lies in `folder`.
    """
    if out is not None:
        _check_apart(out, folder)
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config["text_config"]["modifiers"] = list(modifiers)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if out is None:
        if (folder / MANIFEST).is_file():
            replace_text(folder, CONFIG, text)
        else:
            write_text(folder / CONFIG, text)
        return folder
    with written_beside(out) as writing:
        shutil.copytree(folder, writing, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, CONFIG))
        (writing / CONFIG).write_text(text, "utf-8")
    return out


def _check_apart(out: Path, folder: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or remove it")
    if folder.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies in {folder}, and would be a copy of it: choose a folder elsewhere")


def _table(found: Calibration) -> Table:
    table = number_table("layer", "moved", "mean w", "w > 1/2", "traverses")
    for row in found.as_dict()["layers"]:
        says = "yes" if row["traverses"] else "no more"
        table.add_row(*(f"{row[name]:.4g}" for name in ("layer", "moved", "ratio", "over_half")), says)
    return table
