"""What a simulated world has from its start: markets of its whole history, some of them on ExchangeV3, and what is odd.

Everything follows from the random numbers that are given. What happens in the markets is left to `world`.
"""

from __future__ import annotations

import math
import sys
from random import Random

from sandbox.catalog import DAY, HOUR, Catalog, Market
from sandbox.clock import HORIZON
from sandbox.trading_floor import TradingFloor

MIGRATION_PAUSE = 3600  # seconds without any fill between V1 and V2
EVENT_KINDS = ("single", "group", "series", "sports")
EVENT_WEIGHTS = (35, 55, 85, 100)  # cumulative, per cent
BORN_ON_V3 = 3  # one in so many events
_MOVES_TO_V3 = 4  # one in so many events
_MARKETS_PER_EVENT = 2.3  # on average, with the weights above
_RARE = 12  # one in so many closed markets is dated oddly
_NEVER = sys.maxsize


def history_windows(now: int, v1_days: float, v2_days: float) -> list[tuple[int, int]]:
    """The spans of time with trades, unix seconds: V1 up to the cutover, V2 up to `now`."""
    v2_start = max(HORIZON.timestamp + MIGRATION_PAUSE, round(now - v2_days * DAY))
    windows = [(v2_start, now)] if v2_days else []
    if v1_days:
        windows.insert(0, (round(HORIZON.timestamp - v1_days * DAY), HORIZON.timestamp))
    return windows


def match_times(rng: Random, begin: int, end: int, count: int) -> list[int]:
    """`count` times from `begin` to `end`: single ones, pairs and bursts; one at the very end."""
    times = [end] if count else []
    while len(times) < count:
        times += [rng.randint(begin, end)] * rng.choices((1, 2, 15), cum_weights=(80, 99, 100))[0]
    return times[:count]


def populate(
    catalog: Catalog,
    floor: TradingFloor,
    rng: Random,
    windows: list[tuple[int, int]],
    markets: int,
) -> Market:
    """Create about so many markets, oldest first; returns the one that is always open.

    A few are from before the order book and never trade.
    """
    before_order_book = windows[0][0] - 1500 * DAY
    for index in range(max(2, markets // 50)):
        born = before_order_book + index * HOUR
        catalog.add_event(rng, "legacy", born, rng.randint(20, 90) * DAY)
    births = []
    for _ in range(max(1, round(markets / _MARKETS_PER_EVENT))):
        begin, end = rng.choices(windows, [end - begin for begin, end in windows])[0]
        births.append((rng.randint(begin - (end - begin) // 3, end), end - begin))
    earliest = min(windows[0], min(births))[0]
    (evergreen,) = catalog.add_event(rng, "single", earliest - DAY, None)
    floor.add(evergreen)
    for born, span in sorted(births):
        kind = rng.choices(EVENT_KINDS, cum_weights=EVENT_WEIGHTS)[0]
        lifetime = round(span * rng.uniform(0.05, 0.6)) if rng.random() < 0.45 else None
        if kind == "series":
            lifetime = min(DAY, span // 2)
        for market in catalog.add_event(rng, kind, born, lifetime):
            floor.add(market)
    # One market in several events: with one of them it shares its tags, with another it does not.
    others = [e for e in catalog.events.values() if evergreen.id not in e.market_ids]
    shared = [e for e in others if e.kind == "single"][-1:]
    foreign = [e for e in others if e.kind != "single"][-max(1, markets // 100) :]
    for event in shared + foreign:
        catalog.relate(evergreen, event)
    return evergreen


def set_up_v3(
    catalog: Catalog, floor: TradingFloor, rng: Random, begin: int, end: int, evergreen: Market
) -> None:
    """Let some events trade on ExchangeV3, and some combos, which Gamma never lists."""
    for event in list(catalog.events.values()):
        if event.kind == "legacy" or evergreen.id in event.market_ids:
            continue
        if event.created_at >= begin and event.id % BORN_ON_V3 == 0:
            catalog.put_on_v3(event, event.created_at)
        elif event.created_at < begin and event.id % _MOVES_TO_V3 == 0:
            catalog.put_on_v3(event, (begin + end) // 2)
    for _ in range(2):
        (combo,) = catalog.add_event(rng, "combo", begin, None)
        (event,) = catalog.events_of(combo.id)
        catalog.put_on_v3(event, begin)
        combo.visible_from = _NEVER
        floor.add(combo)


def set_up_changes(catalog: Catalog, rng: Random, now: int, evergreen: Market) -> None:
    """Let the newest markets trade before Gamma lists them, a few never be listed, a few close.

    The closes come soon after the start, so that a client meets them while it pages. One market
    that trades stays unknown to Gamma for good.
    """
    traded = [
        market
        for market in catalog.markets.values()
        if market.last_trade_at and market is not evergreen and market.kind != "combo"
    ]
    for market in rng.sample(traded, math.ceil(len(traded) / 60)):
        market.listed = False
    open_still = [market for market in traded if market.listed and market.closed_at is None]
    late = math.ceil(len(open_still) / 40)
    for market in open_still[-late:]:
        market.visible_from = now + rng.randint(10, 80)
    for market in open_still[-late - 1 : -late]:
        market.visible_from = _NEVER
    for market in rng.sample(open_still[:-late], len(open_still) // 15):
        market.ends_at = market.closes_at = now + rng.randint(10, 600)
    closed = [market for market in traded if market.closed_at is not None]
    for market in closed[::_RARE]:
        market.lacks_closed_time = True
    for market in closed[1::_RARE]:  # Gamma may date the close before the last trades
        market.closed_at = max(market.created_at, market.last_trade_at - 2 * HOUR)
