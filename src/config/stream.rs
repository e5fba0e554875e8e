//! `[[stream]]`: the topics to carry, and how each is carried.

use crate::config::completion::{OnIncomplete, RecordMode, read_record};
use crate::config::field_choice::FieldChoice;
use crate::config::reader::{Findings, Section};
use crate::identity::{TopicKind, TopicName};

/// The topic whose events tell that something was said.
const SESSIONS: &str = "/data/MessagingSessionChangeEvent";

/// Where a stream without a checkpoint begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest retained event.
    Earliest,
    /// At the tip.
    Latest,
}

/// What to do when Salesforce refuses the stored replay id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Record the gap and go on from the oldest retained event.
    Earliest,
    /// Record the gap and stop the stream.
    Stop,
}

/// What to do with an event that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUndecodable {
    /// Keep its bytes in `<prefix>.dead-letters` and go on.
    DeadLetter,
    /// Stop the stream before it.
    Stop,
}

/// One `[[stream]]`
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// The Salesforce topic.
    pub topic: TopicName,
    /// Used only when there is no checkpoint.
    pub start: Start,
    /// After a refused replay id.
    pub on_gap: OnGap,
    /// After an undecodable event.
    pub on_undecodable: OnUndecodable,
    /// Whether a null value follows each delete.
    pub tombstones: bool,
    /// When the full record is read.
    pub record: RecordMode,
    /// What becomes of an event whose full record cannot be read, with `record = "always"`.
    pub on_incomplete: OnIncomplete,
    /// Which fields full records have.
    pub fields: FieldChoice,
    /// Whether the messages of the sessions' conversations are fetched.
    pub messages: bool,
}

/// Reads every `[[stream]]` and what must hold between them.
pub(in crate::config) fn read_streams(sections: Vec<Section>, findings: &mut Findings) -> Vec<StreamConfig> {
    let none = sections.is_empty();
    if none && !findings.faults.iter().any(|fault| fault.path.starts_with("stream")) {
        findings.fault("stream", "is missing: at least one [[stream]] with a topic and a start");
    }
    let streams: Vec<StreamConfig> =
        sections.into_iter().filter_map(|section| StreamConfig::read(section, findings)).collect();
    for (index, stream) in streams.iter().enumerate() {
        if streams[..index].iter().any(|other| other.topic == stream.topic) {
            let problem = format!("is \"{}\", which another stream has: one topic, one stream", stream.topic);
            findings.fault(format!("stream[{index}].topic"), problem);
        }
    }
    // `/data/ChangeEvents` carries every selected object, so any other `/data` stream would write the
    // same entity from a second producer, and order within a record would be gone.
    let all = streams.iter().position(|stream| stream.topic.as_str() == "/data/ChangeEvents");
    let other = streams.iter().find(|stream| {
        stream.topic.as_str() != "/data/ChangeEvents"
            && matches!(stream.topic.kind(), TopicKind::Entity(_) | TopicKind::ChangeChannel)
    });
    if let (Some(index), Some(other)) = (all, other) {
        let problem = format!(
            "is \"/data/ChangeEvents\", which carries every selected object, beside \"{}\": an entity belongs to one stream",
            other.topic
        );
        findings.fault(format!("stream[{index}].topic"), problem);
    }
    streams
}

impl StreamConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Option<Self> {
        let topic =
            section.required_parsed("topic", "the Salesforce topic, such as \"/data/CaseChangeEvent\"", findings);
        let start = [("earliest", Start::Earliest), ("latest", Start::Latest)];
        let on_gap = [("earliest", OnGap::Earliest), ("stop", OnGap::Stop)];
        let undecodable = [("dead_letter", OnUndecodable::DeadLetter), ("stop", OnUndecodable::Stop)];
        let start = section.choice("start", &start, None, findings);
        let on_gap = section.choice("on_gap", &on_gap, Some("earliest"), findings);
        let on_undecodable = section.choice("on_undecodable", &undecodable, Some("dead_letter"), findings);
        let tombstones = section.flag("tombstones", false, findings);
        let (record, on_incomplete) = read_record(&mut section, findings);
        let fields = FieldChoice::read(&mut section, findings);
        let messages = section.flag("messages", false, findings);
        if messages && topic.as_ref().is_some_and(|topic: &TopicName| topic.as_str() != SESSIONS) {
            let problem = format!("is true, which goes with the topic \"{SESSIONS}\" only");
            findings.fault(section.path_of("messages"), problem);
        }
        section.finish(findings);
        Some(Self {
            topic: topic?,
            start: start?,
            on_gap: on_gap?,
            on_undecodable: on_undecodable?,
            tombstones,
            record: record?,
            on_incomplete: on_incomplete?,
            fields,
            messages,
        })
    }
}
