//! `[[poll]]`: objects without change events, read anew where they changed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::config::field_choice::FieldChoice;
use crate::config::reader::{Findings, Section};
use crate::config::snapshot::stream_of;
use crate::config::stream::StreamConfig;
use crate::identity::{TopicKind, TopicName};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The objects whose topics `messages = true` writes, the first of them in a form of its own.
const OF_MESSAGES: [&str; 3] = ["ConversationEntry", "Conversation", "ConversationParticipant"];

/// One `[[poll]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollConfig {
    /// The API name of the object.
    pub entity: String,
    /// Between the beginnings of two rounds.
    pub every: Duration,
    /// How far before the last round each one begins. A record is stamped when it is written and seen when its transaction
    /// ends, so this has to be more than a transaction lasts.
    pub look_back: Duration,
    /// Only what was changed since then is read at all; without it, the first poll is a snapshot of everything.
    pub since: Option<DateTime<Utc>>,
    /// Which fields its records have.
    pub fields: FieldChoice,
}

/// Reads every `[[poll]]` and holds it against the streams.
pub(in crate::config) fn read_polls(
    sections: Vec<Section>,
    streams: &[StreamConfig],
    findings: &mut Findings,
) -> Vec<PollConfig> {
    let mut polls: Vec<PollConfig> = Vec::new();
    let messages = streams.iter().any(|stream| stream.messages);
    for section in sections {
        let path = section.path_of("entity");
        let Some(poll) = PollConfig::read(section, findings) else { continue };
        let entity = &poll.entity;
        let own = streams.iter().find(|stream| matches!(stream.topic.kind(), TopicKind::Entity(own) if own == *entity));
        let problem = if let Some(own) = own {
            Some(format!("is \"{entity}\", whose changes the stream {} brings already", own.topic))
        } else if polls.iter().any(|other| other.entity == *entity) {
            Some(format!("is \"{entity}\", which another [[poll]] has"))
        } else if OF_MESSAGES.contains(&entity.as_str()) && (entity == OF_MESSAGES[0] || messages) {
            Some(format!("is \"{entity}\", which is fetched by messages = true of the stream of sessions"))
        } else if stream_of(streams, entity).is_none() {
            Some(format!("is \"{entity}\", and there is no stream of change events that could write it"))
        } else {
            None
        };
        match problem {
            Some(problem) => findings.fault(path, problem),
            None => polls.push(poll),
        }
    }
    polls
}

/// Those of them that the stream of `topic` writes.
pub fn polls_of(polls: &[PollConfig], streams: &[StreamConfig], topic: &TopicName) -> Vec<PollConfig> {
    polls.iter().filter(|poll| stream_of(streams, &poll.entity) == Some(topic)).cloned().collect()
}

impl PollConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Option<Self> {
        let entity = section.required("entity", "the API name of an object, such as \"CaseComment\"", findings);
        let path = section.path_of("entity");
        let every = section.duration("every", MINUTE, (SECOND, DAY), findings);
        let look_back = section.duration("look_back", 15 * MINUTE, (MINUTE, DAY), findings);
        let since = section.parsed("since", findings);
        let fields = FieldChoice::read(&mut section, findings);
        section.finish(findings);
        let entity = entity?;
        let legal = entity.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !legal || entity.ends_with("ChangeEvent") || entity.ends_with("__e") {
            let problem =
                format!("is \"{entity}\", but the API name of an object is expected, such as \"CaseComment\"");
            findings.fault(path, problem);
            return None;
        }
        Some(Self { entity, every, look_back, since, fields })
    }
}
