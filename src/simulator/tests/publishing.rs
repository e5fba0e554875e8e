//! Events that clients publish, one request at a time and in a stream.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Client, PATIENCE, client, config, earliest, error_code, start, trailer};
use crate::proto::{ProducerEvent, PublishRequest, PublishResponse};
use crate::simulator::{EventOrder, Fault, Simulator};

const TOPIC: &str = "/event/Case_Escalation__e";
const CASES: &str = "/data/CaseChangeEvent";

/// An event of the topic as a client would make one: published by the org and read back.
async fn sample(simulator: &Simulator, client: &mut Client) -> ProducerEvent {
    let order = EventOrder::new("Case_Escalation__e", "").with("Score__c", 1.5);
    simulator.control().publish(order).await.expect("published");
    client.open(earliest(TOPIC, 5)).await.expect("open").take(1).await.remove(0).event.expect("an event")
}

fn publish(topic: &str, event: &ProducerEvent, ids: &[&str]) -> PublishRequest {
    let events = ids.iter().map(|id| ProducerEvent { id: (*id).to_owned(), ..event.clone() }).collect();
    PublishRequest { topic_name: topic.to_owned(), events, ..PublishRequest::default() }
}

fn damaged(event: &ProducerEvent) -> ProducerEvent {
    ProducerEvent { payload: vec![0xFF; 20].into(), ..event.clone() }
}

async fn stream(client: &mut Client, requests: Vec<PublishRequest>) -> Result<Streaming<PublishResponse>, Status> {
    let (sender, receiver) = mpsc::channel(16);
    for request in requests {
        sender.send(request).await.expect("there is room");
    }
    let request = client.request(ReceiverStream::new(receiver));
    // The sender lives on, so that the call is not half-closed.
    let answer = tokio::time::timeout(PATIENCE, client.stub.publish_stream(request)).await.expect("in time");
    tokio::spawn(async move { sender.closed().await });
    answer.map(tonic::Response::into_inner)
}

/// The error that a call comes to, whether instead of the response or in it, and what was answered before.
async fn refusal(client: &mut Client, requests: Vec<PublishRequest>) -> (usize, Status) {
    let mut responses = match stream(client, requests).await {
        Err(status) => return (0, status),
        Ok(responses) => responses,
    };
    let mut answered = 0;
    loop {
        match tokio::time::timeout(PATIENCE, responses.message()).await.expect("in time") {
            Ok(Some(_)) => answered += 1,
            Ok(None) => panic!("the call is refused"),
            Err(status) => return (answered, status),
        }
    }
}

#[tokio::test]
async fn platform_events_can_be_published_by_clients_and_change_events_cannot() {
    let simulator = start(config().await).await;
    let mut client = client(&simulator).await;
    let event = sample(&simulator, &mut client).await;
    let request = client.request(publish(TOPIC, &event, &["chosen by the client"]));
    let result = client.stub.publish(request).await.expect("published").into_inner().results.remove(0);
    assert_eq!((result.correlation_key.as_str(), result.error), ("chosen by the client", None));
    let events = client.open(earliest(TOPIC, 5)).await.expect("open").take(2).await;
    assert_eq!(events[1].replay_id, result.replay_id);
    let request = client.request(publish(TOPIC, &damaged(&event), &["damaged"]));
    let result = client.stub.publish(request).await.expect("answered").into_inner().results.remove(0);
    assert!(result.error.is_some() && result.replay_id.is_empty());
    let request = client.request(publish(CASES, &event, &["x"]));
    assert_eq!(client.stub.publish(request).await.expect_err("refused").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_event_may_have_a_schema_that_its_topic_had_before_and_none_of_another_topic() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let mut client = client(&simulator).await;
    let before = sample(&simulator, &mut client).await;
    let entity = "Case_Escalation__e".to_owned();
    control.inflict(Fault::AddField { entity, field: "Tier__c".to_owned() }).await.expect("added");
    let request = client.request(publish(TOPIC, &before, &["old schema"]));
    let result = client.stub.publish(request).await.expect("published").into_inner().results.remove(0);
    assert_eq!(result.error, None);
    let events = client.open(earliest(TOPIC, 5)).await.expect("open").take(2).await;
    let event = events[1].event.as_ref().expect("an event");
    assert_eq!(
        (&event.schema_id, &event.payload),
        (&before.schema_id, &before.payload),
        "it is told as it was published"
    );
    let case = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published").remove(0);
    let foreign = ProducerEvent { schema_id: case.schema_id, ..before };
    let request = client.request(publish(TOPIC, &foreign, &["foreign"]));
    let result = client.stub.publish(request).await.expect("answered").into_inner().results.remove(0);
    assert!(result.error.is_some());
}

#[tokio::test]
async fn a_publish_stream_answers_each_request_in_its_order_and_an_event_that_cannot_be_read_does_not_end_it() {
    let simulator = start(config().await).await;
    let mut client = client(&simulator).await;
    let event = sample(&simulator, &mut client).await;
    // Only the first request has to name the topic, and none has to wait for an answer.
    let requests = vec![
        publish(TOPIC, &event, &["a", "b"]),
        publish("", &damaged(&event), &["damaged"]),
        publish(TOPIC, &event, &["c"]),
    ];
    let mut responses = stream(&mut client, requests).await.expect("open");
    let (mut keys, mut positions) = (Vec::new(), Vec::new());
    for size in [2, 1, 1] {
        let response = responses.message().await.expect("no error").expect("no end");
        assert_eq!((response.results.len(), &response.schema_id), (size, &event.schema_id));
        for result in response.results {
            assert_eq!(result.error.is_some(), result.correlation_key == "damaged");
            positions.extend(result.error.is_none().then_some(result.replay_id));
            keys.push(result.correlation_key);
        }
    }
    assert_eq!(keys, ["a", "b", "damaged", "c"]);
    let events = client.open(earliest(TOPIC, 5)).await.expect("open").take(4).await;
    assert_eq!(events[1..].iter().map(|event| event.replay_id.clone()).collect::<Vec<_>>(), positions);
}

#[tokio::test]
async fn wrong_publish_requests_end_the_stream_with_the_code_of_each() {
    let simulator = start(config().await).await;
    let mut client = client(&simulator).await;
    let event = sample(&simulator, &mut client).await;
    let good = publish(TOPIC, &event, &["good"]);
    let other = publish("/event/Other__e", &event, &["x"]);
    let cases = [
        (vec![good.clone(), other.clone()], 1, Code::InvalidArgument, "publish.topic.mismatch"),
        (vec![good, publish(TOPIC, &event, &[])], 1, Code::InvalidArgument, "publish.event.count.invalid"),
        (vec![publish("", &event, &["x"])], 0, Code::InvalidArgument, "publish.topic.validation.empty"),
        (vec![other], 0, Code::NotFound, "topic.not.found"),
        (vec![publish(CASES, &event, &["x"])], 0, Code::PermissionDenied, "topic.meta.permission"),
    ];
    for (requests, answered, code, error) in cases {
        let (before, refused) = refusal(&mut client, requests).await;
        assert_eq!((before, refused.code(), error_code(&refused).as_str()), (answered, code, error));
        assert_eq!(trailer(&refused, "type"), "PublishStream");
    }
}

#[tokio::test]
async fn a_publish_stream_without_requests_is_closed() {
    let mut config = config().await;
    config.pubsub.publish_idle_close = Duration::from_millis(200);
    let simulator = start(config).await;
    let mut client = client(&simulator).await;
    let event = sample(&simulator, &mut client).await;
    let (answered, refused) = refusal(&mut client, vec![publish(TOPIC, &event, &["one"])]).await;
    assert_eq!((answered, error_code(&refused).as_str()), (1, "publish.stream.sweeper.timeout"));
}
