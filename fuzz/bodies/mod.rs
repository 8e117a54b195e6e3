//! What the fuzz targets do with their bytes: run by libFuzzer here, and on the corpus by `tests/corpus.rs`.

pub mod base;
#[cfg(feature = "receiver")]
pub mod block;
pub mod frame;
#[cfg(feature = "ledger")]
pub mod ledger;
pub mod memory;
pub mod recovery;
pub mod scanner;
pub mod seeds;
#[cfg(feature = "receiver")]
pub mod sessions;
#[cfg(feature = "receiver")]
pub mod wire;

/// Takes an input apart; beyond its end everything is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
