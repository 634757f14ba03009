"""A CSV of results that a rerun resumes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.common.errors import UserError
from modules.common.files import write_whole


class ResumableCsv:
    """Rows of a CSV, each with a key; the file is complete after every row, so a stopped program can be resumed.

    `keys` are all expected rows, in order. `identity`, whose columns end every row, contains everything else that the
    results depend on. Raises UserError if the file has rows of another key or another identity, or is no CSV.
    """

    def __init__(self, path: Path, keys: Sequence[Mapping[str, Any]], identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), {name: str(value) for name, value in identity.items()}
        self._order = [tuple(map(str, key.values())) for key in keys]
        self._rows = self._read(list(keys[0]))

    def __contains__(self, key: Mapping[str, Any]) -> bool:
        return tuple(map(str, key.values())) in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: Mapping[str, Any], metrics: Mapping[str, float | None]) -> None:
        """Add a row and save; None and NaN become empty fields."""
        fields = {name: "" if value is None or math.isnan(value) else f"{value:.6g}" for name, value in metrics.items()}
        texts = {name: str(value) for name, value in key.items()}
        self._rows[tuple(texts.values())] = texts | fields | self.identity
        self._save()

    def _read(self, names: list[str]) -> dict[tuple[str, ...], dict[str, str]]:
        try:
            reader = csv.DictReader(io.StringIO(self.path.read_text(encoding="utf-8")), strict=True)
            rows, columns = list(reader), reader.fieldnames or names
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} is no readable CSV ({error}): choose another output") from error
        if columns[: len(names)] != names:
            raise UserError(f"{self.path} does not begin with the columns {', '.join(names)}: choose another output")
        for row in rows:
            if None in row or None in row.values():
                raise UserError(f"{self.path} has rows of unequal length: choose another output, or repair the file")
            for name, value in self.identity.items():
                if row.get(name) != value:
                    before = row.get(name, "unknown")
                    raise UserError(
                        f"{self.path} contains results of another {name} ({before}, now {value}): choose another output"
                    )
            if tuple(row[name] for name in names) not in self._order:
                cell = " ".join(f"{name}={row[name]}" for name in names)
                raise UserError(f"{self.path} contains results that are not requested ({cell}): choose another output")
        return {tuple(row[name] for name in names): row for row in rows}

    def _save(self) -> None:
        rows = [self._rows[key] for key in self._order if key in self._rows]
        if any(list(row) != list(rows[0]) for row in rows):
            raise UserError(f"{self.path} contains other metrics than this run: choose another output")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue().encode())
