"""Markets and events of the simulated world, and the rules by which new ones appear.

State only: who trades in which market is decided by `matches`, how a market looks in Gamma by
`payloads`. All times are unix seconds, all amounts integers in 1e-6 units. The module is longer
than 300 lines because markets and events are made together: each names the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from sandbox.positions import position_id

HOUR, DAY = 3600, 86_400

# Slug -> label and id of the tags in use.
TAGS = {
    "politics": ("Politics", 2),
    "elections": ("Elections", 144),
    "world-elections": ("World Elections", 101206),
    "crypto": ("Crypto", 21),
    "bitcoin": ("Bitcoin", 235),
    "up-or-down": ("Up or Down", 102127),
    "recurring": ("Recurring", 101757),
    "sports": ("Sports", 1),
    "esports": ("Esports", 64),
    "tech": ("Tech", 1401),
}

_SUBJECTS = ("Bitcoin", "Ethereum", "the Fed", "OpenAI", "France", "the Senate", "SpaceX", "Japan")
_VERBS = ("reach a new high", "announce a merger", "cut rates", "miss its target", "call a vote")
_TEAMS = ("FaZe", "illwill", "Astralis", "Liquid", "Spirit", "MOUZ", "NAVI", "Vitality")
_NAMES = ("Ada Park", "Ben Ortiz", "Cleo Strand", "Dev Mehta", "Eva Lind", "Femi Ade", "Gus Holt")


@dataclass(slots=True)
class Market:
    """One market with two outcomes; `price` is that of outcome 0, in ticks of 1/`ticks` dollar."""

    id: int
    slug: str
    question: str
    outcomes: tuple[str, str]
    token_ids: tuple[str, str]
    condition_id: str
    question_id: str
    kind: str  # standard, crypto, sports, legacy or combo
    created_at: int
    created_micros: int  # fraction of created_at
    ends_at: int
    closes_at: int | None  # None: stays open
    visible_from: int  # when Gamma starts to return it
    ticks: int
    price: int
    fee_bps_v1: int
    fee_bps_v2: int
    popularity: float
    neg_risk_id: str = ""
    group_title: str = ""
    group_threshold: int = 0
    listed: bool = True  # False: never in a list, only found by its ids
    lacks_token_ids: bool = False
    position_ids: tuple[str, str] | None = None  # by which ExchangeV3 trades its outcomes
    moves_at: int | None = None  # when its trading goes there, created_at if it began there
    has_moved: bool = False  # and whether Gamma says so: protocol version v2
    resolution: tuple[str, str] = ("1", "0")  # prices that Gamma shows once it is closed
    uma_status: str = "resolved"  # and what it says of the oracle; empty: nothing
    lacks_closed_time: bool = False
    volume: int = 0
    last_trade_at: int | None = None
    closed_at: int | None = None
    # Resting maker orders by (version, outcome index, side): one order is filled by several
    # matches.
    resting: dict = field(default_factory=dict)

    def is_on_v3(self, at: int) -> bool:
        """Whether a match at this time is executed by ExchangeV3."""
        return self.moves_at is not None and self.moves_at <= at

    @property
    def neg_risk(self) -> bool:
        """Whether it trades on the neg-risk exchange."""
        return bool(self.neg_risk_id)


@dataclass(slots=True)
class Event:
    """A group of markets as the site shows it."""

    id: int
    slug: str
    title: str
    kind: str
    market_ids: list[int]
    tags: tuple[str, ...]
    created_at: int
    created_micros: int
    ends_at: int
    series: str = ""  # slug of the series of a recurring event
    neg_risk_id: str = ""


def hex_id(rng: Random, bits: int = 256) -> str:
    """A random hash or address, lower-case hex with 0x."""
    return f"0x{rng.getrandbits(bits):0{bits // 4}x}"


class Catalog:
    """All markets and events by id, in order of creation. Ids grow with gaps, as Gamma's do."""

    def __init__(self) -> None:
        self.markets: dict[int, Market] = {}
        self.events: dict[int, Event] = {}
        self._event_ids: dict[int, list[int]] = {}  # by market
        self._next_market_id = 12
        self._next_event_id = 7

    def add_event(self, rng: Random, kind: str, born: int, lifetime: int | None) -> list[Market]:
        """Create an event of `kind` with its markets, born at `born`; returns the markets.

        `kind`: single, group (neg risk), series ("up or down"), sports, legacy (closed, from before
        the order book), or combo (several markets in one, which Gamma does not list). `lifetime` in
        seconds until the close; None leaves the markets open.
        """
        self._next_event_id += rng.randint(1, 4)
        ends = born + (lifetime if lifetime is not None else rng.randint(30, 400) * DAY)
        event = Event(
            id=self._next_event_id,
            slug="",
            title="",
            kind=kind,
            market_ids=[],
            tags=_TAGS_OF[kind],
            created_at=born,
            created_micros=rng.randrange(1_000_000),
            ends_at=ends,
        )
        _name_event(rng, event)
        closes = None if lifetime is None else ends + rng.randint(1, 60)
        markets = [
            self._add_market(rng, event, title, outcomes, index, closes)
            for index, (title, outcomes) in enumerate(_outcome_sets(rng, event))
        ]
        if kind == "group":
            _agree_on_one_winner(event, markets)
        self.events[event.id] = event
        for market in markets:
            self.relate(market, event)
        return markets

    def relate(self, market: Market, event: Event) -> None:
        """Put a market into an event; Gamma's relation allows it to be in several."""
        event.market_ids.append(market.id)
        self._event_ids.setdefault(market.id, []).append(event.id)

    def put_on_v3(self, event: Event, moves_at: int) -> None:
        """Let the markets of an event trade on ExchangeV3 from `moves_at` on, by position ids.

        The markets of a neg-risk event share all but condition and outcome; each other has a hash of its own.
        """
        module = {"group": 2, "combo": 3}.get(event.kind, 1)
        markets = [self.markets[market_id] for market_id in event.market_ids]
        for index, market in enumerate(markets):
            source = markets[0] if module == 2 else market
            market.moves_at = moves_at
            market.position_ids = tuple(
                position_id(
                    module,
                    int(source.condition_id[2:34], 16),
                    arity=len(markets) if module == 2 else 1,
                    condition_index=index if module == 2 else 0,
                    outcome_index=outcome,
                )
                for outcome in (0, 1)
            )

    def events_of(self, market_id: int) -> list[Event]:
        """Events that hold a market."""
        return [self.events[event_id] for event_id in self._event_ids[market_id]]

    def _add_market(
        self,
        rng: Random,
        event: Event,
        title: str,
        outcomes: tuple[str, str],
        index: int,
        closes: int | None,
    ) -> Market:
        self._next_market_id += rng.randint(1, 5)
        ticks = rng.choice((100, 100, 1000))
        market = Market(
            id=self._next_market_id,
            slug=event.slug if index == 0 else f"{event.slug}-{index}",
            question=title,
            outcomes=outcomes,
            token_ids=(_token_id(rng), _token_id(rng)),
            condition_id=hex_id(rng),
            question_id=hex_id(rng),
            kind=_MARKET_KINDS[event.kind],
            created_at=event.created_at,
            created_micros=rng.randrange(1_000_000),
            ends_at=event.ends_at,
            closes_at=closes,
            visible_from=event.created_at,
            ticks=ticks,
            price=rng.randint(ticks // 20, ticks - ticks // 20),
            fee_bps_v1=1000 if event.kind == "series" else 0,
            fee_bps_v2={"series": 700, "sports": 500}.get(event.kind, 0),
            popularity=rng.paretovariate(1.1),
            neg_risk_id=event.neg_risk_id,
            group_title=title.split("?")[0] if event.kind in ("group", "sports") else "",
            group_threshold=index,
            resolution=rng.choice((("1", "0"), ("0", "1"), ("1", "0"), ("0", "1"), ("0.5", "0.5"))),
        )
        market.uma_status, prices = _ENDINGS[market.id % len(_ENDINGS)]
        market.resolution = prices or market.resolution
        if event.kind == "legacy":
            market.lacks_token_ids = len(self.markets) % 2 == 0  # every other one
            market.resolution = _LEGACY_PRICES[len(self.markets) % len(_LEGACY_PRICES)]
            market.uma_status = ""
        self.markets[market.id] = market
        return market


# What Gamma says of a closed market, by id: the oracle's status, and prices where they are not
# those of the resolution. Most are resolved; a result may be proposed or disputed still, final
# without the oracle, or not in the prices yet.
_ENDINGS = (
    *[("resolved", None)] * 8,
    ("proposed", None),
    ("disputed", None),
    ("", None),
    ("proposed", ("0.9995", "0.0005")),
)
# Markets from before the order book stand at zero, where their pool stood at the end, or near its
# limits, which is how the earliest say who won.
_LEGACY_PRICES = (
    ("0.5843311669077693", "0.4156688330922307"),
    ("0.0000004113679809846114013590098187297978", "0.9999995886320190153885986409901813"),
    ("0", "0"),
)

_MARKET_KINDS = {
    "single": "standard",
    "group": "standard",
    "series": "crypto",
    "sports": "sports",
    "legacy": "legacy",
    "combo": "combo",
}
_TAGS_OF = {
    "single": ("tech",),
    "group": ("politics", "elections", "world-elections"),
    "series": ("crypto", "bitcoin", "up-or-down", "recurring"),
    "sports": ("sports", "esports"),
    "legacy": ("crypto",),
    "combo": (),
}


def _agree_on_one_winner(event: Event, markets: list[Market]) -> None:
    """Let one market of a group end with Yes, the others with No; at times one drops out early."""
    markets[0].resolution = ("1", "0")
    for loser in markets[1:]:
        loser.resolution = ("0", "1")
    if event.id % 3 == 0 and markets[-1].closes_at is None:
        markets[-1].closes_at = event.created_at + 6 * HOUR


def _token_id(rng: Random) -> str:
    """An ERC-1155 position id: up to 78 decimal digits."""
    return str(rng.getrandbits(256))


def _name_event(rng: Random, event: Event) -> None:
    if event.kind == "series":
        minutes = rng.choice((5, 60))
        event.series = "btc-up-or-down-5m" if minutes == 5 else "btc-up-or-down-hourly"
        event.title = f"Bitcoin Up or Down - window {event.ends_at // (minutes * 60)}"
        event.slug = f"btc-updown-{minutes}m-{event.ends_at}-{event.id}"
    elif event.kind == "group":
        event.title = f"Presidential nominee {2026 + event.id % 6} ({event.id})"
        event.slug = f"presidential-nominee-{event.id}"
        event.neg_risk_id = hex_id(rng)[:-2] + "00"
    elif event.kind == "sports":
        home, away = rng.sample(_TEAMS, 2)
        event.title = f"Counter-Strike: {home} vs {away} (BO3)"
        event.slug = f"cs2-{home}-{away}-{event.id}".lower()
    else:
        event.title = f"Will {rng.choice(_SUBJECTS)} {rng.choice(_VERBS)}? ({event.id})"
        event.slug = f"will-it-happen-{event.id}"


def _outcome_sets(rng: Random, event: Event) -> Iterator[tuple[str, tuple[str, str]]]:
    """Question and outcomes of each market of an event."""
    if event.kind == "series":
        yield event.title, ("Up", "Down")
    elif event.kind == "group":
        for name in rng.sample(_NAMES, rng.randint(3, len(_NAMES))):
            yield f"{name}? {event.title}", ("Yes", "No")
    elif event.kind == "sports":
        _, home, away = event.title.replace(" (BO3)", "").replace(" vs ", ": ").split(": ")
        yield event.title, (home, away)
        yield f"Map Handicap: {home} (-1.5) vs {away} (+1.5)", (home, away)
        yield f'"{home}" total maps: O/U 2.5', ("Over", "Under")
    elif event.kind == "legacy":
        yield event.title, ("Long", "Short")
    else:
        yield event.title, ("Yes", "No")
