//! A seeded history of a directory with plans between: each line in one batch, in order, the same each time it is read.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;

use seawall::BatchId;
use seawall::ledger::Replayable;
use seawall::node::{DirectorySourceConfig, Finished};

use crate::bed::{Bed, prompt, share, tick};
use crate::rng::Rng;

const SEED: u64 = 20_261_123;
const HISTORIES: u64 = 12;
const STEPS: u64 = 120;

/// A file as its writer knows it.
struct Writer {
    /// Names it: lines begin with it.
    number: u64,
    lines: u64,
    /// Has written half a line.
    half: bool,
    finished: bool,
}

fn config() -> DirectorySourceConfig {
    DirectorySourceConfig { finished: Finished::Marker, depth_max: 1, names: Some("*.log".into()), ..prompt() }
}

struct History {
    bed: Bed,
    rng: Rng,
    /// By path.
    files: BTreeMap<String, Writer>,
    numbers: u64,
    /// What each pending batch read first.
    content: HashMap<BatchId, Vec<String>>,
    /// Of each file, the lines that batches hold, in order.
    seen: HashMap<u64, Vec<u64>>,
    written: HashMap<u64, u64>,
}

impl History {
    fn new(seed: u64) -> History {
        let bed = Bed::new(config());
        fs::create_dir(bed.path("below")).unwrap();
        History {
            bed,
            rng: Rng::new(seed),
            files: BTreeMap::new(),
            numbers: 0,
            content: HashMap::new(),
            seen: HashMap::new(),
            written: HashMap::new(),
        }
    }

    fn any(&mut self, which: impl Fn(&Writer) -> bool) -> Option<String> {
        let names: Vec<&String> = self.files.iter().filter(|(_, file)| which(file)).map(|(name, _)| name).collect();
        let at = self.rng.below(names.len() as u64) as usize;
        names.get(at).map(|name| (*name).clone())
    }

    fn fresh_name(&mut self) -> String {
        self.numbers += 1;
        let dir = if self.rng.one_in(3) { "below/" } else { "" };
        format!("{dir}{}.log", self.numbers)
    }

    fn write(&mut self, name: &str, lines: u64) {
        let file = self.files.get_mut(name).expect("a writer");
        for _ in 0..lines {
            let text = format!("{} {}", file.number, file.lines);
            let rest = if file.half { &text[1..] } else { &text };
            self.bed.append(name, format!("{rest}\n"));
            file.half = false;
            file.lines += 1;
        }
        self.written.insert(file.number, file.lines);
    }

    fn create(&mut self, name: String) {
        self.numbers += 1;
        let number = self.numbers;
        self.bed.append(&name, "");
        self.files.insert(name.clone(), Writer { number, lines: 0, half: false, finished: false });
        let lines = self.rng.below(4);
        self.write(&name, lines);
    }

    fn step(&mut self) {
        let open = |file: &Writer| !file.finished;
        match self.rng.below(16) {
            0 | 1 => {
                let name = self.fresh_name();
                self.create(name);
            }
            2..=4 => {
                let lines = 1 + self.rng.below(20);
                if let Some(name) = self.any(open) {
                    self.write(&name, lines);
                }
            }
            5 => {
                if let Some(name) = self.any(|file| !file.finished && !file.half) {
                    let file = self.files.get_mut(&name).expect("chosen");
                    // The first character of the number: the rest of the line comes later.
                    self.bed.append(&name, &file.number.to_string()[..1]);
                    file.half = true;
                }
            }
            6 => self.rename(),
            7 => self.replace(),
            8 => self.remove(),
            9 => {
                // The last line has no end but the file's.
                if let Some(name) = self.any(|file| !file.finished && !file.half) {
                    let file = self.files.get_mut(&name).expect("chosen");
                    self.bed.append(&name, format!("{} {}", file.number, file.lines));
                    (file.lines, file.finished) = (file.lines + 1, true);
                    self.written.insert(file.number, file.lines);
                    self.bed.append(&format!("{name}.done"), "");
                }
            }
            10 => self.bed.restart(config()),
            11 => self.commit(),
            12 => self.check_pending(),
            _ => {
                let share = share(1 + self.rng.below(30), 1 + self.rng.below(300), 1 + self.rng.below(6) as usize);
                self.plan(share);
            }
        }
    }

    fn rename(&mut self) {
        let Some(name) = self.any(|file| !file.finished) else { return };
        let to = self.fresh_name();
        self.bed.rename(&name, &to);
        let file = self.files.remove(&name).expect("chosen");
        self.files.insert(to, file);
    }

    /// Everything written of it is in committed batches.
    fn is_settled(&self, name: &str) -> bool {
        let file = fs::metadata(self.bed.path(name)).unwrap();
        // The inode may have been another file's, of which the ledger still knows: the birth tells them apart.
        let born = file.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let [inode, secs] = [file.ino(), born.as_secs()].map(u64::to_le_bytes);
        let ours = [&inode[..], &secs, &born.subsec_nanos().to_le_bytes()].concat();
        let known = self.bed.ledger.known();
        let mut settled = file.size() == 0;
        seawall::ledger::Parts::each(&known, &mut |key, part| {
            settled |= key.as_bytes()[1..] == ours && part.committed == file.size();
        });
        settled && !self.files[name].half
    }

    fn replace(&mut self) {
        let Some(name) = self.any(|file| !file.finished) else { return };
        if self.is_settled(&name) {
            self.files.remove(&name);
            let temporary = format!("{name}.tmp");
            self.create(temporary.clone());
            self.bed.rename(&temporary, &name);
            let file = self.files.remove(&temporary).expect("made");
            self.files.insert(name, file);
        }
    }

    fn remove(&mut self) {
        let Some(name) = self.any(|_| true) else { return };
        if self.is_settled(&name) {
            self.files.remove(&name);
            self.bed.remove(&name);
            let _ = fs::remove_file(self.bed.path(&format!("{name}.done")));
        }
        if self.rng.one_in(2) {
            tick();
        }
    }

    fn plan(&mut self, share: seawall::ledger::Share) -> bool {
        let lost = self.rng.one_in(4);
        let mut plan = self.bed.try_plan(share).unwrap();
        if lost {
            // The ledger could not write it down: nothing has happened.
            plan = self.bed.try_plan(share).unwrap();
        }
        let has_more = plan.has_more;
        assert!(plan.ranges.len() <= share.ranges.max(1));
        assert!(plan.ranges.iter().map(|range| range.records).sum::<u64>() <= share.records);
        if let Some(batch) = self.bed.ledger.allocate(plan) {
            let lines = self.bed.read(batch).unwrap();
            for line in &lines {
                let (file, number) = line.split_once(' ').unwrap_or_else(|| panic!("half a line: {line}"));
                self.seen.entry(file.parse().unwrap()).or_default().push(number.parse().unwrap());
            }
            self.content.insert(batch, lines);
            return true;
        }
        has_more
    }

    fn check_pending(&mut self) {
        for batch in self.bed.ledger.pending() {
            assert_eq!(self.bed.read(batch).unwrap(), self.content[&batch]);
        }
    }

    fn commit(&mut self) {
        let pending = self.bed.ledger.pending();
        let at = self.rng.below(pending.len() as u64) as usize;
        // The oldest: the state keeps later ones that are done until their turn.
        if let Some(batch) = pending.get(at).and(pending.first()) {
            assert_eq!(self.bed.read(*batch).unwrap(), self.content[batch]);
            self.bed.ledger.commit(*batch);
        }
    }

    fn end(mut self) -> (usize, u64) {
        // Every half line gets its end.
        for name in self.files.iter().filter(|(_, f)| f.half).map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.write(&name, 1);
        }
        while self.plan(share(1_000, 10_000, 100)) {}
        self.check_pending();
        let mut lines = 0;
        for (file, written) in &self.written {
            let seen = self.seen.remove(file).unwrap_or_default();
            assert_eq!(seen, (0..*written).collect::<Vec<_>>(), "file {file}");
            lines += written;
        }
        assert!(self.seen.is_empty(), "lines nobody wrote: {:?}", self.seen);
        assert_eq!(self.bed.source.stats().vanished_files, 0);
        assert_eq!(self.bed.source.latest(&self.bed.ledger.known()).unwrap().bytes, 0);
        (self.content.len(), lines)
    }
}

#[test]
fn each_line_is_in_one_batch_whatever_happens_to_its_file() {
    let seed = std::env::var("SEAWALL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let (mut batches, mut lines) = (0, 0);
    for history in 0..HISTORIES {
        eprintln!("SEAWALL_SEED={seed}, history {history}");
        let mut all = History::new(Rng::nth(seed, history).next());
        (0..STEPS).for_each(|_| all.step());
        let (b, l) = all.end();
        (batches, lines) = (batches + b, lines + l);
    }
    assert!(batches as u64 > HISTORIES * 10 && lines > HISTORIES * 100, "{batches} batches, {lines} lines: too little");
}
