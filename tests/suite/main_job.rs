//! The main job from end to end: a simulated org, the real pipeline, a real broker.

use std::collections::BTreeMap;

use casewire::failure::Exit;
use casewire::simulator::{EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::{Snapshot, StreamState, StreamStatus};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::suite::deployment::{Deployment, Output, Running, brokers};

pub const CASES: &str = "/data/CaseChangeEvent";
pub const SESSIONS: &str = "/data/MessagingSessionChangeEvent";

/// Waits until the position of `topic` is that of the last event of `lines` that is on it.
pub async fn arrived(running: &Running, lines: &[LedgerLine], topic: &str) {
    let last = last_on(lines, topic);
    let is = |status: &StreamStatus| status.topic.as_str() == topic && status.last_replay_id.as_ref() == Some(&last);
    running.until_all("the last event", |snapshot| snapshot.streams.iter().any(is)).await;
}

/// The same where keepalives come so fast that one may have carried the position further: the simulated org
/// counts its ids upwards until it moves.
pub async fn passed(running: &Running, lines: &[LedgerLine], topic: &str) {
    let last = last_on(lines, topic);
    let is = |status: &StreamStatus| status.topic.as_str() == topic && status.last_replay_id.as_ref() >= Some(&last);
    running.until_all("the last event", |snapshot| snapshot.streams.iter().any(is)).await;
}

fn last_on(lines: &[LedgerLine], topic: &str) -> String {
    let mut mine = lines.iter().filter(|line| line.topics.iter().any(|name| name == topic));
    mine.next_back().expect("an event on the topic").replay_id.clone()
}

/// (event id, record id) of each record.
pub fn identities(records: &[Output]) -> Vec<(String, String)> {
    records
        .iter()
        .map(|record| (record.headers.get("event_id").cloned().unwrap_or_default(), record.key.clone()))
        .collect()
}

/// What the ledger says should stand in the entity's topic.
pub fn expected(lines: &[LedgerLine], entity: &str) -> Vec<(String, String)> {
    let of_one_record = |line: &&LedgerLine| {
        let kind = line.change_type.as_deref().unwrap_or_default();
        let known =
            ["CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE"];
        line.entity == entity && !line.poison && known.contains(&kind)
    };
    let mut all: Vec<_> = lines
        .iter()
        .filter(of_one_record)
        .flat_map(|line| line.record_ids.iter().map(|id| (line.event_id.clone(), id.clone())))
        .filter(|(_, id)| !id.ends_with('*') && id != "000000000000000AAA")
        .collect();
    all.sort();
    all
}

pub fn sorted(mut identities: Vec<(String, String)>) -> Vec<(String, String)> {
    identities.sort();
    identities
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_with_its_values_over_restarts_cuts_and_redelivery() {
    let Some(brokers) = brokers("every_event_arrives_once_with_its_values_over_restarts_cuts_and_redelivery") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(400).await.expect("generated");
    let running = deployment.run(&[CASES, SESSIONS], "");
    arrived(&running, &lines, CASES).await;

    control.inflict(Fault::Redeliver { events: 30 }).await.expect("inflicted");
    control.inflict(Fault::CutStreams).await.expect("inflicted");
    lines.extend(control.generate(100).await.expect("generated"));
    arrived(&running, &lines, CASES).await;
    running.abort().await;

    lines.extend(control.generate(100).await.expect("generated"));
    let running = deployment.run(&[CASES, SESSIONS], "");
    arrived(&running, &lines, CASES).await;
    arrived(&running, &lines, SESSIONS).await;
    running.stop().await.expect("an orderly end");

    for entity in ["Case", "MessagingSession"] {
        let records = deployment.output(entity).await;
        assert_eq!(sorted(identities(&records)), expected(&lines, entity), "{entity}");
        let by_event: BTreeMap<&str, &LedgerLine> = lines.iter().map(|line| (line.event_id.as_str(), line)).collect();
        for record in &records {
            let line = by_event[record.headers["event_id"].as_str()];
            assert_eq!(record.json()["changed"], Value::Object(line.changed.clone()), "{record:?}");
            let unresolved = record.json().get("unresolved").cloned().unwrap_or_else(|| json!([]));
            assert_eq!(unresolved, json!(line.unresolved), "{record:?}");
            assert_eq!(record.json()["source"]["replay_id"], json!(line.replay_id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replay_id_is_recorded_and_the_retained_events_are_taken_once() {
    let Some(brokers) = brokers("a_refused_replay_id_is_recorded_and_the_retained_events_are_taken_once") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(120).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");

    // The org moves: the stored id means nothing any more, and what is retained begins anew.
    control.inflict(Fault::ResetBus).await.expect("inflicted");
    let after = control.generate(60).await.expect("generated");
    lines.extend(after.iter().cloned());
    let running = deployment.run(&[CASES], "");
    arrived(&running, &after, CASES).await;
    running.stop().await.expect("an orderly end");

    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
    let ledger = deployment.output("gaps").await;
    let refused: Vec<_> = ledger.iter().filter(|entry| entry.key.starts_with("refused-")).collect();
    assert_eq!(refused.len(), 1, "{ledger:?}");
    assert_eq!(refused[0].json()["cause"], json!("moved"));
    assert_eq!(refused[0].json()["state"], json!("open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_that_moves_under_an_open_call_is_known_to_have_moved() {
    let Some(brokers) = brokers("an_org_that_moves_under_an_open_call_is_known_to_have_moved") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let lines = control.generate(40).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    control.inflict(Fault::ResetBus).await.expect("inflicted");
    let after = control.generate(20).await.expect("generated");
    arrived(&running, &after, CASES).await;
    running.stop().await.expect("an orderly end");
    let ledger = deployment.output("gaps").await;
    let causes: Vec<_> = ledger
        .iter()
        .filter(|entry| entry.key.starts_with("refused-"))
        .map(|entry| entry.json()["cause"].clone())
        .collect();
    assert_eq!(causes, [json!("moved")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_events_that_the_output_holds_are_dropped_over_a_restart_too() {
    let Some(brokers) = brokers("retained_events_that_the_output_holds_are_dropped_over_a_restart_too") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(150).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    // The id is refused although everything is still retained: all of it is delivered once more.
    let refuse = Fault::FailStreams {
        status: 3,
        error_code: "subscription.fetch.replayid.corrupted".to_owned(),
        message: "The Replay ID validation failed.".to_owned(),
    };
    control.inflict(refuse).await.expect("inflicted");
    running.until("the repetition", |status| status.events_already_written > 0).await;
    running.abort().await;
    lines.extend(control.generate(50).await.expect("generated"));
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
    let ledger = deployment.output("gaps").await;
    let refused: Vec<_> = ledger.iter().filter(|entry| entry.key.starts_with("refused-")).collect();
    assert_eq!(refused.len(), 1, "{ledger:?}");
    assert_eq!(refused[0].json()["cause"], json!("refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_holds_no_more_than_it_may_and_one_event_is_never_split() {
    let Some(brokers) = brokers("a_transaction_holds_no_more_than_it_may_and_one_event_is_never_split") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let first = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let ids: Vec<String> = (0..40).map(|index| format!("{}{index:02}AAA", &first[0].record_ids[0][..13])).collect();
    let merged = EventOrder::new("Case", "DELETE").on(ids.iter().map(String::as_str));
    let mut lines = control.publish(merged).await.expect("published");
    let together = lines[0].record_ids.len();
    assert!(together > 10, "{together}");
    for _ in 0..30 {
        lines.extend(control.publish(EventOrder::new("Case", "CREATE")).await.expect("published"));
    }
    let running = deployment.run(&[CASES], "BATCH__MAX_RECORDS = 10");
    arrived(&running, &lines, CASES).await;
    let status = running.board.snapshot().streams[0].clone();
    running.stop().await.expect("an orderly end");
    assert_eq!(status.records_committed, 1 + together as u64 + 30);
    // The announcement, one with the merged event, and three of ten at the least.
    assert!(status.transactions_committed >= 5, "{}", status.transactions_committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_event_stops_the_stream_before_it_where_that_is_asked_for() {
    let Some(brokers) = brokers("an_undecodable_event_stops_the_stream_before_it_where_that_is_asked_for") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let before = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::Poison { events: 1 }).await.expect("inflicted");
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let running = deployment.run(&[CASES], "STREAM__0__ON_UNDECODABLE = stop");
    let stopped = |status: &StreamStatus| matches!(&status.state, StreamState::Stopped { remedy, .. } if remedy.contains("dead_letter"));
    running.until("the stop", stopped).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&before, "Case"), "what came before it");
    assert!(deployment.output("dead-letters").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replay_id_stops_the_stream_where_that_is_asked_for() {
    let Some(brokers) = brokers("a_refused_replay_id_stops_the_stream_where_that_is_asked_for") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let lines = control.generate(60).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");
    control.generate(20).await.expect("generated");
    let running = deployment.run(&[CASES], "STREAM__0__ON_GAP = stop");
    let stopped = |status: &StreamStatus| matches!(&status.state, StreamState::Stopped { remedy, .. } if remedy.contains("checkpoint set"));
    running.until("the stop", stopped).await;
    assert_eq!(running.board.snapshot().streams[0].gaps_opened, 1);
    running.stop().await.expect("an orderly end");
    assert_eq!(
        sorted(identities(&deployment.output("Case").await)),
        expected(&lines, "Case"),
        "nothing was written after it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_event_becomes_a_dead_letter_and_a_flood_of_them_stops_the_stream() {
    let Some(brokers) = brokers("an_undecodable_event_becomes_a_dead_letter_and_a_flood_of_them_stops_the_stream")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::Poison { events: 2 }).await.expect("inflicted");
    for _ in 0..2 {
        control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    }
    let last = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &last, CASES).await;
    let letters = deployment.output("dead-letters").await;
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| !letter.raw.is_empty() && letter.headers.contains_key("reason")));
    assert_eq!(deployment.output("Case").await.len(), 2);

    control.inflict(Fault::Poison { events: 20 }).await.expect("inflicted");
    for _ in 0..20 {
        control.publish(EventOrder::new("Case", "UPDATE")).await.expect("published");
    }
    let stopped =
        |status: &StreamStatus| matches!(&status.state, StreamState::Stopped { what, .. } if what.contains("in a row"));
    let status = running.until("the brake", stopped).await;
    assert!(status.dead_letters < 22, "the event that pulled the brake is not put away: {}", status.dead_letters);
    running.stop().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_checkpoint_is_refused_where_its_output_says_that_it_ran() {
    let Some(brokers) = brokers("a_stream_without_a_checkpoint_is_refused_where_its_output_says_that_it_ran") else {
        return;
    };
    let mut deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let lines = deployment.control().generate(60).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");

    // Another organisation behind the same configuration, as after a sandbox refresh.
    let mut other = SimulatorConfig::on_free_ports();
    other.org_id = "00D8d00000ZzZzZEAV".to_owned();
    deployment.simulator = casewire::simulator::Simulator::start(other).await.expect("a simulator");
    let failure = deployment.run(&[CASES], "").ended().await.expect_err("refused");
    assert!(failure.what.contains("00D8d00000AbCdEEAV") && failure.remedy.contains("checkpoint set"), "{failure}");

    // The checkpoint topic is deleted under a stream whose output is still there.
    let mut same = SimulatorConfig::on_free_ports();
    same.seed = 2;
    deployment.simulator = casewire::simulator::Simulator::start(same).await.expect("a simulator");
    deployment.delete_topic("checkpoints.00D8d00000AbCdEEAV.data.CaseChangeEvent").await;
    let failure = deployment.run(&[CASES], "").ended().await.expect_err("refused");
    assert!(failure.what.contains(".Case already holds records"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_takes_over_and_the_first_stands_by() {
    let Some(brokers) = brokers("a_second_instance_takes_over_and_the_first_stands_by") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(60).await.expect("generated");
    let first = deployment.run(&[CASES], "");
    arrived(&first, &lines, CASES).await;
    let second = deployment.run(&[CASES], "");
    second.until("the take-over", |status| status.checkpoint_committed).await;
    lines.extend(control.generate(60).await.expect("generated"));
    let standby = |status: &StreamStatus| matches!(status.state, StreamState::Standby { .. });
    first.until("the standby", standby).await;
    arrived(&second, &lines, CASES).await;
    assert_eq!(first.board.snapshot().streams[0].fenced, 1);
    assert_eq!(second.board.snapshot().streams[0].fenced, 0, "the one that took over is not disturbed again");
    first.stop().await.expect("an orderly end");
    second.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_with_shared_replay_ids_and_platform_events_arrive_complete() {
    let Some(brokers) = brokers("a_channel_with_shared_replay_ids_and_platform_events_arrive_complete") else { return };
    let mut simulator = SimulatorConfig::on_free_ports();
    simulator.channels = vec![casewire::simulator::Channel {
        name: "Support__chn".to_owned(),
        entities: vec!["Case".to_owned()],
        enriched: vec!["Case.Subject".to_owned()],
    }];
    let deployment = Deployment::new(brokers, simulator).await;
    let control = deployment.control();
    let lines = control.generate(300).await.expect("generated");
    let topics = ["/data/Support__chn", "/event/Case_Escalation__e"];
    let running = deployment.run(&topics, "STREAM__0__TOMBSTONES = true");
    for topic in topics {
        arrived(&running, &lines, topic).await;
    }
    running.stop().await.expect("an orderly end");
    let on_channel: Vec<LedgerLine> =
        lines.iter().filter(|line| line.topics.iter().any(|topic| topic == topics[0])).cloned().collect();
    let records = deployment.output("Case").await;
    let (tombstones, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.raw.is_empty());
    assert_eq!(sorted(identities(&records)), expected(&on_channel, "Case"));
    assert!(records.iter().any(|record| record.json().get("enriched").is_some()), "the channel enriches updates");
    for record in &records {
        let is = |line: &&LedgerLine| line.event_id == record.headers["event_id"];
        let line = on_channel.iter().find(is).expect("in the ledger");
        assert_eq!(record.json()["changed"], Value::Object(line.changed.clone()), "{record:?}");
        let enriched = record.json().get("enriched").cloned().unwrap_or_else(|| json!({}));
        assert_eq!(enriched, Value::Object(line.enriched.clone()), "{record:?}");
    }
    let deletes = records.iter().filter(|record| record.headers["op"] == "delete").count();
    assert_eq!(tombstones.len(), deletes);
    let events: Vec<_> = lines.iter().filter(|line| line.entity == "Case_Escalation__e").collect();
    let written = deployment.output("Case_Escalation__e").await;
    assert_eq!(written.len(), events.len());
    assert!(written.iter().all(|record| record.json()["op"] == "event"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_its_topic_becomes_a_dead_letter_and_the_others_pass() {
    let Some(brokers) = brokers("an_event_too_large_for_its_topic_becomes_a_dead_letter_and_the_others_pass") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    deployment.create_topic("Case", &[("max.message.bytes", "600000"), ("retention.ms", "-1")]).await;
    let control = deployment.control();
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    // Brokers count compressed bytes, so the text must not compress below the limit.
    let dice = StdRng::seed_from_u64(1);
    let text: String = dice.sample_iter(Alphanumeric).take(900_000).map(char::from).collect();
    control.publish(EventOrder::new("Case", "CREATE").with("Description", text)).await.expect("published");
    let last = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &last, CASES).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(deployment.output("Case").await.len(), 2);
    let letters = deployment.output("dead-letters").await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].headers["reason"].contains("larger"), "{:?}", letters[0].headers);
    assert!(letters[0].raw.len() > 900_000, "the letter holds the whole event");
}

#[tokio::test(flavor = "multi_thread")]
async fn hopeless_answers_end_a_run_that_has_nothing_to_keep_alive() {
    let Some(brokers) = brokers("hopeless_answers_end_a_run_that_has_nothing_to_keep_alive") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let failure = deployment.run(&["/data/NotSelectedChangeEvent"], "").ended().await.expect_err("no such topic");
    assert_eq!(failure.exit, Exit::NoPermission);
    assert!(failure.remedy.contains("Change Data Capture"), "{failure}");

    deployment.control().inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("inflicted");
    let failure = deployment.run(&[CASES], "").ended().await.expect_err("no permission");
    assert_eq!(failure.exit, Exit::NoPermission);

    let unapproved = Fault::RefuseSignIn {
        error: "invalid_app_access".to_owned(),
        description: "user is not admin approved to access this app".to_owned(),
        status: 400,
        times: 1,
    };
    deployment.control().inflict(unapproved).await.expect("inflicted");
    let failure = deployment.run(&[SESSIONS], "").ended().await.expect_err("not approved");
    assert_eq!(failure.exit, Exit::NoPermission);
    assert!(failure.remedy.contains("Setup"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_lost_later_stops_its_stream_and_leaves_the_other_running() {
    let Some(brokers) = brokers("a_permission_lost_later_stops_its_stream_and_leaves_the_other_running") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let lines = control.generate(80).await.expect("generated");
    let running = deployment.run(&[CASES, SESSIONS], "");
    arrived(&running, &lines, CASES).await;
    arrived(&running, &lines, SESSIONS).await;
    control.inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("inflicted");
    control.inflict(Fault::CutStreams).await.expect("inflicted");
    let stopped = |snapshot: &Snapshot| {
        matches!(snapshot.streams[0].state, StreamState::Stopped { .. })
            && snapshot.not_ready().iter().any(|reason| reason.part == CASES)
    };
    running.until_all("the stop", stopped).await;
    let more = control.publish(EventOrder::new("MessagingSession", "CREATE")).await.expect("published");
    arrived(&running, &more, SESSIONS).await;
    running.stop().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_the_tip_takes_what_comes_and_records_what_an_early_end_may_have_missed() {
    let Some(brokers) = brokers("a_start_at_the_tip_takes_what_comes_and_records_what_an_early_end_may_have_missed")
    else {
        return;
    };
    let mut simulator = SimulatorConfig::on_free_ports();
    simulator.pubsub.keepalive = std::time::Duration::from_millis(300);
    let deployment = Deployment::new(brokers, simulator).await;
    let control = deployment.control();
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::Silence).await.expect("inflicted");
    let running = deployment.run(&[CASES], "STREAM__0__START = latest");
    running.until("the call", |status| status.call_open_since.is_some()).await;
    running.stop().await.expect("an orderly end");
    // Published between two starts at the tip: it cannot arrive, so it has to be in the ledger.
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::Speak).await.expect("inflicted");
    let running = deployment.run(&[CASES], "STREAM__0__START = latest");
    running.until("a keepalive's position", |status| status.resume_after.is_some()).await;
    let seen = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    passed(&running, &seen, CASES).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&seen, "Case"));
    let ledger = deployment.output("gaps").await;
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert_eq!(ledger[0].json()["cause"], json!("latest_restarted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_that_two_streams_deliver_stops_the_channel_and_names_both() {
    let Some(brokers) = brokers("an_entity_that_two_streams_deliver_stops_the_channel_and_names_both") else { return };
    let mut simulator = SimulatorConfig::on_free_ports();
    let name = "Support__chn".to_owned();
    simulator.channels =
        vec![casewire::simulator::Channel { name, entities: vec!["Case".to_owned()], enriched: Vec::new() }];
    simulator.pubsub.keepalive = std::time::Duration::from_millis(300);
    let deployment = Deployment::new(brokers, simulator).await;
    let running = deployment.run(&[CASES, "/data/Support__chn"], "");
    let anchored =
        |snapshot: &Snapshot| snapshot.streams.iter().filter(|stream| stream.resume_after.is_some()).count() == 2;
    running.until_all("positions", anchored).await;
    let lines = deployment.control().generate(60).await.expect("generated");
    passed(&running, &lines, CASES).await;
    let stopped = |snapshot: &Snapshot| {
        matches!(&snapshot.streams[1].state, StreamState::Stopped { what, .. }
            if what.contains(CASES) && what.contains("/data/Support__chn"))
    };
    running.until_all("the stop of the channel", stopped).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
}
