"""The lexer that routes statements: what stands in strings and comments is never a clause."""

from collections.abc import Iterator

import pytest
from chdb.state.sqlitelike import Connection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedded_clickhouse import sqltext
from embedded_clickhouse.lexer import tokens

_TRAPS = st.sampled_from(
    [
        "FORMAT JSON",
        "format CSV",
        "; select 2",
        "INTO OUTFILE 'x'",
        "VALUES (1)",
        "--",
        "/*",
        "#",
        "(",
    ]
)
_STRINGS = _TRAPS.map(lambda trap: "'" + trap.replace("'", "''") + r" it''s \' '")
_NAMES = _TRAPS.map(lambda trap: f"`{trap}`") | _TRAPS.map(lambda trap: f'"{trap}"')
_COMMENTS = _TRAPS.map(lambda trap: f"-- {trap}\n") | _TRAPS.map(
    lambda trap: "/* " + trap.replace("/*", "/* in it */") + " */"
)
_HEREDOCS = _TRAPS.map(lambda trap: f"$a${trap}$a$")
_BRACKETED = _STRINGS.map(lambda string: f"(select {string} format JSON)")
_PIECES = st.lists(
    st.one_of(
        _STRINGS, _NAMES, _COMMENTS, _HEREDOCS, _BRACKETED, st.sampled_from(["x", "1.5", ","])
    ),
    min_size=1,
    max_size=8,
).map(" ".join)
_SPACE = st.sampled_from([" ", "\n", "\t\n", " /* FORMAT x */ ", " -- FORMAT x\n"])


@given(select_list=_PIECES, space=_SPACE, tail=st.sampled_from(["", " settings max_threads = 1"]))
def test_only_the_last_clause_is_the_format(select_list, space, tail):
    query = f"select {select_list}{space}"

    clauses = sqltext.output_clauses(f"{query}FORMAT{space}Native{tail}".encode())

    assert clauses == (query.encode(), "Native", tail.encode())


@given(select_list=_PIECES)
def test_a_query_without_the_clause_has_no_format(select_list):
    query = f"select {select_list} from t".encode()

    assert sqltext.output_clauses(query) == (query, None, b"")
    assert sqltext.verb(query) == "SELECT"


@given(select_list=_PIECES, end=st.sampled_from(["", ";", " ; ;", ";\n-- done; select 2\n"]))
def test_only_a_second_statement_makes_a_statement_too_many(select_list, end):
    query = f"select {select_list}\n"

    assert sqltext.without_terminator((query + end).encode()).rstrip() == query.encode().rstrip()
    with pytest.raises(ValueError):
        sqltext.without_terminator(f"{query}; select 2".encode())


@given(comment=_COMMENTS, name=_NAMES, data=st.binary())
def test_data_starts_behind_the_format_of_an_insert(comment, name, data):
    head = f"insert {comment} into {name}.{name} (a, {name}) settings async_insert = 0 ".encode()
    data = b"," + data

    found = sqltext.insert_head(head + b"format CSV\n" + data)

    assert (found.statement, found.format) == (head, "CSV")
    assert (head + b"format CSV\n" + data)[found.data_start :] == data


@given(st.binary(max_size=200))
def test_any_bytes_are_tokens_in_order(sql):
    ends = [(token.start, token.end) for token in tokens(sql)]

    assert all(start < end for start, end in ends)
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("insert into t values (1)", "Values"),
        ("INSERT INTO TABLE format FORMAT JSONEachRow", "JSONEachRow"),
        ("insert into values format CSV", "CSV"),
        ("insert into function null('x Int8') format CSV", "CSV"),
        ("insert into d.t(a) FORMAT\nParquet", "Parquet"),
        ("insert into t select 1 format CSV", None),
        ("insert into t (a) with 1 as x select x", None),
        ("with 1 as x insert into t format TSV", "TSV"),
        ("with 13 as insert select insert format TSV", None),
        ("with insert as (select 1) select * from insert format CSV", None),
        ("select 1 format CSV", None),
        ("", None),
    ],
)
def test_which_statement_brings_data(sql, expected):
    head = sqltext.insert_head(sql.encode())

    assert (head.format if head else None) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select t.format json", None),
        ("select 1 as format", None),
        ("select format from t", None),
        ("select 1 format JSON", "JSON"),
        ("select 1 settings max_threads = 1 FORMAT Null", "Null"),
    ],
)
def test_a_column_may_be_called_format(sql, expected):
    assert sqltext.output_clauses(sql.encode()).format == expected


# What two lexers could read differently, in no order.
_ODD = st.sampled_from(
    [
        "SELECT",
        "1",
        "x",
        "'",
        "‘",
        "’",
        "“",
        "”",
        "`",
        '"',
        "/*",
        "*/",
        "--",
        "\n",
        "#",
        "# ",
        "#!",
        "//",
        "$",
        "$a$",
        "$$",
        "a$b",
        ";",
        "; SELECT 2",
        "−",
        "\xa0",
        "\u3000",
        "\ufeff",
        "\u2028",
        "1e",
        "1e-",
        "-",
        "0x1",
        "x'",
        "b'01'",
        ".",
        "1_0",
        "_",
        "\\",
        "AS f FORMAT CSV",
        "1 format JSON",
        "(",
        ")",
        "1.",
        "é",
        "0b2",
        "e5",
        ",",
        "+",
        "'a'",
        "/*x*/",
        "AS y",
        "\x00",
        "::",
        "->",
        "''",
    ]
)
_ODD_TEXTS = st.tuples(
    st.sampled_from(["SELECT 1 ", "SELECT ", "SELECT 'a' ", "SELECT 1 AS "]),
    st.lists(st.tuples(_ODD, st.sampled_from(["", " "])).map("".join), max_size=8).map("".join),
).map("".join)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A bare engine that may only read; the front's own settings of a parser."""
    path = tmp_path_factory.mktemp("lexer") / "engine"
    connection = Connection(f"{path}?implicit_select=0&max_query_size=0&readonly=1")
    yield connection
    connection.close()


@given(text=_ODD_TEXTS)
@settings(max_examples=2000)
@example("SELECT 1 /* /* */ ; */ FORMAT CSV")
@example("SELECT ‘x;y’ FORMAT JSON")
@example("/*/**/'*/ SELECT 1; SELECT 2")
@example("SELECT 1\u00a0FORMAT\u00a0CSV")
@example("SELECT 1e--x\n+ 1 FORMAT CSV")
def test_the_engine_reads_a_text_as_this_lexer_does(engine: Connection, text: str) -> None:
    """Where the engine can parse it: the number of statements, the first keyword and the format."""
    sql = text.encode()
    found = engine._conn.classify_query(sql)
    if found["query_class"].name == "UNKNOWN":
        return
    assert not [token for token in tokens(sql) if token.kind == "error"]
    try:
        statement = sqltext.without_terminator(sql)
    except ValueError:
        assert found["statement_count"] > 1
        return
    assert found["statement_count"] == 1
    canonical = engine.query(
        f"SELECT formatQuerySingleLine(unhex('{sql.hex()}'))", "RawBLOB"
    ).bytes()
    assert sqltext.verb(canonical) == sqltext.verb(sql)
    ours = sqltext.output_clauses(statement).format
    assert sqltext.output_clauses(canonical).format == ours or b" AS " in canonical


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("SELECT number /* /* inner */ FORMAT CSV */", "word word"),
        ("a\u00a0b\u3000c", "word word word"),
        ("‘it's’ “a;b” −1", "string quoted mark number"),
        ("1e--x", "number mark word"),
        ("t.1e--x", "word mark word"),
        ("1x 0x1F 1_000.5e-3 + .5 1.x", "word number number mark number error"),
        ("$a$ ' $a$ $b$ $$ ; $$", "heredoc word heredoc"),
        ("'open", "error"),
        ("/* /* */", "error"),
        ("x'0g'", "error"),
        ("a // b\n# c\n#!d\n#e", "word error word"),
    ],
)
def test_kinds_of_tokens(sql: str, kinds: str) -> None:
    assert " ".join(token.kind for token in tokens(sql.encode())) == kinds


def test_many_dollars_are_no_more_work_than_their_text() -> None:
    """A search for the end of each of them took 22 s."""
    words = [f"$a{number}$" for number in range(9000)]
    assert [token.text.decode() for token in tokens(" ".join(words).encode())] == words
    closed = [f"$a{number}$ $a{number}$" for number in range(9000)]
    assert [token.text.decode() for token in tokens(" ".join(closed).encode())] == closed
