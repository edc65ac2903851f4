"""A recipe as JSON, with all its defaults written out: it lies beside every model that a run leaves."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from phantrol.find import import_file
from phantrol.training.recipe import Recipe


def recipe_to_json(recipe: Recipe) -> str:
    """Return the recipe as JSON; an object with `class` is a dataclass, named by module or file.

    Raises ValueError for a value that JSON cannot hold, naming where it is.
    """
    return json.dumps(_written(recipe, "recipe"), indent=1, ensure_ascii=False)


def recipe_from_json(text: str) -> Recipe:
    """Return the recipe that `recipe_to_json` wrote. It imports the modules named in it, so read only what you trust.

    Raises ValueError if the text is broken, or a class is not there or not as it was.
    """
    try:
        recipe = _read(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"the recipe is no JSON: {error}") from None
    if not isinstance(recipe, Recipe):
        raise ValueError(f"got a {type(recipe).__name__}, expected a Recipe")
    return recipe


def recipe_text(path: Path) -> str:
    """Return what the recipe.json of a run holds. Raises ValueError, naming the file, if it is not there or broken."""
    try:
        text = path.read_text("utf-8")
        for stage in json.loads(text)["stages"]:
            _ = stage["name"], int(stage["max_steps"]), stage["loss"]["class"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}), so the run can neither go on nor be merged: "
            "copy it back from where it was, or begin again in another folder"
        ) from None
    return text


def differences(one: str, other: str) -> list[str]:
    """Return where two recipes in JSON differ, a line each: `stages.0.lr: 0.1, not 0.2`."""
    return _differences(json.loads(one), json.loads(other), "")


def _written(value: Any, where: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _written(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value)}
        return {"class": _class_name(type(value)), **parts}
    if isinstance(value, Mapping):
        if "class" in value or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where}: got keys {list(value)}, expected texts, none of them 'class'")
        return {key: _written(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_written(part, f"{where}.{index}") for index, part in enumerate(value)]
    if isinstance(value, Path):
        return {"class": "Path", "path": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{where}: got a {type(value).__name__}, expected numbers, texts, tuples or frozen dataclasses of such"
    )


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(part) for part in value)
    if not isinstance(value, dict):
        return value
    parts = {key: _read(part) for key, part in value.items() if key != "class"}
    if "class" not in value:
        return parts
    if value["class"] == "Path":
        return Path(parts["path"])
    known = _find_class(value["class"])
    try:
        # a field that another version did not write stands for what that version did: its default
        needed = [field.name for field in fields(known) if field.init and (field.name in parts or _is_needed(field))]
        return known(**{name: parts.pop(name) for name in needed}, **parts)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{value['class']} has changed since the recipe was written: {error}") from None


def _is_needed(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _class_name(kind: type) -> str:
    module = sys.modules[kind.__module__]
    return f"{getattr(module, '__phantrol_file__', kind.__module__)}:{kind.__qualname__}"


def _find_class(name: str) -> type:
    home, _, qualified_name = name.rpartition(":")
    try:
        found: Any = import_file(Path(home)) if home.endswith(".py") else importlib.import_module(home)
        for part in qualified_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the recipe needs {name}, which is not there: {error}") from None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"the recipe names {name}, expected a dataclass")
    return found


def _differences(one: Any, other: Any, where: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(key, one.get(key), other.get(key)) for key in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(str(index), a, b) for index, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [f"{where}: {json.dumps(one)}, not {json.dumps(other)}"]
    return [line for key, a, b in pairs for line in _differences(a, b, f"{where}.{key}".lstrip("."))]
