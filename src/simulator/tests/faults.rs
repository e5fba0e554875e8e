//! Each fault, as a client meets it.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use super::{Call, Client, PATIENCE, client, config, custom, earliest, error_code, start};
use crate::simulator::{EventOrder, Fault, Simulator, Snapshot};

const CASES: &str = "/data/CaseChangeEvent";

/// A simulator with an open call that has had one event.
async fn open_call() -> (Simulator, Client, Call) {
    let simulator = start(config().await).await;
    simulator.control().publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let mut client = client(&simulator).await;
    let mut call = client.open(earliest(CASES, 50)).await.expect("open");
    call.take(1).await;
    (simulator, client, call)
}

#[tokio::test]
async fn streams_end_as_ordered_and_the_connection_lives_on() {
    let fail = Fault::FailStreams {
        status: 13,
        error_code: "sfdc.platform.eventbus.grpc.service.unavailable".to_owned(),
        message: "The service is unavailable. Try again later.".to_owned(),
    };
    for (fault, code, error) in [
        (Fault::EndStreams, None, ""),
        (Fault::CutStreams, Some(Code::Internal), ""),
        (fail, Some(Code::Internal), "service.unavailable"),
    ] {
        let (simulator, mut client, mut call) = open_call().await;
        simulator.control().inflict(fault).await.expect("inflicted");
        match (call.next().await, code) {
            (Ok(end), None) => assert!(end.is_none()),
            (Err(status), Some(code)) => {
                assert_eq!((status.code(), error_code(&status).as_str()), (code, error));
                assert_eq!(
                    status.message().contains("rpcId"),
                    !error.is_empty(),
                    "a reset has no message of the service"
                );
            }
            (other, _) => panic!("{other:?}"),
        }
        client.open(earliest(CASES, 5)).await.expect("open again").take(1).await;
        simulator.control().wait_for(PATIENCE, |stats| stats.connections == 1).await.expect("one connection all along");
    }
}

#[tokio::test]
async fn a_stream_is_cut_even_before_its_response_began() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let mut client = client(&simulator).await;
    let call = tokio::spawn(async move { client.open(earliest(CASES, 5)).await.map(|_| ()) });
    control.wait_for(PATIENCE, |stats| stats.open_streams == 1).await.expect("open");
    control.inflict(Fault::CutStreams).await.expect("inflicted");
    assert_eq!(call.await.expect("joined").expect_err("reset").code(), Code::Internal);
}

#[tokio::test]
async fn connections_are_dropped_or_told_to_go_away() {
    let (simulator, _client, mut call) = open_call().await;
    let control = simulator.control();
    control.inflict(Fault::GoAway).await.expect("inflicted");
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    call.take(1).await;
    drop(call);
    control.wait_for(PATIENCE, |stats| stats.connections == 0).await.expect("closed when its last call ended");
    let (simulator, _client, mut call) = open_call().await;
    simulator.control().inflict(Fault::DropConnections).await.expect("inflicted");
    call.next().await.expect_err("the connection is gone");
}

#[tokio::test]
async fn an_outage_closes_every_connection_and_an_end_of_it_loses_nothing() {
    let (simulator, mut client, mut call) = open_call().await;
    let control = simulator.control();
    control.inflict(Fault::Unreachable).await.expect("inflicted");
    call.next().await.expect_err("the connection is gone");
    client.open(earliest(CASES, 5)).await.map(|_| ()).expect_err("nobody answers");
    assert!(reqwest::get(format!("{}/services/data", simulator.login_url())).await.is_err());
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published meanwhile");
    control.inflict(Fault::Reachable).await.expect("inflicted");
    client.open(earliest(CASES, 5)).await.expect("open").take(2).await;
}

#[tokio::test]
async fn silence_and_a_black_hole_say_nothing_at_all() {
    let mut config = config().await;
    config.pubsub.keepalive = Duration::from_millis(50);
    let simulator = start(config).await;
    let control = simulator.control();
    let mut client = client(&simulator).await;
    let mut call = client.open(earliest(CASES, 5)).await.expect("open");
    control.inflict(Fault::Silence).await.expect("inflicted");
    let line = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0);
    let before = control.stats();
    // Ten keepalive intervals, in which a working call would say something.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((control.stats().keepalives, control.stats().events_sent), (before.keepalives, 0));
    control.inflict(Fault::Speak).await.expect("inflicted");
    assert_eq!(super::hex(&call.take(1).await[0].replay_id), line.replay_id, "nothing was lost");
    control.inflict(Fault::BlackHole).await.expect("inflicted");
    while tokio::time::timeout(Duration::from_millis(500), call.responses.message())
        .await
        .is_ok_and(|message| message.is_ok())
    {}
    assert_eq!(control.stats().connections, 1, "the connection is still open");
    // A new connection is not affected.
    let mut other = super::client(&simulator).await;
    other.open(earliest(CASES, 5)).await.expect("open").take(1).await;
}

#[tokio::test]
async fn tokens_are_revoked_for_new_calls_only() {
    let (simulator, mut client, mut call) = open_call().await;
    let control = simulator.control();
    control.inflict(Fault::RevokeTokens).await.expect("inflicted");
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    call.take(1).await;
    assert_eq!(client.refusal(earliest(CASES, 5)).await.code(), Code::Unauthenticated);
    let mut renewed = super::client(&simulator).await;
    renewed.open(earliest(CASES, 5)).await.expect("open").take(2).await;
}

#[tokio::test]
async fn schemas_fail_as_often_as_ordered() {
    let (simulator, mut client, _call) = open_call().await;
    let id = simulator.control().generate(1).await.expect("published").remove(0).schema_id;
    let fault = Fault::FailGetSchema { status: 14, error_code: "schema.api.unavailable".to_owned(), times: 2 };
    simulator.control().inflict(fault).await.expect("inflicted");
    for _ in 0..2 {
        let failed = client.schema(&id).await.expect_err("scripted");
        assert_eq!((failed.code(), error_code(&failed).as_str()), (Code::Unavailable, "schema.api.unavailable"));
    }
    client.schema(&id).await.expect("and then works");
}

#[tokio::test]
async fn the_tail_is_delivered_again_when_ordered() {
    let (simulator, mut client, mut call) = open_call().await;
    let control = simulator.control();
    for _ in 0..5 {
        control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    }
    let events = call.take(5).await;
    control.inflict(Fault::Redeliver { events: 3 }).await.expect("inflicted");
    let id = events[4].replay_id.clone();
    let again = client.open(custom(CASES, &id, 10)).await.expect("open").take(3).await;
    assert_eq!(again, events[2..], "the same ids and bytes");
}

#[tokio::test]
async fn positions_end_with_retention_and_when_the_org_moves() {
    let (simulator, mut client, _call) = open_call().await;
    let control = simulator.control();
    let id = client.open(earliest(CASES, 1)).await.expect("open").take(1).await.remove(0).replay_id;
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");
    let corrupted = "subscription.fetch.replayid.corrupted";
    assert_eq!(error_code(&client.refusal(custom(CASES, &id, 1)).await), corrupted);
    let line = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0);
    let kept = client.open(earliest(CASES, 1)).await.expect("open").take(1).await.remove(0).replay_id;
    assert_eq!(super::hex(&kept), line.replay_id, "what came later is there");
    let before = simulator.instance_url();
    control.inflict(Fault::ResetBus).await.expect("inflicted");
    assert_ne!(simulator.instance_url(), before);
    let mut moved = super::client(&simulator).await;
    assert_eq!(error_code(&moved.refusal(custom(CASES, &kept, 1)).await), corrupted);
    let line = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0);
    assert!(line.replay_id < super::hex(&kept), "newer positions can be smaller ones");
    moved.open(earliest(CASES, 1)).await.expect("open").take(1).await;
}

#[tokio::test]
async fn poison_cannot_be_decoded_and_is_marked_in_the_ledger() {
    let (simulator, mut client, mut call) = open_call().await;
    let control = simulator.control();
    control.inflict(Fault::Poison { events: 1 }).await.expect("inflicted");
    let lines = [
        control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0),
        control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0),
    ];
    assert_eq!(lines.map(|line| line.poison), [true, false]);
    let events = call.take(2).await;
    let schemas = super::schemas(&mut client, &events).await;
    let readable = events
        .iter()
        .filter_map(|event| event.event.as_ref())
        .map(|event| apache_avro::from_avro_datum(&schemas[&event.schema_id], &mut &event.payload[..], None).is_ok());
    assert_eq!(readable.collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_used_up_allocation_ends_calls() {
    let (simulator, mut client, mut call) = open_call().await;
    let control = simulator.control();
    control.inflict(Fault::Allocation { left: 2 }).await.expect("inflicted");
    for _ in 0..4 {
        control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    }
    call.take(2).await;
    let ended = call.next().await.expect_err("used up");
    assert_eq!(error_code(&ended), "subscription.limit.exceeded");
    assert_eq!(error_code(&client.refusal(earliest(CASES, 1)).await), "subscription.limit.exceeded");
}

#[tokio::test]
async fn the_control_port_does_the_same_over_http() {
    let (simulator, _client, mut call) = open_call().await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", simulator.control_url());
    let post = async |path: &str, body: Value| {
        let response = http.post(url(path)).json(&body).send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.unwrap_or_default())
    };
    let (status, lines) = post("/publish", json!({ "entity": "Case", "change_type": "CREATE" })).await;
    assert_eq!((status, lines[0]["entity"].as_str()), (200, Some("Case")));
    call.take(1).await;
    assert_eq!(post("/generate", json!({ "count": 25 })).await.1["published"], json!(25));
    assert_eq!(post("/faults", json!({ "kind": "end-streams" })).await.0, 204);
    while call.next().await.expect("the status is OK").is_some() {}
    assert_eq!(post("/faults", json!({ "kind": "no-such-thing" })).await.0, 422);
    assert_eq!(post("/publish", json!({ "entity": "Nothing" })).await.0, 422);
    let stats: Value = http.get(url("/stats")).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!((&stats["published"], &stats["faults"]["end-streams"]), (&json!(27), &json!(1)));
}

#[tokio::test]
async fn random_faults_come_from_the_table_and_traffic_goes_on() {
    let mut config = config().await;
    config.traffic.rate = 500.0;
    config.random_faults.per_minute = 1_200.0;
    let simulator = start(config).await;
    let control = simulator.control();
    let seen =
        control.wait_for(PATIENCE, |stats| stats.published > 200 && stats.faults.len() >= 4).await.expect("faults");
    let survivable = Fault::survivable();
    let table: Vec<String> = survivable
        .iter()
        .chain(&survivable.iter().filter_map(Fault::ending).collect::<Vec<_>>())
        .map(Fault::kind)
        .collect();
    assert!(seen.faults.keys().all(|kind| table.contains(kind)));
    // Another table over the control port, and from then on nothing but it.
    let request = json!({ "per_minute": 3_000, "table": [{ "kind": "end-streams" }] });
    let url = format!("{}/random-faults", simulator.control_url());
    let answer = reqwest::Client::new().put(&url).json(&request).send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
    let ended = |stats: &Snapshot| stats.faults.get("end-streams").copied().unwrap_or_default();
    let before = ended(&control.stats());
    control.wait_for(PATIENCE, |stats| ended(stats) >= before + 10).await.expect("the new table");
    let refused = reqwest::Client::new().put(&url).json(&json!({ "per_minute": -1 })).send().await.expect("an answer");
    assert_eq!(refused.status(), 422);
    control.inflict(Fault::PauseTraffic).await.expect("inflicted");
    simulator.shutdown().await;
}

#[tokio::test]
async fn tls_is_served_from_the_ca_that_is_handed_out_and_the_ledger_file_has_every_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config().await;
    config.listen.tls = true;
    config.ledger = Some(directory.path().join("ledger.jsonl"));
    let simulator = start(config).await;
    let lines = simulator.control().generate(50).await.expect("published");
    let ca = tonic::transport::Certificate::from_pem(simulator.ca_pem().expect("a CA"));
    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
    let endpoint = tonic::transport::Endpoint::from_shared(simulator.pubsub_endpoint()).expect("a URI");
    let channel = endpoint.tls_config(tls).expect("TLS").connect().await.expect("connected");
    let (_, token) = super::exchange(&simulator, &super::assertion(&simulator, |_| {})).await;
    let text = |key: &str| token[key].as_str().expect("a text").to_owned();
    let headers = vec![
        ("accesstoken", text("access_token")),
        ("instanceurl", text("instance_url")),
        ("tenantid", simulator.org_id().to_owned()),
    ];
    let mut client = Client { stub: crate::proto::pub_sub_client::PubSubClient::new(channel), headers };
    client.open(earliest("/data/ChangeEvents", 10)).await.expect("open").take(10).await;
    let file = std::fs::read_to_string(directory.path().join("ledger.jsonl")).expect("the ledger");
    let written: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected: Vec<Value> = lines.iter().map(|line| serde_json::to_value(line).expect("JSON")).collect();
    assert_eq!(written, expected);
}
