"""`studio`: make and edit picture stories in the browser."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modules.commands.generating import device_flag
from modules.commands.shared import checkpoint_flag
from modules.common.arguments import a_path, integer
from modules.common.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

LOCAL = "127.0.0.1"
MISSING = "the studio needs FastAPI and uvicorn: run `make studio`, or pip install -r requirements-studio.txt"


def add_flags(parser: argparse.ArgumentParser) -> None:
    checkpoint_flag(parser)
    device_flag(parser)
    parser.add_argument("--port", type=integer(0, 65535), default=7860, metavar="N", help="port (default 7860)")
    parser.add_argument(
        "--host",
        default=LOCAL,
        metavar="ADDRESS",
        help=f"address; one that others can reach needs --token (default {LOCAL})",
    )
    parser.add_argument(
        "--token", metavar="TEXT", help="what a client must know: the address to open then ends in ?token=TEXT"
    )
    parser.add_argument(
        "--project",
        type=a_path,
        default=Path("out_studio"),
        metavar="FOLDER",
        help="where the stories are kept, with all their versions (default out_studio)",
    )
    parser.add_argument(
        "--report",
        type=a_path,
        default=Path("report"),
        metavar="FOLDER",
        help="what analyze wrote about the codes of these weights, for the cards of codes (default report)",
    )


def run(args: argparse.Namespace) -> int:
    check_address(args.host, args.token)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError(MISSING) from None
    from modules.commands.steering import load_codes_model
    from modules.studio.app import create_app
    from modules.studio.cards import CodeReports
    from modules.studio.project import Project

    project = Project(args.project)
    try:
        listener = listen(args.host, args.port)
        name = f"[{args.host}]" if ":" in args.host else args.host
        query = f"/?token={args.token}" if args.token else ""
        address = f"http://{name}:{listener.getsockname()[1]}{query}"
        announce = partial(print, f"the studio is at {address} (Ctrl-C ends it)", flush=True)
        pipeline = load_codes_model(args)
        reports = CodeReports(args.report, pipeline, str(args.ckpt))
        app = create_app(pipeline, project, args.token, announce=announce, reports=reports)
        serve(app, listener)
    finally:
        project.close()
    return 0


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer at a socket until a signal ends it."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.studio.events.close()  # Open windows listen to events, and it waits for all that it answers.
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    Server(config).run(sockets=[listener])


def check_address(host: str, token: str | None) -> None:
    """Raise UserError for an address that others can reach, unless there is a token."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not token:
        raise UserError(f"--host {host} can be reached from other machines: give a --token too, or leave it out")
    if token is not None and not (len(token) >= 8 and token.isascii() and token.isalnum()):
        raise UserError("--token must have 8 letters and digits or more, and nothing else")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound where the flags say. Raises UserError if the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port} ({error.strerror}): choose another --port") from None
    return listener
