"""Access control: only browsers on this machine, and for writes only the page that we served.

A page on the internet can make a browser send requests to 127.0.0.1. Two checks stop it: the Host header must name
the loopback (prevents DNS rebinding), and every write carries a token that only our own page has (prevents forged
requests). The response headers forbid the page to load or run anything from elsewhere.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
TOKEN_HEADER = "x-cloche-token"
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    # Files change with the installed version, data with the run: the browser must revalidate each time.
    "cache-control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether a Host header names the loopback, on any port (it may be forwarded)."""
    name, _, port = host.rpartition(":")
    if not name or host.endswith("]"):
        name, port = host, "0"
    return name.lower() in LOOPBACK and port.isdigit()


class Guard:
    """ASGI middleware: refuses foreign hosts and writes without the token; adds security headers to every response."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    def refusal(self, method: str, headers: Headers) -> str | None:
        """Why a request is refused, as a sentence; None if it is allowed."""
        if len(headers.getlist("host")) != 1 or not is_loopback(headers["host"]):
            return "The microscope answers only at 127.0.0.1 or localhost: open the address that it printed."
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        if origin is not None and not is_loopback(origin.partition("://")[2]):
            return "This request comes from another site's page: use the microscope's own page."
        if not secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self.token.encode()):
            return "This request lacks this server's token, as after a restart: reload the page and ask again."
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSockets are not used
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self.refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await JSONResponse({"error": refusal}, status_code=403)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)
