"""What machine this is, which versions are here, and the traps that are known, each with its remedy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from packaging.version import Version

from phantrol.version import __version__

GIB = 2**30
FREE_GIB = 5  # a run of the demo needs far less; a checkpoint of a real backbone more


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the examination.  level  "good", "note" (works, but know it) or "bad" (must be mended)"""

    level: str
    what: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Return the findings about this machine and environment."""
    return [*_machine(), *_packages(), _arithmetic(), *_traps(), *_threads()]


def show(findings: Iterable[Finding]) -> bool:
    """Print the findings; return True if nothing must be mended."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    marks = {"good": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    findings = list(findings)
    for finding in findings:
        remedy = f"\n      → {finding.remedy}" if finding.remedy else ""
        console.print(f"{marks[finding.level]}  {escape(finding.what + remedy)}", emoji=False, soft_wrap=True)
    worst = sum(finding.level == "bad" for finding in findings)
    console.print("all is well" if not worst else f"{worst} to mend")
    return not worst


def _machine() -> list[Finding]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB if hasattr(os, "sysconf") else 0
    free_gib = shutil.disk_usage(Path.cwd()).free / GIB
    here = Finding("good", f"phantrol {__version__} in {Path(__file__).parent}")
    python = Finding("good", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    disk = Finding("good", f"{free_gib:.0f} GiB free on this disk")
    if free_gib < FREE_GIB:
        disk = Finding(
            "note", disk.what, "checkpoints of a real backbone take gigabytes: choose --out on a larger disk"
        )
    return [here, python, Finding("good", f"{os.cpu_count()} CPU cores, {memory_gib:.0f} GiB memory"), disk]


def _packages() -> list[Finding]:
    import torch

    findings = []
    for name, oldest, newest in (
        ("torch", "2.11", None),
        ("transformers", "5.17", "5.24"),
        ("accelerate", "1.10", None),
    ):
        version = importlib.metadata.version(name)
        release = Version(Version(version).base_version)
        fits = release >= Version(oldest) and (newest is None or release < Version(newest))
        wanted = f"{oldest} or newer" + (f", below {newest}" if newest else "")
        remedy = (
            "" if fits else f"tested with {wanted}: pip install '{name}>={oldest}{f',<{newest}' if newest else ''}'"
        )
        findings.append(Finding("good" if fits else "bad", f"{name} {version}", remedy))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            findings.append(Finding("good", f"GPU {index}: {properties.name}, {properties.total_memory / GIB:.0f} GiB"))
    elif torch.version.cuda:
        findings.append(
            Finding("note", "a CUDA build of torch, but no GPU", "it works on the CPU; make venv is smaller")
        )
    else:
        findings.append(Finding("good", "no GPU: everything runs on the CPU"))
    return findings


def _arithmetic() -> Finding:
    import torch

    from phantrol.training.precision import multiplies_bfloat16

    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if multiplies_bfloat16(device):
        return Finding("good", f"bfloat16: this {device.type} has instructions for its products")
    remedy = "precision=auto computes in float32; a model saved in 16 bits answers faster with --weights float32"
    return Finding("note", f"no bfloat16: this {device.type} has no instructions for its products", remedy)


def _traps() -> list[Finding]:
    import torch

    present = []
    for name in ("torchvision", "timm"):
        try:
            present.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if not present:
        return [Finding("good", "neither torchvision nor timm: phantrol needs neither")]
    what = f"{' and '.join(present)} installed"
    if torch.version.cuda or torch.version.hip or torch.version.xpu:
        return [Finding("note", what, "phantrol needs neither; torchvision must be the build for this torch")]
    remedy = "they break transformers beside a CPU build of torch: pip uninstall torchvision timm"
    return [Finding("bad", what, remedy)]


def _threads() -> list[Finding]:
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    findings = [
        Finding("good", f"torch uses {threads} threads; OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'unset')}")
    ]
    if threads > cores:
        findings.append(Finding("note", f"more threads than the {cores} cores", f"export OMP_NUM_THREADS={cores}"))
    if load > cores + 0.5:
        remedy = "a step can take ten times as long on busy cores: wait, or export OMP_NUM_THREADS=1"
        findings.append(Finding("note", f"the machine is busy: load {load:.1f} on {cores} cores", remedy))
    return findings
