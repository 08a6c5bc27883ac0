"""Comparing a stored table with the select that computes it, inside ClickHouse, key by key and row by row.

Only hashes are kept while comparing, so memory follows the number of rows and not their width, and a range of time is
given to ClickHouse as a filter on the tables that are read, so that the selects stay as they are. What is compared with
what, and why that says something, is left to `verify.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ingest.tables import ORDER_FILLED
from pipeline.timerange import TimeRange
from pipeline.warehouse.run import Run

TIMES = ("filled_at", "bucket_at")  # the column that says to which time of trading a row belongs
FILLS = ORDER_FILLED.name
EXAMPLES = 3  # differences of a table that are put into words
ONLY_VERSION = "toUInt8(0)"
MOST_DIFFERENCES = 1000  # of one comparison that are looked at again


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        table: what it is called in the answer.
        stored: the relation that holds the rows.
        derived: the select that computes them.
        key: expression that names a row.
        columns: columns that must be equal, with the types in which they are stored.
        version: of several derived rows of one key those with the highest count; a constant if there is one only.
        span: all of time, a day, or a slice of a bounded number of raw rows.
    """

    table: str
    stored: str
    derived: str
    key: str
    columns: dict[str, str]
    version: str = ONLY_VERSION
    span: str = "all"


@dataclass
class Verdict:
    """How one table compares.

    Attributes:
        table: its promised name.
        rows: rows that it holds in the range.
        expected: rows that it should hold.
        differences: keys that are missing, not expected, or of another content.
        examples: the first few of them, in words.
    """

    table: str
    rows: int = 0
    expected: int = 0
    differences: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if every row is as it should be."""
        return not self.differences


@dataclass(frozen=True)
class Difference:
    """A key whose stored rows are not what they should be, by hash."""

    key: int
    stored: tuple[int, ...]
    derived: tuple[int, ...]


def find_differences(
    run: Run, comparison: Comparison, part: TimeRange | None
) -> tuple[int, int, list[Difference]]:
    """Rows that are stored, keys that should be, and the first keys that differ, by their hash.

    The same keys come first in every query, so that two answers can be compared.
    """
    hashed = f"sipHash64(toString(tuple({', '.join(comparison.columns)})))"
    rows, expected, differences = run.client.query(f"""
        with keys as (
            select
                key_hash,
                groupArrayIf({hashed}, is_stored) as stored,
                groupUniqArrayIf(({comparison.version}, {hashed}), not is_stored) as versions,
                arrayMap(v -> v.2, arrayFilter(v -> v.1 = arrayMax(w -> w.1, versions), versions)) as derived
            from ({_both_sides(comparison)})
            group by key_hash
        )
        select
            sum(length(stored)),
            countIf(notEmpty(derived)),
            groupArraySortedIf({MOST_DIFFERENCES})(
                (key_hash, stored, derived),
                length(stored) != 1 or not has(derived, stored[1])
            )
        from keys
        {only(run, part)}
    """).result_rows[0]
    return (
        rows,
        expected,
        [
            Difference(key, tuple(stored), tuple(sorted(derived)))
            for key, stored, derived in differences
        ],
    )


def _both_sides(comparison: Comparison) -> str:
    """Stored and derived rows, in the stored types, each with the hash of its key."""
    names = list(comparison.columns)
    if comparison.version not in (ONLY_VERSION, *names):
        names.append(comparison.version)
    stored = ", ".join(names)
    derived = ", ".join(
        f"cast({name} as {comparison.columns[name]}) as {name}"
        if name in comparison.columns
        else name
        for name in names
    )
    return f"""
        select {stored}, cityHash64({comparison.key}) as key_hash, 1 as is_stored
        from {comparison.stored}
        union all
        select {stored}, cityHash64({comparison.key}) as key_hash, 0 as is_stored
        from (select {derived} from {comparison.derived})
    """


def only(run: Run, part: TimeRange | None) -> str:
    """The settings clause that limits every table with a time of trading to a part of it, before anything is computed."""
    if part is None:
        return ""
    first, last = (f"toDateTime({int(moment.timestamp())})" for moment in (part.start, part.end))
    filters = {
        f"{database}.{table}": f"{column} >= {first} and {column} < {last}"
        for database, table, column in _timed_tables(run)
    }
    pairs = ", ".join(f"'{table}': '{condition}'" for table, condition in filters.items())
    return f"settings additional_table_filters = {{{pairs}}}"


def _timed_tables(run: Run) -> list[tuple[str, str, str]]:
    """Database, name and time column of the tables that hold what was traded."""
    raw, models = run.settings.raw_database, run.settings.clickhouse_database
    stores = run.client.query(
        "select database, table, name from system.columns where database = {models:String}"
        " and endsWith(table, '_store') and name in {times:Array(String)}",
        parameters={"models": models, "times": list(TIMES)},
    ).result_rows
    return [(raw, FILLS, ORDER_FILLED.time), *stores]


def in_words(
    run: Run, comparison: Comparison, part: TimeRange | None, differences: list[Difference]
) -> list[str]:
    """What is wrong with some keys, one line each."""
    values = ", ".join(f"ifNull(toString({name}), 'null')" for name in comparison.columns)
    rows = run.client.query(f"""
        select key_hash, is_stored, [{values}]
        from ({_both_sides(comparison)})
        where key_hash in ({", ".join(str(each.key) for each in differences)})
        order by key_hash, is_stored, {comparison.version}
        {only(run, part)}
    """).result_rows
    names = list(comparison.columns)
    lines = []
    for each in differences:
        stored = [values for key, is_stored, values in rows if key == each.key and is_stored]
        derived = [values for key, is_stored, values in rows if key == each.key and not is_stored]
        lines.append(describe(names, comparison.key, stored, derived[-1:]))
    return lines


def describe(names: list[str], key: str, stored: list[list[str]], derived: list[list[str]]) -> str:
    """One difference in words: missing, not expected, stored more than once, or which columns are wrong."""
    if not stored and not derived:
        return "changed while it was looked at"
    row = dict(zip(names, (stored or derived)[0], strict=True))
    named = ", ".join(f"{name} {row[name]}" for name in names if re.search(rf"\b{name}\b", key))
    if not stored:
        return f"missing: {named}"
    if not derived:
        return f"not expected: {named}"
    if len(stored) > 1:
        return f"stored {len(stored)} times: {named}"
    wrong = [
        f"{name} is {is_}, should be {should}"
        for name, is_, should in zip(names, stored[0], derived[0], strict=True)
        if is_ != should
    ]
    return f"{named}: {'; '.join(wrong[:EXAMPLES])}"
