"""`exec`: a command beside those of a container, over a websocket with channels.

Every message begins with the number of its channel: 0 is what the command reads, 1 and 2 what it
prints, 3 how it ended, and 255 (version 5 only) closes the channel that its second byte names.

A container here shares the machine's process numbers. So a command that would send a signal, as
Airflow sends one to end its XCom sidecar (`kill -2 $(pgrep …)`), is never run: it would reach
strangers. The signal goes to the container's own processes instead.
"""

import asyncio
import json
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web

from include.local_cloud.kubernetes.containers import Container
from include.local_cloud.kubernetes.status import Refused, bad_request, not_implemented

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, END, CLOSE = 0, 1, 2, 3, 255
SENDS_A_SIGNAL = re.compile(r"\b(?:kill|pkill|killall)\b(?:\s+-(?:s\s+)?(?:SIG)?(?P<sign>\w+))?")


def wanted(request: web.Request) -> tuple[list[str], dict[str, bool]]:
    """What the call asks for."""
    command = request.query.getall("command", [])
    if not command:
        raise bad_request("you must specify at least 1 container command")
    streams = {
        name: request.query.get(name, "").lower() in ("1", "true")
        for name in ("stdin", "stdout", "stderr", "tty")
    }
    if streams["tty"]:
        raise not_implemented("exec with a terminal (tty=true)")
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise not_implemented("exec without a websocket (SPDY)")
    return command, streams


async def execute(
    request: web.Request, container: Container, command: list[str], streams: dict[str, bool]
) -> web.WebSocketResponse:
    """Run it and tell how it ended."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS)
    await socket.prepare(request)
    prepared = container.prepared
    if prepared is None:
        raise bad_request(f"container {container.name} is not running")
    if any(map(SENDS_A_SIGNAL.search, command)):
        end = _signal(container, " ".join(command))
    else:
        try:
            process = await asyncio.create_subprocess_exec(
                *map(prepared.local, command),
                cwd=prepared.folder,
                env=prepared.env,
                stdin=PIPE if streams["stdin"] else DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        except OSError as error:
            end = _failure(128, f'exec: "{command[0]}": {error.strerror}')
        else:
            end = await _carry(socket, process, container, streams)
    if not socket.closed:
        await _send(socket, END, json.dumps(end).encode())
        await socket.close()
    return socket


async def _carry(
    socket: web.WebSocketResponse, process: Process, container: Container, streams: dict[str, bool]
) -> dict[str, Any]:
    """Carry what is said between the client and the command until the command's end."""
    printed = asyncio.gather(
        _tell(socket, process.stdout, STDOUT if streams["stdout"] else None),
        _tell(socket, process.stderr, STDERR if streams["stderr"] else None),
    )
    hears = asyncio.create_task(_hear(socket, process, container))
    ends = asyncio.create_task(process.wait())
    await asyncio.wait({hears, ends}, return_when=asyncio.FIRST_COMPLETED)
    if not ends.done():  # the client is gone, or it sent the container a signal
        process.kill()
    code = await ends
    await printed
    if hears.done() and (signalled := hears.result()):
        return signalled
    hears.cancel()
    return (
        _failure(code, f"command terminated with non-zero exit code: exit status {code}")
        if code
        else SUCCESS
    )


async def _hear(
    socket: web.WebSocketResponse, process: Process, container: Container
) -> dict[str, Any] | None:
    """Give the command what the client says; the end that a signal makes of it, or None."""
    async for channel, data in _messages(socket):
        if channel == STDIN and process.stdin:
            text = (
                prepared(data.decode(errors="replace")) if (prepared := _local(container)) else ""
            )
            if SENDS_A_SIGNAL.search(text):
                return _signal(container, text)
            process.stdin.write(text.encode())
            await process.stdin.drain()
        elif channel == CLOSE and data[:1] == bytes([STDIN]) and process.stdin:
            process.stdin.close()
    return None


async def _messages(socket: web.WebSocketResponse) -> AsyncIterator[tuple[int, bytes]]:
    async for message in socket:
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data = message.data.encode() if message.type == WSMsgType.TEXT else message.data
            yield data[0], data[1:]


def _local(container: Container) -> Any:
    return container.prepared.local if container.prepared else None


async def _tell(
    socket: web.WebSocketResponse, output: asyncio.StreamReader | None, channel: int | None
) -> None:
    while output and (data := await output.read(65_536)):
        if channel is not None and not socket.closed:
            await _send(socket, channel, data)


async def _send(socket: web.WebSocketResponse, channel: int, data: bytes) -> None:
    await socket.send_bytes(bytes([channel]) + data)


def _signal(container: Container, text: str) -> dict[str, Any]:
    found = SENDS_A_SIGNAL.search(text)
    name = (found and found["sign"]) or "TERM"
    try:
        sign = signal.Signals(int(name)) if name.isdecimal() else signal.Signals[f"SIG{name}"]
    except (KeyError, ValueError):
        return _failure(1, f"kill: {name}: invalid signal specification")
    container.signal(sign)
    return SUCCESS


SUCCESS: dict[str, Any] = {"metadata": {}, "status": "Success"}


def _failure(code: int, message: str) -> dict[str, Any]:
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return Refused(500, "NonZeroExitCode", message, causes=causes).body()
