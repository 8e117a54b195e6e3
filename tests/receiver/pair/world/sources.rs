//! The sources, and what they hear.

use super::*;

impl World {
    pub(super) fn new_life(&mut self, source: usize) -> usize {
        let story = &self.story.sources[source];
        let is_sequenced = story.sequences != Sequences::None;
        let config = OutboxConfig {
            source: (is_sequenced || self.r.one_in(2)).then(|| story.id.clone()),
            epoch: SourceEpoch::new(story.epoch),
            sequences: story.sequences,
            wait_for: story.wait_for,
            held_bytes_max: self.r.of(&[3000, 1 << 20]),
            send_bytes: self.r.of(&[200, 1500, 1 << 20]),
            ..OutboxConfig::default()
        };
        self.tell(|| format!("a life of source {source}"));
        self.players.push(Player {
            source,
            outbox: Outbox::new(config),
            connection: None,
            connect_at: Some(self.now + self.r.millis(0, 5)),
            is_alive: true,
            is_done: false,
            push_at: self.now,
            given: Vec::new(),
            pushed: Vec::new(),
            began_at: None,
            rejects: Vec::new(),
        });
        self.players.len() - 1
    }

    /// The next item to give to an outbox.
    pub(super) fn next_item(&self, player: &Player) -> Option<usize> {
        let story = &self.story.sources[player.source];
        let from = match (story.sequences, player.given.last()) {
            (Sequences::None, Some(last)) => last + 1,
            (Sequences::None, None) => self.finished[player.source],
            _ => {
                let pushed = player.outbox.positions().pushed.get();
                story.plan.partition_point(|planned| planned.seq <= pushed)
            }
        };
        let left_out = story.sequences != Sequences::Dense;
        (from..story.plan.len()).find(|at| !(left_out && story.plan[*at].item == Item::GivenUp))
    }

    /// Without sequences: remembers how far a life has come.
    pub(super) fn note_finished(&mut self, player: usize) {
        let Player { source, outbox, given, .. } = &self.players[player];
        let story = &self.story.sources[*source];
        if story.sequences == Sequences::None && self.current.get(*source) == Some(&player) {
            let done = outbox.positions().of(story.wait_for).get() as usize;
            if let Some(last) = done.checked_sub(1) {
                self.finished[*source] = self.finished[*source].max(given[last] + 1);
            }
        }
    }

    pub(super) fn play(&mut self, number: usize) -> Result<(), String> {
        if !self.players[number].is_alive || self.players[number].is_done {
            return Ok(());
        }
        let at = self.at();
        if self.players[number].connect_at.is_some_and(|due| due <= self.now) {
            self.connect(number);
        }
        self.listen(number)?;
        self.give(number)?;
        let is_due = self.is_calm || self.is_all_done(number) || self.r.one_in(3);
        if is_due {
            self.take_rejects(number)?;
        }
        if self.is_all_done(number) && self.story.sources[self.players[number].source].says_bye {
            self.players[number].outbox.close();
        }
        loop {
            let Some(output) = self.players[number].outbox.poll_output(at) else { break };
            let connection = self.players[number].connection;
            match output {
                OutboxOutput::Message(message) => {
                    let Some(connection) = connection else { return Err("an outbox speaks to nobody".to_owned()) };
                    self.send(connection, true, &message);
                }
                OutboxOutput::Reconnect { after, .. } => {
                    self.hang_up(number);
                    self.players[number].connect_at = Some(self.now + after + self.r.millis(0, 50));
                    break;
                }
                OutboxOutput::Close => {
                    self.hang_up(number);
                    self.closed(number)?;
                    break;
                }
            }
        }
        let is_done = self.is_all_done(number) && !self.story.sources[self.players[number].source].says_bye;
        if is_done {
            self.players[number].is_done = true;
            self.hang_up(number);
        }
        Ok(())
    }

    pub(super) fn is_all_done(&self, number: usize) -> bool {
        let player = &self.players[number];
        let story = &self.story.sources[player.source];
        let all = match story.sequences {
            Sequences::None => player.given.len() as u64,
            _ => player.outbox.positions().pushed.get(),
        };
        let is_welcomed = player.outbox.is_welcomed();
        is_welcomed && self.next_item(player).is_none() && player.outbox.positions().of(story.wait_for).get() >= all
    }

    pub(super) fn connect(&mut self, number: usize) {
        self.players[number].connect_at = None;
        let at = self.at();
        let Some(Ok(key)) = self.intake.as_mut().map(|intake| intake.connect(at)) else {
            self.players[number].connect_at = Some(self.now + self.r.millis(5, 50));
            return;
        };
        let connection = self.connections.len();
        self.connections.push(Connection {
            up: Pipe::default(),
            down: Pipe::default(),
            key: Some(key),
            source_listens: true,
            reading: Reading::Head,
            is_cut: false,
        });
        let player = &mut self.players[number];
        player.connection = Some(connection);
        player.outbox.connect();
        let hello = player.outbox.hello();
        self.oracle.connected(connection, player.source);
        self.send(connection, true, &hello);
    }

    pub(super) fn hang_up(&mut self, number: usize) {
        if let Some(connection) = self.players[number].connection.take() {
            let connection = &mut self.connections[connection];
            connection.source_listens = false;
            connection.up.end(self.now);
        }
        self.players[number].outbox.disconnected();
    }

    pub(super) fn listen(&mut self, number: usize) -> Result<(), String> {
        let at = self.at();
        let Some(connection) = self.players[number].connection else { return Ok(()) };
        loop {
            let arrived = &mut self.connections[connection].down.arrived;
            if arrived.len() < HEADER_BYTES {
                break;
            }
            let header = header_of(arrived)?;
            if arrived.len() < header.frame_bytes() {
                break;
            }
            let frame = arrived.split_to(header.frame_bytes()).freeze();
            let message = decode(frame).map_err(|e| format!("the wire: {e}"))?;
            self.tell(|| format!("connection {connection} …◄ {}", short(&message)));
            let player = &mut self.players[number];
            player.outbox.handle(at, message);
            if player.outbox.is_welcomed() {
                player.began_at.get_or_insert(player.outbox.positions().durable);
            }
            self.oracle.heard(player.source, &player.outbox)?;
        }
        if self.connections[connection].down.ended {
            self.hang_up(number);
            self.players[number].connect_at = Some(self.now + self.r.millis(0, 50));
        }
        Ok(())
    }

    pub(super) fn give(&mut self, number: usize) -> Result<(), String> {
        if self.players[number].push_at > self.now || self.players[number].outbox.failure().is_some() {
            return Ok(());
        }
        self.players[number].push_at = self.now + self.r.millis(0, 20);
        for _ in 0..self.r.within(1, 6) {
            let player = &mut self.players[number];
            let source = player.source;
            // Some lives begin to give before they were told where to go on: the source knows its numbers.
            if !player.outbox.is_welcomed() && !number.is_multiple_of(3) {
                return Ok(());
            }
            let Some(item) = self.next_item(&self.players[number]) else { return Ok(()) };
            let planned = self.story.sources[source].plan[item].clone();
            let sequences = self.story.sources[source].sequences;
            let player = &mut self.players[number];
            let result = match planned.item {
                Item::Skip | Item::GivenUp => player.outbox.skip(seq(planned.seq)).map(|()| Seq::ZERO),
                _ if sequences == Sequences::None => player.outbox.push(planned.bytes.into()),
                _ => player.outbox.push_at(seq(planned.seq), planned.bytes.into()),
            };
            match result {
                Ok(_) if sequences == Sequences::None => player.given.push(item),
                Ok(_) if planned.item == Item::Record => player.pushed.push(planned.seq),
                Ok(_) => {}
                Err(OutboxError::Full { .. }) => return Ok(()),
                Err(OutboxError::TooLarge { .. }) => {
                    if let (Some(connection), true) = (player.connection, self.r.one_in(2) && !self.is_calm) {
                        self.cut(connection);
                        self.hang_up(number);
                        self.players[number].connect_at = Some(self.now + self.r.millis(1, 20));
                    } else {
                        self.give_up(source, item);
                    }
                }
                Err(error) => return Err(format!("source {source} is refused a record: {error}")),
            }
        }
        Ok(())
    }

    pub(super) fn give_up(&mut self, source: usize, item: usize) {
        self.tell(|| format!("source {source} gives up item {item}"));
        self.story.sources[source].plan[item].item = Item::GivenUp;
        self.oracle.give_up(source, item);
    }

    pub(super) fn take_rejects(&mut self, number: usize) -> Result<(), String> {
        let player = &mut self.players[number];
        for reject in player.outbox.take_rejects() {
            if player.rejects.contains(&reject.seq.get()) {
                return Err(format!("the outbox tells of reject {} twice", reject.seq));
            }
            player.rejects.push(reject.seq.get());
            self.oracle.told_of_reject(player.source, reject);
        }
        Ok(())
    }

    /// The outbox is at its end: done, or refused.
    pub(super) fn closed(&mut self, number: usize) -> Result<(), String> {
        let source = self.players[number].source;
        match self.players[number].outbox.failure().cloned() {
            None => {
                if !self.is_all_done(number) {
                    return Err(format!("source {source} closed with records that are not acknowledged"));
                }
                self.done.byes += 1;
                self.players[number].is_done = true;
                if self.current[source] != number {
                    self.players[number].is_alive = false;
                }
            }
            Some(OutboxError::Refused { code: Code::OldEpoch | Code::Replaced, .. }) => {
                self.replace(number);
            }
            Some(OutboxError::Refused { code: Code::Poison | Code::Oversized, .. }) => {
                self.note_finished(number);
                let story = &self.story.sources[source];
                let durable = self.players[number].outbox.positions().told_durable.get();
                let from = match story.sequences {
                    // What it was given may be from before another life went further.
                    Sequences::None => 0,
                    _ => story.plan.partition_point(|planned| planned.seq <= durable),
                };
                let find = |from: usize, kinds: &[Item]| {
                    (from..story.plan.len()).find(|at| kinds.contains(&story.plan[*at].item))
                };
                // Another life may have met the same record, given it up and gone further.
                let culprit = find(from, &[Item::Poison, Item::Oversized])
                    .or_else(|| find(0, &[Item::GivenUp]))
                    .ok_or_else(|| format!("source {source} was refused a good record"))?;
                self.give_up(source, culprit);
                self.replace(number);
            }
            // What it was told is lost, and somebody has said that this is accepted: it starts anew without that memory.
            Some(OutboxError::AckedLoss { .. }) if self.oracle.is_forgotten(source) => {
                self.done.losses_told += 1;
                self.replace(number);
            }
            // Its epoch was forgotten and given to another life, whose records are acknowledged to it.
            Some(OutboxError::Protocol(_)) if self.oracle.is_epoch_forgotten(source) => self.replace(number),
            Some(error) => return Err(format!("source {source}: {error}")),
        }
        Ok(())
    }

    /// A life that can do no more; the source's newest is followed by another.
    pub(super) fn replace(&mut self, number: usize) {
        let source = self.players[number].source;
        self.note_finished(number);
        self.players[number].is_alive = false;
        if self.current[source] == number {
            self.current[source] = self.new_life(source);
        }
    }

    /// What an outbox says of its own records is so, whatever it let go of: durable ends before the first that was lost.
    /// What is behind its first WELCOME others had sent, and may have lost; as may another life of the same epoch later on.
    pub(super) fn check_claims(&self) -> Result<(), String> {
        let found = self.oracle.records(&self.log.blocks)?;
        for (number, player) in self.players.iter().enumerate() {
            let lost_by_others = |seq: u64| {
                let others = self.players.iter().enumerate().filter(|(other, _)| *other != number);
                let mut lost = others.filter(|(_, other)| other.source == player.source);
                lost.any(|(_, other)| {
                    other.outbox.positions().lost.is_some_and(|lost| lost.previous.get() < seq && seq <= lost.to.get())
                })
            };
            let source = &self.story.sources[player.source];
            let (Some(began_at), durable) = (player.began_at, player.outbox.positions().durable) else { continue };
            let own = player.pushed.iter().filter(|seq| began_at.get() < **seq && **seq <= durable.get());
            let mut missing = own.filter(|seq| !found.contains(&(player.source, **seq)));
            if let Some(seq) = missing.find(|seq| !lost_by_others(**seq)) {
                return Err(format!("{}'s outbox says {durable} is durable, and {seq} is in no block", source.id));
            }
        }
        Ok(())
    }
}
