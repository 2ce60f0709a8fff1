"""The runner of layer 1: Python functions in this process."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from skilllab.errors import HandlerNotRunnableError, InvalidValueError, SkillFailedError
from skilllab.loading import LoadedSkill
from skilllab.model import FrozenDict, ResourceLimits, ResourceUsage
from skilllab.settings import FUNCTION_THREADS

_SHARED = "functions share this process and its threads, where the part of one execution was not measured"
_UNMEASURED = ResourceUsage(
    unmeasured=FrozenDict(dict.fromkeys(("cpu_time", "memory_used", "network_requests"), _SHARED))
)


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """How functions run. max_threads: plain functions at once; further ones wait their turn."""

    max_threads: int = FUNCTION_THREADS

    def __post_init__(self) -> None:
        if type(self.max_threads) is not int or self.max_threads < 1:
            raise InvalidValueError(f"max_threads={self.max_threads!r} must be a whole number of at least 1")


class FunctionRunner:
    """Runs `async def` on the event loop and a plain `def` in a thread, with parameters as keywords.

    The thread sees the caller's context variables. When the caller is cancelled an `async def` is cancelled with it; a
    plain function that has not begun never begins, and one that has runs on to its end, which `aclose` waits for.
    """

    isolation = "none"
    enforces: frozenset[str] = frozenset()
    usage = _UNMEASURED

    def __init__(self, options: FunctionOptions = FunctionOptions()) -> None:
        self._options = options
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, skill: LoadedSkill, params: dict[str, Any], limits: ResourceLimits | None) -> Any:
        """Returns what the function returned.

        Raises SkillFailedError with the function's own error as its cause (a SystemExit included: no skill ends the
        program), HandlerNotRunnableError for a skill whose handler is no function.
        """
        function, skill_id = skill.function, skill.definition.id
        if function is None:
            raise HandlerNotRunnableError(f"{skill_id}: its handler is no function; give it to the runner of its kind")
        if inspect.iscoroutinefunction(function):
            return await _on_loop(skill_id, function, params)
        call = contextvars.copy_context().run
        output = await asyncio.get_running_loop().run_in_executor(
            self._pool(), call, _in_thread, skill_id, function, params
        )
        # A plain function may hand out an awaitable (a wrapper around an async def): that belongs on the loop.
        return await _on_loop(skill_id, lambda: output, {}) if inspect.isawaitable(output) else output

    async def aclose(self) -> None:
        """Waits for functions that still run, without blocking the loop, and ends the threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._options.max_threads, thread_name_prefix="skilllab-function")
        return self._threads


def skill_failure(skill_id: str, error: BaseException) -> SkillFailedError:
    """Returns the error that says which skill raised what; to be raised `from` the error itself."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the text of a foreign error is foreign code
        text = "(an error without readable text)"
    return SkillFailedError(f"{skill_id}: {type(error).__qualname__}{': ' if text else ''}{text}")


async def _on_loop(skill_id: str, function: Callable[..., Any], params: dict[str, Any]) -> Any:
    try:
        return await function(**params)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise skill_failure(
            skill_id, error
        ) from error  # nobody cancelled the caller: the skill awaited something cancelled
    except (Exception, SystemExit) as error:
        # KeyboardInterrupt is not among them: on the loop's thread it is the person at the keyboard.
        raise skill_failure(skill_id, error) from error


def _in_thread(skill_id: str, function: Callable[..., Any], params: dict[str, Any]) -> Any:
    try:
        return function(**params)
    except BaseException as error:
        # Ctrl-C never reaches a thread, so this is the skill's; and a Future could not carry a StopIteration.
        raise skill_failure(skill_id, error) from error
