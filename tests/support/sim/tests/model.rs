//! The simulator against a model that shares nothing with it: for every sector, the set of bytes a crash may show.

use std::collections::BTreeMap;

use super::*;

const SECTORS: usize = 24;

/// What each sector of the one file may hold after a power loss.
#[derive(Clone)]
struct Model {
    durable: Vec<u8>,
    /// Volatile writes: first sector, sectors, byte.
    volatile: Vec<(usize, usize, u8)>,
    seen: Vec<u8>,
}

impl Model {
    fn new() -> Model {
        Model { durable: vec![0; SECTORS], volatile: Vec::new(), seen: vec![0; SECTORS] }
    }

    fn write(&mut self, start: usize, count: usize, byte: u8) {
        self.volatile.push((start, count, byte));
        self.seen[start..start + count].fill(byte);
    }

    fn flush(&mut self) {
        self.durable = self.seen.clone();
        self.volatile.clear();
    }

    /// The newest write is durable: older ones no longer show where it stands.
    fn write_flushed(&mut self, start: usize, count: usize, byte: u8) {
        self.seen[start..start + count].fill(byte);
        self.durable[start..start + count].fill(byte);
        let old = std::mem::take(&mut self.volatile);
        let keep = |sector: &usize| !(start..start + count).contains(sector);
        for (first, sectors, byte) in old {
            let left = (first..first + sectors).filter(keep).map(|sector| (sector, 1, byte));
            self.volatile.extend(left);
        }
    }

    fn allows(&self, sector: usize, byte: u8) -> bool {
        let covers = |(start, count, of): &(usize, usize, u8)| *of == byte && (*start..start + count).contains(&sector);
        self.durable[sector] == byte || self.volatile.iter().any(covers)
    }
}

/// A random run; the model as of every crash point.
fn run(seed: u64) -> (SimDisk, BTreeMap<OpNumber, Model>) {
    let disk = SimDisk::new(DiskOptions::DIRECT_512);
    disk.write_file("f", &[0; SECTORS * 512]);
    let storage = disk.open();
    let file = storage.open("f").unwrap();
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    let mut models = BTreeMap::from([(disk.journal().end(), model.clone())]);
    for step in 0..24u8 {
        let (byte, start) = (step + 1, rng.below(SECTORS as u64) as usize);
        let count = 1 + rng.below((SECTORS - start) as u64) as usize;
        let bytes = buffer(&vec![byte; count * 512]);
        match rng.below(8) {
            0 => {
                storage.flush(&file).unwrap();
                model.flush();
            }
            1 => {
                storage.write_flushed(&file, start as u64 * 512, &[Arc::new(bytes)]).unwrap();
                model.write_flushed(start, count, byte);
            }
            _ => {
                storage.write(&file, start as u64 * 512, &bytes).unwrap();
                model.write(start, count, byte);
            }
        }
        models.insert(disk.journal().end(), model.clone());
    }
    (disk, models)
}

fn sectors(disk: &SimDisk) -> Vec<u8> {
    let bytes = disk.read_file("f");
    assert!(bytes.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])), "sectors are whole");
    bytes.chunks(512).map(|sector| sector[0]).collect()
}

#[test]
fn no_state_shows_what_the_model_forbids() {
    let options = CrashOptions { garbage_per_write: 0, cuts_per_write: 4, ..CrashOptions::default() };
    for seed in 0..6 {
        let (disk, models) = run(seed);
        let journal = disk.journal();
        for (at, model) in &models {
            for state in CrashStates::new(&journal, *at, options) {
                for (sector, byte) in sectors_or_garbage(&state).into_iter().enumerate() {
                    assert!(model.allows(sector, byte), "seed {seed}, sector {sector} holds {byte}: {state}");
                }
            }
        }
        assert_eq!(sectors(&disk), models.values().last().unwrap().seen, "seed {seed}: what readers see");
    }
}

/// Random plans may put garbage; those are not the model's business.
fn sectors_or_garbage(state: &CrashState) -> Vec<u8> {
    match state.choice.writes {
        Writes::Random(_) => Vec::new(),
        _ => sectors(&state.disk),
    }
}

#[test]
fn every_byte_the_model_allows_is_shown_by_some_state() {
    let options = CrashOptions { random_subsets: 0, garbage_per_write: 0, ..CrashOptions::default() };
    for seed in 0..4 {
        let (disk, models) = run(seed);
        let journal = disk.journal();
        for (at, model) in &models {
            let mut shown = vec![BTreeSet::new(); SECTORS];
            for state in CrashStates::new(&journal, *at, options) {
                for (shown, byte) in shown.iter_mut().zip(sectors(&state.disk)) {
                    shown.insert(byte);
                }
            }
            for (start, count, byte) in &model.volatile {
                assert!((*start..start + count).all(|sector| shown[sector].contains(byte)), "seed {seed} at {at}");
            }
            assert!((0..SECTORS).all(|sector| shown[sector].contains(&model.durable[sector])), "seed {seed} at {at}");
        }
    }
}
