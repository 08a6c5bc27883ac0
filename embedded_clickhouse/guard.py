"""Keeps web pages out: a browser sends requests to loopback for any page that asks it to.

A request is refused if its Host is not this machine (a name that an attacker points at 127.0.0.1),
if its Origin is a page that is not on the list, or if the browser says that another site sent it.
Programs send none of these headers but Host, and notice nothing. CORS headers go to listed origins
only. Facts: fetch.spec.whatwg.org (CORS), w3.org/TR/fetch-metadata, RFC 9110 §7.2.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL_NAMES = frozenset({"localhost"})
_METHODS = "GET, POST, OPTIONS"
_REMEMBER_S = "600"


class Guard:
    """Stands in front of the application.

    Args:
        app: what is asked in the end.
        hosts: names of this machine besides its addresses and localhost.
        origins: pages whose requests are answered, as `https://name:port`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = _LOCAL_NAMES | {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if reason := self._reason_to_refuse(headers):
            await _refusal(reason)(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._preflight(headers)(scope, receive, send)
        else:
            allowed = origin if origin and not _is_own(headers) else None
            await self._app(scope, receive, _with_cors(send, allowed))

    def _reason_to_refuse(self, headers: Headers) -> str:
        """Why a request is not answered; empty if it is."""
        hosts = headers.getlist("host")
        if len(hosts) > 1 or not self._is_here(hosts[0] if hosts else ""):
            return f"Host {hosts[0] if hosts else ''!r} is not this machine"
        origins = headers.getlist("origin")
        if not origins:
            site = headers.get("sec-fetch-site", "none")
            if site not in ("same-origin", "none"):
                return f"a page of another site (Sec-Fetch-Site: {site}) sent it"
            return ""
        if len(origins) == 1 and (_is_own(headers) or self._is_listed(origins[0])):
            return ""
        return f"a page of {origins[0]} sent it, which CLICKHOUSE_LOCAL_ORIGINS does not list"

    def _is_here(self, host: str) -> bool:
        if not host:  # HTTP/1.0, which no browser speaks
            return True
        if "@" in host:  # no part of a Host; what stands before it would be taken for a user
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # an address cannot be pointed elsewhere by whoever owns a name

    def _is_listed(self, origin: str) -> bool:
        return origin.lower() in self._origins

    def _preflight(self, headers: Headers) -> Response:
        answer = Response(status_code=204, headers={"Allow": _METHODS})
        if (origin := headers.get("origin")) and not _is_own(headers):
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Allow-Methods"] = _METHODS
            wanted = headers.get("access-control-request-headers", "")
            answer.headers["Access-Control-Allow-Headers"] = wanted
            answer.headers["Access-Control-Max-Age"] = _REMEMBER_S
            answer.headers["Vary"] = "Origin"
        return answer


def _is_own(headers: Headers) -> bool:
    """Whether a page of this very server sent the request, such as /play."""
    try:
        origin = urlsplit(headers.get("origin", ""))
    except ValueError:
        return False
    return (
        origin.scheme == "http"
        and bool(origin.netloc)
        and origin.netloc.lower() == headers.get("host", "").lower()
    )


def _refusal(reason: str) -> Response:
    return PlainTextResponse(f"Refused: {reason}.\n", 403)


def _with_cors(send: Send, origin: str | None) -> Send:
    if origin is None:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "*"
            headers.append("Vary", "Origin")
        await send(message)

    return sending
