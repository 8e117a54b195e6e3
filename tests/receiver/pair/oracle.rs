//! What must hold, told from the log's blocks alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use seawall::receiver::{
    Block, Code, Hello, Message, Nack, Outbox, Poison, RangeKind, Reject, RejectReason, Sequences, WaitFor,
};
use seawall::{Seq, SourceEpoch, SourceId};

use super::story::{Item, SourceStory};

pub struct Oracle {
    sources: Vec<SourceStory>,
    poison: Poison,
    block_bytes_max: u64,
    /// How many blocks were looked at.
    folded: usize,
    /// How far each source is durable.
    durable: BTreeMap<SourceId, Seq>,
    /// How far each ever was: more than `durable` once damage was accepted.
    ever: BTreeMap<SourceId, Seq>,
    /// How far each was told to be.
    told: BTreeMap<SourceId, Seq>,
    /// What was forgotten of each when damage was accepted, each behind the first and up to the second.
    forgotten: BTreeMap<SourceId, Vec<(Seq, Seq)>>,
    /// The highest epoch of each, and whose was forgotten: it may be given to another life again.
    epochs: BTreeMap<SourceId, SourceEpoch>,
    epochs_forgotten: BTreeSet<SourceId>,
    /// So many blocks were trimmed when damage was last accepted.
    trimmed_before_damage: usize,
    /// Of each connection: whose it is, and what was said in it last.
    connections: BTreeMap<usize, Talk>,
    rejects_told: BTreeSet<(usize, u64)>,
}

struct Talk {
    source: usize,
    is_sequenced: bool,
    received: Seq,
    credit: u64,
    is_welcomed: bool,
}

impl Oracle {
    pub fn new(sources: Vec<SourceStory>, poison: Poison, block_bytes_max: u64) -> Oracle {
        Oracle {
            sources,
            poison,
            block_bytes_max,
            folded: 0,
            durable: BTreeMap::new(),
            ever: BTreeMap::new(),
            told: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            epochs: BTreeMap::new(),
            epochs_forgotten: BTreeSet::new(),
            trimmed_before_damage: 0,
            connections: BTreeMap::new(),
            rejects_told: BTreeSet::new(),
        }
    }

    pub fn give_up(&mut self, source: usize, item: usize) {
        self.sources[source].plan[item].item = Item::GivenUp;
    }

    pub fn told_of_reject(&mut self, source: usize, reject: Reject) {
        self.rejects_told.insert((source, reject.seq.get()));
    }

    pub fn connected(&mut self, connection: usize, source: usize) {
        let talk = Talk { source, is_sequenced: true, received: Seq::ZERO, credit: 0, is_welcomed: false };
        self.connections.insert(connection, talk);
    }

    pub fn hello(&mut self, connection: usize, hello: &Hello) {
        self.connections.get_mut(&connection).expect("it was connected").is_sequenced =
            hello.sequences != Sequences::None;
    }

    /// These blocks are durable now.
    pub fn durable(&mut self, blocks: &[Bytes]) -> Result<(), String> {
        if blocks.len() < self.folded {
            return Err(format!("{} blocks were durable, {} are there", self.folded, blocks.len()));
        }
        for block in &blocks[self.folded..] {
            if block.len() as u64 > self.block_bytes_max {
                return Err(format!("a block of {} bytes, the log was told {}", block.len(), self.block_bytes_max));
            }
            for (range, _) in Block::read(block).map_err(|e| e.to_string())?.ranges {
                let moves = matches!(range.kind, RangeKind::Records | RangeKind::Skipped | RangeKind::Reject { .. });
                if let (false, Some(id)) = (range.sequences == Sequences::None, &range.source) {
                    let epoch = self.epochs.entry(id.clone()).or_default();
                    if moves && range.epoch < *epoch {
                        return Err(format!("{id}: a record of epoch {} behind one of {epoch}", range.epoch));
                    }
                    *epoch = range.epoch.max(*epoch);
                }
                if let (true, true, Some(id)) = (moves, range.sequences != Sequences::None, range.source) {
                    let durable = self.durable.entry(id.clone()).or_default();
                    if range.previous != *durable {
                        return Err(format!("{id}: a range behind {} follows {durable}", range.previous));
                    }
                    *durable = range.last;
                    let ever = self.ever.entry(id).or_default();
                    *ever = range.last.max(*ever);
                }
            }
        }
        self.folded = blocks.len();
        Ok(())
    }

    /// Damage is accepted: what can be read of the stream is all that is known from now on.
    pub fn accept_damage<'a>(
        &mut self,
        trimmed: usize,
        readable: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(), String> {
        let mut known: BTreeMap<SourceId, Seq> = BTreeMap::new();
        let mut epochs: BTreeMap<SourceId, SourceEpoch> = BTreeMap::new();
        for block in readable {
            for (range, _) in Block::read(block).map_err(|e| e.to_string())?.ranges {
                if let Some(id) = &range.source {
                    let epoch = epochs.entry(id.clone()).or_default();
                    *epoch = range.epoch.max(*epoch);
                }
                // That a reject was told says nothing of records: who asks for them again loses none.
                let is_told = matches!(range.kind, RangeKind::Seen | RangeKind::Unseen { .. } | RangeKind::Retired);
                if let (false, false, Some(id)) = (is_told, range.sequences == Sequences::None, range.source) {
                    let known = known.entry(id).or_default();
                    *known = range.last.max(*known);
                }
            }
        }
        for (id, epoch) in &mut self.epochs {
            let known = epochs.get(id).copied().unwrap_or_default();
            if known < *epoch {
                self.epochs_forgotten.insert(id.clone());
                *epoch = known;
            }
        }
        for (id, durable) in &mut self.durable {
            let known = known.get(id).copied().unwrap_or_default();
            if known < *durable {
                self.forgotten.entry(id.clone()).or_default().push((known, *durable));
                *durable = known;
            }
            if let Some(told) = self.told.get_mut(id) {
                *told = known.min(*told);
            }
        }
        self.trimmed_before_damage = trimmed;
        Ok(())
    }

    /// A receiver opens with this state: what is durable, not less and not more.
    pub fn opened(&self, mut durable: impl FnMut(&SourceId) -> Seq) -> Result<(), String> {
        for (id, expected) in &self.durable {
            let found = durable(id);
            if found != *expected {
                return Err(format!("a replay says that {id} is durable up to {found}, it is up to {expected}"));
            }
        }
        Ok(())
    }

    /// Whether the receiver may say that it has less than this source was told.
    pub fn is_forgotten(&self, source: usize) -> bool {
        self.forgotten.contains_key(&self.sources[source].id)
    }

    /// Whether two lives of this source may have one epoch.
    pub fn is_epoch_forgotten(&self, source: usize) -> bool {
        self.epochs_forgotten.contains(&self.sources[source].id)
    }

    /// The receiver says this.
    pub fn said(
        &mut self,
        connection: usize,
        message: &Message,
        durable_blocks: usize,
        committed: &BTreeMap<SourceId, Seq>,
    ) -> Result<(), String> {
        let talk = self.connections.get_mut(&connection).expect("it was connected");
        let id = &self.sources[talk.source].id;
        let (durable, committed_told, lsn, received, credit) = match message {
            Message::Ack(ack) => (ack.durable, ack.committed, ack.durable_lsn, ack.received, ack.credit_bytes),
            Message::Welcome(w) => (w.durable, w.committed, w.durable_lsn, Seq::ZERO, w.credit_bytes),
            Message::Nack(Nack { code, text, .. }) => {
                let is_loss_known = *code == Code::AckedLoss && self.forgotten.contains_key(id);
                let is_honest = is_loss_known
                    || !matches!(
                        code,
                        Code::Protocol
                            | Code::Credit
                            | Code::Limit
                            | Code::Version
                            | Code::AckedLoss
                            | Code::UnknownStream
                    );
                let name = format!("{id} was told {code:?}: {text}");
                return if is_honest { Ok(()) } else { Err(name) };
            }
            _ => return Ok(()),
        };
        match (talk.is_welcomed, message) {
            (false, Message::Welcome(_)) => talk.is_welcomed = true,
            (true, Message::Ack(_)) => {}
            _ => return Err(format!("{id}: {message:?} does not come then")),
        }
        if lsn.get() > durable_blocks as u64 {
            return Err(format!("{id} was told that {lsn} is durable, {durable_blocks} blocks are"));
        }
        if received < talk.received || credit < talk.credit {
            return Err(format!("{id}: received {received} or credit {credit} went back"));
        }
        (talk.received, talk.credit) = (received, credit);
        if !talk.is_sequenced {
            return Ok(());
        }
        if let Message::Welcome(welcome) = message {
            let epoch = self.epochs.get(id).copied().unwrap_or_default();
            if welcome.epoch != epoch {
                return Err(format!("{id} is welcomed in epoch {}, {epoch} is durable", welcome.epoch));
            }
        }
        let is_durable = self.durable.get(id).copied().unwrap_or_default();
        let told = self.told.entry(id.clone()).or_default();
        if durable > is_durable {
            return Err(format!("{id} was told that {durable} is durable, but {is_durable} is"));
        }
        if durable < *told {
            return Err(format!("{id} was told that {durable} is durable, after {told}"));
        }
        *told = durable;
        let is_committed = committed.get(id).copied().unwrap_or_default();
        if committed_told > is_committed {
            return Err(format!("{id} was told that {committed_told} is committed, but {is_committed} is"));
        }
        Ok(())
    }

    /// An outbox has taken in what it heard.
    pub fn heard(&mut self, source: usize, outbox: &Outbox) -> Result<(), String> {
        let story = &self.sources[source];
        // It may not have heard yet that damage was accepted.
        let is_durable = self.ever.get(&story.id).copied().unwrap_or_default();
        let claims = outbox.positions().told_durable;
        if story.sequences != Sequences::None && claims > is_durable {
            return Err(format!("{}'s outbox says {claims} is durable, but {is_durable} is", story.id));
        }
        Ok(())
    }

    /// Everything is over, and this is what the stream holds. Of the blocks in `rotten` nothing can be read: they name what
    /// is lost.
    pub fn end(&self, blocks: &[Bytes], rotten: &BTreeSet<usize>) -> Result<(), String> {
        let mut all = Vec::new();
        for block in blocks {
            all.push(Block::read(block).map_err(|e| e.to_string())?);
        }
        for (number, source) in self.sources.iter().enumerate() {
            let (mut found, mut lost) = (Vec::new(), Vec::new());
            let (mut rejected, mut rejects_lost) = (Vec::new(), Vec::new());
            for (at, block) in all.iter().enumerate() {
                let mine = |bytes: &[u8]| bytes[1..].starts_with(format!("{number}.").as_bytes());
                for record in block.records() {
                    let record = record.map_err(|e| e.to_string())?;
                    if mine(&record.record) {
                        if record.range.source.as_ref().is_some_and(|id| *id != source.id) {
                            return Err(format!("{}'s record is in another's name", source.id));
                        }
                        let continues = record.seq.get() > record.range.previous.get() + 1;
                        let record = (record.seq.get(), record.record.to_vec(), continues);
                        if rotten.contains(&at) { lost.push(record) } else { found.push(record) }
                    }
                }
                for (range, payload) in &block.ranges {
                    if let (RangeKind::Reject { reason, .. }, Some(id)) = (range.kind, &range.source)
                        && *id == source.id
                    {
                        match rotten.contains(&at) {
                            true => rejects_lost.push(range.last.get()),
                            false => rejected.push((at, range.last.get(), reason, payload.clone())),
                        }
                    }
                }
            }
            self.check_content(source, found, &lost).map_err(|what| format!("{}: {what}", source.id))?;
            self.check_rejects(number, source, rejected, &rejects_lost)
                .map_err(|what| format!("{}: {what}", source.id))?;
        }
        Ok(())
    }

    /// Sources, by their number, and sequences of all records in the stream, also in blocks that cannot be read any more.
    pub fn records(&self, blocks: &[Bytes]) -> Result<BTreeSet<(usize, u64)>, String> {
        let mut found = BTreeSet::new();
        for block in blocks {
            let block = Block::read(block).map_err(|e| e.to_string())?;
            for record in block.records() {
                let record = record.map_err(|e| e.to_string())?;
                let number = self.sources.iter().position(|source| record.range.source.as_ref() == Some(&source.id));
                found.extend(number.map(|number| (number, record.seq.get())));
            }
        }
        Ok(found)
    }

    /// Where what told of them could not be read, the source was asked for them again, as far as it is still there: what
    /// it repeated is left out once, and their order is that of their sequences. Whatever else comes twice stays to be found.
    fn forget_first_copies<T>(&self, id: &SourceId, all: &mut Vec<T>, seq: impl Fn(&T) -> u64) {
        let Some(forgotten) = self.forgotten.get(id) else { return };
        let may_repeat = |seq: u64| forgotten.iter().any(|(known, was)| known.get() < seq && seq <= was.get());
        let mut later = BTreeSet::new();
        all.reverse();
        all.retain(|item| later.insert(seq(item)) || !may_repeat(seq(item)));
        all.reverse();
        all.sort_by_key(seq);
    }

    fn check_content(
        &self,
        source: &SourceStory,
        mut found: Vec<(u64, Vec<u8>, bool)>,
        lost: &[(u64, Vec<u8>, bool)],
    ) -> Result<(), String> {
        let good: Vec<_> = source.plan.iter().filter(|planned| planned.item == Item::Record).collect();
        if source.sequences == Sequences::None {
            // What is lost is named: it is as good as found.
            let good = good.iter().map(|planned| &planned.bytes).collect::<Vec<_>>();
            return check_unnumbered(source.wait_for, &good, &found, lost);
        }
        self.forget_first_copies(&source.id, &mut found, |(seq, ..)| *seq);
        let seqs: BTreeSet<_> = found.iter().map(|(seq, ..)| *seq).collect();
        let is_lost = |seq: u64| lost.iter().any(|(lost, ..)| *lost == seq) && !seqs.contains(&seq);
        let found: Vec<_> = found.iter().map(|(seq, bytes, _)| (*seq, bytes)).collect();
        let good = good.iter().map(|planned| (planned.seq, &planned.bytes));
        let good: Vec<_> = good.filter(|(seq, _)| !is_lost(*seq)).collect();
        let seqs = |all: &[(u64, &Vec<u8>)]| all.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
        let holds = match source.wait_for {
            // Some may be lost; the others come once, in their order.
            WaitFor::Received => {
                let mut rest = good.iter();
                found.iter().all(|record| rest.any(|expected| expected == record))
            }
            WaitFor::Durable | WaitFor::Committed => found == good,
        };
        if holds { Ok(()) } else { Err(format!("the stream holds {:?}, sent was {:?}", seqs(&found), seqs(&good))) }
    }

    fn check_rejects(
        &self,
        number: usize,
        source: &SourceStory,
        mut rejected: Vec<(usize, u64, RejectReason, Bytes)>,
        lost: &[u64],
    ) -> Result<(), String> {
        self.forget_first_copies(&source.id, &mut rejected, |(_, seq, ..)| *seq);
        let seqs: Vec<_> = rejected.iter().map(|(_, seq, ..)| *seq).collect();
        if seqs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(format!("rejected twice, or out of order: {seqs:?}"));
        }
        for (block, seq, reason, kept) in &rejected {
            let planned = source.plan.iter().find(|planned| planned.seq == *seq).ok_or("a reject nobody sent")?;
            let is_right = match planned.item {
                Item::Poison => *reason == RejectReason::Poison,
                Item::Oversized => *reason == RejectReason::Oversized,
                Item::GivenUp => true,
                Item::Record | Item::Skip => false,
            };
            let length = u64::from_le_bytes(kept[..8].try_into().unwrap());
            let text = usize::from(u16::from_le_bytes(kept[40..42].try_into().unwrap()));
            if !is_right || length != planned.bytes.len() as u64 || kept[42 + text..] != planned.bytes[..] {
                return Err(format!(
                    "{seq} is rejected as {reason:?}, {length} bytes long, planned was {:?}",
                    planned.item
                ));
            }
            // A snapshot said that nobody was told yet, and cannot be read.
            let is_forgotten = *block < self.trimmed_before_damage;
            // An older life had sent what the newest has given up, and was done without.
            let is_given_up = planned.item == Item::GivenUp;
            let is_told = is_given_up || self.rejects_told.contains(&(number, *seq));
            if source.wait_for != WaitFor::Received && !is_told && !is_forgotten {
                return Err(format!("nobody was told that {seq} was rejected"));
            }
        }
        let is_kept = self.poison == Poison::DeadLetter && source.wait_for != WaitFor::Received;
        let bad = source.plan.iter().filter(|planned| matches!(planned.item, Item::Poison | Item::Oversized));
        for planned in bad.filter(|_| is_kept && source.sequences != Sequences::None) {
            if !seqs.contains(&planned.seq) && !lost.contains(&planned.seq) {
                return Err(format!("{} was neither taken nor rejected", planned.seq));
            }
        }
        Ok(())
    }
}

/// At least once, and in order within a session.
fn check_unnumbered(
    wait_for: WaitFor,
    good: &[&Vec<u8>],
    found: &[(u64, Vec<u8>, bool)],
    lost: &[(u64, Vec<u8>, bool)],
) -> Result<(), String> {
    let place = |bytes: &Vec<u8>| good.iter().position(|expected| *expected == bytes);
    for (seq, bytes, _) in found {
        // A record that was given up later may have come before.
        if place(bytes).is_none() {
            return Err(format!("nobody sent what is at {seq}: {}", bytes[..bytes.len().min(12)].escape_ascii()));
        }
    }
    let missing = good.iter().find(|expected| !found.iter().chain(lost).any(|(_, bytes, _)| bytes == **expected));
    if let (Some(missing), false) = (missing, wait_for == WaitFor::Received) {
        return Err(format!("{} is lost", missing[..missing.len().min(20)].escape_ascii()));
    }
    // Ranges of several sessions may lie between each other; what is in one range is one session's.
    for pair in found.windows(2) {
        let ((_, before, _), (_, bytes, continues)) = (&pair[0], &pair[1]);
        if *continues && place(before) >= place(bytes) {
            let short = |bytes: &Vec<u8>| bytes[..bytes.len().min(12)].escape_ascii().to_string();
            return Err(format!(
                "{} comes before {}: {:?}",
                short(before),
                short(bytes),
                found.iter().map(|(s, b, c)| (s, short(b), c)).collect::<Vec<_>>()
            ));
        }
    }
    Ok(())
}
