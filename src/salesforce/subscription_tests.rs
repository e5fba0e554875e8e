//! The subscription against a server of which each test decides every frame.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use h2::Reason;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::failure::Exit;
use crate::position::{Anchor, Position, ReplayFrom};
use crate::proto::{ConsumerEvent, FetchRequest, FetchResponse, ReplayPreset};
use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::buffer::Buffer;
use crate::salesforce::intake::{Batch, Intake};
use crate::salesforce::pubsub::{PubSub, PubSubSettings};
use crate::salesforce::scripted::{
    ORG, ScriptedCall, ScriptedHttp, ScriptedPubSub, event, events, keepalive, refused, replay, session, soon,
};
use crate::salesforce::subscription::{Ended, SubscriptionSettings, SubscriptionState, run};

pub(super) struct Subscribed {
    pub(super) server: ScriptedPubSub,
    login: ScriptedHttp,
    pub(super) intake: mpsc::Receiver<Intake>,
    pub(super) state: watch::Receiver<SubscriptionState>,
    cancel: CancellationToken,
    pub(super) buffer: Buffer,
    task: JoinHandle<Ended>,
}

pub(super) fn after(number: u64) -> Position {
    Position::starting(Anchor::After(replay(number).into()))
}

fn earliest() -> Position {
    Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH })
}

pub(super) async fn subscribe(position: Position) -> Subscribed {
    subscribe_with(position, Buffer::new(1000, 1 << 20), |_| ()).await
}

pub(super) async fn subscribe_with(
    position: Position,
    buffer: Buffer,
    change: impl FnOnce(&mut SubscriptionSettings),
) -> Subscribed {
    subscribe_as(ScriptedHttp::granting().await, position, buffer, change).await
}

async fn subscribe_as(
    login: ScriptedHttp,
    position: Position,
    buffer: Buffer,
    change: impl FnOnce(&mut SubscriptionSettings),
) -> Subscribed {
    let server = ScriptedPubSub::start().await;
    let channel = PubSubSettings {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_secs(1),
        ..PubSubSettings::new(server.url.clone())
    };
    let pubsub = PubSub::new(channel, session(&login.url)).expect("settings");
    let mut settings = SubscriptionSettings::new("/data/CaseChangeEvent".parse().expect("topic"), 7);
    settings.backoff = BackoffLimits::new(Duration::from_millis(5), Duration::from_millis(20)).expect("valid");
    change(&mut settings);
    let (sender, intake) = mpsc::channel(16);
    let (state_sender, state) = watch::channel(SubscriptionState::default());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run(pubsub, settings, position, buffer.clone(), sender, state_sender, cancel.clone()));
    Subscribed { server, login, intake, state, cancel, buffer, task }
}

impl Subscribed {
    pub(super) async fn batch(&mut self) -> Batch {
        match soon(self.intake.recv()).await.expect("the subscription runs") {
            Intake::Batch(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn state(&mut self, what: impl FnMut(&SubscriptionState) -> bool) -> SubscriptionState {
        soon(self.state.wait_for(what)).await.expect("the subscription runs").clone()
    }

    pub(super) async fn ended(self) -> Ended {
        soon(self.task).await.expect("no panic")
    }

    /// The next call with its first FetchRequest.
    pub(super) async fn call(&mut self) -> (ScriptedCall, FetchRequest) {
        let mut call = self.server.call().await;
        let first = call.fetch().await;
        (call, first)
    }
}

pub(super) fn ids(batch: &Batch) -> Vec<&str> {
    batch.events.iter().map(|event| event.event_id.as_str()).collect()
}

fn header<'a>(call: &'a ScriptedCall, name: &str) -> &'a str {
    call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn events_and_keepalives_come_down_with_the_position_after_them_though_headers_come_late() {
    let mut stream = subscribe(after(10)).await;
    // The whole first request is read before the server has sent a single byte of an answer.
    let (mut call, first) = stream.call().await;
    assert_eq!(call.path, "/eventbus.v1.PubSub/Subscribe");
    assert_eq!((header(&call, "accesstoken"), header(&call, "tenantid")), ("token-0", ORG));
    assert_eq!((header(&call, "instanceurl"), header(&call, "x-client-trace-id").len()), ("http://127.0.0.1:1", 36));
    assert_eq!((first.topic_name.as_str(), first.num_requested), ("/data/CaseChangeEvent", 100));
    assert_eq!((first.replay_preset(), first.replay_id), (ReplayPreset::Custom, replay(10)));

    call.send(&events([11, 12], 98));
    let batch = stream.batch().await;
    assert_eq!((batch.generation, ids(&batch)), (7, vec!["event-11", "event-12"]));
    assert_eq!(batch.events[0].payload, "payload 11");
    assert_eq!(batch.position.replay_from(), ReplayFrom::After(replay(11).into()), "12 may have a sibling");
    assert_eq!(batch.position.already().len(), 1);
    assert_eq!(stream.buffer.used().0, 2);
    drop(batch);
    assert_eq!(stream.buffer.used(), (0, 0));

    call.send(&keepalive(40, 98));
    let batch = stream.batch().await;
    assert!(batch.events.is_empty());
    assert_eq!(batch.position.replay_from(), ReplayFrom::After(replay(40).into()));
    assert_eq!(batch.position.time(), Some(batch.received_at));

    // A keepalive without a position is life, and nothing else: nothing is handed on for it.
    call.send(&FetchResponse { pending_num_requested: 98, ..FetchResponse::default() });
    let state = stream.state(|state| state.keepalives == 2).await;
    assert_eq!((state.events, state.pending, state.generation, state.connected), (2, 98, 7, true));

    stream.cancel.cancel();
    assert_eq!(call.request::<FetchRequest>().await, None, "half-closed");
    call.finish();
    assert_eq!(stream.ended().await, Ended::Cancelled);
}

#[tokio::test]
async fn a_cancel_ends_the_wait_for_headers_and_the_wait_for_a_token() {
    let mut stream = subscribe(after(1)).await;
    let (call, _) = stream.call().await;
    stream.cancel.cancel();
    assert_eq!(stream.ended().await, Ended::Cancelled);
    drop(call);

    let mut stream = subscribe(after(1)).await;
    let (call, _) = stream.call().await;
    stream.intake.close();
    assert_eq!(stream.ended().await, Ended::ReceiverGone);
    drop(call);
}

#[tokio::test]
async fn however_a_call_ends_the_next_goes_on_after_the_last_event_and_drops_what_comes_twice() {
    type End = fn(ScriptedCall);
    let ends: [(&str, End); 8] = [
        ("ended", ScriptedCall::finish),
        ("reset", |call| call.reset(Reason::INTERNAL_ERROR)),
        ("reset", |call| call.reset(Reason::NO_ERROR)),
        ("unavailable", |call| call.reset(Reason::REFUSED_STREAM)),
        ("unavailable", |call| call.fail(Code::Unavailable, "", "upstream connect error")),
        ("unavailable", |call| call.fail(Code::Internal, "service.unavailable", "The service is unavailable.")),
        ("unavailable", |call| call.fail(Code::Unavailable, "topic.api.unavailable", "Later.")),
        ("reset", ScriptedCall::cut),
    ];
    let mut stream = subscribe(after(1)).await;
    let mut number = 1;
    for (at, (reason, end)) in ends.into_iter().enumerate() {
        let (mut call, first) = stream.call().await;
        let resumed = if at == 0 { 1 } else { number - 1 };
        assert_eq!((first.replay_preset(), first.replay_id), (ReplayPreset::Custom, replay(resumed)), "{reason}");
        // The server goes further back than it was asked to.
        let known = number.saturating_sub(1).max(2)..=number;
        call.send(&events(known.chain(number + 1..=number + 2), 90));
        let batch = stream.batch().await;
        let (new, newer) = (format!("event-{}", number + 1), format!("event-{}", number + 2));
        assert_eq!(ids(&batch), [new.as_str(), newer.as_str()], "{reason}");
        assert_eq!(batch.duplicates, u32::from(at > 0) * 2, "{reason}");
        number += 2;
        let before = stream.state.borrow().reconnects.get(reason).copied().unwrap_or(0);
        end(call);
        let state = stream.state(|state| state.reconnects.get(reason).is_some_and(|count| *count > before)).await;
        assert_eq!(state.last_error.is_none(), reason == "ended", "{reason}: {:?}", state.last_error);
    }
    assert_eq!(stream.state(|state| state.events == 16).await.duplicates, 14);
}

#[tokio::test]
async fn a_goaway_lets_the_call_finish_and_the_next_one_uses_a_new_connection() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send(&events([2], 99));
    stream.batch().await;
    call.go_away();
    call.send(&events([3], 98));
    assert_eq!(ids(&stream.batch().await), ["event-3"]);
    call.finish();
    let (_call, first) = stream.call().await;
    assert_eq!(first.replay_id, replay(2));
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_given_up_long_before_the_silence_limit() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    call.send(&events([2], 99));
    stream.batch().await;
    call.freeze();
    let (_call, first) = stream.call().await;
    assert_eq!(first.replay_id, replay(1));
    assert!(!stream.state.borrow().reconnects.contains_key("silence"));
}

#[tokio::test]
async fn a_hopeless_sign_in_stops_the_subscription_and_a_disturbed_one_does_not() {
    let login = ScriptedHttp::start(|asked| match asked.number {
        0..=4 => refused("service_unavailable", "later"),
        _ => refused("invalid_app_access", "user is not admin approved to access this app"),
    })
    .await;
    let stream = subscribe_as(login, after(1), Buffer::new(10, 1 << 20), |_| ()).await;
    let state = stream.state.clone();
    let Ended::Stopped(failure) = stream.ended().await else { panic!("must stop") };
    assert_eq!(failure.exit, Exit::NoPermission);
    assert!(failure.remedy.contains("Permitted Users"), "{failure}");
    assert_eq!(state.borrow().reconnects.get("session"), Some(&1), "three attempts make one exchange");
}

#[tokio::test]
async fn a_silent_call_is_closed_and_awaited_before_the_next_is_made() {
    let change = |settings: &mut SubscriptionSettings| settings.silence_limit = Duration::from_millis(150);
    let mut stream = subscribe_with(after(1), Buffer::new(1000, 1 << 20), change).await;
    let (mut call, _) = stream.call().await;
    assert_eq!(call.request::<FetchRequest>().await, None, "half-closed for silence");
    assert!(!stream.server.has_call(), "never two calls at once");
    // What a dying call still sends is not taken; it comes again.
    call.send(&events([2], 99));
    call.finish();
    let (mut call, first) = stream.call().await;
    assert_eq!(first.replay_id, replay(1));
    call.send(&events([2], 99));
    assert_eq!(ids(&stream.batch().await), ["event-2"]);
    let state = stream.state(|state| state.events == 1).await;
    assert_eq!(state.reconnects.get("silence"), Some(&1));
}

#[tokio::test]
async fn a_refused_token_is_renewed_for_the_next_call_each_time() {
    let mut stream = subscribe(after(1)).await;
    for token in ["token-0", "token-1", "token-2"] {
        let (call, _) = stream.call().await;
        assert_eq!(header(&call, "accesstoken"), token);
        call.fail(Code::Unauthenticated, "service.auth.error", "An authentication exception occurred.");
    }
    let (mut call, _) = stream.call().await;
    let state = stream.state(|state| state.connected && state.reconnects.get("token") == Some(&3)).await;
    assert!(state.remedy.is_some_and(|remedy| remedy.contains("External Client App Manager")));
    call.send(&events([2], 99));
    stream.batch().await;
    let state = stream.state(|state| state.events == 1).await;
    assert_eq!((state.last_error, state.remedy), (None, None));
    assert_eq!(stream.login.count(), 4);
}

#[tokio::test]
async fn a_permission_lost_costs_one_new_token_and_then_stops_the_subscription() {
    let mut stream = subscribe(after(1)).await;
    for token in ["token-0", "token-1"] {
        let (call, _) = stream.call().await;
        assert_eq!(header(&call, "accesstoken"), token);
        call.fail(Code::PermissionDenied, "topic.meta.permission", "No permission.");
    }
    let state = stream.state.clone();
    let Ended::Stopped(failure) = stream.ended().await else { panic!("must stop") };
    assert_eq!(failure.exit, Exit::NoPermission);
    assert!(failure.remedy.contains("Setup > Change Data Capture"), "{failure}");
    assert_eq!(state.borrow().remedy.as_ref(), Some(&failure.remedy));
    assert!(!state.borrow().connected);
}

#[tokio::test]
async fn a_refused_replay_id_ends_the_subscription_without_a_second_attempt() {
    let mut stream = subscribe(after(9)).await;
    let (call, _) = stream.call().await;
    call.fail(Code::InvalidArgument, "subscription.fetch.replayid.corrupted", "The Replay ID validation failed.");
    let Ended::Refused { replay_id, message } = soon(&mut stream.task).await.expect("no panic") else {
        panic!("must be refused")
    };
    assert_eq!(replay_id.as_bytes(), &replay(9));
    assert!(message.contains("The Replay ID validation failed."), "{message}");
    assert!(!stream.server.has_call());
}

#[tokio::test]
async fn a_used_up_allocation_waits_for_an_hour_and_can_be_cancelled_meanwhile() {
    let mut stream = subscribe(after(9)).await;
    let (call, _) = stream.call().await;
    call.fail(Code::ResourceExhausted, "subscription.limit.exceeded", "You have exceeded the event delivery limit.");
    let state = stream.state(|state| state.reconnects.contains_key("allocation")).await;
    let wait = state.next_attempt_at.expect("a time") - Utc::now();
    assert!(wait > chrono::TimeDelta::minutes(50), "{wait}");
    assert!(state.remedy.is_some_and(|remedy| remedy.contains("DailyDeliveredPlatformEvents")));
    stream.cancel.cancel();
    assert_eq!(stream.ended().await, Ended::Cancelled);
}

#[tokio::test]
async fn the_credit_is_topped_up_at_half_and_never_exceeds_the_cap() {
    let mut stream = subscribe(earliest()).await;
    let (mut call, first) = stream.call().await;
    let mut credit = first.num_requested;
    let mut number = 0;
    let mut requests = 1;
    for _ in 0..20 {
        // Five responses of ten use up half; the request for the rest must come without the server running dry.
        while credit > 50 {
            credit -= 10;
            call.send(&events(number..number + 10, credit));
            number += 10;
            drop(stream.batch().await);
        }
        let more = call.fetch().await;
        requests += 1;
        assert_eq!((more.topic_name.as_str(), more.replay_id.len()), ("", 0));
        credit += more.num_requested;
        assert!((51..=100).contains(&credit), "{credit}");
    }
    assert_eq!((number, requests), (1000, 21), "one request for fifty events, none besides");
}

#[tokio::test]
async fn without_room_downstream_the_call_is_closed_on_purpose_and_made_again_when_there_is_room() {
    let change = |settings: &mut SubscriptionSettings| {
        (settings.credit, settings.room_patience) = (10, Duration::from_millis(50));
        settings.silence_limit = Duration::from_millis(60);
    };
    let mut stream = subscribe_with(after(0), Buffer::new(10, 1 << 20), change).await;
    let (mut call, first) = stream.call().await;
    assert_eq!(first.num_requested, 10);
    call.send(&events(1..=10, 0));
    let held = stream.batch().await;
    assert_eq!(call.request::<FetchRequest>().await, None, "no request, but a half-close");
    call.finish();
    let state = stream.state(|state| state.planned_closes == 1).await;
    assert!(!state.reconnects.contains_key("silence"), "no silence where nothing was asked for: {state:?}");
    assert!(!stream.server.has_call());
    drop(held);
    let (mut call, first) = stream.call().await;
    assert_eq!((first.num_requested, first.replay_id), (10, replay(9)));
    call.send(&events(10..=11, 8));
    assert_eq!(ids(&stream.batch().await), ["event-11"]);
}

#[tokio::test]
async fn while_it_is_paused_nothing_is_asked_for_and_it_goes_on_after_what_came_before() {
    let (pauses, paused) = watch::channel(true);
    let change = |settings: &mut SubscriptionSettings| settings.paused = paused;
    let mut stream = subscribe_with(after(0), Buffer::new(100, 1 << 20), change).await;
    let state = stream.state(|state| !state.connected).await;
    assert_eq!((state.next_attempt_at, stream.server.has_call()), (None, false), "paused from the beginning");
    pauses.send_replace(false);
    let (mut call, _) = stream.call().await;
    call.send(&events(1..=3, 97));
    assert_eq!(ids(&stream.batch().await), ["event-1", "event-2", "event-3"]);
    pauses.send_replace(true);
    while call.request::<FetchRequest>().await.is_some() {}
    // What is still on its way is not taken: it comes again.
    call.send(&events([4], 96));
    call.finish();
    let waits =
        |state: &SubscriptionState| state.reconnects.get("paused") == Some(&1) && state.next_attempt_at.is_none();
    let state = stream.state(waits).await;
    assert!(!state.connected && state.last_error.is_none() && !stream.server.has_call(), "{state:?}");
    pauses.send_replace(false);
    let (mut call, first) = stream.call().await;
    assert_eq!((first.replay_preset(), first.replay_id), (ReplayPreset::Custom, replay(2)));
    call.send(&events(3..=5, 95));
    assert_eq!(ids(&stream.batch().await), ["event-4", "event-5"]);
    // A pause does not hold up the end.
    pauses.send_replace(true);
    while call.request::<FetchRequest>().await.is_some() {}
    stream.cancel.cancel();
    assert_eq!(stream.ended().await, Ended::Cancelled);
}

#[tokio::test]
async fn room_that_comes_back_in_time_keeps_the_call() {
    let change = |settings: &mut SubscriptionSettings| settings.credit = 10;
    let mut stream = subscribe_with(after(0), Buffer::new(10, 1 << 20), change).await;
    let (mut call, _) = stream.call().await;
    call.send(&events(1..=10, 0));
    drop(stream.batch().await);
    assert_eq!(call.fetch().await.num_requested, 10);
}

#[tokio::test]
async fn a_start_from_the_tip_that_had_to_be_repeated_is_reported_before_what_follows() {
    let mut stream = subscribe(Position::starting(Anchor::Latest { since: Utc::now() })).await;
    for _ in 0..2 {
        let (call, first) = stream.call().await;
        assert_eq!(first.replay_preset(), ReplayPreset::Latest);
        call.reset(Reason::INTERNAL_ERROR);
    }
    let (mut call, first) = stream.call().await;
    assert_eq!((first.replay_preset(), first.replay_id.len()), (ReplayPreset::Latest, 0));
    call.send(&events([5], 99));
    let Some(Intake::LatestRestarted { from, to }) = soon(stream.intake.recv()).await else { panic!("a gap first") };
    assert!(from < to);
    assert_eq!(ids(&stream.batch().await), ["event-5"]);
    // With an event taken it never goes back to the tip, and nothing more is missed.
    call.finish();
    let (mut call, first) = stream.call().await;
    assert_eq!((first.replay_preset(), first.replay_id), (ReplayPreset::Custom, replay(5)));
    call.send(&events([6], 99));
    assert_eq!(ids(&stream.batch().await), ["event-6"]);
}

#[tokio::test]
async fn an_event_without_a_place_stops_the_subscription_after_what_came_before_it() {
    let mut stream = subscribe(after(1)).await;
    let (mut call, _) = stream.call().await;
    let bare = ConsumerEvent { event: None, replay_id: replay(3) };
    let placeless = ConsumerEvent { replay_id: Bytes::new(), ..event(4) };
    let mut response = events([2], 96);
    response.events.extend([bare, placeless, event(5)]);
    call.send(&response);
    let batch = stream.batch().await;
    assert_eq!(ids(&batch), ["event-2", ""], "an event without content goes on to where it cannot be decoded");
    assert_eq!(batch.position.already().last().map(|key| key.replay_id().as_bytes().clone()), Some(replay(3)));
    let Ended::Stopped(failure) = stream.ended().await else { panic!("must stop") };
    assert!(failure.what.contains("without a replay id"), "{failure}");
}

#[tokio::test]
async fn events_that_were_not_asked_for_are_taken_and_counted() {
    let change = |settings: &mut SubscriptionSettings| settings.credit = 2;
    let mut stream = subscribe_with(after(0), Buffer::new(2, 1 << 20), change).await;
    let (mut call, _) = stream.call().await;
    call.send(&events(1..=5, -3));
    let batch = stream.batch().await;
    assert_eq!(batch.events.len(), 5);
    assert_eq!(stream.state(|state| state.unasked_events == 3).await.events, 5);
    drop(batch);
    assert_eq!(call.fetch().await.num_requested, 2);
}
