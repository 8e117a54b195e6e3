//! Which frames of a damaged log must be shown, and not only named.

use std::collections::BTreeSet;

use super::evidence::{Evidence, PartLeft};
use super::layout::Layout;

/// Frames that an open must show.
///
/// A frame is shown when it is whole, and
///
/// - nothing before it in its group hides it: behind a broken header nothing is found up to the next device block;
/// - its segment is known by its own seal; or else by its frames, if the seals of both its neighbours are whole, and if the segment is
///   the newest, something behind the seal was written when that was flushed;
/// - it is told where the segment ends: by the seal behind it; or else by the first frame behind that, which is whole and
///   continues this segment's last one, where this segment's own seal is whole, and the one behind that as well (or, in the newest,
///   something was written when its seal was flushed);
/// - in the newest segment no frame before it is lost of which nothing tells that it was flushed: that looks like a hole, and
///   what stands behind one is dropped.
///
/// The headers of the segments' files, the control file's older slot and everything else may be lost.
///
/// What is deliberately not shown (DESIGN.md, the known gaps): a group behind a broken header in it; what stands between two seals that
/// are lost; the newest segment where its seal is lost, and what was prepared above it as well: it may have been cut.
#[derive(Clone, Default)]
pub struct Promise {
    /// Whoever opens it.
    pub always: BTreeSet<u64>,
    /// Whoever takes the log over: nothing tells that they were flushed, so they are flushed first.
    pub taken_over: BTreeSet<u64>,
}

impl Promise {
    pub fn of(layout: &Layout, left: &[PartLeft], evidence: &Evidence) -> Promise {
        let mut promise = Promise::default();
        for (at, own) in left.iter().enumerate().filter(|(_, own)| own.is_there) {
            let (before, behind) = (at.checked_sub(1).map(|at| &left[at]), left.get(at + 1));
            let has_seal = |part: Option<&PartLeft>| part.is_none_or(|part| part.has_seal);
            let is_known = own.has_seal
                || has_seal(before)
                    && has_seal(behind)
                    && (behind.is_some() || own.tells && evidence.is_prepared_whole);
            let is_continued = |behind: &PartLeft| {
                let is_behind_told = match left.get(at + 2) {
                    Some(next) => next.has_seal,
                    None => behind.tells && evidence.is_prepared_whole,
                };
                own.has_seal && own.is_last_whole() && behind.is_first_whole() && is_behind_told
            };
            let is_end_told = behind.is_none_or(|behind| behind.has_seal || is_continued(behind));
            if is_known && is_end_told {
                promise.keep(own, behind.map_or(evidence.claimed, |_| u64::MAX));
            }
        }
        promise.always.retain(|lsn| *lsn > layout.control.trimmed);
        promise
    }

    /// The frames of a segment of which so many are claimed.
    fn keep(&mut self, part: &PartLeft, claimed: u64) {
        for &(lsn, is_whole) in &part.frames {
            match (is_whole, lsn <= claimed) {
                (true, true) => self.always.insert(lsn),
                (true, false) => self.taken_over.insert(lsn),
                (false, true) => false,
                (false, false) => return,
            };
        }
    }
}
