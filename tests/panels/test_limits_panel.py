"""LimitsPanel: it shows what is allowed, then what an attempt found, and a run can be stopped."""

from __future__ import annotations

import asyncio

import pytest

from skilllab.errors import SkilllabError
from skilllab.experiments.limits import MISBEHAVIOURS, Attempt, Setting, Use
from skilllab.panels import LimitsPanel
from tests.panels.conftest import Measuring, turns

pytestmark = pytest.mark.slow  # each lays a picture out

MIB = 2**20
BASE = Setting("max_memory", 0.25, "process")


def made(setting: Setting, outcome: str = "stopped") -> Attempt:
    """An attempt that used half of what it was allowed, and all of the limit that stopped it."""
    limits = setting.limits
    uses = []
    for limit in MISBEHAVIOURS:
        allowed = getattr(limits, limit)
        known = limit in ("max_memory", "max_duration")
        uses.append(Use(limit, allowed, allowed / 2 if known and allowed else None))
    return Attempt(setting, outcome, f"words of {outcome}", tuple(uses))


def trying(failure: SkilllabError | None = None) -> Measuring:
    """Stands in for a sandbox, in which every attempt is stopped."""
    return Measuring(lambda _: ("running …",), made, failure)


def texts(panel: LimitsPanel) -> list[str]:
    panel.settle()
    return [text.get_text() for text in panel._drawing._texts]


def title(panel: LimitsPanel) -> str:
    panel.settle()
    return str(panel._drawing._title.get_text())


def widths(panel: LimitsPanel) -> list[float]:
    panel.settle()
    return [bar.get_width() for bar in panel._drawing._bars]


def test_the_first_picture_shows_what_is_allowed() -> None:
    """Without an attempt there are no bars, and the words say what Run would do."""
    panel = LimitsPanel(measure=trying())
    assert "a script that fills 128 MiB of memory; 32 MiB allowed, 25 % of that: not run yet" in panel.summary
    assert title(panel).startswith("Not run yet (isolation ")
    assert texts(panel)[0] == "32 MiB allowed"
    assert set(widths(panel)) == {0.0}
    assert panel.error == ""


def test_an_attempt_that_was_made_is_shown() -> None:
    """The controls start where it was made; its limit is full and marked, the others hold what was used."""
    panel = LimitsPanel(made(BASE), measure=trying())
    assert panel.summary.endswith("25 % of that: words of stopped.")
    assert title(panel) == "max_memory stopped it (isolation process)"
    assert texts(panel)[0] == "32 MiB: stopped"
    assert widths(panel)[:3] == [1.0, 0.0, 0.5]
    assert texts(panel)[2] == "5 s of 10 s"
    assert texts(panel)[-1] == "not asked for"


@pytest.mark.parametrize(
    ("outcome", "title_", "words", "first"),
    [
        ("finished", "No limit stopped it", "finished: words of finished", "16 MiB of 32 MiB"),
        ("refused", "Refused before it started", "refused before it started: words", "32 MiB: refused"),
        ("failed", "It failed, not by this limit", "failed for another reason: words", "16 MiB of 32 MiB"),
    ],
)
def test_other_outcomes(outcome: str, title_: str, words: str, first: str) -> None:
    """What was not stopped says so in title, words and row."""
    panel = LimitsPanel(made(BASE, outcome), measure=trying())
    assert title(panel) == f"{title_} (isolation process)"
    assert words in panel.summary
    assert texts(panel)[0] == first


def test_a_network_that_is_not_there() -> None:
    """No request is allowed whatever the share, and what stopped it is said in words."""
    panel = LimitsPanel(made(Setting("max_network_requests", 0.25, "bubblewrap")), measure=trying())
    assert "no request allowed: stopped, there is no network (words of stopped)" in panel.summary
    assert texts(panel)[-1] == "none: stopped"


def test_every_control_changes_picture_and_words() -> None:
    """Misbehaviour, limit and isolation are seen in both, and reset brings the first words back."""
    panel = LimitsPanel(made(BASE), measure=trying())
    first = panel.summary
    seen = {(panel.png, panel.summary)}
    for control, value in ((panel.isolation, "bubblewrap"), (panel.share, 2.0), (panel.misbehaviour, "max_disk")):
        control.value = value
        seen.add((panel.png, panel.summary))
    assert len({png for png, _ in seen}) == len({words for _, words in seen}) == 4
    panel.reset()
    assert panel.summary == first


def test_run_tries_what_is_chosen_and_keeps_it() -> None:
    """Run shows that it is at work, then what was found; another value is not run, the first one stays known."""

    async def main() -> None:
        measure = trying()
        panel = LimitsPanel(made(BASE), measure=measure)
        panel.misbehaviour.value = "max_file_size"
        assert "not run yet" in panel.summary
        panel.run.click()
        await measure.started.wait()
        assert measure.asked == [Setting("max_file_size", 0.25, "process")]
        assert (panel.run.description, panel._progress.value) == ("Stop", 0.5)
        assert "running" in panel._status.value
        measure.go_on.set()
        await turns()
        assert "words of stopped" in panel.summary
        assert panel.run.description == "Run"
        panel.share.value = 1.0
        assert "8 MiB allowed, all it wants: not run yet" in panel.summary
        panel.share.value = 0.25
        assert "words of stopped" in panel.summary

    asyncio.run(main())


@pytest.mark.parametrize("how", ["stop", "move"])
def test_stop_and_another_value_end_a_run(how: str) -> None:
    """A second press, or a moved control, cancels what is under way."""

    async def main() -> None:
        measure = trying()
        panel = LimitsPanel(measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        if how == "stop":
            panel.run.click()
        else:
            panel.share.value = 1.0
        await turns()
        assert measure.cancelled == 1
        assert (panel.run.description, panel.error) == ("Run", "")
        assert "not run yet" in panel.summary

    asyncio.run(main())


def test_a_run_that_fails_says_so() -> None:
    """A typed error goes to the banner, and the last picture stays."""

    async def main() -> None:
        measure = trying(SkilllabError("no sandbox today"))
        panel = LimitsPanel(measure=measure)
        panel.settle()
        panel.run.click()
        await measure.started.wait()
        measure.go_on.set()
        await turns()
        assert panel.error == "no sandbox today"

    asyncio.run(main())


def test_without_a_loop_run_tries_for_real() -> None:
    """In plain Python the button returns when there is a result, here of a real sandbox."""
    panel = LimitsPanel(made(Setting("max_open_files", 0.5, "process"), "finished"))
    panel.share.value = 0.25
    panel.run.click()
    assert "stopped at max_open_files (open files): 16 allowed" in panel.summary
    assert texts(panel)[6] == "16: stopped"
