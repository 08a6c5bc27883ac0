r"""How a field is read from a column of any type that archives use: SQL expressions, null where the value is none.

| field | spellings |
|---|---|
| hash, address | hex with or without 0x, any case; 32 or 20 bytes; an address as a 32-byte topic too |
| amount, block, position | an integer of any width, Decimal without fraction, decimal text, 0x hex, 32 bytes |
| token or asset id | the same up to 256 bits, as canonical decimal text |
| time | unix seconds, milliseconds, microseconds or nanoseconds, as a number or text; a Parquet timestamp; ISO text |
| side | BUY or SELL, or 0 or 1 |
| data | hex with or without 0x, or bytes |

Numbers of 32 bytes have their highest byte first, as the EVM writes them; ClickHouse writes UInt256 the other way round,
which the caller has to know. No float is ever read: money is not a float on its way in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LARGEST = str((1 << 256) - 1)
_INTEGER = re.compile(r"U?Int(8|16|32|64|128|256)")
_WHOLE_DECIMAL = re.compile(r"Decimal\(\d+, 0\)")
_FIXED = re.compile(r"FixedString\((\d+)\)")
_TIMES = re.compile(r"DateTime(64)?(\(.*\))?")
_TEXTS = ("String",)


class WrongType(ValueError):
    """A column of a type in which no such field can be."""


def spelled(field: str, value: str, kind: str, *, is_little: bool = False) -> str:
    """The expression of a field, Nullable: null where the value is missing or makes no sense.

    Args:
        value: expression of the column.
        kind: its type, without Nullable and LowCardinality.
        is_little: numbers of 32 bytes have their lowest byte first.

    Raises:
        WrongType: no such field can be in a column of this type.
    """
    return _READERS[field](value, kind, is_little)


def _hex(digits: int) -> Callable[[str, str, bool], str]:
    """A hash or an address: 0x and lower-case digits."""
    size = digits // 2

    def read(value: str, kind: str, _: bool) -> str:
        fixed = _FIXED.fullmatch(kind)
        if fixed and int(fixed[1]) in (size, 32):
            text = f"lower(hex({value}))"
        elif kind in _TEXTS or fixed:
            given = f"toString({value})" if fixed else value
            widths = f"({size}, 32)" if size != 32 else "(32)"
            plain = f"if(substring({given}, 1, 2) in ('0x', '0X'), substring({given}, 3), {given})"
            text = f"lower(if(length({given}) in {widths}, hex({given}), {plain}))"
        else:
            raise WrongType(f"needed is text or bytes, {digits} hex digits")
        if digits == 40:  # an indexed parameter is filled up to 32 bytes
            padded = "startsWith({0}, '000000000000000000000000') and length({0}) = 64"
            text = f"if({padded.format(text)}, substring({text}, 25), {text})"
        return f"if(match({text}, '^[0-9a-f]{{{digits}}}$'), concat('0x', {text}), null)"

    return read


def _number(bits: int) -> Callable[[str, str, bool], str]:
    """An unsigned number of 32 or 64 bits."""
    wanted = f"'UInt{bits}'"

    def read(value: str, kind: str, is_little: bool) -> str:
        if _INTEGER.fullmatch(kind):
            return f"accurateCastOrNull({value}, {wanted})"
        if _WHOLE_DECIMAL.fullmatch(kind):
            return f"accurateCastOrNull(toString({value}), {wanted})"
        if kind == "FixedString(32)":
            return f"accurateCastOrNull({_of_bytes(value, is_little)}, {wanted})"
        if kind in _TEXTS:
            digits = f"if(match({value}, '^[0-9]+$'), accurateCastOrNull({value}, {wanted}), null)"
            return (
                f"multiIf({_is_bytes(value)}, accurateCastOrNull({_of_bytes(value, is_little)}, {wanted}),"
                f" {_is_hex(value)}, accurateCastOrNull({_of_hex(value)}, {wanted}), {digits})"
            )
        raise WrongType("needed is a whole number, as an integer, a decimal or text; never a float")

    return read


def _id(value: str, kind: str, is_little: bool) -> str:
    """A number of 256 bits as decimal text without leading zeros."""
    if _INTEGER.fullmatch(kind):
        return f"toString(accurateCastOrNull({value}, 'UInt256'))"
    if kind == "FixedString(32)":
        return f"toNullable(toString({_of_bytes(value, is_little)}))"
    if _WHOLE_DECIMAL.fullmatch(kind):
        return _decimal_text(f"toString({value})")
    if kind in _TEXTS:
        return (
            f"multiIf({_is_bytes(value)}, toString({_of_bytes(value, is_little)}),"
            f" {_is_hex(value)}, toString({_of_hex(value)}), {_decimal_text(value)})"
        )
    raise WrongType("needed is a number of up to 256 bits, as text, integer or bytes")


def _time(value: str, kind: str, _: bool) -> str:
    """Unix seconds: block times are whole ones."""
    if _INTEGER.fullmatch(kind):
        return _seconds(f"accurateCastOrNull({value}, 'UInt64')")
    if _TIMES.fullmatch(kind):
        return _seconds(
            f"toUnixTimestamp64Micro(cast({value}, 'Nullable(DateTime64(6, ''UTC''))'))"
        )
    if kind in _TEXTS:
        number = _seconds(f"accurateCastOrNull({value}, 'UInt64')")
        parsed = f"toUnixTimestamp64Micro(parseDateTime64BestEffortOrNull({value}, 6, 'UTC'))"
        return f"if(match({value}, '^[0-9]+$'), {number}, {_seconds(parsed)})"
    raise WrongType("needed is a time: a Parquet timestamp, unix time as an integer, or text")


def _builder(value: str, kind: str, is_little: bool) -> str:
    """A builder code; the zero word is none, as on the chain."""
    code = _hex(64)(value, kind, is_little)
    is_none = f"ifNull(toString({value}), '') = '' or {code} = concat('0x', repeat('0', 64))"
    return f"if({is_none}, '', {code})"


def _side(value: str, kind: str, _: bool) -> str:
    if _INTEGER.fullmatch(kind) or kind in ("Bool", *_TEXTS):
        text = f"upper(toString({'toUInt8(' + value + ')' if kind == 'Bool' else value}))"
        return f"multiIf({text} in ('BUY', '0'), 'BUY', {text} in ('SELL', '1'), 'SELL', null)"
    raise WrongType("needed is BUY or SELL, or 0 or 1")


def _data(value: str, kind: str, _: bool) -> str:
    """ABI-encoded words as bytes: 5 of V1, 7 of V2 and V3."""
    fixed = _FIXED.fullmatch(kind)
    if fixed and int(fixed[1]) in (160, 224):
        return f"toNullable(toString({value}))"
    if kind not in _TEXTS:
        raise WrongType("needed is text or bytes")
    plain = f"if(substring({value}, 1, 2) in ('0x', '0X'), substring({value}, 3), {value})"
    is_hex = f"length({plain}) in (320, 448) and match({plain}, '^[0-9a-fA-F]+$')"
    return f"multiIf(length({value}) in (160, 224), {value}, {is_hex}, unhex({plain}), null)"


def _seconds(number: str) -> str:
    """Unix seconds of a number in a unit that its size tells: seconds end in the year 5138, and so on."""
    each = []
    for digits, per_second in ((11, 1), (14, 1_000), (17, 1_000_000), (20, 1_000_000_000)):
        whole = f"if({number} % {per_second} = 0, intDiv({number}, {per_second}), null)"
        each.append(f"{number} < 1e{digits}, {number if per_second == 1 else whole}")
    return f"accurateCastOrNull(multiIf({', '.join(each)}, null), 'UInt32')"


def _is_bytes(value: str) -> str:
    return f"length({value}) = 32 and not match({value}, '^([0-9]+|0[xX][0-9a-fA-F]+)$')"


def _of_bytes(value: str, is_little: bool) -> str:
    return f"reinterpretAsUInt256({value if is_little else f'reverse({value})'})"


def _is_hex(value: str) -> str:
    return f"match({value}, '^0[xX][0-9a-fA-F]{{1,64}}$')"


def _of_hex(value: str) -> str:
    return f"reinterpretAsUInt256(reverse(unhex(leftPad(substring({value}, 3), 64, '0'))))"


def _decimal_text(text: str) -> str:
    digits = f"trim(leading '0' from {text})"
    fits = f"length({digits}) < {len(LARGEST)} or (length({digits}) = {len(LARGEST)} and {digits} <= '{LARGEST}')"
    return f"if(match({text}, '^[0-9]+$') and ({fits}), if({digits} = '', '0', {digits}), null)"


_READERS: dict[str, Callable[[str, str, bool], str]] = {
    "timestamp": _time,
    "block_number": _number(64),
    "log_index": _number(32),
    "tx_hash": _hex(64),
    "order_hash": _hex(64),
    "exchange": _hex(40),
    "maker": _hex(40),
    "taker": _hex(40),
    "maker_asset_id": _id,
    "taker_asset_id": _id,
    "token_id": _id,
    "side": _side,
    "maker_amount": _number(64),
    "taker_amount": _number(64),
    "fee": _number(64),
    "builder": _builder,
    "topic0": _hex(64),
    "topic1": _hex(64),
    "topic2": _hex(40),
    "topic3": _hex(40),
    "data": _data,
}
FIELDS = tuple(_READERS)
