//! What the events hold, read by an independent library and compared with the ledger.

use std::collections::{BTreeSet, HashMap};

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use serde_json::{Map, Value as Json, json};

use super::{client, config, earliest, hex, schemas, start};
use crate::simulator::{Channel, EventOrder, Fault, LedgerLine, Mix};

/// Reads a datum and insists that nothing is left over.
fn read(schema: &Schema, payload: &[u8]) -> Vec<(String, Avro)> {
    let mut rest = payload;
    let datum = apache_avro::from_avro_datum(schema, &mut rest, None).expect("the payload is a datum of its schema");
    assert!(rest.is_empty(), "bytes are left over");
    let Avro::Record(fields) = datum else { panic!("an event is a record") };
    fields
}

fn unwrapped(value: &Avro) -> &Avro {
    if let Avro::Union(_, inner) = value { inner } else { value }
}

fn docs(schema: &Schema) -> HashMap<String, String> {
    let Schema::Record(record) = schema else { panic!("an event is a record") };
    record.fields.iter().map(|field| (field.name.clone(), field.doc.clone().unwrap_or_default())).collect()
}

fn rendered(value: &Avro, doc: &str) -> Json {
    let kind = doc.split(':').nth(1).unwrap_or_default();
    let millis = |value: i64| chrono::DateTime::from_timestamp_millis(value).expect("a date");
    match (unwrapped(value), kind) {
        (Avro::Null, _) => Json::Null,
        (Avro::Long(value), "DateTime") => json!(millis(*value).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
        (Avro::Long(value), "DateOnly") => json!(millis(*value).format("%Y-%m-%d").to_string()),
        (Avro::Long(value), "TimeOnly") => json!(millis(*value).format("%H:%M:%S%.3fZ").to_string()),
        (Avro::String(text), "MultiEnum") => json!(text.split(';').collect::<Vec<_>>()),
        (Avro::String(text), _) => json!(text),
        (Avro::Boolean(flag), _) => json!(flag),
        (Avro::Int(number), _) => json!(number),
        (Avro::Double(number), _) if number.fract() == 0.0 => json!(*number as i64),
        (Avro::Double(number), _) => json!(number),
        (Avro::Record(components), _) => {
            let set = components.iter().filter(|(_, value)| *unwrapped(value) != Avro::Null);
            Json::Object(set.map(|(name, value)| (name.clone(), rendered(value, ""))).collect())
        }
        (other, _) => panic!("no field has the type of {other:?}"),
    }
}

fn texts(value: &Avro) -> Vec<String> {
    let Avro::Array(values) = value else { panic!("a list") };
    values.iter().map(|value| if let Avro::String(text) = value { text.clone() } else { panic!("a text") }).collect()
}

/// The places a bitmap element names: of fields, or of the components of one field.
fn places(bitmaps: &[String]) -> BTreeSet<(usize, Option<usize>)> {
    let mut places = BTreeSet::new();
    for element in bitmaps {
        let (parent, bits) = match element.split_once('-') {
            Some((parent, bits)) => (Some(parent.parse::<usize>().expect("a position")), bits),
            None => (None, element.as_str()),
        };
        let digits = bits.strip_prefix("0x").expect("hexadecimal");
        assert!(digits.len().is_multiple_of(2) && !digits.starts_with("00"), "{element} is minimal");
        for (at, digit) in digits.chars().rev().enumerate() {
            let digit = digit.to_digit(16).expect("a digit") as usize;
            for bit in (0..4).filter(|bit| digit & (1 << bit) != 0) {
                let place = at * 4 + bit;
                places.insert(parent.map_or((place, None), |parent| (parent, Some(place))));
            }
        }
    }
    places
}

/// What a careful consumer makes of the bitmaps and the body: changed values and unresolved fields.
fn understood(fields: &[(String, Avro)], docs: &HashMap<String, String>) -> (Map<String, Json>, Vec<String>) {
    let Avro::Record(header) = &fields[0].1 else { panic!("a header") };
    let header: HashMap<&str, &Avro> = header.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let Avro::Enum(_, change_type) = header["changeType"] else { panic!("an enumeration") };
    let diffs = places(&texts(header["diffFields"]));
    let nulled = places(&texts(header["nulledFields"]));
    let changed = places(&texts(header["changedFields"]));
    assert!(diffs.is_subset(&changed) && nulled.is_subset(&changed));
    let (mut values, mut unresolved) = (Map::new(), Vec::new());
    if change_type == "UPDATE" {
        for (parent, child) in &changed {
            let (name, value) = &fields[*parent];
            if diffs.contains(&(*parent, *child)) {
                unresolved.push(name.clone());
                continue;
            }
            let Some(child) = child else {
                let mut value = rendered(value, &docs[name]);
                assert_eq!(value.is_null(), nulled.contains(&(*parent, None)), "{name}");
                // Set as a whole, a compound has lost the components that it does not have now.
                if let (Some(whole), Avro::Record(components)) = (value.as_object_mut(), unwrapped(&fields[*parent].1))
                {
                    for (component, _) in components {
                        whole.entry(component).or_insert(Json::Null);
                    }
                }
                values.insert(name.clone(), value);
                continue;
            };
            let Avro::Record(components) = unwrapped(value) else { panic!("{name} is a compound") };
            let (component, value) = &components[*child];
            let value = rendered(value, "");
            assert_eq!(value.is_null(), nulled.contains(&(*parent, Some(*child))), "{name}.{component}");
            let compound = values.entry(name.clone()).or_insert_with(|| json!({}));
            compound[component] = value;
        }
    } else {
        assert!(changed.is_empty());
        let all = fields.iter().skip(1).map(|(name, value)| (name.clone(), rendered(value, &docs[name])));
        values.extend(all.filter(|(_, value)| !value.is_null()));
    }
    (values, unresolved)
}

fn compare_header(fields: &[(String, Avro)], line: &LedgerLine) {
    let Avro::Record(header) = &fields[0].1 else { panic!("a header") };
    let header: HashMap<&str, &Avro> = header.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let Avro::Enum(_, change_type) = header["changeType"] else { panic!("an enumeration") };
    assert_eq!(Some(change_type), line.change_type.as_ref());
    assert_eq!(texts(header["recordIds"]), line.record_ids);
    assert_eq!(header["entityName"], &Avro::String(line.entity.clone()));
    assert_eq!(header["changeOrigin"], &Avro::String(line.origin.clone()));
    assert_eq!(header["commitUser"], &Avro::String(line.user.clone()));
    assert_eq!(header["commitTimestamp"], &Avro::Long(line.commit_timestamp));
    assert_eq!(line.commit_timestamp % 1000, 0);
    assert_eq!(Some(header["transactionKey"]), line.transaction_key.clone().map(Avro::String).as_ref());
    assert_eq!(Some(header["sequenceNumber"]), line.sequence_number.map(Avro::Int).as_ref());
    let number = line.commit_number.as_ref().and_then(|number| number.parse().ok()).map(Avro::Long);
    assert_eq!(Some(header["commitNumber"]), number.as_ref());
}

#[tokio::test]
async fn every_generated_event_decodes_with_the_served_schema_to_what_the_ledger_says() {
    let mut config = config().await;
    config.pubsub.delivery_allocation = 1_000_000;
    // Every oddity often, so that one run meets all of them.
    let often = Mix { gap: 300, overflow: 60, wildcard: 60, snapshot: 60, future_change_type: 60, ..Mix::default() };
    config.traffic.mix = Mix { geocode: 500, undelete: 300, merged: 800, ..often };
    let simulator = start(config).await;
    let lines = simulator.control().generate(3_000).await.expect("published");
    let mut client = client(&simulator).await;
    let (mut seen, mut oddities) = (0, BTreeSet::new());
    for topic in ["/data/ChangeEvents", "/event/Case_Escalation__e"] {
        let lines: Vec<&LedgerLine> = lines.iter().filter(|line| line.topics.iter().any(|one| one == topic)).collect();
        let events = client.open(earliest(topic, 100)).await.expect("open").take(lines.len()).await;
        let schemas = schemas(&mut client, &events).await;
        for (event, line) in events.iter().zip(&lines) {
            let payload = event.event.as_ref().expect("an event");
            assert_eq!((hex(&event.replay_id), &payload.id), (line.replay_id.clone(), &line.event_id));
            assert_eq!(payload.schema_id, line.schema_id);
            let schema = &schemas[&payload.schema_id];
            let (fields, docs) = (read(schema, &payload.payload), docs(schema));
            if line.change_type.is_none() {
                let all: Map<String, Json> =
                    fields.iter().map(|(name, value)| (name.clone(), rendered(value, &docs[name]))).collect();
                assert_eq!(all, line.changed);
            } else {
                compare_header(&fields, line);
                assert_eq!(understood(&fields, &docs), (line.changed.clone(), line.unresolved.clone()), "{line:?}");
            }
            oddities.extend(oddities_of(line));
            seen += 1;
        }
    }
    assert_eq!(seen, lines.len(), "each event is on the channel of its kind");
    let all = [
        "CREATE",
        "UPDATE",
        "DELETE",
        "UNDELETE",
        "GAP_CREATE",
        "GAP_UPDATE",
        "GAP_DELETE",
        "GAP_OVERFLOW",
        "GAP_UNDELETE",
        "SNAPSHOT",
        "ARCHIVE",
        "cleared",
        "diff",
        "merged",
        "platform",
        "unstamped",
        "wildcard",
    ];
    assert_eq!(oddities, all.map(str::to_owned).into_iter().collect());
}

fn oddities_of(line: &LedgerLine) -> Vec<String> {
    let Some(change_type) = line.change_type.clone() else { return vec!["platform".to_owned()] };
    let update = change_type == "UPDATE";
    let found = [
        ("cleared", line.changed.values().any(Json::is_null)),
        ("diff", !line.unresolved.is_empty()),
        ("merged", line.record_ids.len() > 1),
        ("unstamped", update && !line.changed.contains_key("LastModifiedDate")),
        ("wildcard", line.record_ids.iter().any(|id| id.ends_with('*'))),
    ];
    let found = found.into_iter().filter(|(_, found)| *found).map(|(name, _)| name.to_owned());
    found.chain([change_type]).collect()
}

#[tokio::test]
async fn a_seed_and_a_count_are_the_same_events_with_the_same_ids() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let mut config = config().await;
        config.seed = seed;
        runs.push(start(config).await.control().generate(400).await.expect("published"));
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn a_channel_and_a_topic_carry_the_same_event_and_positions_have_holes() {
    let simulator = start(config().await).await;
    let lines = simulator.control().generate(200).await.expect("published");
    let mut client = client(&simulator).await;
    let on = |topic: &str| lines.iter().filter(|line| line.topics.iter().any(|one| one == topic)).count();
    let cases = client
        .open(earliest("/data/CaseChangeEvent", 100))
        .await
        .expect("open")
        .take(on("/data/CaseChangeEvent"))
        .await;
    let all =
        client.open(earliest("/data/ChangeEvents", 100)).await.expect("open").take(on("/data/ChangeEvents")).await;
    assert!(cases.len() > 20 && cases.iter().all(|event| all.contains(event)));
    let numbers: Vec<u64> =
        all.iter().map(|event| u64::from_str_radix(&hex(&event.replay_id[..8]), 16).expect("hex")).collect();
    assert!(numbers.is_sorted() && numbers.windows(2).any(|pair| pair[1] > pair[0] + 1));
}

#[tokio::test]
async fn an_enriching_channel_splits_merged_events_that_then_share_a_replay_id() {
    let mut config = config().await;
    let enriched = vec!["Case.Subject".to_owned()];
    config.channels = vec![Channel { name: "Support__chn".to_owned(), entities: vec!["Case".to_owned()], enriched }];
    let simulator = start(config).await;
    let control = simulator.control();
    let mut ids = Vec::new();
    for subject in ["one", "two", "three"] {
        let lines =
            control.publish(EventOrder::new("Case", "CREATE").with("Subject", subject)).await.expect("published");
        assert_eq!(lines[0].topics.len(), 3, "creates are not enriched");
        ids.push(lines[0].record_ids[0].clone());
    }
    let order = EventOrder::new("Case", "UPDATE").on(ids.iter().map(String::as_str)).with("Status", "Working");
    let lines = control.publish(order).await.expect("published");
    assert_eq!(lines.len(), 4, "one for all topics, three for the channel");
    assert_eq!(lines[0].record_ids, ids);
    for (line, subject) in lines[1..].iter().zip(["one", "two", "three"]) {
        assert_eq!((line.topics.join(","), line.record_ids.len()), ("/data/Support__chn".to_owned(), 1));
        assert_eq!(line.replay_id, lines[0].replay_id);
        assert_eq!(line.enriched["Subject"], json!(subject));
        assert_eq!(line.changed, lines[0].changed);
    }
    let mut client = client(&simulator).await;
    let events = client.open(earliest("/data/Support__chn", 10)).await.expect("open").take(6).await;
    let schemas = schemas(&mut client, &events).await;
    let last = events[5].event.as_ref().expect("an event");
    let fields = read(&schemas[&last.schema_id], &last.payload);
    let subject = fields.iter().find(|(name, _)| name == "Subject").map(|(_, value)| rendered(value, "Data:Text"));
    assert_eq!(subject, Some(json!("three")), "the value is there, outside the bitmaps");
}

#[tokio::test]
async fn a_field_that_was_cleared_stays_null_where_the_channel_enriches_it_with_a_later_value() {
    let mut config = config().await;
    config.traffic.entities = vec!["Case".to_owned()];
    config.traffic.mix = Mix { create: 300, update: 0, double_update: 700, ..Mix::plain() };
    let enriched = ["ContactId", "AccountId", "Subject", "Priority", "Type"].map(|field| format!("Case.{field}"));
    let topic = "/data/Support__chn";
    let entities = vec!["Case".to_owned()];
    config.channels = vec![Channel { name: "Support__chn".to_owned(), entities, enriched: enriched.to_vec() }];
    let simulator = start(config).await;
    let lines = simulator.control().generate(3_000).await.expect("published");
    let lines: Vec<&LedgerLine> = lines.iter().filter(|line| line.topics.iter().any(|one| one == topic)).collect();
    let set_again = lines.windows(2).filter(|pair| {
        let cleared = pair[0].changed.iter().filter(|(_, value)| value.is_null());
        let mut set = cleared.filter(|(name, _)| pair[1].changed.get(*name).is_some_and(|value| !value.is_null()));
        pair[0].transaction_key == pair[1].transaction_key
            && set.any(|(name, _)| enriched.contains(&format!("Case.{name}")))
    });
    assert!(set_again.count() > 0, "a transaction clears a field and sets it again");
    let mut client = client(&simulator).await;
    let events = client.open(earliest(topic, 100)).await.expect("open").take(lines.len()).await;
    let schemas = schemas(&mut client, &events).await;
    for (event, line) in events.iter().zip(&lines) {
        let payload = event.event.as_ref().expect("an event");
        let schema = &schemas[&payload.schema_id];
        let understood = understood(&read(schema, &payload.payload), &docs(schema));
        assert_eq!(understood, (line.changed.clone(), line.unresolved.clone()), "{line:?}");
    }
}

#[tokio::test]
async fn a_new_field_gives_later_events_a_new_schema_and_leaves_the_old_one_valid() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let before = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::AddField { entity: "Case".to_owned(), field: "Tier__c".to_owned() }).await.expect("added");
    let after = control.publish(EventOrder::new("Case", "CREATE").with("Tier__c", "Gold")).await.expect("published");
    assert_ne!(before[0].schema_id, after[0].schema_id);
    let mut client = client(&simulator).await;
    let events = client.open(earliest("/data/CaseChangeEvent", 10)).await.expect("open").take(2).await;
    let schemas = schemas(&mut client, &events).await;
    let last = events[1].event.as_ref().expect("an event");
    let fields = read(&schemas[&last.schema_id], &last.payload);
    assert_eq!(
        fields.last().map(|(name, value)| (name.as_str(), rendered(value, ""))),
        Some(("Tier__c", json!("Gold")))
    );
    assert!(
        client
            .schema("nosuchschema")
            .await
            .is_err_and(|status| super::error_code(&status) == "schema.validation.failed")
    );
}

#[tokio::test]
async fn what_is_ordered_is_what_is_published() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let created = control.publish(EventOrder::new("Installation__c", "CREATE")).await.expect("published");
    let id = created[0].record_ids[0].as_str();
    let update = EventOrder::new("Installation__c", "UPDATE")
        .on([id])
        .with("Site_Address__c", json!({ "City": "Bonn", "Street": null }))
        .with("Devices__c", Json::Null)
        .with("Features__c", json!(["Mesh", "Phone"]))
        .with("Commissioned_On__c", "2026-02-17");
    let mut line = control.publish(update).await.expect("published").remove(0);
    line.changed.remove("LastModifiedDate");
    line.changed.remove("LastModifiedById");
    let expected = json!({
        "Site_Address__c": { "City": "Bonn", "Street": null }, "Devices__c": null,
        "Features__c": ["Mesh", "Phone"], "Commissioned_On__c": "2026-02-17",
    });
    assert_eq!(Json::Object(line.changed), expected);
    let large = EventOrder::new("Case", "CREATE").with("Description", "x".repeat(1_100_000));
    let line = control.publish(large).await.expect("published").remove(0);
    assert_eq!((line.change_type.as_deref(), line.changed.len()), (Some("GAP_CREATE"), 0), "too large for the bus");
    for wrong in [
        EventOrder::new("Nothing", "CREATE"),
        EventOrder::new("Case", "SHRINK"),
        EventOrder::new("Case", "CREATE").with("Nope", 1),
    ] {
        assert!(control.publish(wrong).await.is_err());
    }
}
