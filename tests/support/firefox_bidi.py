"""Firefox as Playwright expects it: a process between the two, for the commands that Firefox ESR 140 does not know.

Playwright speaks WebDriver BiDi with an ordinary Firefox, and gives up if it refuses a command. Those that are younger
than Debian's Firefox, such as network.addDataCollector (Firefox 143) and emulation.setMediaFeaturesOverride, are
not needed here: they are answered with a success. Arguments: the program, then those of Firefox.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

LISTENING = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")
LARGEST = 2**28  # Bytes of a message: screenshots are large.
Socket = web.WebSocketResponse | ClientWebSocketResponse


async def pass_on(source: Socket, target: Socket) -> None:
    """Pass messages on; commands that Firefox does not know have done nothing, and succeeded."""
    async for message in source:
        if message.type != WSMsgType.TEXT:
            return
        answer = json.loads(message.data)
        if answer.get("error") == "unknown command":
            text = json.dumps({"type": "success", "id": answer["id"], "result": {"collector": "none"}})
        else:
            text = message.data
        await target.send_str(text)


async def serve(firefox: str) -> str:
    """Listen for Playwright, and return the address."""

    async def session(request: web.Request) -> web.WebSocketResponse:
        near = web.WebSocketResponse(max_msg_size=LARGEST)
        await near.prepare(request)
        async with ClientSession() as client, client.ws_connect(f"{firefox}/session", max_msg_size=LARGEST) as far:
            both = [asyncio.create_task(pass_on(near, far)), asyncio.create_task(pass_on(far, near))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in both:
                one.cancel()
        return near

    app = web.Application()
    app.router.add_get("/session", session)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"ws://127.0.0.1:{runner.addresses[0][1]}"


async def main() -> int:
    """Run Firefox, and tell Playwright the address of this process in the place of Firefox's own."""
    process = await asyncio.create_subprocess_exec(*sys.argv[1:], stderr=PIPE)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.terminate)
    assert process.stderr is not None
    async for line in process.stderr:
        if found := LISTENING.search(line):
            line = line.replace(found[1], (await serve(found[1].decode())).encode())
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
