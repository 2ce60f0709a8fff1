"""ResourceManager releases whatever happens; ResourceTracker measures the sections of a program."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import sqlite3
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine import resources as resources_module
from skilllab.engine.resources import ResourceManager, ResourceTracker, execute_with_cleanup
from skilllab.engine.tracking import ProcessMemory
from skilllab.errors import (
    EngineClosedError,
    ExecutionCancelledError,
    ExecutionError,
    ExecutionTimeoutError,
    InvalidValueError,
)
from skilllab.testing import FakeClock


async def settle(turns=6):
    for _ in range(turns):
        await asyncio.sleep(0)


async def used(resources, fill):
    """A block that does what `fill` does with the manager."""
    async with resources:
        await fill(resources)


class Journal:
    """Notes what is opened and closed, and in which order."""

    def __init__(self):
        self.open, self.released = [], []

    def opener(self, name):
        def open():
            self.open.append(name)
            return name

        return open

    def close(self, name):
        self.open.remove(name)
        self.released.append(name)

    async def aclose(self, name):
        await asyncio.sleep(0)
        self.close(name)


class TestRelease:
    """Order, and nothing left out."""

    def test_resources_go_in_reverse_order(self):
        """Plain and async ones alike, the last added first, after the block."""

        async def main():
            journal = Journal()
            async with ResourceManager() as resources:
                assert await resources.add(journal.opener("a"), journal.close) == "a"
                assert await resources.add(journal.opener("b"), journal.aclose) == "b"
                resources.callback(journal.released.append, "c")
                assert (len(resources), journal.released) == (3, [])
            assert (journal.released, journal.open) == (["c", "b", "a"], [])

        asyncio.run(main())

    def test_a_connection_is_closed_in_its_own_thread(self):
        """A real SQLite connection, which no other thread may close, is closed after the block."""

        async def main():
            async with ResourceManager() as resources:
                db = await resources.add(lambda: sqlite3.connect(":memory:"))
                assert db.execute("select 1").fetchone() == (1,)
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                db.execute("select 1")

        asyncio.run(main())

    def test_a_resource_knows_how_to_close_itself(self):
        """Without a function its aclose, close or cleanup is used, in this order; without any it is refused."""

        class Both:
            closed = ""

            def close(self):
                self.closed += "close"

            async def aclose(self):
                self.closed += "aclose"

        class Cleanup:
            cleaned = 0

            def cleanup(self):
                self.cleaned += 1

        async def main():
            async with ResourceManager() as resources:
                both, cleanup = resources.register(Both()), resources.register(Cleanup())
                with pytest.raises(InvalidValueError, match="aclose, close, cleanup"):
                    resources.register(object())
            assert (both.closed, cleanup.cleaned) == ("aclose", 1)

        asyncio.run(main())

    def test_what_could_not_be_opened_is_not_closed(self):
        """The error of `open` ends the block; what was open before is released."""

        async def refuse():
            raise OSError("no")

        async def main():
            journal = Journal()

            async def fill(resources):
                await resources.add(journal.opener("a"), journal.close)
                await resources.add(refuse, journal.close)

            with pytest.raises(OSError, match="no"):
                await used(ResourceManager(), fill)
            assert journal.released == ["a"]

        asyncio.run(main())

    def test_a_manager_is_used_up_by_its_block_but_not_by_cleanup(self):
        """After `cleanup` more may be added; after the block it is refused, and nothing is opened."""

        async def main():
            journal = Journal()
            async with ResourceManager() as resources:
                await resources.add(journal.opener("a"), journal.close)
                await resources.cleanup()
                assert (journal.released, len(resources)) == (["a"], 0)
                await resources.add(journal.opener("b"), journal.close)
            with pytest.raises(EngineClosedError):
                await resources.add(journal.opener("c"), journal.close)
            assert (journal.released, journal.open) == (["a", "b"], [])

        asyncio.run(main())

    def test_what_opens_too_late_is_closed_at_once(self):
        """A block that ends while another task still opens a resource for it leaks nothing."""

        async def main():
            journal, gate = Journal(), asyncio.Event()

            async def slow():
                await gate.wait()
                return journal.opener("late")()

            async with ResourceManager() as resources:
                adding = asyncio.create_task(resources.add(slow, journal.close))
                await settle()
            gate.set()
            with pytest.raises(EngineClosedError):
                await adding
            assert (journal.released, journal.open) == (["late"], [])

        asyncio.run(main())

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1"])
    def test_values_without_a_meaning_are_refused(self, timeout):
        """A timeout of nothing, and what cannot be called; nothing is opened for the latter."""
        with pytest.raises(InvalidValueError, match="cleanup_timeout"):
            ResourceManager(cleanup_timeout=timeout)
        opened = []
        with pytest.raises(InvalidValueError, match="close=3"):
            asyncio.run(ResourceManager().add(lambda: opened.append(1), 3))
        with pytest.raises(InvalidValueError, match="cleanup=3"):
            ResourceManager().callback(3)
        assert opened == []


class TestFailures:
    """What is raised, and what is kept."""

    @staticmethod
    def failing(error):
        def close():
            raise error

        return close

    def test_every_cleanup_runs_and_errors_come_together(self):
        """Two of four fail, plain and async: the others run, and an ExceptionGroup holds both, named."""

        async def refuse():
            raise KeyError("async")

        async def main():
            journal = Journal()
            resources = ResourceManager()

            async def fill(resources):
                await resources.add(journal.opener("a"), journal.close)
                resources.callback(self.failing(ValueError("plain")))
                resources.callback(refuse)
                await resources.add(journal.opener("d"), journal.close)

            with pytest.raises(ExceptionGroup) as caught:
                await used(resources, fill)
            assert journal.released == ["d", "a"]
            assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]
            assert resources.failures == caught.value.exceptions
            assert "refuse" in caught.value.exceptions[0].__notes__[0]

        asyncio.run(main())

    def test_the_blocks_own_error_is_kept(self):
        """It is raised as it is, with a note of each cleanup that failed; the failures can be read."""

        async def main():
            error = RuntimeError("the block's")
            resources = ResourceManager()

            async def fill(resources):
                resources.callback(self.failing(ValueError("one")))
                resources.callback(self.failing(ValueError("two")))
                raise error

            with pytest.raises(RuntimeError) as caught:
                await used(resources, fill)
            assert caught.value is error
            assert ["two" in note or "one" in note for note in error.__notes__] == [True, True]
            assert [str(failure) for failure in resources.failures] == ["two", "one"]

        asyncio.run(main())

    def test_even_the_end_of_the_program_waits_for_the_others(self):
        """A SystemExit in a cleanup does not keep the next from running."""

        async def main():
            journal = Journal()

            async def fill(resources):
                await resources.add(journal.opener("a"), journal.close)
                resources.callback(self.failing(SystemExit(3)))

            with pytest.raises(BaseExceptionGroup) as caught:
                await used(ResourceManager(), fill)
            assert journal.released == ["a"]
            assert isinstance(caught.value.exceptions[0], SystemExit)

        asyncio.run(main())

    def test_a_cleanup_that_takes_too_long_is_cancelled(self):
        """After cleanup_timeout the next has its turn; the error says which it was."""

        async def main():
            journal, cancelled = Journal(), []

            async def hang():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise

            async def fill(resources):
                await resources.add(journal.opener("a"), journal.close)
                resources.callback(hang)

            with pytest.raises(ExceptionGroup) as caught:
                await used(ResourceManager(cleanup_timeout=0.001), fill)
            (error,) = caught.value.exceptions
            assert isinstance(error, ExecutionTimeoutError)
            assert (error.timeout, error.stage, "hang" in str(error)) == (0.001, "cleanup", True)
            assert (journal.released, cancelled) == (["a"], [True])

        asyncio.run(main())

    def test_a_cleanup_that_does_not_heed_is_left_behind(self, monkeypatch):
        """One that swallows its cancellation does not hold up the others, and what it raises later is not reported."""
        monkeypatch.setattr(resources_module, "CANCEL_GRACE", 0.001)

        async def main():
            complaints, gate, journal = [], asyncio.Event(), Journal()
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

            async def deaf():
                while not gate.is_set():
                    try:
                        await gate.wait()
                    except asyncio.CancelledError:
                        continue
                raise ValueError("late")

            async def fill(resources):
                await resources.add(journal.opener("a"), journal.close)
                resources.callback(deaf)

            with pytest.raises(ExceptionGroup) as caught:
                await used(ResourceManager(cleanup_timeout=0.001), fill)
            assert "left behind" in str(caught.value.exceptions[0])
            assert journal.released == ["a"]
            del caught
            gate.set()
            await settle()
            gc.collect()
            return complaints

        assert asyncio.run(main()) == []

    def test_a_cleanup_cancelled_on_its_own_is_a_failure(self):
        """It does not look like a cancellation of the block."""

        async def cancelled():
            raise asyncio.CancelledError

        async def main():
            with pytest.raises(ExceptionGroup) as caught:
                await execute_with_cleanup(lambda _: None, cancelled)
            return caught.value.exceptions

        (error,) = asyncio.run(main())
        assert isinstance(error, ExecutionCancelledError)


class TestCancellation:
    """The task is cancelled: nothing stays open."""

    def test_a_cancelled_block_releases_everything(self):
        """Cancelled while it works; the cleanups run, then the cancellation goes on."""

        async def main():
            journal = Journal()

            async def work():
                async with ResourceManager() as resources:
                    await resources.add(journal.opener("a"), journal.aclose)
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert journal.released == ["a"]

        asyncio.run(main())

    def test_a_cleanup_is_not_interrupted(self):
        """Cancelled again and again while a cleanup is at work: it ends, so does the next, then the cancellation goes on."""

        async def main():
            journal, gate = Journal(), asyncio.Event()

            async def slow():
                await gate.wait()
                journal.released.append("slow")

            async def work():
                async with ResourceManager() as resources:
                    await resources.add(journal.opener("a"), journal.aclose)
                    resources.callback(slow)

            task = asyncio.create_task(work())
            await settle()
            for _ in range(3):
                task.cancel()
                await settle()
            assert not task.done()
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert journal.released == ["slow", "a"]

        asyncio.run(main())

    def test_a_cancellation_outlives_failures(self):
        """Cancelled during a cleanup of which another fails: CancelledError it is, with a note; the block's error before it."""

        async def main():
            gate = asyncio.Event()

            async def work():
                async with ResourceManager() as resources:
                    resources.callback(TestFailures.failing(ValueError("lost?")))
                    resources.callback(gate.wait)
                    raise RuntimeError("first")

            task = asyncio.create_task(work())
            await settle()
            task.cancel()
            await settle()
            gate.set()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            return caught.value

        error = asyncio.run(main())
        assert "lost?" in error.__notes__[0]
        assert isinstance(error.__context__, RuntimeError)

    def test_the_end_of_the_program_releases(self):
        """A task that asyncio.run cancels at its end still runs its cleanups to their end."""
        journal = Journal()

        async def work():
            async with ResourceManager() as resources:
                await resources.add(journal.opener("a"), journal.aclose)
                await asyncio.Event().wait()

        async def main():
            task = asyncio.create_task(work())
            await settle()
            assert not task.done()

        asyncio.run(main())
        assert journal.released == ["a"]

    @given(
        st.lists(st.sampled_from(["plain", "async", "fails", "cancelled"]), max_size=8),
        st.sampled_from([None, "error", "cancel"]),
        st.lists(st.integers(0, 6), max_size=3),
    )
    def test_whatever_happens_each_is_released_once(self, kinds, ending, cancels):
        """Any mix of cleanups, any end of the block, cancellations at any moment: each cleanup runs once, in reverse."""
        assert asyncio.run(_released(kinds, ending, cancels)) == list(range(len(kinds)))[::-1]


async def _released(kinds, ending, cancels):
    released = []

    def plain(number):
        released.append(number)

    async def slow(number):
        await settle(2)
        released.append(number)

    async def fails(number):
        await slow(number)
        raise ValueError(number)

    async def cancelled(number):
        await slow(number)
        raise asyncio.CancelledError

    cleanups = {"plain": plain, "async": slow, "fails": fails, "cancelled": cancelled}

    async def work():
        async with ResourceManager() as resources:
            for number, kind in enumerate(kinds):
                resources.callback(cleanups[kind], number)
            if ending == "error":
                raise KeyError
            if ending == "cancel":
                raise asyncio.CancelledError

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    for turns in cancels:
        await settle(turns)
        task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        assert isinstance(task.exception(), KeyError if ending == "error" else ExceptionGroup)
    return released


class TestExecuteWithCleanup:
    """One call with its release."""

    @pytest.mark.parametrize("style", ["plain", "async"])
    def test_it_returns_the_result_after_the_release(self, style):
        """What the operation added goes first, then the given cleanups, the last given first."""
        journal = Journal()

        def plain(resources):
            resources.callback(journal.released.append, "added")
            return 42

        async def asynchronous(resources):
            return plain(resources)

        first, second = (lambda name=name: journal.released.append(name) for name in ("first", "second"))
        operation = plain if style == "plain" else asynchronous
        assert asyncio.run(execute_with_cleanup(operation, first, second)) == 42
        assert journal.released == ["added", "second", "first"]

    def test_it_raises_the_operations_error_after_the_release(self):
        """The error of the operation itself, not a group."""
        released = []

        def broken(resources):
            raise LookupError("no")

        with pytest.raises(LookupError):
            asyncio.run(execute_with_cleanup(broken, lambda: released.append(1)))
        assert released == [1]


class FakeMemory(ProcessMemory):
    """Resident memory that a test sets."""

    def __init__(self, *, refuses=False):
        super().__init__()
        self.now, self.most, self.refuses = 100, 100, refuses

    def use(self, now, most):
        self.now, self.most = now, most

    def resident(self):
        return self.now

    def peak(self):
        return self.most

    def reset_peak(self):
        if self.refuses:
            raise PermissionError(13, "Permission denied", "/proc/self/clear_refs")
        self.most = self.now
        ProcessMemory.resets += 1


def tracked(memory):
    clock, cpu = FakeClock(10.0), FakeClock(3.0)
    return ResourceTracker(clock=clock, cpu_clock=cpu, memory=memory), clock, cpu


class TestTracker:
    """Sections between checkpoints."""

    def test_sections_stand_between_checkpoints(self):
        """Duration, CPU, memory, its change and its peak of each, by hand."""
        memory = FakeMemory()
        tracker, clock, cpu = tracked(memory)
        tracker.checkpoint("start")
        clock.advance(2.0)
        cpu.advance(0.5)
        memory.use(150, 400)
        tracker.checkpoint("loaded")
        clock.advance(1.0)
        memory.use(120, 160)
        tracker.checkpoint("done")
        report = tracker.get_report()
        assert report.sections == (
            ("start", "loaded", 2.0, 0.5, 150, 50, 400),
            ("loaded", "done", 1.0, 0.0, 120, -30, 160),
        )
        assert (report.duration, report.cpu_time, report.memory_peak) == (3.0, 0.5, 400)
        assert dict(report.unmeasured) == {}
        assert str(report) == (
            "start to loaded: 2.00 s, CPU 500 ms, memory 150 B (+50 B), at most 400 B; "
            "loaded to done: 1.00 s, CPU 0 s, memory 120 B (-30 B), at most 160 B; "
            "3.00 s in all, 500 ms of CPU in all threads of the process."
        )

    def test_a_peak_is_never_below_what_is_resident(self):
        """The kernel brings the two up to date at different moments: the larger is told."""
        memory = FakeMemory()
        tracker, *_ = tracked(memory)
        tracker.checkpoint("a")
        memory.use(200, 180)
        tracker.checkpoint("b")
        assert tracker.get_report().memory_peak == 200

    def test_the_kernels_numbers_are_read_in_their_units(self, tmp_path):
        """Pages in statm, KiB in status, and a 5 into clear_refs; a kernel without VmHWM is an OSError."""
        memory = ProcessMemory(tmp_path)
        (tmp_path / "statm").write_text("900 7 3 1 0 100 0\n")
        (tmp_path / "status").write_text("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t    50 kB\n")
        memory.reset_peak()
        assert (memory.resident(), memory.peak()) == (7 * resource.getpagesize(), 51_200)
        assert (tmp_path / "clear_refs").read_text() == "5"
        (tmp_path / "status").write_text("Name:\tx\n")
        with pytest.raises(OSError, match="VmHWM"):
            memory.peak()

    def test_a_frame_has_a_row_a_section(self):
        """Columns in seconds and bytes, whole numbers of bytes, NA where not measured."""
        tracker, clock, _ = tracked(FakeMemory(refuses=True))
        for name in ("a", "b", "c"):
            tracker.checkpoint(name)
            clock.advance(1.0)
        frame = tracker.get_report().frame()
        assert frame["begin"].tolist() == ["a", "b"]
        assert frame["duration"].tolist() == [1.0, 1.0]
        assert frame["memory"].tolist() == [100, 100]
        assert frame["memory_peak"].isna().all()

    def test_a_peak_that_may_not_be_reset_is_none_with_the_reason(self):
        """Resident memory is still told."""
        tracker, *_ = tracked(FakeMemory(refuses=True))
        tracker.checkpoint("a")
        tracker.checkpoint("b")
        report = tracker.get_report()
        assert (report.sections[0].memory, report.memory_peak) == (100, None)
        assert "Permission denied" in report.unmeasured["memory_peak"]
        assert "Permission denied" in str(report)

    def test_two_trackers_at_once_know_no_peak(self):
        """The process has one peak: who resets it takes it from the other, and both say so."""
        one, two = ResourceTracker(memory=FakeMemory()), ResourceTracker(memory=FakeMemory())
        for tracker in (one, two, one, two):
            tracker.checkpoint("now")
        for tracker in (one, two):
            report = tracker.get_report()
            assert report.memory_peak is None
            assert "something else" in report.unmeasured["memory_peak"]

    def test_without_proc_memory_is_none_with_the_reason(self, tmp_path):
        """As on macOS: time and CPU are measured all the same."""
        tracker, clock, _ = tracked(ProcessMemory(tmp_path / "nowhere"))
        tracker.checkpoint("a")
        clock.advance(1.0)
        tracker.checkpoint("b")
        report = tracker.get_report()
        assert report.sections == (("a", "b", 1.0, 0.0, None, None, None),)
        assert "No such file" in report.unmeasured["memory"]
        assert "memory was not measured" in str(report)

    @pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
    def test_the_real_process_is_measured(self):
        """30 MiB that came and went are in the peak of their section and not in what is resident; 20 MiB kept are."""
        tracker = ResourceTracker()
        tracker.checkpoint("start")
        bytearray(30 * 2**20)
        tracker.checkpoint("gone")
        kept = bytearray(b"x") * (20 * 2**20)
        tracker.checkpoint("kept")
        sum(range(50_000))
        tracker.checkpoint("computed")
        gone, stays, computed = tracker.get_report().sections
        assert gone.memory_change < 5 * 2**20
        assert gone.memory_peak is None or gone.memory_peak - gone.memory > 25 * 2**20
        assert 15 * 2**20 < stays.memory_change < 25 * 2**20
        assert len(kept) == 20 * 2**20
        assert computed.cpu_time > 0
        assert computed.memory_peak is None or computed.memory_peak - computed.memory < 5 * 2**20

    def test_one_checkpoint_makes_no_section(self):
        """A report before the second is an error that says what to do."""
        tracker = ResourceTracker()
        with pytest.raises(InvalidValueError, match="0 checkpoints"):
            tracker.get_report()
        tracker.checkpoint("a")
        with pytest.raises(InvalidValueError, match="1 checkpoints"):
            tracker.get_report()

    def test_another_process_is_refused(self, monkeypatch):
        """A tracker that came by fork or pickle would count the wrong process."""
        tracker = pickle.loads(pickle.dumps(ResourceTracker()))
        tracker.checkpoint("here")
        process = os.getpid()
        monkeypatch.setattr("os.getpid", lambda: process + 1)
        with pytest.raises(ExecutionError, match=str(process)):
            tracker.checkpoint("there")
