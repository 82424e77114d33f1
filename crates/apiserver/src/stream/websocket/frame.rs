//! WebSocket's frames as a server reads and writes them.
//!
//! Invariant: a message passes in pieces of at most [`PIECE_BYTES`], however long its frames say they are; of a frame no
//! more is held than has come. Reference: RFC 6455, section 5. Extensions are never agreed on.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Longest piece of a message.
pub(crate) const PIECE_BYTES: usize = 32 << 10;
/// Longest payload of a control frame.
const MOST_CONTROL_BYTES: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Status of a close: all is done.
pub(crate) const NORMAL: u16 = 1000;
/// Status of a close: the peer broke a rule.
pub(crate) const PROTOCOL: u16 = 1002;

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    /// The peer broke a rule of the protocol.
    #[error("{0}")]
    Rule(&'static str),
    /// The transport failed.
    #[error("the connection broke: {0}")]
    Broken(std::io::ErrorKind),
}

impl From<std::io::Error> for WebSocketError {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A part of a message.
    Message {
        /// The message begins with it.
        first: bool,
        /// The bytes.
        payload: Bytes,
    },
    /// To be sent back in a pong.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// The peer sends nothing more.
    Close,
}

/// A data frame whose payload has not passed whole.
struct Passing {
    first: bool,
    left: u64,
    mask: [u8; 4],
}

/// Reads one direction of a connection.
#[derive(Default)]
pub(crate) struct Pieces {
    passing: Option<Passing>,
    /// A message has begun and its last frame has not.
    within: bool,
}

struct Head {
    last: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

impl Head {
    /// Takes a frame's head off the buffer; none if it has not come whole.
    fn take(buffer: &mut BytesMut) -> Result<Option<Head>, WebSocketError> {
        let mut bytes: &[u8] = buffer;
        let (Ok(first), Ok(second)) = (bytes.try_get_u8(), bytes.try_get_u8()) else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WebSocketError::Rule("a frame with a reserved bit"));
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::Rule("a client's frame that is not masked"));
        }
        let length = match second & 0x7f {
            126 => bytes.try_get_u16().map(u64::from),
            127 => bytes.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let (Ok(length), Ok(mask)) = (length, bytes.try_get_u32()) else { return Ok(None) };
        let head = Head { last: first & 0x80 != 0, opcode: first & 0x0f, length, mask: mask.to_be_bytes() };
        let taken = buffer.len() - bytes.len();
        if head.opcode < CLOSE {
            buffer.advance(taken);
            return Ok(Some(head));
        }
        let whole = usize::try_from(length).ok().filter(|length| *length <= MOST_CONTROL_BYTES && head.last);
        let whole = whole.ok_or(WebSocketError::Rule("a control frame that is long or in parts"))?;
        if bytes.len() < whole {
            return Ok(None);
        }
        buffer.advance(taken);
        Ok(Some(head))
    }
}

impl Pieces {
    fn piece(&mut self, buffer: &mut BytesMut) -> Option<Piece> {
        let passing = self.passing.as_mut()?;
        let left = usize::try_from(passing.left).unwrap_or(usize::MAX);
        let length = left.min(buffer.len()).min(PIECE_BYTES);
        if length == 0 && left > 0 {
            return None;
        }
        let mut payload = buffer.split_to(length);
        unmask(&mut payload, passing.mask);
        passing.mask.rotate_left(length % 4);
        passing.left -= u64::try_from(length).unwrap_or(passing.left);
        let first = std::mem::take(&mut passing.first);
        if passing.left == 0 {
            self.passing = None;
        }
        Some(Piece::Message { first, payload: payload.freeze() })
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

impl Decoder for Pieces {
    type Item = Piece;
    type Error = WebSocketError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, WebSocketError> {
        if self.passing.is_some() {
            return Ok(self.piece(buffer));
        }
        let Some(head) = Head::take(buffer)? else { return Ok(None) };
        match head.opcode {
            CONTINUATION | TEXT | BINARY => {
                if self.within != (head.opcode == CONTINUATION) {
                    return Err(WebSocketError::Rule("a message within another, or the rest of none"));
                }
                self.within = !head.last;
                self.passing = Some(Passing { first: head.opcode != CONTINUATION, left: head.length, mask: head.mask });
                Ok(self.piece(buffer))
            }
            PING | PONG | CLOSE => {
                let mut payload = buffer.split_to(usize::try_from(head.length).unwrap_or_default());
                unmask(&mut payload, head.mask);
                Ok(Some(match head.opcode {
                    PING => Piece::Ping(payload.freeze()),
                    PONG => Piece::Pong,
                    _ => Piece::Close,
                }))
            }
            _ => Err(WebSocketError::Rule("a frame of an unknown kind")),
        }
    }

    /// The end of the connection, wherever it comes.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, WebSocketError> {
        self.decode(buffer)
    }
}

/// A message in one frame: the bytes of `head`, then those of `payload`.
pub(crate) fn message(head: &[u8], payload: &[u8]) -> Bytes {
    whole(BINARY, &[head, payload])
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    whole(PONG, &[payload])
}

/// The end, with a status.
pub(crate) fn close(status: u16) -> Bytes {
    whole(CLOSE, &[&status.to_be_bytes()])
}

fn whole(opcode: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(length + 10);
    frame.put_u8(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.put_u8(short),
        (_, Ok(medium)) => {
            frame.put_u8(126);
            frame.put_u16(medium);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(u64::try_from(length).unwrap_or(u64::MAX));
        }
    }
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.freeze()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = whole(first & 0x0f, &[payload]).to_vec();
        let head = frame.len() - payload.len();
        frame[0] = first;
        frame[1] |= 0x80;
        unmask(&mut frame[head..], mask);
        frame.splice(head..head, mask);
        frame
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::testing::masked;
    use super::*;

    fn pieces(bytes: &[u8], step: usize) -> Result<Vec<Piece>, WebSocketError> {
        let (mut decoder, mut buffer, mut all) = (Pieces::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(piece) = decoder.decode(&mut buffer)? {
                all.push(piece);
            }
        }
        Ok(all)
    }

    /// The messages of `bytes`, and how many other pieces there are.
    fn messages(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut messages, mut others): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        for piece in pieces(bytes, step).unwrap() {
            match piece {
                Piece::Message { first, payload } => {
                    assert!(payload.len() <= PIECE_BYTES);
                    if first {
                        messages.push(Vec::new());
                    }
                    messages.last_mut().unwrap().extend_from_slice(&payload);
                }
                Piece::Ping(_) | Piece::Pong | Piece::Close => others += 1,
            }
        }
        (messages, others)
    }

    #[test]
    fn the_standard_s_examples_are_read() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(messages(&hello, 1).0, [b"Hello"]);
        let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(pieces(&ping, 3).unwrap(), [Piece::Ping(Bytes::from_static(b"Hello"))]);
        assert_eq!(pong(b"Hello"), [&[0x8a, 0x05][..], b"Hello"].concat());
    }

    #[test]
    fn messages_of_any_length_pass_wherever_they_are_cut() {
        let long: Vec<u8> = (0..200_000_u32).map(|number| u8::try_from(number % 253).unwrap()).collect();
        let sent = [
            masked(0x82, b""),
            masked(0x02, &long[..70_000]),
            masked(0x89, b"between"),
            masked(0x00, &long[70_000..70_001]),
            masked(0x80, &long[70_001..]),
            masked(0x8a, b""),
            masked(0x81, &long[..300]),
            masked(0x88, &NORMAL.to_be_bytes()),
        ]
        .concat();
        for step in [1001, 65_537, sent.len()] {
            let (got, others) = messages(&sent, step);
            assert_eq!((got.len(), others), (3, 3));
            assert!(got[0].is_empty() && got[1] == long && got[2] == long[..300], "in pieces of {step}");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let rule = |bytes: &[u8]| assert!(matches!(pieces(bytes, 1), Err(WebSocketError::Rule(_))), "{bytes:?}");
        rule(&[0x82, 0x01, 0]);
        rule(&masked(0xc2, b"reserved"));
        rule(&masked(0x83, b"unknown"));
        rule(&masked(0x8b, b"unknown"));
        rule(&masked(0x80, b"the rest of none"));
        rule(&masked(0x09, b"a ping in parts"));
        rule(&masked(0x89, &[0; 126]));
        rule(&[masked(0x02, b"begun"), masked(0x82, b"another")].concat());
    }

    #[test]
    fn a_length_without_a_payload_holds_nothing() {
        let mut buffer = BytesMut::from(&[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4][..]);
        let mut decoder = Pieces::default();
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert!(buffer.is_empty());
    }
}
