//! Whether one source alone waits for the device, for each of its blocks in turn: then whoever brings a block may as well write
//! it. Nobody has to be woken for it, and there is nothing else to do meanwhile.

use std::time::Duration;

use super::super::builder::Draft;
use super::super::message::WaitFor;
use super::Intake;
use super::session::Session;

/// After so many blocks in a row. One that is not keeps the next ones from it as well: a source that sends on meanwhile is
/// better served by several blocks on their way.
const IN_A_ROW: u32 = 4;
/// Twice our clients' longest SEND, as it is by default. What is longer keeps its thread for longer, and gains a smaller share.
const BYTES_MAX: usize = 512 << 10;

/// Where a write takes so long, what it would gain is nothing beside it; and the thread that waits in it may be waiting for other
/// programs' time slices, which who writes for everybody else does not.
const SLOW: Duration = Duration::from_millis(1);
/// After so many slow ones more than others, as many blocks as [`BARRED`] go the usual way.
const SLOW_MAX: u32 = 4;
const BARRED: u32 = 1024;

/// How many of the last blocks were waited for by nobody but the one source, which sent nothing meanwhile.
#[derive(Debug, Default)]
pub(super) struct Lone {
    in_a_row: u32,
    slow: u32,
    barred: u32,
}

impl Lone {
    pub(super) fn note(&mut self, is_lone: bool) {
        self.barred = self.barred.saturating_sub(1);
        self.in_a_row = if is_lone { self.in_a_row.saturating_add(1) } else { 0 };
    }
}

impl Intake {
    /// Whether the block that was [`placed`](Intake::placed) last is all there is to wait for, as others were before it: there
    /// is one session, and its source waits for each of its blocks before it sends on.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.lone.in_a_row > IN_A_ROW && self.lone.barred == 0
    }

    /// Whoever brought a block has written it, and waited so long for the device.
    pub fn wrote_lone(&mut self, took: Duration) {
        let lone = &mut self.lone;
        lone.slow = if took > SLOW { lone.slow + 1 } else { lone.slow.saturating_sub(1) };
        if lone.slow >= SLOW_MAX {
            (lone.slow, lone.barred) = (0, BARRED);
        }
    }

    /// Asked before the block counts as on its way.
    pub(super) fn is_waited_for_alone(&self, draft: &Draft) -> bool {
        let is_all = self.flight.is_empty() && self.builder.is_empty() && self.sessions.len() == 1;
        let [part] = &draft.parts[..] else { return false };
        let session = part.session.and_then(|key| self.sessions.get(key));
        // What it has not been told yet, it did not wait for. Behind a gateway is somebody who is promised an answer in time.
        let has_heard_all = session.is_some_and(|session| !session.ack_due && !session.is_gateways);
        let waits = session.and_then(Session::open_peer).is_some_and(|peer| peer.wait_for != WaitFor::Received);
        is_all && has_heard_all && waits && draft.bytes() <= BYTES_MAX
    }
}
