//! The ring of a build without the `io-uring` feature: there is none.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Owner;
use super::channel::{Ended, Order, Shared};

pub(super) enum Ring {}

impl Ring {
    pub(super) fn new(_: Arc<Shared>, _: u32, _: usize, _: Owner) -> io::Result<Ring> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "built without the feature io-uring"))
    }

    pub(super) fn accepts(&self, _: &Order) -> bool {
        match *self {}
    }

    pub(super) fn queue(&mut self, _: Order) {
        match *self {}
    }

    pub(super) fn is_idle(&self) -> bool {
        match *self {}
    }

    pub(super) fn enter(&mut self, _: Option<Duration>) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn submit(&mut self, _: Option<Instant>) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn has_more(&mut self) -> bool {
        match *self {}
    }

    pub(super) fn readable(&self) -> io::Result<OwnedFd> {
        match *self {}
    }

    pub(super) fn reap(&mut self, _: &mut Vec<Ended>) {
        match *self {}
    }

    pub(super) fn abandon(self, _: &io::Error) -> (Vec<Ended>, Vec<Order>) {
        match self {}
    }
}
