"""data-validator-v1: records against a JSON Schema."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from skilllab.define import skill
from skilllab.errors import InvalidValueError
from skilllab.schema import compile_schema, pointer, reason

_EXAMPLE_SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "integer", "minimum": 1}, "email": {"type": "string", "format": "email"}},
    "required": ["order"],
}


class Offence(TypedDict):
    """One thing wrong: the record's index, a JSON Pointer inside it ("" is the whole), and what is wrong there."""

    record: int
    pointer: str
    message: str


class ValidationReport(TypedDict):
    """How many records are valid and invalid, and the first errors; `more_errors` tells that there are others."""

    valid: int
    invalid: int
    errors: list[Offence]
    more_errors: bool


@skill(
    id="data-validator-v1",
    category="data-processing",
    tags=("json", "quality", "validation"),
    cacheable=True,
    examples=(
        {"records": [{"order": 1, "email": "ann@example.org"}, {"order": 0}, {}], "schema": _EXAMPLE_SCHEMA},
        {"records": ["2024-02-29", "2023-02-29"], "schema": {"format": "date"}},
    ),
)
def data_validator(
    records: Annotated[list[Any], Field(description="the records, each any JSON value")],
    schema: Annotated[dict[str, Any] | bool, Field(description="a JSON Schema that each record should fit")],
    max_errors: Annotated[
        int, Field(ge=0, le=10_000, description="list at most so many errors; all are counted")
    ] = 100,
    check_formats: Annotated[bool, Field(description='whether "format" counts, as in {"format": "email"}')] = True,
) -> ValidationReport:
    """Validates records against a JSON Schema and lists what is wrong with which record, and where in it.

    Raises InvalidDefinitionError for a schema that is not valid or refers to another document, InvalidValueError for a
    record that is no JSON value.
    """
    validator = compile_schema(schema, "data-validator-v1", "schema", check_formats=check_formats)
    errors: list[Offence] = []
    invalid, more = 0, False
    for index, record in enumerate(records):
        room = int(max_errors) - len(errors)
        try:
            found = list(itertools.islice(validator.iter_errors(record), room + 1))
        except ValueError as error:
            raise InvalidValueError(f"records[{index}] is no JSON value: {error}") from None
        invalid += bool(found)
        more = more or len(found) > room
        errors += [_offence(index, error) for error in found[:room]]
    return {"valid": len(records) - invalid, "invalid": invalid, "errors": errors, "more_errors": more}


def _offence(index: int, error: Any) -> Offence:
    return {"record": index, "pointer": pointer(error.instance_path), "message": reason(error)}
