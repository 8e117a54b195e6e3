"""The bytes of the receiver's protocol, version 1: messages to frames, and frames to messages. No I/O.

The page is src/receiver/PROTOCOL.md, in the same words. test_wire.py compares each message with the bytes that it shows.
"""

import struct
from typing import NamedTuple

DENSE, SPARSE, NONE = 0, 1, 2  # how records are numbered
RECEIVED, DURABLE, COMMITTED = 0, 1, 2  # what a source waits for
OVERSIZED, POISON = 1, 2  # why a record was rejected

CODES = {
    1: "Protocol", 2: "Version", 3: "Unauthorized", 4: "UnknownStream", 5: "OldEpoch", 6: "Replaced", 7: "Retired",
    8: "Gap", 9: "Mismatch", 10: "AckedLoss", 11: "Oversized", 12: "Poison", 13: "Credit", 14: "TooMany",
    15: "RejectsUnseen", 16: "Full", 17: "Draining", 18: "Timeout", 19: "Unavailable", 20: "Limit",
}  # fmt: skip

# Enough for as many rejects as a message can tell.
BODY_BYTES_MAX = 1_258_291

HEAD = struct.Struct("<IBBH")
SUM_BYTES = 4


class ProtocolError(Exception):
    """The other end does not keep to the protocol, or a line damaged what it said."""


# --- CRC-32C ---------------------------------------------------------------------------------------------------------


def _table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_TABLE = tuple(_table())


def crc32c(data, before=0):
    """CRC-32C (Castagnoli) of what has the sum `before`, followed by `data`.

    A byte at a time, 8 MB/s where it was measured (CPython 3.11): it is what limits this client. A package in C does
    gigabytes: this is the one function to replace.
    """
    table, crc = _TABLE, before ^ 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- fields: each puts a value into bytes, and takes it from a body --------------------------------------------------


class _Body:
    """A body that is being read; nobody reads beyond its end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if length > len(self.data) - self.at:
            raise ProtocolError(f"a body of {len(self.data)} bytes ends within a field at {self.at}")
        self.at += length
        return self.data[self.at - length : self.at]


class _Number:
    def __init__(self, layout, only=None):
        self.struct, self.only = struct.Struct("<" + layout), only

    def put(self, value):
        return self.struct.pack(value)

    def take(self, body):
        (value,) = self.struct.unpack(body.take(self.struct.size))
        if self.only is not None and value not in self.only:
            raise ProtocolError(f"{value} in a field that holds one of {self.only}")
        return value


class _Bytes:
    def put(self, value):
        return struct.pack("<H", len(value)) + value

    def take(self, body):
        return body.take(U16.take(body))


class _Text(_Bytes):
    def put(self, value):
        return super().put(value.encode())

    def take(self, body):
        try:
            return super().take(body).decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a text that is no UTF-8: {error}") from error


class _Rejects:
    def put(self, rejects):
        each = (U64.put(r.seq) + REASON.put(r.reason) + U64.put(r.bytes) for r in rejects)
        return U16.put(len(rejects)) + b"".join(each)

    def take(self, body):
        return tuple(Reject(U64.take(body), REASON.take(body), U64.take(body)) for _ in range(U16.take(body)))


class _Rest:
    def put(self, value):
        return bytes(value)

    def take(self, body):
        return body.take(len(body.data) - body.at)


U8, U16, U32, U64 = _Number("B"), _Number("H"), _Number("I"), _Number("Q")
ONE_OF_THREE, FLAG, REASON, ZERO = _Number("B", (0, 1, 2)), _Number("B", (0, 1)), _Number("B", (1, 2)), _Number("I", (0,))
MAGIC = _Number("I", (int.from_bytes(b"SWL1", "little"),))
BYTES, TEXT, REJECTS, REST = _Bytes(), _Text(), _Rejects(), _Rest()


class Reject(NamedTuple):
    """A record that the receiver keeps aside: the watermarks pass it, and it is never durable."""

    seq: int
    reason: int
    bytes: int


# --- messages: the type's number, and a field for each value ---------------------------------------------------------


class Hello(NamedTuple):
    magic: int = MAGIC.only[0]
    version_min: int = 1
    version_max: int = 1
    features: int = 0
    numbering: int = DENSE
    wait_for: int = DURABLE
    epoch: int = 0
    told_durable: int = 0
    token: bytes = b""
    stream: str = ""
    source: bytes = b""
    TYPE = 1
    FIELDS = (MAGIC, U16, U16, U64, ONE_OF_THREE, ONE_OF_THREE, U64, U64, BYTES, TEXT, BYTES)


class Welcome(NamedTuple):
    version: int = 1
    features: int = 0
    session: int = 0
    epoch: int = 0
    durable: int = 0
    committed: int = 0
    durable_lsn: int = 0
    credit_bytes: int = 0
    record_bytes_max: int = 0
    payload_bytes_max: int = 0
    records_max: int = 0
    heartbeat_millis: int = 0
    rejects: tuple = ()
    TYPE = 2
    FIELDS = (U16, U64, U64, U64, U64, U64, U64, U64, U32, U32, U32, U32, REJECTS)


class Redirect(NamedTuple):
    address: str = ""
    retry_after_millis: int = 0
    TYPE = 3
    FIELDS = (TEXT, U32)


class Send(NamedTuple):
    previous: int = 0
    records: int = 0
    codec: int = 0
    payload: bytes = b""
    TYPE = 4
    FIELDS = (U64, U32, ZERO, REST)


class Skip(NamedTuple):
    previous: int = 0
    to: int = 0
    TYPE = 5
    FIELDS = (U64, U64)


class Ack(NamedTuple):
    received: int = 0
    durable: int = 0
    committed: int = 0
    durable_lsn: int = 0
    credit_bytes: int = 0
    duplicates: int = 0
    rejects: tuple = ()
    TYPE = 6
    FIELDS = (U64, U64, U64, U64, U64, U64, REJECTS)


class Nack(NamedTuple):
    code: int = 0
    fatal: int = 0
    at: int = 0
    expected: int = 0
    retry_after_millis: int = 0
    text: str = ""
    TYPE = 7
    FIELDS = (U16, FLAG, U64, U64, U32, TEXT)


class Ping(NamedTuple):
    nonce: int = 0
    rejects_seen: int = 0
    TYPE = 8
    FIELDS = (U64, U64)


class Pong(NamedTuple):
    nonce: int = 0
    TYPE = 9
    FIELDS = (U64,)


class GoAway(NamedTuple):
    code: int = 0
    deadline_millis: int = 0
    text: str = ""
    TYPE = 10
    FIELDS = (U16, U32, TEXT)


class Bye(NamedTuple):
    TYPE = 11
    FIELDS = ()


_MESSAGES = {m.TYPE: m for m in (Hello, Welcome, Redirect, Send, Skip, Ack, Nack, Ping, Pong, GoAway, Bye)}


def record_header(numbering, previous, seq, record):
    """What stands before a record's bytes in a SEND's payload."""
    if numbering == SPARSE:
        return struct.pack("<II", len(record), seq - previous)
    return struct.pack("<I", len(record))


def header_bytes(numbering):
    """How long that is."""
    return 8 if numbering == SPARSE else 4


def encode(message):
    """The frame of a message."""
    body = b"".join(field.put(value) for field, value in zip(message.FIELDS, message))
    frame = HEAD.pack(len(body), message.TYPE, 0, 0) + body
    return frame + struct.pack("<I", crc32c(frame))


def decode(frame):
    """The message of a whole frame; raises `ProtocolError` unless every byte is as it ought to be."""
    end = len(frame) - SUM_BYTES
    if end < HEAD.size or frame_bytes(frame) != len(frame):
        raise ProtocolError(f"a frame of {len(frame)} bytes is cut, or too long")
    (told,) = struct.unpack("<I", frame[end:])
    if told != crc32c(frame[:end]):
        raise ProtocolError(f"a frame of {len(frame)} bytes whose checksum is wrong")
    message = _MESSAGES[frame[4]]
    body = _Body(bytes(frame[HEAD.size : end]))
    values = [field.take(body) for field in message.FIELDS]
    if body.at != len(body.data):
        raise ProtocolError(f"{message.__name__} has {len(body.data) - body.at} bytes too many")
    return message(*values)


def frame_bytes(head, body_bytes_max=BODY_BYTES_MAX):
    """How long the frame is that begins so; raises `ProtocolError` where nobody should wait for it."""
    length, kind, flags, zero = HEAD.unpack_from(head)
    if kind not in _MESSAGES or flags or zero:
        raise ProtocolError(f"no message begins with {bytes(head[: HEAD.size]).hex(' ')}")
    if length > body_bytes_max:
        raise ProtocolError(f"a body of {length} bytes, the limit is {body_bytes_max}")
    return HEAD.size + length + SUM_BYTES


class FrameReader:
    """Cuts what comes into messages. Holds one frame and what came with its last bytes, no more."""

    def __init__(self):
        self._held = bytearray()

    def feed(self, data):
        """The messages that are whole now."""
        self._held += data
        while len(self._held) >= HEAD.size:
            length = frame_bytes(self._held)
            if len(self._held) < length:
                return
            frame = bytes(self._held[:length])
            del self._held[:length]
            yield decode(frame)
