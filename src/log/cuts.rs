//! Where suffix truncations cut, for whoever holds a record that was appended before. Pure.

use crate::types::Lsn;

/// The truncations since open, as far as they matter to anybody.
#[derive(Default, Debug)]
pub(super) struct Cuts {
    /// Eras (each begun by a truncation) and the log's end then, both rising: a frame is asked about by the lowest end
    /// since its era, so an end that a later one undercuts is of no use.
    cuts: Vec<(u64, Lsn)>,
}

impl Cuts {
    /// A truncation to `end` begins `era`.
    pub(super) fn note(&mut self, era: u64, end: Lsn) {
        while self.cuts.last().is_some_and(|(_, before)| *before >= end) {
            self.cuts.pop();
        }
        self.cuts.push((era, end));
    }

    /// The lowest end since `era`; `None`: no truncation came later.
    pub(super) fn end_since(&self, era: u64) -> Option<Lsn> {
        self.cuts.iter().find(|(begun, _)| *begun > era).map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_end_since_an_era_counts_whatever_came_between() {
        // Against the plain definition, over all short histories.
        for history in 0..6u64.pow(4) {
            let ends: Vec<u64> = (0..4).map(|i| history / 6u64.pow(i) % 6).collect();
            let mut cuts = Cuts::default();
            for (i, end) in ends.iter().enumerate() {
                cuts.note(i as u64 + 1, Lsn::new(*end));
            }
            for era in 0..=4 {
                let expected = ends[era..].iter().min().map(|end| Lsn::new(*end));
                assert_eq!(cuts.end_since(era as u64), expected, "{ends:?}, era {era}");
            }
        }
    }
}
