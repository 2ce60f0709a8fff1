"""Options that come from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from skilllab import settings
from skilllab.errors import InvalidValueError


@pytest.mark.parametrize(("value", "fast"), [("1", True), ("yes", True), (" TRUE ", True), ("0", False), ("", False)])
def test_fast_reads_yes_and_no(value: str, fast: bool) -> None:
    """SKILLLAB_FAST is a yes or a no in the usual spellings."""
    assert settings.fast({"SKILLLAB_FAST": value}) is fast


def test_fast_is_off_by_default() -> None:
    """A notebook opened by hand runs in its full setting."""
    assert settings.fast({}) is False


def test_fast_refuses_anything_else() -> None:
    """A value that is neither is refused, not guessed."""
    with pytest.raises(InvalidValueError, match="SKILLLAB_FAST='quick'"):
        settings.fast({"SKILLLAB_FAST": "quick"})


def test_data_folder_of_a_checkout() -> None:
    """An editable install finds the data folder beside the package."""
    assert settings.data_folder({}) == Path(settings.__file__).parent.parent / "data"


def test_data_folder_by_name(tmp_path: Path) -> None:
    """SKILLLAB_DATA names another folder, and a missing one is an error that says so."""
    assert settings.data_folder({"SKILLLAB_DATA": str(tmp_path)}) == tmp_path
    with pytest.raises(InvalidValueError, match="set SKILLLAB_DATA to an existing folder"):
        settings.data_folder({"SKILLLAB_DATA": str(tmp_path / "none")})
