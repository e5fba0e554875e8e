//! `[snapshot]`: which objects are read from beginning to end, and when by itself.

use crate::config::reader::{Findings, Section};
use crate::config::stream::StreamConfig;
use crate::identity::{TopicKind, TopicName};

const MIB: u64 = 1024 * 1024;

/// Salesforce counts calls that last 20 s and more, and takes 25 of them at a time from an org, 5 from a developer's.
const PARALLEL_PAGES: u64 = 4;
const PARALLEL_BYTES: u64 = 12 * MIB;

/// `[snapshot]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// Whether a stream's first run begins with a snapshot of its objects.
    pub on_first_run: bool,
    /// Objects beside those that have a stream of their own.
    pub entities: Vec<String>,
    /// How the results of Bulk query jobs are fetched.
    pub pages: PagesConfig,
}

/// How many pages of a result are under way at a time. Each stream has as many of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesConfig {
    /// Pages, from the call to the last row that is taken.
    pub parallel: usize,
    /// The bytes of CSV that they may have together; each has an equal part.
    pub bytes: usize,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self::of(PARALLEL_PAGES, PARALLEL_BYTES)
    }
}

impl PagesConfig {
    fn read(section: &mut Section, findings: &mut Findings) -> Self {
        let parallel = section.number("parallel_pages", PARALLEL_PAGES, (1, 16), findings);
        let bytes = section.number("parallel_bytes", PARALLEL_BYTES, (MIB, 1024 * MIB), findings);
        Self::of(parallel, bytes)
    }

    fn of(parallel: u64, bytes: u64) -> Self {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { parallel: size(parallel), bytes: size(bytes) }
    }
}

impl SnapshotConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Self {
        let on_first_run = section.flag("on_first_run", false, findings);
        let api_name = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.ends_with("ChangeEvent")
        };
        let entities = section.texts("entities", api_name, "API names of objects, such as [\"User\"]", findings);
        let pages = PagesConfig::read(&mut section, findings);
        section.finish(findings);
        Self { on_first_run, entities, pages }
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
