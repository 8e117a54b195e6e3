//! Drives clients, runs jobs and ends submitted writes: on the test's thread, in an order that a seed fixes, or on
//! threads of its own.

use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;
use seawall::storage::Client;

use super::disk::SimDisk;
use super::flight::Letter;
use super::handle::SimFile;
use super::state::{Job, SessionId, Shared, State};
use super::storage::SimStorage;

/// A pump that has done so much is taken for one that never comes to rest.
const STEPS_MAX: usize = 1_000_000;

/// Something to do with the lock released.
enum Step {
    Drive(Weak<dyn Client<SimFile>>, SessionId),
    Tell(Letter),
    Run(Job),
}

/// A kind of step that a session has ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Drive,
    Letter,
    Flight,
    Job,
}

impl State {
    fn ready(&self, id: SessionId) -> impl Iterator<Item = Ready> + use<> {
        let session = &self.sessions[id];
        let flies = !self.manual && session.alive && self.flights.iter().any(|flight| flight.session == id);
        let due = session.threaded && session.due.is_some_and(|due| due <= Instant::now());
        let drive = (session.kicked || due) && session.client.is_some();
        let all = [
            (drive, Ready::Drive),
            (!session.letters.is_empty(), Ready::Letter),
            (flies, Ready::Flight),
            (!session.jobs.is_empty(), Ready::Job),
        ];
        all.into_iter().filter(|(is_ready, _)| *is_ready).map(|(_, ready)| ready)
    }

    fn take(&mut self, id: SessionId, ready: Ready) -> Option<Step> {
        let session = &mut self.sessions[id];
        Some(match ready {
            Ready::Drive => {
                session.kicked = false;
                session.due = None;
                Step::Drive(session.client.clone()?, id)
            }
            Ready::Letter => Step::Tell(session.letters.pop_front()?),
            Ready::Job => Step::Run(session.jobs.pop_front()?),
            Ready::Flight => {
                let mut own: Vec<usize> =
                    (0..self.flights.len()).filter(|at| self.flights[*at].session == id).collect();
                let pick = self.schedule.as_mut().map_or(0, |rng| rng.below(own.len() as u64) as usize);
                let flight = self.flights.remove(own.swap_remove(pick));
                let outcome = flight.outcome;
                Step::Tell(self.end_flight(flight, outcome))
            }
        })
    }

    /// The next step of the sessions without threads.
    fn next_step(&mut self) -> Option<Step> {
        let own = (0..self.sessions.len()).filter(|id| !self.sessions[*id].threaded);
        let mut all: Vec<(SessionId, Ready)> =
            own.flat_map(|id| self.ready(id).map(move |ready| (id, ready))).collect();
        if all.is_empty() {
            return None;
        }
        let pick = self.schedule.as_mut().map_or(0, |rng| rng.below(all.len() as u64) as usize);
        let (id, ready) = all.swap_remove(pick);
        self.take(id, ready)
    }
}

impl Shared {
    fn perform(&self, step: Step) {
        match step {
            Step::Tell(letter) => letter.deliver(),
            Step::Run(job) => job(),
            Step::Drive(client, id) => {
                let again = client.upgrade().and_then(|client| client.drive());
                let due = again.and_then(|after| Instant::now().checked_add(after));
                self.state.lock().sessions[id].due = due;
            }
        }
    }

    /// The loop of a threaded session: `jobs` says which half of the work is this thread's.
    fn serve(&self, id: SessionId, jobs: bool) {
        let mut state = self.state.lock();
        while !state.sessions[id].stopped {
            let ready = state.ready(id).find(|ready| (*ready == Ready::Job) == jobs);
            match ready {
                Some(ready) => {
                    let latency = state.latency;
                    if ready == Ready::Flight && !latency.is_zero() {
                        drop(state);
                        thread::sleep(latency);
                        state = self.state.lock();
                    }
                    // Somebody else may have ended the write meanwhile.
                    let step = state.ready(id).any(|still| still == ready).then(|| state.take(id, ready)).flatten();
                    drop(state);
                    step.into_iter().for_each(|step| self.perform(step));
                    state = self.state.lock();
                }
                None => match state.sessions[id].due.filter(|_| !jobs) {
                    Some(due) => drop(self.wake.wait_until(&mut state, due)),
                    None => self.wake.wait(&mut state),
                },
            }
        }
    }
}

impl SimDisk {
    /// Drives kicked clients, tells them of ended writes, runs their jobs, and, unless the disk is
    /// [manual](SimDisk::set_manual), ends submitted writes: until there is nothing left to do. Returns the steps.
    ///
    /// # Panics
    /// When that never happens.
    pub fn pump(&self) -> usize {
        for steps in 0..STEPS_MAX {
            let step = self.shared.state.lock().next_step();
            let Some(step) = step else { return steps };
            self.shared.perform(step);
        }
        panic!("the pump made {STEPS_MAX} steps and does not come to rest")
    }

    /// One step of [`SimDisk::pump`]; false when there is none.
    pub fn step(&self) -> bool {
        let step = self.shared.state.lock().next_step();
        step.map(|step| self.shared.perform(step)).is_some()
    }

    /// Pumps as if the time had come that the clients asked for.
    pub fn tick(&self) -> usize {
        for session in &mut self.shared.state.lock().sessions {
            session.kicked |= session.due.is_some();
        }
        self.shared.wake.notify_all();
        self.pump()
    }

    /// When the first client wants to be driven without a kick.
    pub fn due(&self) -> Option<Instant> {
        self.shared.state.lock().sessions.iter().filter_map(|session| session.due).min()
    }

    /// Pumps, and ends every submitted write, in order, also on a manual disk and those of killed processes.
    pub fn run(&self) {
        loop {
            self.pump();
            let letter = {
                let mut state = self.shared.state.lock();
                if state.flights.is_empty() {
                    return;
                }
                let flight = state.flights.remove(0);
                let outcome = flight.outcome;
                state.end_flight(flight, outcome)
            };
            letter.deliver();
        }
    }
}

/// The threads of a session; they end when this does.
pub(super) struct Threads {
    shared: Arc<Shared>,
    session: SessionId,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.lock().sessions[self.session].stopped = true;
        self.shared.wake.notify_all();
        for handle in self.handles.get_mut().drain(..) {
            // The last user may well be one of the threads.
            if handle.thread().id() != thread::current().id() {
                let panicked = handle.join().is_err();
                assert!(!panicked || thread::panicking(), "a thread of the simulated storage panicked");
            }
        }
    }
}

impl SimStorage {
    /// Gives this process a thread that drives its client and ends its writes, and one that runs its jobs, until the
    /// last clone is dropped. What happens in which order is the scheduler's choice then.
    pub fn threaded(mut self) -> SimStorage {
        self.shared.state.lock().sessions[self.session].threaded = true;
        let start = |jobs: bool| {
            let (shared, session) = (self.shared.clone(), self.session);
            thread::spawn(move || shared.serve(session, jobs))
        };
        let handles = Mutex::new(vec![start(false), start(true)]);
        self.threads = Some(Arc::new(Threads { shared: self.shared.clone(), session: self.session, handles }));
        self
    }

    /// Runs jobs where they are given, instead of from the pump.
    pub fn inline_jobs(self) -> SimStorage {
        self.shared.state.lock().sessions[self.session].inline_jobs = true;
        self
    }

    pub(super) fn wake(&self) {
        self.shared.wake.notify_all();
    }
}
