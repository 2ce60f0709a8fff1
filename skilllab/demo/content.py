"""What the demo server knows: made-up weather, users and products, the same for the same seed."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any

USERS = 10_000
"""Users have the numbers 1 to this."""

_CITIES = (
    "Aberdeen Accra Amsterdam Bergen Bilbao Bogota Brisbane Cairo Cardiff Chennai Copenhagen Cork Dakar Dublin Galway "
    "Genoa Gothenburg Hamburg Helsinki Honolulu Istanbul Kochi Lima Lisbon Malmo Manila Marseille Mumbai Naples Osaka "
    "Oslo Perth Porto Quito Reykjavik Riga Santiago Seoul Stavanger Tallinn Tromso Turku Valencia Vancouver Wellington"
)

_SKIES = ("clear", "clouds", "rain", "showers", "fog", "snow", "thunder", "wind")
_TOPICS = ("boats", "bread", "bridges", "chess", "clocks", "ferns", "kites", "maps", "moss", "radio", "tides", "wool")
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "mo", "ne", "ri", "su", "ta", "vo", "wi", "xe", "yu", "zo")
_KINDS = ("plain", "small", "large", "fine", "heavy", "light", "old", "folding", "round", "spare")
_THINGS = (
    "lamp oil,lamp,kettle,wool blanket,oak table,rope,tin cup,copper pan,map case,candle,linen towel,harbour bell,"
    "brass compass,clay pot,oil can,walnut box,glass jar,storm lantern,fishing net,cedar oar"
)


class Content:
    """Everything that one seed makes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._cities = {city.casefold(): city for city in _CITIES.split()}
        names = [f"{kind} {thing}" for kind in _KINDS for thing in _THINGS.split(",")]
        self._products = [self._product(number, name) for number, name in enumerate(names, 1)]

    def weather(self, city: str) -> dict[str, Any] | None:
        """Returns a city's weather, temperature in °C, wind in m/s and humidity as a ratio; None for an unknown city."""
        name = self._cities.get(city.casefold())
        if name is None:
            return None
        n = self._numbers("weather", name)
        return {
            "city": name,
            "temperature": (n[0] % 450 - 100) / 10,
            "wind": n[1] % 250 / 10,
            "humidity": (20 + n[2] % 80) / 100,
            "sky": _SKIES[n[3] % len(_SKIES)],
        }

    def user(self, number: int) -> dict[str, Any] | None:
        """Returns a user's public profile; None for a number beyond USERS."""
        if not 1 <= number <= USERS:
            return None
        n = self._numbers("user", number)
        return {
            "id": number,
            "handle": "".join(_SYLLABLES[x % len(_SYLLABLES)] for x in n[:3]) + f"-{number}",
            "member_since": 2010 + n[3] % 15,
            "points": n[4] % 5000,
            "topics": sorted({_TOPICS[x % len(_TOPICS)] for x in n[5:]}),
        }

    def products(self, text: str, limit: int) -> dict[str, Any]:
        """Returns the first `limit` products whose names hold every word of the text, and how many there are."""
        words = text.casefold().split()
        found = [product for product in self._products if all(word in product["name"] for word in words)]
        return {"query": text, "total": len(found), "items": found[:limit]}

    def _product(self, number: int, name: str) -> dict[str, Any]:
        n = self._numbers("product", number)
        return {"id": number, "name": name, "price": (100 + n[0] % 20_000) / 100, "stock": n[1] % 60}

    def _numbers(self, kind: str, key: object) -> tuple[int, ...]:
        return struct.unpack("<8I", blake2b(f"{self._seed} {kind} {key}".encode(), digest_size=32).digest())
