//! Avro's binary encoding, read within the bounds of one payload.
//!
//! No length that the payload claims is believed before the bytes are seen to be there, and nothing
//! is allocated by it.

use crate::change::error::DecodeFault;

/// How many values a payload may hold beyond its number of bytes. A value takes a byte or more, except null,
/// empty records and empty fixeds; without a limit, a few bytes could claim billions of those.
const EMPTY_VALUES: usize = 65_536;

/// Reads one payload from front to back.
#[derive(Debug)]
pub(crate) struct Reader<'p> {
    rest: &'p [u8],
    length: usize,
    values_left: usize,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(payload: &'p [u8]) -> Self {
        Self { rest: payload, length: payload.len(), values_left: payload.len().saturating_add(EMPTY_VALUES) }
    }

    /// How many bytes have been read.
    pub(crate) fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Counts one value against what the payload may hold.
    pub(crate) fn count_value(&mut self) -> Result<(), DecodeFault> {
        self.values_left = self.values_left.checked_sub(1).ok_or(DecodeFault::TooManyValues)?;
        Ok(())
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'p [u8], DecodeFault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeFault::EndOfPayload)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeFault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeFault::EndOfPayload)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A `long`: seven bits a byte, the low ones first, with the sign in the lowest bit.
    pub(crate) fn long(&mut self) -> Result<i64, DecodeFault> {
        if let Some((first, rest)) = self.rest.split_first()
            && first & 0x80 == 0
        {
            self.rest = rest;
            return Ok(zigzag(u64::from(*first)));
        }
        self.long_of_many_bytes()
    }

    fn long_of_many_bytes(&mut self) -> Result<i64, DecodeFault> {
        let mut value = 0_u64;
        for (at, byte) in self.rest.iter().enumerate() {
            // The tenth byte has room for one more bit only.
            if at > 9 || (at == 9 && *byte > 1) {
                return Err(DecodeFault::OverlongInteger);
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Ok(zigzag(value));
            }
        }
        Err(DecodeFault::EndOfPayload)
    }

    /// An `int`: encoded as a `long`, within 32 bits.
    pub(crate) fn int(&mut self) -> Result<i64, DecodeFault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| DecodeFault::IntOutOfRange)?;
        Ok(value)
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeFault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeFault::Boolean),
        }
    }

    pub(crate) fn float(&mut self) -> Result<f32, DecodeFault> {
        self.array().map(f32::from_le_bytes)
    }

    pub(crate) fn double(&mut self) -> Result<f64, DecodeFault> {
        self.array().map(f64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'p [u8], DecodeFault> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| DecodeFault::Length)?;
        if length > self.rest.len() {
            return Err(DecodeFault::Length);
        }
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'p str, DecodeFault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeFault::InvalidUtf8)
    }

    /// The number of items in the next block of an array or map; 0 is the end. A negative number is followed by
    /// the block's size in bytes, which only readers that skip need.
    pub(crate) fn block(&mut self) -> Result<u64, DecodeFault> {
        let count = self.long()?;
        if count < 0 {
            let size = usize::try_from(self.long()?).map_err(|_| DecodeFault::Length)?;
            if size > self.rest.len() {
                return Err(DecodeFault::Length);
            }
        }
        Ok(count.unsigned_abs())
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_to_the_last_bit_and_no_further() {
        let long = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            reader.long().map(|value| (value, reader.left()))
        };
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(long(&[0x00]), Ok((0, 0)));
        assert_eq!(long(&[0x01, 0x55]), Ok((-1, 1)));
        assert_eq!(long(&[0x80, 0x01]), Ok((64, 0)));
        assert_eq!(long(&[&most[..], &[0x01]].concat()), Ok((i64::MIN, 0)));
        assert_eq!(long(&[&[0xfe], &most[1..], &[0x01]].concat()), Ok((i64::MAX, 0)));
        assert_eq!(long(&[&most[..], &[0x02]].concat()), Err(DecodeFault::OverlongInteger));
        assert_eq!(long(&[&most[..], &[0x81, 0x00]].concat()), Err(DecodeFault::OverlongInteger));
        assert_eq!(long(&[0x80]), Err(DecodeFault::EndOfPayload));
        assert_eq!(long(&[]), Err(DecodeFault::EndOfPayload));
        assert_eq!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x10]).int(), Err(DecodeFault::IntOutOfRange));
    }

    #[test]
    fn a_claimed_length_is_checked_before_it_is_used() {
        assert_eq!(Reader::new(&[0x04, b'a']).bytes(), Err(DecodeFault::Length));
        assert_eq!(Reader::new(&[0x01]).text(), Err(DecodeFault::Length));
        assert_eq!(Reader::new(&[0x02, 0xff]).text(), Err(DecodeFault::InvalidUtf8));
        assert_eq!(Reader::new(&[0x03, 0x06, 0, 0]).block(), Err(DecodeFault::Length));
        assert_eq!(Reader::new(&[0x03, 0x04, 0, 0]).block(), Ok(2));
        assert_eq!(Reader::new(&[2]).boolean(), Err(DecodeFault::Boolean));
    }
}
