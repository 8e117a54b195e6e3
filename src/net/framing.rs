//! Frames out of a stream of bytes, and into it. A frame begins with a head of [`HEAD_BYTES`]; what it says, and so how
//! long the frame is, is the caller's to read.
//!
//! What a silent peer costs is nothing: bytes are read into a buffer of the thread, and only what has arrived is kept. A
//! frame of which much is missing gets a buffer that grows with what has arrived, or has arrived for the frame before, so that a
//! claim costs nothing either.
//! Every function may be left at any `Pending` and called again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::error::NetError;
use crate::sync::now;

/// The bytes a frame begins with.
pub(crate) const HEAD_BYTES: usize = 8;
/// So much may be read before anybody has admitted it.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// A frame's buffer grows by what it holds, or by this.
const GROWTH_BYTES: usize = 64 << 10;
/// A write buffer of this size is kept for the next message.
const KEPT_BYTES: usize = 512;
/// A frame is copied out of a buffer more than so many times as long as it is.
const KEPT_FACTOR_MAX: usize = 4;
/// Pieces handed to one write.
const WRITE_PIECES_MAX: usize = 16;

thread_local! {
    static READ_AHEAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AHEAD_BYTES].into());
}

/// Finds frames in what is read.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// Empty, and then without memory, between frames.
    buffer: BytesMut,
    /// No memory was longer that it stands in, where frames were split off: each of them keeps all of that.
    whole_bytes: usize,
    /// Since when a frame is being read, and how much has come since.
    begun: Option<(Instant, u64)>,
    /// When something last came.
    last_read: Option<Instant>,
    /// How long the last frame was: the next one is likely to be as long.
    last_bytes: usize,
}

impl FrameReader {
    /// The head of the next frame, which stays where it is; `None` when the stream has ended before it.
    pub(crate) fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<Option<[u8; HEAD_BYTES]>, NetError>> {
        loop {
            if let Some((head, _)) = self.buffer.split_first_chunk() {
                return Poll::Ready(Ok(Some(*head)));
            }
            if ready!(self.poll_ahead(cx, stream))? == 0 {
                return Poll::Ready(if self.buffer.is_empty() { Ok(None) } else { Err(self.cut()) });
            }
        }
    }

    /// The next `bytes` of the stream as a whole, with which the frame at hand ends.
    pub(crate) fn poll_frame<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        bytes: usize,
    ) -> Poll<Result<Bytes, NetError>> {
        let frame = ready!(self.poll_part(cx, stream, bytes))?;
        self.last_bytes = bytes;
        self.begun = (!self.buffer.is_empty()).then(|| (now(), self.buffer.len() as u64));
        Poll::Ready(Ok(frame))
    }

    /// The next `bytes` of the stream as a whole, with which the frame at hand does not end.
    pub(crate) fn poll_part<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        bytes: usize,
    ) -> Poll<Result<Bytes, NetError>> {
        // Little of what comes behind it would lengthen a long one's buffer, to twice that as it grows.
        let is_long = bytes > 2 * READ_AHEAD_BYTES;
        while self.buffer.len() < bytes {
            let read = match !is_long && bytes - self.buffer.len() <= READ_AHEAD_BYTES {
                true => ready!(self.poll_ahead(cx, stream))?,
                false => ready!(self.poll_grow(cx, stream, bytes))?,
            };
            if read == 0 {
                return Poll::Ready(Err(self.cut()));
            }
        }
        // One that is kept is charged for itself, not for what happened to be read with it.
        let stands_in = self.whole_bytes.max(self.buffer.capacity());
        let is_short = bytes.saturating_mul(KEPT_FACTOR_MAX) < stands_in;
        let part = self.take(bytes);
        Poll::Ready(Ok(if is_short { Bytes::copy_from_slice(&part) } else { part }))
    }

    /// At least one and at most `limit` of the next bytes, with which the frame at hand does not end: for what is looked
    /// at as it passes.
    pub(crate) fn poll_piece<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        limit: usize,
    ) -> Poll<Result<Bytes, NetError>> {
        if self.buffer.is_empty() && ready!(self.poll_ahead(cx, stream))? == 0 {
            return Poll::Ready(Err(self.cut()));
        }
        Poll::Ready(Ok(self.take(limit.min(self.buffer.len()))))
    }

    /// The frame at hand begins now: it had to wait to be admitted.
    pub(crate) fn restart(&mut self) {
        self.begun = Some((now(), 0));
    }

    /// Since when a frame is being read.
    pub(crate) fn begun(&self) -> Option<Instant> {
        self.begun.map(|(at, _)| at)
    }

    /// When something of a frame, whole or not, last came.
    pub(crate) fn last_read(&self) -> Option<Instant> {
        self.last_read
    }

    /// Whether the frame at hand comes slower than so many bytes a second, once it has had `grace`.
    pub(crate) fn is_slower_than(&self, bytes_per_second: u64, grace: Duration, now: Instant) -> bool {
        self.begun.is_some_and(|(at, bytes)| {
            let took = now.saturating_duration_since(at);
            took >= grace && (bytes as f64) < bytes_per_second as f64 * took.as_secs_f64()
        })
    }

    fn cut(&self) -> NetError {
        NetError::Cut { bytes: self.begun.map_or(0, |(_, bytes)| bytes) }
    }

    fn take(&mut self, bytes: usize) -> Bytes {
        // The whole of a buffer is given away, or its rest would keep all of it in memory.
        if bytes == self.buffer.len() {
            self.whole_bytes = 0;
            return std::mem::take(&mut self.buffer).freeze();
        }
        let stands_in = self.whole_bytes.max(self.buffer.capacity());
        let part = self.buffer.split_to(bytes).freeze();
        // What was read ahead behind a frame that is long for this buffer is little, and would keep all of that frame's memory,
        // charged to nobody.
        if stands_in > 2 * READ_AHEAD_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
            self.whole_bytes = 0;
        } else {
            self.whole_bytes = stands_in;
        }
        part
    }

    fn note(&mut self, read: usize) {
        if read > 0 {
            let at = now();
            self.last_read = Some(at);
            let (_, bytes) = self.begun.get_or_insert((at, 0));
            *bytes += read as u64;
        }
    }

    /// Reads what there is, without a buffer of its own before there is anything.
    fn poll_ahead<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<usize, NetError>> {
        let read = READ_AHEAD.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut read)).map_err(|e| NetError::io("read", e))?;
            if self.buffer.is_empty() && read.remaining() == 0 {
                // More is there: a buffer that had to grow for it was 10 % of the CPU of SENDs of 16 KiB.
                self.buffer.reserve(self.last_bytes.min(2 * READ_AHEAD_BYTES));
            }
            self.buffer.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        });
        let read = ready!(read)?;
        self.note(read);
        Poll::Ready(Ok(read))
    }

    /// Reads into the frame's own buffer, which is at most twice as long as what has arrived, or longer by [`GROWTH_BYTES`] or by
    /// what the last frame was long.
    fn poll_grow<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        frame_bytes: usize,
    ) -> Poll<Result<usize, NetError>> {
        let held = self.buffer.len();
        // As long as the last frame was, at once: each smaller step copies all that is there, and is a read of its own.
        let is_short = self.buffer.capacity() < frame_bytes.min(self.last_bytes);
        if self.buffer.capacity() == held || is_short {
            let longer = frame_bytes.min(held + held.max(GROWTH_BYTES).max(self.last_bytes));
            let mut grown = BytesMut::with_capacity(longer);
            grown.put_slice(&self.buffer);
            self.buffer = grown;
        }
        let room = self.buffer.capacity().min(frame_bytes) - held;
        let mut into = (&mut self.buffer).limit(room);
        let read = ready!(pin!(stream.read_buf(&mut into)).poll(cx)).map_err(|e| NetError::io("read", e))?;
        self.note(read);
        Poll::Ready(Ok(read))
    }
}

/// What is to be written: one buffer, filled again once it is empty, and before it what is too long to be copied there.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Goes before `bytes`.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    bytes: BytesMut,
    /// Of the first piece, or of `bytes` when there is none.
    written: usize,
    is_flushed: bool,
}

impl Outgoing {
    /// Where to append messages.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        self.is_flushed = false;
        &mut self.bytes
    }

    /// Appends bytes without copying them.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        for piece in [self.bytes.split().freeze(), bytes].into_iter().filter(|piece| !piece.is_empty()) {
            self.pieces_bytes += piece.len();
            self.pieces.push_back(piece);
        }
        self.is_flushed = false;
    }

    /// How much waits.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces_bytes + self.bytes.len() - self.written
    }

    /// Whether anything has not been passed to the kernel: what TLS has taken into a buffer of its own is not written.
    pub(crate) fn is_waiting(&self) -> bool {
        self.bytes() > 0 || !self.is_flushed
    }

    /// Writes all of it, and has TLS pass it on.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), NetError>> {
        let failed = |e| NetError::io("write", e);
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
            let pieces = self.pieces.iter().map(|piece| &piece[..]).chain([&self.bytes[..]]);
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(if count == 0 { &piece[self.written..] } else { piece });
                count += 1;
            }
            match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count])).map_err(failed)? {
                0 => return Poll::Ready(Err(failed(io::ErrorKind::WriteZero.into()))),
                written => self.note_written(written),
            }
        }
        while self.written < self.bytes.len() {
            let rest = &self.bytes[self.written..];
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest)).map_err(failed)? {
                0 => return Poll::Ready(Err(failed(io::ErrorKind::WriteZero.into()))),
                written => self.written += written,
            }
        }
        self.written = 0;
        match self.bytes.capacity() > KEPT_BYTES {
            true => self.bytes = BytesMut::new(),
            false => self.bytes.clear(),
        }
        if !self.is_flushed {
            ready!(Pin::new(stream).poll_flush(cx)).map_err(failed)?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    /// So many bytes went out, the first piece's first.
    fn note_written(&mut self, written: usize) {
        self.written += written;
        while let Some(piece) = self.pieces.front()
            && self.written >= piece.len()
        {
            self.written -= piece.len();
            self.pieces_bytes -= piece.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LONG: usize = 4 << 20;

    fn poll_once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    async fn frame(reader: &mut FrameReader, stream: &mut DuplexStream, bytes: usize) -> Result<Bytes, NetError> {
        poll_fn(|cx| reader.poll_frame(cx, stream, bytes)).await
    }

    #[tokio::test]
    async fn frames_are_found_however_the_bytes_are_cut() {
        let sent: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8).collect();
        for cut in [1, 7, 8, 9, 1000, 40_000, sent.len()] {
            let (mut near, mut far) = duplex(cut.max(64));
            let bytes = sent.clone();
            let writer = tokio::spawn(async move {
                for piece in bytes.chunks(cut) {
                    near.write_all(piece).await.unwrap();
                }
            });
            let (mut reader, mut at) = (FrameReader::default(), 0);
            for length in [8, 9, 500, 70_000, 12, 20_000, sent.len() - 90_529] {
                let head = poll_fn(|cx| reader.poll_head(cx, &mut far)).await.unwrap().unwrap();
                assert_eq!(head, sent[at..at + HEAD_BYTES], "cut {cut}");
                assert_eq!(frame(&mut reader, &mut far, length).await.unwrap(), sent[at..at + length], "cut {cut}");
                at += length;
            }
            assert_eq!(poll_fn(|cx| reader.poll_head(cx, &mut far)).await.unwrap(), None);
            assert!(reader.begun().is_none() && at == sent.len());
            writer.await.unwrap();
        }
    }

    /// A frame of a few bytes kept all in memory that was read with it, for as long as it was held.
    #[tokio::test]
    async fn a_short_frame_keeps_little_more_than_itself() {
        let (mut near, mut far) = duplex(LONG);
        near.write_all(&[7; READ_AHEAD_BYTES]).await.unwrap();
        let mut reader = FrameReader::default();
        let (first, rest) = (100, READ_AHEAD_BYTES - 300);
        let first = frame(&mut reader, &mut far, first).await.unwrap();
        drop(frame(&mut reader, &mut far, rest).await.unwrap());
        let last = frame(&mut reader, &mut far, 200).await.unwrap();
        for (frame, bytes) in [(first, 100), (last, 200)] {
            let held = frame.try_into_mut().expect("nobody else has it").capacity();
            assert!(held <= KEPT_FACTOR_MAX * bytes, "{held} bytes for {bytes}");
        }
    }

    /// A few bytes of the next frame doubled the memory of the last one, which was charged for itself.
    #[tokio::test]
    async fn behind_a_long_frame_nothing_is_read_ahead() {
        for missing in [100, READ_AHEAD_BYTES - 1] {
            let (mut near, mut far) = duplex(LONG + 7);
            let mut reader = FrameReader::default();
            near.write_all(&vec![7; LONG - missing]).await.unwrap();
            assert!(poll_once(|cx| reader.poll_frame(cx, &mut far, LONG)).is_pending());
            near.write_all(&vec![7; missing + 7]).await.unwrap();
            let long = frame(&mut reader, &mut far, LONG).await.unwrap();
            assert_eq!(long.try_into_mut().expect("nobody else has it").capacity(), LONG);
            assert_eq!(reader.buffer.capacity(), 0, "nothing is kept between frames");
            assert_eq!(frame(&mut reader, &mut far, 7).await.unwrap(), [7; 7][..]);
        }
    }

    /// A few bytes of the next frame kept the memory of the last one, which was charged no more.
    #[tokio::test]
    async fn what_is_read_ahead_keeps_none_of_the_memory_of_the_frame_before() {
        const BYTES: usize = 2 * READ_AHEAD_BYTES;
        let (mut near, mut far) = duplex(LONG);
        let mut reader = FrameReader::default();
        near.write_all(&[7; BYTES - 100]).await.unwrap();
        assert!(poll_once(|cx| reader.poll_frame(cx, &mut far, BYTES)).is_pending());
        near.write_all(&[7; 107]).await.unwrap();
        drop(frame(&mut reader, &mut far, BYTES).await.unwrap());
        assert_eq!(reader.buffer.len(), 7);
        assert!(!reader.buffer.try_reclaim(BYTES), "it is still there");
        // Nor is it taken for what the next frame stands in.
        near.write_all(&[7; 93]).await.unwrap();
        let next = frame(&mut reader, &mut far, 100).await.unwrap();
        assert!(next.try_into_mut().expect("nobody else has it").capacity() <= KEPT_FACTOR_MAX * 100);
    }

    #[tokio::test]
    async fn a_claim_costs_no_more_than_what_has_arrived() {
        let (mut near, mut far) = duplex(LONG);
        let mut reader = FrameReader::default();
        let mut sent = 0;
        for more in [100, 1, 50_000, 200_000, 1 << 20] {
            near.write_all(&vec![7; more]).await.unwrap();
            sent += more;
            assert!(poll_once(|cx| reader.poll_frame(cx, &mut far, LONG)).is_pending());
            let held = reader.buffer.capacity();
            assert!(held <= 2 * sent + GROWTH_BYTES, "{held} bytes are held for {sent}");
        }
        near.write_all(&vec![7; LONG - sent]).await.unwrap();
        assert_eq!(frame(&mut reader, &mut far, LONG).await.unwrap().len(), LONG);
        assert_eq!(reader.buffer.capacity(), 0, "nothing is kept between frames");
        assert!(poll_once(|cx| reader.poll_head(cx, &mut far)).is_pending());
        assert_eq!(reader.buffer.capacity(), 0, "nor while nothing comes");
    }

    #[tokio::test]
    async fn a_frame_as_long_as_the_last_has_its_room_at_once_and_a_longer_claim_has_not() {
        for (bytes, room) in [(20_000, 20_000), (2 * READ_AHEAD_BYTES + 1, 2 * READ_AHEAD_BYTES)] {
            let (mut near, mut far) = duplex(LONG);
            near.write_all(&vec![7; bytes + READ_AHEAD_BYTES]).await.unwrap();
            let mut reader = FrameReader::default();
            frame(&mut reader, &mut far, bytes).await.unwrap();
            // What was read beyond the first frame, if anything, is the second one's.
            let rest = bytes + READ_AHEAD_BYTES - reader.buffer.len();
            reader.buffer = BytesMut::new();
            let unread = rest - bytes;
            near.write_all(&vec![7; READ_AHEAD_BYTES - unread]).await.unwrap();
            assert!(poll_fn(|cx| reader.poll_head(cx, &mut far)).await.unwrap().is_some());
            assert_eq!((reader.buffer.len(), reader.buffer.capacity()), (READ_AHEAD_BYTES, room));
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_frame_is_one_read_when_the_last_one_was_as_long() {
        let (mut near, mut far) = duplex(3 * LONG);
        let mut reader = FrameReader::default();
        for (bytes, room) in
            [(LONG, READ_AHEAD_BYTES + GROWTH_BYTES), (LONG, LONG), (3 * LONG, READ_AHEAD_BYTES + LONG)]
        {
            near.write_all(&vec![7; READ_AHEAD_BYTES]).await.unwrap();
            assert!(poll_fn(|cx| reader.poll_head(cx, &mut far)).await.unwrap().is_some());
            near.write_all(&[7]).await.unwrap();
            assert!(poll_once(|cx| reader.poll_frame(cx, &mut far, bytes)).is_pending());
            assert_eq!(reader.buffer.capacity(), room, "of {bytes}");
            near.write_all(&vec![7; bytes - READ_AHEAD_BYTES - 1]).await.unwrap();
            assert_eq!(frame(&mut reader, &mut far, bytes).await.unwrap().len(), bytes);
        }
    }

    #[tokio::test]
    async fn not_more_than_the_read_ahead_is_taken_before_it_is_admitted() {
        let (mut near, mut far) = duplex(LONG);
        near.write_all(&vec![7; LONG]).await.unwrap();
        let mut reader = FrameReader::default();
        assert!(poll_fn(|cx| reader.poll_head(cx, &mut far)).await.unwrap().is_some());
        assert_eq!(reader.buffer.len(), READ_AHEAD_BYTES);
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error_and_between_frames_is_none() {
        for (sent, length) in [(3, 0), (8, 9), (90_000, LONG)] {
            let (mut near, mut far) = duplex(LONG);
            near.write_all(&vec![0; sent]).await.unwrap();
            drop(near);
            let mut reader = FrameReader::default();
            let ended = match length {
                0 => poll_fn(|cx| reader.poll_head(cx, &mut far)).await.map(drop),
                length => frame(&mut reader, &mut far, length).await.map(drop),
            };
            assert!(matches!(ended, Err(NetError::Cut { bytes }) if bytes == sent as u64), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn what_passes_comes_in_pieces_and_stops_at_the_limit() {
        let (mut near, mut far) = duplex(LONG);
        near.write_all(&vec![7; 100_000]).await.unwrap();
        let (mut reader, mut left) = (FrameReader::default(), 99_999);
        while left > 0 {
            let piece = poll_fn(|cx| reader.poll_piece(cx, &mut far, left)).await.unwrap();
            assert!(!piece.is_empty() && piece.len() <= left.min(READ_AHEAD_BYTES));
            left -= piece.len();
        }
        assert_eq!(reader.buffer.len(), 1);
        let begun = reader.begun().expect("the frame has not ended");
        assert_eq!(frame(&mut reader, &mut far, 1).await.unwrap(), [7; 1][..]);
        assert!(reader.begun().is_none() && begun <= now());
    }

    #[tokio::test]
    async fn slowness_is_told_from_what_came_since_the_frame_began() {
        let (mut near, mut far) = duplex(LONG);
        let mut reader = FrameReader::default();
        near.write_all(&[0; 1000]).await.unwrap();
        assert!(poll_once(|cx| reader.poll_frame(cx, &mut far, LONG)).is_pending());
        let (second, begun) = (Duration::from_secs(1), reader.begun().unwrap());
        assert!(!reader.is_slower_than(1001, second, begun + second / 2), "it has its grace");
        assert!(reader.is_slower_than(1001, second, begun + second));
        assert!(!reader.is_slower_than(999, second, begun + second));
        reader.restart();
        assert!(reader.is_slower_than(999, second, begun + 2 * second), "what came before it was admitted is past");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_one_buffer_and_gets_all_of_it_later() {
        let (mut near, mut far) = duplex(10);
        let mut outgoing = Outgoing::default();
        outgoing.buffer().put_bytes(3, 1000);
        assert!(poll_once(|cx| outgoing.poll_write(cx, &mut near)).is_pending());
        assert_eq!(outgoing.bytes(), 990);
        let (mut got, mut written) = (vec![0; 1000], 0);
        poll_fn(|cx| {
            let read = pin!(far.read(&mut got[written..])).poll(cx);
            written += if let Poll::Ready(Ok(read)) = read { read } else { 0 };
            let done = outgoing.poll_write(cx, &mut near);
            if done.is_pending() {
                cx.waker().wake_by_ref();
            }
            done
        })
        .await
        .unwrap();
        far.read_exact(&mut got[written..]).await.unwrap();
        assert_eq!((got, outgoing.bytes(), outgoing.bytes.capacity()), (vec![3; 1000], 0, 0));
    }
    #[tokio::test]
    async fn what_is_not_copied_goes_out_in_its_place_however_little_is_taken_at_once() {
        for takes in [1, 7, 100, 5000] {
            let (mut near, mut far) = duplex(takes);
            let (mut outgoing, mut expected) = (Outgoing::default(), Vec::new());
            for n in 0..20u8 {
                outgoing.buffer().put_bytes(n, 3);
                expected.extend([n; 3]);
                // An empty one as well, and two behind each other.
                for long in [vec![n; 97 * usize::from(n % 3)], vec![n + 100; 10]] {
                    expected.extend(&long);
                    outgoing.push(long.into());
                }
            }
            outgoing.buffer().put_bytes(77, 5);
            expected.extend([77; 5]);
            let reads = tokio::spawn(async move {
                let mut got = Vec::new();
                far.read_to_end(&mut got).await.map(|_| got)
            });
            let mut left = outgoing.bytes();
            assert_eq!(left, expected.len());
            poll_fn(|cx| {
                let done = outgoing.poll_write(cx, &mut near);
                assert!(outgoing.bytes() <= left);
                left = outgoing.bytes();
                done
            })
            .await
            .unwrap();
            assert_eq!((left, outgoing.pieces.capacity()), (0, 0));
            drop(near);
            assert_eq!(reads.await.unwrap().unwrap(), expected, "{takes} at once");
        }
    }
}
