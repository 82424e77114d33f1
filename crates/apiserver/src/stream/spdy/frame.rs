//! SPDY's frames, from bytes and to bytes.
//!
//! Invariant: no frame makes the decoder hold more than [`MOST_CONTROL_BYTES`]; the payload of a data frame passes in
//! pieces of at most [`PIECE_BYTES`], however long the frame says it is. Reference: SPDY draft 3.1, section 2.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::headers::{Headers, Packer, Unpacker};

/// Longest payload of a control frame.
const MOST_CONTROL_BYTES: usize = 64 << 10;
/// Longest piece of data.
pub(crate) const PIECE_BYTES: usize = 32 << 10;
/// Bytes before each payload.
const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
/// Flag of the last frame of a stream's direction.
const FIN: u8 = 1;
const NUMBER: u32 = 0x7fff_ffff;
/// The highest number that a stream may have.
pub(crate) const LAST: u32 = NUMBER;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The setting that holds the window of streams to come.
pub(crate) const INITIAL_WINDOW_SIZE: u32 = 7;
/// The setting that holds how many streams may be open.
pub(crate) const MAX_CONCURRENT_STREAMS: u32 = 4;

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    /// Not a frame of this version.
    #[error("a frame of SPDY version {0}; only 3 is known")]
    Version(u16),
    /// A control frame that is longer than any real one.
    #[error("a control frame of {0} bytes")]
    TooLarge(usize),
    /// A payload that does not have its type's form.
    #[error("a frame of type {0} with a wrong length or content")]
    Malformed(u16),
    /// A header block that cannot be read.
    #[error("an unreadable header block")]
    Headers,
    /// A header block that unpacks to more than is accepted.
    #[error("a header block that unpacks to too much")]
    HeadersTooLarge,
    /// The transport failed.
    #[error("the connection broke: {0}")]
    Broken(std::io::ErrorKind),
}

impl From<std::io::Error> for SpdyError {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

/// A frame that has come, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        id: u32,
        /// The peer sends nothing on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// The peer accepts a stream.
    SynReply {
        /// Its number.
        id: u32,
    },
    /// The peer ends a stream both ways.
    Reset {
        /// Its number.
        id: u32,
    },
    /// Numbers that the peer announces: the setting and its value.
    Settings(Vec<(u32, u32)>),
    /// To be sent back as it is.
    Ping {
        /// Whose it is: odd for a client's.
        id: u32,
    },
    /// The peer opens no more streams.
    GoAway,
    /// Further headers of a stream.
    Headers {
        /// Its number.
        id: u32,
        /// It is the last that the peer sends on the stream.
        fin: bool,
    },
    /// The peer has room for more.
    WindowUpdate {
        /// The stream; 0 for the connection.
        id: u32,
        /// How much more, in bytes.
        delta: u32,
    },
    /// Data of a stream.
    Data {
        /// Its number.
        id: u32,
        /// It is the last that the peer sends on the stream.
        fin: bool,
        /// A piece of the frame's payload.
        payload: Bytes,
    },
    /// A frame of a type that is to be ignored.
    Unknown,
}

/// A data frame whose payload has not passed whole.
struct Passing {
    id: u32,
    fin: bool,
    left: usize,
}

/// Reads one direction of a connection.
pub(crate) struct Frames {
    unpacker: Unpacker,
    passing: Option<Passing>,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { unpacker: Unpacker::new(), passing: None }
    }

    fn piece(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let passing = self.passing.as_mut()?;
        let length = passing.left.min(buffer.len()).min(PIECE_BYTES);
        if length == 0 && passing.left > 0 {
            return None;
        }
        passing.left -= length;
        let (id, fin, last) = (passing.id, passing.fin, passing.left == 0);
        if last {
            self.passing = None;
        }
        Some(Frame::Data { id, fin: fin && last, payload: buffer.split_to(length).freeze() })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, SpdyError> {
        let fin = flags & FIN != 0;
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| SpdyError::Malformed(kind));
        let frame = match kind {
            SYN_STREAM => {
                let id = number(&mut payload)? & NUMBER;
                let _associated = number(&mut payload)?;
                let _priority = payload.try_get_u16().map_err(|_| SpdyError::Malformed(kind))?;
                Frame::SynStream { id, fin, headers: self.unpacker.read(&payload)? }
            }
            SYN_REPLY | HEADERS => {
                let id = number(&mut payload)? & NUMBER;
                // Read although nobody asks for it: what comes later may refer to it.
                let _ = self.unpacker.read(&payload)?;
                if kind == SYN_REPLY { Frame::SynReply { id } } else { Frame::Headers { id, fin } }
            }
            RST_STREAM => Frame::Reset { id: number(&mut payload)? & NUMBER },
            SETTINGS => {
                let count = usize::try_from(number(&mut payload)?).unwrap_or(usize::MAX);
                if payload.len() != count.saturating_mul(8) {
                    return Err(SpdyError::Malformed(kind));
                }
                let entries = (0..count).map(|_| Ok((number(&mut payload)? & 0x00ff_ffff, number(&mut payload)?)));
                Frame::Settings(entries.collect::<Result<_, SpdyError>>()?)
            }
            PING => Frame::Ping { id: number(&mut payload)? },
            GOAWAY => Frame::GoAway,
            WINDOW_UPDATE => Frame::WindowUpdate { id: number(&mut payload)? & NUMBER, delta: number(&mut payload)? & NUMBER },
            _ => Frame::Unknown,
        };
        Ok(frame)
    }
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = SpdyError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if self.passing.is_some() {
            return Ok(self.piece(buffer));
        }
        let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let (mut first, mut second) = (&head[..4], &head[4..]);
        let flags = second.get_u8();
        let length = usize::try_from(second.get_uint(3)).unwrap_or(usize::MAX);
        let control = head[0] & 0x80 != 0;
        if !control {
            self.passing = Some(Passing { id: first.get_u32(), fin: flags & FIN != 0, left: length });
            buffer.advance(HEAD_BYTES);
            return Ok(self.piece(buffer));
        }
        let (version, kind) = (first.get_u16() & 0x7fff, first.get_u16());
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > MOST_CONTROL_BYTES {
            return Err(SpdyError::TooLarge(length));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEAD_BYTES);
        let payload = buffer.split_to(length).freeze();
        self.control(kind, flags, payload).map(Some)
    }

    /// The end of the connection, wherever it comes.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        self.decode(buffer)
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(flags);
    frame.put_uint(u64::try_from(payload.len()).unwrap_or(u64::MAX), 3);
    frame.extend_from_slice(payload);
    frame
}

/// The acceptance of a stream, with no headers.
pub(crate) fn reply(id: u32, packer: &mut Packer) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(id);
    packer.write(&Headers::new(), &mut payload);
    control(SYN_REPLY, 0, &payload).freeze()
}

/// Why a stream is ended both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The peer broke a rule.
    Protocol = 1,
    /// There is no such stream.
    InvalidStream = 2,
    /// It was not looked at.
    Refused = 3,
}

/// The end of a stream both ways.
pub(crate) fn reset(id: u32, reason: Reason) -> Bytes {
    two_numbers(RST_STREAM, id, reason as u32)
}

/// The answer to a ping.
pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes()).freeze()
}

/// No more streams are accepted after `last`.
pub(crate) fn go_away(last: u32, failed: bool) -> Bytes {
    two_numbers(GOAWAY, last, u32::from(failed))
}

/// Room for `delta` more bytes of a stream, or with 0 of the connection.
pub(crate) fn window_update(id: u32, delta: u32) -> Bytes {
    two_numbers(WINDOW_UPDATE, id, delta)
}

/// What this side announces.
pub(crate) fn settings(entries: &[(u32, u32)]) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for (setting, value) in entries {
        payload.put_u32(*setting);
        payload.put_u32(*value);
    }
    control(SETTINGS, 0, &payload).freeze()
}

fn two_numbers(kind: u16, first: u32, second: u32) -> Bytes {
    let mut payload = [0; 8];
    let (one, two) = payload.split_at_mut(4);
    one.copy_from_slice(&first.to_be_bytes());
    two.copy_from_slice(&second.to_be_bytes());
    control(kind, 0, &payload).freeze()
}

/// Data of a stream, at most [`PIECE_BYTES`] of it.
pub(crate) fn data(id: u32, fin: bool, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    frame.put_u32(id & NUMBER);
    frame.put_u8(if fin { FIN } else { 0 });
    frame.put_uint(u64::try_from(payload.len()).unwrap_or(u64::MAX), 3);
    frame.extend_from_slice(payload);
    frame.freeze()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// The opening of a stream, as a client sends it.
    pub(crate) fn syn_stream(id: u32, fin: bool, headers: &[(&str, &str)], packer: &mut Packer) -> Bytes {
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        payload.put_u32(0);
        payload.put_u16(0);
        packer.write(&headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), &mut payload);
        control(SYN_STREAM, u8::from(fin), &payload).freeze()
    }

    /// A control frame of any form.
    pub(crate) fn any(kind: u16, payload: &[u8]) -> Bytes {
        control(kind, 0, payload).freeze()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    /// All frames of `bytes`, which come in pieces of `step`.
    fn frames(bytes: &[u8], step: usize) -> Result<Vec<Frame>, SpdyError> {
        let (mut decoder, mut buffer, mut all) = (Frames::new(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                all.push(frame);
            }
        }
        assert!(buffer.is_empty(), "{} bytes are left", buffer.len());
        Ok(all)
    }

    #[test]
    fn frames_are_read_back_wherever_they_are_cut() {
        let mut packer = Packer::default();
        let sent = [
            testing::syn_stream(1, false, &[("streamtype", "error")], &mut packer),
            testing::syn_stream(3, true, &[("streamtype", "data"), ("port", "80")], &mut packer),
            reply(1, &mut packer),
            settings(&[(INITIAL_WINDOW_SIZE, 1000), (MAX_CONCURRENT_STREAMS, 5)]),
            ping(7),
            window_update(1, 500),
            reset(3, Reason::Refused),
            testing::any(77, b"what"),
            go_away(3, false),
        ]
        .concat();
        let headers = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let expected = [
            Frame::SynStream { id: 1, fin: false, headers: headers(&[("streamtype", "error")]) },
            Frame::SynStream { id: 3, fin: true, headers: headers(&[("streamtype", "data"), ("port", "80")]) },
            Frame::SynReply { id: 1 },
            Frame::Settings(vec![(INITIAL_WINDOW_SIZE, 1000), (MAX_CONCURRENT_STREAMS, 5)]),
            Frame::Ping { id: 7 },
            Frame::WindowUpdate { id: 1, delta: 500 },
            Frame::Reset { id: 3 },
            Frame::Unknown,
            Frame::GoAway,
        ];
        for step in [1, 7, 13, sent.len()] {
            assert_eq!(frames(&sent, step).unwrap(), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn data_passes_in_pieces() {
        let payload: Vec<u8> = (0..100_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let sent = [data(5, true, &payload), data(7, false, b""), data(9, true, b"")].concat();
        for step in [1000, sent.len()] {
            let mut all = frames(&sent, step).unwrap();
            let ends = all.split_off(all.len() - 2);
            assert_eq!(ends[0], Frame::Data { id: 7, fin: false, payload: Bytes::new() });
            assert_eq!(ends[1], Frame::Data { id: 9, fin: true, payload: Bytes::new() });
            let mut whole = Vec::new();
            let count = all.len();
            for (number, frame) in all.into_iter().enumerate() {
                let Frame::Data { id: 5, fin, payload } = frame else { panic!("{frame:?}") };
                assert!(payload.len() <= PIECE_BYTES);
                assert_eq!(fin, number + 1 == count, "the end comes with the last piece alone");
                whole.extend_from_slice(&payload);
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn hostile_frames_are_refused_before_they_are_held() {
        let check = |bytes: &[u8], expected: SpdyError| assert_eq!(frames(bytes, bytes.len()), Err(expected));
        check(&[0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Version(2));
        check(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::TooLarge(0xff_ffff));
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, HEADERS, WINDOW_UPDATE] {
            check(&testing::any(kind, b"\x01\0"), SpdyError::Malformed(kind));
        }
        check(&testing::any(SETTINGS, &[0xff; 4]), SpdyError::Malformed(SETTINGS));
        check(&testing::any(SYN_STREAM, &[0; 30]), SpdyError::Headers);
    }

    #[test]
    fn noise_never_panics() {
        // A generator of its own, so that a failure can be had again.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut noise = BytesMut::new();
            for _ in 0..6 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                noise.put_u64(state);
            }
            // Most noise is data or an unknown version: help it on.
            noise[0] = 0x80;
            noise[1] = 3;
            noise[2] = 0;
            noise[3] %= 10;
            noise[5] = 0;
            noise[6] = 0;
            noise[7] %= 41;
            let mut decoder = Frames::new();
            while let Ok(Some(_)) = decoder.decode(&mut noise) {}
        }
    }
}
