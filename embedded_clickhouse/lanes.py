"""Which SELECTs run at once, so that a short one is not kept waiting by a hundred long ones.

How long a SELECT will run nobody knows beforehand. So each begins in the first lane, whose turns are
short, and goes on to the next lane when its turn is over: as it runs, if there is room, else it is
stopped and started again there later. A lane's turn is ten times that of the lane before it, so
what is computed twice stays about a tenth. While a lane has room nobody is stopped.

Turns are measured in CPU time, an equal share of the process's for all that run: on a machine that
is busy with other things a short SELECT takes long. Those that only wait go by the clock.

A SELECT leaves its lane when its result begins to be sent: it cannot be started again from there,
and its client sets the pace. Everything here belongs to the event loop.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_REVIEW_S = 0.02
_FIRST_TURN_S, _GROWTH = 0.02, 10  # of CPU
_CLOCK_A_CPU = 30  # seconds by the clock that count as one of CPU
_FIRST_SLOTS_A_CORE, _LATER_SLOTS_A_CORE = 2, 1


class Turn:
    """One SELECT's place. `stop` is called when it has to end its turn; `is_stopped` tells that."""

    def __init__(self, lanes: "Lanes") -> None:
        self._lanes = lanes
        self.lane = 0
        self.started = 0.0  # see Lanes._used
        self.length = _FIRST_TURN_S
        self.stop: Callable[[], None] | None = None
        self.is_stopped = False
        self.granted: asyncio.Future[None] | None = None

    async def again(self) -> None:
        """Wait for the next turn, after the SELECT was stopped."""
        self.leave()
        self.stop, self.is_stopped = None, False
        self.lane, self.length = self._lanes.after(self)
        await self._lanes.enter(self)

    def leave(self) -> None:
        """Make room: the SELECT has ended, or goes on without a lane."""
        self.stop = None
        self._lanes.leave(self)


@dataclass
class _Lane:
    slots: int
    running: set[Turn] = field(default_factory=set)
    waiting: deque[Turn] = field(default_factory=deque)
    takes_newest: bool = False

    def take(self) -> Turn:
        """Who runs next, in turns from both ends of those who wait.

        A short SELECT that comes after many long ones gets its answer, and none waits for ever.
        """
        self.takes_newest = not self.takes_newest
        turn = self.waiting.pop() if self.takes_newest else self.waiting.popleft()
        self.running.add(turn)
        return turn

    def has_room(self) -> bool:
        return len(self.running) < self.slots

    def wants_room(self, *, is_last: bool) -> bool:
        """Whether somebody has to be stopped; but for the last lane one place is kept free."""
        leaving = sum(turn.is_stopped for turn in self.running)
        wanted = len(self.waiting) if is_last else max(len(self.waiting), 1)
        return not self.has_room() and leaving < wanted


class Lanes:
    """The lanes of one engine.

    Args:
        cores: how many the engine has; by default those of the machine.
    """

    def __init__(self, cores: int | None = None) -> None:
        cores = max(cores or os.cpu_count() or 1, 2)
        slots = [_FIRST_SLOTS_A_CORE, *[_LATER_SLOTS_A_CORE] * 2]
        self._lanes = [_Lane(each * cores) for each in slots]
        self._review_handle: asyncio.TimerHandle | None = None
        self._used = 0.0  # seconds of CPU that each SELECT got which ran from the start
        self._cpu, self._clock = time.process_time(), time.monotonic()

    async def begin(self) -> Turn:
        """Wait for a place in the first lane."""
        turn = Turn(self)
        await self.enter(turn)
        return turn

    async def enter(self, turn: Turn) -> None:
        """Wait for a place in the turn's lane."""
        turn.granted = asyncio.get_running_loop().create_future()
        self._lanes[turn.lane].waiting.append(turn)
        self._review()
        try:
            await turn.granted
        except asyncio.CancelledError:
            self.leave(turn)
            raise

    def leave(self, turn: Turn) -> None:
        """Give the turn's place to others; nothing happens if it has none."""
        lane = self._lanes[turn.lane]
        if turn in lane.waiting:
            lane.waiting.remove(turn)
        if turn in lane.running:
            lane.running.remove(turn)
            self._review()

    def after(self, turn: Turn) -> tuple[int, float]:
        """The lane and the length of the turn that follows on this one."""
        return min(turn.lane + 1, len(self._lanes) - 1), turn.length * _GROWTH

    def _review(self) -> None:
        """Fill free places, move or stop those whose turn is over, and come back while any run."""
        self._count()
        for number in reversed(range(len(self._lanes))):
            self._fill(number)
        for number, lane in enumerate(self._lanes):
            overdue = [turn for turn in lane.running if self._used - turn.started > turn.length]
            for turn in sorted(overdue, key=lambda turn: turn.started):
                self._end_turn(turn, number)
        if self._review_handle is None and any(lane.running for lane in self._lanes):
            loop = asyncio.get_running_loop()
            self._review_handle = loop.call_later(_REVIEW_S, self._review_later)

    def _count(self) -> None:
        cpu, clock = time.process_time(), time.monotonic()
        running = sum(len(lane.running) for lane in self._lanes)
        share = (cpu - self._cpu) / max(running, 1)
        self._used += max(share, (clock - self._clock) / _CLOCK_A_CPU)
        self._cpu, self._clock = cpu, clock

    def _review_later(self) -> None:
        self._review_handle = None
        self._review()

    def _fill(self, number: int) -> None:
        lane = self._lanes[number]
        while lane.waiting and lane.has_room():
            turn = lane.take()
            turn.started = self._used
            if not turn.granted.done():
                turn.granted.set_result(None)

    def _end_turn(self, turn: Turn, number: int) -> None:
        if turn.is_stopped:
            return
        lane = self._lanes[number]
        following, length = self.after(turn)
        if following != number and self._lanes[following].has_room():
            lane.running.remove(turn)
            self._lanes[following].running.add(turn)
            turn.lane, turn.length, turn.started = following, length, self._used
            self._fill(number)
        elif turn.stop is not None and lane.wants_room(is_last=following == number):
            turn.is_stopped = True
            turn.stop()
