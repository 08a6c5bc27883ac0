"""The simulated subgraph: graph-node's filters, orders, limits and errors; the frozen horizon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import requests
from worlds import PATIENCE_S

from sandbox.contracts import BUY, SELL, Fill
from sandbox.goldsky import goldsky_app
from sandbox.server import AppServer, SandboxServer
from sandbox.world import World

NOW = datetime(2026, 7, 1, tzinfo=UTC)
Ask = Callable[..., dict]


def asker(url: str) -> Ask:
    def ask(query: str, **variables: object) -> dict:
        body = {"query": query, "variables": variables}
        response = requests.post(url, json=body, timeout=PATIENCE_S, allow_redirects=False)
        assert response.status_code == 200
        return response.json()

    return ask


def fill(second: int, name: str, **values: object) -> Fill:
    return Fill(timestamp=second, tx_hash=f"0x{name}", order_hash="0x0", token_id="77", **values)


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Nine fills: two in second 1, six in second 2, one in second 3."""
    fills = [fill(2, name) for name in "fbdaec"]
    fills += [
        fill(1, "z", side=SELL, shares=4_000_000, usd=1_000_000, fee=5),
        fill(1, "y", side=BUY, shares=4_000_000, usd=1_000_000),
        fill(3, "g", maker="0x" + "9" * 40),
    ]
    with AppServer(goldsky_app(fills)) as server:
        yield asker(server.base_url)


@pytest.fixture(scope="module")
def live() -> Iterator[SandboxServer]:
    with SandboxServer(World.generate(2, now=NOW, markets=60, matches=3_000)) as server:
        yield server


def names(answer: dict) -> list[str]:
    return [row["id"].split("_")[0][2:] for row in answer["data"]["orderFilledEvents"]]


def error(answer: dict) -> str:
    assert "data" not in answer
    return answer["errors"][0]["message"]


# -- shapes ----------------------------------------------------------------------------------------


def test_all_values_are_strings_and_say_what_the_order_gave_and_got(ask):
    rows = ask(
        """{ orderFilledEvents(where: {timestamp: "1"}, orderBy: id) {
               id transactionHash timestamp orderHash maker taker
               makerAssetId takerAssetId makerAmountFilled takerAmountFilled fee } }"""
    )["data"]["orderFilledEvents"]
    bought, sold = rows
    assert sold == {
        "id": "0xz_0x0",
        "transactionHash": "0xz",
        "timestamp": "1",
        "orderHash": "0x0",
        "maker": "0x" + "1" * 40,
        "taker": "0x" + "2" * 40,
        "makerAssetId": "77",
        "takerAssetId": "0",
        "makerAmountFilled": "4000000",
        "takerAmountFilled": "1000000",
        "fee": "5",
    }
    assert (bought["makerAssetId"], bought["takerAssetId"]) == ("0", "77")
    assert (bought["makerAmountFilled"], bought["takerAmountFilled"]) == ("1000000", "4000000")


def test_meta_and_several_aliased_fields_in_one_query(ask):
    answer = ask(
        """query Page($n: Int!) {  # with a comment
             _meta { block { number timestamp hash } hasIndexingErrors }
             early: orderFilledEvents(first: $n, orderBy: timestamp) { when: timestamp }
             one: orderFilledEvent(id: "0xz_0x0") { fee }
             none: orderFilledEvent(id: "0xq_0x0") { fee }
           }""",
        n=1,
    )["data"]
    assert answer["_meta"]["block"]["number"] == 87_814_766
    assert answer["_meta"]["block"]["timestamp"] is None
    assert answer["_meta"]["hasIndexingErrors"] is False
    assert answer["early"] == [{"when": "1"}]
    assert (answer["one"], answer["none"]) == ({"fee": "5"}, None)


# -- order, filters and paging ---------------------------------------------------------------------


def test_ties_are_broken_by_id_in_the_direction_of_the_order(ask):
    query = "{ orderFilledEvents(orderBy: timestamp, orderDirection: %s) { id } }"
    ascending = ["y", "z", "a", "b", "c", "d", "e", "f", "g"]
    assert names(ask(query % "asc")) == ascending
    assert names(ask(query % "desc")) == ascending[::-1]
    assert names(ask("{ orderFilledEvents { id } }")) == sorted(ascending)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('{timestamp_gt: "1", timestamp_lte: "2"}', "abcdef"),
        ("{timestamp_gte: 3}", ["g"]),
        ('{timestamp: "2", id_gt: "0xd_0x0"}', "ef"),
        ('{timestamp_lt: "2"}', "yz"),
        ('{or: [{timestamp_gt: "2"}, {timestamp: "2", id_gt: "0xe_0x0"}]}', ["f", "g"]),
        ('{and: [{timestamp_gt: "1"}, {or: [{id: "0xb_0x0"}, {id: "0xz_0x0"}]}]}', "b"),
        ('{maker: "0x9999999999999999999999999999999999999999"}', ["g"]),
        ('{id_in: ["0xa_0x0", "0xz_0x0"]}', "za"),
        ('{maker_not: "0x1111111111111111111111111111111111111111"}', ["g"]),
        ('{fee_gt: "0"}', "z"),
        ("{}", ["y", "z", "a", "b", "c", "d", "e", "f", "g"]),
    ],
)
def test_filters(ask, where, expected):
    query = "{ orderFilledEvents(orderBy: timestamp, where: %s) { id } }"
    assert names(ask(query % where)) == list(expected)


def test_a_filter_can_be_a_variable(ask):
    query = """query ($where: OrderFilledEvent_filter, $first: Int = 2) {
                 orderFilledEvents(where: $where, first: $first, orderBy: timestamp) { id } }"""
    where = {"or": [{"timestamp_gt": "1"}, {"timestamp": "1", "id_gt": "0xy_0x0"}]}
    assert names(ask(query, where=where)) == ["z", "a"]
    assert names(ask(query, where=where, first=4)) == ["z", "a", "b", "c"]


def test_first_and_skip(ask):
    query = "{ orderFilledEvents(orderBy: timestamp, first: 2, skip: 3) { id } }"
    assert names(ask(query)) == ["b", "c"]


def test_a_second_fill_of_an_order_in_a_transaction_replaces_the_first():
    with AppServer(goldsky_app([fill(1, "a", fee=1), fill(1, "a", fee=2)])) as server:
        rows = asker(server.base_url)("{ orderFilledEvents { fee } }")
    assert rows["data"]["orderFilledEvents"] == [{"fee": "2"}]


def test_a_lower_page_cap_can_be_set():
    with AppServer(goldsky_app([fill(1, "a")], page_cap=5)) as server:
        answer = asker(server.base_url)("{ orderFilledEvents(first: 6) { id } }")
    assert error(answer) == "The `first` argument must be between 0 and 5, but is 6"


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "{ orderFilledEvents(first: 1001) { id } }",
            "`first` argument must be between 0 and 1000",
        ),
        ("{ orderFilledEvents(first: 0) { id } }", "`first` argument must be between 0 and 1000"),
        ("{ orderFilledEvents(skip: 5001) { id } }", "`skip` argument must be between 0 and 5000"),
        ('{ orderFilledEvents(where: {fee: "0", or: [{id: "a"}]}) { id } }', "Cannot mix column"),
        ('{ orderFilledEvents(where: {fee_above: "0"}) { id } }', "Field `fee_above` is not"),
        ('{ orderFilledEvents(where: {timestamp: "soon"}) { id } }', "Failed to coerce"),
        ("{ orderFilledEvents { blockNumber } }", "has no field `blockNumber`"),
        ("{ orderFilledEvents }", "must have a selection"),
        ("{ trades { id } }", "`Query` has no field `trades`"),
        ("{ orderFilledEvents(block: {number: 99999999}) { id } }", "has only indexed up to block"),
        ("query ($t: BigInt!) { orderFilledEvents(where: {id: $t}) { id } }", "Missing value"),
        ("{ orderFilledEvents(where: {id: $t}) { id } }", "`$t` is not defined"),
        ("{ orderFilledEvents { id }", "found `end of input`"),
        ("mutation { stop }", "only queries are served"),
        ("{ ...fields }", "Expected a name"),
    ],
)
def test_errors_come_with_status_200(ask, query, message):
    assert message in error(ask(query))


def test_a_body_that_is_no_request(live):
    answer = requests.post(live.urls.goldsky_url, data="<html>", timeout=PATIENCE_S)
    assert (answer.status_code, list(answer.json())) == (200, ["errors"])


# -- the archive of a world ------------------------------------------------------------------------


def test_100_rows_unless_first_says_otherwise_and_never_more_than_1000(live):
    ask = asker(live.urls.goldsky_url)
    assert len(names(ask("{ orderFilledEvents { id } }"))) == 100
    assert len(names(ask("{ orderFilledEvents(first: 1000) { id } }"))) == 1000


def test_a_keyset_walk_finds_every_v1_leg_and_nothing_else(live):
    ask = asker(live.urls.goldsky_url)
    query = """query ($where: OrderFilledEvent_filter) {
      orderFilledEvents(first: 700, orderBy: timestamp, where: $where) { id timestamp } }"""
    found, where = [], {"timestamp_gte": "0"}
    while rows := ask(query, where=where)["data"]["orderFilledEvents"]:
        found += [row["id"] for row in rows]
        last = rows[-1]
        after = {"timestamp": last["timestamp"], "id_gt": last["id"]}
        where = {"or": [{"timestamp_gt": last["timestamp"]}, after]}
    expected = [leg.archive_id for leg in live.world.archive_fills()]
    assert len(found) > 2_000
    assert sorted(found) == sorted(expected)


def test_new_blocks_do_not_move_the_archive(live):
    ask = asker(live.urls.goldsky_url)
    query = """{ orderFilledEvents(first: 1, orderBy: timestamp, orderDirection: desc) { timestamp }
                 _meta { block { number } } }"""
    before = ask(query)
    live.world.advance(20)
    assert ask(query) == before
    assert before["data"]["orderFilledEvents"] == [{"timestamp": "1777374040"}]


def test_an_earlier_block_shows_an_earlier_archive(live):
    ask = asker(live.urls.goldsky_url)
    query = """{ orderFilledEvents(first: 1, orderBy: timestamp, orderDirection: desc,
                                   block: {number: 87800000}) { timestamp } }"""
    (newest,) = ask(query)["data"]["orderFilledEvents"]
    fills = live.world.archive_fills()
    assert newest["timestamp"] == str(
        max(leg.timestamp for leg in fills if leg.block_number <= 87_800_000)
    )
