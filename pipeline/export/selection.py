"""What an export selects, as SQL: which rows of which table, cut into parts of a day or a month. No rows pass here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from pipeline.errors import UsageError
from pipeline.export.formats import Format, expression
from pipeline.export.tables import Table
from pipeline.timerange import show
from pipeline.warehouse.client import first_line

# Of Hive paths. No promised table has a column of these names, so no reader finds one twice.
PARTITION = {"day": "date", "month": "month"}
# They read files; every other way to those is a table, which a condition cannot name.
IN_FUNCTIONS = {
    f"{scope}{name}{ending}"
    for scope in ("", "global")
    for name in ("in", "notin", "nullin", "notnullin")
    for ending in ("", "ignoreset")
}
REFUSED_FUNCTIONS = {"file", "catboostevaluate"}


@dataclass(frozen=True)
class Part:
    """What one file holds.

    Attributes:
        path: of its folder, as Hive has it; empty: of a table without time.
        start, end: first day, and the day after the last; None: all of time.
        rows: that it had when the parts were listed.
    """

    path: str = ""
    start: date | None = None
    end: date | None = None
    rows: int = 0


@dataclass(frozen=True)
class Selection:
    """Rows and columns of a table.

    Attributes:
        database: of the table.
        where: a condition on its columns that ClickHouse has parsed; empty: none.
        equal: values by column.
    """

    database: str
    table: Table
    columns: tuple[str, ...]
    where: str = ""
    equal: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, str]:
        """Of the queries."""
        return {f"only_{name}": value for name, value in self.equal.items()}

    def parts(self, by: str, start: date | None, end: date | None) -> str:
        """The query for the first days of all parts in a range, in order, each with its rows."""
        time = self.table.declared.time
        first = f"toStartOfMonth({time})" if by == "month" else f"toDate({time})"
        return (
            f"select {first} as first, count() from ({self._rows(Part('', start, end), (time,))})"
            " group by first order by first"
        )

    def content(self, part: Part) -> str:
        """The query for what a part holds: number of rows, and the sum of their hashes, whatever their order."""
        columns = ", ".join(f"`{name}`" for name in self.columns)
        return f"select count(), sum(sipHash64(tuple({columns}))) from ({self._rows(part, self.columns)})"

    def rows(self, part: Part, form: Format, *, as_doubles: bool) -> str:
        """The query for the rows of a part, in the order of their time and key."""
        declared, types = self.table.declared, self.table.types
        told = ", ".join(
            expression(name, types[name], form, as_doubles=as_doubles) for name in self.columns
        )
        # By its key a row is found in the same place of a file again; by time alone it would not be.
        order = tuple(dict.fromkeys(filter(None, (declared.time, *declared.key))))
        inner = tuple(dict.fromkeys((*self.columns, *order)))
        sorted_by = f" order by {', '.join(f'rows.`{name}`' for name in order)}" if order else ""
        return (
            f"select {told} from ({self._rows(part, inner)}) as rows{sorted_by}"
            f" format {form.clickhouse}"
        )

    def _rows(self, part: Part, columns: tuple[str, ...]) -> str:
        names = ", ".join(f"`{name}`" for name in columns)
        conditions = [
            *self._bounds(part),
            *(f"`{name}` = {{only_{name}:String}}" for name in self.equal),
            # On lines of its own, as it may end with a comment.
            *([f"(\n{self.where}\n)"] if self.where else []),
        ]
        where = f" where {' and '.join(conditions)}" if conditions else ""
        return f"select {names} from {self.database}.{self.table.declared.name}{where}"

    def _bounds(self, part: Part) -> list[str]:
        time = self.table.declared.time
        return [
            f"`{time}` {sign} {self._moment(bound)}"
            for sign, bound in ((">=", part.start), ("<", part.end))
            if bound is not None
        ]

    def _moment(self, day: date) -> str:
        if self.table.has_dates:
            return f"toDate('{day}')"
        return f"toDateTime('{day} 00:00:00', 'UTC')"


def part_of(first: date, by: str, rows: int) -> Part:
    """The part that begins on a day."""
    if by == "day":
        return Part(f"{PARTITION[by]}={first}", first, first + timedelta(days=1), rows)
    following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Part(f"{PARTITION[by]}={first:%Y-%m}", first, following, rows)


def is_within(path: str, by: str, start: datetime | None, end: datetime | None) -> bool:
    """Whether the part of a file lies in a range that cuts none."""
    if by == "all":
        return True
    value = path.partition("/")[0].removeprefix(f"{PARTITION[by]}=")
    pattern = "%Y-%m-%d" if by == "day" else "%Y-%m"
    first = datetime.strptime(value, pattern).replace(tzinfo=UTC)
    return (start is None or start <= first) and (end is None or first < end)


def whole_parts(
    by: str, start: datetime | None, end: datetime | None
) -> tuple[date | None, date | None]:
    """The range as days.

    Raises:
        UsageError: it cuts a part, of which the file would then have some rows and look whole.
    """
    for option, bound in (("--from", start), ("--to", end)):
        if bound is None:
            continue
        if bound.time() != datetime.min.time():
            raise UsageError(
                f"{option} {show(bound)} cuts a day, and a file holds whole ones: give a date (UTC), and hours by --where"
            )
        if by == "month" and bound.day != 1:
            raise UsageError(
                f"{option} {show(bound)} cuts a month: give the first of one, or --by day"
            )
    return start and start.date(), end and end.date()


def checked_condition(client: Client, text: str) -> str:
    """A condition that is one expression over columns, as ClickHouse itself parses it: no subquery, no other clause.

    Raises:
        UsageError: it is not.
    """
    # Alone, as in brackets `1) or (1` would be whole; and in brackets, as alone it might name a format.
    for each in (text, f"(\n{text}\n)"):
        lines = _parsed(client, f"select 1 where {each}")
        nodes = [line.strip() for line in lines]
        selects = [node for node in nodes if node.startswith("SelectQuery")]
        functions = {node.split()[1].lower() for node in nodes if node.startswith("Function ")}
        if (
            selects != ["SelectQuery (children 2)"]
            or functions & REFUSED_FUNCTIONS
            or any("(alias " in node for node in nodes)
            or _asks_a_table(lines)
        ):
            raise UsageError(
                "--where: give one condition on the table's own columns, like \"side = 'BUY' and usd > 100\";"
                " it may not read anything else"
            )
    return text


def _asks_a_table(lines: list[str]) -> bool:
    """Whether the right side of an IN is a name, which ClickHouse reads as that of a table."""
    depths = [len(line) - len(line.lstrip()) for line in lines]
    for place, line in enumerate(lines):
        words, depth = line.split(), depths[place]
        if words[0] == "Function" and words[1].lower() in IN_FUNCTIONS:
            ends = [n for n in range(place + 1, len(lines)) if depths[n] <= depth]
            below = range(place + 1, ends[0] if ends else len(lines))
            arguments = [n for n in below if depths[n] == depth + 2]
            if arguments and "Identifier" in lines[arguments[-1]].split()[0]:
                return True
    return False


def _parsed(client: Client, query: str) -> list[str]:
    """The nodes of a query's syntax tree, each a line that is indented by its depth."""
    try:
        return [line for (line,) in client.query(f"explain ast {query}").result_rows]
    except ClickHouseError as error:
        raise UsageError(f"--where: {first_line(error)}") from error
