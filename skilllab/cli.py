"""The command line.

`skilllab run` runs the notebooks and writes the offline page, `skilllab lab` opens JupyterLab, `skilllab demo` is an API,
`skilllab try` looks at your own tool for a few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilllab import format as fmt
from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.settings import DEMO_PORT, MCP_CONNECT_TIMEOUT, TRIAL_DURATION, TRIAL_LONGEST, TRIAL_RATE, TRIAL_TIMEOUT

if TYPE_CHECKING:
    from skilllab.report.runner import NotebookRun

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 an experiment failed, 2 bad usage, 130 interrupted."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and not options.takes_rest:
        parser.error(f"unknown option {rest[0]!r}: see `skilllab {options.command} --help`")
    options.rest = rest
    try:
        return int(options.handler(options))
    except SkilllabError as error:
        print(f"skilllab: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nskilllab: interrupted", file=sys.stderr)
        return INTERRUPTED


def lab_command(notebooks: Path, *, root: bool, browser: bool, rest: Sequence[str] = ()) -> list[str]:
    """Returns the command that opens JupyterLab in `notebooks` on this machine only, with the shipped settings.

    `root` lets the root user start it, `browser` opens one; `rest` goes to JupyterLab as it is and wins.
    """
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={notebooks.resolve()}",
        f"--LabApp.app_settings_dir={files('skilllab') / 'lab'}",
    ]
    if (notebooks / "00_start_here.ipynb").is_file():
        command.append("--LabApp.default_url=/lab/tree/00_start_here.ipynb")
    command += ["--allow-root"] * root + ["--no-browser"] * (not browser)
    return [*command, *rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skilllab", description="A performance lab for agent skills.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="their folder (%(default)s)")

    run = commands.add_parser("run", parents=[folder], help="run the notebooks and write the offline page")
    run.add_argument("names", nargs="*", metavar="NAME", help="only these notebooks: 01_caching, or 01 for short")
    run.add_argument("--output", type=Path, default=Path("results"), help="folder of the page (%(default)s)")
    run.add_argument("--full", action="store_true", help="run the long setting instead of the fast one")
    run.set_defaults(handler=_run, takes_rest=False)

    lab = commands.add_parser("lab", parents=[folder], help="open JupyterLab; further options go to JupyterLab")
    lab.set_defaults(handler=_lab, takes_rest=True)

    _add_try(commands)

    demo = commands.add_parser("demo", help="serve the demo API on this machine, for the catalogue's API skills")
    demo.add_argument("--port", type=int, default=DEMO_PORT, help="port of 127.0.0.1, 0 for any free one (%(default)s)")
    demo.set_defaults(handler=_demo, takes_rest=False)
    return parser


def _add_try(commands: Any) -> None:
    tried = commands.add_parser(
        "try",
        help="look at your own tool for a few seconds: a function, an MCP server, an address",
        description="Lists the tools of TARGET and calls those that say they only read, one call at a time and gently; "
        "prints a page, and keeps the result. Ctrl-C ends it early, with what was measured.",
    )
    tried.add_argument(
        "target", metavar="TARGET", help="package.module:function, an MCP server's command or URL, or a URL"
    )
    tried.add_argument(
        "--as", dest="kind", choices=("module", "mcp", "http"), help="what TARGET is, if it looks otherwise"
    )
    tried.add_argument(
        "--params", metavar="JSON", help="parameters: of the tool, or by tool when there are several; @FILE"
    )
    tried.add_argument(
        "--tool", action="append", default=[], metavar="NAME", help="call only this one; may be repeated"
    )
    tried.add_argument(
        "--allow", action="append", default=[], metavar="NAME", help="call a tool that does not say it only reads"
    )
    tried.add_argument(
        "--rate", type=float, default=TRIAL_RATE, help="calls and pings a second at most, in all (%(default)g)"
    )
    tried.add_argument(
        "--duration", type=float, default=TRIAL_DURATION, help=f"seconds, at most {TRIAL_LONGEST:g} (%(default)g)"
    )
    tried.add_argument(
        "--timeout", type=float, default=TRIAL_TIMEOUT, help="seconds that one call may take (%(default)g)"
    )
    tried.add_argument(
        "--connect-timeout",
        type=float,
        default=MCP_CONNECT_TIMEOUT,
        metavar="SECONDS",
        help="seconds to connect, and to list the tools of a server (%(default)g)",
    )
    tried.add_argument("--seed", type=int, default=0, help="of the times between calls (%(default)s)")
    tried.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="hand this variable on to the MCP server"
    )
    tried.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VARIABLE",
        help="send this header, its value from a variable",
    )
    tried.add_argument("--history", type=Path, metavar="PATH", help="the file that keeps the result (the user's)")
    tried.add_argument("--no-store", action="store_true", help="keep nothing")
    tried.set_defaults(handler=_try, takes_rest=False)


def _try(options: argparse.Namespace) -> int:
    from skilllab.trying import run

    return run(options)


def _run(options: argparse.Namespace) -> int:
    from skilllab.report.page import write_page

    start = time.perf_counter()
    paths = _select(options.notebooks, options.names)
    runs = [_run_one(path, f"[{number}/{len(paths)}]", options.full) for number, path in enumerate(paths, 1)]
    page = options.output / "index.html"
    size = write_page(runs, page, fast=not options.full)
    failed = [run.name for run in runs if run.failure]
    found = sum(len(run.findings) for run in runs)
    print(
        f"{fmt.several(found, 'finding')} from {fmt.several(len(runs), 'notebook')} in "
        f"{fmt.duration(time.perf_counter() - start)}: open {page} ({fmt.size(size)}, works offline)"
    )
    if failed:
        print(f"{fmt.several(len(failed), 'notebook')} failed: {', '.join(failed)}")
    return FAILURE if failed else SUCCESS


def _select(folder: Path, names: Sequence[str]) -> list[Path]:
    """Returns the notebooks to run, in order of their names; raises InvalidValueError when a name fits none or many."""
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise InvalidValueError(f"no notebook in {str(folder)!r}: say where they are with --notebooks")
    chosen = set()
    for name in names:
        stem = name.removesuffix(".ipynb")
        fits = [p for p in paths if p.stem == stem] or [p for p in paths if p.stem.startswith(stem)]
        if len(fits) != 1:
            known = ", ".join(path.stem for path in fits or paths)
            raise InvalidValueError(f"{name!r} names {fmt.several(len(fits), 'notebook')}: name one of {known}")
        chosen.add(fits[0])
    return [path for path in paths if path in chosen or not names]


def _run_one(path: Path, position: str, full: bool) -> NotebookRun:
    """Runs one notebook under a progress bar, and prints its findings, or where it failed."""
    from tqdm import tqdm

    from skilllab.report.runner import run_notebook

    label = f"{position} {path.stem}"
    shown = sys.stderr.isatty()
    layout = "{desc} {bar:24} {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"
    with tqdm(desc=label, total=1, disable=not shown, leave=False, bar_format=layout, file=sys.stderr) as bar:

        def on_cell(done: int, total: int, line: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(line[:40])

        run = run_notebook(path, fast=not full, on_cell=on_cell)
    print(f"{label} took {fmt.duration(run.duration)}", file=sys.stderr, flush=True)
    for finding in run.findings:
        print(finding, flush=True)
    if run.failure:
        print(f"FAILED {path.name}, {run.failure}", flush=True)
    return run


def _lab(options: argparse.Namespace) -> int:
    if not options.notebooks.is_dir():
        raise InvalidValueError(f"{str(options.notebooks)!r} is not a folder: say where the notebooks are")
    browser = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    command = lab_command(options.notebooks, root=os.geteuid() == 0, browser=browser, rest=options.rest)
    if not browser:
        print("No display here: open the address that JupyterLab prints below.", file=sys.stderr, flush=True)
    os.execv(command[0], command)


def _demo(options: argparse.Namespace) -> int:
    asyncio.run(_serve_demo(options.port))
    return SUCCESS


async def _serve_demo(port: int) -> None:
    """Serves the demo API until the terminal or the system asks to stop, and says where and how much."""
    from skilllab.demo.server import DemoServer

    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    async with DemoServer(port=port) as server:
        print(f"The demo API answers at {server.url} until Ctrl-C, for example {server.url}/users/17", flush=True)
        await asked.wait()
        served = (await server.statistics()).count()
    print(f"\nStopped after {fmt.several(served, 'request')}.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
