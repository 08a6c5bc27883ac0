"""What is known of the files of an archive before a row is read: layout, rows, bytes, and the parts in which each is read.

All of it comes from ClickHouse, which reads the footers: two small requests a file. A part is a range of values of a
column whose lowest and highest value each row group names: ClickHouse then reads the row groups of that range alone. (A
range of `_row_number` reads the whole file, measured with 26.9.) So every row is in exactly one part, whatever the order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import requests
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.errors import ArchiveError, one_line
from ingest.sources.parquet.layouts import Column, Mapped, choose
from ingest.sources.parquet.places import Keys, Place
from ingest.sources.parquet.statements import Reading, literal
from pipeline.warehouse.client import first_line

# A part is settled at once, and a settle takes memory by its rows. A file without order is read once for each part.
PART_ROWS, UNORDERED_ROWS = 1_000_000, 5_000_000
# A number far above every part: reading may take hours, and no answer comes before its end.
LONGEST_S = 12 * 3600
ACCESS_DENIED, MEMORY_LIMIT = 497, 241
# Those that a server does not know are left out.
SETTINGS = {
    "use_hive_partitioning": 0,  # folders such as event_month=2026-04 are no columns
    "schema_inference_use_cache_for_file": 0,
    "schema_inference_use_cache_for_url": 0,
    "schema_inference_use_cache_for_s3": 0,
    "use_parquet_metadata_cache": 0,
    "max_http_get_redirects": 10,
    "optimize_on_insert": 0,
}
# The HTTP interface keeps names with `http_` to itself, so these stand in the statements.
HTTP_SETTINGS = {
    "http_max_tries": 4,
    "http_retry_initial_backoff_ms": 200,
    "http_retry_max_backoff_ms": 2000,
    "http_connection_timeout": 10,
}
_STORED = re.compile(r"archive\.`([^`\\]+)`")
_TIME = re.compile(r"DateTime64\((3|6|9)\b.*\)")
_AS_TIME = {3: "Milli", 6: "Micro", 9: "Nano"}


@dataclass(frozen=True)
class Archive:
    """How ClickHouse is asked about files.

    Attributes:
        client: with a long patience.
        keys: access to S3.
        is_little: numbers of 32 bytes have their lowest byte first.
    """

    client: Client
    keys: Keys
    is_little: bool = False

    def query(self, place: Place, sql: str) -> Sequence[Sequence]:
        """Rows of a query.

        Raises:
            ArchiveError: the file cannot be read.
        """
        with self.telling(place):
            return self.client.query(self._patient(sql), settings=self._known(SETTINGS)).result_rows

    def command(self, place: Place, sql: str) -> None:
        """Run a statement that reads a file.

        Raises:
            ArchiveError: the file cannot be read.
        """
        with self.telling(place):
            self.client.command(self._patient(sql), settings=self._known(SETTINGS))

    @contextmanager
    def telling(self, place: Place) -> Iterator[None]:
        """Turn what ClickHouse says of a file into one line that says what to do.

        Raises:
            ArchiveError: ClickHouse failed.
        """
        try:
            yield
        except ClickHouseError as error:
            raise ArchiveError(f"{place.name}: {why(error, place, self.keys)}") from error

    def _patient(self, sql: str) -> str:
        values = [f"{name} = {value}" for name, value in self._known(HTTP_SETTINGS).items()]
        return f"{sql} settings {', '.join(values)}" if values else sql

    def _known(self, settings: dict[str, int]) -> dict[str, int]:
        """Those settings that this server has."""
        here = self.client.server_settings
        return {name: value for name, value in settings.items() if name in here}


@dataclass(frozen=True)
class File:
    """A file that can be read.

    Attributes:
        name: for people and the books.
        place: where ClickHouse finds it.
        mapped: its layout.
        rows, bytes: how many it has.
        footer: hash of its footer.
        conditions: one for each part, on columns of `archive`; a single empty one: it is read at once.
    """

    name: str
    place: Place
    mapped: Mapped
    rows: int
    bytes: int
    footer: int
    conditions: Sequence[str]

    @property
    def part_rows(self) -> int:
        """Rows of a part, about."""
        return -(-self.rows // len(self.conditions))

    def reading(self, archive: Archive, part: str = "") -> Reading:
        """How to read a part of it, or all."""
        return Reading(self.place.table(keys=archive.keys), self.mapped, part, archive.is_little)


def look_at(archive: Archive, name: str, place: Place) -> File:
    """What a file holds.

    Args:
        name: of the file for people.

    Raises:
        ArchiveError: it cannot be read, is no Parquet file, or has no known layout.
    """
    try:
        described = archive.query(place, f"describe table {place.table(keys=archive.keys)}")
        mapped = choose({row[0]: row[1] for row in described})
        stored = _stored_columns(mapped)
        wanted = ", ".join(literal(each) for each, _ in stored) or "''"
        found = archive.query(
            place,
            "select num_rows, metadata_size + total_compressed_size,"
            " cityHash64(num_rows, metadata_size, toString(columns), toString(row_groups)),"
            " arrayMap(each -> (each.num_rows, arrayMap(c -> (c.path, c.statistics.null_count, c.statistics.min,"
            f" c.statistics.max), arrayFilter(c -> c.path in ({wanted}), each.columns))), row_groups)"
            f" from {place.table('ParquetMetadata', archive.keys)}",
        )
        if len(found) != 1:
            raise ArchiveError(
                f"ClickHouse finds {len(found)} files under this name; give names without wildcards"
            )
    except ArchiveError as error:
        message = str(error).removeprefix(f"{place.name}: ")
        raise ArchiveError(f"{name}: {message}") from error
    [(rows, size, footer, groups)] = found
    conditions = [""]
    if rows > PART_ROWS and has_ranges(place):
        conditions = _conditions(archive, place, stored, groups, rows)
    return File(name, place, mapped, rows, size, footer, conditions)


def has_ranges(place: Place) -> bool:
    """Whether a server sends a range of a file; else each part would cost the whole file. True if it cannot be asked."""
    if place.kind != "url":
        return True
    try:
        with requests.get(
            place.address, headers={"Range": "bytes=0-0"}, stream=True, timeout=10
        ) as answer:
            return answer.status_code != requests.codes.ok
    except requests.RequestException:
        return True


def cuts(groups: Sequence[tuple[int, int, int]], most_rows: int) -> list[int] | None:
    """Values at which a file is cut into parts, or None if its row groups are in no order.

    Args:
        groups: rows, lowest and highest value of each row group.
    """
    found: list[int] = []
    ordered = sorted(groups, key=lambda group: (group[1], group[2]))
    rows = ordered[0][0] if ordered else 0
    for before, group in pairwise(ordered):
        if before[2] > group[1]:
            return None
        if rows + group[0] > most_rows and group[1] > (found[-1] if found else ordered[0][1]):
            found.append(group[1])
            rows = 0
        rows += group[0]
    return found


def conditions_of(column: Column, bounds: Sequence[int]) -> list[str]:
    """One condition for each part between these values of a column, in order."""
    if not bounds:
        return [""]
    values = [_literal(column.type, bound) for bound in bounds]
    inner = [f"{column.sql} >= {low} and {column.sql} < {high}" for low, high in pairwise(values)]
    return [f"{column.sql} < {values[0]}", *inner, f"{column.sql} >= {values[-1]}"]


def why(error: ClickHouseError, place: Place, keys: Keys | None = None) -> str:
    """What ClickHouse says of a file, as one line that says what to do."""
    text = place.hidden(str(error), keys)
    code = getattr(error, "code", None)
    if "Not a Parquet file" in text:
        return "no whole Parquet file, cut off or something else; get it again"
    if found := re.search(r"HTTP status code: (\d+)", text):
        return f"the server answers {found[1]}; is the address right, and may this machine read it?"
    if code == ACCESS_DENIED or "ACCESS_DENIED" in text:
        kind = place.kind.upper()
        return (
            f"this ClickHouse may not read {place.kind}(): grant READ ON {kind} to its user; for the embedded one, stop"
            f" every run that uses it and try again, or set CLICKHOUSE_LOCAL_SOURCES={kind}"
        )
    if code == MEMORY_LIMIT or "MEMORY_LIMIT_EXCEEDED" in text:
        return (
            "it needs more memory than ClickHouse may use; a server without range requests makes it hold the whole file,"
            " so download it and give its path, or raise CLICKHOUSE_LOCAL_MEMORY_GB"
        )
    if "refused" in text or "not found" in text.lower() or "Timeout" in text:
        return f"it cannot be reached: {one_line(first_line(Exception(_cause(text))), 200)}"
    return one_line(first_line(Exception(_cause(text))), 300)


def _cause(text: str) -> str:
    """What ClickHouse says was the cause, where it quotes one."""
    found = re.search(r"(?:Error:|format file:)\s*\n(.*)", text)
    return found[1] if found else text


def _stored_columns(mapped: Mapped) -> list[tuple[str, Column]]:
    """Columns by whose ranges a file may be cut, the best first: as they are stored, with an order of numbers."""
    found = []
    for field in ("block_number", "timestamp"):
        column = mapped.fields.get(field)
        name = _STORED.fullmatch(column.sql) if column else None
        if name and (
            re.fullmatch(r"U?Int(8|16|32|64)", column.type) or _TIME.fullmatch(column.type)
        ):
            found.append((name[1], column))
    return found


def _conditions(
    archive: Archive,
    place: Place,
    stored: Sequence[tuple[str, Column]],
    groups: Sequence,
    rows: int,
) -> list[str]:
    for name, column in stored:
        known = _ranges(name, groups)
        if known is not None and (bounds := cuts(known, PART_ROWS)) is not None:
            return conditions_of(column, bounds)
    for name, column in stored:
        if _ranges(name, groups) is not None and rows > UNORDERED_ROWS:
            parts = -(-rows // UNORDERED_ROWS)
            levels = ", ".join(f"{number / parts:.6f}" for number in range(1, parts))
            value = _as_number(column)
            # By a hash of the value, the sample is the same in every run, so a part that is done is known again.
            sql = (
                f"select quantilesDeterministic({levels})(assumeNotNull({value}), cityHash64({value}))"
                f" from {place.table(keys=archive.keys)} as archive"
            )
            found = archive.query(place, sql)[0][0]
            bounds = sorted({int(each) for each in found if math.isfinite(each)})
            return conditions_of(column, bounds)
    return [""]


def _ranges(name: str, groups: Sequence) -> list[tuple[int, int, int]] | None:
    """Rows, lowest and highest value of a column in each row group; None if one does not say, or has nulls."""
    found = []
    for rows, columns in groups:
        for path, nulls, low, high in columns:
            if path == name and nulls == 0 and low is not None and high is not None:
                found.append((rows, int(low), int(high)))
                break
        else:
            return None
    return found


def _literal(kind: str, value: int) -> str:
    scale = _TIME.fullmatch(kind)
    return f"fromUnixTimestamp64{_AS_TIME[int(scale[1])]}({value}, 'UTC')" if scale else str(value)


def _as_number(column: Column) -> str:
    scale = _TIME.fullmatch(column.type)
    return f"toUnixTimestamp64{_AS_TIME[int(scale[1])]}({column.sql})" if scale else column.sql
