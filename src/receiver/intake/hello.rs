//! Who comes, in which life, and where it is to go on.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::block::RangeKind;
use super::super::builder::Part;
use super::super::message::{Code, Hello, Sequences, VERSION, WaitFor, Welcome};
use super::super::sources::SourceRef;
use super::session::{Peer, State};
use super::{Charge, Intake, SessionKey, range_of};
use crate::types::{Seq, SourceEpoch, SourceId};

impl Intake {
    pub(super) fn hello(&mut self, now: Instant, key: SessionKey, hello: Hello, charge: &mut Charge) {
        match self.judge(&hello, self.is_gateways(key)) {
            Ok((id, epoch)) => self.attach(now, key, hello, id, epoch, charge),
            Err((code, expected, text)) => self.refuse_expecting(key, code, hello.told_durable, expected, text),
        }
    }

    /// Whether this source may come as it is; its name, if it has one, and the epoch it is to have.
    fn judge(
        &mut self,
        hello: &Hello,
        is_gateways: bool,
    ) -> Result<(Option<SourceId>, SourceEpoch), (Code, Seq, String)> {
        let refuse = |code, text: String| Err((code, Seq::ZERO, text));
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let (min, max) = (hello.version_min, hello.version_max);
            return refuse(
                Code::Version,
                format!("version {VERSION} is spoken here, the source speaks {min} to {max}"),
            );
        }
        if !hello.stream.is_empty() && hello.stream != self.stream {
            return refuse(Code::UnknownStream, format!("the stream here is {:?}", self.stream));
        }
        let id = SourceId::new(&hello.source);
        if hello.source.len() > SourceId::BYTES_MAX {
            return refuse(Code::Limit, format!("a source's name has at most {} bytes", SourceId::BYTES_MAX));
        }
        let known = id.as_ref().and_then(|id| self.sources.find(id.as_bytes()));
        if known.is_some_and(|at| self.sources[at].retired || self.sources[at].is_retiring) {
            return refuse(Code::Retired, "this source was retired by an operator".into());
        }
        if hello.sequences == Sequences::None {
            if hello.wait_for == WaitFor::Committed {
                let text = "without sequences nobody can say which of its records are committed";
                return refuse(Code::Limit, text.into());
            }
            return Ok((id, SourceEpoch::ZERO));
        }
        let Some(id) = id else {
            return refuse(Code::Limit, "a source with sequences needs a name that it keeps through restarts".into());
        };
        let Some(at) = known else {
            if self.sources.len() >= self.config.sources_max as usize {
                return refuse(Code::TooMany, format!("{} sources are known, no more are taken", self.sources.len()));
            }
            let epoch = epoch_for(hello.epoch, SourceEpoch::ZERO, false)?;
            return self.judge_told(hello, Seq::ZERO).map(|()| (Some(id), epoch));
        };
        let source = &self.sources[at];
        let known = self.epoch_of(at);
        if hello.epoch != SourceEpoch::ZERO && hello.epoch < known {
            return refuse(Code::OldEpoch, format!("the source is in epoch {known}, this session in {}", hello.epoch));
        }
        let (durable, is_unused) = (source.durable, source.epoch < known);
        let epoch = match hello.epoch {
            SourceEpoch::ZERO if is_gateways && self.of_gateways.contains(&at) => known,
            asked => epoch_for(asked, known, is_unused)?,
        };
        self.judge_told(hello, durable).map(|()| (Some(id), epoch))
    }

    /// What the source was told once must be here: a detector of this receiver's own lies.
    fn judge_told(&mut self, hello: &Hello, durable: Seq) -> Result<(), (Code, Seq, String)> {
        if hello.told_durable <= durable {
            return Ok(());
        }
        self.stats.acked_losses += 1;
        let told = hello.told_durable;
        let text = format!(
            "the source was told that its records up to {told} are durable, but only those up to {durable} are here: \
             acknowledged records were lost, or this is another receiver's stream"
        );
        Err((Code::AckedLoss, durable, text))
    }

    fn is_gateways(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.is_gateways)
    }

    /// The source's epoch, as the newest session has it, durable or not yet.
    fn epoch_of(&self, at: SourceRef) -> SourceEpoch {
        let session = self.attached.get(&at).and_then(|key| self.sessions.get(*key));
        let pending = session.and_then(|session| session.peer()).map_or(SourceEpoch::ZERO, |peer| peer.epoch);
        self.sources[at].epoch.max(self.sources[at].pending_epoch).max(pending)
    }

    fn attach(
        &mut self,
        now: Instant,
        key: SessionKey,
        hello: Hello,
        id: Option<SourceId>,
        epoch: SourceEpoch,
        charge: &mut Charge,
    ) {
        let Hello { sequences, wait_for, epoch: asked, .. } = hello;
        let named = id.as_ref().filter(|_| sequences != Sequences::None);
        let Some(named) = named else {
            let peer = Peer { source: None, id, epoch, sequences, wait_for };
            return self.become_attaching(now, key, peer);
        };
        let at = self.sources.find_or_insert(named);
        let known = self.epoch_of(at);
        if let Some(older) = self.attached.insert(at, key) {
            self.stats.replaced += 1;
            let (code, text) = if epoch > known {
                (Code::OldEpoch, format!("the source came back in epoch {epoch}"))
            } else {
                (Code::Replaced, "another session with the same name and epoch has taken over".to_owned())
            };
            self.refuse(older, code, Seq::ZERO, text);
            self.attached.insert(at, key);
        }
        // Whoever asks for none is given one that nobody has; but a gateway's session, which may go on in a gateway's.
        if epoch > known || asked == SourceEpoch::ZERO {
            if self.is_gateways(key) {
                self.of_gateways.insert(at)
            } else {
                self.of_gateways.remove(&at)
            };
        }
        let source = &mut self.sources[at];
        source.sequences = sequences;
        if epoch > known {
            source.pending_epoch = epoch;
            self.write_epoch(at, charge);
        }
        self.become_attaching(now, key, Peer { source: Some(at), id, epoch, sequences, wait_for });
    }

    /// Has the source's epoch become durable: one at a time, however many sessions come while the log takes nothing.
    pub(super) fn write_epoch(&mut self, at: SourceRef, charge: &mut Charge) {
        let source = &mut self.sources[at];
        if source.pending_epoch > source.epoch && !std::mem::replace(&mut source.is_epoch_on_its_way, true) {
            let mut range = range_of(source, RangeKind::Session, source.accepted, source.accepted);
            range.epoch = source.pending_epoch;
            self.builder.push(Part { range, session: None, charged: charge.take(), credit: 0 }, Bytes::new());
        }
    }

    /// How long a session waits for its epoch, without which there is no WELCOME at all.
    pub(super) fn epoch_wait(&self) -> Duration {
        self.config.welcome_wait.max(self.config.hello_timeout)
    }

    fn become_attaching(&mut self, now: Instant, key: SessionKey, peer: Peer) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.since = now;
        session.state = State::Attaching(peer);
        self.try_welcome(now, key);
    }

    /// Opens a session once its epoch is durable, and its source's records too, or waited for long enough: what is
    /// still on its way would only be sent again and found to be there.
    pub(super) fn try_welcome(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let State::Attaching(peer) = &session.state else { return };
        let source = peer.source.map(|at| &self.sources[at]);
        let waited = now >= session.since + self.config.welcome_wait;
        if let Some(source) = source {
            if source.epoch < peer.epoch {
                if now >= session.since + self.epoch_wait() {
                    let text = "the session's epoch did not become durable in time".to_owned();
                    self.refuse(key, Code::Unavailable, Seq::ZERO, text);
                }
                return;
            }
            if source.durable < source.accepted && !waited {
                return;
            }
        }
        let credit_bytes = self.config.session_window_bytes;
        let clamp = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let welcome = Welcome {
            version: VERSION,
            features: 0,
            session: key.number(),
            epoch: peer.epoch,
            durable: source.map_or(Seq::ZERO, |source| source.durable),
            committed: source.map_or(Seq::ZERO, |source| source.committed),
            durable_lsn: self.durable_lsn,
            credit_bytes,
            record_bytes_max: clamp(self.config.record_bytes_max),
            frame_bytes_max: clamp(self.config.payload_bytes_max()),
            frame_records_max: self.config.frame_records_max,
            heartbeat_millis: clamp(self.config.heartbeat.as_millis() as u64),
            rejects: source.map_or_else(Vec::new, |source| source.unseen().to_vec()),
        };
        session.credit_told = credit_bytes;
        session.heard = now;
        session.welcome = Some(Box::new(welcome));
        session.state = State::Open(peer.clone());
        self.list(key);
    }
}

/// The epoch a session gets that asks for `asked`, where `known` is the source's, `is_unused` when it is not durable yet.
fn epoch_for(asked: SourceEpoch, known: SourceEpoch, is_unused: bool) -> Result<SourceEpoch, (Code, Seq, String)> {
    let epoch = match asked {
        // An epoch that is still on its way was never in a WELCOME: whoever comes next may have it. Sources that come again
        // and again while the disk is full add nothing to what waits.
        SourceEpoch::ZERO if is_unused => Some(known),
        SourceEpoch::ZERO => known.checked_next(),
        chosen => Some(chosen),
    };
    // One that none could follow would never be fenced.
    epoch
        .filter(|epoch| epoch.checked_next().is_some())
        .ok_or_else(|| (Code::Limit, Seq::ZERO, format!("no epoch could follow; the source is in epoch {known}")))
}
