"""What happens in a run, in which order: a pure function of the seed.

Real time decides what a process is doing at a moment, so two runs of one seed make the same plan over the same world
but do not strike at the same instruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

from chaos.seams import MEETINGS, PAUSES, PLACES, SEAMS, SECOND_PAUSES

AT_SEAMS = 0.6  # share of the kills; the others come at a random time
LOSES_FOLDER = 0.1  # share of the pipeline's deaths after which dlt's working folder is gone
LONGEST_MS = 3000

PAUSES_AT_SEAMS, MEETING_SHARE, REORG_SHARE, ALONE_SHARE = 0.8, 0.6, 0.6, 0.2
AGAIN_SHARE = 0.5  # of the pauses with a meeting
IN_BACKFILL = 0.15  # share of the pauses while a backfill loads or settles
DEEPEST_REORG = 12
HOME, AWAY = "dlt", "dlt-elsewhere"  # working folders of dlt, of two machines
MOST_CALLS = 12  # of a seam before a pause, so that it comes soon

LONGEST_JUMP_S = 12 * 3600.0
JUMPS_WITHIN = 0.7  # share of the runs with a wrong clock in which it jumps

FAULTS_TOGETHER = 8
FAULTS_ON_INSERTS = 0.5
LONGEST_GAP, LONGEST_INSERT_GAP = 150, 12  # requests between two faults

Victim = Literal["pipeline", "database", "both"]


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        victim: who dies.
        seam: where, a key of SEAMS; empty: at a random time.
        nth: at which call of the seam's function.
        delay_ms: how long after the call began (a seam of the `during` kind), or after the pipeline's first request
            to an upstream (a random time).
        loses_folder: dlt's working folder is gone afterwards, as that of a container without a volume.
    """

    victim: Victim
    seam: str
    nth: int
    delay_ms: int
    loses_folder: bool

    def __str__(self) -> str:
        return f"{self.victim}: {self.where}"

    @property
    def where(self) -> str:
        """The seam, or `random time`."""
        return self.seam or "random time"


@dataclass(frozen=True)
class Pause:
    """One run that is stopped for longer than its lock lives, and goes on when it has a successor.

    Attributes:
        verb: what the run is: loop, once or backfill.
        seam, nth, delay_ms: where it is stopped, as of a `Kill`.
        reorg: blocks that are replaced right after it was stopped; 0: none.
        folder, successors_folder: working folders of dlt; two of them as on two machines.
        meeting, meeting_nth: where the successor is held for a moment when the first goes on, and at which call after
            its first cycle; empty: wherever it is.
        again: where the first is stopped a second time while it goes on, until the successor has finished a cycle;
            empty: it is not.
        alone: the successor has ended before the first goes on.
    """

    verb: str
    seam: str
    nth: int
    delay_ms: int
    reorg: int
    folder: str
    successors_folder: str
    meeting: str
    meeting_nth: int
    again: str = ""
    alone: bool = False

    def __str__(self) -> str:
        beside = "alone" if self.alone else f"beside: {self.meeting or 'random time'}"
        again = f", again: {self.again}" if self.again else ""
        return f"pause of {self.verb}: {self.where}, {beside}{again}"

    @property
    def where(self) -> str:
        """The seam, or `random time`."""
        return self.seam or "random time"


@dataclass(frozen=True)
class WrongClock:
    """One run whose machine has a wrong clock, or one that jumps; ClickHouse's is right.

    Attributes:
        ahead_s: how far its clock is ahead when it starts; negative: behind.
        jump_s: how far the clock is put forward while it runs; negative: back; 0: it is not.
        seam, nth: where the clock jumps, at which call; empty: at a random time, `delay_ms` after the start.
        delay_ms: as of a `Kill`.
    """

    ahead_s: float
    jump_s: float
    seam: str
    nth: int
    delay_ms: int

    def __str__(self) -> str:
        then = f", then {self.jump_s:+.0f} s at {self.seam or 'random time'}" if self.jump_s else ""
        return f"clock: {self.ahead_s:+.0f} s{then}"


FaultKind = Literal[
    "request lost", "answer lost", "request reset", "answer reset", "delayed", "repeated",
    "repeated at once", "cut in the headers", "cut in the body",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = FaultKind.__args__


@dataclass(frozen=True)
class Fault:
    """What a proxy between the pipeline and ClickHouse does to one request; `chaos/proxy.py` explains the kinds.

    Attributes:
        inserts_only: it happens to a statement that inserts.
        gap: which of those requests it is, counted from the fault before it.
        delay_ms: of `delayed` and `repeated`: how long.
        share: of `cut …`: how much of that part gets through, from 0 to 1.
        twice: it happens again when the client repeats that request by itself.
    """

    kind: FaultKind
    inserts_only: bool
    gap: int
    delay_ms: int = 0
    share: float = 0.0
    twice: bool = False


@dataclass(frozen=True)
class BadNetwork:
    """One run behind a proxy that does this to its requests, in this order."""

    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"proxy: {', '.join(fault.kind for fault in self.faults)}"


Event = Kill | Pause | WrongClock | BadNetwork


def schedule(
    seed: int,
    *,
    pipeline: int = 0,
    database: int = 0,
    both: int = 0,
    pauses: int = 0,
    clocks: int = 0,
    faults: int = 0,
) -> list[Event]:
    """That many events of each kind, in random order; seams come round before one is used again.

    Args:
        faults: faults of the proxy; several of them are one event.
    """
    events: list[Event] = [
        *_kills(seed, pipeline, database, both),
        *_pauses(Random(f"{seed}:pauses"), pauses),
        *_clocks(Random(f"{seed}:clocks"), clocks),
        *_networks(Random(f"{seed}:network"), faults),
    ]
    Random(f"{seed}:order").shuffle(events)
    return events


def _kills(seed: int, pipeline: int, database: int, both: int) -> list[Kill]:
    rng = Random(f"{seed}:kills")
    victims: list[Victim] = ["pipeline"] * pipeline + ["database"] * database + ["both"] * both
    rng.shuffle(victims)
    decks = {victim: _seams(rng) for victim in ("pipeline", "database", "both")}
    return [_kill(rng, victim, decks[victim]) for victim in victims]


def _seams(rng: Random) -> Iterator[str]:
    """Seams without end, in shuffled rounds."""
    for turn in count():
        yield from _shuffled(rng, [name for name, seam in SEAMS.items() if turn % seam.every == 0])


def _rounds(rng: Random, names: Sequence[str]) -> Iterator[str]:
    """Names without end, in shuffled rounds."""
    while True:
        yield from _shuffled(rng, names)


def _shuffled(rng: Random, names: Sequence[str]) -> list[str]:
    return rng.sample(names, len(names))


def _kill(rng: Random, victim: Victim, deck: Iterator[str]) -> Kill:
    loses_folder = victim != "database" and rng.random() < LOSES_FOLDER
    if rng.random() >= AT_SEAMS:
        return Kill(victim, "", 0, rng.randint(0, LONGEST_MS), loses_folder)
    name = next(deck)
    seam = SEAMS[name]
    return Kill(
        victim, name, rng.randint(1, seam.calls), rng.randint(0, seam.longest_ms), loses_folder
    )


def _pauses(rng: Random, number: int) -> Iterator[Pause]:
    places, meetings = _rounds(rng, PAUSES), _rounds(rng, MEETINGS)
    for _ in range(number):
        seam = next(places) if rng.random() < PAUSES_AT_SEAMS else ""
        place = PLACES[seam] if seam else None
        verb = place.verb if place else "loop"
        if verb == "loop" and rng.random() < IN_BACKFILL:
            verb = "backfill"
        meeting = next(meetings) if rng.random() < MEETING_SHARE else ""
        again = rng.choice(SECOND_PAUSES) if rng.random() < AGAIN_SHARE else ""
        folder, other = rng.sample((HOME, AWAY), 2)
        yield Pause(
            verb=verb,
            seam=seam,
            nth=rng.randint(1, min(place.calls, MOST_CALLS)) if place else 0,
            delay_ms=rng.randint(0, place.longest_ms if place else LONGEST_MS),
            reorg=rng.randint(1, DEEPEST_REORG) if rng.random() < REORG_SHARE else 0,
            folder=folder,
            successors_folder=rng.choice((folder, other)),
            meeting=meeting,
            meeting_nth=rng.randint(1, min(PLACES[meeting].calls, 4)) if meeting else 0,
            again=again if seam and meeting else "",
            alone=not meeting and rng.random() < ALONE_SHARE / (1 - MEETING_SHARE),
        )


def _clocks(rng: Random, number: int) -> Iterator[WrongClock]:
    places = _rounds(
        rng, [name for name, seam in SEAMS.items() if seam.verb == "loop" and not seam.rebuilds]
    )
    for _ in range(number):
        ahead_s, jump_s, seam = _offset(rng), 0.0, ""
        if rng.random() < JUMPS_WITHIN:
            ahead_s = rng.choice((0.0, ahead_s))
            jump_s = rng.choice((-ahead_s, _offset(rng))) if ahead_s else _offset(rng)
            seam = next(places) if rng.random() < AT_SEAMS else ""
        nth = rng.randint(1, min(SEAMS[seam].calls, MOST_CALLS)) if seam else 0
        yield WrongClock(ahead_s, jump_s, seam, nth, rng.randint(1000, 1000 + 2 * LONGEST_MS))


def _offset(rng: Random) -> float:
    """Seconds ahead or behind: as often some seconds as some minutes or hours."""
    return rng.choice((-1, 1)) * round(LONGEST_JUMP_S ** rng.uniform(0.1, 1), 1)


def _networks(rng: Random, number: int) -> Iterator[BadNetwork]:
    kinds = _rounds(rng, FAULT_KINDS)
    faults = [_fault(rng, next(kinds)) for _ in range(number)]
    for first in range(0, number, FAULTS_TOGETHER):
        yield BadNetwork(tuple(faults[first : first + FAULTS_TOGETHER]))


def _fault(rng: Random, kind: FaultKind) -> Fault:
    # The answer to an insert has no body that could be cut.
    inserts_only = kind != "cut in the body" and rng.random() < FAULTS_ON_INSERTS
    gap = rng.randint(1, LONGEST_INSERT_GAP if inserts_only else LONGEST_GAP)
    return Fault(
        kind, inserts_only, gap, rng.randint(200, LONGEST_MS), rng.random(), rng.random() < 0.5
    )
