"""A source of records for a Seawall receiver, in plain Python 3. It keeps what is not durable, and sends it until it is.

    with Source("127.0.0.1:7311", b"meter-7") as source:
        for record in records_behind(source.durable):  # the receiver says where to go on
            source.send(record)
        source.flush()  # returns when everything sent is durable

What it promises:

- `flush()`, `durable` and `on_durable` tell of nothing but what an ACK or a WELCOME called durable.
- After a lost connection it sends again exactly what is not durable, from where the WELCOME says.
- It holds at most `window_bytes` of records; `send()` waits beyond that.
- A record that the receiver keeps aside as a reject ends the source, unless `on_reject` is there to hear of it.

`Outbox` decides, and has neither clock, socket nor thread; `Source` puts it on a connection. The protocol is described in
src/receiver/PROTOCOL.md; the words here are those of that page, and nothing else is needed.
"""

import collections
import ipaddress
import logging
import random
import select
import socket
import ssl
import threading
import time

from seawall_wire import (
    CODES, DENSE, DURABLE, SPARSE, Ack, Bye, FrameReader, GoAway, Hello, Nack, Ping, Pong, ProtocolError, Redirect,
    Send, Skip, Welcome, encode, header_bytes, record_header,
)  # fmt: skip

WINDOW_BYTES = 8 << 20  # records held until they are durable, by default
RECORD_OVERHEAD_BYTES = 128  # what Python takes to hold one, counted with it
SEND_BYTES = 64 << 10  # a SEND's payload, unless one record is longer
RECEIVE_BYTES = 64 << 10  # taken from a socket at a time
SOURCE_BYTES_MAX = 128
STEP_MAX = 0xFFFF_FFFF  # what a sparse record can carry

CONNECT_WITHIN = 10.0
WELCOME_WITHIN = 60.0
BYE_WITHIN = 10.0
BACKOFF_MIN, BACKOFF_MAX = 0.1, 30.0
HEALTHY_AFTER = 5.0  # a session that lasted so long, or made something durable, begins the doubling anew

STOP = {1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 20}  # a reconnect would mend nothing
SEND_AGAIN = {8, 9, 15}
ACKED_LOSS = 10

log = logging.getLogger("seawall")


class SourceError(Exception):
    """The source cannot go on. What was told to be durable is."""


class Refused(SourceError):
    """The receiver ended the session for a reason that a reconnect does not mend."""

    def __init__(self, nack):
        self.code, self.at, self.expected = nack.code, nack.at, nack.expected
        name = CODES.get(nack.code, nack.code)
        super().__init__(f"the receiver refuses ({name}, at {nack.at}, expected {nack.expected}): {nack.text}")


class AckedLoss(SourceError):
    """The receiver has less than it told this source to be durable: a person has to look."""

    def __init__(self, told, durable):
        self.told, self.durable = told, durable
        super().__init__(f"the receiver told that {told} was durable, and has {durable} now: acknowledged records are lost")


class Rejected(SourceError):
    """The receiver keeps records aside, and there is no `on_reject` to be told."""

    def __init__(self, rejects):
        self.rejects = rejects
        super().__init__(f"the receiver rejected {', '.join(map(str, rejects))}")


class RecordTooLong(SourceError):
    """The receiver would not take this record. It was not sent, and the source goes on."""


class SessionEnded(Exception):
    """Connect again, no sooner than `wait` seconds from now, and to `address` if there is one."""

    def __init__(self, why, wait=0.0, address=None):
        self.wait, self.address = wait, address
        super().__init__(why)


class Outbox:
    """What one source has to send, and how far it has come. Told messages and the time; says the next message."""

    def __init__(self, source, stream="", token=b"", numbering=DENSE, told_durable=0):
        if numbering not in (DENSE, SPARSE):
            raise ValueError("records without a number cannot be resumed: use DENSE or SPARSE")
        if not 1 <= len(source) <= SOURCE_BYTES_MAX:
            raise ValueError(f"a source's name has 1 to {SOURCE_BYTES_MAX} bytes, not {len(source)}")
        self._hello = Hello(
            numbering=numbering, wait_for=DURABLE, token=token, stream=stream, source=source, told_durable=told_durable
        )
        self.epoch = 0  # until the first WELCOME: take the next
        self.durable = told_durable  # the highest ever told; never goes back
        self.last = None  # the last sequence taken; until the first WELCOME nobody knows where to begin
        self.record_bytes_max = 0
        self.held_bytes = 0
        self.is_closing = False
        # (sequence, record), or (sequence, None) for a SKIP up to it. Together: all that is not durable, in order.
        self._sent = collections.deque()  # on this connection
        self._waiting = collections.deque()  # not on this connection
        self._sent_max = 0  # the highest ever sent
        self._rejects_seen = 0
        self.is_up = False

    # --- records

    def is_full(self, record, window_bytes):
        """Whether the record has to wait. One record is held, however long it is."""
        return 0 < self.held_bytes and self.held_bytes + _cost(record) > window_bytes

    def push(self, record, seq=None):
        """Takes a record, and returns its sequence: the next one, or with SPARSE any higher one."""
        seq = self._next(seq)
        if len(record) > self.record_bytes_max:
            raise RecordTooLong(f"record {seq} has {len(record)} bytes, the receiver takes {self.record_bytes_max}")
        if seq - self.last > STEP_MAX:
            self._hold(seq - 1, None)
        self._hold(seq, record)
        return seq

    def skip(self, to):
        """The sequences up to `to` will never come."""
        if to <= self.last:
            raise ValueError(f"a skip to {to} behind {self.last}")
        self._hold(to, None)

    def _next(self, seq):
        following = self.last + 1
        if self._hello.numbering == DENSE:
            if seq not in (None, following):
                raise ValueError(f"dense sequences go up by one: {seq} does not follow {self.last}")
            return following
        if seq is None or seq < following:
            raise ValueError(f"sparse sequences are given, and grow: {seq} does not follow {self.last}")
        return seq

    def _hold(self, seq, record):
        self._waiting.append((seq, record))
        self.held_bytes += _cost(record)
        self.last = seq

    def is_empty(self):
        """Everything taken is durable."""
        return not self._sent and not self._waiting

    # --- a connection

    def connected(self, now):
        """The first message of a connection; nothing else is said before its WELCOME."""
        self.disconnected()
        self._heard_at, self._is_pinged = now, False
        self._pong, self._ping_due, self._is_bye_said = None, False, False
        self._patient_until = None
        return self._hello._replace(epoch=self.epoch, told_durable=self.durable)

    def disconnected(self):
        """What was sent and is not durable will be sent again."""
        self.is_up = False
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()

    def heard(self, message, now):
        """Takes note of what the receiver says; raises when the session, or the source, ends by it."""
        self._heard_at, self._is_pinged = now, False
        match message:
            case Welcome() if not self.is_up:
                self._welcome(message)
            case Redirect():
                wait = message.retry_after_millis / 1000
                raise SessionEnded(f"redirected to {message.address}", wait, message.address)
            case Nack():
                self._nack(message, now)
            case GoAway():
                pass  # Go on: a NACK or the end of the connection comes.
            case Ack() if self.is_up:
                self._credit_bytes = max(self._credit_bytes, message.credit_bytes)
                self._note_durable(message.durable)
            case Ping() if self.is_up:
                self._pong = message.nonce
            case Pong() if self.is_up:
                pass
            case Bye() if self.is_up and self._is_bye_said:
                raise SessionEnded("everything has come")
            case _:
                raise ProtocolError(f"an unexpected {type(message).__name__}")

    def _welcome(self, welcome):
        if welcome.version != 1:
            raise ProtocolError(f"version {welcome.version} was not offered")
        if welcome.durable < self.durable:
            raise AckedLoss(self.durable, welcome.durable)
        if self.last is None:
            self.last = self._sent_max = welcome.durable
        self.epoch = welcome.epoch
        self._credit_bytes, self._counted_bytes = welcome.credit_bytes, 0
        self.record_bytes_max = welcome.record_bytes_max
        self._payload_bytes_max, self._records_max = welcome.payload_bytes_max, welcome.records_max
        self._heartbeat = welcome.heartbeat_millis / 1000
        self.is_up = True
        self._note_durable(welcome.durable)
        self._position = welcome.durable  # the next SEND's `previous`

    def _note_durable(self, durable):
        """The only place where records are let go, and where `durable` rises."""
        if durable > self._sent_max:
            raise SourceError(
                f"{durable} is durable, and {self._sent_max} the last that was sent: somebody else has this name and epoch"
            )
        self.durable = max(self.durable, durable)
        for queue in (self._sent, self._waiting):
            while queue and queue[0][0] <= durable:
                self.held_bytes -= _cost(queue.popleft()[1])

    def _nack(self, nack, now):
        wait = nack.retry_after_millis / 1000
        if not nack.fatal:
            if nack.code in SEND_AGAIN and self.is_up:
                self._send_again(nack.expected)
                self._patient_until, self._is_bye_said = now + wait, False
            return
        if nack.code == ACKED_LOSS:
            raise AckedLoss(self.durable, nack.expected)
        if nack.code in STOP or nack.code not in CODES:
            raise Refused(nack)
        raise SessionEnded(f"{CODES[nack.code]}: {nack.text}", wait)

    def _send_again(self, expected):
        """Everything behind `expected`."""
        if not self.durable <= expected <= self._sent_max:
            raise ProtocolError(f"{expected} is expected, not within {self.durable} and {self._sent_max}")
        while self._sent and self._sent[-1][0] > expected:
            self._waiting.appendleft(self._sent.pop())
        while self._waiting and self._waiting[0][0] <= expected:
            self._sent.append(self._waiting.popleft())
        self._position = expected

    # --- rejects

    def unseen(self, rejects):
        """Those that are told for the first time. One that is told again is answered again."""
        if any(reject.seq <= self._rejects_seen for reject in rejects):
            self._ping_due = True
        return tuple(reject for reject in rejects if reject.seq > self._rejects_seen)

    def saw(self, rejects):
        """Somebody has taken note: the receiver may forget them."""
        self._rejects_seen = max(reject.seq for reject in rejects)
        self._ping_due = True

    # --- what to say

    def next_message(self, now):
        """The next message, or None."""
        if not self.is_up:
            return None
        if self._pong is not None:
            nonce, self._pong = self._pong, None
            return Pong(nonce)
        if self._ping_due:
            self._ping_due = False
            return Ping(rejects_seen=self._rejects_seen)
        if self._patient_until is None or now >= self._patient_until:
            self._patient_until = None
            if self._waiting:
                message = self._next_send()
                if message is not None:
                    return message
            elif self.is_closing and not self._is_bye_said:
                self._is_bye_said = True
                return Bye()
        if now >= self._heard_at + self._heartbeat and not self._is_pinged:
            self._is_pinged = True
            return Ping(rejects_seen=self._rejects_seen)
        return None

    def check_silence(self, now):
        """Raises `SessionEnded` where the receiver has been silent for too long, also while it takes no message."""
        if now >= self.silent_until():
            what = "silent" if self.is_up else "no WELCOME"
            raise SessionEnded(f"{what} for {now - self._heard_at:.1f} s")

    def deadline(self):
        """When there may be something to say, or the silence be too long, although nothing happens."""
        times = [self.silent_until()]
        if self.is_up and not self._is_pinged:
            times.append(self._heard_at + self._heartbeat)
        if self._patient_until is not None:
            times.append(self._patient_until)
        return min(times)

    def silent_until(self):
        """When the silence is too long."""
        return self._heard_at + (3 * self._heartbeat if self.is_up else WELCOME_WITHIN)

    def _next_send(self):
        """As many records as fit the credit and the receiver's limits; None where the first has to wait for credit."""
        seq, first = self._waiting[0]
        if first is None:
            message = Skip(self._position, seq)
            self._take()
            return message
        numbering = self._hello.numbering
        header = header_bytes(numbering)
        credit = self._credit_bytes - self._counted_bytes
        # One that is longer than the receiver will hold goes alone, and is not counted: it is rejected, or refused.
        passes_by = header + len(first) > self._payload_bytes_max
        if header + len(first) > credit and not passes_by:
            return None
        limit = min(SEND_BYTES, self._payload_bytes_max, credit)
        previous, parts, payload_bytes, records = self._position, [], 0, 0
        while self._waiting and records < self._records_max:
            seq, record = self._waiting[0]
            if record is None or records and (passes_by or payload_bytes + header + len(record) > limit):
                break
            parts += (record_header(numbering, self._position, seq, record), record)
            payload_bytes += header + len(record)
            records += 1
            self._take()
        if not passes_by:
            self._counted_bytes += payload_bytes
        return Send(previous, records, payload=b"".join(parts))

    def _take(self):
        """The first that waits is on its way."""
        self._sent.append(self._waiting.popleft())
        self._position = self._sent[-1][0]
        self._sent_max = max(self._sent_max, self._position)


def _cost(record):
    return RECORD_OVERHEAD_BYTES + len(record or b"")


class Source:
    """One source of a stream, on one connection at a time. May be used by several threads.

    `addresses`: "host:port", or several for others to try. `source`: its name, 1 to 128 bytes, kept for ever.
    `numbering`: DENSE: records are numbered 1, 2, 3 …; SPARSE: `send()` is given a number that grows. `told_durable`: the
    highest `durable` an earlier life was told, if you kept it: a receiver that has lost records is found out by it.
    `tls`: an `ssl.SSLContext`; without one it speaks to this machine only, unless `plaintext_beyond_loopback`.
    `on_durable(sequence)` and `on_reject(reject)` are called by the connection's thread, and should be quick.
    `give_up_after`: seconds without a session after which it fails; by default it never does.
    """

    def __init__(
        self, addresses, source, *, stream="", token=b"", numbering=DENSE, told_durable=0, tls=None, server_name=None,
        plaintext_beyond_loopback=False, window_bytes=WINDOW_BYTES, on_durable=None, on_reject=None, give_up_after=None,
    ):  # fmt: skip
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._tls, self._server_name = tls, server_name
        self._plaintext_beyond_loopback = plaintext_beyond_loopback
        self._window_bytes = window_bytes
        self._on_durable, self._on_reject = on_durable, on_reject
        self._give_up_after = give_up_after
        self._outbox = Outbox(source, stream, token, numbering, told_durable)
        self._changed = threading.Condition()  # guards the outbox and what follows
        self._failure = None
        self._is_over = False
        self._is_idle = False  # the connection's thread waits, and wants to be woken
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="seawall-source", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._outbox.last is not None)
            self._check()

    @property
    def durable(self):
        """The highest sequence that is durable; the first record to send is the one behind it."""
        with self._changed:
            return self._outbox.durable

    @property
    def record_bytes_max(self):
        """The longest record that the receiver takes."""
        with self._changed:
            return self._outbox.record_bytes_max

    def send(self, record, seq=None):
        """Takes a record, and returns its sequence. It is not durable yet. Waits while the window is full."""
        record = bytes(memoryview(record))  # a copy: the caller may use its buffer again
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or not self._outbox.is_full(record, self._window_bytes))
            self._check()
            seq = self._outbox.push(record, seq)
            self._wake()
        return seq

    def skip(self, to):
        """The sequences up to `to` will never come."""
        with self._changed:
            self._check()
            self._outbox.skip(to)
            self._wake()

    def flush(self, timeout=None):
        """Waits until everything sent before is durable, and returns the highest sequence that is.

        Raises the source's failure, or `TimeoutError`: then what is not durable may come to be, or not.
        """
        with self._changed:
            last = self._outbox.last
            self._changed.wait_for(lambda: self._is_over or self._outbox.durable >= last, timeout)
            if self._failure is not None or self._outbox.durable < last:
                self._check()  # also where the last record passed as a reject that nobody heard of
                raise TimeoutError(f"{last} is not durable within {timeout} s, only {self._outbox.durable} is")
            return self._outbox.durable

    def close(self, timeout=None):
        """Flushes, says goodbye, and returns what `flush()` does."""
        durable = self.flush(timeout)
        with self._changed:
            self._outbox.is_closing = True
            self._changed.notify_all()
            self._wake()
            # Everything is durable: that nobody answers changes nothing.
            self._changed.wait_for(lambda: self._is_over, BYE_WITHIN)
        self.abandon()
        return durable

    def abandon(self):
        """Ends the source at once. What is not durable may come to be, or not."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            self._wake()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _check(self):
        if self._failure is not None:
            raise self._failure
        if self._is_over or self._outbox.is_closing:
            raise SourceError("the source is closed")

    def _wake(self):
        if self._is_idle:
            self._is_idle = False
            self._wakes.send(b"\0")

    # --- the connection's thread

    def _run(self):
        failure = None
        try:
            self._connect_again_and_again()
        except Exception as error:  # whoever waits is told, whatever it is
            failure = error
            # Nobody may come to ask for a long time.
            log.error("the source has ended: %s", error)
        with self._changed:
            self._failure, self._is_over, self._is_idle = failure, True, False
            self._woken.close()
            self._wakes.close()
            self._changed.notify_all()

    def _is_done(self):
        return self._is_over or self._outbox.is_closing and self._outbox.is_empty()

    def _connect_again_and_again(self):
        attempt, span, address = 0, BACKOFF_MIN, None
        last_session = time.monotonic()
        while True:
            began, durable = time.monotonic(), self._outbox.durable
            # A redirect leads elsewhere once; who is not there is looked for at home.
            address = address or self._addresses[attempt % len(self._addresses)]
            attempt += 1
            at_least, where, why = 0.0, None, ""
            try:
                with self._connect(address) as connection:
                    self._converse(connection)
            except SessionEnded as ended:
                at_least, where, why = ended.wait, ended.address, ended
            except (OSError, ProtocolError) as error:
                why = error
            now = time.monotonic()
            with self._changed:
                was_up = self._outbox.is_up
                self._outbox.disconnected()
                if self._is_done():
                    return
            if was_up:
                last_session = now
                # Where it was cut off it is tried again first; who says to leave, or nothing, may be another.
                attempt -= not isinstance(why, SessionEnded)
                if now - began >= HEALTHY_AFTER or self._outbox.durable > durable:
                    span = BACKOFF_MIN
            elif self._give_up_after is not None and now - last_session >= self._give_up_after:
                raise SourceError(f"no session for {now - last_session:.0f} s; at {address}: {why}")
            wait = max(at_least, random.uniform(0, span))
            span = min(2 * span, BACKOFF_MAX)
            log.warning("%s: %s; again in %.1f s", address, why, wait)
            with self._changed:
                if self._changed.wait_for(self._is_done, wait):
                    return
            address = where

    def _connect(self, address):
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        connection = socket.create_connection((host, int(port)), CONNECT_WITHIN)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self._server_name or host)
            elif not self._plaintext_beyond_loopback:
                peer = connection.getpeername()[0]
                if not ipaddress.ip_address(peer).is_loopback:
                    raise SourceError(f"{address} is {peer}, beyond this machine: give it tls, or plaintext_beyond_loopback")
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection

    def _converse(self, connection):
        """Until the connection ends: says what the outbox says, and tells it what is heard."""
        frames = FrameReader()
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        with self._changed:
            hello = self._outbox.connected(time.monotonic())
        unsent = memoryview(encode(hello))
        while True:
            message = None
            with self._changed:
                if self._is_over:
                    return
                now = time.monotonic()
                self._outbox.check_silence(now)
                if not unsent:
                    message = self._outbox.next_message(now)
                self._is_idle = not unsent and message is None
                # What is on its way goes before anything else.
                deadline = self._outbox.silent_until() if unsent else self._outbox.deadline()
            if message is not None:
                unsent = memoryview(encode(message))
            # What was taken whole may be followed at once.
            is_busy = bool(unsent)
            unsent = unsent[_send(connection, unsent) :]
            is_busy = is_busy and not unsent
            wait = 0 if is_busy else max(0, deadline - time.monotonic()) * 1000 + 1
            poll.register(connection, select.POLLIN | (select.POLLOUT if unsent else 0))
            poll.poll(wait)
            with self._changed:
                self._is_idle = False
            _receive(self._woken)
            while (data := _receive(connection)) is not None:
                if not data:
                    raise ConnectionError("the connection has ended")
                for heard in frames.feed(data):
                    self._hear(heard)

    def _hear(self, message):
        rejects = getattr(message, "rejects", ())
        with self._changed:
            unseen = self._outbox.unseen(rejects)
        # Before anybody hears that the watermark has passed them.
        if unseen:
            if self._on_reject is None:
                raise Rejected(unseen)
            for reject in unseen:
                _call(self._on_reject, reject)
        with self._changed:
            before = self._outbox.durable
            self._outbox.heard(message, time.monotonic())
            if unseen:
                self._outbox.saw(unseen)
            durable = self._outbox.durable
            self._changed.notify_all()
        if self._on_durable is not None and durable > before:
            _call(self._on_durable, durable)


def _call(callback, value):
    """An error of the caller's is no lost connection."""
    try:
        callback(value)
    except Exception as error:
        raise SourceError(f"{callback.__qualname__}({value}) failed: {error}") from error


def _send(connection, data):
    """How much of it the connection took."""
    try:
        return connection.send(data) if data else 0
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0


def _receive(connection):
    """What has come: None where nothing has, nothing at the end."""
    try:
        return connection.recv(RECEIVE_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
