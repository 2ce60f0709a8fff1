"""pyperf's JSON, format 1.0: written so that its command line works on our times, and read into our comparisons."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skilllab.errors import InvalidValueError
from skilllab.experiments.benchmark.result import BenchmarkResult, Design
from skilllab.experiments.benchmark.runs import ArmTimes
from skilllab.settings import SMALLEST_DIFFERENCE

_FORMAT = "1.0"
_OURS = "skilllab"
"""The key, unknown to pyperf, of what it has no field for: which rounds belong together, single calls, the design."""


def write_pyperf(result: BenchmarkResult, path: Path) -> None:
    """Writes a result: a benchmark for each arm, a run for each process, warm-up apart from the values.

    Raises InvalidValueError for a path that cannot be written; a file that was there before is then as it was.
    """
    benchmarks = []
    for name in result.names:
        runs = [_run(times) for times in result.times(name)]
        benchmarks.append({"metadata": {"name": name}, "runs": runs})
    common = {
        "unit": "second",
        "python_implementation": platform.python_implementation().lower(),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
    }
    written = {"version": _FORMAT, "metadata": common, "benchmarks": benchmarks, _OURS: result.to_json()}
    _replace(path, json.dumps(written, separators=(",", ":")) + "\n")


def read_pyperf(path: str | Path) -> BenchmarkResult:
    """Returns the benchmarks of a file in pyperf's JSON as arms, those of pyperf itself included.

    Arms of another program's file did not share their rounds: their comparisons are wider, and say so. Benchmarks that
    measure something else than seconds, files that are no such JSON, and paths that cannot be read, raise
    InvalidValueError.
    """
    text = _text(Path(path))
    try:
        read = json.loads(text)
        if _OURS in read:
            return BenchmarkResult.from_json(read[_OURS])
        common = read.get("metadata", {})
        if read["version"] != _FORMAT:
            raise InvalidValueError(f"version(={read['version']!r}) of {Path(path).name} must be {_FORMAT!r}")
        arms = dict(_arm(benchmark, common) for benchmark in read["benchmarks"])
    except InvalidValueError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"{Path(path).name} is not pyperf's JSON: {type(error).__name__}: {error}") from error
    if not arms:
        raise InvalidValueError(f"{Path(path).name} holds no benchmark")
    design = Design(SMALLEST_DIFFERENCE, 0.95, looks=1, collect_garbage=True, side_by_side=False)
    processes = range(max(map(len, arms.values())))
    runs = tuple({name: found[i] for name, found in arms.items() if i < len(found)} for i in processes)
    return BenchmarkResult(runs, design, 0.0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        message = (
            f"{path} cannot be read: {error.strerror or error}: name a file that `save_pyperf` or pyperf has written"
        )
        raise InvalidValueError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path} is not pyperf's JSON: it is no text in UTF-8; unpack it first if it is packed (.json.gz)"
        raise InvalidValueError(message) from error


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside its place first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}; nothing was changed: name a file in a folder that can be"
        raise InvalidValueError(message) from error


def _run(times: ArmTimes) -> dict[str, Any]:
    metadata: dict[str, Any] = {"loops": times.calls}
    if times.memory:
        metadata["mem_traced_peak"] = times.memory
    warmups = [[calls, seconds] for calls, seconds in times.warmup]
    return {"metadata": metadata, "warmups": warmups, "values": times.samples.tolist()}


def _arm(benchmark: Mapping[str, Any], common: Mapping[str, Any]) -> tuple[str, list[ArmTimes]]:
    shared = {**common, **benchmark.get("metadata", {})}
    runs = []
    for run in benchmark["runs"]:
        about = {**shared, **run.get("metadata", {})}
        if about.get("unit", "second") != "second":
            raise InvalidValueError(
                f"benchmark {about.get('name')!r} is in {about['unit']!r}: only seconds can be compared"
            )
        if run.get("values"):
            calls = int(about.get("loops", 1)) * int(about.get("inner_loops", 1))
            warmup = tuple((int(loops), float(seconds)) for loops, seconds in run.get("warmups", ()))
            runs.append(ArmTimes(np.array(run["values"], dtype=np.float64), calls, None, warmup))
    if not runs:
        raise InvalidValueError(f"benchmark {shared.get('name')!r} holds no values")
    return str(shared["name"]), runs
