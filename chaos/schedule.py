"""Which kills a run makes, in which order: a pure function of the seed.

Real time decides what a process is doing at a moment, so two runs of one seed make the same kills over the same world
but do not die at the same instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

from chaos.seams import SEAMS

AT_SEAMS = 0.6  # share of the kills; the others come at a random time
LOSES_FOLDER = 0.1  # share of the pipeline's deaths after which dlt's working folder is gone
LONGEST_MS = 3000

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

    @property
    def where(self) -> str:
        """The seam, or `random time`."""
        return self.seam or "random time"


def schedule(seed: int, *, pipeline: int, database: int, both: int) -> list[Kill]:
    """That many kills of each kind, in random order; seams come round before one is used again."""
    rng = Random(f"{seed}:kills")
    victims: list[Victim] = ["pipeline"] * pipeline + ["database"] * database + ["both"] * both
    rng.shuffle(victims)
    decks = {victim: _deck(rng) for victim in ("pipeline", "database", "both")}
    return [_kill(rng, victim, decks[victim]) for victim in victims]


def _deck(rng: Random) -> Iterator[str]:
    """Seams without end, in shuffled rounds."""
    for turn in count():
        names = [name for name, seam in SEAMS.items() if turn % seam.every == 0]
        yield from rng.sample(names, len(names))


def _kill(rng: Random, victim: Victim, deck: Iterator[str]) -> Kill:
    loses_folder = victim != "database" and rng.random() < LOSES_FOLDER
    if rng.random() >= AT_SEAMS:
        return Kill(victim, "", 0, rng.randint(0, LONGEST_MS), loses_folder)
    name = next(deck)
    seam = SEAMS[name]
    return Kill(
        victim, name, rng.randint(1, seam.calls), rng.randint(0, seam.longest_ms), loses_folder
    )
