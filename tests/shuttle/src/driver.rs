//! The two threads below a log: one that writes what is submitted and drives the log, one for its background jobs.
//!
//! Writes end in any order, and are told in any order. Who only asked to be driven later waits for a few turns of the
//! others; with a *patient* timer for so many that all of them sleep by then: what nobody but the timer notices then
//! was missed by somebody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use seawall::model::{self, Condvar, Mutex, MutexGuard};
use seawall::storage::{Client, GroupWrite, Storage, WriteTimes};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::JoinHandle;

use crate::disk::{Disk, File};

/// Turns of the others that a patient timer waits for: a schedule of a few records has fewer steps than this, per thread.
const PATIENT_TURNS: u32 = 250;

type Job = Box<dyn FnOnce() + Send>;
type Ended = (GroupWrite<File>, std::io::Result<WriteTimes>);

#[derive(Default)]
struct Inbox {
    submitted: Vec<GroupWrite<File>>,
    is_kicked: bool,
    is_over: bool,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    is_over: bool,
}

/// What the log and the two threads share.
#[derive(Default)]
pub(crate) struct Driver {
    inbox: Mutex<Inbox>,
    news: Condvar,
    jobs: Mutex<Jobs>,
    job_news: Condvar,
    client: StdMutex<Option<Weak<dyn Client<File>>>>,
    is_patient: bool,
}

/// What the thread does next.
enum Turn {
    Write(GroupWrite<File>),
    Tell(Ended),
    Drive,
    End,
}

impl Driver {
    pub(crate) fn new(is_patient: bool) -> Arc<Driver> {
        Arc::new(Driver { is_patient, ..Driver::default() })
    }

    pub(crate) fn submit(&self, write: GroupWrite<File>) {
        self.inbox.lock().submitted.push(write);
        self.news.notify_all();
    }

    pub(crate) fn kick(&self) {
        self.inbox.lock().is_kicked = true;
        self.news.notify_all();
    }

    pub(crate) fn background(&self, job: Job) {
        self.jobs.lock().queue.push_back(job);
        self.job_news.notify_all();
    }

    pub(crate) fn attach(&self, client: Weak<dyn Client<File>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    fn client(&self) -> Option<Arc<dyn Client<File>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    /// Starts the threads.
    pub(crate) fn start(self: &Arc<Self>, disk: &Disk) -> [JoinHandle<()>; 2] {
        let (driver, jobs, disk) = (self.clone(), self.clone(), disk.clone());
        [shuttle::thread::spawn(move || driver.run(&disk)), shuttle::thread::spawn(move || jobs.run_jobs())]
    }

    /// Ends them, when they have done what they were given.
    pub(crate) fn end(&self) {
        self.inbox.lock().is_over = true;
        self.news.notify_all();
        self.jobs.lock().is_over = true;
        self.job_news.notify_all();
    }

    fn run(&self, disk: &Disk) {
        let (mut ended, mut look_in): (Vec<Ended>, _) = (Vec::new(), None);
        loop {
            match self.next(&mut ended, &mut look_in) {
                Turn::End => return,
                Turn::Write(write) => {
                    let result = disk.write_flushed(&write.file, write.offset, &write.parts);
                    ended.push((write, result));
                }
                Turn::Tell((write, result)) => {
                    if let Some(client) = self.client() {
                        client.complete(write, result);
                    }
                }
                Turn::Drive => look_in = self.client().and_then(|client| client.drive()),
            }
        }
    }

    fn next(&self, ended: &mut Vec<Ended>, look_in: &mut Option<Duration>) -> Turn {
        let mut inbox = self.inbox.lock();
        loop {
            let any = |count: usize| thread_rng().gen_range(0..count);
            let choices = [!inbox.submitted.is_empty(), !ended.is_empty(), inbox.is_kicked];
            let open: Vec<usize> = (0..3).filter(|at| choices[*at]).collect();
            if !open.is_empty() {
                return match open[any(open.len())] {
                    0 => {
                        let at = any(inbox.submitted.len());
                        Turn::Write(inbox.submitted.swap_remove(at))
                    }
                    1 => {
                        let at = any(ended.len());
                        Turn::Tell(ended.swap_remove(at))
                    }
                    _ => {
                        inbox.is_kicked = false;
                        Turn::Drive
                    }
                };
            }
            if inbox.is_over {
                return Turn::End;
            }
            match look_in.take() {
                None => self.news.wait(&mut inbox),
                Some(patience) => {
                    if self.timed_out(&mut inbox, patience) {
                        return Turn::Drive;
                    }
                    *look_in = Some(patience);
                }
            }
        }
    }

    fn timed_out(&self, inbox: &mut MutexGuard<'_, Inbox>, patience: Duration) -> bool {
        if !self.is_patient {
            return self.news.wait_for(inbox, patience).timed_out();
        }
        for _ in 0..PATIENT_TURNS {
            MutexGuard::unlocked(inbox, shuttle::thread::yield_now);
            if inbox.is_kicked || inbox.is_over || !inbox.submitted.is_empty() {
                return false;
            }
        }
        model::advance(patience);
        true
    }

    fn run_jobs(&self) {
        loop {
            let job = {
                let mut jobs = self.jobs.lock();
                loop {
                    if let Some(job) = jobs.queue.pop_front() {
                        break job;
                    }
                    if jobs.is_over {
                        return;
                    }
                    self.job_news.wait(&mut jobs);
                }
            };
            job();
        }
    }
}
