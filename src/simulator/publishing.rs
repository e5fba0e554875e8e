//! Publish and PublishStream: events that clients put on the bus.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use crate::proto::{Error, ErrorCode, ProducerEvent, PublishRequest, PublishResponse, PublishResult};
use crate::simulator::bus::replay_bytes;
use crate::simulator::control::Control;
use crate::simulator::org::{Org, Topic};
use crate::simulator::refusal::Refusal;

/// What takes events from clients.
#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    org: Arc<Org>,
    control: Control,
}

impl Publishing {
    pub(crate) fn new(org: Arc<Org>, control: Control) -> Self {
        Self { org, control }
    }

    /// One request: an answer for each of its events, or a refusal of all.
    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, Refusal> {
        let PublishRequest { topic_name, events, .. } = request;
        let object = self.platform_event(&topic_name)?;
        if events.is_empty() {
            let text = "The publish request contains no events.";
            return Err(Refusal::new(Code::InvalidArgument, "publish.event.count.invalid", text));
        }
        let mut results = Vec::with_capacity(events.len());
        for event in events {
            results.push(self.publish_event(&topic_name, event).await);
        }
        let (schema_id, rpc_id) = (self.org.current_schema(object), Uuid::new_v4().to_string());
        Ok(PublishResponse { results, schema_id, rpc_id })
    }

    /// The object that a topic takes events of.
    fn platform_event(&self, topic: &str) -> Result<usize, Refusal> {
        if topic.is_empty() {
            return Err(Refusal::empty_publish_topic());
        }
        match self.org.topic(topic).ok_or_else(|| Refusal::unknown_topic(topic))? {
            Topic::Entity { object, platform: true } => Ok(*object),
            Topic::Entity { .. } | Topic::Channel => {
                let text = format!("You can't publish to the topic {topic}.");
                Err(Refusal::new(Code::PermissionDenied, "topic.meta.permission", text))
            }
        }
    }

    async fn publish_event(&self, topic: &str, event: ProducerEvent) -> PublishResult {
        let correlation_key = event.id.clone();
        match self.control.accept(topic, event).await {
            Ok(replay) => PublishResult { replay_id: replay_bytes(replay), error: None, correlation_key },
            Err(msg) => {
                let error = Some(Error { code: ErrorCode::Publish.into(), msg });
                PublishResult { replay_id: Bytes::new(), error, correlation_key }
            }
        }
    }

    /// Serves a PublishStream call from its first request to its end: an answer for each request, in their order.
    pub(crate) async fn serve(
        self,
        mut requests: Streaming<PublishRequest>,
        responses: mpsc::Sender<Result<PublishResponse, Status>>,
    ) {
        let mut topic = String::new();
        let mut valid = Instant::now();
        loop {
            let answer = tokio::select! {
                () = responses.closed() => return,
                () = sleep_until(valid + self.org.settings.pubsub.publish_idle_close) => Err(Refusal::idle_publisher()),
                request = requests.message() => match request {
                    Ok(Some(request)) => self.publish_next(&mut topic, request).await,
                    // Half-close asks for the end; a broken request stream is one.
                    Ok(None) | Err(_) => return,
                },
            };
            valid = Instant::now();
            let refused = answer.is_err();
            let sent = responses.send(answer.map_err(|refusal| refusal.status("PublishStream"))).await;
            if refused || sent.is_err() {
                return;
            }
        }
    }

    /// The first request names the topic; a later one may, and then the same.
    async fn publish_next(&self, topic: &mut String, request: PublishRequest) -> Result<PublishResponse, Refusal> {
        if topic.is_empty() {
            topic.clone_from(&request.topic_name);
        } else if !request.topic_name.is_empty() && request.topic_name != *topic {
            return Err(Refusal::other_publish_topic());
        }
        self.publish(PublishRequest { topic_name: topic.clone(), ..request }).await
    }
}
