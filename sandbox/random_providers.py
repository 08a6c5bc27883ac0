"""Draws JSON-RPC providers with any mix of limits, refusals and states of their nodes, by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from sandbox import refusals
from sandbox.providers import (
    EMPTY,
    FUTURE,
    HEALTHY,
    NONE,
    OLD,
    RIGHT,
    ZERO,
    NodeState,
    Provider,
)
from sandbox.refusals import Refusal, scrambled


def random_provider(
    rng: Random, *, largest_block: int = 100, reach: int = 50, lies: bool = False
) -> Provider:
    """Any mix of limits, refusals and states.

    Args:
        largest_block: logs in the fullest block, which must fit one answer.
        reach: blocks by which a node may be behind or on a fork, at most.
        lies: whether nodes may leave out logs of any block, without a reason that shows.
    """

    def one_of(choices: Sequence[Refusal]) -> Refusal:
        return scrambled(rng, rng.choice(choices))

    batch = rng.choice((None, None, None, 1, 1, 2, 3, 3, 5, 10, 20, 100))
    blocks = rng.choice((None, None, 10_000, 3500, 1000, 500, 100, 50, 20, 10, 10, 3, 1))
    results = rng.choice((None, None, 10_000, 1000, 200, 100))
    if results is not None:
        results = max(results, largest_block)
    sick = rng.random() < 0.6
    count = rng.choice((1, 1, 2, 2, 3, 3)) if sick else rng.choice((1, 1, 3))
    nodes = tuple(_random_state(rng, reach, lies) if sick else HEALTHY for _ in range(count))
    busy = rng.choice((0.0, 0.0, 0.0, 0.02, 0.1, 0.25))
    kinds = rng.choice((refusals.TRANSIENT, refusals.RATE, refusals.TRANSIENT + refusals.RATE))
    return Provider(
        seed=rng.randrange(1 << 30),
        nodes=nodes,
        splits=rng.random() < 0.7,
        heals_after=rng.choice((10, 30, 100, 300, None)) if sick else 0,
        batch=batch,
        batch_refusal=one_of(refusals.NO_BATCH if batch == 1 else refusals.BATCH),
        blocks=blocks,
        blocks_refusal=one_of(refusals.RANGE),
        results=results,
        results_refusal=one_of(refusals.RESULTS),
        timestamps=rng.choice((RIGHT, RIGHT, RIGHT, NONE, NONE, ZERO, OLD, FUTURE)),
        removed=rng.random() < 0.1,
        by_hash=one_of(refusals.NO_BLOCK_HASH) if rng.random() < 0.2 else None,
        receipts=rng.choice((None, None, None, "null", one_of(refusals.UNSUPPORTED))),
        beyond=one_of(refusals.BEYOND_HEAD) if rng.random() < 0.4 else None,
        saturated_bloom=rng.random() < 0.5,
        busy=busy,
        busy_call=rng.choice((0.0, 0.0, 0.0, busy)),
        refusals=tuple(rng.sample(kinds, rng.choice((1, 3)))),
    )


def _random_state(rng: Random, reach: int, lies: bool) -> NodeState:
    state = HEALTHY
    if rng.random() < 0.5:
        state = replace(state, lag=rng.randint(1, reach))
    if rng.random() < 0.15:
        state = replace(state, log_lag=rng.randint(1, reach))
    if rng.random() < 0.25:
        how = EMPTY if rng.random() < 0.6 else scrambled(rng, rng.choice(refusals.PRUNED))
        state = replace(state, keeps=rng.choice((10, 100, 500)), pruned=how)
    if rng.random() < 0.15:
        state = replace(state, fork=rng.randint(1, reach))
    if lies and rng.random() < 0.3:
        state = replace(state, drops=rng.choice((0.05, 0.3, 1.0)))
    return state
