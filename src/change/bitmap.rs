//! The field lists of the header: `changedFields`, `nulledFields` and `diffFields`.
//!
//! Over the Pub/Sub API they are bitmaps, not names. `0x` and a big-endian hexadecimal number is a set
//! of positions in the record of the event's own schema, bit 0 being the header. `6-0x0180` is a set of
//! positions in the compound field at position 6; that field's own bit is not set then.
//! The number may be missing when only compounds changed.

use std::fmt;

/// Which of the header's three lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapList {
    /// Fields that changed.
    Changed,
    /// Fields that changed to null.
    Nulled,
    /// Fields that changed and whose value is a text diff.
    Diff,
}

impl fmt::Display for BitmapList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Changed => "changedFields",
            Self::Nulled => "nulledFields",
            Self::Diff => "diffFields",
        })
    }
}

/// What is wrong with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BitmapFault {
    /// An element is neither `0x…` nor `<position>-0x…`.
    #[error("An element is not a hexadecimal bitmap.")]
    Malformed,
    /// Two elements are about the same record.
    #[error("Two elements are about the same fields.")]
    Repeated,
    /// The header cannot be a changed field.
    #[error("The header is named as a field.")]
    Header,
    /// The schema has no field at this position.
    #[error("There is no field at position {0}.")]
    NoSuchField(usize),
    /// The field at this position has no components.
    #[error("The field at position {0} is not a compound.")]
    NotACompound(usize),
    /// The compound has no such component.
    #[error("The compound at position {parent} has no component {component}.")]
    NoSuchComponent {
        /// Position of the compound.
        parent: usize,
        /// Position within it.
        component: usize,
    },
}

/// A set of small numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn parse(hexadecimal: &str) -> Option<Self> {
        if hexadecimal.is_empty() {
            return None;
        }
        let mut words = Vec::with_capacity(hexadecimal.len().div_ceil(16));
        for digits in hexadecimal.as_bytes().rchunks(16) {
            let word = digits
                .iter()
                .try_fold(0_u64, |word, digit| Some(word << 4 | u64::from(char::from(*digit).to_digit(16)?)))?;
            words.push(word);
        }
        Some(Self(words))
    }

    pub(crate) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn last(&self) -> Option<usize> {
        self.iter().last()
    }

    /// The members, smallest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        })
    }
}

/// One of the lists, checked against the schema: every bit is a field that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldBitmap {
    top: Bits,
    nested: Vec<(usize, Bits)>,
}

impl FieldBitmap {
    /// Reads the elements of a list. `fields` is the number of fields of the event's record, header included;
    /// `components` gives the number of components of the field at a position, if it is a compound.
    pub(crate) fn parse(
        elements: &[&str],
        fields: usize,
        components: impl Fn(usize) -> Option<usize>,
    ) -> Result<Self, BitmapFault> {
        let mut top = None;
        let mut nested: Vec<(usize, Bits)> = Vec::new();
        for element in elements {
            let Some((parent, bits)) = element.split_once('-') else {
                let bits = parse_element(element)?;
                check_top(&bits, fields)?;
                if top.replace(bits).is_some() {
                    return Err(BitmapFault::Repeated);
                }
                continue;
            };
            if parent.is_empty() || !parent.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(BitmapFault::Malformed);
            }
            let parent = parent.parse::<usize>().map_err(|_| BitmapFault::Malformed)?;
            let bits = parse_element(bits)?;
            if parent >= fields {
                return Err(BitmapFault::NoSuchField(parent));
            }
            let count = components(parent).ok_or(BitmapFault::NotACompound(parent))?;
            if let Some(component) = bits.last().filter(|last| *last >= count) {
                return Err(BitmapFault::NoSuchComponent { parent, component });
            }
            if nested.iter().any(|(known, _)| *known == parent) {
                return Err(BitmapFault::Repeated);
            }
            nested.push((parent, bits));
        }
        Ok(Self { top: top.unwrap_or_default(), nested })
    }

    /// Whether the field at a position is named as a whole.
    pub(crate) fn names(&self, position: usize) -> bool {
        self.top.contains(position)
    }

    /// The components named of the compound at a position.
    pub(crate) fn components(&self, position: usize) -> Option<&Bits> {
        self.nested.iter().find(|(parent, _)| *parent == position).map(|(_, bits)| bits)
    }

    /// Whether a component of the compound at a position is named.
    pub(crate) fn names_component(&self, position: usize, component: usize) -> bool {
        self.components(position).is_some_and(|bits| bits.contains(component))
    }
}

fn parse_element(element: &str) -> Result<Bits, BitmapFault> {
    element.strip_prefix("0x").and_then(Bits::parse).ok_or(BitmapFault::Malformed)
}

fn check_top(bits: &Bits, fields: usize) -> Result<(), BitmapFault> {
    if bits.contains(0) {
        return Err(BitmapFault::Header);
    }
    match bits.last().filter(|last| *last >= fields) {
        Some(beyond) => Err(BitmapFault::NoSuchField(beyond)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_shape(elements: &[&str]) -> Result<FieldBitmap, BitmapFault> {
        FieldBitmap::parse(elements, 1000, |_| Some(16))
    }

    /// The writer's side of the encoding, as captured events have it: upper case, whole bytes, no leading zero byte.
    fn encode(bitmap: &FieldBitmap) -> Vec<String> {
        let hexadecimal = |bits: &Bits| {
            let digits: String = bits.0.iter().rev().map(|word| format!("{word:016X}")).collect();
            let digits = digits.trim_start_matches("00");
            format!("0x{}", if digits.is_empty() { "00" } else { digits })
        };
        let top = bitmap.top.last().map(|_| hexadecimal(&bitmap.top));
        let nested = bitmap.nested.iter().map(|(parent, bits)| format!("{parent}-{}", hexadecimal(bits)));
        top.into_iter().chain(nested).collect()
    }

    #[test]
    fn every_known_bitmap_means_what_its_source_says_and_encodes_back() {
        type Known = (&'static [&'static str], &'static [usize], &'static [(usize, &'static [usize])]);
        let known: [Known; 10] = [
            (&["0x400800"], &[11, 22], &[]),
            (&["0x410000"], &[16, 22], &[]),
            (&["0x400080"], &[7, 22], &[]),
            (&["0x400000", "4-0x01"], &[22], &[(4, &[0])]),
            (&["0x08F81000"], &[12, 19, 20, 21, 22, 23, 27], &[]),
            (&["0x800000", "6-0x01"], &[23], &[(6, &[0])]),
            (&["6-0x0180"], &[], &[(6, &[7, 8])]),
            (&["0x800002"], &[1, 23], &[]),
            (&["0x100000000000800000"], &[23, 68], &[]),
            (&["0x650004E0", "4-0x10", "7-0x06"], &[5, 6, 7, 10, 24, 26, 29, 30], &[(4, &[4]), (7, &[1, 2])]),
        ];
        for (elements, top, nested) in known {
            let bitmap = any_shape(elements).expect("known to be valid");
            assert_eq!(bitmap.top.iter().collect::<Vec<_>>(), top, "{elements:?}");
            let found: Vec<_> = bitmap.nested.iter().map(|(parent, bits)| (*parent, bits.iter().collect())).collect();
            let expected: Vec<_> = nested.iter().map(|(parent, bits)| (*parent, bits.to_vec())).collect();
            assert_eq!(found, expected, "{elements:?}");
            assert_eq!(encode(&bitmap), elements);
        }
        assert_eq!(any_shape(&[]), Ok(FieldBitmap::default()));
        assert_eq!(any_shape(&["6-0x01", "0x02"]).map(|bitmap| bitmap.names(1)), Ok(true), "order carries no meaning");
    }

    #[test]
    fn what_does_not_fit_the_schema_is_an_error() {
        let shape = |elements: &[&str]| FieldBitmap::parse(elements, 8, |at| (at == 4).then_some(3));
        assert!(shape(&["0x80", "4-0x04"]).is_ok());
        assert_eq!(shape(&["0x0100"]), Err(BitmapFault::NoSuchField(8)));
        assert_eq!(shape(&["0x01"]), Err(BitmapFault::Header));
        assert_eq!(shape(&["3-0x01"]), Err(BitmapFault::NotACompound(3)));
        assert_eq!(shape(&["8-0x01"]), Err(BitmapFault::NoSuchField(8)));
        assert_eq!(shape(&["4-0x08"]), Err(BitmapFault::NoSuchComponent { parent: 4, component: 3 }));
        assert_eq!(shape(&["0x02", "0x04"]), Err(BitmapFault::Repeated));
        assert_eq!(shape(&["4-0x01", "4-0x02"]), Err(BitmapFault::Repeated));
        for malformed in
            ["", "0x", "02", "Status", "0xZZ", "0x+1", "-0x01", "4-", "4-02", "+4-0x01", "4-4-0x01", "0x 1"]
        {
            assert_eq!(shape(&[malformed]), Err(BitmapFault::Malformed), "{malformed:?}");
        }
        assert_eq!(shape(&["99999999999999999999999-0x01"]), Err(BitmapFault::Malformed));
    }

    proptest! {
        #[test]
        fn any_set_of_fields_survives_its_encoding(
            top in proptest::collection::btree_set(1_usize..1000, 0..40),
            nested in proptest::collection::btree_map(0_usize..1000, proptest::collection::btree_set(0_usize..16, 1..16), 0..5),
        ) {
            let set = |members: &std::collections::BTreeSet<usize>| {
                let mut words = vec![0_u64; members.last().map_or(0, |last| last / 64 + 1)];
                members.iter().for_each(|at| words[at / 64] |= 1 << (at % 64));
                Bits(words)
            };
            let bitmap = FieldBitmap {
                top: set(&top),
                nested: nested.iter().map(|(parent, members)| (*parent, set(members))).collect(),
            };
            let elements = encode(&bitmap);
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            prop_assert_eq!(any_shape(&elements), Ok(bitmap));
        }

        #[test]
        fn no_text_panics(elements in proptest::collection::vec("[0-9x-]{0,6}|.{0,12}|0x[0-9A-Fa-f]{0,80}", 0..4)) {
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            let _ = any_shape(&elements);
        }
    }
}
