"""What a correct pipeline must arrive at, computed from the matches in plain Python.

It never uses the project's SQL and never floats: amounts are integers in 1e-6 units, prices
Decimals cut to 18 digits, times unix seconds. Columns have the promised names. How the rows are
computed is in `truth_fills`, `truth_wallets`, `truth_candles`, `truth_volumes` and `truth_gamma`;
here stands what each of them is made from. The module is longer than 300 lines because each
promised table is one property of one class, and they share what they are made from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import groupby, islice

from sandbox import truth_candles, truth_fills, truth_gamma, truth_volumes, truth_wallets
from sandbox.amounts import exact_price, is_dust
from sandbox.clock import iso_date
from sandbox.contracts import V1, V3, Fill
from sandbox.matches import DIRECT
from sandbox.positions import position_row
from sandbox.truth_candles import BUCKETS, Print
from sandbox.world import World


class Truth:
    """The promised tables for a world as it stands, each as dicts, made when first asked for.

    Tables that are as large as the fills and follow from another one are iterators, made anew each
    time. `v1_from_chain` False: V1 fills come from the archive, which knows no block, log index or
    exchange, so these are 0, 0 and empty, and trades within a second are ordered by id. True: they
    come from the chain.
    """

    def __init__(self, world: World, *, v1_from_chain: bool = False) -> None:
        self._world = world
        self._v1_from_chain = v1_from_chain
        self._matches = list(world.matches)
        self._candles: dict[str, list[dict]] = {}  # by interval
        self._quotes = set(world.quotes)

    # -- fills and trades --------------------------------------------------------------------------

    @cached_property
    def order_fills(self) -> list[dict]:
        """One row per leg."""
        direct = {m.taker_leg.tx_hash for m in self._matches if m.kind == DIRECT}
        return [
            truth_fills.order_fill(
                leg,
                self._tokens.get(leg.token_id, {}),
                leg.tx_hash in direct,
                self._is_from_archive(leg),
            )
            for match in self._matches
            for leg in match.legs
        ]

    @cached_property
    def trades(self) -> list[dict]:
        """One row per taker order executed, and per direct fill."""
        return [
            truth_fills.trade(
                match,
                self._tokens.get(match.taker_leg.token_id, {}),
                self._is_from_archive(match.taker_leg),
            )
            for match in self._matches
        ]

    def trade_legs(self) -> Iterator[dict]:
        """Every fill with the trade it belongs to."""
        fills = iter(self.order_fills)
        for match in self._matches:
            leg = match.taker_leg
            trade_id = truth_fills.key_of(leg, self._is_from_archive(leg))
            for fill in islice(fills, len(match.legs)):
                yield truth_fills.trade_leg(fill, trade_id)

    def wallet_fills(self) -> Iterator[dict]:
        """Every fill from the side of each wallet with an order or inventory in it."""
        return truth_wallets.wallet_fills(self.order_fills)

    @cached_property
    def wallet_daily(self) -> list[dict]:
        """Volume and cash flow per UTC day and wallet."""
        return truth_wallets.wallet_daily(self.wallet_fills())

    # -- candles -----------------------------------------------------------------------------------

    def candles(self, interval: str) -> list[dict]:
        """Candles of every token, by token and time; `interval` is 1m, 1h or 1d."""
        if interval not in self._candles:
            self._candles[interval] = truth_candles.candles(self._prints, BUCKETS[interval])
        return self._candles[interval]

    @cached_property
    def market_ohlcv_1h(self) -> list[dict]:
        """Hourly candles of every known market, at the price of its outcome 0."""
        prints = truth_candles.market_prints(self._prints, self._tokens)
        candles = truth_candles.candles(prints, BUCKETS["1h"], key="market_id")
        conditions = {row["market_id"]: row["condition_id"] for row in self.outcome_tokens}
        return [row | {"condition_id": conditions[row["market_id"]]} for row in candles]

    def filled_candles(
        self, interval: str, tokens: Collection[str] | None = None
    ) -> Iterator[dict]:
        """Candles without gaps, of every token or of `tokens`."""
        for of_token, buckets in self._filled_spans(interval):
            if tokens is None or of_token[0]["token_id"] in tokens:
                yield from truth_candles.filled(of_token, buckets)

    def filled_sample(self, interval: str, most_rows: int) -> set[str]:
        """Tokens whose gap-filled candles make at most `most_rows`: as many as there can be."""
        sizes = sorted(
            (len(buckets), of_token[0]["token_id"])
            for of_token, buckets in self._filled_spans(interval)
        )
        sample, rows = set(), 0
        for size, token_id in sizes:
            rows += size
            if rows > most_rows:
                break
            sample.add(token_id)
        return sample

    @cached_property
    def market_latest_price(self) -> list[dict]:
        """Price of the last trade of each token that is not dust."""
        latest = {each.key: each for each in self._prints}
        return [
            {"token_id": token_id, "price": each.price, "priced_at": each.at}
            for token_id, each in latest.items()
        ]

    @property
    def market_prices(self) -> list[dict]:
        """Every different quote that the CLOB has handed out, without the times, which are the reader's own."""
        return [quote._asdict() for quote in self._quotes]

    # -- volumes -----------------------------------------------------------------------------------

    @cached_property
    def volume_daily(self) -> list[dict]:
        """Volume per UTC day and token, without dust."""
        return truth_volumes.volume_daily(self.candles("1d"))

    @cached_property
    def market_volume_daily(self) -> list[dict]:
        """Volume per UTC day and market."""
        groups = {token_id: {row["market_id"]} for token_id, row in self._tokens.items()}
        return truth_volumes.grouped_daily(self.volume_daily, groups, "market_id")

    @cached_property
    def event_volume_daily(self) -> list[dict]:
        """Volume per UTC day and event; a market in several counts in each."""
        return truth_volumes.grouped_daily(self.volume_daily, self._events_of_token, "event_id")

    @cached_property
    def tag_volume_daily(self) -> list[dict]:
        """Volume per UTC day and tag; a market counts once, in however many events it has it."""
        return truth_volumes.grouped_daily(self.volume_daily, self._tags_of_token, "tag_slug")

    @cached_property
    def tag_volume_hourly(self) -> list[dict]:
        """Volume per hour and tag; a market counts once, in however many events it has it."""
        hours = truth_volumes.volume_hourly(self.candles("1h"))
        return truth_volumes.grouped(hours, self._tags_of_token, "tag_slug", "hour_at")

    @cached_property
    def event_volume(self) -> list[dict]:
        """Volume of every event, those that never traded included."""
        return truth_volumes.event_volume(
            self.event_rows, self.markets_events, self._priced_trades, self._newest_at
        )

    @cached_property
    def trending_markets(self) -> list[dict]:
        """Markets that traded in the last 24 hourly buckets."""
        return truth_volumes.trending_markets(
            self.market_rows, self._priced_trades, self.market_ohlcv_1h, self._newest_at
        )

    @cached_property
    def unknown_tokens(self) -> list[dict]:
        """Tokens that were traded and have no known market."""
        return truth_volumes.unknown_tokens(self.trades)

    @cached_property
    def position_ids(self) -> list[dict]:
        """Every token that ExchangeV3 has traded, and what its id says."""
        tokens = {fill["token_id"] for fill in self.order_fills if fill["contract_version"] == V3}
        return [position_row(token_id) for token_id in sorted(tokens)]

    # -- Gamma -------------------------------------------------------------------------------------

    @cached_property
    def markets(self) -> list[dict]:
        """Gamma's payload of every market a client can know.

        These are the listed ones, and those it can look up because one of their tokens was traded.
        """
        gamma = self._world.gamma
        traded = {str(match.market_id) for match in self._matches}
        return [
            gamma.full_market(row, with_tags=False)
            for row in gamma.listing("markets")
            if row["id"] not in gamma.unlisted or row["id"] in traded
        ]

    @cached_property
    def events(self) -> list[dict]:
        """Gamma's payload of every event it lists now."""
        gamma = self._world.gamma
        return [gamma.full_event(row) for row in gamma.listing("events")]

    @cached_property
    def market_rows(self) -> list[dict]:
        """The rows of `markets`."""
        return [truth_gamma.market_row(payload) for payload in self.markets]

    @cached_property
    def event_rows(self) -> list[dict]:
        """The rows of `events`."""
        return [truth_gamma.event_row(payload) for payload in self.events]

    @cached_property
    def outcome_tokens(self) -> list[dict]:
        """Tokens of every market in `markets`."""
        return [row for payload in self.markets for row in truth_gamma.token_rows(payload)]

    @cached_property
    def markets_events(self) -> list[dict]:
        """Pairs of listed markets and events."""
        return [
            {"market_id": market_id, "event_id": event_id}
            for event_id, market_ids in self._world.gamma.event_markets.items()
            for market_id in market_ids
        ]

    @cached_property
    def event_tags(self) -> list[dict]:
        """Tags of every event."""
        return truth_gamma.event_tags(self.events)

    @cached_property
    def event_series(self) -> list[dict]:
        """Series of every event that recurs."""
        return truth_gamma.event_series(self.events)

    @cached_property
    def neg_risk_groups(self) -> list[dict]:
        """Groups of markets of which at most one ends with Yes."""
        return truth_gamma.neg_risk_groups(self.markets, self.events)

    # -- in all ------------------------------------------------------------------------------------

    def totals(self) -> dict:
        """Figures to compare a whole load with; amounts are integers in 1e-6 units."""
        by_day: dict[str, int] = defaultdict(int)
        for each in self._prints:
            by_day[iso_date(each.at)] += each.usd
        return {
            "head": self._world.chain.head,
            "now": self._world.now,
            "order_fills": sum(len(match.legs) for match in self._matches),
            "trades": len(self._matches),
            "dust_trades": len(self._matches) - len(self._prints),
            "volume_usd": sum(each.usd for each in self._prints),
            "volume_shares": sum(each.shares for each in self._prints),
            "volume_usd_by_day": dict(sorted(by_day.items())),
            "markets": len(self.markets),
            "events": len(self.events),
            "markets_events": len(self.markets_events),
        }

    # -- what several tables need ------------------------------------------------------------------

    @cached_property
    def _tokens(self) -> dict[str, dict]:
        """Rows of `outcome_tokens` by token."""
        return {row["token_id"]: row for row in self.outcome_tokens}

    @cached_property
    def _events_of_token(self) -> dict[str, set[str]]:
        events_of: dict[str, set[str]] = defaultdict(set)
        for pair in self.markets_events:
            events_of[pair["market_id"]].add(pair["event_id"])
        return {token_id: events_of[row["market_id"]] for token_id, row in self._tokens.items()}

    @cached_property
    def _tags_of_token(self) -> dict[str, set[str]]:
        tags: dict[str, set[str]] = defaultdict(set)
        for row in self.event_tags:
            tags[row["event_id"]].add(row["tag_slug"])
        return {
            token_id: set().union(*(tags[event_id] for event_id in event_ids))
            for token_id, event_ids in self._events_of_token.items()
        }

    @cached_property
    def _priced_trades(self) -> list[dict]:
        return [trade for trade in self.trades if not trade["is_dust"]]

    @cached_property
    def _prints(self) -> list[Print]:
        """Taker legs and direct fills that are not dust, in order of execution."""
        legs = (match.taker_leg for match in self._matches)
        priced = [leg for leg in legs if not is_dust(leg.usd, leg.shares)]
        return [
            Print(
                leg.token_id,
                leg.timestamp,
                exact_price(leg.usd, leg.shares),
                leg.usd,
                leg.shares,
                leg.usd,
            )
            for leg in sorted(priced, key=self._execution_order)
        ]

    @property
    def _newest_at(self) -> int:
        """Time of the newest trade that is not dust."""
        return self._prints[-1].at

    def _filled_spans(self, interval: str) -> Iterator[tuple[list[dict], truth_candles.Buckets]]:
        """The candles of each token, and the buckets that they have once filled."""
        closings = {
            token_id: self._closed_at[row["market_id"]]
            for token_id, row in self._tokens.items()
            if row["market_id"] in self._closed_at
        }
        seconds = BUCKETS[interval]
        for _, of_token in groupby(self.candles(interval), key=lambda row: row["token_id"]):
            candles = list(of_token)
            yield (
                candles,
                truth_candles.filled_buckets(candles, seconds, self._newest_at, closings),
            )

    @cached_property
    def _closed_at(self) -> dict[str, int | None]:
        """When each closed market did, as far as Gamma says."""
        return {row["market_id"]: row["closed_at"] for row in self.market_rows if row["closed"]}

    def _execution_order(self, leg: Fill) -> tuple:
        # Nothing says how the two orders of one second stand to each other: the chain's comes first.
        if self._is_from_archive(leg):
            return (leg.timestamp, True, 0, 0, leg.archive_id)
        return (leg.timestamp, False, leg.block_number, leg.log_index, "")

    def _is_from_archive(self, leg: Fill) -> bool:
        return leg.version == V1 and not self._v1_from_chain
