//! What must hold, told from the log's blocks alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use seawall::receiver::{
    Block, Code, Hello, Message, Nack, Outbox, Poison, RangeKind, Reject, RejectReason, Sequences, WaitFor,
};
use seawall::{Seq, SourceId};

use super::story::{Item, SourceStory};

pub struct Oracle {
    sources: Vec<SourceStory>,
    poison: Poison,
    block_bytes_max: u64,
    /// How many blocks were looked at.
    folded: usize,
    /// How far each source is durable.
    durable: BTreeMap<SourceId, Seq>,
    /// How far each was told to be.
    told: BTreeMap<SourceId, Seq>,
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
            told: BTreeMap::new(),
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
                if let (true, true, Some(id)) = (moves, range.sequences != Sequences::None, range.source) {
                    let durable = self.durable.entry(id.clone()).or_default();
                    if range.previous != *durable {
                        return Err(format!("{id}: a range behind {} follows {durable}", range.previous));
                    }
                    *durable = range.last;
                }
            }
        }
        self.folded = blocks.len();
        Ok(())
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
                let is_honest = !matches!(
                    code,
                    Code::Protocol | Code::Credit | Code::Limit | Code::Version | Code::AckedLoss | Code::UnknownStream
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
        let is_durable = self.durable.get(&story.id).copied().unwrap_or_default();
        let claims = outbox.positions().durable;
        if story.sequences != Sequences::None && claims > is_durable {
            return Err(format!("{}'s outbox says {claims} is durable, but {is_durable} is", story.id));
        }
        Ok(())
    }

    /// Everything is over, and this is what the stream holds.
    pub fn end(&self, blocks: &[Bytes]) -> Result<(), String> {
        for (number, source) in self.sources.iter().enumerate() {
            let (mut found, mut rejected) = (Vec::new(), Vec::new());
            for block in blocks {
                let block = Block::read(block).map_err(|e| e.to_string())?;
                let mine = |bytes: &[u8]| bytes[1..].starts_with(format!("{number}.").as_bytes());
                for record in block.records() {
                    let record = record.map_err(|e| e.to_string())?;
                    if mine(&record.record) {
                        if record.range.source.as_ref().is_some_and(|id| *id != source.id) {
                            return Err(format!("{}'s record is in another's name", source.id));
                        }
                        let continues = record.seq.get() > record.range.previous.get() + 1;
                        found.push((record.seq.get(), record.record.to_vec(), continues));
                    }
                }
                for (range, payload) in &block.ranges {
                    if let (RangeKind::Reject { reason, .. }, Some(id)) = (range.kind, &range.source)
                        && *id == source.id
                    {
                        rejected.push((range.last.get(), reason, payload.clone()));
                    }
                }
            }
            self.check_content(source, &found).map_err(|what| format!("{}: {what}", source.id))?;
            self.check_rejects(number, source, &rejected).map_err(|what| format!("{}: {what}", source.id))?;
        }
        Ok(())
    }

    fn check_content(&self, source: &SourceStory, found: &[(u64, Vec<u8>, bool)]) -> Result<(), String> {
        let good: Vec<_> = source.plan.iter().filter(|planned| planned.item == Item::Record).collect();
        if source.sequences == Sequences::None {
            return check_unnumbered(
                source.wait_for,
                &good.iter().map(|planned| &planned.bytes).collect::<Vec<_>>(),
                found,
            );
        }
        let found: Vec<_> = found.iter().map(|(seq, bytes, _)| (*seq, bytes)).collect();
        let good: Vec<_> = good.iter().map(|planned| (planned.seq, &planned.bytes)).collect();
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
        rejected: &[(u64, RejectReason, Bytes)],
    ) -> Result<(), String> {
        let seqs: Vec<_> = rejected.iter().map(|(seq, ..)| *seq).collect();
        if seqs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(format!("rejected twice, or out of order: {seqs:?}"));
        }
        for (seq, reason, kept) in rejected {
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
            if source.wait_for != WaitFor::Received && !self.rejects_told.contains(&(number, *seq)) {
                return Err(format!("nobody was told that {seq} was rejected"));
            }
        }
        let is_kept = self.poison == Poison::DeadLetter && source.wait_for != WaitFor::Received;
        let bad = source.plan.iter().filter(|planned| matches!(planned.item, Item::Poison | Item::Oversized));
        for planned in bad.filter(|_| is_kept && source.sequences != Sequences::None) {
            if !seqs.contains(&planned.seq) {
                return Err(format!("{} was neither taken nor rejected", planned.seq));
            }
        }
        Ok(())
    }
}

/// At least once, and in order within a session.
fn check_unnumbered(wait_for: WaitFor, good: &[&Vec<u8>], found: &[(u64, Vec<u8>, bool)]) -> Result<(), String> {
    let place = |bytes: &Vec<u8>| good.iter().position(|expected| *expected == bytes);
    for (seq, bytes, _) in found {
        // A record that was given up later may have come before.
        if place(bytes).is_none() {
            return Err(format!("nobody sent what is at {seq}: {}", bytes[..bytes.len().min(12)].escape_ascii()));
        }
    }
    let missing = good.iter().find(|expected| !found.iter().any(|(_, bytes, _)| bytes == **expected));
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
