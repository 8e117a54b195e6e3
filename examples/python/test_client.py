"""The rules of PROTOCOL.md that a source keeps: as `Outbox` decides, and on sockets with a receiver that says what a test wants."""

import logging
import socket
import struct
import threading
import unittest
import unittest.mock

import seawall_client
from seawall_client import AckedLoss, Outbox, RecordTooLong, Refused, Rejected, SessionEnded, Source, SourceError
from seawall_wire import (
    POISON, SPARSE, Ack, Bye, FrameReader, GoAway, Hello, Nack, Ping, Pong, ProtocolError, Redirect, Reject, Send, Skip,
    Welcome, encode,
)  # fmt: skip

PATIENCE = 20.0  # nothing takes longer, however busy the machine is; a test that fails is over then
GAP, MISMATCH, REJECTS_UNSEEN, FULL = 8, 9, 15, 16


def welcome(durable=0, **fields):
    usual = {
        "version": 1, "epoch": 7, "durable": durable, "credit_bytes": 1 << 20, "record_bytes_max": 1 << 16,
        "payload_bytes_max": 1 << 17, "records_max": 1000, "heartbeat_millis": 10_000,
    }  # fmt: skip
    return Welcome(**{**usual, **fields})


def records(send, sparse=False):
    """What a SEND holds: (sequence, bytes)."""
    found, at, seq = [], 0, send.previous
    for _ in range(send.records):
        (length,) = struct.unpack_from("<I", send.payload, at)
        step = 1
        if sparse:
            (step,) = struct.unpack_from("<I", send.payload, at + 4)
        at += 8 if sparse else 4
        seq += step
        found.append((seq, send.payload[at : at + length]))
        at += length
    assert at == len(send.payload)
    return found


class Decides(unittest.TestCase):
    """No clock, no socket."""

    def welcomed(self, *, numbering=0, told_durable=0, **fields):
        outbox = Outbox(b"meter-7", numbering=numbering, told_durable=told_durable)
        outbox.connected(0)
        outbox.heard(welcome(**fields), 0)
        return outbox

    def said(self, outbox, now=0):
        """Everything that may be said now."""
        return list(iter(lambda: outbox.next_message(now), None))

    def test_nothing_is_said_before_the_welcome_and_then_from_where_it_says(self):
        outbox = Outbox(b"meter-7")
        self.assertEqual(outbox.connected(0), Hello(source=b"meter-7"))
        self.assertEqual(self.said(outbox), [])
        outbox.heard(GoAway(17), 0)
        outbox.heard(welcome(41), 0)
        self.assertEqual(outbox.push(b"a"), 42)
        (send,) = self.said(outbox)
        self.assertEqual((send.previous, records(send)), (41, [(42, b"a")]))

    def test_a_reconnect_sends_again_exactly_what_is_not_durable(self):
        outbox = self.welcomed()
        for record in (b"1", b"2", b"3", b"4", b"5"):
            outbox.push(record)
        self.assertEqual(len(self.said(outbox)), 1)
        outbox.push(b"6")
        outbox.heard(Ack(received=5, durable=2), 0)
        outbox.disconnected()
        # The receiver had come farther than it could tell.
        self.assertEqual(outbox.connected(1), Hello(source=b"meter-7", epoch=7, told_durable=2))
        outbox.heard(welcome(3), 1)
        self.assertEqual(outbox.durable, 3)
        (send,) = self.said(outbox, 1)
        self.assertEqual((send.previous, records(send)), (3, [(4, b"4"), (5, b"5"), (6, b"6")]))

    def test_only_what_is_called_durable_is(self):
        outbox = self.welcomed()
        for _ in range(5):
            outbox.push(b"x")
        self.said(outbox)
        outbox.heard(Ack(received=5, durable=2, committed=2), 0)
        self.assertEqual((outbox.durable, outbox.is_empty()), (2, False))
        outbox.heard(Ack(received=5, durable=1), 0)
        self.assertEqual(outbox.durable, 2)
        outbox.heard(Ack(received=5, durable=5), 0)
        self.assertEqual((outbox.durable, outbox.is_empty(), outbox.held_bytes), (5, True, 0))

    def test_what_was_not_sent_is_not_durable(self):
        outbox = self.welcomed()
        outbox.push(b"x")
        with self.assertRaises(SourceError):
            outbox.heard(Ack(durable=1), 0)
        self.assertEqual(outbox.durable, 0)

    def test_payloads_never_pass_the_credit_resent_ones_included(self):
        outbox = self.welcomed(credit_bytes=100)
        for _ in range(20):
            outbox.push(b"x" * 16)
        first = self.said(outbox)
        self.assertEqual(sum(len(send.payload) for send in first), 100)
        outbox.heard(Ack(durable=5, credit_bytes=150), 0)
        more = self.said(outbox)
        self.assertEqual([(send.previous, len(send.payload)) for send in more], [(5, 40)])
        # One that is lower takes nothing back.
        outbox.heard(Ack(durable=5, credit_bytes=50), 0)
        outbox.heard(Nack(GAP, expected=5), 0)
        self.assertEqual(self.said(outbox), [], "10 bytes are left")
        outbox.heard(Ack(durable=5, credit_bytes=190), 0)
        self.assertEqual([(send.previous, len(send.payload)) for send in self.said(outbox)], [(5, 40)])
        # It counts from the beginning of a session.
        outbox.connected(0)
        outbox.heard(welcome(5, credit_bytes=60), 0)
        self.assertEqual([(send.previous, len(send.payload)) for send in self.said(outbox)], [(5, 60)])

    def test_a_send_keeps_to_the_limits(self):
        outbox = self.welcomed(payload_bytes_max=50, records_max=3)
        for length in (1, 1, 1, 1, 20, 20, 20):
            outbox.push(b"x" * length)
        self.assertEqual([len(records(send)) for send in self.said(outbox)], [3, 2, 2])

    def test_a_record_that_is_too_long_is_not_taken(self):
        outbox = self.welcomed(record_bytes_max=10)
        with self.assertRaises(RecordTooLong):
            outbox.push(b"x" * 11)
        self.assertEqual(outbox.push(b"x" * 10), 1)

    def test_a_record_that_another_receiver_will_not_hold_goes_alone_and_is_not_counted(self):
        outbox = self.welcomed()
        for length in (1, 60, 1):
            outbox.push(b"x" * length)
        outbox.connected(0)
        outbox.heard(welcome(payload_bytes_max=50, record_bytes_max=46, credit_bytes=10), 0)
        self.assertEqual([len(send.payload) for send in self.said(outbox)], [5, 64, 5])

    def test_after_a_nack_that_says_so_everything_behind_expected_is_sent_again(self):
        for code in (GAP, MISMATCH, REJECTS_UNSEEN):
            outbox = self.welcomed()
            for record in (b"1", b"2", b"3"):
                outbox.push(record)
            self.said(outbox)
            outbox.is_closing = True
            self.assertEqual(self.said(outbox), [Bye()])
            outbox.heard(Nack(code, expected=1, retry_after_millis=500), 1)
            self.assertEqual(self.said(outbox, 1.4), [])
            self.assertEqual(outbox.deadline(), 1.5)
            send, bye = self.said(outbox, 1.5)
            self.assertEqual((send.previous, records(send), bye), (1, [(2, b"2"), (3, b"3")], Bye()))

    def test_a_sparse_mismatch_goes_on_behind_what_is_expected(self):
        outbox = self.welcomed(numbering=SPARSE)
        outbox.push(b"a", 10)
        outbox.push(b"b", 20)
        self.said(outbox)
        outbox.heard(Nack(MISMATCH, expected=15), 0)
        (send,) = self.said(outbox)
        self.assertEqual((send.previous, records(send, sparse=True)), (15, [(20, b"b")]))

    def test_expected_is_somewhere_between_what_is_durable_and_what_was_sent(self):
        for expected in (1, 4):
            outbox = self.welcomed()
            for _ in range(3):
                outbox.push(b"x")
            self.said(outbox)
            outbox.heard(Ack(durable=2), 0)
            with self.assertRaises(ProtocolError):
                outbox.heard(Nack(GAP, expected=expected), 0)

    def test_other_nacks_that_are_not_fatal_change_nothing(self):
        for code in (FULL, 4711):
            outbox = self.welcomed()
            outbox.push(b"x")
            self.said(outbox)
            outbox.heard(Nack(code, retry_after_millis=500), 0)
            self.assertEqual(self.said(outbox), [])
            outbox.push(b"y")
            self.assertEqual(len(self.said(outbox)), 1)

    def test_fatal_nacks_stop_or_have_it_connect_again(self):
        for code in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 20, 4711):
            with self.subTest(code), self.assertRaises(Refused):
                self.welcomed().heard(Nack(code, fatal=1), 0)
        for code in (8, 9, 14, 15, 16, 17, 18, 19):
            with self.subTest(code), self.assertRaises(SessionEnded) as ended:
                self.welcomed().heard(Nack(code, fatal=1, retry_after_millis=250), 0)
            self.assertEqual(ended.exception.wait, 0.25)
        with self.assertRaises(AckedLoss):
            self.welcomed(durable=5).heard(Nack(10, fatal=1, expected=3), 0)

    def test_a_receiver_that_has_lost_something_is_found_out(self):
        outbox = Outbox(b"meter-7", told_durable=5)
        self.assertEqual(outbox.connected(0).told_durable, 5)
        with self.assertRaises(AckedLoss):
            outbox.heard(welcome(4), 0)
        outbox = self.welcomed(durable=5)
        outbox.connected(0)
        with self.assertRaises(AckedLoss):
            outbox.heard(welcome(4), 0)

    def test_a_redirect_names_the_place_and_the_epoch_is_kept(self):
        outbox = self.welcomed()
        with self.assertRaises(SessionEnded) as ended:
            outbox.heard(Redirect("b:7", 250), 0)
        self.assertEqual((ended.exception.address, ended.exception.wait), ("b:7", 0.25))
        self.assertEqual(outbox.connected(0).epoch, 7)

    def test_no_welcome_no_epoch(self):
        outbox = Outbox(b"meter-7")
        outbox.connected(0)
        with self.assertRaises(SessionEnded):
            outbox.check_silence(seawall_client.WELCOME_WITHIN)
        self.assertEqual(outbox.connected(0).epoch, 0)

    def test_a_silent_receiver_is_asked_after_one_heartbeat_and_left_after_three(self):
        outbox = self.welcomed()
        self.assertEqual(outbox.deadline(), 10)
        self.assertEqual(self.said(outbox, 9.9), [])
        self.assertEqual(self.said(outbox, 10), [Ping()])
        self.assertEqual(outbox.deadline(), 30)
        self.assertEqual(self.said(outbox, 29), [])
        outbox.check_silence(29)
        with self.assertRaises(SessionEnded):
            outbox.check_silence(30)
        outbox.heard(Pong(), 30)
        self.assertEqual(self.said(outbox, 39), [])

    def test_a_ping_is_answered_before_anything_else(self):
        outbox = self.welcomed()
        outbox.push(b"x")
        outbox.heard(Ping(nonce=99), 0)
        self.assertEqual(outbox.next_message(0), Pong(99))

    def test_sparse_records_carry_their_step_and_a_longer_one_takes_a_skip(self):
        outbox = self.welcomed(numbering=SPARSE, durable=41)
        far = 500 + 0x1_0000_0000
        for seq, record in ((500, b"ab"), (far, b"c"), (far + 1, b"d")):
            outbox.push(record, seq)
        outbox.skip(far + 9)
        first, skip, second, last = self.said(outbox)
        self.assertEqual((first.previous, records(first, sparse=True)), (41, [(500, b"ab")]))
        self.assertEqual(skip, Skip(500, far - 1))
        self.assertEqual((second.previous, records(second, sparse=True)), (far - 1, [(far, b"c"), (far + 1, b"d")]))
        self.assertEqual(last, Skip(far + 1, far + 9))
        for seq in (None, far + 9):
            with self.assertRaises(ValueError):
                outbox.push(b"x", seq)

    def test_a_reject_is_told_once_and_answered_as_often_as_it_is_listed(self):
        outbox = self.welcomed()
        reject = Reject(1, POISON, 3)
        self.assertEqual(outbox.unseen((reject,)), (reject,))
        outbox.saw((reject,))
        self.assertEqual(self.said(outbox), [Ping(rejects_seen=1)])
        self.assertEqual(outbox.unseen((reject,)), ())
        self.assertEqual(self.said(outbox), [Ping(rejects_seen=1)])

    def test_what_does_not_belong_there_ends_the_session(self):
        for message in (welcome(), Bye(), Hello(), Send(), Skip()):
            with self.subTest(message), self.assertRaises(ProtocolError):
                self.welcomed().heard(message, 0)
        outbox = Outbox(b"meter-7")
        outbox.connected(0)
        with self.assertRaises(ProtocolError):
            outbox.heard(Ack(), 0)

    def test_the_window_is_a_limit(self):
        outbox = self.welcomed()
        window = 1000
        self.assertFalse(outbox.is_full(b"x" * 2000, window), "one record is held, however long it is")
        while not outbox.is_full(b"x" * 100, window):
            outbox.push(b"x" * 100)
            self.assertLessEqual(outbox.held_bytes, window)
        self.assertGreater(outbox.held_bytes, window // 2)


class Receiver:
    """One that says what a test wants; a connection at a time."""

    def __init__(self, test):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        test.addCleanup(self._listener.close)
        self._test, self._streams = test, []

    def accept(self):
        """The HELLO of the next connection."""
        self._stream = self._listener.accept()[0]
        self._streams.append(self._stream)
        self._stream.settimeout(PATIENCE)
        self._frames, self._heard = FrameReader(), []
        return self.hear()

    def hear(self):
        while not self._heard:
            data = self._stream.recv(1 << 16)
            assert data, "the source went away"
            self._heard += self._frames.feed(data)
        return self._heard.pop(0)

    def hear_records(self, last):
        """Records up to this one."""
        found = []
        while not found or found[-1][0] < last:
            found += records(self.hear())
        return found

    def say(self, message):
        self._stream.sendall(encode(message))

    def cut(self):
        self._stream.close()

    def play(self, script):
        """Follows it beside the test."""
        failed = []

        def run():
            try:
                script()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def ended():
            thread.join(PATIENCE)
            for stream in self._streams:
                stream.close()
            self._test.assertFalse(thread.is_alive() or failed, failed)

        self._test.addCleanup(ended)


class OnSockets(unittest.TestCase):
    def setUp(self):
        # Lost connections are what is tested.
        logging.getLogger("seawall").setLevel(logging.CRITICAL)

    def test_flush_waits_for_durable_through_a_cut(self):
        receiver, told = Receiver(self), []
        is_received, is_flushed = threading.Event(), threading.Event()

        def script():
            receiver.accept()
            receiver.say(welcome(10))
            self.assertEqual(receiver.hear_records(13), [(11, b"a"), (12, b"b"), (13, b"c")])
            receiver.say(Ack(received=13, durable=11, credit_bytes=1 << 20))
            self.assertTrue(is_received.wait(PATIENCE))
            receiver.cut()
            hello = receiver.accept()
            self.assertEqual((hello.epoch, hello.told_durable), (7, 11))
            receiver.say(welcome(11))
            self.assertEqual(receiver.hear_records(13), [(12, b"b"), (13, b"c")])
            self.assertFalse(is_flushed.is_set())
            receiver.say(Ack(received=13, durable=13, credit_bytes=1 << 20))
            self.assertEqual(receiver.hear(), Bye())
            receiver.say(Bye())

        receiver.play(script)
        with Source(receiver.address, b"meter-7", on_durable=told.append) as source:
            self.assertEqual(source.durable, 10)
            for record in (b"a", b"b", b"c"):
                source.send(record)
            with self.assertRaises(TimeoutError):
                source.flush(0.2)
            is_received.set()
            self.assertEqual(source.flush(PATIENCE), 13)
            is_flushed.set()
        self.assertIn(told, ([11, 13], [10, 11, 13]))
        with self.assertRaises(SourceError):
            source.send(b"d")

    def test_what_a_connection_does_not_take_at_once_is_followed_by_the_rest(self):
        receiver, is_heard = Receiver(self), threading.Event()

        def script():
            receiver.accept()
            # Nothing is acknowledged, and no heartbeat comes: nothing but room wakes the source.
            receiver.say(welcome(heartbeat_millis=3_600_000))
            receiver.hear_records(10)
            is_heard.set()

        def send(connection, data, send=seawall_client._send):
            return send(connection, data[:1000])

        receiver.play(script)
        with unittest.mock.patch.object(seawall_client, "_send", send):
            source = Source(receiver.address, b"meter-7")
            for _ in range(10):
                source.send(bytes(60_000))
            self.assertTrue(is_heard.wait(PATIENCE))
            source.abandon()

    def test_a_receiver_that_neither_reads_nor_speaks_is_left(self):
        receiver, is_left = Receiver(self), threading.Event()

        def script():
            receiver.accept()
            receiver.say(welcome(heartbeat_millis=200))
            self.assertEqual(receiver.accept().epoch, 7)
            is_left.set()

        def send(connection, data, send=seawall_client._send):
            return send(connection, data) if len(data) < 1000 else 0

        receiver.play(script)
        with unittest.mock.patch.object(seawall_client, "_send", send):
            source = Source(receiver.address, b"meter-7")
            source.send(bytes(60_000))
            self.assertTrue(is_left.wait(PATIENCE))
            source.abandon()

    def test_send_waits_while_the_window_is_full(self):
        receiver, sent = Receiver(self), threading.Event()

        def script():
            receiver.accept()
            receiver.say(welcome())
            receiver.hear_records(2)
            self.assertFalse(sent.wait(0.2))
            receiver.say(Ack(received=1, durable=1, credit_bytes=1 << 20))
            self.assertTrue(sent.wait(PATIENCE))

        receiver.play(script)
        source = Source(receiver.address, b"meter-7", window_bytes=2000)
        for _ in range(3):
            source.send(b"x" * 800)
        sent.set()
        source.abandon()

    def test_a_reject_ends_the_source_unless_somebody_hears_of_it(self):
        reject = Reject(1, POISON, 1)
        for on_reject in (False, True):
            receiver, rejects = Receiver(self), []

            def script(receiver=receiver, on_reject=on_reject):
                receiver.accept()
                receiver.say(welcome())
                receiver.hear_records(1)
                receiver.say(Ack(received=1, durable=1, credit_bytes=1 << 20, rejects=(reject,)))
                if on_reject:
                    self.assertEqual(receiver.hear(), Ping(rejects_seen=1))
                    self.assertEqual(receiver.hear(), Bye())
                    receiver.say(Bye())

            receiver.play(script)
            source = Source(receiver.address, b"meter-7", on_reject=rejects.append if on_reject else None)
            source.send(b"x")
            if on_reject:
                self.assertEqual((source.flush(PATIENCE), rejects), (1, [reject]))
                source.close(PATIENCE)
            else:
                with self.assertRaises(Rejected):
                    source.flush(PATIENCE)

    def test_an_error_of_the_caller_s_is_told(self):
        receiver = Receiver(self)

        def script():
            receiver.accept()
            receiver.say(welcome())
            receiver.hear_records(1)
            receiver.say(Ack(received=1, durable=1))

        def full(_durable):
            raise OSError("the disk is full")

        receiver.play(script)
        source = Source(receiver.address, b"meter-7", on_durable=full)
        source.send(b"x")
        with self.assertRaisesRegex(SourceError, "disk is full"):
            while True:
                source.send(b"y" * 1000)

    def test_another_address_is_tried_and_nobody_there_is_given_up(self):
        receiver = Receiver(self)

        def script():
            receiver.accept()
            receiver.say(welcome(3))

        receiver.play(script)
        nobody = socket.create_server(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % nobody.getsockname()[1]
        nobody.close()
        source = Source([address, receiver.address], b"meter-7")
        self.assertEqual(source.durable, 3)
        source.abandon()
        with self.assertRaisesRegex(SourceError, address):
            Source(address, b"meter-7", give_up_after=0)

    def test_what_is_not_encrypted_stays_on_this_machine(self):
        outward = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(outward.close)
        try:
            outward.connect(("192.0.2.1", 9))
        except OSError:
            self.skipTest("this machine has loopback only")
        listener = socket.create_server((outward.getsockname()[0], 0))
        self.addCleanup(listener.close)
        with self.assertRaisesRegex(SourceError, "plaintext_beyond_loopback"):
            Source("%s:%d" % listener.getsockname(), b"meter-7")


if __name__ == "__main__":
    unittest.main()
