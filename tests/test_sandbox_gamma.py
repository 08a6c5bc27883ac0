"""The simulated Gamma: shapes as the reference lists them, and the traps of its paging."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import requests
from worlds import PATIENCE_S

from sandbox.gamma import GammaStore, gamma_app
from sandbox.server import AppServer, SandboxServer
from sandbox.world import World

NOW = datetime(2026, 7, 1, tzinfo=UTC)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
NUMBER, STRING = (int, float), str


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    world = World.generate(2, now=NOW, markets=300, matches=3_000)
    with SandboxServer(world) as running:
        yield running


@pytest.fixture(scope="module")
def get(server: SandboxServer) -> Callable[..., requests.Response]:
    def get(path: str, **params: object) -> requests.Response:
        url = server.urls.gamma_url + path
        return requests.get(url, params=params, timeout=PATIENCE_S, allow_redirects=False)

    return get


@pytest.fixture
def store() -> Iterator[tuple[GammaStore, Callable[..., dict]]]:
    """A store to fill by hand, and a way to ask for its markets."""
    store = GammaStore()
    with AppServer(gamma_app(store)) as server:

        def page(**params: object) -> dict:
            url = f"{server.base_url}/markets/keyset"
            return requests.get(url, params=params, timeout=PATIENCE_S).json()

        yield store, page


def read_all(get: Callable[..., requests.Response], kind: str, **params: object) -> list[dict]:
    rows, cursor = [], {}
    while True:
        body = get(f"/{kind}/keyset", **params, **cursor).json()
        rows += body[kind]
        if "next_cursor" not in body:
            return rows
        cursor = {"after_cursor": body["next_cursor"]}


@pytest.fixture(scope="module")
def markets(get) -> list[dict]:
    return [m for closed in ("false", "true") for m in read_all(get, "markets", closed=closed)]


@pytest.fixture(scope="module")
def events(get) -> list[dict]:
    return [e for closed in ("false", "true") for e in read_all(get, "events", closed=closed)]


# -- shapes ----------------------------------------------------------------------------------------


def test_market_fields_have_the_types_of_the_reference(markets):
    always = {"id": STRING, "question": STRING, "slug": STRING, "active": bool, "closed": bool}
    where_present = {
        "volume": STRING,
        "volumeNum": NUMBER,
        "liquidity": STRING,
        "liquidityNum": NUMBER,
        "bestBid": (*NUMBER, type(None)),  # null where nobody bids
        "orderPriceMinTickSize": NUMBER,
        "negRisk": bool,
        "negRiskMarketID": STRING,
        "updatedBy": int,
        "feeSchedule": dict,
        "groupItemThreshold": STRING,
    }
    for market in markets:
        for key, kind in always.items():
            assert isinstance(market[key], kind), key
        for key, kind in where_present.items():
            assert key not in market or isinstance(market[key], kind), key
        assert re.fullmatch(r"\d+", market["id"])
        digits = 62 if market.get("version") == "v2" else 64
        assert re.fullmatch(rf"0x[0-9a-f]{{{digits}}}", market["conditionId"])
        for key in ("createdAt", "updatedAt", "endDate"):
            assert RFC3339.fullmatch(market[key])


def test_lists_are_json_inside_strings(markets):
    for market in markets:
        assert len(json.loads(market["outcomes"])) == len(json.loads(market["outcomePrices"])) == 2
        if "clobTokenIds" in market:
            for token_id in filter(None, json.loads(market["clobTokenIds"])):
                assert re.fullmatch(r"\d{70,78}", token_id)


def test_closed_markets_carry_the_other_time_format_and_every_kind_of_resolution(markets):
    closed = [market for market in markets if market["closed"]]
    times = [market["closedTime"] for market in closed if "closedTime" in market]
    dated = [time for time in times if time != "0001-01-01T00:00:00Z"]
    assert 0 < len(dated) < len(closed), "some lack it"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00", time) for time in dated)
    assert {market["outcomePrices"] for market in closed} == {
        '["1", "0"]',
        '["0", "1"]',
        '["0.5", "0.5"]',
        '["0.9995", "0.0005"]',
        '["0", "0"]',
        '["0.0000004113679809846114013590098187297978", "0.9999995886320190153885986409901813"]',
        '["0.5843311669077693", "0.4156688330922307"]',
    }
    statuses = {market.get("umaResolutionStatus") for market in closed}
    assert statuses == {"resolved", "proposed", "disputed", None}
    assert not any("closedTime" in market for market in markets if not market["closed"])


def test_the_oddities_are_there(markets):
    assert {type(m["volumeNum"]) for m in markets if "volumeNum" in m} == {int, float}
    assert any(m["description"] is None for m in markets)
    assert any("volume" not in m for m in markets)
    assert any("clobTokenIds" not in m and m["closed"] for m in markets)
    assert any(m.get("clobTokenIds") == '["", ""]' for m in markets)
    assert any(m.get("orderPriceMinTickSize") == 0 for m in markets)
    assert any(m.get("sportsMarketType") == "map_handicap" and m["line"] == -1.5 for m in markets)
    assert any(len(m["events"]) > 1 for m in markets)
    assert len({m["id"] for m in markets}) == len(markets)


def test_events_embed_markets_tags_and_series_and_markets_embed_events(markets, events):
    by_id = {market["id"]: market for market in markets}
    pairs = set()
    for event in events:
        assert isinstance(event["volume"], NUMBER)
        assert isinstance(event["liquidity"], NUMBER)
        assert "events" not in event["markets"][0]
        assert event["tags"]
        pairs |= {(market["id"], event["id"]) for market in event["markets"]}
        for market in event["markets"]:
            assert market.items() <= by_id[market["id"]].items()
    assert pairs == {(m["id"], e["id"]) for m in markets for e in m["events"]}
    assert not any("markets" in e or "tags" in e for m in markets for e in m["events"])
    recurring = [event for event in events if event.get("seriesSlug")]
    assert {event["series"][0]["slug"] for event in recurring} == {
        "btc-up-or-down-5m",
        "btc-up-or-down-hourly",
    }
    groups = [event for event in events if event["negRisk"]]
    assert groups
    for event in groups:
        grouped = [m for m in event["markets"] if m["negRisk"]]
        assert {m["negRiskMarketID"] for m in grouped} == {event["negRiskMarketID"]}


def test_tags(get):
    tags = get("/tags", limit=1000).json()
    assert {"id", "label", "slug"} <= set(tags[0])
    assert any(" " in tag.get("publishedAt", "") for tag in tags)
    assert get("/tags", limit=2, offset=1).json() == tags[1:3]


def test_tags_of_a_market_only_when_asked_for(get):
    assert "tags" not in get("/markets/keyset", limit=1).json()["markets"][0]
    assert get("/markets/keyset", limit=1, include_tag="true").json()["markets"][0]["tags"]


# -- keyset paging ---------------------------------------------------------------------------------


def test_limits_have_a_default_and_are_cut_without_a_word(get):
    assert len(get("/markets/keyset").json()["markets"]) == 20
    assert len(get("/markets/keyset", limit=1000).json()["markets"]) == 100
    assert len(get("/events/keyset").json()["events"]) == 20


def test_events_are_cut_to_a_hundred():
    """Since September 2026: 500 asked for, 100 answered, with status 200 and a cursor."""
    gamma = GammaStore()
    for number in range(1, 151):
        gamma.put_event({"id": str(number), "closed": False}, market_ids=())
    with AppServer(gamma_app(gamma)) as server:
        url = f"{server.base_url}/events/keyset"
        answer = requests.get(url, params={"limit": 500}, timeout=PATIENCE_S)
    assert answer.ok
    assert len(answer.json()["events"]) == 100
    assert "next_cursor" in answer.json()


def test_open_records_unless_closed_is_asked_for(get):
    assert not any(m["closed"] for m in get("/markets/keyset").json()["markets"])
    assert all(m["closed"] for m in get("/markets/keyset", closed="true").json()["markets"])


def test_the_last_page_has_no_cursor_and_a_full_one_always_has(store):
    gamma, page = store
    for number in range(1, 5):
        gamma.put_market({"id": str(number), "closed": False})
    full = page(limit=2, after_cursor=page(limit=2)["next_cursor"])
    assert [market["id"] for market in full["markets"]] == ["3", "4"]
    # A full last page still has a cursor; behind it there is nothing.
    assert page(limit=2, after_cursor=full["next_cursor"]) == {"markets": []}
    assert "next_cursor" not in page(limit=3, after_cursor=page(limit=3)["next_cursor"])


def test_a_wrong_name_for_the_cursor_is_ignored(get):
    first = get("/markets/keyset", limit=5).json()
    for name in ("cursor", "next_cursor"):
        again = get("/markets/keyset", **{"limit": 5, name: first["next_cursor"]}).json()
        assert again["markets"] == first["markets"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"offset": 0}, "offset is not allowed on keyset endpoints"),
        ({"order": "volume_num"}, "order fields are not valid"),
        ({"after_cursor": "not-a-cursor"}, "after_cursor is not valid"),
        ({"limit": "many"}, "limit is not an integer"),
    ],
)
def test_what_keyset_paging_refuses(get, params, message):
    response = get("/markets/keyset", **params)
    assert response.status_code == 422
    assert response.json() == {"type": "validation error", "error": message}


def test_a_cursor_belongs_to_its_filters_but_not_to_its_limit(get):
    cursor = get("/markets/keyset", limit=5, closed="true").json()["next_cursor"]
    assert get("/markets/keyset", closed="false", after_cursor=cursor).status_code == 422
    assert get("/markets/keyset", closed="true", limit=7, after_cursor=cursor).ok


def test_a_market_that_closes_while_paging_moves_from_one_pass_to_the_other(store):
    gamma, page = store
    for number in range(1, 7):
        gamma.put_market({"id": str(number), "closed": False})
    first = page(limit=2)
    gamma.put_market({"id": "2", "closed": True})  # behind the cursor, and the cursor's own row
    gamma.put_market({"id": "4", "closed": True})  # still to come
    gamma.put_market({"id": "9", "closed": False})
    second = page(limit=9, after_cursor=first["next_cursor"])
    assert [market["id"] for market in second["markets"]] == ["3", "5", "6", "9"]
    assert [market["id"] for market in page(closed="true")["markets"]] == ["2", "4"]


def test_ids_sort_as_numbers(store):
    gamma, page = store
    for number in (100, 9, 20):
        gamma.put_market({"id": str(number), "closed": False})
    assert [market["id"] for market in page()["markets"]] == ["9", "20", "100"]


@pytest.mark.parametrize(
    ("ascending", "expected"),
    [("true", ["4", "3", "1", "2", "5"]), ("false", ["5", "2", "1", "3", "4"])],
)
def test_nulls_sort_last_ascending_and_first_descending(store, ascending, expected):
    gamma, page = store
    for number, volume in ((1, 7), (2, None), (3, 5.5), (4, 1), (5, None)):
        gamma.put_market({"id": str(number), "closed": False, "volumeNum": volume})
    rows, cursor = [], {}
    for _ in range(5):
        body = page(limit=1, order="volumeNum", ascending=ascending, **cursor)
        rows += [market["id"] for market in body["markets"]]
        cursor = {"after_cursor": body["next_cursor"]}
    assert rows == expected


# -- look-ups and offset paging --------------------------------------------------------------------


def test_look_ups_take_repeated_parameters(get, markets):
    tradable = [m for m in markets if not m["closed"] and "clobTokenIds" in m][:3]
    tokens = [json.loads(market["clobTokenIds"])[1] for market in tradable]
    expected = {market["id"] for market in tradable}
    for params in (
        {"id": [market["id"] for market in tradable]},
        {"slug": [market["slug"] for market in tradable]},
        {"condition_ids": [market["conditionId"] for market in tradable]},
        {"clob_token_ids": tokens},
    ):
        found = get("/markets/keyset", **params).json()["markets"]
        assert {market["id"] for market in found} == expected


def test_some_markets_are_only_found_by_their_tokens(server, get, markets):
    listed = {token for m in markets for token in json.loads(m.get("clobTokenIds", "[]"))}
    traded = {match.taker_leg.token_id for match in server.world.matches}
    found = 0
    for token in sorted(traded - listed):
        for closed in ("false", "true"):
            params = {"clob_token_ids": token, "closed": closed}
            found += len(get("/markets/keyset", **params).json()["markets"])
    assert found, "unlisted markets answer to who knows them"
    assert found < len(traded - listed), "late ones are not there yet"


def test_a_long_url_is_refused(get, markets):
    tokens = [t for m in markets for t in json.loads(m.get("clobTokenIds", "[]"))]
    assert get("/markets/keyset", clob_token_ids=tokens[:40]).ok
    refused = get("/markets/keyset", clob_token_ids=tokens[:100])
    assert refused.status_code == 414
    assert refused.text.startswith("<html>")


def test_offset_paging_ends_at_two_thousand(get, markets):
    assert get("/markets", limit=3, offset=2).json() == markets[2:5]
    refused = get("/markets", offset=2001)
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("offset too large, use /markets/keyset")
    assert get("/events", offset=2000).json() == []
