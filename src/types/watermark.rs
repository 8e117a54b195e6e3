//! The positions a log moves through, defined together, with their order.

use super::Lsn;

/// How far a log has come. Each position is the last frame for which the statement holds; [`Lsn::ZERO`] is "none yet".
///
/// `appended ≥ written ≥ flushed ≥ trimmed`, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Watermarks {
    /// The Lsn is assigned.
    pub appended: Lsn,
    /// Handed to the kernel.
    pub written: Lsn,
    /// Survived a flush of this node's device.
    pub flushed: Lsn,
    /// Given up: this frame and all before it may be gone.
    pub trimmed: Lsn,
}

impl Watermarks {
    /// Panics when the order is broken: no acknowledgment derived from such positions could be trusted.
    pub fn assert_ordered(&self) {
        assert!(
            self.appended >= self.written && self.written >= self.flushed && self.flushed >= self.trimmed,
            "watermarks out of order: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "watermarks out of order")]
    fn flushed_beyond_written_is_refused() {
        Watermarks { appended: Lsn::new(5), written: Lsn::new(2), flushed: Lsn::new(3), trimmed: Lsn::ZERO }
            .assert_ordered();
    }
}
