//! The values of a record, packed: an org keeps every record that its history made, so
//! what is not being changed stands as bytes. The form is the one that the values have
//! in an event, one nullable after the other, in the order of the object's fields.

use std::sync::Arc;

use crate::simulator::objects::{Avro, Object};
use crate::simulator::value::{self, Value};

/// Packs the values of a record.
pub(crate) fn pack(values: &[Option<Value>]) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(512);
    values.iter().for_each(|value| value::encode_nullable(&mut out, value.as_ref()));
    out.into()
}

/// The values again, one for each field; null for fields that came after the record was packed.
pub(crate) fn unpack(object: &Object, packed: &[u8]) -> Vec<Option<Value>> {
    let mut reader = Reader { rest: packed };
    object.fields.iter().map(|field| reader.nullable(field.kind.avro())).collect()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn nullable(&mut self, kind: Avro) -> Option<Value> {
        if self.byte()? == 0 {
            return None;
        }
        Some(match kind {
            Avro::String => Value::Text(self.text()?),
            Avro::Int => Value::Integer(i32::try_from(self.long()?).ok()?),
            Avro::Long => Value::Long(self.long()?),
            Avro::Double => Value::Number(self.double()?),
            Avro::Boolean => Value::Flag(self.byte()? != 0),
            Avro::Record(_, components) => {
                let component = |number: bool| if number { Avro::Double } else { Avro::String };
                Value::Compound(components.iter().map(|one| self.nullable(component(one.number))).collect())
            }
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn long(&mut self) -> Option<i64> {
        let mut word = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            word |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some((word >> 1).cast_signed() ^ -(word & 1).cast_signed());
            }
        }
        None
    }

    fn double(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.long()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::content;
    use crate::simulator::dice::Dice;
    use crate::simulator::objects;

    #[test]
    fn every_kind_of_value_comes_back_as_it_was_packed() {
        let mut dice = Dice::new(3);
        for object in objects::all() {
            for _ in 0..50 {
                let draw =
                    |dice: &mut Dice, field| dice.percent(80).then(|| content::draw(dice, field, 1_771_300_000_000));
                let values: Vec<Option<Value>> = object.fields.iter().map(|field| draw(&mut dice, field)).collect();
                assert_eq!(unpack(&object, &pack(&values)), values, "{}", object.name);
            }
        }
        let edges = [i64::MIN, -1, 0, 63, 64, i64::MAX].map(|edge| Some(Value::Long(edge)));
        let mut object = objects::all().remove(0);
        object.fields = vec![objects::Field { name: "At__c".into(), kind: objects::Kind::DateTime }; 7];
        assert_eq!(unpack(&object, &pack(&edges))[..6], edges);
        assert_eq!(unpack(&object, &pack(&edges))[6], None, "a field that came later");
    }
}
