"""Read Parquet files and lines, local or remote, from any position on; damaged parts become rows with an error."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

from modules.common.errors import UserError, first_line
from modules.data.records import MAX_LINE_BYTES, RecordError
from modules.downloads.record import Row

ROWS_A_BATCH = 16  # Rows include pictures, so batches are small.
OpenFile = Callable[[str], IO[bytes]]


def parquet_rows(
    names: Sequence[str], open_file: OpenFile, place: list[int] | None, columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yield the rows of Parquet files as dicts; a place is [number of the file, rows done in it].

    A damaged row group becomes one row with a `RecordError`.

    Raises:
        UserError: a file is not Parquet, or has none of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, done = place or (0, 0)
    for index in range(first, len(names)):
        with open_file(names[index]) as file:
            try:
                table = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                if not _is_damage(error):
                    raise
                raise UserError(
                    f"{names[index]} is not a whole Parquet file ({first_line(error)}): fetch it again"
                ) from None
            kept = _columns(table, columns, names[index])
            yield from _table_rows(table, kept, names[index], index, done if index == first else 0)


def _table_rows(table: Any, columns: list[str] | None, name: str, index: int, done: int) -> Iterator[Row]:
    import pyarrow as pa

    start = 0
    for group in range(table.num_row_groups):
        row, start = start, start + table.metadata.row_group(group).num_rows
        if start <= done:
            continue
        try:
            for batch in table.iter_batches(ROWS_A_BATCH, row_groups=[group], columns=columns):
                if row + batch.num_rows > done:
                    for number, value in enumerate(_values(batch), start=row + 1):
                        if number > done:
                            last = number == table.metadata.num_rows  # A resumed run need not open this file again.
                            place = [index + 1, 0] if last else [index, number]
                            yield Row(f"{name} row {number}", place, value, name)
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            if not _is_damage(error):
                raise
            problem = RecordError(f"{start - row} rows are damaged ({first_line(error)})")
            yield Row(f"{name} rows {row + 1} to {start}", [index, start], problem, name)


def _values(batch: Any) -> list[Any]:
    """Return the rows of a batch as dicts; one with a text that is not UTF-8, or a date out of range, as an error."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [RecordError(f"it cannot be read ({first_line(error)})")]
        return [value for row in range(batch.num_rows) for value in _values(batch.slice(row, 1))]


def _is_damage(error: Exception) -> bool:
    """Return whether an error is pyarrow's word on a file's content; those of the network and the disk differ."""
    return not isinstance(error, OSError) or (type(error) is OSError and not error.errno)


def _columns(table: Any, columns: Sequence[str] | None, name: str) -> list[str] | None:
    """Return those of `columns` that exist, because some sources have several names for the same content."""
    if columns is None:
        return None
    kept = [column for column in columns if column in table.schema_arrow.names]
    if not kept:
        raise UserError(
            f"{name} has none of the columns {', '.join(columns)}; it has {', '.join(table.schema_arrow.names)}"
        )
    return kept


def line_rows(names: Sequence[str], open_file: OpenFile, place: list[int] | None) -> Iterator[Row]:
    """Yield the lines of files as bytes; a place is [number of the file, byte offset in it]."""
    first, offset = place or (0, 0)
    for index in range(first, len(names)):
        with open_file(names[index]) as raw, io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20) as file:
            file.seek(offset)
            while line := file.readline(MAX_LINE_BYTES):
                name = f"{names[index]} at byte {file.tell() - len(line)}"
                value: bytes | RecordError = line if file.tell() > len(line) else line.removeprefix(codecs.BOM_UTF8)
                while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                    value = RecordError(f"the line is longer than {MAX_LINE_BYTES // 1_000_000} MB")
                if isinstance(value, RecordError) or value.strip():
                    yield Row(name, [index, file.tell()], value, names[index])
        offset = 0
