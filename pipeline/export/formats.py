"""The formats of exported files: what ClickHouse is asked for, and how a file proves that it is whole.

ClickHouse writes all of them. A Parquet file ends with a footer that counts its rows, so one that was cut off has none. Of
text, ClickHouse holds the answer back until the query has ended and says how many rows it has; as many must be in the file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ExportError


class Counter(ABC):
    """Counts the rows of text as it passes."""

    rows = 0

    @abstractmethod
    def add(self, piece: bytes) -> None:
        """Take the next piece."""


class LineCounter(Counter):
    """Every line is a row."""

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self.rows += piece.count(b"\n")


class CsvCounter(Counter):
    """Every line after the header is a row; a line break between quotes is none. Quotes in quotes are doubled."""

    def __init__(self) -> None:
        self.rows = -1
        self._is_quoted = False

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        parts = piece.split(b'"')
        self.rows += b"".join(parts[self._is_quoted :: 2]).count(b"\n")
        self._is_quoted ^= len(parts) % 2 == 0


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        extension: of its files.
        clickhouse: what ClickHouse calls it.
        settings: of ClickHouse, with which it is written.
        counter: counts the rows of text; None: the file itself says how many it has.
        has_arrays: False where arrays become JSON text.
    """

    extension: str
    clickhouse: str
    settings: dict[str, str] = field(default_factory=dict)
    counter: type[Counter] | None = None
    has_arrays: bool = True

    @property
    def is_text(self) -> bool:
        """Whether it can be compressed, and rows are counted as they pass."""
        return self.counter is not None


FORMATS = {
    "parquet": Format(
        "parquet", "Parquet", {"output_format_parquet_compression_method": "zstd"}
    ),
    "csv": Format(
        "csv",
        "CSVWithNames",
        {
            "date_time_output_format": "iso",
            "format_csv_null_representation": "",
            "output_format_json_quote_decimals": "1",
        },
        CsvCounter,
        has_arrays=False,
    ),
    "jsonl": Format(
        "jsonl",
        "JSONEachRow",
        {
            "date_time_output_format": "iso",
            "output_format_json_quote_decimals": "1",
            "output_format_json_quote_64bit_integers": "0",
        },
        LineCounter,
    ),
}  # fmt: skip
DECIMAL = re.compile(r"Decimal\(\d+, \d+\)")


def expression(name: str, kind: str, form: Format, *, as_doubles: bool) -> str:
    """What is selected for a column of a type, under the column's name."""
    told = f"`{name}`"
    if as_doubles and DECIMAL.search(kind):
        told = f"cast({told} as {DECIMAL.sub('Float64', kind)})"
    if kind.startswith("Array(") and not form.has_arrays:
        told = f"toJSONString({told})"
    return told if told == f"`{name}`" else f"{told} as `{name}`"


def rows_of_parquet(path: Path) -> int:
    """How many rows a Parquet file says that it has.

    Raises:
        ExportError: it is not whole.
    """
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ExportError(f"the answer of ClickHouse is not whole: {error}") from error
