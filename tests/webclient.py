# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""A client of pages and WebSockets, and a browser without a window, by the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TEXT, CLOSE = 1, 8


def answer(port, request, host="127.0.0.1"):
    """The whole answer to the text of a request."""
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        parts = []
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)


def get(port, path="/", host=None, method="GET"):
    """Status and body of a page."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host or f'127.0.0.1:{port}'}\r\n\r\n"
    head, _, body = answer(port, head).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


class WebSocket:
    """One that is open, or OSError with the server's answer."""

    def __init__(self, port, path="/drive", **headers):
        own = f"127.0.0.1:{port}"
        headers = {
            "Host": own, "Origin": f"http://{own}", "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        self._file = self._socket.makefile("rb")
        head = b""
        while (line := self._file.readline()) not in (b"\r\n", b""):
            head += line
        if b" 101 " not in head:
            text = head.decode() + self._file.read().decode()
            self._file.close()
            self._socket.close()
            raise OSError(text)

    def raw(self, data):
        self._socket.sendall(data)

    def send(self, message, opcode=TEXT):
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        size, mask = len(payload), os.urandom(4)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.raw(bytes([0x80 | opcode]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def receive(self):
        """Opcode and payload."""
        first, second = self._file.read(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
        return first & 0x0F, self._file.read(size)

    def told(self):
        """The next message in words."""
        while True:
            opcode, payload = self.receive()
            if opcode == TEXT:
                return json.loads(payload)

    def close_code(self):
        """Why the server closes it."""
        while True:
            opcode, payload = self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def close(self):
        self._file.close()
        self._socket.close()


class Browser:
    """A page in Chromium."""

    def __init__(self, name, folder, url, *options):
        self._process = subprocess.Popen(
            [
                name, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
                "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=480,400",
                "--remote-debugging-port=0", f"--user-data-dir={folder}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *options, "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            told = folder / "DevToolsActivePort"
            until(lambda: told.exists() and len(told.read_text().split()) == 2)
            port = int(told.read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as found:
                page = next(entry for entry in json.load(found) if entry["type"] == "page")
            path = page["webSocketDebuggerUrl"].split(str(port))[1]
            self._tools, self._asked = WebSocket(port, path, Origin=None), 0
            self.do("Page.navigate", url=url)
        except BaseException:
            self.close()
            raise

    def do(self, method, **params):
        self._asked += 1
        self._tools.send({"id": self._asked, "method": method, "params": params})
        while (told := self._tools.told()).get("id") != self._asked:
            pass
        assert "error" not in told, told
        return told["result"]

    def see(self, expression):
        """Its value in the page; None if it cannot be computed, as before the page is there."""
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def key(self, code, down=True):
        self.do("Input.dispatchKeyEvent", type="keyDown" if down else "keyUp", code=code, key=code)

    def picture(self):
        """PNG."""
        return base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])

    def close(self):
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()


def find_browser():
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def browsing(folder):
    """Gives a function that opens a page in Chromium, by its address, and closes all at the end."""
    if (name := find_browser()) is None:
        pytest.skip("no Chromium on this machine")
    with ExitStack() as opened:

        def browse(url, *options):
            page = Browser(name, folder / secrets.token_hex(4), url, *options)
            opened.callback(page.close)
            return page

        yield browse


def until(holds, seconds=60.0, what=""):
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what or "it never came"
        time.sleep(0.05)
    return found
