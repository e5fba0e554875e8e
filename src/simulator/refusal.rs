//! gRPC errors as the Pub/Sub API sends them: a status, and in the trailers the dotted
//! error code, the id of the call, and the kind of call.

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use uuid::Uuid;

/// What every error code begins with.
pub(crate) const PREFIX: &str = "sfdc.platform.eventbus.grpc.";

/// A call refused or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: Code,
    /// Without the common prefix.
    error_code: String,
    text: String,
}

impl Refusal {
    /// `error_code` may be given with or without the common prefix.
    pub(crate) fn new(code: Code, error_code: &str, text: impl Into<String>) -> Self {
        let error_code = error_code.strip_prefix(PREFIX).unwrap_or(error_code);
        Self { code, error_code: error_code.to_owned(), text: text.into() }
    }

    /// The status of a call of this kind (`Subscribe`, `GetTopic`, …).
    pub(crate) fn status(&self, rpc: &str) -> Status {
        let rpc_id = Uuid::new_v4().to_string();
        let mut trailers = MetadataMap::new();
        let error_code = format!("{PREFIX}{}", self.error_code);
        for (key, value) in [("error-code", error_code.as_str()), ("rpc-id", &rpc_id), ("type", rpc)] {
            // A scripted code may hold anything; what is not ASCII is left out.
            if let Ok(value) = value.parse() {
                trailers.insert(key, value);
            }
        }
        Status::with_metadata(self.code, format!("{} rpcId: {rpc_id}", self.text), trailers)
    }

    pub(crate) fn bad_token() -> Self {
        Self::new(
            Code::Unauthenticated,
            "service.auth.error",
            "An authentication exception occurred. Provide valid authentication via metadata headers.",
        )
    }

    pub(crate) fn missing_header(name: &str) -> Self {
        Self::new(
            Code::Unauthenticated,
            "service.auth.headers.invalid",
            format!("The authentication headers are invalid: {name} is missing."),
        )
    }

    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::new(Code::NotFound, "topic.not.found", format!("The topic {topic} doesn't exist or you can't access it."))
    }

    pub(crate) fn empty_topic() -> Self {
        Self::new(Code::InvalidArgument, "topic.validation.empty", "The topic name is empty.")
    }

    pub(crate) fn empty_publish_topic() -> Self {
        Self::new(Code::InvalidArgument, "publish.topic.validation.empty", "The topic name is empty.")
    }

    pub(crate) fn other_publish_topic() -> Self {
        Self::new(
            Code::InvalidArgument,
            "publish.topic.mismatch",
            "The topic name of a publish request differs from the one of the first request.",
        )
    }

    pub(crate) fn idle_publisher() -> Self {
        // The status of this code is not known; a managed subscription without commits ends with this one.
        Self::new(
            Code::DeadlineExceeded,
            "publish.stream.sweeper.timeout",
            "No valid publish request was received in time. Closing the publish stream.",
        )
    }

    pub(crate) fn no_permission(topic: &str) -> Self {
        Self::new(
            Code::PermissionDenied,
            "subscription.topic.cannot.subscribe",
            format!("You don't have permission to subscribe to the topic {topic}."),
        )
    }

    pub(crate) fn corrupted_replay_id() -> Self {
        Self::new(
            Code::InvalidArgument,
            "subscription.fetch.replayid.corrupted",
            "The Replay ID validation failed. Ensure that the Replay ID is valid.",
        )
    }

    pub(crate) fn missing_replay_id() -> Self {
        Self::new(
            Code::InvalidArgument,
            "subscription.fetch.replayid.validation.failed",
            "The replay_preset field in FetchRequest is set to ReplayPreset.CUSTOM, but no Replay ID value is set",
        )
    }

    pub(crate) fn nothing_requested() -> Self {
        Self::new(
            Code::InvalidArgument,
            "subscription.fetch.requested.events.invalid",
            "The requested number of events in a fetch request must be greater than zero",
        )
    }

    pub(crate) fn other_topic() -> Self {
        Self::new(
            Code::InvalidArgument,
            "subscription.fetch.topic.mismatch",
            "The topic name of a fetch request differs from the one of the first request.",
        )
    }

    pub(crate) fn allocation_used_up() -> Self {
        // The status of this code is not known; the service's other exhaustion errors use this one.
        Self::new(
            Code::ResourceExhausted,
            "subscription.limit.exceeded",
            "You have exceeded the event delivery limit for your org.",
        )
    }

    pub(crate) fn unknown_schema(id: &str) -> Self {
        Self::new(Code::InvalidArgument, "schema.validation.failed", format!("The schema ID {id} is not valid."))
    }
}
