"""WebSockets (RFC 6455) as far as a page needs them: short messages, no fragments, no extensions."""

from __future__ import annotations

import asyncio
import base64
import hashlib

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
"""Opcodes."""
MOST_BYTES = 1024
"""Of a message that is read: keys are short."""
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class ProtocolError(Exception):
    """Somebody does not keep to the protocol; ``code`` says why the connection is closed (RFC 6455, 7.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def accept(key: str) -> str:
    """What the server answers to a client's Sec-WebSocket-Key.

    Raises:
        ProtocolError: it is no such key.
    """
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        valid = False
    if not valid:
        raise ProtocolError(1002, "Sec-WebSocket-Key must be 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()).decode()


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole message, as servers send it, without a mask."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 2**16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + payload


def closing(code: int, reason: str) -> bytes:
    """A message that closes the connection, and why."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:120])


async def read_message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and the payload of a client's next message.

    Raises:
        ProtocolError: it is too long, in fragments, not masked, or of no known kind.
        asyncio.IncompleteReadError, ConnectionError: the client is gone.
    """
    first, second = await reader.readexactly(2)
    opcode, size = first & 0x0F, second & 0x7F
    if not first & 0x80 or opcode == 0:
        raise ProtocolError(1003, "messages in fragments are not read")
    if first & 0x70 or opcode not in (TEXT, BINARY, CLOSE, PING, PONG):
        raise ProtocolError(1002, "no such kind of message")
    if not second & 0x80:
        raise ProtocolError(1002, "messages must be masked")
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    if size == 127 or size > MOST_BYTES:
        raise ProtocolError(1009, f"a message has {MOST_BYTES} bytes at most")
    mask, payload = await reader.readexactly(4), await reader.readexactly(size)
    return opcode, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
