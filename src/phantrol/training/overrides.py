"""Changes to a recipe from the command line: `stages.0.lr=1e-4`, `stages.align.max_steps=5`, `seed=3`."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def override(thing: T, changes: Sequence[str]) -> T:
    """Return a copy of a dataclass with the changes made. It is checked again, as if it had been written so.

    A key walks fields by name, and tuples by position or by the `name` of an element; `*` is all elements. Lists are
    written a,b,c. The last change of a field counts; of different fields the order does not matter.
    Raises ValueError for an unknown key, listing the known ones, and for a value of the wrong type.
    """
    last = {change.partition("=")[:2]: number for number, change in enumerate(changes)}
    pending = [changes[number] for number in sorted(last.values())]
    while pending:
        failed: list[tuple[str, ValueError]] = []
        for change in pending:
            try:
                thing = _override(thing, change)
            except ValueError as error:  # it may fit only beside one that comes later
                failed.append((change, error))
        if len(failed) == len(pending):
            raise failed[0][1]
        pending = [change for change, _ in failed]
    return thing


def arguments(function: Callable[..., Any], changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the changes whose key is an argument of a function, as values of the types that it names, and the others.

    Raises ValueError for a value of the wrong type, an argument that has no default and is not there, and a key that
    is neither an argument nor a field of what the function says it returns.
    """
    known, hints = inspect.signature(function).parameters, get_type_hints(function)
    made = hints.get("return")
    possible = list(dict.fromkeys([*known, *_fields(made)])) if is_dataclass(made) else None
    given, others = {}, []
    for change in changes:
        key, equals, text = change.partition("=")
        if equals and key in known:
            given[key] = _parsed(text, hints.get(key, str), known[key].default, key)
        else:
            others.append(change)
    missing = [name for name, argument in known.items() if argument.default is argument.empty and name not in given]
    for key in (change.partition("=")[0] for change in others if possible and "=" in change):
        is_field = "." in key or key in (*possible, *_fields_inside(made))
        # of a field further inside `override` says the place, once there is a recipe
        if not is_field and (missing or get_close_matches(key, possible, 1)):
            raise _unknown(key, key, possible)
    if missing:
        raise ValueError(f"this recipe needs {' and '.join(f'{name}=...' for name in missing)} on the command line")
    return given, others


def _override(thing: T, change: str) -> T:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ValueError(f"override {change!r}: got no '=', expected KEY=VALUE, such as stages.0.lr=1e-4")
    return _changed(thing, key.split("."), text, type(thing), key)


def _changed(value: Any, path: list[str], text: str, hint: Any, key: str) -> Any:
    """Return `value` with the part that `path` leads to replaced."""
    if not path:
        return _parsed(text, hint, value, key)
    head, *rest = path
    if is_dataclass(value):
        known = _fields(value)
        if head not in known:
            place = _place_inside(value, head)
            before = key.split(".")[: -len(path)]
            raise _unknown(head, key, known, place and f"{'.'.join([*before, place, *path])}={text}")
        part = _changed(getattr(value, head), rest, text, _hints(type(value)).get(head, Any), key)
        return replace(value, **{head: part})
    if isinstance(value, tuple) and value and head == "*":
        return tuple(_changed(element, rest, text, type(element), key) for element in value)
    if isinstance(value, tuple):
        known = [getattr(element, "name", None) or str(index) for index, element in enumerate(value)]
        index = known.index(head) if head in known else int(head) if head.isdecimal() else len(value)
        if index >= len(value):
            raise _unknown(head, key, [*known, f"a number below {len(value)}"])
        part = _changed(value[index], rest, text, type(value[index]), key)
        return (*value[:index], part, *value[index + 1 :])
    raise ValueError(
        f"override {key}: got {head!r} after a {type(value).__name__}, which has no parts; end the key before"
    )


def _unknown(head: str, key: str, known: list[str], meant: str | None = None) -> ValueError:
    near = [meant] if meant else get_close_matches(head, known, 1)
    remedy = f"; did you mean {near[0]}?" if near else ""
    return ValueError(f"override {key}: unknown key {head!r}, expected one of {', '.join(known)}{remedy}")


def _fields(thing: Any) -> list[str]:
    return [field.name for field in fields(thing) if field.init]


def _fields_inside(kind: type) -> set[str]:
    """Return the names of the fields of what a dataclass has tuples of, as a recipe has of stages."""
    held = (each for hint in _hints(kind).values() for each in get_args(hint))
    return {name for each in held if is_dataclass(each) for name in _fields(each)}


def _place_inside(value: Any, name: str) -> str | None:
    """Return where in a dataclass a field of that name is, one step further in: of tuples, in the last element."""
    for place in _fields(value):
        part = getattr(value, place)
        if isinstance(part, tuple) and part:
            place, part = f"{place}.{getattr(part[-1], 'name', len(part) - 1)}", part[-1]
        if is_dataclass(part) and name in _fields(part):
            return place
    return None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # a name that only type checkers import
        return {}


def _parsed(text: str, hint: Any, current: Any, key: str) -> Any:
    """Return `text` as a value of the type that the field asks for."""
    for kind in _kinds(hint, current):
        try:
            return _as(kind, text)
        except (ValueError, SyntaxError, TypeError):  # of what is no tuple, or names no key of a mapping
            continue
    expected = " or ".join(_shown(kind) for kind in _kinds(hint, current))
    remedy = "; import it in a recipe file" if text.endswith(".py") else ""
    raise ValueError(f"override {key}: got {text!r}, expected {expected}{remedy}")


def _kinds(hint: Any, current: Any) -> list[Any]:
    """Return the types to try, the strictest first."""
    if hint is Any or hint is None:
        hint = type(current)
    kinds = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    return sorted(kinds, key=lambda kind: (kind is str, kind is float))


def _as(kind: Any, text: str) -> Any:
    if kind is type(None):
        return _one_of(text.lower(), {"none": None})
    if kind is bool:
        return _one_of(text.lower(), {"true": True, "false": False})
    if kind in (int, float, str, Path):
        return kind(text)
    if get_origin(kind) is Literal:
        return _one_of(text, {str(choice): choice for choice in get_args(kind)})
    if kind is tuple or get_origin(kind) is tuple:
        return _as_tuple(get_args(kind), text)
    value = ast.literal_eval(text)
    if not isinstance(value, get_origin(kind) or kind):
        raise ValueError
    return value


def _as_tuple(kinds: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    texts = text.split(",") if text else []
    if not kinds or get_origin(kinds[0]) is tuple:
        return tuple(ast.literal_eval(text))
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(texts)
    return tuple(_as(kind, part.strip()) for kind, part in zip(kinds, texts, strict=True))


def _one_of(text: str, choices: dict[str, Any]) -> Any:
    if text not in choices:
        raise ValueError
    return choices[text]


def _shown(kind: Any) -> str:
    if kind is type(None):
        return "none"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
