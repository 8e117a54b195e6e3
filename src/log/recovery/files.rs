//! What single segment files say of themselves: headers and seals.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{FORMAT_VERSION, FileName, Found, HeaderError, Kind, Salt, Scanner, Seal, SegmentHeader};
use crate::types::SegmentNumber;

pub(crate) fn open_segment<S: Storage>(storage: &S, number: SegmentNumber) -> Result<Arc<S::File>> {
    let name = FileName::Segment(number).to_string();
    storage.open(&name).map(Arc::new).map_err(|e| Error::io("open", name, e))
}

pub(crate) fn read_header<S: Storage>(
    storage: &S,
    file: &S::File,
    number: SegmentNumber,
) -> Result<Result<SegmentHeader, HeaderError>> {
    let name = FileName::Segment(number).to_string();
    let block = storage.medium().device_block_bytes as usize;
    let mut bytes = Buffer::new(block);
    storage.read_at(file, 0, block, &mut bytes).map_err(|e| Error::io_at("read", &name, 0, e))?;
    match SegmentHeader::decode(&bytes) {
        Err(HeaderError::Future { version }) => {
            Err(Error::FutureVersion { file: name, found: version, known: FORMAT_VERSION })
        }
        other => Ok(other),
    }
}

/// A segment's seal, read alone.
pub(crate) fn read_seal<S: Storage>(
    storage: &S,
    file: &Arc<S::File>,
    number: SegmentNumber,
    bytes: u64,
    salt: Salt,
    block_bytes: u32,
) -> Result<Option<Seal>> {
    let block = u64::from(block_bytes);
    if bytes < 2 * block {
        return Ok(None);
    }
    let name = FileName::Segment(number).to_string();
    let mut page = Buffer::new(block as usize);
    let got =
        storage.read_at(file, block, block as usize, &mut page).map_err(|e| Error::io_at("read", &name, block, e))?;
    let mut scanner = Scanner::new(At { bytes: &page[..got], start: block }, salt, block_bytes, block, 2 * block);
    match scanner.next() {
        Ok(Some(Found::Frame { offset, header })) if header.kind == Kind::Seal => {
            let Ok(payload) = scanner.payload(offset, &header);
            // No segment continues itself or a later one.
            Ok(Seal::decode(payload).ok().filter(|seal| seal.sealed_segment < number))
        }
        _ => Ok(None),
    }
}

/// A slice that stands at some offset of a file.
struct At<'a> {
    bytes: &'a [u8],
    start: u64,
}

impl crate::segment::ByteSource for At<'_> {
    type Error = std::convert::Infallible;

    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Self::Error> {
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + count])
    }
}
