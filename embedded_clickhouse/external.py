"""External tables: data that a request brings for its own query, in files of a multipart form.

Each becomes a temporary table of the request's session, under the same limits as any statement, and
is gone after it.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.canon import examine
from embedded_clickhouse.engine import Engine, check_single, identifier, run
from embedded_clickhouse.forbidden import Limits
from embedded_clickhouse.lexer import tokens
from embedded_clickhouse.protocol import Code, refusal
from embedded_clickhouse.transfers import Insert

_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
PARAMETERS = ("_format", "_types", "_structure")


@dataclass(frozen=True)
class ExternalTable:
    """A table as it came: its columns as `name Type, …`, and its data in a format."""

    name: str
    structure: str
    format: str
    data: bytes

    @property
    def definition(self) -> bytes:
        """The statement that makes it."""
        return f"CREATE TEMPORARY TABLE {identifier(self.name)} ({self.structure})".encode()


def external_tables(files: Mapping[str, bytes], params: Mapping[str, str]) -> list[ExternalTable]:
    """The tables of a form.

    Args:
        files: their data by name.
        params: of the request; `<name>_structure` or `<name>_types`, and `<name>_format`.

    Raises:
        ClickHouseError: a table has no columns, or a name or format that is none (36).
    """
    return [_table(name, data, params) for name, data in files.items()]


def without_tables(params: Mapping[str, str], files: Mapping[str, bytes]) -> dict[str, str]:
    """The parameters that do not describe tables."""
    described = {name + ending for name in files for ending in PARAMETERS}
    return {name: value for name, value in params.items() if name not in described}


def load(engine: Engine, connection: Connection, limits: Limits, table: ExternalTable) -> None:
    """Make the table on a connection and fill it.

    Raises:
        ClickHouseError, RuntimeError: its columns are refused, or its data do not fit them.
    """
    for text in {table.definition, examine(engine, connection, table.definition).canonical}:
        limits.check(text)
    check_single(connection, table.definition, "CONTROL")
    run(connection, table.definition)
    head = f"INSERT INTO {identifier(table.name)}".encode()
    insert = Insert(engine, connection, head, table.format, uuid.uuid4().hex)
    try:
        insert.append(table.data)
    except BaseException:
        insert.cancel()
        raise
    insert.finish()


def drop(connection: Connection, table: ExternalTable) -> None:
    """Remove the table; nothing happens if it is not there."""
    run(connection, f"DROP TEMPORARY TABLE IF EXISTS {identifier(table.name)}")


def _table(name: str, data: bytes, params: Mapping[str, str]) -> ExternalTable:
    structure = params.get(f"{name}_structure") or _numbered(params.get(f"{name}_types", ""))
    output_format = params.get(f"{name}_format", "TabSeparated")
    if not (_NAME.match(name) and _NAME.match(output_format)):
        raise refusal(Code.BAD_ARGUMENTS, f"Invalid name or format of the external table {name!r}")
    if not structure.strip():
        raise refusal(Code.BAD_ARGUMENTS, f"The external table {name} has no structure or types")
    if not _is_enclosed(structure):
        raise refusal(Code.BAD_ARGUMENTS, f"The structure of the external table {name} is none")
    return ExternalTable(name, structure, output_format, data)


def _numbered(types: str) -> str:
    """Columns _1, _2, … of a list of types; commas in brackets belong to a type."""
    columns, start = [], 0
    text = types.encode()
    commas = [each for each in tokens(text) if each.depth == 0 and each.text == b","]
    for end in [*(comma.start for comma in commas), len(text)]:
        columns.append(text[start:end].strip().decode())
        start = end + 1
    return ", ".join(f"_{number} {kind}" for number, kind in enumerate(columns, 1) if kind)


def _is_enclosed(structure: str) -> bool:
    """Whether the text stays within the brackets it is put into, and is no comment at its end."""
    depth = 0
    text = structure.encode()
    end = 0
    for token in tokens(text):
        depth += (token.text in (b"(", b"[", b"{")) - (token.text in (b")", b"]", b"}"))
        if depth < 0 or (token.kind == "mark" and token.text == b";"):
            return False
        end = token.end
    return depth == 0 and not text[end:].strip()
