"""What ClickHouse is told so that it reads fills out of a file: pure functions that make SQL.

Each field of a row is null where it makes no sense (see `spellings.py`). A row without a null, of a known contract and of
a possible time, is a fill; any other is a dead letter with the first thing that is wrong. Logs of other events are
neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest.contracts import EXCHANGES, ORDER_FILLED_TOPICS, V1, V1_GENESIS, V2, V3
from ingest.sources.parquet import NAME
from ingest.sources.parquet.layouts import Mapped, bare, quoted
from ingest.sources.parquet.spellings import FIELDS, spelled
from ingest.tables import DEAD_LETTERS, ORDER_FILLED

FUTURE_S = 86_400
_WORDS = {V1: 160, V2: 224, V3: 224}  # bytes of data
_ZEROS = "repeat('\\0', 24)"
_NUMBERS = ("block_number", "log_index", "maker_amount", "taker_amount", "fee")


@dataclass(frozen=True)
class Check:
    """What a row has to fulfil, and what is wrong with it if it does not.

    Attributes:
        holds: condition.
        reason, detail: of the dead letter; `detail` is an expression.
    """

    holds: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """Rows of one file, or of a part of it.

    Attributes:
        table: table function that names the file.
        mapped: its layout.
        part: condition on columns of `archive`; empty: all rows.
        is_little: numbers of 32 bytes have their lowest byte first.
    """

    table: str
    mapped: Mapped
    part: str = ""
    is_little: bool = False

    def insert_fills(self, database: str, load_id: int, is_held: str) -> str:
        """Land the fills as rows of a load, while the condition `is_held` holds."""
        columns = ORDER_FILLED.schema.names
        values = ", ".join(self._landing(name, load_id) for name in columns)
        return (
            f"insert into {database}.{ORDER_FILLED.name} ({', '.join(columns)})\n"
            f"select {values}\nfrom ({self._fields()}) as fills\n"
            f"where {self._is_fill()} and {is_held}"
        )

    def insert_letters(self, database: str, load_id: int, is_held: str) -> str:
        """Keep the rows that are no fills as dead letters of a load."""
        return (
            f"insert into {database}.{DEAD_LETTERS.name} ({', '.join(DEAD_LETTERS.schema.names)})\n"
            f"select '{NAME}', {self._first_wrong('reason')}, cityHash64(payload), {self._first_wrong('detail')}, payload,"
            f" now64(6, 'UTC'), {load_id}\nfrom ({self._fields(with_payload=True)}) as fills\n"
            f"where {self._is_event()} and not ({self._is_right()}) and {is_held}"
        )

    def count(self) -> str:
        """How many rows there are; reads only the column that the part is about."""
        return f"select count() from {self.table} as archive{self._where()}"

    def tally(self) -> str:
        """Rows, fills, and rows of other events."""
        return (
            f"select count(), countIf({self._is_fill()}), countIf(not ({self._is_event()}))\n"
            f"from ({self._fields()}) as fills"
        )

    def days(self) -> str:
        """First and last second of all fills, and of those of V1, and how many days have one."""
        dated = "isNotNull(f_timestamp)"
        v1 = f"{dated} and version = '{V1}'"
        return (
            f"select minIf(f_timestamp, {dated}), maxIf(f_timestamp, {dated}), minIf(f_timestamp, {v1}),"
            f" maxIf(f_timestamp, {v1}), countIf({v1}), uniqExactIf(intDiv(f_timestamp, 86400), {dated})\n"
            f"from ({self._fields()}) as fills where {self._is_event()}"
        )

    def _where(self) -> str:
        return f" where {self.part}" if self.part else ""

    def _fields(self, *, with_payload: bool = False) -> str:
        """A subquery with every field as `f_<field>`, and `version`."""
        shape, found = self.mapped.layout.shape, self.mapped.fields
        columns = [
            f"{spelled(name, found[name].sql, found[name].type, is_little=self.is_little)} as f_{name}"
            for name in FIELDS
            if name in found
        ]
        if shape == "logs":
            columns.append(f"{_text(found['topic0'].sql, found['topic0'].type)} as given_topic0")
        if with_payload:
            columns.append(f"{_payload(self.mapped.columns)} as payload")
        inner = f"select {', '.join(columns)}\nfrom {self.table} as archive{self._where()}"
        return f"select *, {', '.join(_SHAPES[shape](found))}\nfrom ({inner}) as spelled"

    def _checks(self) -> list[Check]:
        shape = self.mapped.layout.shape
        now = f"toUnixTimestamp(now()) + {FUTURE_S}"
        checks = [
            _is_there(name) for name in ("tx_hash", "order_hash", "maker", "taker", "exchange")
        ]
        checks.append(
            Check(
                "version != ''",
                "unknown_contract",
                "'not an OrderFilled of an exchange contract known here'",
            )
        )
        if shape == "logs":
            checks.append(
                Check(
                    "isNotNull(f_data) and length(f_data) = data_bytes",
                    "bad_field",
                    "concat('data is not of ', toString(data_bytes), ' bytes')",
                )
            )
        checks.append(
            Check(
                f"isNotNull(f_timestamp) and f_timestamp between {V1_GENESIS} and {now}",
                "bad_field",
                "'timestamp is no time at which there was an exchange'",
            )
        )
        names = [*_NUMBERS, "maker_asset_id", "taker_asset_id", "token_id", "side", "builder"]
        return checks + [_is_there(name) for name in names]

    def _is_right(self) -> str:
        return " and ".join(f"({check.holds})" for check in self._checks())

    def _is_fill(self) -> str:
        return f"{self._is_event()} and {self._is_right()}"

    def _is_event(self) -> str:
        """Whether a row is meant to be a fill: a log without topic, or with that of another event, is not."""
        if self.mapped.layout.shape != "logs":
            return "1"
        topics = ", ".join(sorted({f"'{topic}'" for topic in ORDER_FILLED_TOPICS.values()}))
        return f"if(isNull(f_topic0), given_topic0 != '', f_topic0 in ({topics}))"

    def _first_wrong(self, what: str) -> str:
        pairs = [
            f"not ({check.holds}), {repr(check.reason) if what == 'reason' else check.detail}"
            for check in self._checks()
        ]
        return f"multiIf({', '.join(pairs)}, '')"

    def _landing(self, name: str, load_id: int) -> str:
        constants = {"source": f"'{NAME}'", "is_deleted": "0", "load_id": str(load_id)}
        if name in constants:
            return constants[name]
        if name == "contract_version":
            return "version"
        if name == "timestamp":
            return "toDateTime(assumeNotNull(f_timestamp), 'UTC')"
        return f"assumeNotNull(f_{name})"


def _is_there(name: str) -> Check:
    return Check(f"isNotNull(f_{name})", "bad_field", f"'{name} is missing, or is none'")


def _of_logs(_: Mapping[str, object]) -> list[str]:
    known = ", ".join(
        f"('{address}', '{ORDER_FILLED_TOPICS[version]}')" for address, version in EXCHANGES.items()
    )
    is_v1, is_later = f"version = '{V1}'", f"version in ('{V2}', '{V3}')"
    side = f"transform({_number(0)}, [0, 1], ['BUY', 'SELL'], '')"
    builder = "substring(f_data, 161, 32)"
    return [
        f"if((f_exchange, f_topic0) in ({known}), {_version('f_exchange')}, '') as version",
        f"if({is_v1}, {_WORDS[V1]}, {_WORDS[V2]}) as data_bytes",
        "f_topic1 as f_order_hash",
        "f_topic2 as f_maker",
        "f_topic3 as f_taker",
        f"if({is_v1}, {_id(0)}, '') as f_maker_asset_id",
        f"if({is_v1}, {_id(1)}, '') as f_taker_asset_id",
        f"if({is_later}, nullIf({side}, ''), '') as f_side",
        f"if({is_later}, {_id(1)}, '') as f_token_id",
        f"{_number(2)} as f_maker_amount",
        f"{_number(3)} as f_taker_amount",
        f"{_number(4)} as f_fee",
        f"if({is_v1} or {builder} = repeat('\\0', 32), '', concat('0x', lower(hex({builder})))) as f_builder",
    ]


def _of_v1(found: Mapping[str, object]) -> list[str]:
    """Without a column for it, the exchange is known of taker legs only, as of Goldsky's rows."""
    addresses = ", ".join(f"'{address}'" for address in EXCHANGES)
    columns = ["'' as f_side", "'' as f_token_id", "'' as f_builder"]
    if "exchange" in found:
        columns.append(f"if({_version('f_exchange')} = '{V1}', '{V1}', '') as version")
    else:
        columns += [
            f"'{V1}' as version",
            f"if(isNull(f_taker) or f_taker in ({addresses}), f_taker, '') as f_exchange",
        ]
    if "log_index" not in found:
        columns += ["toUInt64(0) as f_block_number", "toUInt32(0) as f_log_index"]
    return columns


def _of_v2(found: Mapping[str, object]) -> list[str]:
    columns = [
        "'' as f_maker_asset_id",
        "'' as f_taker_asset_id",
        f"if({_version('f_exchange')} in ('{V2}', '{V3}'), {_version('f_exchange')}, '') as version",
    ]
    return columns if "builder" in found else [*columns, "'' as f_builder"]


_SHAPES = {"logs": _of_logs, "v1": _of_v1, "v2": _of_v2}


def _version(exchange: str) -> str:
    addresses, versions = (
        ", ".join(map(repr, each)) for each in zip(*EXCHANGES.items(), strict=True)
    )
    return f"transform(ifNull({exchange}, ''), [{addresses}], [{versions}], '')"


def _number(word: int) -> str:
    """An unsigned 64-bit number in a word of the data, null if it is larger."""
    at = 32 * word + 1
    low = f"byteSwap(reinterpretAsUInt64(substring(f_data, {at + 24}, 8)))"
    return f"if(substring(f_data, {at}, 24) = {_ZEROS}, {low}, null)"


def _id(word: int) -> str:
    return f"toString(reinterpretAsUInt256(reverse(substring(f_data, {32 * word + 1}, 32))))"


def _payload(columns: Mapping[str, str]) -> str:
    """The row as a JSON object of texts."""
    pairs: Sequence[str] = [
        f"{literal(name)}, {_text(f'archive.{quoted(name)}', bare(kind), is_nullable=True)}"
        for name, kind in columns.items()
    ]
    return f"toJSONString(map({', '.join(pairs)}))"


def _text(value: str, kind: str, *, is_nullable: bool = False) -> str:
    """A value of any type as text; bytes as 0x and hex digits."""
    if kind.startswith("FixedString"):
        text = f"concat('0x', lower(hex({value})))"
    elif kind == "String":
        text = f"if(isValidUTF8({value}), {value}, concat('0x', lower(hex({value}))))"
    elif kind.startswith("Array("):
        text = f"toString(arrayMap(each -> {_text('each', bare(kind[6:-1]))}, {value}))"
    else:
        text = f"toString({value})"
    return f"cast({text}, 'Nullable(String)')" if is_nullable else f"ifNull({text}, '')"


def literal(text: str) -> str:
    """Text as SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
