"""A bad network: a run behind a proxy that loses, delays, repeats and cuts what the pipeline and ClickHouse say."""

from __future__ import annotations

import time

from chaos.harness import REACH_TIMEOUT_S, Harness
from chaos.processes import Broken, Pipeline
from chaos.schedule import BadNetwork


def make(harness: Harness, network: BadNetwork) -> None:
    """Run a loop behind the proxy until all faults have happened and a cycle was finished since.

    Raises:
        Broken: a process did what it never should, or the faults do not come to happen.
    """
    proxy = harness.proxy
    before = proxy.done.copy()
    proxy.arm(network.faults)

    def start() -> Pipeline:
        return harness.start_at_the_head("loop", clickhouse_port=proxy.port)

    pipeline, deadline = start(), time.monotonic() + REACH_TIMEOUT_S
    while proxy.left:
        pipeline = harness.wait_for_cycles(pipeline, 1, start, may_lose_lock=True)
        if proxy.left and time.monotonic() > deadline:
            raise Broken(f"{proxy.left} faults of the proxy do not happen: {pipeline.said()}")
    pipeline = harness.wait_for_cycles(pipeline, 1, start, may_lose_lock=True)
    pipeline.stop()
    harness.look_for_tracebacks(pipeline)
    harness.tally.faults += proxy.done - before
    if not proxy.is_quiet():
        raise Broken("a copy of a request is not answered")
