"""Events for the browser: numbered, so that a client that lost its connection asks for those after the last it saw."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

KEPT = 2000  # A client that missed more loads everything anew.
HEARTBEAT = 15.0  # Seconds: a comment, so that a dead connection is noticed.


class EventLog:
    """The newest events, and the streams that wait for more. `add` may be called from any thread."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)  # Ids of an earlier server mean nothing to this one.
        self._events: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self._count, self._lock = 0, threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._is_closed = False

    @property
    def last_id(self) -> str:
        return f"{self._run}-{self._count}"

    def add(self, kind: str, **data: Any) -> None:
        """Send an event to all clients."""
        text = json.dumps({"type": kind, **data}, separators=(",", ":"))
        with self._lock:
            self._count += 1
            self._events.append((self._count, text))
        self._wake()

    def close(self) -> None:
        """End all streams: a server that stops waits for them."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def since(self, last_id: str | None) -> tuple[list[tuple[int, str]], bool]:
        """Return the events after `last_id`, and whether that is all that the client missed."""
        run, _, number = (last_id or self.last_id).partition("-")
        with self._lock:
            first = self._events[0][0] if self._events else self._count + 1
            known = run == self._run and number.isdigit() and first - 1 <= int(number) <= self._count
            return ([event for event in self._events if event[0] > int(number)] if known else []), known

    async def stream(self, last_id: str | None) -> AsyncIterator[str]:
        """Yield events as text/event-stream has them, until `close`."""
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(waiting)
        try:
            count = self._count  # Before `since`: no event may fall between the two.
            events, known = self.since(last_id)
            position = events[0][0] - 1 if events else count
            yield "retry: 1000\n\n" if known else self._format(position, '{"type":"reset"}')
            while not self._is_closed:
                waiting[1].clear()
                for number, text in self.since(f"{self._run}-{position}")[0]:
                    position = number
                    yield self._format(number, text)
                try:
                    await asyncio.wait_for(waiting[1].wait(), HEARTBEAT)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    def _format(self, number: int, text: str) -> str:
        return f"id: {self._run}-{number}\ndata: {text}\n\n"
