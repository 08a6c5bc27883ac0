"""Just enough of ClickHouse's grammar to route a statement: its verb, its FORMAT, its data.

Works on bytes, because an INSERT carries data of any encoding behind its text. It goes by the
tokens of `lexer`, so that a FORMAT inside a string or a comment is never taken for a clause.
Whether the statement is valid SQL is left to the engine, and `canon` asks the engine again whatever
this module says of a text that is not plain. To read tokens takes about a millisecond per kilobyte,
so a text without the bytes of what is looked for is not read.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from embedded_clickhouse.lexer import Token, tokens

_FORMAT_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")
_STREAMED = {b"SELECT", b"WITH", b"FROM"}
# What can hide a word or make one: comments, other quotes than '…', escapes, heredocs, characters beyond ASCII.
_NOT_PLAIN = re.compile(rb"""[^\t\n\r\x20-\x7e]|[$#`"\\]|--|//|/\*|\*/""")


class OutputClauses(NamedTuple):
    """A query taken apart at its FORMAT clause; `tail` is a SETTINGS clause behind it, or empty."""

    query: bytes
    format: str | None
    tail: bytes


class InsertHead(NamedTuple):
    """An INSERT that brings data: its text up to FORMAT or VALUES, and where the data starts."""

    statement: bytes
    format: str
    data_start: int


def is_plain(sql: bytes) -> bool:
    """Whether a text has nothing in it that two lexers could read differently."""
    return _NOT_PLAIN.search(sql) is None


def has_tokens(sql: bytes) -> bool:
    """Whether there is anything but space and comments."""
    return next(tokens(sql), None) is not None


def verb(sql: bytes) -> str:
    """The first keyword in upper case, leading brackets skipped; empty if there is none."""
    for token in tokens(sql):
        if token.kind == "word":
            return token.text.upper().decode("utf-8", "replace")
        if token.text != b"(":
            break
    return ""


def is_streamable(sql: bytes) -> bool:
    """Whether the statement is a SELECT, the one kind whose result can be large."""
    return verb(sql).encode() in _STREAMED


def without_terminator(sql: bytes) -> bytes:
    """The statement without its closing semicolons.

    Raises:
        ValueError: another statement follows; the argument is where it starts.
    """
    if b";" not in sql:
        return sql
    end = None
    for token in tokens(sql):
        if token.text == b";" and token.kind == "mark":
            end = token.start if end is None else end
        elif end is not None:
            raise ValueError(token.start)
    return sql if end is None else sql[:end]


def calls(sql: bytes, function: bytes) -> bool:
    """Whether the statement calls a function of this name, in any case."""
    if function.upper() not in sql.upper():
        return False
    previous = None
    for token in tokens(sql):
        if token.text == b"(" and previous is not None and previous.is_word(function):
            return True
        previous = token
    return False


def output_clauses(sql: bytes) -> OutputClauses:
    """Split `select … FORMAT x [SETTINGS …]` at the FORMAT clause that ends the statement."""
    if b"FORMAT" not in sql.upper():
        return OutputClauses(sql, None, b"")
    top = [token for token in tokens(sql) if token.depth == 0]
    for index in range(len(top) - 2, -1, -1):
        token, name = top[index], top[index + 1]
        if not token.is_word(b"FORMAT") or not _FORMAT_NAME.fullmatch(name.name):
            continue
        if index and top[index - 1].text == b".":
            continue
        after = top[index + 2] if index + 2 < len(top) else None
        if after is None or after.is_word(b"SETTINGS"):
            return OutputClauses(sql[: token.start], name.name.decode(), sql[name.end :])
    return OutputClauses(sql, None, b"")


def insert_head(sql: bytes) -> InsertHead | None:
    """Find where the data of an `INSERT … FORMAT x` or `INSERT … VALUES` starts.

    Returns None for every other statement, INSERT … SELECT included. Data behind FORMAT starts
    after one line break, as in ClickHouse.
    """
    stream = (token for token in tokens(sql) if token.depth == 0)
    first = _skip_with(stream)
    if first is None or not first.is_word(b"INSERT"):
        return None
    previous = _skip_target(stream)
    for token in stream:
        if token.is_word(b"VALUES"):
            return InsertHead(sql[first.start : token.start], "Values", token.end)
        if any(token.is_word(word) for word in (b"SELECT", b"WITH", b"WATCH", b"EXPLAIN")):
            return None
        if (
            previous is not None
            and previous.is_word(b"FORMAT")
            and _FORMAT_NAME.fullmatch(token.name)
        ):
            data = _AFTER_FORMAT.match(sql, token.end).end()
            return InsertHead(sql[first.start : previous.start], token.name.decode(), data)
        previous = token
    return None


def settings_clause(head: bytes) -> tuple[bytes, bytes]:
    """Split the head of an INSERT in front of its SETTINGS, which may be missing."""
    for token in tokens(head):
        if token.depth == 0 and token.is_word(b"SETTINGS"):
            return head[: token.start], head[token.start :]
    return head, b""


def _skip_with(stream: Iterator[Token]) -> Token | None:
    """The first token behind WITH …, which means nothing to an INSERT that brings its data."""
    first = next(stream, None)
    if first is None or not first.is_word(b"WITH"):
        return first
    previous = first
    for token in stream:
        if previous.is_word(b"INSERT") and token.is_word(b"INTO"):
            return previous
        if token.is_word(b"SELECT"):
            return None
        previous = token
    return None


def _skip_target(stream: Iterator[Token]) -> Token | None:
    """Consume `INTO [TABLE] [FUNCTION] name`, so that a table may be called format or values."""
    for token in stream:
        if not any(token.is_word(word) for word in (b"INTO", b"TABLE", b"FUNCTION")):
            return None
    return None


def assignments(sql: bytes) -> dict[str, str]:
    """Names and values, as SQL, of `SET name = value, …`; a name without a value is true."""
    found = [token for token in tokens(sql) if token.text != b";" or token.kind != "mark"][1:]
    commas = [at for at, token in enumerate(found) if token.depth == 0 and token.text == b","]
    values = {}
    for start, end in zip([0, *(at + 1 for at in commas)], [*commas, len(found)], strict=True):
        part = found[start:end]
        equals = next((at for at, token in enumerate(part) if token.text == b"="), len(part))
        name = b"".join(token.name or token.text for token in part[:equals]).decode(
            "utf-8", "replace"
        )
        value = sql[part[equals + 1].start : part[-1].end] if equals + 1 < len(part) else b"1"
        values[name] = value.decode("utf-8", "surrogateescape")
    return values
