"""The simulated world: markets, a chain of blocks with matches in them, and what Gamma shows of it,
moving together.

Everything follows from the seed and the starting time; nothing reads the wall clock. Blocks are
mined one by one from their own hash, so `advance(10)` and ten times `advance(1)` make the same
world. The servers (`gamma`, `goldsky`, `polygon`) only read it; `truth` derives from the same
matches what a correct pipeline must arrive at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from random import Random
from threading import RLock
from typing import TYPE_CHECKING

from sandbox.catalog import TAGS, Catalog
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_at, block_time
from sandbox.contracts import V1, Fill
from sandbox.event_payloads import event_payload, tag_payload
from sandbox.gamma import GammaStore
from sandbox.history import (
    BORN_ON_V3,
    EVENT_KINDS,
    EVENT_WEIGHTS,
    MIGRATION_PAUSE,
    history_windows,
    match_times,
    populate,
    set_up_changes,
    set_up_v3,
)
from sandbox.matches import Exchange, Match, Slot
from sandbox.payloads import market_payload
from sandbox.reorganisation import relocate, scatter
from sandbox.trading_floor import TradingFloor

if TYPE_CHECKING:
    from sandbox.clob import Quote

_SHARED_TRANSACTION = 0.04  # share of transactions that hold two matches


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
        self._traders = TradingFloor()
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
        windows = history_windows(world.now, v1_days, v2_days)
        evergreen = populate(world.catalog, world._traders, rng, windows, markets)
        if v2_days:
            v3 = Random(f"{seed}:v3")
            set_up_v3(world.catalog, world._traders, v3, *windows[-1], evergreen)
        world._trade_history(rng, windows, matches)
        world._close_due(world.now)
        world._move_due(world.now)
        set_up_changes(world.catalog, rng, world.now, evergreen)
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
            carried = scatter(rng, orphans, head)
            for number in range(fork + 1, head + 1):
                self._mine(Random(self.chain.block_hash(number)), number, carried.get(number, []))
            touched = {match.market_id for match in orphans}
            touched |= {match.market_id for match in self._matches_after(fork)}
            self._publish(touched)

    # -- history -----------------------------------------------------------------------------------

    def _trade_history(self, rng: Random, windows: list[tuple[int, int]], matches: int) -> None:
        spans = [end - begin for begin, end in windows]
        times = match_times(rng, *windows[-1], matches * spans[-1] // sum(spans))
        for begin, end in windows[:-1]:
            times += match_times(rng, begin, end, matches - len(times))
        blocks = sorted(map(block_at, times))
        for number, group in groupby(blocks):
            slot = _first_slot(rng, number)
            self._fill_block(rng, slot, len(list(group)))
        self.chain = Chain(
            (log for match in self.matches for log in match.logs()), self.chain.head, self.seed
        )

    # -- mining ------------------------------------------------------------------------------------

    def _mine(self, rng: Random, number: int, carried: list[list[Match]]) -> list[Match]:
        """Add block `number`: transactions `carried` over from replaced blocks, then new ones."""
        before = len(self.matches)
        slot = _first_slot(rng, number)
        for transaction in carried:
            slot.next_transaction(rng)
            for match in transaction:
                self.matches.append(relocate(rng, match, slot))
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
        kind = rng.choices(EVENT_KINDS, cum_weights=EVENT_WEIGHTS)[0]
        lifetime = rng.randint(60, 900) if kind in ("series", "sports") else None
        born = self.catalog.add_event(rng, kind, now, lifetime)
        (event,) = self.catalog.events_of(born[0].id)
        if event.id % BORN_ON_V3 == 0:
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


def _first_slot(rng: Random, number: int) -> Slot:
    return Slot(number, tx_index=rng.randint(0, 20), log_index=rng.randint(0, 200))
