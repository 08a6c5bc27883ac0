"""Which columns of a file are which fields of a fill: the layouts that are known, and the choice among them.

A layout is data, a file of `layouts/`. Names of columns count without case and underscores, so `makerAmountFilled` and
`maker_amount_filled` are one name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ingest.errors import ArchiveError
from ingest.sources.parquet.spellings import WrongType, spelled

FOLDER = Path(__file__).parent / "layouts"
SHAPES = ("logs", "v1", "v2")
_ELEMENT = re.compile(r"(.+)\[(\d)\]")
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")
_ARRAY = re.compile(r"Array\((.*)\)")


@dataclass(frozen=True)
class Layout:
    """One way in which archives write fills.

    Attributes:
        name: of its file.
        title: for people.
        shape: what a row is: `logs`, `v1` or `v2` (decoded fields of that event).
        columns: field -> names of columns that may hold it.
        optional: the same for fields that a file may lack.
    """

    name: str
    title: str
    shape: str
    columns: Mapping[str, Sequence[str]]
    optional: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def has_positions(self) -> bool:
        """Whether its rows say block and log index, and so have the identity of the chain's rows."""
        return "log_index" in self.columns


@dataclass(frozen=True)
class Column:
    """Where a file has a field.

    Attributes:
        sql: the value, of a row of `archive`.
        type: its type, without Nullable and LowCardinality.
    """

    sql: str
    type: str


@dataclass(frozen=True)
class Mapped:
    """A layout on the columns of one file.

    Attributes:
        fields: field -> its column.
        columns: every column of the file with its type as ClickHouse reads it.
    """

    layout: Layout
    fields: Mapping[str, Column]
    columns: Mapping[str, str]


@cache
def known_layouts() -> tuple[Layout, ...]:
    """Every layout, those with more columns first."""
    layouts = [_read(path) for path in sorted(FOLDER.glob("*.toml"))]
    return tuple(sorted(layouts, key=lambda each: (-len(each.columns), each.name)))


def choose(columns: Mapping[str, str]) -> Mapped:
    """The layout of a file whose columns have these types, by `describe`.

    Raises:
        ArchiveError: none fits, and the message names what the nearest lacks; or a column has a type of no such field.
    """
    here = {_plain(name): name for name in reversed(columns)}
    missing: list[tuple[int, Layout, list[str]]] = []
    for layout in known_layouts():
        found = {name: _find(names, here, columns) for name, names in layout.columns.items()}
        lacking = [name for name, column in found.items() if column is None]
        if not lacking:
            extra = {name: _find(names, here, columns) for name, names in layout.optional.items()}
            fields = {name: column for name, column in (found | extra).items() if column}
            _check_types(layout, fields)
            return Mapped(layout, fields, columns)
        missing.append((len(lacking), layout, lacking))
    _, nearest, lacking = min(missing, key=lambda each: each[0])
    wanted = ", ".join(f"{name} ({' or '.join(nearest.columns[name])})" for name in lacking)
    raise ArchiveError(
        f"no known layout has its columns ({', '.join(columns) or 'none'}); nearest is {nearest.name},"
        f" {nearest.title}, which lacks {wanted}"
    )


def bare(kind: str) -> str:
    """A type without Nullable and LowCardinality."""
    while match := _WRAPPED.fullmatch(kind):
        kind = match[1]
    return kind


def quoted(name: str) -> str:
    """A name as SQL: backticks, whatever is in it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _read(path: Path) -> Layout:
    data = tomllib.loads(path.read_text())
    if data["shape"] not in SHAPES:
        raise ValueError(f"{path.name}: the shape is one of {', '.join(SHAPES)}")
    return Layout(
        path.stem, data["title"], data["shape"], data["columns"], data.get("optional", {})
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _find(
    names: Sequence[str], here: Mapping[str, str], columns: Mapping[str, str]
) -> Column | None:
    """The first of these columns that a file has."""
    for name in names:
        element = _ELEMENT.fullmatch(name)
        own = here.get(_plain(element[1] if element else name))
        if own is None:
            continue
        kind, value = bare(columns[own]), f"archive.{quoted(own)}"
        array = _ARRAY.fullmatch(kind)
        if element and array:
            # Of a list that is too short, ClickHouse gives an empty text.
            return Column(f"{value}[{element[2]}]", bare(array[1]))
        if not element:
            return Column(value, kind)
    return None


def _check_types(layout: Layout, fields: Mapping[str, Column]) -> None:
    for name, column in fields.items():
        try:
            spelled(name, column.sql, column.type)
        except WrongType as error:
            own = column.sql.removeprefix("archive.").replace("`", "")
            raise ArchiveError(f"column {own} ({layout.name}) is {column.type}: {error}") from error
