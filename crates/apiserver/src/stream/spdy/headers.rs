//! SPDY's header blocks: names and values behind a zlib stream that spans the connection.
//!
//! Written blocks are stored, not deflated: they say next to nothing. Invariant: whatever a block unpacks to is bounded,
//! and a block that breaks a rule ends the connection, since the compressor's state is lost with it. Reference: SPDY draft
//! 3.1, section 2.6.10; RFC 1950; RFC 1951.

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::dictionary::{adler32, dictionary};
use super::frame::SpdyError;

/// Names in lower case, each with its value; several values of one name stand in one, separated by NUL.
pub(crate) type Headers = BTreeMap<String, String>;

/// Most bytes to which one block may unpack.
const MOST_BYTES: usize = 64 << 10;
/// Size of the window: as far back as deflate can refer.
const WINDOW_BYTES: usize = 32 << 10;

/// Reads the header blocks of one direction of a connection, in order.
pub(super) struct Unpacker {
    state: Box<DecompressorOxide>,
    /// A ring of what was unpacked last; in the beginning it holds the dictionary.
    window: Vec<u8>,
    position: usize,
    begun: bool,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        let mut window = dictionary();
        let position = window.len();
        window.resize(WINDOW_BYTES, 0);
        Self { state: Box::default(), window, position, begun: false }
    }

    /// Unpacks and reads one block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let block = if self.begun { block } else { skip_preamble(block)? };
        self.begun = true;
        parse(&self.unpack(block)?)
    }

    fn unpack(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut unpacked = Vec::new();
        loop {
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, read, written) = decompress(&mut self.state, block, &mut self.window, self.position, flags);
            let end = self.position.saturating_add(written);
            unpacked.extend_from_slice(self.window.get(self.position..end).ok_or(SpdyError::Headers)?);
            self.position = end % WINDOW_BYTES;
            block = block.get(read..).unwrap_or_default();
            if unpacked.len() > MOST_BYTES {
                return Err(SpdyError::HeadersTooLarge);
            }
            if status == TINFLStatus::NeedsMoreInput {
                return Ok(unpacked);
            }
            // A stream never ends before its connection does.
            if status != TINFLStatus::HasMoreOutput {
                return Err(SpdyError::Headers);
            }
        }
    }
}

/// The two bytes of zlib's header, and the number of the dictionary where it is used.
fn skip_preamble(block: &[u8]) -> Result<&[u8], SpdyError> {
    let (head, rest) = block.split_first_chunk::<2>().ok_or(SpdyError::Headers)?;
    let [method, flags] = *head;
    if method & 0x0f != 8 || u16::from_be_bytes(*head) % 31 != 0 {
        return Err(SpdyError::Headers);
    }
    if flags & 0x20 == 0 {
        return Ok(rest);
    }
    let (number, rest) = rest.split_first_chunk::<4>().ok_or(SpdyError::Headers)?;
    if u32::from_be_bytes(*number) == adler32(&dictionary()) { Ok(rest) } else { Err(SpdyError::Headers) }
}

fn parse(mut bytes: &[u8]) -> Result<Headers, SpdyError> {
    let count = take_number(&mut bytes)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut bytes)?;
        let value = take_text(&mut bytes)?;
        if name.is_empty() || name.contains(|letter: char| letter.is_ascii_uppercase()) {
            return Err(SpdyError::Headers);
        }
        if headers.insert(name, value).is_some() {
            return Err(SpdyError::Headers);
        }
    }
    if bytes.is_empty() { Ok(headers) } else { Err(SpdyError::Headers) }
}

fn take_number(bytes: &mut &[u8]) -> Result<usize, SpdyError> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(SpdyError::Headers)?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| SpdyError::Headers)
}

fn take_text(bytes: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(SpdyError::Headers)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers)
}

/// Writes the header blocks of one direction of a connection, in order.
#[derive(Default)]
pub(super) struct Packer {
    begun: bool,
}

impl Packer {
    /// Appends one block.
    pub(super) fn write(&mut self, headers: &Headers, block: &mut BytesMut) {
        if !self.begun {
            // Window of 32 KiB, dictionary used, and the check bits that make the two bytes a multiple of 31.
            block.put_u16(0x78bb);
            block.put_u32(adler32(&dictionary()));
            self.begun = true;
        }
        let mut plain = BytesMut::new();
        put_number(&mut plain, headers.len());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            put_number(&mut plain, text.len());
            plain.extend_from_slice(text.as_bytes());
        }
        // The empty block at the end is zlib's flush: there are readers that hand out nothing before it.
        for piece in plain.chunks(usize::from(u16::MAX)).chain([&[][..]]) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            // A stored block that is not the last one, its length, and the length's complement.
            block.put_u8(0);
            block.put_u16_le(length);
            block.put_u16_le(!length);
            block.extend_from_slice(piece);
        }
    }
}

fn put_number(block: &mut BytesMut, number: usize) {
    block.put_u32(u32::try_from(number).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_are_read_back_in_order() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::new());
        let long = "x".repeat(40_000);
        for pairs in [vec![("streamtype", "stdin")], vec![], vec![("a", long.as_str()), ("b", "")]] {
            let mut block = BytesMut::new();
            packer.write(&headers(&pairs), &mut block);
            assert_eq!(unpacker.read(&block).unwrap(), headers(&pairs));
        }
    }

    /// Two header blocks as a peer with a real compressor writes them: both refer to the dictionary, the second to the
    /// first (made with Python's zlib: `compressobj(9, DEFLATED, 15, 9, 0, dictionary)`, flushed in between).
    const DEFLATED: [&str; 2] = [include_str!("testdata/first.hex"), include_str!("testdata/second.hex")];

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_compressor_s_blocks_are_read() {
        let mut unpacker = Unpacker::new();
        let [first, second] = DEFLATED.map(bytes);
        assert_eq!(unpacker.read(&first).unwrap(), headers(&[("content-type", "text/plain"), ("streamtype", "error")]));
        assert_eq!(unpacker.read(&second).unwrap(), headers(&[("content-type", "text/plain"), ("port", "8080"), ("streamtype", "data")]));
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let good = bytes(DEFLATED[0]);
        // The last bytes are the flush alone.
        for cut in 0..good.len() - 5 {
            assert!(Unpacker::new().read(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut other = good.clone();
        other[2] ^= 1;
        assert_eq!(Unpacker::new().read(&other), Err(SpdyError::Headers), "another dictionary");
        let bomb = miniz_oxide::deflate::compress_to_vec_zlib(&vec![0; 10 << 20], 9);
        assert_eq!(Unpacker::new().read(&bomb), Err(SpdyError::HeadersTooLarge));
        let bare = |plain: &[u8]| {
            let mut block = vec![0x78, 0x01, 0];
            let length = u16::try_from(plain.len()).unwrap();
            block.extend(length.to_le_bytes());
            block.extend((!length).to_le_bytes());
            block.extend(plain);
            Unpacker::new().read(&block)
        };
        assert_eq!(bare(&[0, 0, 0, 0]), Ok(Headers::new()));
        for plain in [
            &b"\0\0\0"[..],
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01\xff\xff\xff\xffab",
            b"\0\0\0\x01\0\0\0\x01A\0\0\0\0",
            b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01\xff",
            b"\0\0\0\0rest",
            b"\0\0\0\x02\0\0\0\x01a\0\0\0\0\0\0\0\x01a\0\0\0\0",
        ] {
            assert_eq!(bare(plain), Err(SpdyError::Headers), "{plain:?}");
        }
    }
}
