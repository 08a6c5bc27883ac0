"""The lexer that routes statements: what stands in strings and comments is never a clause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded_clickhouse import sqltext

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
    lambda trap: "/* " + trap.replace("*/", "") + " */"
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
    ends = [(token.start, token.end) for token in sqltext.tokens(sql)]

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
