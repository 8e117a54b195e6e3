//! What goes wrong.

use super::*;

impl World {
    pub(super) fn faults(&mut self) {
        if !self.is_calm && self.now >= self.story.calm_after {
            self.become_calm();
        }
        let step = self.steps - 1;
        let due: Vec<_> = self.story.faults.iter().filter(|(at, _)| *at == step).map(|(_, fault)| *fault).collect();
        due.into_iter().for_each(|fault| self.fault(fault));
        if !self.is_calm && self.r.one_in(self.story.fault_every) {
            let fault = self.r.of(&Fault::ALL);
            self.fault(fault);
        }
    }

    pub(super) fn become_calm(&mut self) {
        self.is_calm = true;
        self.tell(|| "calm".to_owned());
        for player in 0..self.players.len() {
            if self.players[player].is_alive && !self.current.contains(&player) {
                self.kill(player);
            }
        }
        self.log.full_until = self.now;
        let (now, at, rate) = (self.now, self.at(), self.rate());
        self.log.slow_until = now;
        if let Some(intake) = &mut self.intake {
            intake.set_rate(at, rate);
        }
    }

    /// What the engine takes. In the calm it is faster, also for a receiver that was away when that began: `PATIENCE` is made
    /// for it.
    pub(super) fn rate(&self) -> Option<f64> {
        self.story.rate.map(|rate| if self.is_calm { rate * 4.0 } else { rate })
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.tell(|| format!("fault {fault:?}"));
        match fault {
            Fault::Cut => {
                if !self.connections.is_empty() {
                    let connection = self.r.below(self.connections.len() as u64) as usize;
                    self.cut(connection);
                }
            }
            Fault::CrashSource => {
                let source = self.r.below(self.current.len() as u64) as usize;
                self.crash_source(source);
            }
            Fault::Zombie => {
                let source = self.r.below(self.current.len() as u64) as usize;
                if !self.players[self.current[source]].is_done {
                    self.done.zombies += 1;
                    self.current[source] = self.new_life(source);
                }
            }
            Fault::CrashReceiver => self.crash_receiver(),
            Fault::DrainReceiver => {
                let (at, within) = (self.at(), self.r.millis(0, 100));
                if let Some(intake) = &mut self.intake {
                    intake.drain(at, within, "restart");
                    self.drained_at = Some(self.now + within + self.r.millis(0, 20));
                }
            }
            Fault::Full => self.log.full_until = self.now + self.r.millis(1, 300),
            Fault::Slow => self.log.slow_until = self.now + self.r.millis(1, 500),
            Fault::Snapshot => {
                if let Some(intake) = &mut self.intake {
                    intake.request_snapshot(seawall::Lsn::MAX);
                }
            }
            Fault::Rot => {
                if self.story.rots {
                    self.rot();
                }
                if self.r.one_in(2) || self.story.fault_every == 0 {
                    self.crash_receiver();
                }
            }
        }
    }

    /// Mostly in what a replay reads.
    pub(super) fn rot(&mut self) {
        for _ in 0..self.r.within(1, 3) {
            let (trimmed, durable) = (self.log.trimmed as u64, self.log.durable as u64);
            if durable > trimmed {
                let low = if self.r.one_in(3) { trimmed } else { trimmed.max(durable.saturating_sub(4)) };
                let block = self.r.within(low, durable - 1) as usize;
                self.done.rotten += u64::from(self.log.rotten.insert(block));
            }
        }
    }

    pub(super) fn cut(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        if !connection.is_cut {
            self.done.cuts += 1;
            connection.is_cut = true;
            connection.up.cut(&mut self.r, self.now);
            connection.down.cut(&mut self.r, self.now);
        }
    }

    pub(super) fn crash_source(&mut self, source: usize) {
        let player = self.current[source];
        if !self.players[player].is_done {
            self.done.source_crashes += 1;
            self.kill(player);
            self.current[source] = self.new_life(source);
        }
    }

    pub(super) fn kill(&mut self, player: usize) {
        self.note_finished(player);
        self.players[player].is_alive = false;
        if let Some(connection) = self.players[player].connection.take() {
            self.connections[connection].source_listens = false;
            self.cut(connection);
        }
    }

    pub(super) fn crash_receiver(&mut self) {
        if self.intake.is_none() {
            return;
        }
        self.done.receiver_crashes += 1;
        self.drained_at = None;
        self.close_books();
        self.intake = None;
        self.back_at = Some(self.now + self.r.millis(1, 100));
        for connection in &mut self.connections {
            connection.key = None;
            if !connection.is_cut {
                connection.is_cut = true;
                connection.down.cut(&mut self.r, self.now);
            }
        }
        // What was not flushed may survive all the same, but nothing behind what did not.
        let log = &mut self.log;
        let mut survivors = log.durable + self.r.below((log.blocks.len() - log.durable) as u64 + 1) as usize;
        if self.story.lie == Some(Lie::LoseFlushed) {
            survivors = survivors.saturating_sub(self.r.below(4) as usize).max(log.trimmed);
        }
        log.blocks.truncate(survivors);
        log.rotten.split_off(&survivors);
        log.durable = survivors;
        log.flushes.clear();
        log.retry_at = None;
    }

    pub(super) fn close_books(&mut self) {
        if let Some(intake) = &self.intake {
            let IntakeStats { duplicates, gaps, replaced, rejected, records, .. } = intake.stats();
            self.done.duplicates += duplicates;
            self.done.gaps += gaps;
            self.done.replaced += replaced;
            self.done.rejects += rejected;
            self.done.records += records;
        }
    }
}
