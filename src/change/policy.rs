//! What readers do not get to see: fields of an object that are left out of its records, or made unreadable in them.
//!
//! A policy works on a value that is rendered already. All ways of a value, events, REST, Bulk and messages, lead to the
//! one rendering, so the same value becomes the same hash whatever brought it, and [`ObjectWriter`] is where it is done.
//!
//! A compound and its components are one thing under two names (`BillingAddress`, `BillingStreet`). What is said of the
//! one holds for the other, and where both are spoken of the stricter word counts.
//!
//! [`ObjectWriter`]: crate::change::json::ObjectWriter

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::change::compound_names::{component_of, flats_of};
use crate::change::decode::TextDiff;
use crate::change::{json, render};

/// Stands for a masked value, before what is left of it.
const MASK: &str = "***";

/// What becomes of a field's values; the later one is the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Treatment {
    /// HMAC-SHA-256 of the value as text: who has the value and the key can tell that it is the same.
    Hash,
    /// `***`, and of a text that has at least twice as many characters the last of them.
    Mask {
        /// How many are left to read.
        keep_last: usize,
    },
    /// The field is not there, neither its value nor its name.
    Drop,
}

/// The key of the hashes. No debug print shows it.
pub struct HashKey {
    key: hmac::Key,
    id: String,
}

impl HashKey {
    /// A key of these bytes.
    pub fn new(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        // A hash under the key itself: it names the key and gives nothing of it away.
        let mut id = String::new();
        write_hex(hmac::sign(&key, b"casewire policy key").as_ref().get(..4).unwrap_or_default(), &mut id);
        Self { key, id }
    }

    /// Eight hexadecimal digits that name the key in every hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The JSON text of a value's hash: `"hmac-sha256:<key id>:<64 hexadecimal digits>"`.
    fn write(&self, text: &str, out: &mut String) {
        out.push_str("\"hmac-sha256:");
        out.push_str(&self.id);
        out.push(':');
        write_hex(hmac::sign(&self.key, text.as_bytes()).as_ref(), out);
        out.push('"');
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HashKey({})", self.id)
    }
}

fn write_hex(bytes: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// The policies of all objects; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FieldPolicies {
    of: Arc<HashMap<String, EntityPolicy>>,
}

impl FieldPolicies {
    /// These, one for each object.
    pub fn new(policies: impl IntoIterator<Item = EntityPolicy>) -> Self {
        let of = policies.into_iter().map(|policy| (policy.entity.clone(), policy)).collect();
        Self { of: Arc::new(of) }
    }

    /// That of an object or platform event; none where its fields go out as they are.
    pub fn of(&self, entity: &str) -> Option<&EntityPolicy> {
        if self.of.is_empty() { None } else { self.of.get(entity) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// All of them, by the names of their objects.
    pub fn all(&self) -> Vec<&EntityPolicy> {
        let mut all: Vec<_> = self.of.values().collect();
        all.sort_by(|one, other| one.entity.cmp(&other.entity));
        all
    }
}

/// The policy of one object.
#[derive(Debug, Clone)]
pub struct EntityPolicy {
    entity: String,
    named: Vec<(String, Treatment)>,
    members: HashMap<Box<str>, Member>,
    key: Option<Arc<HashKey>>,
}

/// What holds for one field.
#[derive(Debug, Clone, Default)]
struct Member {
    whole: Option<Treatment>,
    /// By component.
    parts: BTreeMap<Box<str>, Treatment>,
}

impl Member {
    fn of_part(&self, part: &str) -> Option<Treatment> {
        self.whole.max(self.parts.get(part).copied())
    }

    /// Of a value that may hold what a component holds, such as a name in one text.
    fn of_text(&self) -> Option<Treatment> {
        self.whole.max(self.parts.values().max().copied())
    }
}

/// What a rendered value is, as far as its emptiness goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A compound with all of its components; without a value in any of them it is `null`.
    Whole,
    /// The same of what is left out when it is empty.
    NotEmpty,
    /// The components of a compound that changed: one that is not there is unchanged.
    Parts,
}

/// What a policy makes of a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Treated {
    AsItIs,
    Replaced(String),
    LeftOut,
}

impl EntityPolicy {
    /// A policy for the fields named: `Description`, a compound, a component by its flat field (`BillingStreet`) or behind
    /// a point (`BillingAddress.Street`). Hashes are written with `key`; where there is none they are masked.
    pub fn new(
        entity: impl Into<String>,
        named: impl IntoIterator<Item = (String, Treatment)>,
        key: Option<Arc<HashKey>>,
    ) -> Self {
        let without_key = |treatment| match treatment {
            Treatment::Hash if key.is_none() => Treatment::Mask { keep_last: 0 },
            treatment => treatment,
        };
        let named: Vec<_> = named.into_iter().map(|(name, treatment)| (name, without_key(treatment))).collect();
        let mut policy = Self { entity: entity.into(), named: named.clone(), members: HashMap::new(), key };
        for (name, treatment) in named {
            policy.cover(&name, treatment);
        }
        policy
    }

    fn cover(&mut self, name: &str, treatment: Treatment) {
        if let Some((compound, part)) = name.split_once('.') {
            self.part(compound, part, treatment);
            if let Some((_, flat)) = flats_of(compound).into_iter().find(|(known, _)| *known == part) {
                self.whole(&flat, treatment);
            }
            return;
        }
        self.whole(name, treatment);
        if let Some((compound, part)) = component_of(name) {
            self.part(&compound, part, treatment);
        }
        for (_, flat) in flats_of(name) {
            self.whole(&flat, treatment);
        }
    }

    fn whole(&mut self, field: &str, treatment: Treatment) {
        let member = self.members.entry(field.into()).or_default();
        member.whole = member.whole.max(Some(treatment));
    }

    fn part(&mut self, compound: &str, part: &str, treatment: Treatment) {
        let known = self.members.entry(compound.into()).or_default().parts.entry(part.into()).or_insert(treatment);
        *known = (*known).max(treatment);
    }

    /// The object or platform event.
    pub fn entity(&self) -> &str {
        &self.entity
    }

    /// The fields as they were named, and what becomes of each.
    pub fn named(&self) -> &[(String, Treatment)] {
        &self.named
    }

    /// What names the key of the hashes; none where nothing is hashed.
    pub fn key_id(&self) -> Option<&str> {
        let hashes = self.named.iter().any(|(_, treatment)| *treatment == Treatment::Hash);
        self.key.as_ref().filter(|_| hashes).map(|key| key.id())
    }

    /// Whether the component of a compound is treated at least as its flat field is said to be.
    pub fn covers(&self, compound: &str, flat: &str) -> bool {
        let of = |field: &str| self.members.get(field);
        let flat_treatment = of(flat).and_then(|member| member.whole);
        let part = component_of(flat).filter(|(known, _)| known == compound).map(|(_, part)| part);
        part.and_then(|part| of(compound).and_then(|member| member.of_part(part))) >= flat_treatment
    }

    /// Whether nothing of a field is ever written.
    pub fn leaves_out(&self, field: &str) -> bool {
        self.members.get(field).is_some_and(|member| member.whole == Some(Treatment::Drop))
    }

    /// Treats one value of a text that has no place in an object yet; `None` where it is left out.
    pub fn text(&self, field: &str, text: &str) -> Option<String> {
        let mut quoted = String::new();
        render::write_quoted(text, &mut quoted);
        match self.treat(field, Shape::Whole, &quoted) {
            Treated::AsItIs => Some(text.to_owned()),
            Treated::Replaced(json) => serde_json::from_str(&json).ok(),
            Treated::LeftOut => None,
        }
    }

    /// The same of any JSON value.
    pub fn json(&self, field: &str, value: &serde_json::Value) -> Option<serde_json::Value> {
        match self.treat(field, Shape::Whole, &value.to_string()) {
            Treated::AsItIs => Some(value.clone()),
            Treated::Replaced(json) => serde_json::from_str(&json).ok(),
            Treated::LeftOut => None,
        }
    }

    /// What becomes of the rendered value of a field.
    pub(crate) fn treat(&self, field: &str, shape: Shape, value: &str) -> Treated {
        let Some(member) = self.members.get(field) else { return Treated::AsItIs };
        if member.whole == Some(Treatment::Drop) {
            return Treated::LeftOut;
        }
        if value == "null" {
            return Treated::AsItIs;
        }
        let mut out = String::with_capacity(value.len());
        // What cannot be read as what it was written as is not shown.
        let written = if value.starts_with('{') && !member.parts.is_empty() {
            self.write_parts(member, shape, value, &mut out)
        } else {
            match member.of_text() {
                None => return Treated::AsItIs,
                Some(Treatment::Drop) => None,
                Some(treatment) => self.write(treatment, value, &mut out),
            }
        };
        match written {
            Some(()) => Treated::Replaced(out),
            None => Treated::LeftOut,
        }
    }

    /// A compound, component by component; `None` when the member is to go.
    fn write_parts(&self, member: &Member, shape: Shape, value: &str, out: &mut String) -> Option<()> {
        let (mut any, mut left) = (false, false);
        out.push('{');
        for (name, part) in members(value)? {
            let treatment = member.of_part(&name);
            if treatment == Some(Treatment::Drop) {
                continue;
            }
            (left, any) = (true, any || part.get() != "null");
            json::write_key(&json::key_literal(&name), out);
            match treatment {
                Some(treatment) => self.write(treatment, part.get(), out)?,
                None => out.push_str(part.get()),
            }
        }
        out.push('}');
        match shape {
            Shape::Parts => left.then_some(()),
            Shape::NotEmpty => any.then_some(()),
            Shape::Whole => {
                if !any {
                    out.clear();
                    out.push_str("null");
                }
                Some(())
            }
        }
    }

    /// A value leaf by leaf; what is empty stays so.
    fn write(&self, treatment: Treatment, value: &str, out: &mut String) -> Option<()> {
        match value.as_bytes().first()? {
            b'n' => out.push_str("null"),
            b'{' => {
                out.push('{');
                for (name, part) in members(value)? {
                    json::write_key(&json::key_literal(&name), out);
                    self.write(treatment, part.get(), out)?;
                }
                out.push('}');
            }
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(value).ok()?;
                // How many there are would tell of a masked list.
                let shown = if treatment == Treatment::Hash { items.len() } else { items.len().min(1) };
                out.push('[');
                for (at, item) in items.into_iter().take(shown).enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    self.write(treatment, item.get(), out)?;
                }
                out.push(']');
            }
            b'"' => {
                let text: Cow<'_, str> = match value.get(1..value.len().checked_sub(1)?)? {
                    plain if !plain.contains('\\') => Cow::Borrowed(plain),
                    _ => Cow::Owned(serde_json::from_str(value).ok()?),
                };
                self.write_leaf(treatment, &text, out)?;
            }
            // A number or a checkbox has no last characters that somebody could recognize it by.
            _ => match treatment {
                Treatment::Mask { .. } => self.write_leaf(Treatment::Mask { keep_last: 0 }, value, out)?,
                treatment => self.write_leaf(treatment, value, out)?,
            },
        }
        Some(())
    }

    fn write_leaf(&self, treatment: Treatment, text: &str, out: &mut String) -> Option<()> {
        match treatment {
            Treatment::Hash => self.key.as_ref()?.write(text, out),
            Treatment::Mask { keep_last } => {
                let characters = text.chars().count();
                let kept = if characters >= keep_last.saturating_mul(2) { keep_last } else { 0 };
                let last: String = text.chars().skip(characters.saturating_sub(kept)).collect();
                render::write_quoted(&format!("{MASK}{last}"), out);
            }
            Treatment::Drop => return None,
        }
        Some(())
    }

    /// What becomes of a field that changed to a value which the event does not tell. The difference to the old value is
    /// made of both, so nothing is done with it where the value is treated: it is read anew.
    pub(crate) fn unresolved(&self, mut diff: TextDiff) -> Option<TextDiff> {
        let (field, part) = diff.field.split_once('.').unwrap_or((&diff.field, ""));
        let Some(member) = self.members.get(field) else { return Some(diff) };
        let treatment = if part.is_empty() { member.of_text() } else { member.of_part(part) };
        let named = if part.is_empty() { member.whole } else { treatment };
        if named == Some(Treatment::Drop) {
            return None;
        }
        diff.diff = diff.diff.filter(|_| treatment.is_none());
        Some(diff)
    }
}

/// The members of a JSON object in their order.
fn members(object: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                members.push((Cow::Owned(name), map.next_value()?));
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(object).deserialize_map(InOrder).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn policy(named: &[(&str, Treatment)]) -> EntityPolicy {
        let named: Vec<_> = named.iter().map(|(name, treatment)| ((*name).to_owned(), *treatment)).collect();
        EntityPolicy::new("Account", named, Some(Arc::new(HashKey::new(SECRET))))
    }

    fn treated(policy: &EntityPolicy, field: &str, shape: Shape, value: &str) -> String {
        match policy.treat(field, shape, value) {
            Treated::AsItIs => value.to_owned(),
            Treated::Replaced(json) => json,
            Treated::LeftOut => "-".to_owned(),
        }
    }

    /// As `printf %s VALUE | openssl dgst -sha256 -hmac KEY` prints it.
    const OF_MAIL: &str = "bb6e289696d7b1fdfaa500843a54e98dba685d1102b921e499e9a6e1f7919073";

    #[test]
    fn a_hash_is_the_hmac_of_the_text_and_names_its_key() {
        let policy = policy(&[("Mail", Treatment::Hash)]);
        let hashed = treated(&policy, "Mail", Shape::Whole, "\"agent@example.com\"");
        let expected = format!("\"hmac-sha256:{}:{OF_MAIL}\"", policy.key_id().expect("it hashes"));
        assert_eq!(hashed, expected);
        assert_eq!(treated(&policy, "Mail", Shape::Whole, r#""a\"b""#), {
            let mut out = String::new();
            HashKey::new(SECRET).write("a\"b", &mut out);
            out
        });
        assert_eq!(treated(&policy, "Mail", Shape::Whole, "null"), "null", "that there is nothing stays visible");
        assert_eq!(treated(&policy, "Mail", Shape::Whole, "12"), treated(&policy, "Mail", Shape::Whole, "\"12\""));
        let list = treated(&policy, "Mail", Shape::Whole, r#"["a","b"]"#);
        assert_eq!(serde_json::from_str::<Vec<String>>(&list).expect("a list").len(), 2);
        assert_eq!(policy.key_id().map(str::len), Some(8));
        assert!(!format!("{policy:?} {policy:#?}").contains("0123456789abcdef"), "the key is not shown");
    }

    #[test]
    fn a_mask_shows_the_last_characters_of_what_is_long_enough_and_no_length() {
        let policy =
            policy(&[("Phone", Treatment::Mask { keep_last: 4 }), ("Score", Treatment::Mask { keep_last: 4 })]);
        for (value, shown) in [
            ("\"+49 221 555 0199\"", "\"***0199\""),
            ("\"12345678\"", "\"***5678\""),
            ("\"1234567\"", "\"***\""),
            ("\"Köln-Süd\"", "\"***-Süd\""),
            ("\"\"", "\"***\""),
            ("null", "null"),
            ("[\"a\",\"b\"]", "[\"***\"]"),
            ("[]", "[]"),
        ] {
            assert_eq!(treated(&policy, "Phone", Shape::Whole, value), shown, "{value}");
        }
        assert_eq!(treated(&policy, "Score", Shape::Whole, "123456789012"), "\"***\"");
        assert_eq!(treated(&policy, "Score", Shape::Whole, "true"), "\"***\"");
        assert_eq!(treated(&policy, "Other", Shape::Whole, "1"), "1");
    }

    #[test]
    fn a_compound_and_its_components_are_covered_by_either_name() {
        let address = r#"{"Street":"Domstr. 1","City":"Köln","State":null}"#;
        for name in ["BillingStreet", "BillingAddress.Street"] {
            let dropped = policy(&[(name, Treatment::Drop)]);
            let of = |shape, value: &str| treated(&dropped, "BillingAddress", shape, value);
            assert_eq!(of(Shape::Whole, address), r#"{"City":"Köln","State":null}"#);
            assert_eq!(of(Shape::Whole, r#"{"Street":"Domstr. 1","City":null}"#), "null");
            assert_eq!(of(Shape::NotEmpty, r#"{"Street":"Domstr. 1"}"#), "-");
            assert_eq!(of(Shape::Parts, r#"{"Street":"Domstr. 1"}"#), "-");
            assert_eq!(
                of(Shape::Parts, r#"{"Street":"x","City":null}"#),
                r#"{"City":null}"#,
                "cleared is not left out"
            );
            assert_eq!(of(Shape::Whole, "null"), "null");
            assert_eq!(treated(&dropped, "BillingStreet", Shape::Whole, "\"Domstr. 1\""), "-");
            assert_eq!(treated(&dropped, "ShippingAddress", Shape::Whole, address), address);
        }
        let masked = policy(&[("BillingAddress", Treatment::Mask { keep_last: 0 }), ("BillingCity", Treatment::Drop)]);
        assert_eq!(
            treated(&masked, "BillingAddress", Shape::Whole, address),
            r#"{"Street":"***","State":null}"#,
            "the stricter of both"
        );
        assert_eq!(treated(&masked, "BillingStreet", Shape::Whole, "\"Domstr. 1\""), "\"***\"");
        let custom = policy(&[("Site__c", Treatment::Drop)]);
        assert_eq!(treated(&custom, "Site__Latitude__s", Shape::Whole, "50.9"), "-");
        assert!(custom.leaves_out("Site__c") && !masked.leaves_out("BillingAddress"));
    }

    #[test]
    fn a_name_in_one_text_holds_all_of_its_parts() {
        let policy = policy(&[("LastName", Treatment::Drop)]);
        assert_eq!(
            treated(&policy, "Name", Shape::Whole, r#"{"FirstName":"Ada","LastName":"L"}"#),
            r#"{"FirstName":"Ada"}"#
        );
        assert_eq!(treated(&policy, "Name", Shape::Whole, "\"Ada Lovelace\""), "-");
    }

    #[test]
    fn a_diff_of_what_is_treated_goes_and_the_name_only_with_a_dropped_field() {
        let policy = policy(&[
            ("Description", Treatment::Drop),
            ("Comments", Treatment::Hash),
            ("BillingStreet", Treatment::Drop),
        ]);
        let of = |field: &str| policy.unresolved(TextDiff { field: field.into(), diff: Some("-a\n+b".into()) });
        assert_eq!(of("Description"), None);
        assert_eq!(of("BillingAddress.Street"), None);
        assert_eq!(of("Comments"), Some(TextDiff { field: "Comments".into(), diff: None }));
        assert_eq!(of("BillingAddress.City").and_then(|diff| diff.diff).as_deref(), Some("-a\n+b"));
        assert_eq!(of("BillingAddress"), Some(TextDiff { field: "BillingAddress".into(), diff: None }));
    }

    #[test]
    fn a_hash_without_a_key_is_a_mask_and_what_is_no_json_is_not_shown() {
        let keyless = EntityPolicy::new("Case", [("A".to_owned(), Treatment::Hash)], None);
        assert_eq!((treated(&keyless, "A", Shape::Whole, "\"x\""), keyless.key_id()), ("\"***\"".to_owned(), None));
        assert_eq!(treated(&policy(&[("BillingStreet", Treatment::Hash)]), "BillingAddress", Shape::Whole, "{x"), "-");
    }

    #[test]
    fn what_describe_says_of_a_component_is_held_against_the_names() {
        let policy = policy(&[("BillingStreet", Treatment::Drop), ("Odd_Street", Treatment::Hash)]);
        assert!(policy.covers("BillingAddress", "BillingStreet"));
        assert!(!policy.covers("Strange__c", "Odd_Street"));
        assert!(policy.covers("Strange__c", "Never_spoken_of"));
    }
}
