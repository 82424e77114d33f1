//! Fields on the wire. Invariant: reading ends, and never reads past the end. Reference: protobuf's encoding document.

/// What is wrong with the bytes.
#[derive(Debug)]
pub(super) struct Fault(pub(super) &'static str);

/// A field's value as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datum<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

impl Datum<'_> {
    /// Whether it says no more than an absent field.
    pub(super) fn is_zero(self) -> bool {
        match self {
            Self::Varint(number) | Self::Fixed(number) => number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: Fault = Fault("it ends inside a field");

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(SHORT)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault("a number has too many bytes"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let count = usize::try_from(count).map_err(|_| SHORT)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed(&mut self, count: u64) -> Result<u64, Fault> {
        let bytes = self.take(count)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn field(&mut self) -> Result<(u64, Datum<'a>), Fault> {
        let tag = self.varint()?;
        let datum = match tag & 7 {
            0 => Datum::Varint(self.varint()?),
            1 => Datum::Fixed(self.fixed(8)?),
            2 => {
                let count = self.varint()?;
                Datum::Bytes(self.take(count)?)
            }
            5 => Datum::Fixed(self.fixed(4)?),
            _ => return Err(Fault("a field has an unknown wire type")),
        };
        Ok((tag >> 3, datum))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u64, Datum<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
