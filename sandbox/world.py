"""The simulated world: markets, a chain of blocks with matches in them, and what Gamma shows of it,
moving together.

Everything follows from the seed and the starting time; nothing reads the wall clock. Blocks are
mined one by one from their own hash, so `advance(10)` and ten times `advance(1)` make the same
world. The servers (`gamma`, `goldsky`, `polygon`) only read it; `truth` derives from the same
matches what a correct pipeline must arrive at.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from random import Random
from threading import RLock
from typing import TYPE_CHECKING

from sandbox.catalog import DAY, HOUR, TAGS, Catalog, Market
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_at, block_time
from sandbox.contracts import V1, Fill
from sandbox.gamma import GammaStore
from sandbox.matches import Exchange, Match, Slot
from sandbox.payloads import event_payload, market_payload, tag_payload

if TYPE_CHECKING:
    from sandbox.clob import Quote

MIGRATION_PAUSE = 3600  # seconds without any fill between V1 and V2
_EVENT_KINDS = ("single", "group", "series", "sports")
_EVENT_WEIGHTS = (35, 55, 85, 100)  # cumulative, per cent
_MARKETS_PER_EVENT = 2.3  # on average, with the weights above
_SHARED_TRANSACTION = 0.04  # share of transactions that hold two matches
_BORN_ON_V3, _MOVES_TO_V3 = 3, 4  # one in so many events
_RARE = 12  # one in so many closed markets is dated oddly
_NEVER = sys.maxsize
_FORMS_AGAIN, _SAME_BLOCK = 0.8, 0.5  # of a replaced transaction: comes back; in the same block


class World:
    """One simulated Polymarket, made by `generate`; hold `lock` to read it while it may move."""

    def __init__(
        self,
        seed: int,
        now: datetime,
        matches_per_block: float,
        wallets: int,
        *,
        v2_trial: bool = False,
    ) -> None:
        """An empty world whose head is the block of `now`; `generate` fills it."""
        self.seed = seed
        self.lock = RLock()
        self.chain = Chain(head=block_at(now.timestamp()), seed=seed)
        self.catalog = Catalog()
        self.gamma = GammaStore(tags=[tag_payload(slug) for slug in TAGS])
        self.matches: list[Match] = []
        self._matches_per_block = matches_per_block
        self._traders = _TradingFloor()
        self._exchange = Exchange(Random(f"{seed}:wallets"), wallets, v2_trial=v2_trial)
        self._strays: list[Fill] = []  # for the next block
        self.quotes: set[Quote] = set()  # that the CLOB has handed out

    @classmethod
    def generate(
        cls,
        seed: int = 1,
        *,
        now: datetime,
        markets: int = 200,
        matches: int = 2_000,
        v1_days: float = 2.0,
        v2_days: float = 2.0,
        matches_per_block: float = 1.0,
        v2_trial: bool = False,
    ) -> World:
        """A world with about `markets` markets and exactly `matches` matches, up to `now`.

        V1 history ends at the real cutover of 2026-04-28 and is `v1_days` long; V2 history ends at
        `now` and is `v2_days` long (less when `now` is nearer to the cutover). `matches_per_block`
        is the mean for blocks mined later. With `v2_trial` V2 executes some matches of the last
        hours before the cutover, too, as the real one did; a client that reads the chain from the cutover on misses
        those. Some markets are on ExchangeV3, from their start or from the middle of V2 history on.

        Raises:
            ValueError: `now` is naive or not after the cutover, or there is no history to fill.
        """
        if v1_days + v2_days <= 0 or matches < 1:
            raise ValueError("a world needs v1_days or v2_days above 0, and at least one match")
        if now.tzinfo is None or now.timestamp() <= HORIZON.timestamp + MIGRATION_PAUSE:
            raise ValueError("now must be an aware time after 2026-04-28T12:00:40Z")
        world = cls(seed, now, matches_per_block, wallets=max(50, matches // 10), v2_trial=v2_trial)
        rng = Random(f"{seed}:history")
        windows = _windows(world.now, v1_days, v2_days)
        evergreen = world._populate(rng, windows, markets)
        if v2_days:
            world._set_up_v3(Random(f"{seed}:v3"), *windows[-1], evergreen)
        world._trade_history(rng, windows, matches)
        world._close_due(world.now)
        world._move_due(world.now)
        world._set_up_changes(rng, evergreen)
        world._publish(world.catalog.markets)
        return world

    @property
    def now(self) -> int:
        """Time of the head block, unix seconds."""
        return block_time(self.chain.head)

    def archive_fills(self) -> list[Fill]:
        """The V1 fills, which are what the subgraph indexed before it froze."""
        return [leg for match in self.matches for leg in match.legs if leg.version == V1]

    def advance(self, blocks: int = 1) -> None:
        """Mine `blocks` blocks: trades, new markets, markets that close or show up in Gamma."""
        with self.lock:
            for number in range(self.chain.head + 1, self.chain.head + 1 + blocks):
                rng = Random(self.chain.block_hash(number))
                born = self._maybe_new_event(rng, block_time(number))
                matches = self._mine(rng, number, [])
                changed = {match.market_id for match in matches} | born | self._move_due(self.now)
                self._publish(changed | self._close_due(self.now) | self._due_to_show())

    def stray(self, *fills: Fill) -> None:
        """Put events into the next block that no match of this world has, of an exchange nobody knows, say.

        Only their log index is changed: they come after all others.
        """
        self._strays.extend(fills)

    def reorg(self, depth: int) -> None:
        """Replace the last `depth` blocks; of their matches some come back, some move, some go.

        Raises:
            ValueError: the blocks reach back to V1, whose archive is final.
        """
        with self.lock:
            fork, head = self.chain.head - depth, self.chain.head
            if block_time(fork) <= HORIZON.timestamp:
                raise ValueError("a reorganisation cannot reach back before V2")
            orphans = self._matches_after(fork)
            del self.matches[len(self.matches) - len(orphans) :]
            self.chain.rewind(depth)
            rng = Random(self.chain.block_hash(fork + 1))
            for match in orphans:
                self.catalog.markets[match.market_id].volume -= match.taker_leg.usd
            carried = _scatter(rng, orphans, head)
            for number in range(fork + 1, head + 1):
                self._mine(Random(self.chain.block_hash(number)), number, carried.get(number, []))
            touched = {match.market_id for match in orphans}
            touched |= {match.market_id for match in self._matches_after(fork)}
            self._publish(touched)

    # -- history -----------------------------------------------------------------------------------

    def _populate(self, rng: Random, windows: list[tuple[int, int]], markets: int) -> Market:
        """Create the markets, oldest first; returns the one that is always open.

        A few are from before the order book and never trade.
        """
        before_order_book = windows[0][0] - 1500 * DAY
        for index in range(max(2, markets // 50)):
            born = before_order_book + index * HOUR
            self.catalog.add_event(rng, "legacy", born, rng.randint(20, 90) * DAY)
        births = []
        for _ in range(max(1, round(markets / _MARKETS_PER_EVENT))):
            begin, end = rng.choices(windows, [end - begin for begin, end in windows])[0]
            births.append((rng.randint(begin - (end - begin) // 3, end), end - begin))
        earliest = min(windows[0], min(births))[0]
        (evergreen,) = self.catalog.add_event(rng, "single", earliest - DAY, None)
        self._traders.add(evergreen)
        for born, span in sorted(births):
            kind = rng.choices(_EVENT_KINDS, cum_weights=_EVENT_WEIGHTS)[0]
            lifetime = round(span * rng.uniform(0.05, 0.6)) if rng.random() < 0.45 else None
            if kind == "series":
                lifetime = min(DAY, span // 2)
            for market in self.catalog.add_event(rng, kind, born, lifetime):
                self._traders.add(market)
        # One market in several events: with one of them it shares its tags, with another it does not.
        others = [e for e in self.catalog.events.values() if evergreen.id not in e.market_ids]
        shared = [e for e in others if e.kind == "single"][-1:]
        foreign = [e for e in others if e.kind != "single"][-max(1, markets // 100) :]
        for event in shared + foreign:
            self.catalog.relate(evergreen, event)
        return evergreen

    def _set_up_v3(self, rng: Random, begin: int, end: int, evergreen: Market) -> None:
        """Let some events trade on ExchangeV3, and some combos, which Gamma never lists."""
        for event in list(self.catalog.events.values()):
            if event.kind == "legacy" or evergreen.id in event.market_ids:
                continue
            if event.created_at >= begin and event.id % _BORN_ON_V3 == 0:
                self.catalog.put_on_v3(event, event.created_at)
            elif event.created_at < begin and event.id % _MOVES_TO_V3 == 0:
                self.catalog.put_on_v3(event, (begin + end) // 2)
        for _ in range(2):
            (combo,) = self.catalog.add_event(rng, "combo", begin, None)
            (event,) = self.catalog.events_of(combo.id)
            self.catalog.put_on_v3(event, begin)
            combo.visible_from = _NEVER
            self._traders.add(combo)

    def _trade_history(self, rng: Random, windows: list[tuple[int, int]], matches: int) -> None:
        spans = [end - begin for begin, end in windows]
        times = _match_times(rng, *windows[-1], matches * spans[-1] // sum(spans))
        for begin, end in windows[:-1]:
            times += _match_times(rng, begin, end, matches - len(times))
        blocks = sorted(map(block_at, times))
        for number, group in groupby(blocks):
            slot = _first_slot(rng, number)
            self._fill_block(rng, slot, len(list(group)))
        self.chain = Chain(
            (log for match in self.matches for log in match.logs()), self.chain.head, self.seed
        )

    def _set_up_changes(self, rng: Random, evergreen: Market) -> None:
        """Let the newest markets trade before Gamma lists them, a few never be listed, a few close.

        The closes come soon after the start, so that a client meets them while it pages. One market
        that trades stays unknown to Gamma for good.
        """
        traded = [
            market
            for market in self.catalog.markets.values()
            if market.last_trade_at and market is not evergreen and market.kind != "combo"
        ]
        for market in rng.sample(traded, math.ceil(len(traded) / 60)):
            market.listed = False
        open_still = [market for market in traded if market.listed and market.closed_at is None]
        late = math.ceil(len(open_still) / 40)
        for market in open_still[-late:]:
            market.visible_from = self.now + rng.randint(10, 80)
        for market in open_still[-late - 1 : -late]:
            market.visible_from = _NEVER
        for market in rng.sample(open_still[:-late], len(open_still) // 15):
            market.ends_at = market.closes_at = self.now + rng.randint(10, 600)
        closed = [market for market in traded if market.closed_at is not None]
        for market in closed[::_RARE]:
            market.lacks_closed_time = True
        for market in closed[1::_RARE]:  # Gamma may date the close before the last trades
            market.closed_at = max(market.created_at, market.last_trade_at - 2 * HOUR)

    # -- mining ------------------------------------------------------------------------------------

    def _mine(self, rng: Random, number: int, carried: list[list[Match]]) -> list[Match]:
        """Add block `number`: transactions `carried` over from replaced blocks, then new ones."""
        before = len(self.matches)
        slot = _first_slot(rng, number)
        for transaction in carried:
            slot.next_transaction(rng)
            for match in transaction:
                self.matches.append(_relocate(rng, match, slot))
                self.catalog.markets[match.market_id].volume += match.taker_leg.usd
        mean = self._matches_per_block
        self._fill_block(rng, slot, int(rng.expovariate(1 / mean) + 0.5) if mean else 0)
        mined = self.matches[before:]
        logs = [log for match in mined for log in match.logs()]
        for stray in self._strays:
            slot.log_index += 1
            place = {"block_number": number, "timestamp": block_time(number)}
            logs.append(replace(stray, log_index=slot.log_index, **place))
        self._strays.clear()
        self.chain.append(logs, number)
        return mined

    def _fill_block(self, rng: Random, slot: Slot, count: int) -> None:
        """Put `count` new matches into a block, now and then two of them into one transaction."""
        while count > 0:
            market = self._traders.pick(rng, block_time(slot.block_number))
            slot.next_transaction(rng)
            shared = count > 1 and rng.random() < _SHARED_TRANSACTION
            first = self._exchange.match(rng, market, slot, shared=shared)
            self.matches.append(first)
            count -= 1
            if shared:
                if first.taker_leg.version != V1:
                    slot.used_orders.clear()  # V2 may fill one maker order twice in a transaction
                taker = first.taker_leg.maker
                self.matches.append(
                    self._exchange.match(rng, market, slot, shared=True, other_taker=taker)
                )
                count -= 1

    def _maybe_new_event(self, rng: Random, now: int) -> set[int]:
        """Sometimes start an event; its markets trade at once and show in Gamma a little later."""
        if rng.random() >= 0.08:
            return set()
        kind = rng.choices(_EVENT_KINDS, cum_weights=_EVENT_WEIGHTS)[0]
        lifetime = rng.randint(60, 900) if kind in ("series", "sports") else None
        born = self.catalog.add_event(rng, kind, now, lifetime)
        (event,) = self.catalog.events_of(born[0].id)
        if event.id % _BORN_ON_V3 == 0:
            self.catalog.put_on_v3(event, now)
        for market in born:
            market.visible_from = now + rng.randint(0, 40)
            self._traders.add(market)
        return {market.id for market in born}

    def _matches_after(self, block: int) -> list[Match]:
        start = bisect_right(self.matches, block, key=lambda match: match.taker_leg.block_number)
        return self.matches[start:]

    # -- Gamma -------------------------------------------------------------------------------------

    def _close_due(self, now: int) -> set[int]:
        due = [
            market
            for market in self.catalog.markets.values()
            if market.closed_at is None and market.closes_at is not None and market.closes_at <= now
        ]
        for market in due:
            market.closed_at = market.closes_at
        return {market.id for market in due}

    def _move_due(self, now: int) -> set[int]:
        due = [
            market
            for market in self.catalog.markets.values()
            if market.is_on_v3(now) and not market.has_moved
        ]
        for market in due:
            market.has_moved = True
        return {market.id for market in due}

    def _due_to_show(self) -> set[int]:
        return {
            market.id
            for market in self.catalog.markets.values()
            if market.visible_from <= self.now and str(market.id) not in self.gamma.markets
        }

    def _publish(self, market_ids: Iterable[int]) -> None:
        """Show in Gamma the markets that changed, and the events that hold them."""
        event_ids = set()
        for market_id in market_ids:
            market = self.catalog.markets[market_id]
            if market.visible_from > self.now:
                continue
            events = self.catalog.events_of(market_id)
            event_ids |= {event.id for event in events}
            tags = list(dict.fromkeys(tag for event in events for tag in event.tags))
            self.gamma.put_market(market_payload(market), tags=tags, listed=market.listed)
        for event_id in sorted(event_ids):
            event = self.catalog.events[event_id]
            shown = [
                market
                for market in map(self.catalog.markets.get, event.market_ids)
                if market.listed and market.visible_from <= self.now
            ]
            if shown:
                self.gamma.put_event(
                    event_payload(event, shown),
                    market_ids=[str(market.id) for market in shown],
                    tags=event.tags,
                )


class _TradingFloor:
    """The markets that can trade, picked at random with a heavy tail."""

    def __init__(self) -> None:
        self._markets: list[Market] = []

    def add(self, market: Market) -> None:
        self._markets.append(market)

    def pick(self, rng: Random, now: int) -> Market:
        """The most popular of three that are open at `now`; drops those that have closed.

        Markets that Gamma took off its lists trade no more: nobody would see in Gamma what changes there.
        """
        best = None
        draws = 0
        while draws < 3 or best is None:
            draws += 1
            index = int(rng.random() * len(self._markets))
            market = self._markets[index]
            is_closed = market.closes_at is not None and market.closes_at <= now
            if is_closed or not market.listed:
                self._markets[index] = self._markets[-1]
                self._markets.pop()
            elif market.created_at <= now and (best is None or market.popularity > best.popularity):
                best = market
        return best


def _windows(now: int, v1_days: float, v2_days: float) -> list[tuple[int, int]]:
    """The spans of time with trades, unix seconds: V1 up to the cutover, V2 up to `now`."""
    v2_start = max(HORIZON.timestamp + MIGRATION_PAUSE, round(now - v2_days * DAY))
    windows = [(v2_start, now)] if v2_days else []
    if v1_days:
        windows.insert(0, (round(HORIZON.timestamp - v1_days * DAY), HORIZON.timestamp))
    return windows


def _match_times(rng: Random, begin: int, end: int, count: int) -> list[int]:
    """`count` times from `begin` to `end`: single ones, pairs and bursts; one at the very end."""
    times = [end] if count else []
    while len(times) < count:
        times += [rng.randint(begin, end)] * rng.choices((1, 2, 15), cum_weights=(80, 99, 100))[0]
    return times[:count]


def _first_slot(rng: Random, number: int) -> Slot:
    return Slot(number, tx_index=rng.randint(0, 20), log_index=rng.randint(0, 200))


def _scatter(rng: Random, orphans: list[Match], head: int) -> dict[int, list[list[Match]]]:
    """Decide for each transaction of replaced blocks whether it comes back, and in which block."""
    carried: dict[int, list[list[Match]]] = {}
    for _, matches in groupby(orphans, key=lambda match: match.taker_leg.tx_hash):
        transaction = list(matches)
        if rng.random() < _FORMS_AGAIN:
            number = transaction[0].taker_leg.block_number
            if rng.random() >= _SAME_BLOCK:
                number = min(number + 1, head)
            carried.setdefault(number, []).append(transaction)
    return carried


def _relocate(rng: Random, match: Match, slot: Slot) -> Match:
    """The same match, same transaction and order hashes, at another place in the chain."""
    legs = []
    for leg in match.legs:
        slot.log_index += rng.randint(1, 4)
        legs.append(
            replace(
                leg,
                timestamp=block_time(slot.block_number),
                block_number=slot.block_number,
                log_index=slot.log_index,
                tx_index=slot.tx_index,
            )
        )
    matched = match.matched_log_index
    if matched >= 0:
        slot.log_index += 1
        matched = slot.log_index
    return replace(match, legs=tuple(legs), matched_log_index=matched)
