//! The system's randomness: for identities that must never be equal by chance.

use std::io;

/// Two numbers.
pub(crate) fn random() -> io::Result<[u128; 2]> {
    let mut bytes = [0u8; 32];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got != bytes.len() {
        return Err(io::Error::other("too little randomness"));
    }
    let (first, second) = bytes.split_at(16);
    Ok([first, second].map(|half| u128::from_le_bytes(half.try_into().expect("16 bytes"))))
}
