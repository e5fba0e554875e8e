//! Credit, batches, keepalives, replay, and how calls end.

use std::time::Duration;

use tonic::Code;

use super::{client, config, custom, earliest, error_code, fetch, more, start, trailer};
use crate::proto::ReplayPreset;
use crate::simulator::{EventOrder, Fault};

const CASES: &str = "/data/CaseChangeEvent";

fn quiet_case() -> EventOrder {
    EventOrder::new("Case", "CREATE")
}

#[tokio::test]
async fn credit_is_additive_capped_and_never_exceeded() {
    let mut config = config().await;
    config.traffic.entities = vec!["Case".to_owned()];
    let simulator = start(config).await;
    let control = simulator.control();
    control.generate(400).await.expect("published");
    let mut client = client(&simulator).await;
    let mut call = client.open(earliest(CASES, 3)).await.expect("open");
    let mut credit = 3;
    let mut sizes = Vec::new();
    for added in [0, 5, 200, 1] {
        if added > 0 {
            call.requests.send(more(added)).await.expect("sent");
            // All earlier credit was used, so the cap alone decides.
            credit = added.min(100);
        }
        while credit > 0 {
            let response = call.next().await.expect("no error").expect("no end");
            let count = i32::try_from(response.events.len()).expect("small");
            assert!(count > 0 && count <= credit);
            credit -= count;
            assert_eq!(response.pending_num_requested, credit, "pending is what is left");
            assert_eq!(response.latest_replay_id, response.events.last().expect("events").replay_id);
            sizes.push(count);
        }
        control.wait_for(super::PATIENCE, |stats| stats.credit == 0).await.expect("all credit used");
    }
    assert_eq!(sizes.iter().sum::<i32>(), 3 + 5 + 100 + 1);
    assert_eq!(control.stats().events_sent, 109);
}

#[tokio::test]
async fn credit_given_early_adds_up_to_at_most_one_hundred() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let mut client = client(&simulator).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    for request in [earliest(CASES, 60), more(30), more(60)] {
        requests.send(request).await.expect("sent");
    }
    let request = client.request(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let call = tokio::spawn(async move { client.stub.subscribe(request).await });
    control.wait_for(super::PATIENCE, |stats| stats.fetch_requests == 3).await.expect("all requests taken");
    assert_eq!(control.stats().credit, 100);
    control.publish(quiet_case()).await.expect("published");
    let mut responses = call.await.expect("joined").expect("open").into_inner();
    let first = responses.message().await.expect("no error").expect("no end");
    assert_eq!((first.events.len(), first.pending_num_requested), (1, 99));
}

#[tokio::test]
async fn the_response_is_withheld_until_there_is_a_message_and_keepalives_tell_the_tip() {
    let mut config = config().await;
    config.pubsub.keepalive = Duration::from_millis(300);
    let simulator = start(config).await;
    let control = simulator.control();
    let mut client = client(&simulator).await;
    let opened = tokio::time::Instant::now();
    let mut call = client.open(earliest(CASES, 7)).await.expect("open");
    assert!(opened.elapsed() >= Duration::from_millis(300), "no headers before the first keepalive");
    let first = call.next().await.expect("no error").expect("no end");
    assert_eq!((first.events.len(), first.pending_num_requested), (0, 7));
    let line = control.publish(EventOrder::new("MessagingSession", "CREATE")).await.expect("published").remove(0);
    let second = call.next().await.expect("no error").expect("no end");
    assert!(second.events.is_empty(), "the event is on another topic");
    assert_eq!(super::hex(&second.latest_replay_id), line.replay_id, "the position is the bus's, not the topic's");
    let resumed = client.open(custom(CASES, &second.latest_replay_id, 1)).await;
    assert!(resumed.is_ok(), "and can be resumed after");
}

#[tokio::test]
async fn without_credit_the_call_ends_with_ok_after_a_while_and_half_close_ends_it_at_once() {
    let mut config = config().await;
    config.pubsub.idle_close = Duration::from_millis(200);
    let simulator = start(config).await;
    let control = simulator.control();
    control.publish(quiet_case()).await.expect("published");
    let mut client = client(&simulator).await;
    let mut call = client.open(earliest(CASES, 1)).await.expect("open");
    call.take(1).await;
    assert!(call.next().await.expect("the status is OK").is_none());
    let mut call = client.open(earliest(CASES, 100)).await.expect("open");
    call.take(1).await;
    drop(call.requests);
    let end = tokio::time::timeout(super::PATIENCE, call.responses.message()).await.expect("in time");
    assert!(end.expect("the status is OK").is_none());
    control.wait_for(super::PATIENCE, |stats| stats.open_streams == 0 && stats.credit == 0).await.expect("closed");
}

#[tokio::test]
async fn a_replay_id_is_exclusive_and_may_be_cut_to_eight_bytes_or_come_from_another_topic() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    for entity in ["Case", "MessagingSession", "Case", "Case"] {
        control.publish(EventOrder::new(entity, "CREATE")).await.expect("published");
    }
    let mut client = client(&simulator).await;
    let all = client.open(earliest("/data/ChangeEvents", 10)).await.expect("open").take(4).await;
    let after = async |client: &mut super::Client, id: &[u8], count: usize| {
        client.open(custom(CASES, id, 10)).await.expect("open").take(count).await
    };
    assert_eq!(after(&mut client, &all[0].replay_id, 2).await, all[2..]);
    assert_eq!(after(&mut client, &all[1].replay_id, 2).await, all[2..], "a session's position");
    assert_eq!(after(&mut client, &all[2].replay_id[..8], 1).await, all[3..]);
    assert_eq!(control.stats().subscribes_custom, 3);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_code_of_each() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let line = control.publish(quiet_case()).await.expect("published").remove(0);
    let mut client = client(&simulator).await;
    let id = client.open(earliest(CASES, 1)).await.expect("open").take(1).await.remove(0).replay_id;
    assert_eq!(super::hex(&id), line.replay_id);
    let mut above = id.to_vec();
    above[7] += 1;
    let corrupted = "subscription.fetch.replayid.corrupted";
    let cases = [
        (earliest(CASES, 0), Code::InvalidArgument, "subscription.fetch.requested.events.invalid"),
        (earliest(CASES, -5), Code::InvalidArgument, "subscription.fetch.requested.events.invalid"),
        (earliest("", 1), Code::InvalidArgument, "topic.validation.empty"),
        (earliest("/data/LeadChangeEvent", 1), Code::NotFound, "topic.not.found"),
        (custom(CASES, b"", 1), Code::InvalidArgument, "subscription.fetch.replayid.validation.failed"),
        (custom(CASES, b"1544272", 1), Code::InvalidArgument, corrupted),
        (custom(CASES, &id[..9], 1), Code::InvalidArgument, corrupted),
        (custom(CASES, &above, 1), Code::InvalidArgument, corrupted),
        (custom(CASES, &[0; 10], 1), Code::InvalidArgument, corrupted),
    ];
    for (request, code, error) in cases {
        let refused = client.refusal(request).await;
        assert_eq!((refused.code(), error_code(&refused).as_str()), (code, error));
        assert_eq!(trailer(&refused, "type"), "Subscribe");
        assert!(refused.message().ends_with(&format!(" rpcId: {}", trailer(&refused, "rpc-id"))));
    }
    for (later, error) in [
        (earliest("/data/ChangeEvents", 1), "subscription.fetch.topic.mismatch"),
        (more(0), "subscription.fetch.requested.events.invalid"),
    ] {
        let mut call = client.open(earliest(CASES, 9)).await.expect("open");
        call.take(1).await;
        call.requests.send(later).await.expect("sent");
        let refused = call.next().await.expect_err("refused");
        assert_eq!((refused.code(), error_code(&refused).as_str()), (Code::InvalidArgument, error));
    }
    let mut call = client.open(earliest(CASES, 9)).await.expect("open");
    call.take(1).await;
    call.requests.send(custom(CASES, b"nonsense", 1)).await.expect("sent");
    control.publish(quiet_case()).await.expect("published");
    assert_eq!(call.take(1).await.len(), 1, "replay fields of a later request are ignored");
}

#[tokio::test]
async fn latest_begins_at_the_tip_and_misses_what_comes_while_it_is_routed() {
    let mut config = config().await;
    config.pubsub.latest_race = Duration::from_millis(400);
    let simulator = start(config).await;
    let control = simulator.control();
    control.publish(quiet_case()).await.expect("published");
    let mut client = client(&simulator).await;
    let call = tokio::spawn(async move { client.open(fetch(CASES, ReplayPreset::Latest, b"", 5)).await });
    control.wait_for(super::PATIENCE, |stats| stats.fetch_requests == 1).await.expect("asked");
    control.publish(quiet_case()).await.expect("published while it is routed");
    control.wait_for(super::PATIENCE, |stats| stats.subscribes_latest == 1).await.expect("routed");
    let line = control.publish(quiet_case()).await.expect("published").remove(0);
    let mut call = call.await.expect("joined").expect("open");
    let events = call.take(1).await;
    assert_eq!(super::hex(&events[0].replay_id), line.replay_id);
}

#[tokio::test]
async fn a_backlog_is_there_at_the_start_and_leaves_with_the_retention() {
    let mut config = config().await;
    config.traffic.backlog = 300;
    config.traffic.backlog_span = Duration::from_secs(6 * 3_600);
    config.pubsub.retention = Duration::from_secs(3 * 3_600);
    let simulator = start(config).await;
    let control = simulator.control();
    assert_eq!(control.stats().published, 300);
    // The first sweep of the retention runs with the start; a position of the older half is gone after it.
    let mut client = client(&simulator).await;
    let newest = u64::from_str_radix(&control.stats().last_published[..16], 16).expect("hex");
    let oldest = 1_544_001_u64;
    let refused = client.refusal(custom("/data/ChangeEvents", &oldest.to_be_bytes(), 1)).await;
    assert_eq!(error_code(&refused), "subscription.fetch.replayid.corrupted");
    let call = client.open(earliest("/data/ChangeEvents", 100)).await.expect("open").take(100).await;
    let first = u64::from_be_bytes(call[0].replay_id[..8].try_into().expect("eight bytes"));
    assert!(first > oldest && first < newest);
}

#[tokio::test]
async fn responses_stay_below_three_megabytes() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    for _ in 0..8 {
        let order = quiet_case().with("Description", "x".repeat(900_000));
        control.publish(order).await.expect("published");
    }
    let mut client = client(&simulator).await;
    let mut call = client.open(earliest(CASES, 8)).await.expect("open");
    let mut taken = 0;
    while taken < 8 {
        let events = call.next().await.expect("no error").expect("no end").events;
        taken += events.len();
        let size: usize = events.iter().filter_map(|event| event.event.as_ref()).map(|event| event.payload.len()).sum();
        assert!(size <= 3_000_000);
    }
}

#[tokio::test]
async fn what_the_user_may_not_see_is_refused_on_its_topic_and_left_out_of_channels() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    control.publish(quiet_case()).await.expect("published");
    let mut client = client(&simulator).await;
    let mut open = client.open(earliest(CASES, 5)).await.expect("open");
    open.take(1).await;
    control.inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("denied");
    let ended = open.next().await.expect_err("the open call ends");
    assert_eq!(
        (ended.code(), error_code(&ended).as_str()),
        (Code::PermissionDenied, "subscription.topic.cannot.subscribe")
    );
    assert_eq!(client.refusal(earliest(CASES, 5)).await.code(), Code::PermissionDenied);
    control.publish(quiet_case()).await.expect("published");
    let session = control.publish(EventOrder::new("MessagingSession", "CREATE")).await.expect("published").remove(0);
    let events = client.open(earliest("/data/ChangeEvents", 5)).await.expect("open").take(1).await;
    assert_eq!(super::hex(&events[0].replay_id), session.replay_id);
}
