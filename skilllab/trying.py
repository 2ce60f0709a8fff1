"""`skilllab try`: from options to a printed page and a stored result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skilllab import format as fmt
from skilllab.errors import HistoryError, InvalidResponseError, InvalidValueError, ToolError, TransportError
from skilllab.experiments.history import History
from skilllab.experiments.trial.page import page
from skilllab.experiments.trial.plan import planned
from skilllab.experiments.trial.result import TrialResult
from skilllab.experiments.trial.run import checked, trial
from skilllab.experiments.trial.target import Target, kind_of, opened
from skilllab.settings import MCP_CONNECT_TIMEOUT

SUCCESS, FAILURE = 0, 1


def run(options: Namespace) -> int:
    """Tries the target, prints the page and stores the result; returns 0, or 1 when the target failed.

    Bad usage raises InvalidValueError, before anything is called.
    """
    checked(rate=options.rate, duration=options.duration, timeout=options.timeout, seed=options.seed)
    params = _params(options.params)
    env, headers = _variables(options.env), _headers(options.header)
    if (options.kind or kind_of(options.target)) == "module":
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        result = asyncio.run(_tried(options, params, env, headers))
    except (TransportError, ToolError, InvalidResponseError) as error:  # the target's failure, and not the caller's
        print(f"skilllab: {error}", file=sys.stderr)
        return FAILURE
    print(page(result, "" if options.no_store else _kept(result, options)))
    return FAILURE if result.failed else SUCCESS


async def _tried(
    options: Namespace, params: Mapping[str, Any] | None, env: Mapping[str, str], headers: Mapping[str, str]
) -> TrialResult:
    timeout, again = options.connect_timeout, _again(options)
    async with opened(options.target, options.kind, env=env, headers=headers, timeout=timeout, options=again) as target:
        ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
        _list(target)
        plan = planned(target, params=params, allow=options.allow, tools=options.tool, ask=ask)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, stop.set)
        try:
            return await trial(
                target,
                plan,
                rate=options.rate,
                duration=options.duration,
                timeout=options.timeout,
                seed=options.seed,
                stop=stop,
                on_progress=_progress if sys.stderr.isatty() else None,
            )
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _again(options: Namespace) -> tuple[str, ...]:
    """Returns what the next command has to repeat of this one, beside what a result knows itself."""
    again = [part for name in options.env for part in ("--env", name)]
    again += [part for pair in options.header for part in ("--header", pair)]
    if options.connect_timeout != MCP_CONNECT_TIMEOUT:
        again += ["--connect-timeout", f"{options.connect_timeout:g}"]
    again += ["--history", str(options.history)] if options.history is not None else []
    return (*again, *(["--no-store"] if options.no_store else []))


def _list(target: Target) -> None:
    names = ", ".join(target.tools) or "none"
    print(f"{target.title}: {names}", file=sys.stderr, flush=True)


def _ask(tool: str, params: Mapping[str, Any]) -> bool:
    """Shows made-up parameters, and returns whether to call the tool with them."""
    print(f"{tool} takes parameters; made from its schema: {json.dumps(params, ensure_ascii=False)}", file=sys.stderr)
    print("Call it with these? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _progress(gone: float, calls: int, errors: int) -> None:
    failed = f", {fmt.count(errors)} failed" if errors else ""
    print(
        f"\r\x1b[K{fmt.duration(gone)}: {fmt.several(calls, 'call')}{failed}; Ctrl-C ends it",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _kept(result: TrialResult, options: Namespace) -> str:
    history = History(options.history and options.history.expanduser())
    try:
        number = history.save(result, label=result.title)
    except HistoryError as error:
        print(f"skilllab: not kept: {error}", file=sys.stderr)
        return ""
    return f"Kept as run {number} in {_short(history.path)}"


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _params(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(f"--params {text}: cannot be read: {error}") from None
    try:
        params = json.loads(text)
    except ValueError as error:
        raise InvalidValueError(f"--params is no JSON: {error}: write '{{\"name\": 1}}'") from None
    if not isinstance(params, dict):
        raise InvalidValueError(f"--params must be an object, not {text:.80}: write '{{\"name\": 1}}'")
    return params


def _variables(names: Sequence[str]) -> dict[str, str]:
    for name in names:
        if name not in os.environ:
            raise InvalidValueError(f"--env {name}: no such variable is set")
    return {name: os.environ[name] for name in names}


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    """Returns headers whose values come from environment variables, where no process list shows them."""
    headers = {}
    for pair in pairs:
        name, _, variable = pair.partition(":")
        if not name or variable not in os.environ:
            raise InvalidValueError(f"--header {pair}: write NAME:VARIABLE, with an environment variable that is set")
        headers[name] = os.environ[variable]
    return headers
