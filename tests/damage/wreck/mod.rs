//! Logs that lived through a story and rot where it ended: blocks, not bits; in two places; an older copy of a slot of the
//! control file; files that are gone. The oracle asks of each damage, and of each way to open what is left: what was acknowledged is
//! there, byte for byte, or it is named; what was truncated or dropped is not shown; `Strict` refuses appends or nothing is named; and
//! what `Quarantine` decided stays so, also if that open fell short.
//!
//! What may be missing without a word, and no more: see [`evidence::Evidence::may_be_silent`]. What must not be missing at all:
//! [`promise::Promise`].

mod evidence;
mod judge;
mod layout;
mod promise;
mod small;
mod spoil;
mod trouble;

use std::time::{Duration, Instant};

use seawall::{Config, Log, RecoveryMode};

use super::report::{Ask, Failure, Report, in_parts};
use super::rot::Flips;
use super::sim::{Rng, SimDisk, mix};
use super::story::{Past, Step, Tale};
use evidence::Evidence;
use judge::Case;
use layout::Layout;
use spoil::Spoil;
use trouble::Trouble;

/// In a gate, besides flips: the short stories of up to three steps in every way, and a fourth of that of others.
pub const DAMAGES_CI: u64 = 450_000;
/// Damages of one story.
const DAMAGES: u64 = 64;
/// Of one story, besides: damages that take a file away.
const DAMAGES_WITH_A_FILE_GONE: u64 = 16;
/// Of these, so many are opened when something goes wrong, too.
const TROUBLE_ONE_IN: u64 = 6;
/// Of the parts, so many are flips while there are some; and of the others so many are short stories.
const FLIPS_ONE_IN: u64 = 16;
const SMALL_ONE_IN: u64 = 4;
/// For making a failing story smaller.
const SHRINK_FOR: Duration = Duration::from_secs(20);

/// A story, and how it ends.
#[derive(Clone, Debug)]
pub struct Wreck {
    pub tale: Tale,
    /// By a close, or its process is killed.
    pub is_closed: bool,
    damages: Damages,
}

/// Which damages of a story are tried.
#[derive(Clone, Copy, Debug)]
enum Damages {
    /// Some, by its seed.
    Some,
    Each,
}

/// Damages logs until `goal` of them are judged or the time is up; the same ones for the same seed.
pub fn run(ask: Ask<'_>) -> Report {
    in_parts(&ask, &|number, until| Some(part(ask.seed, number, ask.failures_max, until)))
}

/// Damages short stories, from this one on, in every way, until `goal` damages are judged or the time is up.
pub fn run_small(first: u64, ask: Ask<'_>) -> Report {
    in_parts(&ask, &|number, until| Some(small(first + number, ask.failures_max, until)))
}

/// The same, among them short stories damaged in every way, and the flips of a sealed segment of so many bytes: as much of each as there is
/// time for.
pub fn run_with_flips(segment_bytes: u64, ask: Ask<'_>) -> Report {
    let flips = Flips::new(segment_bytes, ask.seed);
    in_parts(&ask, &|number, until| {
        let flips = || flips.part(number / FLIPS_ONE_IN, ask.failures_max, until);
        let flipped = number.is_multiple_of(FLIPS_ONE_IN).then(flips).flatten();
        let damaged = || match number % SMALL_ONE_IN {
            1 => small(number / SMALL_ONE_IN, ask.failures_max, until),
            _ => part(ask.seed, number, ask.failures_max, until),
        };
        Some(flipped.unwrap_or_else(damaged))
    })
}

/// The damages of one story.
pub fn part(seed: u64, number: u64, failures_max: usize, until: Instant) -> Report {
    let seed = Rng::nth(!seed, number).next();
    judge_part(Wreck::of(seed), &format!("SEAWALL_WRECK={seed}"), failures_max, until)
}

/// Every damage of the short story of this number.
pub fn small(number: u64, failures_max: usize, until: Instant) -> Report {
    judge_part(small::nth(number), &format!("SEAWALL_SMALL={number}"), failures_max, until)
}

fn judge_part(wreck: Wreck, again: &str, failures_max: usize, until: Instant) -> Report {
    let seed = wreck.tale.seed;
    let tally = spoil_all(&wreck, until, failures_max);
    let mut report = Report {
        enumerated: tally.judged,
        distinct: tally.judged,
        trace_hash: mix(seed, tally.trace),
        ..Report::default()
    };
    if let Some(what) = tally.failures.first() {
        let small = if failures_max == 1 { wreck } else { shrink(wreck, Instant::now() + SHRINK_FOR) };
        let once_more = (failures_max > 1).then(|| spoil_all(&small, Instant::now() + SHRINK_FOR, 1));
        let what = once_more.and_then(|tally| tally.failures.into_iter().next()).unwrap_or_else(|| what.clone());
        let what = format!("{} of {} damages: {what}\n    in {small:?}", tally.failures.len(), tally.judged);
        let replay = format!("{again} cargo test --release --test damage wreck_from_the_environment -- --nocapture");
        report.failures.push(Failure { seed, what, replay });
    }
    report
}

#[derive(Default, Debug)]
pub struct Tally {
    pub judged: u64,
    pub trace: u64,
    pub failures: Vec<String>,
}

/// Tells the story of this seed, and damages it in every way that belongs to it, aloud.
pub fn replay(seed: u64) -> Tally {
    replay_all(&Wreck::of(seed))
}

/// Tells the short story of this number, and damages it in each way, aloud.
pub fn replay_small(number: u64) -> Tally {
    replay_all(&small::nth(number))
}

fn replay_all(wreck: &Wreck) -> Tally {
    println!("{wreck:#?}");
    let tally = spoil_all(wreck, Instant::now() + Duration::from_secs(3600), usize::MAX);
    println!("{tally:#?}");
    tally
}

fn spoil_all(wreck: &Wreck, until: Instant, failures_max: usize) -> Tally {
    let mut tally = Tally::default();
    let told = match Told::of(wreck) {
        Ok(told) => told,
        Err(what) => return Tally { failures: vec![what], ..tally },
    };
    let any = |number| {
        let mut rng = Rng::nth(wreck.tale.seed, 1000 + number);
        let damage = match number {
            1..=DAMAGES => spoil::any(&mut rng, &told.layout, &told.slots),
            _ => spoil::any_with_a_file_gone(&mut rng, &told.layout, &told.slots),
        };
        let trouble = rng.one_in(TROUBLE_ONE_IN).then(|| Trouble::any(&mut rng));
        (damage, trouble)
    };
    let damages: Box<dyn Iterator<Item = (Vec<Spoil>, Option<Trouble>)>> = match wreck.damages {
        Damages::Some => Box::new((1..=DAMAGES + DAMAGES_WITH_A_FILE_GONE).map(any)),
        Damages::Each => Box::new(small::each(&told.layout).into_iter().map(|damage| (damage, None))),
    };
    // The log as it is must pass.
    for (number, (damage, trouble)) in (0..).zip(std::iter::once((Vec::new(), None)).chain(damages)) {
        match told.judge(&damage, trouble.as_ref()) {
            Ok(found) => tally.trace = tally.trace.wrapping_add(mix(number, found)),
            Err(what) => tally.failures.push(format!("{damage:?}: {what}\n    {trouble:?} {}", told.layout)),
        }
        tally.judged += 1;
        if tally.failures.len() >= failures_max || Instant::now() >= until {
            break;
        }
    }
    tally
}

/// Leaves out what the failure does not need.
fn shrink(mut wreck: Wreck, until: Instant) -> Wreck {
    let mut at = wreck.tale.steps.len();
    while at > 0 && Instant::now() < until {
        at -= 1;
        let mut smaller = wreck.clone();
        smaller.tale.steps.remove(at);
        if !spoil_all(&smaller, until, 1).failures.is_empty() {
            wreck = smaller;
        }
    }
    wreck
}

/// What the judge is told besides what is so.
type Lie = fn(&mut Past, &mut Evidence);

/// A story that was told, and what is known of the log then.
struct Told {
    disk: SimDisk,
    config: Config,
    past: Past,
    layout: Layout,
    slots: [Vec<Vec<u8>>; 2],
}

impl Told {
    fn of(wreck: &Wreck) -> Result<Told, String> {
        let story = wreck.tale.tell_to_the_end(wreck.is_closed)?;
        let slots = spoil::slots_written(&story.journal());
        let (disk, config, past) = (story.disk.fork(), story.config.clone(), story.past());
        let read_only = Config { recovery: RecoveryMode::ReadOnly, ..config.clone() };
        let (log, _) = Log::open_on(disk.fork().open(), read_only).map_err(|error| format!("as it is: {error:?}"))?;
        let block = wreck.tale.disk.block_bytes as usize;
        let layout = Layout::of(&disk, (log.id(), log.incarnation()), block, &past.records)?;
        Ok(Told { disk, config, past, layout, slots })
    }

    fn judge(&self, damage: &[Spoil], trouble: Option<&Trouble>) -> Result<u64, String> {
        self.judge_with(damage, trouble, |_, _| {})
    }

    /// As if this were known of the log, and of what is left of it.
    fn judge_with(&self, damage: &[Spoil], trouble: Option<&Trouble>, lie: Lie) -> Result<u64, String> {
        let disk = self.disk.fork();
        damage.iter().for_each(|spoil| spoil.happen(&disk, &self.slots));
        let mut past = self.past.clone();
        let mut evidence = Evidence::of(&self.layout, &disk, &past);
        lie(&mut past, &mut evidence);
        let case =
            Case { disk: &disk.fork(), config: &self.config, past: &past, evidence: &evidence, layout: &self.layout };
        let found = case.judge()?;
        trouble.map_or(Ok(found), |trouble| Ok(mix(found, case.judge_in(trouble)?)))
    }
}

impl Wreck {
    pub fn of(seed: u64) -> Wreck {
        let mut rng = Rng::nth(seed, 4);
        let mut tale = Tale::of(seed);
        // Often short: less stands there that tells of what is lost.
        let kept = 1 + rng.below(tale.steps.len() as u64);
        tale.steps.truncate(kept as usize);
        tale.steps.extend(ending(&mut rng));
        Wreck { tale, is_closed: rng.one_in(2), damages: Damages::Some }
    }
}

/// The last steps of a story: those after which little else tells what they did.
fn ending(rng: &mut Rng) -> Vec<Step> {
    let few = |rng: &mut Rng| Step::Append((0..1 + rng.below(3)).map(|_| rng.below(900) as usize).collect());
    let long = |rng: &mut Rng| Step::Append(vec![4_000 + rng.below(40_000) as usize]);
    let some = |rng: &mut Rng| (0..1 + rng.below(6)).map(|_| few(rng)).collect::<Vec<Step>>();
    let cut = |rng: &mut Rng| Step::Truncate(rng.next() as u8);
    let mut steps = if rng.one_in(2) { some(rng) } else { vec![long(rng), few(rng)] };
    steps.extend(match rng.below(10) {
        0 => vec![cut(rng)],
        1 => vec![Step::Trim(rng.next() as u8)],
        2 => vec![cut(rng), few(rng)],
        3 => vec![cut(rng), long(rng), few(rng)],
        4 => vec![cut(rng), Step::Close],
        5 => vec![cut(rng), few(rng), Step::Kill(super::sim::KillChoice::Landed), few(rng)],
        6 => vec![Step::Append(vec![60_000]), few(rng)],
        7 => vec![Step::Close, Step::Close, long(rng)],
        8 => vec![Step::Kill(super::sim::KillChoice::Landed)],
        _ => vec![Step::Trim(rng.next() as u8), cut(rng), few(rng)],
    });
    steps
}

/// The controls: what the judge is told falsely of a log, it must notice.
pub fn control() -> Result<(), String> {
    let told = (0..).find_map(|seed| Told::of(&Wreck::of(seed)).ok().filter(|told| told.past.records.len() > 4));
    let told = told.ok_or("no story")?;
    told.judge(&[], None)?;
    let no_header = told.layout.things.keys().map(|number| Spoil::Bit(layout::name(*number), 0));
    let no_header: Vec<Spoil> = no_header.chain([Spoil::Gone(layout::CONTROL.into())]).collect();
    // Without the lie there is nothing to notice.
    told.judge(&no_header, None)?;
    told.judge_with(&[], None, lose_one_more)?;
    // The newest frame with a byte to lose. Damaged, it is named; and if it is a whole one, that is not enough.
    let mut frames = told.layout.parts.iter().flat_map(|part| part.things.iter().map(|thing| (part.number, thing)));
    let newest = frames.rfind(|(_, thing)| thing.is_data() && thing.payload > 0).ok_or("no frame")?;
    let lost = [Spoil::Bit(layout::name(newest.0), newest.1.payload().start as u64 * 8)];
    told.judge(&lost, None)?;
    // What is durable only as its disk says is not there at the next open.
    let lies = Trouble::lies();
    let is_found = |damage: &[Spoil], lie: Lie| told.judge_with(damage, None, lie).is_err();
    let controls = [
        ("other bytes", is_found(&[], |past, _| *past.records.last_mut().expect("some") ^= 1)),
        ("a lost record", is_found(&[], |past, _| past.records.push(1))),
        ("a truncated record", is_found(&[], |past, _| _ = past.records.pop())),
        ("a segment that is gone", is_found(&[], |_, evidence| _ = evidence.gone.insert(999))),
        ("a record that is gone with its segment", {
            is_found(&[], |past, evidence| {
                lose_one_more(past, evidence);
                evidence.missed.insert(past.records.len() as u64);
            })
        }),
        ("its number, given again", {
            is_found(&[], |past, evidence| _ = evidence.missed.insert(past.records.len() as u64 + 1))
        }),
        ("a whole record that is only named", {
            is_found(&lost, |_, evidence| evidence.promise.always.extend(&evidence.touched))
        }),
        ("one that is only named by who takes the log over", {
            is_found(&lost, |_, evidence| evidence.promise.taken_over.extend(&evidence.touched))
        }),
        ("a promise that was not kept", told.judge(&[], Some(&lies)).is_err()),
        ("a control file that is not built anew", is_found(&no_header, |_, evidence| evidence.can_be_rebuilt = true)),
    ];
    if let Some((case, _)) = controls.iter().find(|(_, is_found)| !is_found) {
        return Err(format!("the control: {case} was not noticed"));
    }
    Ok(())
}

/// A record behind the last one that is damaged, and of which nothing tells.
fn lose_one_more(past: &mut Past, evidence: &mut Evidence) {
    past.records.push(1);
    evidence.touched.insert(past.records.len() as u64);
}
