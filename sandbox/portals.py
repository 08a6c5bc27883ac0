"""SQD Portals as they are met: streams that end early or break, heads that lag, forks, load, a block left out.

What `providers` is for JSON-RPC, for the portal's protocol: a `PortalState` is data, a `PortalEndpoint` serves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import orjson

from sandbox.blocks import ChainView
from sandbox.portal_query import PortalError
from sandbox.sqd import Portal, PortalLimits
from sandbox.views import Forked, UpTo
from sandbox.wire import Answer, Request

_OVERLOADED = "Service is overloaded, please try again later"
_RATE = ("rate_limit_error", "overloaded", _OVERLOADED)
_HTML = {"Content-Type": "text/html"}

# How a portal says that it cannot, just now; all of them pass.
BUSY: dict[str, Answer] = {
    "429": PortalError(429, *_RATE).answer(),
    "429-after": PortalError(429, *_RATE).answer(**{"Retry-After": "1"}),
    "529-after": PortalError(529, *_RATE).answer(**{"Retry-After": "2"}),
    "no-workers": PortalError(
        503, "availability_error", "no_workers", "No available workers to serve the request"
    ).answer(),
    "retries-exhausted": PortalError(
        503, "availability_error", "retries_exhausted", "Query failed after all retries"
    ).answer(),
    "upstream": PortalError(
        502, "availability_error", "upstream_unavailable", "Real-time data source is unavailable"
    ).answer(),
    "text-503": Answer(b"No available workers to serve the request", 503, _HTML),
    "html-502": Answer(b"<html><body><h1>502 Bad Gateway</h1></body></html>", 502, _HTML),
    "cloudflare": Answer(b"error code: 1015", 429, _HTML),
    "reset": Answer(reset=True),
}


@dataclass(frozen=True)
class PortalState:
    """What one portal does.

    Attributes:
        seed: of what it does at random.
        limits: see `PortalLimits`.
        lags: blocks by which the head is behind, of each of the servers behind the URL; a request goes to any.
        fork: newest blocks that are on another chain, on the first of those servers.
        missing: share of blocks that a stream leaves out, with all of their logs.
        heals_after: requests after which there is no lag, no fork and nothing missing; None is never.
        busy: how often a request is refused, and `kinds` how (names of `BUSY`).
        cuts: how often a stream breaks in the middle of its bytes.
        ascending: whether a conflict lists the blocks oldest first.
        bare: whether a conflict is told without the error object beside the blocks, as older portals do.
    """

    seed: int = 0
    limits: PortalLimits = field(default_factory=PortalLimits)
    lags: tuple[int, ...] = (0,)
    fork: int = 0
    missing: float = 0.0
    heals_after: int | None = 0
    busy: float = 0.0
    kinds: tuple[str, ...] = ("429-after",)
    cuts: float = 0.0
    ascending: bool = False
    bare: bool = False

    @property
    def is_sick(self) -> bool:
        """Whether it is behind, on a fork, or leaves blocks out."""
        return any(self.lags) or self.fork > 0 or self.missing > 0

    def describe(self) -> str:
        """The portal in one line: all that is not plain."""
        plain, said = PortalState(), [f"seed={self.seed}"]
        for name, value in vars(self).items():
            if name == "seed" or value == getattr(plain, name):
                continue
            if name == "kinds" and not self.busy:
                continue
            if name == "limits":
                limits = vars(value).items()
                value = {key: each for key, each in limits if each != getattr(plain.limits, key)}
            said.append(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}")
        return " ".join(said)


class PortalEndpoint:
    """A portal in some state, at work over a chain.

    Attributes:
        requests: how many came so far.
    """

    def __init__(self, state: PortalState, chain: ChainView) -> None:
        self.state, self.chain = state, chain
        self.requests = 0
        self._rng = Random(state.seed)
        self._healed = False
        self._fork_since: int | None = None

    def heal(self) -> None:
        """From now on it is at the head of the right chain and leaves nothing out."""
        self._healed = True

    @property
    def is_healthy(self) -> bool:
        """Whether it is at the head of the right chain and leaves nothing out."""
        after = self.state.heals_after
        return self._healed or (after is not None and self.requests > after)

    def respond(self, request: Request) -> Answer:
        """The answer to one request."""
        self.requests += 1
        state, rng = self.state, self._rng
        if rng.random() < state.busy:
            return BUSY[rng.choice(state.kinds)]
        answer = Portal(self._view(), state.limits).respond(request)
        if answer.status == 409:
            return self._conflict(answer)
        if answer.headers.get("Content-Type") != "application/jsonl":
            return answer
        if state.missing and not self.is_healthy:
            answer = replace(answer, body=self._with_gaps(answer.body))
        if rng.random() < state.cuts:
            answer = self._cut(answer)
        return answer

    def _view(self) -> ChainView:
        if self.is_healthy:
            return self.chain
        state, view = self.state, self.chain
        server = self._rng.randrange(len(state.lags))
        lag = state.lags[server]
        if state.fork and server == 0:
            if self._fork_since is None:
                self._fork_since = view.head - lag - state.fork + 1
            view = Forked(view, self._fork_since)
        return UpTo(view, max(view.head - lag, 0)) if lag else view

    def _conflict(self, answer: Answer) -> Answer:
        body = orjson.loads(answer.body)
        if self.state.ascending:
            body["previousBlocks"].reverse()
        if self.state.bare:
            del body["error"]
        return replace(answer, body=orjson.dumps(body))

    def _with_gaps(self, body: bytes) -> bytes:
        """The stream without some of the blocks between its first and its last one."""
        lines = body.splitlines(keepends=True)
        kept = [line for line in lines[1:-1] if not self._is_missing(line)]
        return b"".join([*lines[:1], *kept, *lines[1:][-1:]])

    def _is_missing(self, line: bytes) -> bool:
        header: dict[str, Any] = orjson.loads(line)["header"]
        drawn = Random(f"{self.state.seed}:{header.get('number', header.get('hash'))}")
        return drawn.random() < self.state.missing

    def _cut(self, answer: Answer) -> Answer:
        """The stream broken off: between lines without a word, in the middle of a line, or with the connection."""
        kind, body = self._rng.randrange(3), answer.body
        if kind == 0:
            lines = body.splitlines(keepends=True)
            return replace(answer, body=b"".join(lines[: max(1, len(lines) // 2)]))
        if kind == 1 and len(body) > 2:
            end = self._rng.randrange(1, len(body) - 1)
            return replace(answer, body=body[: end - (body[end - 1 : end] == b"\n")])
        return replace(answer, cut=True)


def random_portal(rng: Random, *, reach: int = 50, lies: bool = False) -> PortalState:
    """Any mix of limits, load and states.

    Args:
        reach: blocks by which the portal may be behind or on a fork, at most.
        lies: whether blocks may be missing from a stream.
    """
    limits = PortalLimits(
        stream_blocks=rng.choice((None, None, 1000, 100, 17, 3, 1)),
        stream_bytes=rng.choice((None, None, 1_000_000, 20_000, 1)),
        finality_blocks=rng.choice((0, 16, 40)),
        boundary_every=rng.choice((0, 0, 10, 200)),
        saturated_bloom=rng.random() < 0.5,
    )
    sick = rng.random() < 0.6
    lags = tuple(rng.choice((0, rng.randint(1, reach))) for _ in range(rng.choice((1, 1, 2, 3))))
    return PortalState(
        seed=rng.randrange(1 << 30),
        limits=limits,
        lags=lags if sick else (0,),
        fork=rng.randint(1, reach) if sick and rng.random() < 0.4 else 0,
        missing=rng.choice((0.02, 0.2)) if sick and lies and rng.random() < 0.5 else 0.0,
        heals_after=rng.choice((5, 20, 100, None)) if sick else 0,
        busy=rng.choice((0.0, 0.0, 0.05, 0.25)),
        kinds=tuple(rng.sample(sorted(BUSY), rng.choice((1, 3)))),
        cuts=rng.choice((0.0, 0.0, 0.1, 0.3)),
        ascending=rng.random() < 0.5,
        bare=rng.random() < 0.3,
    )
