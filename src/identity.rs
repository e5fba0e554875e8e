//! The identifiers that travel through every room: organisation, topic,
//! schema and replay position. Pure values, no I/O.
//!
//! Each is a type of its own so that a topic can never be passed where an
//! organisation is meant. None of them is interpreted beyond what Salesforce
//! documents; a replay id in particular is compared for equality and nothing else.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {expected}")]
pub struct InvalidIdentifier {
    /// What was given.
    pub value: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

/// The id of a Salesforce organisation in its 18-character form.
///
/// The 15-character form is accepted and completed: the last three characters
/// are a checksum over the upper-case letters of the first fifteen.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgId(Arc<str>);

impl OrgId {
    /// The 18 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The 18-character form of a record id. Of 15 characters that only differ in case two can be different records, so
/// keys have the form in which the last three tell; anything that is no 15-character id is returned as it is.
pub fn case_safe_id(id: &str) -> Cow<'_, str> {
    if id.len() == 15 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Cow::Owned(format!("{id}{}", checksum(id)));
    }
    Cow::Borrowed(id)
}

impl FromStr for OrgId {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIdentifier {
            value: text.to_owned(),
            expected: "an organisation id: 15 or 18 letters and digits that begin with 00D",
        };
        if !text.starts_with("00D") || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid());
        }
        match text.len() {
            15 => Ok(Self(format!("{text}{}", checksum(text)).into())),
            18 if text.ends_with(&checksum(&text[..15])) => Ok(Self(text.into())),
            _ => Err(invalid()),
        }
    }
}

/// The three characters that make a 15-character id safe where case is lost:
/// one character for each group of five, whose bits say which are upper case.
fn checksum(fifteen: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    fifteen
        .as_bytes()
        .chunks(5)
        .map(|group| {
            let bits = group
                .iter()
                .enumerate()
                .fold(0_usize, |bits, (at, byte)| bits | (usize::from(byte.is_ascii_uppercase()) << at));
            char::from(ALPHABET[bits & 31])
        })
        .collect()
}

/// The name of a Pub/Sub API topic, such as `/data/CaseChangeEvent`. Case-sensitive.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// What a topic carries, as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicKind {
    /// The change events of one object, named as the API names the object (`Case`, `Invoice__c`).
    Entity(String),
    /// Change events of many objects: `/data/ChangeEvents` or a custom channel `/data/…__chn`.
    ChangeChannel,
    /// One platform event, by its API name (`Order_Event__e`, `LoginEventStream`).
    PlatformEvent(String),
    /// A custom channel of platform events: `/event/…__chn`.
    PlatformChannel,
}

impl TopicName {
    /// The name as Salesforce knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the topic delivers several entities, under names that only the events tell.
    pub fn is_channel(&self) -> bool {
        matches!(self.kind(), TopicKind::ChangeChannel | TopicKind::PlatformChannel)
    }

    /// What the name says about the content.
    ///
    /// A custom object `Invoice__c` has the topic `/data/Invoice__ChangeEvent`.
    pub fn kind(&self) -> TopicKind {
        if let Some(name) = self.0.strip_prefix("/event/") {
            return if name.ends_with("__chn") {
                TopicKind::PlatformChannel
            } else {
                TopicKind::PlatformEvent(name.to_owned())
            };
        }
        let name = self.0.strip_prefix("/data/").unwrap_or(&self.0);
        if let Some(custom) = name.strip_suffix("__ChangeEvent") {
            TopicKind::Entity(format!("{custom}__c"))
        } else if let Some(standard) = name.strip_suffix("ChangeEvent") {
            TopicKind::Entity(standard.to_owned())
        } else {
            TopicKind::ChangeChannel
        }
    }
}

impl FromStr for TopicName {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("/data/").or_else(|| text.strip_prefix("/event/"));
        let change = text.starts_with("/data/");
        let valid = name.is_some_and(|name| {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let known = name.ends_with("ChangeEvent") || name.ends_with("__chn") || name == "ChangeEvents";
            plain && !name.is_empty() && name != "ChangeEvent" && name.len() <= 120 && (known || !change)
        });
        if valid {
            return Ok(Self(text.into()));
        }
        Err(InvalidIdentifier {
            value: text.to_owned(),
            expected: "a topic: /data/<Object>ChangeEvent, /data/<Object>__ChangeEvent, /data/ChangeEvents, \
                       /data/<Channel>__chn, /event/<Name>__e or /event/<Channel>__chn",
        })
    }
}

/// The fingerprint of an Avro writer schema. Opaque; immutable once seen.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(Arc<str>);

impl SchemaId {
    /// The id as received.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SchemaId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// A position in an organisation's event bus.
///
/// Eight bytes once, ten today, opaque always. There is deliberately no order
/// and no arithmetic: after an org moves, newer ids may be smaller ones.
/// The canonical text form is lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplayId(Bytes);

impl ReplayId {
    /// The bytes as received.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<Bytes> for ReplayId {
    /// Copies: a slice of a message would keep the whole message in memory for as long as the position is remembered.
    fn from(bytes: Bytes) -> Self {
        Self(Bytes::copy_from_slice(&bytes))
    }
}

impl FromStr for ReplayId {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Option<Vec<u8>> = text
            .bytes()
            .map(|digit| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()))
            .collect();
        match digits {
            Some(digits) if !digits.is_empty() && digits.len().is_multiple_of(2) => {
                Ok(Self(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().into()))
            }
            _ => Err(InvalidIdentifier {
                value: text.to_owned(),
                expected: "a replay id in hexadecimal, such as 00000000001790510000",
            }),
        }
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SchemaId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Text forms stand in for the derived ones: a log line should show `00000000001790510000`, not a byte list.
macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

text_form!(OrgId, TopicName, SchemaId, ReplayId);

/// Reads an identifier from its text form, for `serde(deserialize_with)` and the impls below.
fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = InvalidIdentifier>,
{
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl<'de> Deserialize<'de> for OrgId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for TopicName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for ReplayId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifteen_character_org_id_gets_its_checksum() {
        let org: OrgId = "00D8d00000AbCdE".parse().expect("valid");
        assert_eq!(org.as_str(), "00D8d00000AbCdEEAV");
        assert_eq!("00D8d00000AbCdEEAV".parse(), Ok(org));
        assert!("00D8d00000AbCdEEAA".parse::<OrgId>().is_err(), "a wrong checksum is a typing error");
        assert!("0058d00000AbCdE".parse::<OrgId>().is_err());
        assert_eq!(case_safe_id("00D8d00000AbCdE"), "00D8d00000AbCdEEAV");
        for as_it_is in ["00D8d00000AbCdEEAV", "500*", "", "fünfzehn Zeiche"] {
            assert_eq!(case_safe_id(as_it_is), as_it_is);
        }
    }

    #[test]
    fn a_topic_name_tells_what_it_carries() {
        let kind = |name: &str| name.parse::<TopicName>().expect("valid").kind();
        assert_eq!(kind("/data/CaseChangeEvent"), TopicKind::Entity("Case".into()));
        assert_eq!(kind("/data/Invoice__ChangeEvent"), TopicKind::Entity("Invoice__c".into()));
        assert_eq!(kind("/data/ChangeEvents"), TopicKind::ChangeChannel);
        assert_eq!(kind("/data/Support__chn"), TopicKind::ChangeChannel);
        assert_eq!(kind("/event/Order__e"), TopicKind::PlatformEvent("Order__e".into()));
        assert_eq!(kind("/event/LoginEventStream"), TopicKind::PlatformEvent("LoginEventStream".into()));
        assert_eq!(kind("/event/Orders__chn"), TopicKind::PlatformChannel);
        for wrong in ["CaseChangeEvent", "/data/", "/data/Case", "/topic/Case", "/data/Case ChangeEvent", "/event/"] {
            assert!(wrong.parse::<TopicName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replay_id_of_any_length_survives_its_text_form() {
        for text in ["000000000104b674", "00000000001790510000", "ff"] {
            let id: ReplayId = text.parse().expect("hex");
            assert_eq!(id.to_string(), text);
            assert_eq!(serde_json::to_string(&id).expect("json"), format!("\"{text}\""));
        }
        let message = Bytes::from(vec![7; 4096]);
        let id = ReplayId::from(message.slice(..10));
        assert!(message.is_unique(), "{id} keeps the message that it came with");
        for wrong in ["", "abc", "zz", "0x12"] {
            assert!(wrong.parse::<ReplayId>().is_err(), "{wrong}");
        }
    }
}
