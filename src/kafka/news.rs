//! What has come to a topic since somebody last looked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::kafka::error::KafkaError;
use crate::kafka::scan::{Reader, ScannedRecord, blocking};
use crate::kafka::settings::KafkaSettings;

/// Up to where a topic was read: the next offset of each partition. Nothing at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadTo(BTreeMap<i32, i64>);

/// Gives the committed records that came to a topic behind `read_to` to `visit`, partition by partition. Returns up to
/// where it was read. Where nothing came it only asks for the ends. A topic that does not exist has no records.
///
/// Runs on a blocking thread. Fails as [`scan`](crate::kafka::scan()) does.
pub async fn scan_news(
    settings: &KafkaSettings,
    topic: &str,
    read_to: ReadTo,
    mut visit: impl FnMut(&ScannedRecord) + Send + 'static,
) -> Result<ReadTo, KafkaError> {
    let (settings, topic) = (settings.clone(), topic.to_owned());
    blocking(move || {
        let reader = Reader::new(&settings)?;
        let mut reached = read_to;
        for partition in reader.partitions(&topic)?.unwrap_or_default() {
            let Some(range) = reader.range(&topic, partition)? else { continue };
            let begin = begin(reached.0.get(&partition).copied(), &range);
            reader
                .read(&topic, partition, begin..range.end, |message| {
                    visit(&message.into());
                    Ok(ControlFlow::Continue(()))
                })
                .map(drop)?;
            reached.0.insert(partition, range.end);
        }
        Ok(reached)
    })
    .await
}

/// Where to go on. An end that lies before what was read is that of another topic of the same name.
fn begin(read_to: Option<i64>, range: &std::ops::Range<i64>) -> i64 {
    read_to.filter(|offset| *offset <= range.end).map_or(range.start, |offset| offset.max(range.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_goes_on_where_the_last_one_ended_and_begins_anew_in_a_topic_that_was_made_again() {
        for (read_to, range, expected) in
            [(None, 3..9, 3), (Some(5), 3..9, 5), (Some(9), 3..9, 9), (Some(2), 3..9, 3), (Some(10), 0..9, 0)]
        {
            assert_eq!(begin(read_to, &range), expected, "{read_to:?} in {range:?}");
        }
    }
}
