"""The README's examples run as they stand, in order, as one program."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_examples_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block works after those before it, and the skill that the reader adds counts what the comment says."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    async def run() -> None:
        for number, block in enumerate(BLOCKS):
            code = compile(block, f"README block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if result is not None:
                await result

    asyncio.run(run())
    assert len(BLOCKS) >= 4
    assert names["page"].total == 3
    assert names["result"].success
    assert names["held"].metadata.isolation == "process"
    assert "max_disk" in str(names["refused"].error)
    assert names["counted"] == "6\n"
    assert "max_cpu_time" in str(names["stopped"].error)
    assert names["load"].success_rate == 1
    assert names["compared"].compare("list", "set").verdict == "faster"
    assert (names["run"], names["report"].slowest_skills[0].skill_id) == (1, "search-v1")
    assert names["word_count"]("to be or not to be") == {"be": 2, "to": 2, "not": 1}
    assert "hit rate" in capsys.readouterr().out


def test_the_picture_is_there() -> None:
    """Every image that the README shows is a file of the project."""
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert shown
    assert all((README.parent / place).is_file() for place in shown)
