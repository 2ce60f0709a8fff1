"""The files around the package: pins, and what a test does when a program is missing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_are_plain_pins() -> None:
    """Every line is name==version: no address, no path, no option, and no name twice."""
    assert [line for line in pins() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []
    names = [normal(line.partition("==")[0]) for line in pins()]
    assert len(names) == len(set(names))


def test_every_requirement_is_pinned() -> None:
    """What pyproject asks for, the build included, has a pin."""
    project = PROJECT["project"]
    asked = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    asked += [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    names = {normal(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in asked}
    assert names - {normal(line.partition("==")[0]) for line in pins()} == set()


def test_missing_program_skips_and_says_how_to_get_it(
    needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a program the test that needs it is skipped, and the reason names the Debian package."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SKILLLAB_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="bwrap is not installed: apt-get install bubblewrap"):
        needs("bwrap")


def test_missing_program_fails_where_nothing_may_skip(
    needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SKILLLAB_REQUIRE_ALL=1 the same test fails."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SKILLLAB_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="chromium is not installed"):
        needs("chromium")


def test_program_that_is_there_is_found(needs: Callable[[str], str]) -> None:
    """A program on the path comes back with its full name."""
    assert Path(needs("sh")).is_absolute()
