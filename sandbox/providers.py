"""JSON-RPC providers as they are met: limits, refusals, and up to three nodes in different states behind one URL.

A `Provider` is data: what one endpoint allows, how it says no, and in which state its nodes are. An `Endpoint`
serves it over a chain. `random_providers` draws any mix of all of it, by a seed, and `describe` prints it in one line,
so that a test that fails names what it met.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from sandbox import refusals
from sandbox.blocks import ChainView
from sandbox.polygon import Node, NodeLimits, RpcError
from sandbox.refusals import Refusal
from sandbox.views import Forked, UpTo
from sandbox.wire import Answer, Request

RIGHT, NONE, ZERO, OLD, FUTURE = "right", "none", "zero", "old", "future"  # blockTimestamp of logs
EMPTY = "empty"  # how a node answers for logs that it has no more
_WRONG_BY = 400 * 86_400  # seconds by which timestamps are off
_READS_LOGS = ("eth_getLogs", "eth_getBlockReceipts", "eth_getTransactionReceipt")


@dataclass(frozen=True)
class NodeState:
    """The state of one node.

    Attributes:
        lag: blocks by which its head is behind.
        log_lag: newest blocks that it serves without their logs, because these are not indexed yet.
        keeps: blocks for which it has logs; of older ones it has the headers only. None is all.
        pruned: how it answers for older ones: `EMPTY`, or a refusal.
        fork: newest blocks of it that are on another chain.
        drops: share of blocks without logs in `eth_getLogs` of a range, although the node has them.
    """

    lag: int = 0
    log_lag: int = 0
    keeps: int | None = None
    pruned: Refusal | str = EMPTY
    fork: int = 0
    drops: float = 0.0


HEALTHY = NodeState()


@dataclass(frozen=True)
class Provider:
    """What one endpoint does.

    Attributes:
        seed: of what it does at random.
        nodes: behind its URL; a call goes to any of them.
        splits: whether the calls of a batch go to different nodes.
        heals_after: requests after which all nodes are healthy; None is never.
        batch: calls in one request at most; 1 is single calls only, None is any number.
        blocks: blocks in one `eth_getLogs` at most.
        results: logs in one answer at most.
        timestamps: what logs carry as `blockTimestamp`.
        removed: whether answers hold logs that have left the chain, marked so.
        by_hash: how logs by block hash are refused; None where they are served.
        receipts: how receipts are refused, or "null"; None where they are served.
        beyond: how a range beyond the head is refused; None where the answer ends there without a word.
        busy, rate, transient: how often a request is refused for load, and how; how often one call of a batch is.
    """

    seed: int = 0
    nodes: tuple[NodeState, ...] = (HEALTHY,)
    splits: bool = True
    heals_after: int | None = 0
    batch: int | None = None
    batch_refusal: Refusal = refusals.BATCH[0]
    blocks: int | None = None
    blocks_refusal: Refusal = refusals.RANGE[0]
    results: int | None = None
    results_refusal: Refusal = refusals.RESULTS[0]
    timestamps: str = RIGHT
    removed: bool = False
    by_hash: Refusal | None = None
    receipts: Refusal | str | None = None
    beyond: Refusal | None = None
    saturated_bloom: bool = False
    busy: float = 0.0
    busy_call: float = 0.0
    refusals: tuple[Refusal, ...] = field(default=refusals.TRANSIENT[:1])

    @property
    def is_sick(self) -> bool:
        """Whether any node is in a state other than healthy."""
        return any(node != HEALTHY for node in self.nodes)

    def describe(self) -> str:
        """The provider in one line: all that is not plain."""
        plain = Provider()
        said = [f"seed={self.seed}"]
        for name, value in vars(self).items():
            hidden = {"seed", "splits", "heals_after"} if not self.is_sick else {"seed"}
            unused = (
                name.endswith("_refusal") and getattr(self, name.removesuffix("_refusal")) is None
            )
            if name == "refusals":
                unused = not (self.busy or self.busy_call)
            if name in hidden or unused or value == getattr(plain, name):
                continue
            said.append(f"{name}={_short(value)}")
        return " ".join(said)


def _short(value: Any) -> str:
    if isinstance(value, Refusal):
        how = "reset" if value.reset else f"{value.status}/{value.code}"
        return f"<{how} {value.message[:60]!r}>"
    if isinstance(value, NodeState):
        said = {name: each for name, each in vars(value).items() if each != getattr(HEALTHY, name)}
        return "(" + ",".join(f"{name}={_short(each)}" for name, each in said.items()) + ")"
    if isinstance(value, tuple):
        return "[" + "; ".join(map(_short, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Endpoint:
    """A provider at work over a chain.

    Attributes:
        requests, calls: how many came so far.
    """

    def __init__(self, provider: Provider, chain: ChainView) -> None:
        self.provider, self.chain = provider, chain
        self.requests = self.calls = 0
        self._rng = Random(provider.seed)
        self._healed = False
        self._forks: dict[int, int] = {}  # node -> first block of its fork

    def heal(self) -> None:
        """From now on all nodes are healthy; limits and refusals stay."""
        self._healed = True

    @property
    def is_healthy(self) -> bool:
        """Whether all nodes are healthy by now."""
        after = self.provider.heals_after
        return self._healed or (after is not None and self.requests > after)

    def respond(self, request: Request) -> Answer:
        """The answer to one request, which is a call or a batch of calls."""
        self.requests += 1
        provider = self.provider
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return Refusal("parse error", -32700, 400).answer()
        calls = body if isinstance(body, list) else [body]
        self.calls += len(calls)
        if self._rng.random() < provider.busy:
            return self._refused(body, self._rng.choice(provider.refusals))
        if (
            isinstance(body, list)
            and provider.batch is not None
            and (len(body) > provider.batch or provider.batch == 1)
        ):
            return self._refused(body, provider.batch_refusal, limit=provider.batch, size=len(body))
        node = self._rng.randrange(len(provider.nodes))
        unlucky = self._rng.randrange(len(calls)) if self._rng.random() < provider.busy_call else -1
        replies = []
        for at, call in enumerate(calls):
            if provider.splits:
                node = self._rng.randrange(len(provider.nodes))
            if at == unlucky:
                reply: Any = (self._rng.choice(provider.refusals), {})
            else:
                reply = self._call(call, node)
            if isinstance(reply, tuple):
                refusal, numbers = reply
                if refusal.whole:
                    return refusal.answer(call.get("id"), **numbers)
                reply = refusal.error(call.get("id"), **numbers)
            replies.append(reply)
        return Answer(orjson.dumps(replies if isinstance(body, list) else replies[0]))

    def _refused(self, body: Any, refusal: Refusal, **numbers: int) -> Answer:
        if isinstance(body, list) and not refusal.whole:
            errors = [refusal.error(call.get("id"), **numbers) for call in body]
            return Answer(orjson.dumps(errors))
        call_id = None if isinstance(body, list) else body.get("id")
        return refusal.answer(call_id, **numbers)

    def _call(self, call: dict, number: int) -> dict | tuple[Refusal, dict]:
        """The reply of one node, or the refusal and its numbers."""
        state = HEALTHY if self.is_healthy else self.provider.nodes[number]
        view = self._view(number, state)
        node = Node(
            view,
            NodeLimits(
                result_cap=1 << 60,
                block_range_cap=1 << 60,
                with_timestamp=self.provider.timestamps != NONE,
                saturated_bloom=self.provider.saturated_bloom,
            ),
        )
        method, params = call.get("method"), call.get("params") or []
        if method == "eth_getLogs" and params and isinstance(params[0], dict):
            return self._logs(call, params[0], node, state)
        if method in _READS_LOGS:
            return self._receipts(call, node, state)
        return node.call(call)

    def _view(self, number: int, state: NodeState) -> ChainView:
        view: ChainView = self.chain
        if state.fork:
            since = self._forks.setdefault(number, view.head - state.lag - state.fork + 1)
            view = Forked(view, since, salt=str(number))
        return UpTo(view, max(view.head - state.lag, 0)) if state.lag else view

    def _logs(self, call: dict, query: dict, node: Node, state: NodeState) -> dict | tuple:
        provider, head = self.provider, node.chain.head
        if "blockHash" in query and provider.by_hash is not None:
            return provider.by_hash, {}
        try:
            first, last = node.range_of(query)
        except RpcError:
            return node.call(call)
        size = last - first + 1
        numbers = {"first": first, "last": last, "size": size, "head": head}
        if provider.blocks is not None and size > provider.blocks:
            limit = provider.blocks
            return provider.blocks_refusal, numbers | {"limit": limit, "until": first + limit - 1}
        if last > head and provider.beyond is not None:
            return provider.beyond, numbers
        oldest = 0 if state.keeps is None else head - state.keeps + 1
        if first < oldest and state.pruned != EMPTY:
            return state.pruned, numbers
        reply = node.call(call)
        if "result" not in reply:
            return reply
        logs = reply["result"]
        if state.keeps is not None:
            logs = [log for log in logs if int(log["blockNumber"], 16) >= oldest]
        if state.log_lag:
            indexed = head - state.log_lag
            logs = [log for log in logs if int(log["blockNumber"], 16) <= indexed]
        if state.drops and "blockHash" not in query:
            logs = [log for log in logs if _share_of(log["blockHash"]) >= state.drops]
        if provider.results is not None and len(logs) > provider.results and size > 1:
            numbers |= {"limit": provider.results, "until": first + size // 2 - 1}
            return provider.results_refusal, numbers
        return reply | {"result": [*self._stale(logs), *map(self._dated, logs)]}

    def _stale(self, logs: list[dict]) -> list[dict]:
        """A log that has left the chain, as some nodes send it beside the one that replaced it."""
        if not (self.provider.removed and logs):
            return []
        gone = {"removed": True, "blockHash": "0x" + "de" * 32, "transactionHash": "0x" + "ad" * 32}
        return [self._dated(logs[0]) | gone]

    def _dated(self, log: dict) -> dict:
        kind = self.provider.timestamps
        if kind in (RIGHT, NONE):
            return log
        right = int(log["blockTimestamp"], 16)
        wrong = {ZERO: 0, OLD: right - _WRONG_BY, FUTURE: right + _WRONG_BY}[kind]
        return log | {"blockTimestamp": hex(wrong)}

    def _receipts(self, call: dict, node: Node, state: NodeState) -> dict | tuple:
        provider = self.provider
        if isinstance(provider.receipts, Refusal):
            return provider.receipts, {}
        reply = node.call(call)
        found = reply.get("result")
        if not found:
            return reply
        receipts = found if isinstance(found, list) else [found]
        number = int(receipts[0]["blockNumber"], 16)
        pruned = state.keeps is not None and number <= node.chain.head - state.keeps
        if pruned and state.pruned != EMPTY:
            return state.pruned, {"first": number, "last": number}
        if pruned or provider.receipts == "null":
            return reply | {"result": None}
        dated = [each | {"logs": list(map(self._dated, each["logs"]))} for each in receipts]
        return reply | {"result": dated if isinstance(found, list) else dated[0]}


def _share_of(block_hash: str) -> float:
    """A number from 0 to 1 that belongs to a block."""
    return int(block_hash[2:10], 16) / 0xFFFFFFFF
