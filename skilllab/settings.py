"""Every option and default, with its unit and its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from skilllab.errors import InvalidValueError

CACHE_MAX_SIZE = 2000
"""Entries a SkillCache holds: room for the hot tenth of 20,000 skills, a few MiB of definitions."""

CACHE_TTL = 600.0
"""Seconds an entry of no particular kind lives: ten minutes bound how old an answer may be."""

SKILL_TTL = 900.0
"""Seconds a cached skill lives: definitions change rarely, and a change invalidates at once anyway."""

QUERY_TTL = 120.0
"""Seconds a cached query lives: pages are cheap to compute again and crowd out what is not."""

VALIDATION_TTL = 300.0
"""Seconds a cached validation lives: it is keyed by revision, so it can only be unused, never wrong."""

CELL_TIMEOUT = 300.0
"""Seconds a notebook cell may take when run headless: far beyond any honest cell, so only a hang meets it."""

TIMEOUT = 30.0
"""Seconds a caller waits for an execution, queue and retries included: longer than any call an agent should wait for."""

CANCEL_GRACE = 1.0
"""Seconds a cancelled skill may clean up before it is left behind: room to close a connection, not to carry on."""

ENGINE_CONCURRENCY = 1000
"""Executions of an engine at once: far above what helps, so that only a runaway fan-out meets it."""

MAX_IN_FLIGHT = 1000
"""Requests of an open load test under way at once: as many as an engine takes; beyond it a target is not just slow."""

LOAD_PATIENCE = 30.0
"""Seconds that requests under way may still take when a load test has sent its last: as long as any caller waits."""

QUEUE_SIZE = 10_000
"""Calls that may wait for a place: beyond it a call is refused, since it would wait longer than anyone does."""

BREAKER_FAILURES = 5
"""Failures in a row that open a circuit breaker: more than one unlucky minute of retries, fewer than an outage costs."""

BREAKER_RECOVERY = 60.0
"""Seconds an open breaker waits before its probe: the time a service needs to restart."""

RESULT_CACHE_SIZE = 2000
"""Results an engine keeps of skills that say cacheable."""

RESULT_TTL = 600.0
"""Seconds a kept result of a function or tool lives unless its skill says otherwise."""

HTTP_RESULT_TTL = 300.0
"""Seconds a kept answer of an API lives unless its skill says otherwise: five minutes bound how old it may be."""

SLOW_STEP = 0.05
"""Seconds of one step on the event loop that are reported as blocking: everything else on the loop waited as long."""

FUNCTION_THREADS = 32
"""Plain functions at once: they mostly wait for files, and more threads only share one interpreter lock."""

FUNCTION_BATCH_SIZE = 100
"""Calls of a batch function at most: the memory of a batch is bounded, and its gain is nearly all there."""

FUNCTION_BATCH_WAIT = 0.002
"""Seconds a call waits for others to share a batch with: little beside what a batch saves."""

BATCH_SIZE = 10
"""Items that a RequestBatcher or process_batch takes together."""

BATCH_WAIT = 0.1
"""Seconds a RequestBatcher waits for its batch to fill."""

BATCH_PAUSE = 0.01
"""Seconds process_batch rests between batches, so that others get their turn."""

POOL_SIZE = 5
"""Connections of a pool: what a small database serves well at once."""

POOL_IDLE = 60.0
"""Seconds a pool keeps a connection that nobody uses: longer than a pause between calls, shorter than servers wait."""

HTTP_SOCKETS = 15
"""Connections of an engine to APIs at once."""

HTTP_RETRIES = 3
"""Times that a request which may be repeated is repeated."""

HTTP_BACKOFF = 1.0
"""Seconds before the first repetition; each later one waits twice as long, jittered."""

HTTP_BATCH_SIZE = 5
"""Calls that one request to a batch endpoint carries."""

HTTP_BATCH_WAIT = 0.005
"""Seconds a call waits for others to share a request with."""

HTTP_MAX_BYTES = 10 * 2**20
"""Bytes of an answer, decompressed, unless max_file_size says otherwise: more would be kept in memory for one call."""

HTTP_REDIRECTS = 5
"""Redirects that one request follows."""

HTTP_TIMEOUT = 30.0
"""Seconds that one request may take, from its connection to the last byte of its answer."""

HTTP_MAX_BACKOFF = 60.0
"""Seconds that a repetition waits at most; a server that asks for more is not asked again."""

HTTP_KEEP_ALIVE = 15.0
"""Seconds that an idle connection is kept: mostly less than servers keep it, so that it seldom turns out to be closed."""

MCP_CONNECT_TIMEOUT = 20.0
"""Seconds that an MCP server may take from its start to its first answer: twice the SDK's wait before it asks the older way."""

TRIAL_RATE = 20.0
"""Requests a second at most of `skilllab try`, calls and pings together: one user who types fast, whom a server that is not
ours can bear."""

TRIAL_DURATION = 20.0
"""Seconds of `skilllab try`: at its rate enough calls of one tool for a p95 with an interval, pings taken off (320)."""

TRIAL_LONGEST = 60.0
"""Seconds of `skilllab try` at most: it is a first look, and load tests are for more."""

TRIAL_TIMEOUT = 10.0
"""Seconds that one call of `skilllab try` may take."""

DEMO_PORT = 8765
"""Port of `skilllab demo`: the one that the API skills of the shipped catalogue name."""

DEMO_BATCH_MAX = 100
"""Items of one request to the demo server's batch endpoint; more are refused."""

DEMO_ITEM_SHARE = 0.05
"""Share of one service time that each item of a batch adds: a batch of 10 costs 1.5 requests instead of 10."""

DEMO_LOG = 10_000
"""Served requests whose times the demo server remembers: about 2 MiB."""

DEMO_MAX_BYTES = 64 * 2**20
"""Bytes that the demo server answers with at most: beyond every limit that a client should hold."""

DEMO_START = 30.0
"""Seconds that the demo server's process may take to say that it is ready: far beyond a cold import."""

DEMO_GRACE = 2.0
"""Seconds that the demo server's process may take to end by itself before it is killed."""

SANDBOX_CONCURRENCY = 5
"""Sandboxes at once: each keeps a process of some 10 MiB, and few machines have cores for more."""

SANDBOX_MEMORY = 256 * 2**20
"""Bytes that a sandboxed call may use above its worker's resting size, unless its skill says otherwise."""

SANDBOX_CPU_TIME = 10.0
"""Seconds of CPU time that a sandboxed call may use, all its processes together, unless its skill says otherwise."""

SANDBOX_DISK = 64 * 2**20
"""Bytes of a sandbox's private folder: its files lie in memory, and a quarter of the memory is enough for them."""

SANDBOX_MAX_OUTPUT = 10 * 2**20
"""Bytes of what a sandboxed call may return: it is kept in this process's memory."""

FUNCTION_WORKERS = 4
"""Workers at once for functions that have limits."""

FUNCTION_MAX_OUTPUT = 256 * 2**20
"""Bytes, pickled, of what a function in a worker may return."""

WORKER_START = 30.0
"""Seconds that a worker may take to start: far beyond the import of any library, so that only a hang meets it."""

WORKER_BACKSTOP_TASKS = 256
"""Processes and threads of a worker where no limit is asked and a control group can hold one: more are a fork bomb."""

FILE_MAX_BYTES = 10 * 2**20
"""Bytes of a file that built-in skills read or search unless told otherwise: beyond 10 MiB it is data, not text."""

HISTORY_WAIT = 10.0
"""Seconds to wait for another writer of the history: each takes milliseconds, so only a stuck one is met."""

GIT_TIMEOUT = 2.0
"""Seconds that git may take to name the commit of a run: a checkout that takes longer is not worth the wait."""

BENCHMARK_WARMUP = 10
"""Rounds before those that count in a benchmark: caches and branch predictors have learnt what they will by then."""

BENCHMARK_ITERATIONS = 100
"""Rounds of a benchmark before its first verdict: fewer seldom carry one."""

BENCHMARK_BUDGET = 10.0
"""Seconds after which a benchmark that is still undecided does no more rounds: as long as one likes to wait."""

SMALLEST_DIFFERENCE = 0.01
"""Share by which times must differ to be called different: where code happens to lie in memory moves them by less."""

MONITOR_WINDOW = 60.0
"""Seconds that a monitor's sliding window covers: long enough for a p95 of a skill called twice a second."""

MONITOR_BATCH = 1024
"""Executions that a monitor puts aside before it counts them: about a millisecond of work at a time."""

WATCH_INTERVAL = 60.0
"""Seconds between two looks of a monitor at its rules."""

WATCH_RULES = ("p95 of any > 1 s for 60 s", "errors of any > 5 % for 60 s", "lag-p99 > 100 ms for 60 s")
"""Rules of a monitor unless it is given some: a skill too slow for an agent to wait, one that fails, a loop held up."""

FAST_VARIABLE = "SKILLLAB_FAST"
"""The environment variable that asks notebooks for their fast setting."""

DATA_VARIABLE = "SKILLLAB_DATA"
"""The environment variable that names the folder with the catalogue and the recorded traces."""

_FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def fast(environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether notebooks should run in their fast setting: small inputs, the same conclusions.

    Raises InvalidValueError when SKILLLAB_FAST is neither yes nor no.
    """
    value = environ.get(FAST_VARIABLE, "")
    try:
        return _FLAGS[value.strip().lower()]
    except KeyError:
        raise InvalidValueError(f"{FAST_VARIABLE}={value!r} is not a yes or a no: set it to 1 or to 0") from None


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder with the skill catalogue and the recorded traces: SKILLLAB_DATA, else the checkout's data/.

    Raises InvalidValueError when there is no such folder.
    """
    named = environ.get(DATA_VARIABLE)
    folder = Path(named) if named else Path(__file__).resolve().parent.parent / "data"
    if folder.is_dir():
        return folder
    advice = (
        f"set {DATA_VARIABLE} to an existing folder"
        if named
        else f"install from a checkout with `pip install -e .`, or set {DATA_VARIABLE} to a checkout's data folder"
    )
    raise InvalidValueError(f"data folder {str(folder)!r} does not exist: {advice}")
