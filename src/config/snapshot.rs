//! `[snapshot]`: which objects are read from beginning to end, and when by itself.

use crate::config::reader::{Findings, Section};
use crate::config::stream::StreamConfig;
use crate::identity::{TopicKind, TopicName};

/// `[snapshot]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// Whether a stream's first run begins with a snapshot of its objects.
    pub on_first_run: bool,
    /// Objects beside those that have a stream of their own.
    pub entities: Vec<String>,
}

impl SnapshotConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let on_first_run = section.flag("on_first_run", false, findings);
        let api_name = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.ends_with("ChangeEvent")
        };
        let entities = section.texts("entities", api_name, "API names of objects, such as [\"User\"]", findings);
        section.finish(findings);
        Self { on_first_run, entities }
    }

    /// Every object that is meant when none is named, each with the topic of the stream that writes it.
    pub fn objects(&self, streams: &[StreamConfig]) -> Vec<(String, TopicName)> {
        let own = streams.iter().filter_map(|stream| match stream.topic.kind() {
            TopicKind::Entity(entity) => Some(entity),
            _ => None,
        });
        let mut all: Vec<String> = Vec::new();
        for entity in own.chain(self.entities.iter().cloned()) {
            if !all.contains(&entity) {
                all.push(entity);
            }
        }
        all.into_iter().filter_map(|entity| Some((entity.clone(), stream_of(streams, &entity)?.clone()))).collect()
    }
}

/// The stream that writes an object: its own one, or the first channel, which may deliver its events, or the first
/// stream of change events. `None` where there are platform events only.
pub fn stream_of<'a>(streams: &'a [StreamConfig], entity: &str) -> Option<&'a TopicName> {
    let kind = |wanted: &dyn Fn(TopicKind) -> bool| streams.iter().find(|stream| wanted(stream.topic.kind()));
    let own = kind(&|kind| matches!(kind, TopicKind::Entity(own) if own == entity));
    let channel = || kind(&|kind| matches!(kind, TopicKind::ChangeChannel));
    let any = || kind(&|kind| matches!(kind, TopicKind::Entity(_)));
    own.or_else(channel).or_else(any).map(|stream| &stream.topic)
}
