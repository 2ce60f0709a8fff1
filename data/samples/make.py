"""Makes the sample files again, byte for byte: python data/samples/make.py [folder]. Everything in them is invented."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

SEED = 20_261
# station, mean temperature (°C), yearly swing (K), chance of rain
STATIONS = (
    ("Harbour", 8.4, 8.5, 0.52),
    ("Ridge", 3.1, 9.5, 0.47),
    ("Inland", 6.0, 13.0, 0.33),
    ("Island", 8.9, 6.5, 0.44),
)
NOTES = {
    "harbour.txt": (
        "utf-8",
        "The harbour notebook\n\n"
        "The first ferry leaves at 06:10 and is rarely full.\n"
        "On market days people queue from half past five, with crates of apples and one very old dog.\n"
        "When the wind turns north the ferry waits behind the mole until the swell has gone down.\n\n"
        "Repairs this autumn: the eastern lamp, two bollards, the lid of the tide gauge.\n",
    ),
    "garden.txt": (
        "utf-8",
        "Garden, second week of May\n\n"
        "Sown: beans, chard, a row of beetroot. The slugs found the lettuce before we did.\n"
        "Rain barrel full again; the station on the ridge counted eleven wet days of fourteen.\n"
        "Swap seedlings with the house by the harbour: three courgettes for a tray of leeks.\n",
    ),
    "menu_cp1252.txt": (
        "cp1252",
        "Le menu du café “La Marée” – été\n\n"
        "Entrée : crème d’asperges à l’œuf poché, pain grillé et beurre salé\n"
        "Plat : filet de merlan, purée de fenouil, citron confit et câpres\n"
        "Dessert : gâteau à la noisette, crème brûlée ou pêche rôtie\n"
        "Le déjeuner coûte 18 € ; l’après-midi, un thé et une pâtisserie coûtent 7 €.\n",
    ),
}
ORDER_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "order": {"type": "integer", "minimum": 1},
        "placed": {"type": "string", "format": "date"},
        "email": {"type": "string", "format": "email"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "item": {"type": "string"},
                    "pieces": {"type": "integer", "minimum": 1},
                    "price": {"type": "number"},
                },
                "required": ["item", "pieces", "price"],
            },
        },
    },
    "required": ["order", "placed", "lines"],
}


def stations(rng: random.Random) -> str:
    """Returns a year of daily weather: a yearly wave of temperature with noise; every hundredth reading is missing."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("date", "station", "temperature", "rain", "frost", "observer"))
    for day in range(365):
        for name, mean, swing, wet in STATIONS:
            wave = mean - swing * math.cos(2 * math.pi * (day - 20) / 365)
            temperature = round(wave + rng.gauss(0, 2.2), 1)
            rain = round(rng.expovariate(1 / 5.5), 1) if rng.random() < wet else 0.0
            reading = "" if rng.random() < 0.01 else temperature
            date = (datetime(2025, 1, 1) + timedelta(days=day)).date().isoformat()
            rows.writerow((date, name, reading, rain, "yes" if temperature < 0 else "no", f"0{rng.randint(10, 19)}"))
    return out.getvalue()


def events(rng: random.Random) -> str:
    """Returns 900 lines of a web server's log: lognormal latencies, 2 % of answers are errors."""
    clock = datetime(2025, 5, 12, 8)
    lines = []
    for number in range(900):
        clock += timedelta(seconds=rng.expovariate(1 / 3))
        status = rng.choice((500, 502, 503)) if rng.random() < 0.02 else rng.choice((200, 200, 200, 200, 304, 404))
        page = rng.choice(("/", "/search", "/orders", "/orders/17", "/weather/harbour"))
        seconds = rng.lognormvariate(-3, 0.8)
        lines.append(
            f"{clock.isoformat(timespec='milliseconds')} id={number:04d} path={page} status={status} seconds={seconds:.4f}"
        )
    return "\n".join(lines) + "\n"


def orders(rng: random.Random) -> str:
    """Returns 60 orders of which every twentieth is wrong: no pieces, an impossible date, or no lines."""
    goods = (("rope", 4.5), ("lamp oil", 7.25), ("hooks", 1.1), ("canvas", 12.0), ("tar", 6.4))
    result = []
    for number in range(1, 61):
        lines = [
            {"item": item, "pieces": rng.randint(1, 9), "price": price}
            for item, price in rng.sample(goods, rng.randint(1, 3))
        ]
        placed = (datetime(2025, 2, 1) + timedelta(days=rng.randint(0, 90))).date().isoformat()
        result.append({"order": number, "placed": placed, "email": f"buyer{number}@example.org", "lines": lines})
    result[19]["lines"][0]["pieces"] = 0
    result[39]["placed"] = "2025-02-30"
    result[59]["lines"] = []
    return json.dumps(result, indent=1) + "\n"


def make(folder: Path) -> None:
    """Writes every sample file into a folder."""
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    for name, (encoding, text) in NOTES.items():
        (folder / "notes" / name).write_bytes(text.encode(encoding))
    for name, content in {
        "stations.csv": stations(random.Random(SEED)),
        "events.log": events(random.Random(SEED + 1)),
        "orders.json": orders(random.Random(SEED + 2)),
        "order.schema.json": json.dumps(ORDER_SCHEMA, indent=1) + "\n",
    }.items():
        (folder / name).write_bytes(content.encode())


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
