//! `casewire gaps`: the gap ledger, read from Kafka.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::checkpoint_show::reachable_kafka;
use crate::cli::stored_records::{key, newest_by_key};
use crate::cli::{ConfigFile, say, table};
use crate::failure::Failure;
use crate::kafka::ScannedRecord;
use crate::pipeline::context::ledger_topic;

/// The ids of records that a line shows; an event can have hundreds.
const SHOWN: usize = 3;

/// List the gap ledger: every place at which the copy in Kafka may lack something.
///
/// Shows the newest committed state of each gap, the oldest gap first, and how many there are of each state and cause.
/// docs/operating.md says what to do about each cause. It only reads, and fences nobody.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire gaps --config casewire.toml --open\n  \
                        casewire gaps --config casewire.toml --json | jq '.gaps[] | select(.cause == \"expired\")'")]
pub struct GapsArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only gaps that are open.
    #[arg(long)]
    open: bool,
    /// As JSON: `topic`, `summary` and `gaps`, each gap as it stands in the topic.
    #[arg(long)]
    json: bool,
}

/// Prints the ledger.
///
/// # Errors
/// When it cannot be read.
pub async fn run(arguments: GapsArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let kafka = reachable_kafka(&config).await?;
    let topic = ledger_topic(&kafka.topic_prefix);
    let stored = newest_by_key(&kafka, &topic).await?;
    let mut gaps: Vec<Value> = stored.iter().map(entry).collect();
    gaps.retain(|gap| !arguments.open || text(gap, "state") == "open");
    gaps.sort_by_cached_key(|gap| (text(gap, "opened_at"), text(gap, "id")));
    let mut summary: BTreeMap<(String, String), usize> = BTreeMap::new();
    for gap in &gaps {
        *summary.entry((text(gap, "state"), text(gap, "cause"))).or_default() += 1;
    }
    if arguments.json {
        let count = |((state, cause), count): (&(String, String), &usize)| json!({ "state": state, "cause": cause, "count": count });
        let summary: Vec<Value> = summary.iter().map(count).collect();
        say(format_args!("{:#}", json!({ "topic": topic, "summary": summary, "gaps": gaps })));
        return Ok(());
    }
    if gaps.is_empty() {
        let open = if arguments.open { "open " } else { "" };
        say(format_args!("{topic}: no {open}gap"));
        return Ok(());
    }
    let rows: Vec<_> = gaps.iter().map(row).collect();
    for line in table::lines(["opened", "state", "cause", "stream", "entity", "concerns", "id"], &rows) {
        say(line);
    }
    say("");
    for ((state, cause), count) in &summary {
        say(format_args!("{count:>6}  {state}, {cause}"));
    }
    Ok(())
}

/// The entry as it stands in the topic. What is no entry is shown as one that cannot be read: it may have been one.
fn entry(record: &ScannedRecord) -> Value {
    let value: Option<Value> = record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
    value.filter(Value::is_object).unwrap_or_else(|| {
        let place = format!("partition {} offset {}", record.partition, record.offset);
        json!({ "id": key(record), "state": "unreadable", "detail": format!("the value at {place} is no JSON object") })
    })
}

/// A member as text; `-` where there is none.
fn text(entry: &Value, member: &str) -> String {
    entry.get(member).and_then(Value::as_str).unwrap_or("-").to_owned()
}

fn row(gap: &Value) -> [String; 7] {
    [
        text(gap, "opened_at"),
        text(gap, "state"),
        text(gap, "cause"),
        text(gap, "topic"),
        text(gap, "entity"),
        concerned(gap),
        text(gap, "id"),
    ]
}

/// The records where they are known by name, else the two ends.
fn concerned(gap: &Value) -> String {
    let records: Vec<&str> =
        gap.get("records").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if records.is_empty() {
        let end = |name: &str| {
            let member = |member: &str| gap.get(name)?.get(member)?.as_str();
            member("time").or_else(|| member("replay_id")).unwrap_or("?").to_owned()
        };
        return format!("{} to {}", end("from"), end("to"));
    }
    let more = records.len().saturating_sub(SHOWN);
    let shown = records.iter().take(SHOWN).copied().collect::<Vec<_>>().join(" ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_concerns_its_records_or_what_lies_between_its_ends() {
        for (gap, shown) in [
            (json!({ "records": ["a", "b"] }), "a b"),
            (json!({ "records": ["a", "b", "c", "d", "e"] }), "a b c and 2 more"),
            (json!({ "records": [], "from": { "time": "t" }, "to": { "replay_id": "02" } }), "t to 02"),
            (json!({ "from": {}, "to": { "time": "u", "replay_id": "02" } }), "? to u"),
        ] {
            assert_eq!(concerned(&gap), shown, "{gap}");
        }
    }
}
