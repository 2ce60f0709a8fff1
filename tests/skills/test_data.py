"""data/: every entry of the catalogue does what its examples say, and the samples are what their maker makes."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from skilllab.engine import LayeredExecutionEngine
from skilllab.loading import LoadedSkill, load
from skilllab.model import CommandHandler, HttpHandler, ScriptHandler, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.settings import data_folder
from skilllab.skills import builtin
from skilllab.skills.catalogue import read_catalogue, write_catalogue

CATALOGUE = read_catalogue(data_folder() / "catalogue.json")
EXAMPLES = [
    pytest.param(definition, example, id=f"{definition.id}-{number}")
    for definition in CATALOGUE.values()
    for number, example in enumerate((definition.input_schema or {}).get("examples", ()))
]
BUILT_IN = builtin()
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@pytest.fixture
def in_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_folder())


def skills_of(*handlers: type) -> list[SkillDefinition]:
    return [definition for definition in CATALOGUE.values() if isinstance(definition.handler, handlers)]


def examples_of(*layers: int) -> list[Any]:
    return [example for example in EXAMPLES if example.values[0].layer in layers]


def test_the_catalogue_has_skills_in_every_layer_and_an_example_for_each() -> None:
    """About twenty skills in three layers, none without an example, and six are the built-in ones."""
    assert len(CATALOGUE) == 21
    assert {definition.layer for definition in CATALOGUE.values()} == {1, 2, 3}
    assert {example.values[0].id for example in EXAMPLES} == set(CATALOGUE)
    assert list(CATALOGUE)[:6] == list(BUILT_IN)


@pytest.mark.parametrize("skill_id", BUILT_IN)
def test_built_in_entries_say_what_the_code_says(skill_id: str, tmp_path: Path) -> None:
    """An entry of a built-in skill is its definition as the decorator makes it, so a changed hint changes the file."""
    write_catalogue(tmp_path / "fresh.json", [BUILT_IN[skill_id]])
    [fresh] = json.loads((tmp_path / "fresh.json").read_text())["skills"]
    shipped = json.loads((data_folder() / "catalogue.json").read_text())["skills"]
    assert fresh in shipped


@pytest.mark.parametrize(("definition", "example"), EXAMPLES)
def test_examples_fit_their_input_schema(definition: SkillDefinition, example: dict[str, Any]) -> None:
    """Every example of every layer passes the skill's own validator."""
    assert load(definition, 1).check_input(example) is None


@pytest.mark.parametrize(("definition", "example"), examples_of(1))
@pytest.mark.usefixtures("in_data")
def test_layer_1_examples_run(definition: SkillDefinition, example: dict[str, Any]) -> None:
    """The engine executes every layer 1 example, and the output fits the output schema."""

    async def run() -> Any:
        registry = InMemorySkillRegistry(catalogue=CATALOGUE)
        await registry.preload_skills([definition.id])
        async with LayeredExecutionEngine(registry) as engine:
            return await engine.execute(definition.id, example)

    result = asyncio.run(run())
    assert result.error is None
    assert result.output not in (None, "", [], {})


@pytest.mark.parametrize(
    ("definition", "example"), [e for e in EXAMPLES if isinstance(e.values[0].handler, CommandHandler)]
)
@pytest.mark.usefixtures("in_data")
def test_layer_2_commands_run(definition: SkillDefinition, example: dict[str, Any]) -> None:
    """With its placeholders filled, every command of the catalogue ends well and prints something."""
    assert isinstance(definition.handler, CommandHandler)
    argv = [_PLACEHOLDER.sub(lambda match: str(example[match[1]]), part) for part in definition.handler.argv]
    assert subprocess.run(argv, capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize(
    ("definition", "example"), [e for e in EXAMPLES if isinstance(e.values[0].handler, ScriptHandler)]
)
def test_layer_2_scripts_run(definition: SkillDefinition, example: dict[str, Any]) -> None:
    """Every script defines run(params), and what it returns fits its output schema."""
    assert isinstance(definition.handler, ScriptHandler)
    names: dict[str, Any] = {}
    exec(compile(definition.handler.source, definition.id, "exec"), names)
    output_check = load(definition, 1).check_output
    assert output_check is not None
    assert output_check(names["run"](example)) is None


@pytest.mark.parametrize("definition", skills_of(CommandHandler, HttpHandler), ids=lambda definition: definition.id)
def test_placeholders_are_parameters(definition: SkillDefinition) -> None:
    """A template names exactly the parameters that its schema has."""
    assert definition.handler is not None
    assert definition.input_schema is not None
    template = definition.handler.model_dump_json(exclude={"kind", "method"})
    assert set(_PLACEHOLDER.findall(template)) == set(definition.input_schema["properties"])


@pytest.mark.parametrize("definition", skills_of(CommandHandler), ids=lambda definition: definition.id)
def test_paths_cannot_become_options(definition: SkillDefinition) -> None:
    """In every command a path stands after --, so that a file named -rf is a file."""
    assert isinstance(definition.handler, CommandHandler)
    argv = definition.handler.argv
    assert argv.index("--") < argv.index("{path}")


def test_samples_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    """The maker beside the samples makes the same files, and nothing else lies there."""
    samples = data_folder() / "samples"
    runpy.run_path(str(samples / "make.py"))["make"](tmp_path)
    made = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        str(path.relative_to(samples)): path.read_bytes()
        for path in samples.rglob("*")
        if path.suffix not in (".py", ".pyc") and path.is_file()
    }
    assert made == kept
    assert sum(map(len, kept.values())) < 300_000


@pytest.mark.usefixtures("in_data")
def test_the_wrong_orders_are_found() -> None:
    """data-validator-v1 finds the three orders that were made wrong, and where they are."""
    skill: LoadedSkill = load(BUILT_IN["data-validator-v1"], 1)
    assert skill.function is not None
    report = skill.function(
        records=json.loads(Path("samples/orders.json").read_text()),
        schema=json.loads(Path("samples/order.schema.json").read_text()),
    )
    found = [(error["record"], error["pointer"]) for error in report["errors"]]
    assert found == [(19, "/lines/0/pieces"), (39, "/placed"), (59, "/lines")]
    assert (report["valid"], report["invalid"]) == (57, 3)
