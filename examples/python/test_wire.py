"""Each message is encoded as the bytes that PROTOCOL.md shows, and decoded from them."""

import pathlib
import struct
import unittest

from seawall_wire import (
    CODES, DENSE, NONE, POISON, SPARSE, Ack, Bye, FrameReader, GoAway, Hello, Nack, Ping, Pong, ProtocolError, Redirect,
    Reject, Send, Skip, Welcome, crc32c, decode, encode, record_header,
)  # fmt: skip

PAGE = pathlib.Path(__file__).resolve().parents[2] / "src/receiver/PROTOCOL.md"


def send(numbering, previous, *records):
    """As a source lays it out."""
    payload, count, before = b"", 0, previous
    for seq, record in records:
        payload += record_header(numbering, before, seq, record) + record
        before, count = seq, count + 1
    return Send(previous=0 if numbering == NONE else previous, records=count, payload=payload)


EXAMPLES = {
    "HELLO": Hello(epoch=3, told_durable=41, token=b"tk", stream="in", source=b"meter-7"),
    "WELCOME": Welcome(
        session=5, epoch=3, durable=41, committed=30, durable_lsn=900, credit_bytes=8 << 20, record_bytes_max=4 << 20,
        payload_bytes_max=(4 << 20) + 8, records_max=10_000, heartbeat_millis=10_000, rejects=(Reject(40, POISON, 9),),
    ),  # fmt: skip
    "REDIRECT": Redirect(address="b:7", retry_after_millis=250),
    "SEND dense": send(DENSE, 41, (42, b"ab"), (43, b"")),
    "SEND sparse": send(SPARSE, 41, (500, b"ab"), (501, b"c")),
    "SEND none": send(NONE, 0, (1, b"ab")),
    "SKIP": Skip(previous=43, to=99),
    "ACK": Ack(
        received=43, durable=42, committed=30, durable_lsn=901, credit_bytes=(8 << 20) + 10, duplicates=2,
        rejects=(Reject(40, POISON, 9),),
    ),  # fmt: skip
    "NACK": Nack(code=8, at=50, expected=43, text="gap"),
    "PING": Ping(nonce=7, rejects_seen=40),
    "PONG": Pong(nonce=7),
    "GOAWAY": GoAway(code=17, deadline_millis=30_000, text="restart"),
    "BYE": Bye(),
}


def shown_on_the_page():
    """The bytes of each example: of each line of its block, what stands before the bar."""
    shown, name = {}, None
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            name = line.removeprefix("```text ") if name is None and "text " in line else None
        elif name is not None and "|" in line:
            shown[name] = shown.get(name, b"") + bytes.fromhex(line.split("|")[0])
    return {name: data for name, data in shown.items() if name.isupper() or name.startswith("SEND ")}


class TheWire(unittest.TestCase):
    def test_a_known_checksum(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(crc32c(b"6789", crc32c(b"12345")), 0xE3069283)

    def test_golden_bytes_are_those_of_the_page(self):
        shown = shown_on_the_page()
        self.assertEqual(set(shown), set(EXAMPLES))
        for name, message in EXAMPLES.items():
            with self.subTest(name):
                self.assertEqual(encode(message).hex(" "), shown[name].hex(" "))
                self.assertEqual(decode(shown[name]), message)

    def test_every_type_has_an_example(self):
        self.assertEqual({message.TYPE for message in EXAMPLES.values()}, set(range(1, 12)))

    def test_codes_are_those_of_the_page(self):
        page = PAGE.read_text()
        for number, code in CODES.items():
            self.assertIn(f"| {number} | {code} |", page)

    def test_cut_long_and_flipped_frames_are_refused(self):
        for name, message in EXAMPLES.items():
            whole = encode(message)
            wrong = [whole[:cut] for cut in range(len(whole))] + [whole + b"\0"]
            for bit in range(len(whole) * 8):
                flipped = bytearray(whole)
                flipped[bit // 8] ^= 1 << bit % 8
                wrong.append(bytes(flipped))
            for frame in wrong:
                with self.subTest(name, frame=frame.hex(" ")), self.assertRaises(ProtocolError):
                    decode(frame)

    def test_values_and_lengths_that_mean_nothing_are_refused(self):
        def sealed(frame, body_bytes):
            frame = struct.pack("<I", body_bytes) + frame[4:]
            return frame + struct.pack("<I", crc32c(frame))

        for name, at, value in [
            ("HELLO", 8, 0x58), ("HELLO", 24, 3), ("HELLO", 25, 3), ("HELLO", 48, 0xFF), ("NACK", 10, 2),
            ("ACK", 66, 0), ("SEND dense", 20, 1), ("BYE", 4, 12), ("BYE", 4, 0), ("BYE", 5, 1), ("BYE", 7, 1),
        ]:  # fmt: skip
            frame = bytearray(encode(EXAMPLES[name])[:-4])
            frame[at] = value
            with self.subTest(name, at=at), self.assertRaises(ProtocolError):
                decode(sealed(bytes(frame), len(frame) - 8))
        for name in EXAMPLES.keys() - {"SEND dense", "SEND sparse", "SEND none"}:
            frame = encode(EXAMPLES[name])[:-4]
            for other in [frame[:cut] for cut in range(8, len(frame))] + [frame + b"\0"]:
                with self.subTest(name, bytes=len(other)), self.assertRaises(ProtocolError):
                    decode(sealed(other, len(other) - 8))

    def test_messages_come_in_any_pieces(self):
        stream = b"".join(encode(message) for message in EXAMPLES.values())
        for step in (1, 7, len(stream)):
            frames, heard = FrameReader(), []
            for at in range(0, len(stream), step):
                heard += frames.feed(stream[at : at + step])
            self.assertEqual(heard, list(EXAMPLES.values()))

    def test_a_long_claim_is_refused_before_it_is_held(self):
        for head in (b"\xff\xff\xff\xff\x06\0\0\0", b"\0\0\0\0\x0c\0\0\0", b"\0\0\0\0\x06\1\0\0"):
            with self.assertRaises(ProtocolError):
                list(FrameReader().feed(head))


if __name__ == "__main__":
    unittest.main()
