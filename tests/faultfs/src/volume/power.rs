//! Power: cut, and back with what survived.

use super::Volume;
use crate::choice::{Choice, Dice};

/// What a power loss left of what no flush covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Survived {
    /// Sectors of which an unflushed version survived.
    pub sectors_kept: u64,
    /// Sectors that are what they were before.
    pub sectors_lost: u64,
    /// Changes of names that survived.
    pub names_kept: u64,
    /// Changes of names that did not.
    pub names_lost: u64,
}

impl Volume {
    /// From now on everything fails with EIO.
    pub(crate) fn cut_power(&mut self) {
        self.has_power = false;
    }

    /// The power comes back, to what survived. Whatever was open is dead.
    pub(crate) fn reboot(&mut self, choice: Choice) -> Survived {
        let mut dice = Dice::new(choice);
        let (names_kept, names_lost) = self.names.crash(&mut dice);
        let mut survived =
            Survived { names_kept: names_kept as u64, names_lost: names_lost as u64, ..Survived::default() };
        self.handles.clear();
        self.forget_unreachable();
        for bytes in self.inodes.values_mut().filter_map(|inode| inode.bytes.as_mut()) {
            let fate = bytes.crash(&mut dice);
            survived.sectors_kept += fate.kept;
            survived.sectors_lost += fate.lost;
        }
        self.faults.clear();
        self.epoch += 1;
        self.has_power = true;
        survived
    }
}
