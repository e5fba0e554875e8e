//! Salesforce record ids: three characters that say the object, twelve that count,
//! three that make up for lost case.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECKSUM: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// The 18-character id number `number` of the object with this key prefix.
pub(crate) fn record_id(prefix: &str, number: u64) -> String {
    let mut digits = [b'0'; 12];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    // Salesforce puts the instance behind the prefix: `5008d0000…`.
    digits[0] = b'8';
    digits[1] = b'd';
    complete(&format!("{prefix}{}", String::from_utf8_lossy(&digits)))
}

/// The 18 characters of a 15-character id: each checksum character tells which of five letters are upper case.
pub(crate) fn complete(fifteen: &str) -> String {
    let suffix = fifteen.as_bytes().chunks(5).take(3).map(|group| {
        let bits = (0..).zip(group).fold(
            0_usize,
            |bits, (at, byte): (u32, _)| {
                if byte.is_ascii_uppercase() { bits | (1 << at) } else { bits }
            },
        );
        char::from(CHECKSUM[bits & 31])
    });
    fifteen.chars().chain(suffix).collect()
}

/// Whether a text is an 18-character id whose checksum holds.
pub(crate) fn is_complete(id: &str) -> bool {
    id.len() == 18 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) && complete(&id[..15]) == id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_real_records_have_the_checksum_that_is_computed() {
        for real in ["001Dp00000JJkkHIAT", "0014H00002LbR7QQAV", "005Dp000000PpjsIAC", "00558000000yFyDAAU"] {
            assert!(is_complete(real), "{real}");
        }
        assert!(!is_complete("001Dp00000JJkkHIAA"));
        assert!(!is_complete("001Dp00000JJkkH"));
        assert_eq!(record_id("500", 63), complete("5008d0000000011"));
    }
}
