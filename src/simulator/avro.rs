//! Avro's binary encoding, as far as change events need it. Written apart from the
//! client's decoder, so that one's mistake cannot hide the other's.

/// Zigzag, then seven bits a byte, low ones first: Avro's `int` and `long`.
pub(crate) fn long(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7F) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

pub(crate) fn string(out: &mut Vec<u8>, value: &str) {
    long(out, i64::try_from(value.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(value.as_bytes());
}

pub(crate) fn double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// One block with its count, then the empty block that ends an array.
pub(crate) fn strings(out: &mut Vec<u8>, values: &[String]) {
    if !values.is_empty() {
        long(out, i64::try_from(values.len()).unwrap_or(i64::MAX));
        for value in values {
            string(out, value);
        }
    }
    long(out, 0);
}

/// The branch of a union; nullable fields have null first.
pub(crate) fn branch(out: &mut Vec<u8>, index: i64) {
    long(out, index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_avro_specification_shows() {
        for (value, bytes) in [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (-64, vec![0x7f]), (64, vec![0x80, 0x01])] {
            let mut out = Vec::new();
            long(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
        let mut out = Vec::new();
        long(&mut out, i64::MIN);
        assert_eq!(out, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }
}
