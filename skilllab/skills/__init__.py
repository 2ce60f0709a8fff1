"""The built-in skills, and the reader and writer of skill catalogues."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from skilllab.define import definition_of
from skilllab.frozen import FrozenDict
from skilllab.model import SkillDefinition

BUILT_IN = ("file_reader", "data_validator", "json_processor", "csv_summary", "text_search", "checksum")
"""Modules of this package that hold a skill of the same name."""


def builtin() -> Mapping[str, SkillDefinition]:
    """Returns the definitions of the built-in skills by id; their modules are imported now and not before."""
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in BUILT_IN}
    definitions = [definition_of(getattr(module, name)) for name, module in modules.items()]
    return FrozenDict({definition.id: definition for definition in definitions})


__all__ = ["BUILT_IN", "builtin"]
