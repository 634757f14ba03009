"""Who may talk to the studio: pages that it served itself, on this machine, or whoever has the token."""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_BODY = 16 * 2**20
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
    " object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
COOKIE = "studio-token"


class TooLarge(Exception):
    """A body has more bytes than are taken in."""


class Guard:
    """ASGI middleware: checks Host, Origin, token and size of every request, and adds the security headers.

    A page elsewhere can make a browser send requests here, under a name that it lets point to this machine: the Host
    header gives that away. Without a token only this machine's own names are answered.
    """

    def __init__(self, app: Any, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._problem(scope, headers)
        if refused:
            await _answer(send, *refused)
            return

        async def guarded_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if self._from_query(scope):
                    value = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    extra.append((b"set-cookie", value.encode()))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            await self.app(scope, _limited(receive), guarded_send)
        except TooLarge:
            await _answer(send, 413, f"the upload is larger than {MAX_BODY // 2**20} MB")

    def _problem(self, scope: Any, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.token is None and not _is_local(_name(host)):
            return 403, "the studio answers under this machine's own name only"
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or headers.get("sec-fetch-site") == "cross-site":
            return 403, "another site may not use the studio"
        if self.token is not None and not self._knows_token(scope, headers):
            return 401, "the token is missing or wrong: open the address that the terminal shows"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"the upload is larger than {MAX_BODY // 2**20} MB"
        return None

    def _knows_token(self, scope: Any, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        return self._from_query(scope) or self._equals(given) or (cookie is not None and self._equals(cookie.value))

    def _from_query(self, scope: Any) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self.token is not None and self._equals(given)

    def _equals(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_local(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _limited(receive: Any) -> Any:
    """Return `receive` that ends a body without a length once it is too large."""
    size = 0

    async def limited() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise TooLarge
        return message

    return limited


async def _answer(send: Any, status: int, detail: str) -> None:
    body = f'{{"detail":"{detail}"}}'.encode()
    headers = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
