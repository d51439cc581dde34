"""Write a small table of your own kind: 300 objects with a photo on disk, a caption and three sensor readings.

python examples/make_table.py shop        # shop/table.csv, shop/new.csv and shop/photos/*.png
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image

from weft.data import load_dataset


def main(folder: Path) -> None:
    """Write the table: 280 labelled rows, and 20 new ones without the answer."""
    data = load_dataset("shapes", rows=300, seed=7)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    for row, name in enumerate(data.ids):
        photo, caption, sensor = (data.modalities[m].values[row] for m in ("image", "caption", "sensor"))
        path = f"photos/{name}.png"
        Image.fromarray(photo).save(folder / path) if not isinstance(photo, Image.Image) else photo.save(folder / path)
        light = {c: round(float(v), 3) for c, v in zip(("red", "green", "blue"), sensor.mean(axis=0), strict=True)}
        rows.append({"id": name, "photo": path, "caption": caption, **light, "object": data.targets["object"][row]})
    write(folder / "table.csv", rows[:280])
    write(folder / "new.csv", [{key: row[key] for key in row if key != "object"} for row in rows[280:]])


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shop"))
