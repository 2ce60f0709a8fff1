"""What every test shares: programs a test needs, and hypothesis without luck."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# A property test is a test, not a lottery: the same examples on every machine, and time never decides.
settings.register_profile(
    "skilllab", derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# For a hunt at one's own desk: HYPOTHESIS_PROFILE=hunt make test
settings.register_profile("hunt", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "skilllab"))

PACKAGES = {"chromium": "chromium", "bwrap": "bubblewrap"}


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """Leaves what was there before a module out of every garbage collection, of which benchmarks make many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def needs() -> Callable[[str], str]:
    """A function that returns the path of a program, or skips the test and says how to get it.

    With SKILLLAB_REQUIRE_ALL=1 a missing program fails the test instead: nothing may go unproven unseen.
    """
    return find_program


def find_program(name: str) -> str:
    path = shutil.which(name)
    if path:
        return path
    reason = f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}"
    if os.environ.get("SKILLLAB_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (SKILLLAB_REQUIRE_ALL=1 allows no skip)")
    pytest.skip(reason)
