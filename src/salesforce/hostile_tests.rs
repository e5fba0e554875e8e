//! Servers that send what no correct server does: too much, too large, without end. Memory stays bounded, and
//! each leads to an end that says what is wrong and loses nothing.

use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::StatusCode;
use prost::Message;

use crate::failure::Exit;
use crate::position::ReplayFrom;
use crate::proto::{ConsumerEvent, FetchRequest, FetchResponse, ProducerEvent};
use crate::salesforce::buffer::Buffer;
use crate::salesforce::credit::MOST_OUTSTANDING;
use crate::salesforce::rest::RestError;
use crate::salesforce::scripted::{
    Asked, ORG, ScriptedHttp, answer, event, events, granted, keepalive, replay, session, settings, soon,
};
use crate::salesforce::session::{Session, SessionError, SessionSettings};
use crate::salesforce::subscription::Ended;
use crate::salesforce::subscription_tests::{Subscribed, after, ids, subscribe, subscribe_with};

const MIB: usize = 1024 * 1024;

/// Events of these numbers whose payloads make the message about `bytes` long.
fn large(numbers: impl ExactSizeIterator<Item = u64>, bytes: usize, pending: i32) -> FetchResponse {
    let each = bytes / numbers.len();
    let mut response = events(numbers, pending);
    for event in &mut response.events {
        event.event.as_mut().expect("an event").payload = vec![7; each].into();
    }
    response
}

async fn stopped(stream: Subscribed) -> crate::failure::Failure {
    match stream.ended().await {
        Ended::Stopped(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_of_up_to_eight_mebibytes_are_taken_whether_their_events_are_few_or_many() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    // Three megabytes are what Salesforce documents, in many small events; four what some servers stop at, in three.
    for (numbers, bytes, pending) in [(2..72, 3 * MIB, 30), (72..75, 4 * MIB + 17, 27), (75..76, 8 * MIB - 200, 26)] {
        let count = usize::try_from(numbers.end - numbers.start).expect("small");
        call.send(&large(numbers.collect::<Vec<u64>>().into_iter(), bytes, pending));
        let batch = stream.batch().await;
        assert_eq!(batch.events.len(), count);
        assert_eq!(stream.buffer.used().1, (bytes / count * count) as u64, "all of it is accounted for");
    }
    assert_eq!(stream.buffer.used(), (0, 0));
}

#[tokio::test]
async fn a_message_beyond_the_limit_stops_the_subscription_before_it_and_says_why() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send(&events([2], 99));
    assert_eq!(ids(&stream.batch().await), ["event-2"]);
    call.send(&large([3].into_iter(), 8 * MIB + 1, 98));
    assert!(soon(stream.intake.recv()).await.is_none(), "nothing of it is taken");
    assert!(!stream.server.has_call(), "the same message would come again");
    let failure = stopped(stream).await;
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(failure.what.contains("message length too large"), "{failure}");
    assert!(failure.remedy.contains("at most 3 MB"), "{failure}");
}

#[tokio::test]
async fn a_message_of_more_events_than_can_be_asked_for_is_not_even_decoded() {
    // Four million events without content fit into a message, and would take half a gigabyte.
    for message in [events(2..203, 0).encode_to_vec(), [0x0a, 0x00].repeat(4_000_000)] {
        let mut stream = subscribe(after(1)).await;
        let (mut call, _) = stream.call().await;
        call.send_frame(false, &message);
        assert!(soon(stream.intake.recv()).await.is_none());
        let failure = stopped(stream).await;
        assert!(failure.what.contains("events; at most 100 can be asked for"), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_sends_on_without_being_asked_is_cut_off_and_nothing_is_lost() {
    let most = MOST_OUTSTANDING;
    // No room for a second request: whatever comes after the first hundred was not asked for.
    let mut stream = subscribe_with(after(1), Buffer::new(most, 1 << 20), |_| ()).await;
    let (mut call, first) = stream.call().await;
    assert_eq!(first.num_requested, 100);
    let mut held = Vec::new();
    call.send(&events(2..102, 0));
    held.push(stream.batch().await);
    call.send(&events(102..202, 0));
    held.push(stream.batch().await);
    assert_eq!(stream.buffer.used().0, 2 * most, "as much again is put up with");
    call.send(&events(202..203, 0));
    held.push(stream.batch().await);
    assert_eq!(call.request::<FetchRequest>().await, None, "and no more: the call is half-closed");
    // A server that does not care goes on sending; none of it is held.
    for number in 203..300 {
        call.send(&events([number], 0));
    }
    call.finish();
    let state = stream.state(|state| state.reconnects.contains_key("overrun")).await;
    assert_eq!((state.unasked_events, state.events, stream.buffer.used().0), (101, 201, 201));
    assert!(state.last_error.is_some_and(|error| error.contains("101 events that were not asked for")));
    assert!(!stream.server.has_call(), "the next call waits for room");
    drop(held);
    let (mut call, first) = stream.call().await;
    assert_eq!(first.replay_id, replay(201), "202 may have a sibling");
    call.send(&events(202..205, 97));
    let batch = stream.batch().await;
    assert_eq!((ids(&batch), batch.duplicates), (vec!["event-203", "event-204"], 1));
}

#[tokio::test]
async fn a_compressed_message_is_refused_and_never_expanded() {
    // Ten gigabytes in ten megabytes would do; the content does not matter, because nobody looks at it.
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send_headers(&[("grpc-encoding", "gzip")]);
    call.send_frame(true, &gzip(4 * MIB));
    let failure = stopped(stream).await;
    assert_eq!(failure.exit, Exit::Configuration);
    assert!(failure.remedy.contains("proxy"), "{failure}");

    // A frame that claims to be compressed on a call that is not: the next call may be in order.
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send_frame(true, &gzip(4 * MIB));
    let (mut call, _) = stream.call().await;
    call.send(&events([2], 99));
    assert_eq!(ids(&stream.batch().await), ["event-2"]);
}

#[tokio::test]
async fn a_message_that_never_ends_counts_as_silence() {
    let silence = |settings: &mut crate::salesforce::subscription::SubscriptionSettings| {
        settings.silence_limit = Duration::from_millis(300);
    };
    let mut stream = subscribe_with(after(1), Buffer::new(1000, 1 << 20), silence).await;
    let (mut call, _) = stream.call().await;
    // Seven megabytes are announced, and come byte by byte.
    call.send_data(Bytes::from_static(&[0, 0, 0x70, 0, 0, 0x0a]));
    let trickle = async {
        loop {
            call.send_data(Bytes::from_static(&[1]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = trickle => {}
        state = stream.state.wait_for(|state| state.last_error.is_some()) => {
            let error = state.expect("the subscription runs").last_error.clone().unwrap_or_default();
            assert!(error.contains("silent for 300ms"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_headers_ends_the_call_and_the_next_one_is_taken() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    let value = "x".repeat(8_000);
    let names: Vec<String> = (0..64).map(|number| format!("x-flood-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    call.send_headers(&headers);
    let (mut call, first) = stream.call().await;
    assert_eq!(first.replay_id, replay(1));
    call.send(&events([2], 99));
    assert_eq!(ids(&stream.batch().await), ["event-2"]);
}

#[tokio::test]
async fn odd_events_are_handed_on_and_those_without_a_place_stop_the_subscription_after_what_came_before() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    let content = |id: &str, schema: &str| ProducerEvent {
        id: id.into(),
        schema_id: schema.into(),
        payload: Bytes::new(),
        headers: Vec::new(),
    };
    let odd = |number, event| ConsumerEvent { event, replay_id: replay(number) };
    let response = FetchResponse {
        events: vec![
            odd(2, None),
            odd(3, Some(content("", ""))),
            odd(4, Some(content(&"i".repeat(MIB), &"s".repeat(MIB)))),
            odd(5, Some(content(&"i".repeat(MIB), ""))),
        ],
        pending_num_requested: 96,
        ..FetchResponse::default()
    };
    call.send(&response);
    let batch = stream.batch().await;
    assert_eq!(batch.events.len(), 4, "each is an event, whatever becomes of it");
    assert_eq!(batch.events[2].schema_id.as_str().len(), MIB);
    let position = serde_json::to_string(&batch.position).expect("json");
    assert!(position.len() < 1_000, "a checkpoint of {} bytes", position.len());

    for (replay_id, reason) in [(Bytes::new(), "without a replay id"), (vec![7; MIB].into(), "a replay id of 1048576")]
    {
        let mut stream = subscribe(after(1)).await;
        let (mut call, _) = stream.call().await;
        let mut response = events([2, 3], 98);
        response.events[1].replay_id = replay_id.clone();
        call.send(&response);
        let batch = stream.batch().await;
        assert_eq!((ids(&batch), batch.position.replay_from()), (vec!["event-2"], ReplayFrom::After(replay(1).into())));
        let failure = stopped(stream).await;
        assert!(failure.what.contains(reason) && failure.remedy.contains("endpoint"), "{failure}");
    }

    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send(&FetchResponse { latest_replay_id: vec![7; 257].into(), ..keepalive(2, 100) });
    assert!(stopped(stream).await.what.contains("a replay id of 257 bytes"));
    assert_eq!(event(2).replay_id.len(), 10, "what Salesforce has is far below");
}

fn gzip(zeros: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let block = vec![0; MIB];
    for _ in 0..zeros / MIB {
        encoder.write_all(&block).expect("memory");
    }
    encoder.finish().expect("memory")
}

/// A body that goes on until nobody reads it.
fn endless() -> Body {
    let block = Bytes::from(vec![b' '; 64 * 1024]);
    Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(block.clone())))
}

fn compressed(body: Vec<u8>) -> Response {
    let response = Response::builder().status(StatusCode::OK).header("content-encoding", "gzip");
    response.body(body.into()).expect("a response")
}

fn flooded() -> Response {
    let mut response = answer(200, "{}");
    for number in 0..200 {
        let name: http::HeaderName = format!("x-flood-{number}").parse().expect("a name");
        response.headers_mut().insert(name, "x".repeat(4_000).parse().expect("a value"));
    }
    response
}

#[tokio::test]
async fn a_token_answer_without_end_is_read_to_its_limit_and_no_further() {
    type Answer = fn() -> Response;
    let answers: [(&str, Answer); 4] = [
        ("longer than 262144 bytes", || answer(200, endless())),
        ("longer than 262144 bytes", || answer(400, endless())),
        ("longer than 262144 bytes", || compressed(gzip(64 * MIB))),
        ("", flooded),
    ];
    for (reason, answer) in answers {
        let login = ScriptedHttp::start(move |_: Asked| answer()).await;
        let error = soon(session(&login.url).token()).await.expect_err("no token");
        let SessionError::Unreachable { reason: told, .. } = &error else { panic!("{error:?}") };
        assert!(told.contains(reason) && error.is_retryable(), "{error}");
        assert_eq!(login.count(), 3, "three attempts are one exchange");
    }
}

#[tokio::test]
async fn a_rest_answer_without_end_is_read_to_its_limit_and_no_further() {
    for bomb in [false, true] {
        let instance =
            ScriptedHttp::start(move |_| if bomb { compressed(gzip(80 * MIB)) } else { answer(200, endless()) });
        let instance = instance.await.url;
        let login = ScriptedHttp::start(move |_| granted("token", instance.as_str(), ORG)).await;
        let session = Session::new(SessionSettings { call_timeout: Duration::from_secs(60), ..settings(&login.url) });
        let error = soon(session.expect("settings").limits()).await.expect_err("no limits");
        assert_eq!(error, RestError::TooLong(64 * MIB));
    }
}
