//! Every decoder on arbitrary bytes: what it accepts, it writes back byte for byte.
//!
//! ```text
//! input | which decoder 1 | what to make valid 1 | seed 4 | bytes … |
//! ```

use seawall::internals as door;
use seawall::{Chain, Lsn};

use super::Input;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (decoder, repair, seed) = (input.byte(), input.byte(), input.u32());
    let bytes = input.rest();
    match decoder % 6 {
        0 => header(bytes, seed, repair & 1 == 1),
        1 => frame(bytes, seed),
        2 => control(bytes, repair),
        3 => segment_header(bytes, repair & 1 == 1),
        4 => local(bytes),
        _ => index(bytes, u64::from(seed)),
    }
}

fn header(bytes: &[u8], seed: u32, repair: bool) {
    let mut bytes = bytes.to_vec();
    if repair {
        door::reseal_frame(seed, &mut bytes);
    }
    let Some(facts) = door::decode_frame(seed, &bytes) else { return };
    assert_eq!(facts.kind == 1, facts.lsn != Lsn::ZERO, "data frames, and no others, have a position");
    assert!(facts.frame_bytes() >= facts.payload_bytes as u64 + door::FRAME_HEADER_BYTES as u64);
    assert!(facts.frame_bytes().is_multiple_of(8));
    let again = door::encode_header(seed, &facts).expect("a kind that was decoded");
    assert_eq!(again[..], bytes[..door::FRAME_HEADER_BYTES], "one header has one encoding");
    assert_eq!(door::decode_frame(seed.wrapping_add(1), &bytes), None, "it is valid at one place only");
}

fn frame(payload: &[u8], seed: u32) {
    let lsn = Lsn::new(u64::from(seed) + 1);
    let before = Chain::start(u64::from(seed));
    let mut bytes = vec![0; door::FRAME_HEADER_BYTES + payload.len()];
    let chain = door::encode_data(seed, lsn, before, payload, &mut bytes);
    let facts = door::decode_frame(seed, &bytes).expect("just encoded");
    assert_eq!((facts.lsn, facts.payload_bytes as usize, facts.chain), (lsn, payload.len(), chain));
    assert_eq!(facts.chain_after(before), chain);
    assert_eq!(facts.payload_crc, door::crc32c(&bytes[door::FRAME_HEADER_BYTES..]));
    // Any one changed byte is noticed, in the header by the header, in the payload by the payload's checksum.
    let at = seed as usize % bytes.len();
    bytes[at] ^= 1 << (seed % 8);
    let noticed = match door::decode_frame(seed, &bytes) {
        None => at < door::FRAME_HEADER_BYTES,
        Some(again) => again == facts && door::crc32c(&bytes[door::FRAME_HEADER_BYTES..]) != facts.payload_crc,
    };
    assert!(noticed, "byte {at}");
}

fn control(bytes: &[u8], repair: u8) {
    const SLOT: usize = 32 * 1024;
    let mut file = door::new_control_file(super::base::LOG, super::base::DISK, 4096);
    // The bytes replace the start of one slot or of both; the rest is what a new log has.
    for slot in 0..2 {
        let (from, to) = (slot * SLOT, slot * SLOT + bytes.len().min(SLOT));
        if repair & (1 << slot) != 0 {
            file[from..to].copy_from_slice(&bytes[..to - from]);
        }
        if repair & (4 << slot) != 0 {
            door::reseal_control(&mut file[from..from + SLOT]);
        }
    }
    if repair & 16 != 0 {
        file.truncate(bytes.len());
    }
    let Some((at, slot)) = door::decode_control(&file) else { return };
    let mut again = vec![0; 2 * SLOT];
    again[at as usize..at as usize + SLOT].copy_from_slice(&slot);
    assert_eq!(door::decode_control(&again), Some((at, slot)), "what was read is written and read again");
}

fn segment_header(bytes: &[u8], repair: bool) {
    let mut bytes = bytes.to_vec();
    if repair && bytes.len() >= 64 {
        let crc = door::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    if let Some(again) = door::decode_segment_header(&bytes) {
        assert_eq!(again[..], bytes[..64]);
    }
}

fn local(bytes: &[u8]) {
    if let Some(again) = door::decode_seal(bytes) {
        assert_eq!(again, bytes);
    }
    if let Some((_, _, again)) = door::decode_marker(bytes) {
        assert_eq!(again, bytes);
    }
}

fn index(bytes: &[u8], end: u64) {
    if let Some(again) = door::decode_index(bytes, end) {
        assert_eq!(again, bytes);
    }
}
