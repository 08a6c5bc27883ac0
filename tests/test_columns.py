"""Columns agree with converting each value by itself, and refuse what is in another form."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.columns import decimal_ids, hex_text, numbers, text, word_hex, word_ids, word_numbers
from ingest.columns import words as abi_words
from ingest.records import BadRecord

HEX = st.text(string.hexdigits, min_size=40, max_size=40)
ODD_TEXTS = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=50), st.lists(st.text())
)
WORDS = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**256 - 1))


@given(st.lists(HEX))
def test_hex_is_lowered(values: list[str]) -> None:
    column = hex_text("x", [f"0x{value}" for value in values], 40)
    assert column.to_pylist() == [f"0x{value.lower()}" for value in values]


@given(st.lists(HEX, max_size=3), ODD_TEXTS, st.lists(HEX, max_size=3))
def test_one_odd_text_refuses_the_column(before: list[str], odd: object, after: list[str]) -> None:
    values = [*(f"0x{x}" for x in before), odd, *(f"0x{x}" for x in after)]
    with pytest.raises(BadRecord) as caught:
        hex_text("x", values, 40)
    assert caught.value.reason == "bad_field"


@pytest.mark.parametrize(
    "odd", ["0x" + "g" * 40, "0x" + "é" * 20, "1x" + "0" * 40, "0y" + "0" * 40]
)
def test_what_only_looks_like_hex_is_refused(odd: str) -> None:
    with pytest.raises(BadRecord):
        hex_text("x", ["0x" + "0" * 40, odd], 40)


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1).map(str))))
def test_numbers_may_be_text_or_not(values: list[int | str]) -> None:
    assert numbers("x", values).to_pylist() == [int(value) for value in values]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (str(2**64), "amount_out_of_range"),
        (2**64, "amount_out_of_range"),
        ("-1", "amount_out_of_range"),
        *(
            (odd, "bad_field")
            for odd in ("", "+1", "1.0", "1e3", "0x1", " 1", "1_0", "١", 1.5, None)
        ),
    ],
)
def test_what_is_no_number_refuses_the_column(value: object, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        numbers("x", ["1", value])
    assert caught.value.reason == reason


@given(st.lists(st.tuples(WORDS, st.integers(0, 2))))
def test_ids_lose_their_leading_zeros_only(ids: list[tuple[int, int]]) -> None:
    column = decimal_ids("x", ["0" * zeros + str(number) for number, zeros in ids])
    assert column.to_pylist() == [str(number) for number, _ in ids]


@pytest.mark.parametrize("value", [str(2**256), "9" * 78, "1" + "0" * 78])
def test_ids_have_256_bits(value: str) -> None:
    assert decimal_ids("x", [str(2**256 - 1)]).to_pylist() == [str(2**256 - 1)]
    with pytest.raises(BadRecord):
        decimal_ids("x", [value])


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_words_are_read_as_numbers_ids_and_hex(rows: list[tuple[int, int]]) -> None:
    data = abi_words("data", [f"0x{a:064x}{b:064X}" for a, b in rows], 2)
    assert data.shape == (len(rows), 2, 32)
    assert word_ids(data[:, 1]).to_pylist() == [str(b) for _, b in rows]
    assert word_hex(data[:, 0]).to_pylist() == [f"0x{a:064x}" if a else "" for a, _ in rows]
    if all(a < 2**64 for a, _ in rows):
        assert word_numbers("x", data[:, 0]).to_pylist() == [a for a, _ in rows]
    else:
        with pytest.raises(BadRecord, match="64-bit"):
            word_numbers("x", data[:, 0])


def test_lone_surrogates_are_no_text() -> None:
    with pytest.raises(BadRecord):
        text("x", ["\ud800"])


def test_no_records_make_an_empty_column() -> None:
    assert len(hex_text("x", [], 40)) == len(numbers("x", [])) == len(decimal_ids("x", [])) == 0
    assert abi_words("data", [], 5).shape == (0, 5, 32)
    assert isinstance(abi_words("data", [], 5), np.ndarray)
