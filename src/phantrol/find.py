"""The name is the file: `find("losses", "dpo")` imports phantrol/losses/dpo.py and returns its one constant, LOSS.

A dotted name is imported as it stands (`my_package.my_loss`), and a name that ends in .py is a file of the user's. So a
new modifier, loss, benchmark, data source or recipe is one new file, with no registry to edit.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

# kind: (package that holds the files, the one name that each file defines)
KINDS = {
    "modifiers": ("phantrol.modifiers", "MODIFIER"),
    "losses": ("phantrol.losses", "LOSS"),
    "sources": ("phantrol.data.sources", "SOURCE"),
    "benchmarks": ("phantrol.evals.benchmarks", "BENCHMARK"),
    "recipes": ("phantrol.recipes", "recipe"),
}


def names(kind: str) -> list[str]:
    """Return the names that phantrol itself brings of a kind, in alphabetical order.

    Raises ValueError if the kind is not one of `KINDS`.
    """
    package, constant = _kind(kind)
    folder = Path(importlib.import_module(package).__file__).parent
    found = [module.name for module in pkgutil.iter_modules([str(folder)])]
    return [name for name in found if _defines(folder / f"{name}.py", constant)]


def find(kind: str, name: str) -> Any:
    """Return the one thing that the file called `name` defines.

    kind  a key of `KINDS`;  name  a file of that kind, a dotted module name, or a path that ends in .py
    Raises ValueError if there is no such file, or if it does not define the expected constant.
    """
    package, constant = _kind(kind)
    if name.endswith(".py"):
        module = import_file(Path(name))
    elif os.path.isfile(name) and name not in names(kind):  # Path.is_file() raises for a name that is too long
        known, command = ", ".join(names(kind)), f"`phantrol eval MODEL file --data {shlex.quote(name)}`"
        remedy = f"; for its rows write {command}" if kind == "benchmarks" else ""
        raise ValueError(f"{name}: got a file, expected a path that ends in .py, or one of {known}{remedy}")
    elif re.fullmatch(r"\w+(\.\w+)+", name):
        module = _import(name, f"no module {name!r}")
    elif name in names(kind):
        module = importlib.import_module(f"{package}.{name}")
    else:
        raise ValueError(
            f"unknown name {name!r} among {kind}: known are {', '.join(names(kind))}, or give a path that ends in .py"
        )
    if not hasattr(module, constant):
        raise ValueError(f"{name} defines no {constant}: a file of {kind} ends with `{constant} = ...`")
    return getattr(module, constant)


def name_of(kind: str, thing: Any) -> str:
    """Return the name by which `find` finds the file that defines `thing`, or its class."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    package, _ = _kind(kind)
    if module.startswith(package + "."):
        return module.removeprefix(package + ".")
    return getattr(sys.modules[module], "__phantrol_file__", module)


def short_name(name: str) -> str:
    """Return a name as it may head a column or begin a file: "photos" of "mine/photos.py", a dotted one as it is."""
    return Path(name).name.removesuffix(".py")


def _kind(kind: str) -> tuple[str, str]:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: known are {', '.join(KINDS)}")
    return KINDS[kind]


def _defines(path: Path, constant: str) -> bool:
    return path.is_file() and any(
        line.startswith((f"{constant} =", f"def {constant}(")) for line in path.read_text("utf-8").splitlines()
    )


def _import(name: str, complaint: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # a module that this one needs is missing: that is another fault, and its own message says it
        raise ValueError(f"{complaint}: is it installed, and spelled as Python imports it?") from None


def import_file(path: Path) -> ModuleType:
    """Return a user's file as a module, imported once.

    Raises ValueError if there is none, and for one that Python cannot read or that imports a module which is not there.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}: expected a Python file")
    path = path.resolve()
    name = f"phantrol_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.__phantrol_file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if fault := _fault(error, path):
            raise ValueError(fault) from None
        raise
    return module


def _fault(error: BaseException, path: Path) -> str | None:
    """Say in one line why Python cannot read a file, or what it imports and is not there; of other errors, nothing."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = getattr(error, "filename", None)
    if isinstance(error, SyntaxError | ValueError) and where is None and not lines:  # its bytes: nothing of it has run
        return f"{path}: {error}; expected Python in UTF-8"
    if isinstance(error, SyntaxError) and where and Path(where).is_file():  # no text that the file itself reads
        return f"{where}, line {error.lineno}: {error.msg}; correct it there"
    if isinstance(error, ModuleNotFoundError) and lines:
        return f"{path}, line {lines[-1]}: {error}; install it, or correct its name"
    return None
