//! The receiver, its log, and what it says.

use super::*;

impl World {
    /// Reads the stream as a node does. `None`: there is damage, and somebody has to decide.
    pub(super) fn replay(&mut self, accept_damage: bool) -> Result<Option<ReplayEnd>, String> {
        let (first, end) = (Lsn::new(self.log.trimmed as u64 + 1), Lsn::new(self.log.durable as u64));
        let lie = self.story.lie;
        let mut replay = Replay::new(first, end, accept_damage || lie == Some(Lie::AcceptRot));
        let mut is_pointer = true;
        loop {
            let wanted = match replay.wanted() {
                Ok(Some(wanted)) => wanted,
                Ok(None) => return Ok(Some(replay.end())),
                Err(ReplayError::Damaged { lsns })
                    if self.log.rotten.contains(&(lsns.start.get() as usize - 1)) && !accept_damage =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(format!("{error:?}, and {} blocks were trimmed", self.log.trimmed)),
            };
            for number in wanted.start.get()..wanted.end.get() {
                let half = (wanted.start.get() + wanted.end.get()) / 2;
                let is_hidden = match lie {
                    Some(Lie::ForgetSources) => !is_pointer,
                    Some(Lie::ReplayHalf) => !is_pointer && number < half,
                    _ => false,
                };
                let at = number as usize - 1;
                if self.log.rotten.contains(&at) {
                    if lie != Some(Lie::HideRot) || is_pointer {
                        replay.unreadable(LsnRange::inclusive(Lsn::new(number), Lsn::new(number)));
                    }
                } else if !is_hidden {
                    replay.block(&Block::read(&self.log.blocks[at]).map_err(|e| e.to_string())?);
                    is_pointer = false;
                }
            }
        }
    }

    pub(super) fn open_receiver(&mut self) -> Result<(), String> {
        self.back_at = None;
        self.oracle.durable(&self.log.blocks[..self.log.durable])?;
        let found = match self.replay(false)? {
            Some(found) => found,
            None => {
                self.done.refused += 1;
                self.resolve_damage()?
            }
        };
        let config = self.story.config.clone();
        let durable = Lsn::new(self.log.durable as u64);
        let is_damaged = !found.damaged.is_empty();
        let mut intake = Intake::new(config, "in", found.sources, durable, found.from, 0).with_check(no_x());
        intake.set_rate(self.at(), self.rate());
        if is_damaged {
            intake.request_snapshot(seawall::Lsn::MAX);
        }
        self.oracle.opened(|id| intake.source(id).map_or(Seq::ZERO, |source| source.durable))?;
        self.intake = Some(intake);
        self.tell(|| "the receiver is there".to_owned());
        Ok(())
    }

    /// The receiver does not open: blocks are brought back from a copy, or given up.
    pub(super) fn resolve_damage(&mut self) -> Result<ReplayEnd, String> {
        if self.r.one_in(2) {
            self.tell(|| "damage is repaired".to_owned());
            let SimLog { rotten, given_up, .. } = &mut self.log;
            rotten.retain(|block| given_up.contains(block));
            if let Some(found) = self.replay(false)? {
                return Ok(found);
            }
        }
        self.done.accepted += 1;
        let rotten = self.log.rotten.clone();
        self.tell(|| format!("damage is accepted: {rotten:?}"));
        let found = self.replay(true)?.ok_or("damage that is accepted is refused")?;
        let log = &mut self.log;
        let mut named = found.damaged.iter().flat_map(|lsns| lsns.start.get()..lsns.end.get());
        let rotten: Vec<_> = log.rotten.range(log.trimmed..).map(|block| *block as u64 + 1).collect();
        if !named.by_ref().eq(rotten.iter().copied()) {
            return Err(format!("blocks {rotten:?} cannot be read, and {:?} are named", found.damaged));
        }
        log.given_up.extend(&log.rotten);
        let readable = (log.trimmed..log.durable).filter(|block| !log.rotten.contains(block));
        let blocks = &log.blocks;
        self.oracle.accept_damage(log.trimmed, readable.map(|block| &blocks[block]))?;
        // What is not known to be durable is not committed, as far as the receiver knows.
        for (id, committed) in &mut self.committed {
            let known = found.sources.durable(id).unwrap_or_default();
            *committed = known.min(*committed);
        }
        Ok(found)
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        let at = self.at();
        while let Some((due, blocks)) = self.log.flushes.front().copied() {
            if due > self.now {
                break;
            }
            self.log.flushes.pop_front();
            self.become_durable(blocks)?;
            if let Some(intake) = &mut self.intake {
                intake.durable(at, Lsn::new(blocks as u64));
            }
        }
        Ok(())
    }

    pub(super) fn become_durable(&mut self, blocks: usize) -> Result<(), String> {
        self.log.durable = self.log.durable.max(blocks);
        self.oracle.durable(&self.log.blocks[..self.log.durable])
    }

    pub(super) fn append(&mut self) -> Result<(), String> {
        if self.log.retry_at.is_some_and(|at| at > self.now) {
            return Ok(());
        }
        self.log.retry_at = None;
        let at = self.at();
        loop {
            let Some(intake) = &mut self.intake else { return Ok(()) };
            let Some(pieces) = intake.take_block() else { return Ok(()) };
            let is_full = self.now < self.log.full_until;
            if is_full || (!self.is_calm && self.r.one_in(15)) {
                self.done.fulls += u64::from(is_full);
                intake.put_back(is_full);
                self.log.retry_at = Some(self.now + self.r.millis(1, 30));
                return Ok(());
            }
            let block: Bytes = pieces.concat().into();
            let is_twice = self.story.lie == Some(Lie::WriteTwice) && self.r.one_in(4);
            self.log.blocks.push(block.clone());
            if is_twice {
                self.log.blocks.push(block);
            }
            let blocks = self.log.blocks.len();
            if self.story.lie == Some(Lie::Swap) && self.r.one_in(2) && blocks >= self.log.durable + 2 {
                self.log.blocks.swap(blocks - 1, blocks - 2);
            }
            let slow = if self.now < self.log.slow_until { 400 } else { 8 };
            let due = self.now + self.r.millis(0, slow);
            let due = self.log.flushes.back().map_or(due, |(last, _)| due.max(*last));
            if self.log.flushes.is_empty() && self.r.one_in(10) {
                // The device is faster than the thread that appended.
                self.become_durable(blocks)?;
                let intake = self.intake.as_mut().expect("it is there");
                intake.durable(at, Lsn::new(blocks as u64));
                intake.placed(Lsn::new(blocks as u64));
            } else {
                intake.placed(Lsn::new(blocks as u64));
                self.log.flushes.push_back((due, blocks));
            }
            self.tell(|| format!("block {blocks}"));
        }
    }

    pub(super) fn commit(&mut self) -> Result<(), String> {
        if self.commit_at > self.now {
            return Ok(());
        }
        self.commit_at = self.now + self.r.millis(5, 50);
        let Some(intake) = &mut self.intake else { return Ok(()) };
        let more = self.log.durable.saturating_sub(self.committed_blocks) as u64;
        let until = self.committed_blocks + self.r.within(more.div_ceil(2), more) as usize;
        for block in &self.log.blocks[self.committed_blocks.min(until)..until] {
            let block = Block::read(block).map_err(|e| e.to_string())?;
            for (id, seq) in block.reached() {
                let committed = self.committed.entry(id.clone()).or_default();
                *committed = (*committed).max(seq);
            }
        }
        self.committed_blocks = until;
        intake.committed(Lsn::new(until as u64), self.committed.clone());
        let mut bound = intake.trim_bound().get();
        if self.story.lie == Some(Lie::TrimTooFar) && bound > 0 {
            bound = (bound + 2).min(self.log.durable as u64);
        }
        if bound > self.log.trimmed as u64 + 1 && self.r.one_in(2) {
            self.done.trims += 1;
            self.log.trimmed = bound as usize - 1;
        }
        self.done.snapshots += u64::from(self.log.durable > 0 && bound > 0);
        Ok(())
    }

    /// Reads what has arrived, as a transport does.
    pub(super) fn read(&mut self, number: usize) -> Result<(), String> {
        let at = self.at();
        loop {
            let (Some(intake), connection) = (&mut self.intake, &mut self.connections[number]) else { return Ok(()) };
            let Some(key) = connection.key else { return Ok(()) };
            let limit = if intake.is_open(key) { intake.config().payload_bytes_max() + 16 } else { 4096 };
            let arrived = &mut connection.up.arrived;
            match &mut connection.reading {
                Reading::Head | Reading::Waiting | Reading::Body if arrived.len() < HEADER_BYTES => break,
                Reading::Head => {
                    let header = header_of(arrived)?;
                    if !(header.is_hello() || header.is_send() || header.is_skip()) {
                        connection.reading = Reading::Body;
                        continue;
                    }
                    let is_long = u64::from(header.body_bytes) > limit;
                    let cost = if is_long { Oversized::COST_BYTES } else { Intake::cost_bytes(header.body_bytes) };
                    connection.reading = match intake.reserve(at, key, cost) {
                        Reservation::Granted => Reading::Body,
                        Reservation::Waiting => {
                            self.done.waited += 1;
                            Reading::Waiting
                        }
                    };
                }
                Reading::Waiting if intake.is_granted(key) => connection.reading = Reading::Body,
                Reading::Waiting => return Ok(()),
                Reading::Body => {
                    let header = header_of(arrived)?;
                    if u64::from(header.body_bytes) > limit {
                        let head = HEADER_BYTES + Preview::BYTES;
                        if arrived.len() < head {
                            break;
                        }
                        let body =
                            preview(arrived[HEADER_BYTES..head].try_into().unwrap()).map_err(|e| e.to_string())?;
                        let payload = header.body_bytes as usize - Preview::BYTES;
                        let whole = arrived.split_to(head);
                        let Some(oversized) = intake.begin_oversized(key, body, payload as u64) else {
                            arrived.clear();
                            return Ok(());
                        };
                        self.done.oversized += 1;
                        connection.reading =
                            Reading::Passing { oversized: Box::new(oversized), missing: payload, whole };
                    } else {
                        if arrived.len() < header.frame_bytes() {
                            break;
                        }
                        let frame = arrived.split_to(header.frame_bytes()).freeze();
                        connection.reading = Reading::Head;
                        let message = decode(frame).map_err(|e| format!("the wire: {e}"))?;
                        self.take(key, number, message);
                    }
                }
                Reading::Passing { oversized, missing, whole } => {
                    let piece = arrived.split_to(arrived.len().min(*missing));
                    oversized.update(&piece);
                    whole.extend_from_slice(&piece);
                    *missing -= piece.len();
                    if *missing > 0 || arrived.len() < 4 {
                        break;
                    }
                    whole.extend_from_slice(&arrived.split_to(4));
                    decode(std::mem::take(whole).freeze()).map_err(|e| format!("the wire: {e}"))?;
                    let Reading::Passing { oversized, .. } = std::mem::replace(&mut connection.reading, Reading::Head)
                    else {
                        unreachable!()
                    };
                    intake.end_oversized(key, *oversized);
                }
            }
        }
        let connection = &mut self.connections[number];
        if connection.up.ended
            && let (Some(key), Some(intake)) = (connection.key.take(), &mut self.intake)
        {
            intake.disconnect(at, key);
            connection.down.end(self.now);
            self.tell(|| format!("the receiver has lost connection {number}"));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, key: SessionKey, number: usize, mut message: Message) {
        let at = self.at();
        let Some(intake) = &mut self.intake else { return };
        if self.story.lie == Some(Lie::TakeGaps)
            && let (Message::Send(send), Some((received, _))) = (&mut message, intake.positions(key))
        {
            send.previous = send.previous.min(received);
        }
        if let Message::Hello(hello) = &message {
            self.oracle.hello(number, hello);
        }
        self.tell(|| format!("connection {number} ► {}", short(&message)));
        self.intake.as_mut().expect("it is there").handle(at, key, message);
    }

    pub(super) fn tick(&mut self) {
        let at = self.at();
        let Some(intake) = &mut self.intake else { return };
        for key in self.connections.iter().filter_map(|connection| connection.key) {
            if intake.next_deadline(key).is_some_and(|deadline| deadline <= at) {
                intake.tick(at, key);
            }
        }
    }

    /// Says what is to be said, to those that are listed.
    pub(super) fn speak(&mut self) -> Result<(), String> {
        let at = self.at();
        while let Some(key) = self.intake.as_mut().and_then(Intake::poll_noisy) {
            let Some(number) = self.connections.iter().position(|connection| connection.key == Some(key)) else {
                continue;
            };
            while let Some(output) = self.intake.as_mut().and_then(|intake| intake.poll_output(key)) {
                match output {
                    SessionOutput::Message(mut message) => {
                        if let (Message::Ack(ack), Some(Lie::AckReceived)) = (&mut message, self.story.lie) {
                            ack.durable = ack.received;
                        }
                        if matches!(message, Message::Ack(_)) && self.story.lie == Some(Lie::Mute) {
                            continue;
                        }
                        self.oracle.said(number, &message, self.log.durable, &self.committed)?;
                        self.send(number, false, &message);
                    }
                    SessionOutput::Close => {
                        let connection = &mut self.connections[number];
                        connection.key = None;
                        connection.down.end(self.now);
                        self.intake.as_mut().expect("it is there").disconnect(at, key);
                    }
                }
            }
            self.read(number)?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, number: usize, is_up: bool, message: &Message) {
        self.tell(|| format!("connection {number} {} {}", if is_up { "►…" } else { "◄" }, short(message)));
        let connection = &mut self.connections[number];
        if connection.is_cut {
            return;
        }
        let pipe = if is_up { &mut connection.up } else { &mut connection.down };
        let bytes = pipe.send(&mut self.r, self.now, self.story.delay_millis, message);
        (self.now, number, is_up, bytes).hash(&mut self.trace);
    }
}
