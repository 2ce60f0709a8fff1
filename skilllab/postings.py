"""Which positions have a facet: sets of whole numbers, compressed, and their intersections.

A set of one is kept as the bare number: half of all words of a catalogue occur in one skill only.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Any

from pyroaring import BitMap

from skilllab.frozen import normal_text

_WORD = re.compile(r"\w+")
NOTHING = BitMap()


class Postings(dict[Hashable, Any]):
    """Maps a facet to the positions that have it."""

    __slots__ = ()

    def add(self, facet: Hashable, position: int) -> None:
        """Notes that `position` has the facet."""
        held = self.get(facet)
        if held is None:
            self[facet] = position
        elif type(held) is int:
            self[facet] = BitMap((held, position))
        else:
            held.add(position)

    def remove(self, facet: Hashable, position: int) -> None:
        """Notes that `position`, which has the facet, has it no longer."""
        held = self[facet]
        if type(held) is int or len(held) == 1:
            del self[facet]
        else:
            held.remove(position)

    def having(self, facet: Hashable) -> BitMap:
        """Returns the positions that have the facet; not to be changed."""
        held = self.get(facet)
        if held is None:
            return NOTHING
        return BitMap((held,)) if type(held) is int else held

    def having_any(self, facets: Iterable[Hashable]) -> BitMap:
        """Returns the positions that have at least one of the facets; not to be changed."""
        found = NOTHING
        for facet in facets:
            held = self.get(facet)
            if held is not None:
                if type(held) is int:
                    held = BitMap((held,))
                found = found | held if found else held
        return found

    def optimize(self) -> None:
        """Compresses every set (run-length containers)."""
        for held in self.values():
            if type(held) is not int:
                held.run_optimize()
                held.shrink_to_fit()


def intersection(sets: list[BitMap]) -> BitMap:
    """Returns what all sets share, from the smallest on; `sets` has at least one."""
    sets.sort(key=len)
    found = sets[0]
    for other in sets[1:]:
        if not found:
            break
        found = found & other
    return found


def words_of(*texts: str) -> set[str]:
    """Returns the distinct words (runs of letters, digits and underscores) of the texts, case folded, in normal form C."""
    return set(_WORD.findall(normal_text(" ".join(texts).casefold())))
