"""What processes of the lab say to each other over pipes."""

from __future__ import annotations

import asyncio

import pytest

from skilllab.programs.values import Values, pack


def test_values_survive_every_cut() -> None:
    """However the bytes come in, and wherever a reader is cancelled between them, each value arrives once and whole."""

    async def main() -> None:
        said = [(1, "statistics", ()), {"a": [1.5, None]}, b"x" * 300]
        data = b"".join(pack(value) for value in said)
        for cut in range(len(data)):
            reader = asyncio.StreamReader()
            values = Values(reader)
            reader.feed_data(data[:cut])
            heard = []
            while True:
                reading = asyncio.create_task(values.read())
                await asyncio.sleep(0)
                if not reading.done():
                    reading.cancel()
                    break
                heard.append(reading.result())
            await asyncio.gather(reading, return_exceptions=True)
            reader.feed_data(data[cut:])
            reader.feed_eof()
            heard += [await values.read() for _ in said[len(heard) :]]
            assert heard == said

    asyncio.run(main())


@pytest.mark.parametrize("kept", [0, 3, 12])
def test_the_end_of_a_pipe_is_an_end(kept: int) -> None:
    """A pipe that ends, between two values or inside one, is an EOFError."""

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(pack("a value")[:kept])
        reader.feed_eof()
        with pytest.raises(EOFError):
            await Values(reader).read()

    asyncio.run(main())
