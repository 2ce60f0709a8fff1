"""What processes of the lab say to each other: pickled values over a pipe or a pair of sockets, nothing that others reach."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

_SIZE = 8  # bytes that say how long a value is


def pack(value: object) -> bytes:
    """Returns a value as bytes that `Values.read` understands."""
    data = pickle.dumps(value)
    return len(data).to_bytes(_SIZE, "big") + data


class Values:
    """The values that come out of a pipe."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._size: int | None = None

    async def read(self) -> Any:
        """Returns the next value; whoever is cancelled loses nothing. Raises EOFError when the other side is gone."""
        if self._size is None:
            self._size = int.from_bytes(await self._reader.readexactly(_SIZE), "big")
        data = await self._reader.readexactly(self._size)
        self._size = None
        return pickle.loads(data)
