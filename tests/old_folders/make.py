"""Writes a small data folder with the engine of this interpreter, and packs it for `test_engine_upgrade.py`.

The tests' machine has the pinned engine alone, so folders of older ones are kept as archives. Made with:

    python3.11 -m venv old && old/bin/pip install chdb-core==26.5.0 pyarrow
    old/bin/python tests/old_folders/make.py tests/old_folders/26.5.0.tar.gz --overlay

`--overlay` leaves the database `default` as clickhouse-local has it, an overlay that reads paths as tables: so were
folders of this project before `access.separate_default`. The archive holds the folder and `expected.json`: what this
engine answers to each query of `QUERIES`.
"""

import json
import os
import re
import string
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from chdb.state.sqlitelike import Connection

PROJECT = Path(__file__).resolve().parents[2]
NAMES = {
    "raw": "polymarket_raw",
    "models": "polymarket",
    "on_cluster": "",
    "replicated": "",
}
KINDS = """
create database kinds;
create table kinds.versions
(
    id UInt64, text String, word LowCardinality(String), amount Nullable(Decimal(38, 6)),
    at DateTime64(6, 'UTC'), pairs Array(Tuple(String, UInt8)), map Map(String, UInt64), uuid UUID,
    fixed FixedString(4), choice Enum8('a' = 1, 'b' = 2), large UInt256, flag Bool, doc JSON,
    variant Variant(UInt64, String), ip IPv4, ratio Float64, seen_at DateTime('UTC'), day Date,
    index by_text text type bloom_filter granularity 1,
    projection totals (select word, count(), sum(id) group by word)
)
engine = ReplacingMergeTree(seen_at) partition by id % 2 order by id
settings deduplicate_merge_projection_mode = 'rebuild';
create table kinds.counts (word String, seen AggregateFunction(count), ids AggregateFunction(uniq, UInt64))
engine = AggregatingMergeTree order by word;
create materialized view kinds.counts_mv to kinds.counts as
select word::String as word, countState() as seen, uniqState(id) as ids from kinds.versions group by word;
create view kinds.latest as select * from kinds.versions final;
create table kinds.sums (k UInt8, v UInt64) engine = SummingMergeTree order by k;
create table default.mine (a Int64) engine = MergeTree order by a;
insert into default.mine values (7);
insert into kinds.sums select number % 3, number from numbers(30);
"""
VERSIONS = """
insert into kinds.versions
select number, toString(number % 7), toString(number % 3), if(number % 5 = 0, null, number / 3),
    toDateTime64(1.7e9 + number, 6, 'UTC'), [('x', number % 200)], map('k', number),
    toUUID('00000000-0000-0000-0000-000000000001'), 'abcd', 'b', number, number % 2,
    concat('{"a":', toString(number), ',"b":{"c":"x"}}'),
    if(number % 2, number::Variant(UInt64, String), 's'::Variant(UInt64, String)), toIPv4('1.2.3.4'), number / 7,
    toDateTime(1.7e9 + {seen}, 'UTC'), toDate('2026-05-01') + number
from numbers({rows})
"""
FILLS = """
insert into polymarket_raw.order_filled
    (timestamp, block_number, log_index, tx_hash, order_hash, contract_version, exchange, maker, taker,
     side, token_id, maker_amount, taker_amount, fee, source, load_id)
select toDateTime('2026-06-01 12:00:00', 'UTC') + number, 80000000 + number, number, concat('0x', hex(number)),
    concat('0x', hex(number + 1000)), 'v2', '0xe111180000d2663c0091e4f400237545b87b996b', '0xaa', '0xbb',
    if(number % 2, 'BUY', 'SELL'), toString(number % 4), 1000000 * number, 500000 * number, number, 'polygon', 1
from numbers(20)
"""
QUERIES = (
    "select * from kinds.latest order by id",
    "select * from kinds.sums final order by k",
    "select * from default.mine",
    "select word, countMerge(seen), uniqMerge(ids) from kinds.counts group by word order by word",
    "select word, count(), sum(id) from kinds.versions group by word order by word",
    "select * from polymarket_raw.order_filled final order by timestamp",
    "select database, name, engine, sorting_key from system.tables"
    " where database in ('kinds', 'polymarket', 'polymarket_raw') order by database, name",
)


def main(archive: Path, *, has_overlay: bool) -> None:
    """Write the folder in a temporary place, ask the queries, pack both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = folder / "data" / "engine"
        engine.mkdir(parents=True)
        os.environ["TZ"] = "UTC"
        options = ""
        if not has_overlay:
            sys.path.insert(0, str(PROJECT))
            from embedded_clickhouse.access import separate_default, write_configuration

            separate_default(engine)
            files = folder / "files"
            options = f"?config-file={write_configuration(engine, files, [], False)}"
        connection = Connection(f"{engine}{options}")
        for statement in _statements():
            connection.query(statement)
        answers = {
            query: connection.query(query, "JSONEachRow").bytes().decode() for query in QUERIES
        }
        connection.close()
        expected = {"chdb_core": version("chdb-core"), "answers": answers}
        (folder / "expected.json").write_text(json.dumps(expected))
        with tarfile.open(archive, "w:gz") as packed:
            for each in ("data/engine", "expected.json"):
                packed.add(folder / each, each, filter=_anonymous)


def _statements() -> list[str]:
    texts = ["create database polymarket;\ncreate database polymarket_raw;\n"]
    for path in sorted((PROJECT / "schema").glob("*.sql")):
        text = string.Template(path.read_text()).substitute(NAMES)
        texts.append("\n".join(x for x in text.splitlines() if not x.lstrip().startswith("--")))
    statements = [
        statement
        for text in (*texts, KINDS)
        for statement in re.split(r";\s*(?:\n|$)", text)
        if statement.strip()
    ]
    versions = [
        VERSIONS.replace("{seen}", str(seen)).replace("{rows}", str(rows))
        for seen, rows in ((0, 40), (1, 10))
    ]
    change = "alter table kinds.versions update text = 'z' where id = 1 settings mutations_sync = 2"
    return [*statements, FILLS, *versions, change]


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without the names of this machine's users, and without what the engine makes at each start."""
    if "/data/engine/tmp" in f"/{entry.name}" or entry.name.endswith("/status"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]), has_overlay="--overlay" in sys.argv)
