"""A page on which a robot is driven: one drives, others watch.

    Server(drive, "default", port=8800).run()     # until Ctrl-C

The page, ``ballbot/assets/drive.html`` and ``drive.js``, draws by itself; here are an HTTP server that knows these two
files and no others, and a WebSocket, by which the page is told where the robot's parts are, and tells what is pressed.
The robot lives in the same thread, between messages: nothing has to be locked.

Who can reach the port can drive.  It is this machine's alone unless another ``host`` is asked for.  Pages of other
sites, which a browser here may show as well, are refused: by the ``Origin`` that a browser tells of them, and, where
such a site gives its own name this machine's address (DNS rebinding), by the ``Host`` that it was called by.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import math
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from ballbot.driving import websocket
from ballbot.driving.drive import Drive
from ballbot.driving.scene import Scene
from ballbot.driving.websocket import ProtocolError
from ballbot.errors import SettingsError

FRAMES_PER_SECOND = 60
"""Poses that are sent, as often as most screens show them."""
STATUS_PER_SECOND = 5
"""What else there is to tell."""
MOST_VIEWERS = 16
"""Pages at a time."""
MOST_CONNECTIONS = 64
"""Of all kinds."""
MOST_MESSAGES = 200
"""A second, from one page; it sends some 20."""
LETS_GO = 1.5
"""s without a message, after which whoever drives has let go: pages send at least five times a second."""
GONE = 20.0
"""s without one, after which a page is gone."""
HEAD_TIME, MOST_HEAD = 10.0, 16 * 1024
"""s, and bytes, for the head of a request."""
TAKE_TIME = 5.0
"""s in which the rest of what is sent must be taken, once no more will come."""
LATE, FAR_BEHIND = 256 * 1024, 16 * 1024 * 1024
"""Bytes not yet taken by a page: then it gets no poses, or is given up."""
MOST_OWED = 0.1
"""s that the simulation may be behind and catch up; it is late, and says so, beyond."""
LOOPBACK_NAMES = ("localhost", "localhost.localdomain")
PAGE = {
    "/": ("drive.html", "text/html; charset=utf-8"),
    "/drive.js": ("drive.js", "text/javascript; charset=utf-8"),
}
"""Path -> file of ``ballbot.assets``, and what it is."""
SAFE = (
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n"
    "Cache-Control: no-store\r\n"
)
"""Of every answer: a page that loads nothing from elsewhere, and is shown in no other."""
ANSWERS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    426: "Upgrade Required", 431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(eq=False)
class Viewer:
    """A page that is open."""

    writer: asyncio.StreamWriter
    heard: float
    """When something came from it last, s."""
    ground: int = -1
    """Which it was shown, of the pool."""
    robot: int = -1
    """Likewise, of the family."""
    recent: list[float] = field(default_factory=list)
    """When its last messages came."""

    def send(self, message: bytes, whenever: bool = True) -> None:
        """Send a message, or leave it out if it is of use only at once and the page is late."""
        waiting = self.writer.transport.get_write_buffer_size()
        if waiting > FAR_BEHIND:
            self.writer.transport.abort()
        elif whenever or waiting < LATE:
            self.writer.write(message)


class Server:
    """Serves a robot that is driven.

    Args:
        drive: the robot.
        name: of who balances it, for the page.
        host: an address of this machine, or a name of it, where it listens; "0.0.0.0" or "::" for all.
        port: 0 takes a free one.

    Raises:
        SettingsError: the host is empty, which would be all addresses of this machine, unasked.
    """

    def __init__(self, drive: Drive, name: str, host: str = "127.0.0.1", port: int = 0) -> None:
        if not host.strip():
            raise SettingsError("--host is empty: take 127.0.0.1, or 0.0.0.0 for all addresses of this machine")
        self._drive, self._name, self.host, self.port = drive, name, host, port
        assets = files("ballbot.assets")
        self._pages = {path: ((assets / file).read_bytes(), kind) for path, (file, kind) in PAGE.items()}
        self._viewers: list[Viewer] = []
        """The first of them drives."""
        self._connections: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scene = Scene(drive.envs.simulations)
        self._names = _names(host)
        self.rate = 1.0
        """Seconds simulated in a second, as a share of those asked for."""

    def run(self, ready: Callable[[str], None] = print) -> None:
        """Serve until ``stop``.

        Args:
            ready: is told the page's address, once it is served.

        Raises:
            SettingsError: the port is taken, or the host is no address of this machine.
        """
        asyncio.run(self._run(ready))

    def stop(self) -> None:
        """Have ``run`` return; for other threads."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopped.set)

    @property
    def address(self) -> str:
        """Of the page, on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def _where(self) -> str:
        """The page, for who asked in vain, perhaps from elsewhere."""
        return f"http://IP-ADDRESS:{self.port}/" if self.host in ("0.0.0.0", "::") else self.address

    async def _run(self, ready: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = await asyncio.start_server(self._connected, self.host, self.port, limit=MOST_HEAD)
        except socket.gaierror as error:
            raise SettingsError(f"--host {self.host} is no address or name of this machine: take 127.0.0.1") from error
        except (OSError, OverflowError) as error:
            raise SettingsError(_cannot_listen(self.host, self.port, error)) from error
        self.port = server.sockets[0].getsockname()[1]
        driving = asyncio.ensure_future(self._drive_on())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            ready(self.address)
            await asyncio.wait({driving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                driving.result()  # its error, if it has one
        finally:
            server.close()  # and does not wait until pages have read all, which those may never do that hang
            tasks = (driving, stopped, *self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- The robot ----------------------------------------------------------------------------------------------------

    async def _drive_on(self) -> None:
        """Simulate in real time while somebody watches, and tell those who do."""
        drive, dt = self._drive, self._drive.envs.dt
        loop, tick = asyncio.get_running_loop(), 1 / FRAMES_PER_SECOND
        began = last = due = told = loop.time()
        owed, done, asked = 0.0, 0.0, 0.0
        while True:
            if not self._viewers:
                drive.hold((0.0, 0.0))
                while not self._viewers:  # who joined may be gone before this goes on
                    self._joined.clear()
                    await self._joined.wait()
                last = due = loop.time()
                owed = done = asked = 0.0
            now = loop.time()
            if now - self._viewers[0].heard > LETS_GO:
                drive.hold((0.0, 0.0))
            passed, last = now - last, now
            asked += passed * drive.speed
            owed = min(owed + passed * drive.speed, MOST_OWED)
            while owed >= dt:
                drive.step()
                owed, done = owed - dt, done + dt
                if loop.time() - now > tick:
                    break
            self._tell_poses(loop.time() - began)
            if now - told > 1 / STATUS_PER_SECOND:
                if asked > 0.3:  # over some time: from one frame to the next it varies
                    self.rate = done / asked
                    done = asked = 0.0
                told = now
                self._tell_status()
            due = max(due + tick, loop.time() - tick)
            await asyncio.sleep(max(due - loop.time(), 0.0))

    def _tell_poses(self, at: float) -> None:
        if self._scene.robot != int(self._drive.envs.simulations.robot_ids[0]):
            self._scene = Scene(self._drive.envs.simulations)  # another one of a family
        ground: bytes | None = None
        poses = websocket.frame(websocket.BINARY, self._scene.poses(self._drive.now(), at))
        for viewer in self._viewers:
            if viewer.robot != self._scene.robot:
                viewer.robot = self._scene.robot
                viewer.send(_text({"kind": "scene", "solids": self._scene.solids, **self._known()}))
            if viewer.ground != self._drive.terrain_id:
                viewer.ground = self._drive.terrain_id
                ground = ground or websocket.frame(websocket.BINARY, self._scene.ground())
                viewer.send(ground)
            viewer.send(poses, whenever=False)

    def _known(self) -> dict[str, Any]:
        """What does not change."""
        told = self._drive.envs.world.told
        command = told.command
        return {
            "name": self._name,
            "command": type(command).__name__.lower(),
            "fastest": min(getattr(command, "max_speed", math.inf), told.limits.speed),
            "turns": getattr(command, "max_yaw_rate", 0.0) > 0.0,
            "torque": float(self._drive.envs.simulations.plane.actuator_ctrlrange[0, 1]),
            "tilt_limit": self._drive.envs.config.tilt_limit_deg,
        }

    def _tell_status(self) -> None:
        drive = self._drive
        status = {
            "kind": "status", "said": drive.said, "ground": drive.ground, "episode": drive.episode,
            "falls": drive.falls, "lies": drive.lies, "speed": drive.speed, "rate": round(self.rate, 3),
            "viewers": len(self._viewers), "seconds": round(drive.now().seconds, 2), "pushes": drive.pushes,
            "pushed": drive.pushed.tolist(),
        }  # fmt: skip
        for place, viewer in enumerate(list(self._viewers)):
            viewer.send(_text({**status, "place": place}))

    # -- The network --------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, whatever comes."""
        task = asyncio.current_task()
        assert task is not None
        crowded = len(self._connections) >= MOST_CONNECTIONS
        self._connections.add(task)
        try:
            if crowded:
                _answer(writer, 503, "too many connections: close some pages")
            else:
                await self._serve(reader, writer)
            writer.close()
            async with asyncio.timeout(TAKE_TIME):
                await writer.wait_closed()  # once all is sent
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            pass  # gone, or this is the end
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_TIME):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            return _answer(writer, 431, f"a request's head has {MOST_HEAD} bytes at most")
        first, *lines = head.split("\r\n")
        words = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _answer(writer, 400, "this is no HTTP request")
        method, path = words[0], words[1].partition("?")[0]
        host = headers.get("host", "")
        if not self._is_called(host):
            return _answer(writer, 403, f"{host!r} is not what this machine is called: use {self._where}")
        if method != "GET":
            return _answer(writer, 405, "only GET")
        if path == "/drive":
            return await self._watched(reader, writer, headers)
        if path not in self._pages:
            return _answer(writer, 404, f"nothing here: see {self._where}")
        content, kind = self._pages[path]
        return _answer(writer, 200, content, kind)

    def _is_called(self, host: str) -> bool:
        """Whether this machine is, in the header Host: a name that anybody may have given its address is refused."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not _is_loopback(self.host)

    async def _watched(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]
    ) -> None:
        """A page asks for a WebSocket, by which it is shown the robot."""
        origin = headers.get("origin", "")
        if origin not in (f"http://{headers['host']}", f"https://{headers['host']}"):
            return _answer(writer, 403, f"the page {origin!r} is not this server's: open {self._where}")
        if headers.get("upgrade", "").lower() != "websocket" or headers.get("sec-websocket-version") != "13":
            return _answer(writer, 426, "a WebSocket, version 13, is served here")
        try:
            answer = websocket.accept(headers.get("sec-websocket-key", ""))
        except ProtocolError as error:
            return _answer(writer, 400, str(error))
        if len(self._viewers) >= MOST_VIEWERS:
            return _answer(writer, 503, f"{MOST_VIEWERS} pages watch already: close one")
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {answer}\r\n\r\n".encode()
        )
        viewer = Viewer(writer, asyncio.get_running_loop().time())
        self._viewers.append(viewer)
        self._joined.set()
        try:
            async with _closes(writer):
                while await self._hears(viewer, reader):
                    pass
        finally:
            if viewer is self._viewers[0]:
                self._drive.hold((0.0, 0.0))  # whoever drove is gone
            self._viewers.remove(viewer)

    async def _hears(self, viewer: Viewer, reader: asyncio.StreamReader) -> bool:
        """Hear one message; False once there will be no more."""
        async with asyncio.timeout(GONE):
            opcode, payload = await websocket.read_message(reader)
        viewer.heard = now = asyncio.get_running_loop().time()
        viewer.recent = [*(before for before in viewer.recent if now - before < 1.0), now]
        if len(viewer.recent) > MOST_MESSAGES:
            raise ProtocolError(1008, f"more than {MOST_MESSAGES} messages a second")
        if opcode == websocket.CLOSE:
            viewer.send(websocket.frame(websocket.CLOSE, payload[:2]))
            return False
        if opcode == websocket.PING:
            viewer.send(websocket.frame(websocket.PONG, payload[:125]))
        elif opcode == websocket.TEXT:
            told = _read(payload)
            if viewer is self._viewers[0]:
                self._obey(told)
        return True

    def _obey(self, told: dict[str, Any]) -> None:
        """Do what whoever drives asks for."""
        drive = self._drive
        if "stick" in told:
            drive.hold(_vector(told["stick"]), _number(told.get("turn", 0.0)))
        match told.get("press"):
            case None:
                pass
            case "push":
                drive.push(_vector(told.get("along")))
            case "reset":
                drive.reset()
            case "next":
                drive.next_ground()
            case "slow":
                drive.slower()
            case _:
                raise ProtocolError(1008, "no such key")


@contextlib.asynccontextmanager
async def _closes(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Tell a page why its WebSocket is closed, where it does not keep to the protocol."""
    try:
        yield
    except ProtocolError as error:
        writer.write(websocket.closing(error.code, str(error)))


def _answer(writer: asyncio.StreamWriter, code: int, content: bytes | str, kind: str = "text/plain") -> None:
    """Answer a request, and no other by this connection."""
    body = f"{content}\n".encode() if isinstance(content, str) else content
    head = f"HTTP/1.1 {code} {ANSWERS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}{SAFE}Connection: close\r\n\r\n".encode() + body)


def _text(told: dict[str, Any]) -> bytes:
    return websocket.frame(websocket.TEXT, json.dumps(told).encode())


def _read(payload: bytes) -> dict[str, Any]:
    """A page's message, a JSON object.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(1007, "messages must be JSON") from error
    if not isinstance(told, dict):
        raise ProtocolError(1008, "messages must be objects")
    return told


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e6 <= value <= 1e6:
        raise ProtocolError(1008, "a number was expected")
    return float(value)


def _vector(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError(1008, "two numbers were expected")
    return _number(value[0]), _number(value[1])


def _is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach what listens there."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str) -> set[str]:
    """What this machine may be called by who reaches it there."""
    if _is_loopback(host):
        return set(LOOPBACK_NAMES)
    own = socket.gethostname().lower()
    return {*LOOPBACK_NAMES, host.lower(), own, f"{own}.local"}


def _cannot_listen(host: str, port: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} is taken, perhaps by another robot: choose one by --port, 0 for any that is free"
    if number == errno.EACCES:
        return f"port {port} may not be opened by you: choose one above 1023 by --port"
    if number == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine: take 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"nothing can listen at {host}, port {port} ({error}): choose others by --host and --port"
