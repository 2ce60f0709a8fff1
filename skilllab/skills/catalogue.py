"""Skill catalogues: JSON files of definitions, read with every fault named, and written.

A catalogue is {"catalogue": 1, "skills": [...]}; an entry has the fields of SkillDefinition. Reading one imports nothing:
a function is imported when its skill is loaded. A catalogue names code to run, so read only those that you trust.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from skilllab import format as fmt
from skilllab.errors import CatalogueError, InvalidDefinitionError, InvalidValueError
from skilllab.loading import compile_schemas
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.skills._mapping import SkillMapping

VERSION = 1
_KNOWN = ("catalogue", "skills")


@dataclass(frozen=True, slots=True)
class CatalogueProblem:
    """One bad entry: the file as it was named, the entry's place from 0, its id if it has one, the field and the reason."""

    file: str
    index: int
    skill_id: str | None
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: skills[{self.index}] {self.skill_id or '(no id)'}: {self.field or 'entry'}: {self.reason}"


class Catalogue(SkillMapping):
    """Definitions by id in the order of the file, read-only; `problems` holds what was left out."""

    __slots__ = ("_skills", "file", "problems")

    def __init__(
        self, file: str, skills: Mapping[str, SkillDefinition], problems: Iterable[CatalogueProblem] = ()
    ) -> None:
        self.file = file
        self.problems = tuple(problems)
        self._skills = dict(skills)

    def __repr__(self) -> str:
        return f"<Catalogue {self.file!r} of {len(self)} skills, {len(self.problems)} problems>"


def read_catalogue(path: str | os.PathLike[str], *, skip_bad: bool = False) -> Catalogue:
    """Returns the definitions of a catalogue file.

    Every entry is checked: fields, schemas, ids and names within a layer that stand twice. With a bad one among them a
    CatalogueError lists all, and nothing is returned; skip_bad=True returns the good ones, with the rest in `.problems`.
    Raises CatalogueError also for a file that cannot be read, is no UTF-8, no JSON (line and column) or no catalogue.
    """
    file = os.fspath(path)
    skills: dict[str, SkillDefinition] = {}
    names: dict[tuple[int, str], int] = {}
    indexes: dict[str, int] = {}
    problems: list[CatalogueProblem] = []
    for index, entry in enumerate(_entries(file)):
        try:
            definition = _definition(entry)
            _require_new(definition, indexes, names)
        except InvalidDefinitionError as error:
            skill_id = entry.get("id") if isinstance(entry, dict) else None
            problems.append(CatalogueProblem(file, index, _text(skill_id), error.field, _reason(error, skill_id)))
            continue
        skills[definition.id] = definition
        indexes[definition.id] = names[definition.layer, definition.name] = index
    if problems and not skip_bad:
        raise _bad_entries(problems)
    return Catalogue(file, skills, problems)


def write_catalogue(path: str | os.PathLike[str], definitions: Iterable[SkillDefinition]) -> None:
    """Writes definitions to a catalogue file, whole or not at all; fields at their default are left out.

    Raises InvalidValueError for a definition that JSON cannot hold: a function as cache_key, or one made in `__main__` or
    inside another function, which nobody could import.
    """
    entries = [_entry(definition) for definition in definitions]
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(
        json.dumps({"catalogue": VERSION, "skills": entries}, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    partial.replace(target)


class _Object(dict[str, Any]):
    """A JSON object that knows which keys were written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.doubled = sorted({key for key in keys if keys.count(key) > 1}) if len(self) < len(keys) else []


def _entries(file: str) -> list[Any]:
    content = _parsed(file, _read(file))
    if not isinstance(content, _Object):
        raise CatalogueError(
            f'{file}: it holds no object, so it is no catalogue: write {{"catalogue": 1, "skills": [...]}}'
        )
    if content.doubled:
        raise CatalogueError(f"{file}: {', '.join(content.doubled)} stands twice: keep one")
    version = content.get("catalogue")
    if type(version) is not int or version != VERSION:
        raise CatalogueError(
            f'{file}: catalogue={version!r} is a version that is not known here: write "catalogue": {VERSION}'
        )
    unknown = [field for field in content if field not in _KNOWN]
    if unknown:
        raise CatalogueError(f"{file}: {', '.join(unknown)} is not known: a catalogue has {' and '.join(_KNOWN)}")
    entries = content.get("skills")
    if not isinstance(entries, list):
        raise CatalogueError(f"{file}: skills={_short(entries)} must be a list of definitions")
    return entries


def _read(file: str) -> str:
    try:
        data = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise CatalogueError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{file}: byte {error.start} is not UTF-8 ({error.reason}): save it as UTF-8") from None


def _parsed(file: str, text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise CatalogueError(f"{file}: it holds {constant}, which JSON does not have")

    try:
        return json.loads(text, object_pairs_hook=_Object, parse_constant=refuse)
    except json.JSONDecodeError as error:
        cut = "; the file seems to end too early" if not text[error.pos :].strip() else ""
        raise CatalogueError(f"{file}: line {error.lineno}, column {error.colno}: {error.msg}{cut}") from None
    except RecursionError:
        raise CatalogueError(f"{file}: it is nested too deeply") from None
    except CatalogueError:
        raise
    except ValueError as error:
        raise CatalogueError(f"{file}: {error}") from None


def _definition(entry: Any) -> SkillDefinition:
    if not isinstance(entry, _Object):
        raise InvalidDefinitionError(f'{_short(entry)} is no object: write {{"id": ..., "name": ..., "layer": ...}}')
    for where, doubled in _doubled(entry):
        raise InvalidDefinitionError(f"{doubled!r} stands twice: keep one", field=where)
    definition = SkillDefinition(**entry)
    compile_schemas(definition)
    return definition


def _doubled(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted path, key) for each key that is written twice anywhere inside."""
    if isinstance(value, _Object):
        for key in value.doubled:
            yield f"{path}{key}", key
        for key, item in value.items():
            yield from _doubled(item, f"{path}{key}.")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _doubled(item, f"{path}{number}.")


def _require_new(definition: SkillDefinition, indexes: Mapping[str, int], names: Mapping[tuple[int, str], int]) -> None:
    first = indexes.get(definition.id)
    if first is not None:
        raise InvalidDefinitionError(
            f"{definition.id!r} is the id of skills[{first}] as well: ids are unique", field="id"
        )
    first = names.get((definition.layer, definition.name))
    if first is not None:
        raise InvalidDefinitionError(
            f"{definition.name!r} is the name of skills[{first}] as well: names are unique within a layer", field="name"
        )


def _bad_entries(problems: list[CatalogueProblem]) -> CatalogueError:
    listing = "\n".join(f"  {problem}" for problem in problems)
    count = "1 entry is" if len(problems) == 1 else f"{len(problems)} entries are"
    return CatalogueError(
        f"{count} bad; mend them, or read the others with skip_bad=True:\n{listing}", problems=tuple(problems)
    )


def _entry(definition: SkillDefinition) -> dict[str, Any]:
    handler = definition.handler
    if callable(definition.cache_key):
        raise InvalidValueError(
            f"skill {definition.id!r}: cache_key={definition.cache_key!r} cannot be written: name a field path"
        )
    if isinstance(handler, FunctionHandler) and (handler.target.startswith("__main__:") or "<" in handler.target):
        raise InvalidValueError(
            f"skill {definition.id!r}: {handler.target!r} could not be imported elsewhere: move it to the top of a module"
        )
    entry = definition.model_dump(mode="json", exclude_defaults=True)
    if isinstance(handler, FunctionHandler):
        entry["handler"] = handler.target
    elif handler is not None:
        entry["handler"] = {"kind": handler.kind, **entry["handler"]}
    return entry


def _reason(error: InvalidDefinitionError, skill_id: object) -> str:
    """Returns the message without the id, which stands beside it."""
    return str(error).removeprefix(f"SkillDefinition {skill_id!r}: ").removeprefix(f"skill {skill_id!r}: ")


def _text(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else _short(value)


def _short(value: object) -> str:
    return fmt.cut(repr(value), 80)
