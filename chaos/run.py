"""A run: event after event over a simulated Polymarket that moves on, and then the pipeline catches up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from chaos import clocks, kills, network, pauses
from chaos.harness import Harness
from chaos.schedule import BadNetwork, Event, Kill, Pause, WrongClock

MAKERS: dict[type, Callable[[Harness, Event], None]] = {
    Kill: kills.make,
    Pause: pauses.make,
    WrongClock: clocks.make,
    BadNetwork: network.make,
}


def run(
    harness: Harness,
    events: Sequence[Event],
    *,
    on_event: Callable[[int], None],
    deadline: float,
) -> None:
    """Let events happen until all have or the `deadline` (of the monotonic clock) is over, and catch up.

    Args:
        on_event: told after each how many have happened.

    Raises:
        Broken: a process did what it never should.
    """
    harness.once()
    with harness.moving_on():
        for number, event in enumerate(events, start=1):
            if time.monotonic() > deadline:
                break
            MAKERS[type(event)](harness, event)
            on_event(number)
    harness.catch_up()
