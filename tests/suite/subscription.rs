//! Session, channel and subscription against the simulated org, whose wire code is not ours.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use casewire::position::{Anchor, Position};
use casewire::salesforce::backoff::BackoffLimits;
use casewire::salesforce::buffer::Buffer;
use casewire::salesforce::grant::Grant;
use casewire::salesforce::intake::Intake;
use casewire::salesforce::pubsub::{PubSub, PubSubSettings};
use casewire::salesforce::session::{Session, SessionSettings};
use casewire::salesforce::subscription::{Ended, SubscriptionSettings, SubscriptionState, run};
use casewire::simulator::{Fault, Simulator, SimulatorConfig};

const TOPIC: &str = "/data/ChangeEvents";

/// Whatever has not come by then will not.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing came in time")
}

/// An org over TLS whose clock is an hour ahead.
async fn org() -> Simulator {
    let mut config = SimulatorConfig::on_free_ports();
    config.sign_in.clock_offset_seconds = 3600;
    config.listen.tls = true;
    Simulator::start(config).await.expect("the simulator starts")
}

fn channel(org: &Simulator) -> PubSub {
    let grant = Grant::JwtBearer {
        username: org.username().to_owned(),
        client_id: org.client_id().to_owned(),
        private_key: org.private_key_pem().expect("the simulator made a key").into(),
        certificate: None,
    };
    // The waits of a client that must not be noticed at Salesforce would only slow the test.
    let settings = SessionSettings {
        minimum_spacing: Duration::ZERO,
        backoff: BackoffLimits::new(Duration::from_millis(5), Duration::from_millis(20)).expect("valid"),
        ..SessionSettings::new(org.login_url().parse().expect("url"), grant)
    };
    let session = Session::new(SessionSettings { org_id: Some(org.org_id().parse().expect("org")), ..settings });
    let settings = PubSubSettings {
        extra_ca: org.ca_pem().map(str::to_owned),
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_secs(2),
        ..PubSubSettings::new(org.pubsub_endpoint().parse().expect("url"))
    };
    PubSub::new(settings, session.expect("settings")).expect("settings")
}

struct Stream {
    intake: mpsc::Receiver<Intake>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Ended>,
    state: watch::Receiver<SubscriptionState>,
}

fn subscribe(pubsub: PubSub, position: Position) -> Stream {
    let mut settings = SubscriptionSettings::new(TOPIC.parse().expect("topic"), 1);
    settings.backoff = BackoffLimits::new(Duration::from_millis(5), Duration::from_millis(50)).expect("valid");
    let (sender, intake) = mpsc::channel(16);
    let (writer, state) = watch::channel(SubscriptionState::default());
    let cancel = CancellationToken::new();
    let buffer = Buffer::new(150, 1 << 20);
    let task = tokio::spawn(run(pubsub, settings, position, buffer, sender, writer, cancel.clone()));
    Stream { intake, cancel, task, state }
}

/// Takes events until so many have come; returns their ids and the position after them.
async fn take(stream: &mut Stream, count: usize) -> (Vec<String>, Position) {
    let mut ids = Vec::new();
    loop {
        let Intake::Batch(batch) = soon(stream.intake.recv()).await.expect("the subscription runs") else {
            panic!("this stream does not start from the tip")
        };
        ids.extend(batch.events.iter().map(|event| event.event_id.clone()));
        if ids.len() >= count {
            return (ids, batch.position);
        }
    }
}

/// Publishes events and returns the ids of those on the topic, in order.
async fn publish(org: &Simulator, count: u64) -> Vec<String> {
    let lines = org.control().generate(count).await.expect("published");
    lines.into_iter().filter(|line| line.topics.iter().any(|topic| topic == TOPIC)).map(|line| line.event_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_of_an_org_comes_once_and_in_order_through_every_fault() {
    let org = org().await;
    let pubsub = channel(&org);
    let start = Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH });
    let mut stream = subscribe(pubsub.clone(), start);
    let faults = [
        vec![Fault::CutStreams],
        vec![Fault::EndStreams],
        vec![Fault::DropConnections],
        vec![Fault::Redeliver { events: 30 }, Fault::CutStreams],
        vec![Fault::RevokeTokens, Fault::EndStreams],
        vec![Fault::GoAway, Fault::Redeliver { events: 90 }, Fault::EndStreams],
        vec![Fault::BlackHole],
    ];
    let mut position = None;
    for round in faults {
        let expected = publish(&org, 250).await;
        let (first, _) = take(&mut stream, expected.len() / 2).await;
        for fault in round {
            org.control().inflict(fault).await.expect("inflicted");
        }
        let (rest, after) = take(&mut stream, expected.len() - first.len()).await;
        assert_eq!([first, rest].concat(), expected);
        position = Some(after);
        org.control().wait_for(PATIENCE, |stats| stats.open_streams > 0).await.expect("subscribed again");
    }
    let state = stream.state.borrow().clone();
    assert!(state.duplicates > 0 && state.unasked_events == 0, "{state:?}");
    let ahead = pubsub.session().salesforce_now() - Utc::now();
    assert!((ahead - TimeDelta::hours(1)).abs() < TimeDelta::minutes(1), "{ahead}");
    assert!(pubsub.session().limits().await.expect("limits").delivered_events.is_some());

    // A successor goes on where this one stopped.
    stream.cancel.cancel();
    assert_eq!(soon(stream.task).await.expect("no panic"), Ended::Cancelled);
    let expected = publish(&org, 20).await;
    let mut successor = subscribe(pubsub.clone(), position.clone().expect("a position"));
    assert_eq!(take(&mut successor, expected.len()).await.0, expected);

    // An org that moved knows none of its old positions.
    org.control().inflict(Fault::ResetBus).await.expect("inflicted");
    org.control().inflict(Fault::CutStreams).await.expect("inflicted");
    let ended = soon(successor.task).await.expect("no panic");
    assert!(matches!(ended, Ended::Refused { .. }), "{ended:?}");
    soon(org.shutdown()).await;
}
