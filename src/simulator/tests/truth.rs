//! The records that REST serves against the history that was told: folded here, in the
//! simplest way, from the ledger alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{config, start};
use crate::simulator::{EventOrder, Fault, LedgerLine, Mix, RecordLine};

/// What a consumer can know of a record.
#[derive(Debug, Default)]
struct Known {
    fields: Map<String, Value>,
    deleted: bool,
    /// Something was not told: all of it, or some fields.
    unsure: bool,
    unresolved: BTreeSet<String>,
    stamp: i64,
}

fn fold(lines: &[LedgerLine]) -> BTreeMap<String, Known> {
    let mut state: BTreeMap<String, Known> = BTreeMap::new();
    for line in lines {
        let Some(change_type) = line.change_type.as_deref() else { continue };
        for id in line.record_ids.iter().filter(|id| id.len() == 18) {
            let known = state.entry(format!("{}/{id}", line.entity)).or_default();
            known.stamp = line.commit_timestamp;
            match change_type {
                "CREATE" | "UNDELETE" => {
                    *known = Known { fields: line.changed.clone(), stamp: line.commit_timestamp, ..Known::default() };
                }
                "UPDATE" => {
                    line.changed.iter().for_each(|(name, value)| set(known, name, value));
                    known.unresolved.extend(line.unresolved.iter().cloned());
                }
                "DELETE" | "GAP_DELETE" => known.deleted = true,
                _ => {
                    known.deleted = false;
                    known.unsure = true;
                }
            }
        }
    }
    state
}

fn set(known: &mut Known, name: &str, value: &Value) {
    known.unresolved.remove(name);
    match value {
        Value::Null => drop(known.fields.remove(name)),
        Value::Object(components) => {
            let mut whole = known.fields.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
            whole.extend(components.iter().map(|(name, value)| (name.clone(), value.clone())));
            whole.retain(|_, component| !component.is_null());
            known.fields.insert(name.to_owned(), Value::Object(whole));
        }
        value => drop(known.fields.insert(name.to_owned(), value.clone())),
    }
    if known.fields.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
        known.fields.remove(name);
    }
}

/// Everything that the fold and the record disagree on.
fn differences(known: &Known, truth: &RecordLine) -> Vec<String> {
    let mut names: BTreeSet<&String> = known.fields.keys().chain(truth.fields.keys()).collect();
    names.retain(|name| !known.unresolved.contains(*name));
    let mut found: Vec<String> =
        names.into_iter().filter(|name| known.fields.get(*name) != truth.fields.get(*name)).cloned().collect();
    let stamp = chrono::DateTime::parse_from_rfc3339(&truth.system_modstamp).expect("a date").timestamp_millis();
    found.extend((known.deleted != truth.deleted).then(|| "IsDeleted".to_owned()));
    // Written up to seconds before the transaction ended, never after it.
    found.extend((!(0..4_000).contains(&(known.stamp - stamp))).then(|| "SystemModstamp".to_owned()));
    found
}

#[tokio::test]
async fn the_folded_history_is_what_the_records_say() {
    let mut config = config().await;
    // Few are remembered, so that the others must come from the store alone.
    config.traffic.most_records = 300;
    config.traffic.mix =
        Mix { overflow: 0, wildcard: 0, gap: 100, geocode: 600, undelete: 300, merged: 800, ..Mix::default() };
    let simulator = start(config).await;
    let control = simulator.control();
    let lines = control.generate(9_000).await.expect("published");
    let state = fold(&lines);
    let (mut sure, mut unsure, mut deleted, mut diffs) = (0, 0, 0, 0);
    let mut seen = 0;
    for entity in ["Case", "MessagingSession", "MessagingEndUser", "Installation__c"] {
        for truth in control.records(entity).expect("records") {
            let known = &state[&format!("{entity}/{}", truth.id)];
            seen += 1;
            if known.unsure {
                unsure += 1;
                continue;
            }
            assert_eq!(differences(known, &truth), Vec::<String>::new(), "{entity} {}\n{known:?}\n{truth:?}", truth.id);
            sure += 1;
            deleted += u32::from(truth.deleted);
            diffs += u32::from(!known.unresolved.is_empty());
        }
    }
    assert_eq!(seen, state.len(), "every record that an event named is there");
    assert!(sure > 2_000 && unsure > 20 && deleted > 50 && diffs > 5, "{sure} {unsure} {deleted} {diffs}");
}

#[tokio::test]
async fn what_no_event_tells_changes_the_records_all_the_same() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let mut lines = Vec::new();
    for _ in 0..40 {
        let order = EventOrder::new("Case", "CREATE").with("Reason", "Feedback").with("Subject", "told");
        lines.extend(control.publish(order).await.expect("published"));
    }
    let before = fold(&lines);
    let differing = |differs: &dyn Fn(&Vec<String>) -> bool| {
        let records = control.records("Case").expect("records");
        records
            .iter()
            .filter(|truth| {
                before.get(&format!("Case/{}", truth.id)).is_none_or(|known| differs(&differences(known, truth)))
            })
            .count()
    };
    assert_eq!(differing(&|found| !found.is_empty()), 0);
    // A conversion changes every record and no stamp.
    let wildcard = EventOrder::new("Case", "GAP_UPDATE").on(["500*"]).with("Reason", Value::Null);
    let line = control.publish(wildcard).await.expect("published").remove(0);
    assert_eq!((line.record_ids, line.changed.len()), (vec!["500*".to_owned()], 0));
    assert_eq!(differing(&|found| found == &["Reason"]), 40);
    let one = lines[0].record_ids[0].clone();
    let published = control.stats().published;
    let silently = |change: EventOrder| Fault::ChangeSilently { change };
    let update = EventOrder::new("Case", "UPDATE").on([one.as_str()]).with("Subject", "untold");
    control.inflict(silently(update)).await.expect("inflicted");
    control.inflict(silently(EventOrder::new("Case", "CREATE"))).await.expect("inflicted");
    control
        .inflict(silently(EventOrder::new("Case", "DELETE").on([lines[1].record_ids[0].as_str()])))
        .await
        .expect("inflicted");
    assert_eq!(control.stats().published, published, "and nothing was published");
    assert_eq!(differing(&|found| found.iter().any(|name| name == "Subject")), 2, "one updated, one new");
    assert_eq!(differing(&|found| found.iter().any(|name| name == "IsDeleted")), 2, "one deleted, one new");
    let gap = EventOrder::new("Case", "GAP_UPDATE").on([lines[2].record_ids[0].as_str()]).with("Subject", "gap");
    control.publish(gap).await.expect("published");
    assert_eq!(differing(&|found| found.iter().any(|name| name == "Subject")), 3);
    let overflow = EventOrder { rows: 100, ..EventOrder::new("Case", "GAP_OVERFLOW") };
    control.publish(overflow).await.expect("published");
    let records = control.records("Case").expect("records");
    assert!(records.len() == 101 && records.iter().filter(|record| record.deleted).count() >= 2, "{}", records.len());
    assert!(differing(&|found| found.iter().any(|name| name == "SystemModstamp")) > 95);
}

#[tokio::test]
async fn a_field_that_goes_takes_its_values_and_no_others() {
    let mut config = config().await;
    config.traffic.most_records = 40;
    config.traffic.entities = vec!["Installation__c".to_owned()];
    config.traffic.mix = Mix::plain();
    let simulator = start(config).await;
    let control = simulator.control();
    let mut lines = control.generate(400).await.expect("published");
    let before = control.records("Installation__c").expect("records");
    let field = "Devices__c".to_owned();
    let fault = Fault::RemoveField { entity: "Installation__c".to_owned(), field: field.clone() };
    control.inflict(fault).await.expect("removed");
    let mut expected = before.clone();
    expected.iter_mut().for_each(|record| drop(record.fields.remove(&field)));
    assert_ne!(expected, before);
    assert_eq!(control.records("Installation__c").expect("records"), expected);
    let later = control.generate(200).await.expect("published");
    assert_ne!(later[0].schema_id, lines[0].schema_id);
    lines.extend(later);
    let mut state = fold(&lines);
    state.values_mut().for_each(|known| drop(known.fields.remove(&field)));
    for truth in control.records("Installation__c").expect("records") {
        let known = &state[&format!("Installation__c/{}", truth.id)];
        assert_eq!(differences(known, &truth), Vec::<String>::new(), "{known:?}\n{truth:?}");
    }
    let standard = Fault::RemoveField { entity: "Case".to_owned(), field: "Subject".to_owned() };
    assert!(control.inflict(standard).await.is_err(), "not a custom field");
}

#[tokio::test]
async fn what_is_ordered_comes_after_what_was_drawn_of_the_same_record() {
    let mut config = config().await;
    config.traffic.entities = vec!["Case".to_owned()];
    config.traffic.mix = Mix { create: 1, update: 0, double_update: 20, ..Mix::plain() };
    let simulator = start(config).await;
    let control = simulator.control();
    let mut halves = 0;
    for _ in 0..40 {
        // An odd number leaves the second half of a transaction undone more often than not.
        let last = control.generate(1).await.expect("published").remove(0);
        let id = last.record_ids[0].clone();
        let before = control.stats().published;
        let order = EventOrder::new("Case", "UPDATE").on([id.as_str()]).with("Subject", "ordered");
        control.publish(order).await.expect("published");
        halves += control.stats().published - before - 1;
    }
    assert!(halves > 5, "{halves} transactions were finished first");
}

#[tokio::test]
async fn the_control_port_hands_out_the_records_and_takes_the_faults() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    control.generate(1_500).await.expect("published");
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", simulator.control_url());
    let text = http.get(url("/records/Case")).send().await.expect("an answer").text().await.expect("a text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = control.records("Case").expect("records");
    assert!(expected.len() > 100);
    assert_eq!(lines, expected.iter().map(|one| serde_json::to_value(one).expect("JSON")).collect::<Vec<_>>());
    assert_eq!(http.get(url("/records/Lead")).send().await.expect("an answer").status(), 422);
    let fault = serde_json::json!({
        "kind": "change-silently", "entity": "Case", "record_ids": [lines[0]["id"]], "fields": { "Subject": "over HTTP" },
    });
    let answer = http.post(url("/faults")).json(&fault).send().await.expect("an answer");
    assert_eq!(answer.status(), 204, "{}", answer.text().await.expect("a text"));
    assert_eq!(control.records("Case").expect("records")[0].fields["Subject"], "over HTTP");
    let wrong = serde_json::json!({ "kind": "change-silently", "entity": "Case", "subject": "x" });
    assert_eq!(http.post(url("/faults")).json(&wrong).send().await.expect("an answer").status(), 422);
}
