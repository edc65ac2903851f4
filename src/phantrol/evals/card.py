"""The card of a result: all that must be the same for another to find the same scores, and how sure they are."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from phantrol.evals.benchmark import Benchmark, Row
from phantrol.evals.fingerprints import settings_sha256, texts_sha256, weights_sha256
from phantrol.evals.report import Report
from phantrol.evals.score_intervals import MEAN, find_intervals
from phantrol.find import short_name
from phantrol.inference.engine import Engine
from phantrol.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "pillow")
DECODING = ("num_beams", "repetition_penalty", "length_penalty", "no_repeat_ngram_size")


@dataclasses.dataclass(frozen=True)
class Card:
    """speaker    whom the answers come from: hashes of weights and settings, decoding, dtype, weights' bits, versions
    protocol      of the benchmark, None if it has but one;  options  its fields
    prompts_sha256  of all rows' ids, prompts and right answers: the same data, asked the same way
    max_new_tokens  {task: tokens};  batch_size  a number, or several if the run went on with another
    limit         most rows of each task, None for all of them;  usual_split  whether the split is the benchmark's own
    intervals     {score name: 95 % interval}: bootstrap over groups of rows; of scores that are no mean, half samples;
                  where rows do not differ, after Wilson: see score_intervals.py
    headline      {"name", "value", "low", "high", "scale"}: what papers print; with "left_out" if it is not over all
                  tasks of the benchmark, those without a row
    batch_check   {"batch_size", "rows", "different"} of --check-batch;  judge  of judged sets
    """

    speaker: dict[str, Any]
    protocol: str | None
    options: dict[str, Any]
    prompts_sha256: str
    max_new_tokens: dict[str, int]
    batch_size: int | list[int]
    device: str
    limit: int | None
    usual_split: bool
    intervals: dict[str, tuple[float, float]]
    headline: dict[str, Any] | None
    batch_check: dict[str, Any] | None = None
    judge: dict[str, Any] | None = None


def describe_speaker(engine: Engine, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what answers depend on beside the prompt, and the batch's rounding.

    options  that are handed to `generate`
    """
    generation, model = engine.model.generation_config, engine.model
    own = {name: getattr(generation, name, None) for name in DECODING}
    own = {"num_beams": 1} | {name: value for name, value in own.items() if value is not None}
    quantised = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    return {
        "weights_sha256": weights_sha256(model),
        "settings_sha256": settings_sha256(model),
        "decoding": {"do_sample": False} | own | dict(options),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": getattr(quantised, "weights", None),
        "versions": {"phantrol": __version__, "python": platform.python_version()} | _versions(),
    }


def make_card(
    engine: Engine,
    speaker: Mapping[str, Any],
    benchmark: Benchmark,
    rows: Sequence[Row],
    report: Report,
    batch_size: int | list[int],
    limit: int | None,
    batch_check: dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
) -> Card:
    """Return the card of a report. `rows` are those of its samples, in their order."""
    intervals = find_intervals(benchmark, rows, report)
    asked = (f"{sample.id} {sample.prompt_sha256} {sample.answer}" for sample in report.samples)
    return Card(
        speaker=dict(speaker),
        protocol=getattr(benchmark, "protocol", None),
        options=options_of(benchmark),
        prompts_sha256=texts_sha256(asked),
        max_new_tokens={task: benchmark.tokens_for(task) for task in dict.fromkeys(row.task for row in rows)},
        batch_size=batch_size,
        device=str(engine.model.device),
        limit=limit,
        usual_split=report.split == benchmark.default_split,
        intervals=intervals,
        headline=find_headline(benchmark, report, intervals),
        batch_check=batch_check,
        judge=judge,
    )


def find_headline(
    benchmark: Benchmark, report: Report, intervals: Mapping[str, tuple[float, float]]
) -> dict[str, Any] | None:
    """Return the number that papers print, with its interval, in their unit; None if nothing was scored.

    Raises ValueError if the benchmark names a headline that it does not compute.
    """
    scores, name, scale = report.scores, benchmark.headline, benchmark.headline_scale
    if not scores and not report.overall:
        return None
    if name is None:
        name, value = MEAN, sum(row["model"] for row in scores.values()) / len(scores)
    elif name in report.overall or name in scores:
        value = (report.overall.get(name) or scores[name])["model"]
    else:
        known = ", ".join((*scores, *report.overall))
        raise ValueError(f"benchmark {report.benchmark} has the headline {name!r}, and computes {known}")
    low, high = intervals[name]
    found = {"name": name, "value": scale * value, "low": scale * low, "high": scale * high, "scale": scale}
    asked = {sample.task for sample in report.samples}
    left_out = [task for task in benchmark.all_tasks if task not in asked]
    return found | ({"left_out": left_out} if left_out else {})


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Return the reports in a file that `phantrol eval --json` wrote.

    Raises ValueError if there is none, or if it has no card: then it was not written by this command.
    """
    try:
        read = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}: expected one that `phantrol eval --json` wrote") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: expected a file that `phantrol eval --json` wrote") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    reports = read.get("benchmarks", [read]) if isinstance(read, dict) else []
    if not reports or not isinstance(reports, list) or not all(map(_is_result, reports)):
        raise ValueError(
            f"{path} holds no results with a card of this version: write it again with `phantrol eval --json`"
        )
    return reports


def _is_result(read: Any) -> bool:
    """Whether this has what others read of `Report.to_json`, in its kinds."""
    parts = {"benchmark": str, "split": str, "model": str, "overall": dict, "missing": list, "rows": list, "card": dict}
    if not _has(read, parts) or not {field.name for field in dataclasses.fields(Card)} <= read["card"].keys():
        return False
    card = read["card"]
    speaker, headline, judge = (card[name] for name in ("speaker", "headline", "judge"))
    spoken = {"weights_sha256", "decoding", "dtype", "weights", "versions"}
    return (
        isinstance(speaker, dict)
        and spoken <= speaker.keys()
        and (headline is None or _has(headline, dict.fromkeys(("value", "low", "high", "scale"), int | float)))
        and (judge is None or _has(judge, {"model": str}))
        and all(_has(row, {"id": str, "prompt_sha256": str, "scores": dict}) for row in read["rows"])
    )


def _has(read: Any, parts: Mapping[str, Any]) -> bool:
    return isinstance(read, dict) and all(isinstance(read.get(name), kind) for name, kind in parts.items())


def check_replaceable(path: Path, asked: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if `path` holds anything but results of what is asked now, which would be lost.

    asked  for each benchmark: its name as "benchmark", "split", "seed" and "options"
    """
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path} is no regular file: write elsewhere with --json")
    try:
        text = path.read_text("utf-8")
        if not text.strip():
            return
        read = json.loads(text)
        held = [_identity(each, each.get("card") or {}) for each in read.get("benchmarks", [read])]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path} holds no results of `phantrol eval`: write elsewhere with --json") from None
    now = [_identity(each, each) for each in json.loads(json.dumps(asked))]
    for name, split, seed, options in held:
        alike = [other for other in now if _is_same_benchmark(name, other[0])]
        apart = [_options_apart(options, other[3]) for other in alike if other[1:3] == (split, seed)]
        if [] in apart:
            continue
        others = f" with other options ({', '.join(apart[0])})" if apart else ""
        remedy = "write elsewhere with --json, or remove the file (the answers beside it stay, and are not asked again)"
        if not alike:
            remedy = f"name {name} too (what was answered is not asked again), or write elsewhere with --json"
        raise ValueError(
            f"{path} holds results of {name} (split {split}, seed {seed}){others}, which this call would lose: {remedy}"
        )


def _identity(result: Mapping[str, Any], card: Mapping[str, Any]) -> tuple[Any, ...]:
    return result["benchmark"], result["split"], result["seed"], dict(card.get("options") or {})


def _is_same_benchmark(held: str, now: str) -> bool:
    """Whether two names are of one benchmark: the same name, or that of a file which no longer lies where it did."""
    return held == now or (held.endswith(".py") and short_name(held) == short_name(now) and not Path(held).exists())


def _options_apart(held: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the options that differ. Data that have a hash go by it, wherever they lie; results of earlier versions
    have none."""
    other_name = "data" if "data_sha256" in held else "data_sha256"
    return [name for name in keys_apart(held, now) if name != other_name]


def keys_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def options_of(benchmark: Benchmark) -> dict[str, Any]:
    """Return the options of a benchmark that say what is asked: neither where its data lie, nor the protocol."""
    if not dataclasses.is_dataclass(benchmark):
        return {}
    fields = {field.name: getattr(benchmark, field.name) for field in dataclasses.fields(benchmark) if field.init}
    plain = (str, int, float, bool, type(None), tuple)
    # where the data lie is this machine's matter; prompts_sha256 says which they are
    found = {
        name: value if isinstance(value, plain) else str(value)
        for name, value in fields.items()
        if name not in ("data", "protocol") and not isinstance(value, Path)
    }
    sha256 = benchmark.data_sha256()
    if sha256 is not None:
        if fields.get("data"):
            found["data"] = "/".join(Path(fields["data"]).parts[-2:])
        found["data_sha256"] = sha256
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
