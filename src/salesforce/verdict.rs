//! What a gRPC error of the Pub/Sub API means for the caller.
//!
//! Salesforce names the error in the trailer `error-code`; the gRPC status beside it is not
//! the same for every release, so the code is asked first and the status second. Without a
//! code the error comes from the transport: a proxy, a reset, a lost connection.

use std::time::Duration;

use tonic::{Code, Status};

use crate::failure::{Exit, Failure};
use crate::salesforce::session_error::SessionError;

/// What to do after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Call again; nothing is wrong.
    RetryNow,
    /// Call again later.
    RetryAfter(Pause),
    /// The token was refused: get another one and call again.
    NewToken,
    /// The replay id is not accepted and never will be.
    OpenGap,
    /// Nobody but the operator can mend it.
    Stop(Failure),
}

/// How long to wait before calling again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Never less than this; above it the caller's own backoff counts.
    pub at_least: Duration,
    /// What an operator can do about it, where there is something.
    pub remedy: Option<&'static str>,
}

/// A call that ended with an error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no token to call with.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// Salesforce, or the transport, ended the call.
    #[error("The Pub/Sub API ended the call: {code} {error_code}: {message}", code = grpc_name(*code))]
    Status {
        /// gRPC status.
        code: Code,
        /// The `error-code` trailer; empty where there is none.
        error_code: String,
        /// The `rpc-id` trailer, for Salesforce Support; empty where there is none.
        rpc_id: String,
        /// The message, bounded.
        message: String,
        /// What to do.
        verdict: Verdict,
    },
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let message = match std::error::Error::source(&status) {
            // `transport error` alone helps nobody; the reason stands below it.
            Some(source) => format!("{}: {}", status.message(), innermost(source)),
            None => status.message().to_owned(),
        };
        Self::Status {
            code: status.code(),
            error_code: shown(trailer(&status, "error-code"), 200),
            rpc_id: shown(trailer(&status, "rpc-id"), 200),
            message: shown(&message, 400),
            verdict: classify(&status),
        }
    }
}

impl CallError {
    /// What to do after this error.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Session(error) if error.is_retryable() => {
                Verdict::RetryAfter(Pause { at_least: error.wait_at_least(), remedy: None })
            }
            Self::Session(error) => Verdict::Stop(error.failure()),
            Self::Status { verdict, .. } => verdict.clone(),
        }
    }

    /// The error for an operator, whatever the verdict.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Session(error) => error.failure(),
            Self::Status { verdict: Verdict::Stop(failure), .. } => failure.clone(),
            Self::Status { verdict: Verdict::RetryAfter(Pause { remedy: Some(remedy), .. }), .. } => {
                Failure::new(Exit::Unavailable, self.to_string(), *remedy)
            }
            Self::Status { verdict: Verdict::NewToken, .. } => {
                Failure::new(Exit::NoPermission, self.to_string(), AUTH_PAGE)
            }
            Self::Status { error_code, message, .. } => {
                let remedy = if !error_code.is_empty() {
                    NOTHING
                } else if message.contains("certificate") {
                    AUTHORITY
                } else {
                    REACH
                };
                Failure::new(Exit::Unavailable, self.to_string(), remedy)
            }
        }
    }

    /// A short name for counters.
    pub fn reason(&self) -> &'static str {
        let Self::Status { code, error_code, .. } = self else { return "session" };
        for (ending, reason) in REASONS {
            if names(error_code, ending) {
                return reason;
            }
        }
        match code {
            Code::Unauthenticated => "token",
            Code::Unavailable => "unavailable",
            Code::Internal | Code::Unknown | Code::Cancelled | Code::Aborted => "reset",
            Code::ResourceExhausted => "protection",
            Code::PermissionDenied => "permission",
            _ => "refused",
        }
    }
}

const REASONS: [(&str, &str); 8] = [
    ("service.unavailable", "unavailable"),
    ("service.auth.error", "token"),
    ("service.protection.triggered", "protection"),
    ("service.protection.stream.limit.triggered", "protection"),
    ("concurrent.client.limit.exceeded", "client_limit"),
    ("subscription.limit.exceeded", "allocation"),
    ("replayid.corrupted", "replay_id"),
    ("replayid.validation.failed", "replay_id"),
];

const REACH: &str = "Check DNS, firewall and HTTPS_PROXY on this machine; the endpoint is api.pubsub.salesforce.com:443 unless configured otherwise.";
const NOTHING: &str = "Nothing to do unless it lasts; see https://status.salesforce.com for the org's instance.";
const AUTHORITY: &str = "The server's certificate is not trusted: if a proxy of your company inspects TLS, give its authority as `ca_file`.";
const AUTH_PAGE: &str = "Setup > External Client App Manager > the app > Policies > OAuth Policies: relax IP restrictions and session level for the \
     integration user; Setup > Network Access lists trusted addresses.";
const TOPIC_PAGE: &str = "Setup > Change Data Capture: select the object; check the topic's spelling (case-sensitive); Setup > Permission Sets > the \
     integration user's set > Object Settings: grant \"View All Records\" on the object (\"View All Data\" for Task and Event). \
     A change takes up to ten minutes.";
const LICENCE: &str = "The Pub/Sub API needs Enterprise, Performance, Unlimited or Developer Edition (not Government Cloud); ask your Salesforce account team.";
pub(crate) const ALLOCATION: &str = "The org's delivered events of 24 hours are used up: Setup > Platform Events or `/limits` (DailyDeliveredPlatformEvents) \
     show the use; find other subscribers, or buy the add-on. Nothing is lost for 72 hours.";
const CLIENTS: &str = "Too many Pub/Sub clients of this org: end subscribers that nobody needs.";
const HEADERS: &str = "Check `endpoint` and `login_url`: token, instance and org must belong together.";
const ENDPOINT: &str = "Check `endpoint`: https://api.pubsub.salesforce.com:443 or https://api.deu.pubsub.salesforce.com:443. A proxy in between must pass HTTP/2.";
const OVERSIZE: &str = "Check that `endpoint` is Salesforce's: it documents at most 3 MB and 100 events a message. If it is, report the \
     message to Salesforce Support; nothing was taken from it, and the stream goes on before it.";
const FAULT: &str = "This is a fault of casewire; please report it with the rpc id of the log line.";

/// The verdict on a status; pure.
pub fn classify(status: &Status) -> Verdict {
    let error_code = trailer(status, "error-code");
    classify_code(error_code, status).unwrap_or_else(|| classify_status(status))
}

/// By the `error-code` trailer; the prefix `sfdc.platform.eventbus.grpc.` is not relied on.
fn classify_code(error_code: &str, status: &Status) -> Option<Verdict> {
    let is = |endings: &[&str]| endings.iter().any(|ending| names(error_code, ending));
    let stop = |exit, remedy| Verdict::Stop(Failure::new(exit, what(status), remedy));
    let pause = |seconds, remedy| Verdict::RetryAfter(Pause { at_least: Duration::from_secs(seconds), remedy });
    Some(if is(&["fetch.replayid.corrupted", "fetch.replayid.validation.failed"]) {
        Verdict::OpenGap
    } else if is(&["service.auth.error"]) {
        Verdict::NewToken
    } else if is(&["subscription.fetch.replay.repeated", "publish.stream.sweeper.timeout"]) {
        Verdict::RetryNow
    } else if is(&[
        "service.unavailable",
        "topic.api.unavailable",
        "schema.api.unavailable",
        "subscription.internal.error",
        "managed.subscription.already.active",
    ]) {
        pause(0, None)
    } else if is(&[
        "service.protection.triggered",
        "service.protection.stream.limit.triggered",
        "subscription.fetch.overflow",
    ]) {
        pause(10, None)
    } else if is(&["concurrent.client.limit.exceeded"]) {
        pause(300, Some(CLIENTS))
    } else if is(&["subscription.limit.exceeded"]) {
        pause(3600, Some(ALLOCATION))
    } else if is(&["service.auth.headers.invalid", "service.auth.refresh.invalid"]) {
        stop(Exit::Configuration, HEADERS)
    } else if is(&["service.tenant.license"]) {
        stop(Exit::NoPermission, LICENCE)
    } else if is(&[
        "topic.not.found",
        "topic.meta.permission",
        "subscription.topic.cannot.subscribe",
        "schema.meta.permission",
    ]) {
        stop(Exit::NoPermission, TOPIC_PAGE)
    } else if is(&[
        "topic.validation.empty",
        "schema.validation.failed",
        "fetch.requested.events.invalid",
        "fetch.topic.mismatch",
        "fetch.request.invalid",
    ]) {
        stop(Exit::Software, FAULT)
    } else {
        return None;
    })
}

/// By the gRPC status, where Salesforce gave no code that is known.
fn classify_status(status: &Status) -> Verdict {
    let stop = |exit, remedy| Verdict::Stop(Failure::new(exit, what(status), remedy));
    let backoff = |seconds| Verdict::RetryAfter(Pause { at_least: Duration::from_secs(seconds), remedy: None });
    match status.code() {
        Code::Unauthenticated => Verdict::NewToken,
        // A proxy can strip trailers; the text is Salesforce's own.
        Code::InvalidArgument if status.message().contains("Replay ID") => Verdict::OpenGap,
        Code::NotFound | Code::PermissionDenied => stop(Exit::NoPermission, TOPIC_PAGE),
        Code::Unimplemented => stop(Exit::Configuration, ENDPOINT),
        // Salesforce has no such status: our own side gives it to a message beyond all limits.
        Code::OutOfRange => stop(Exit::Unavailable, OVERSIZE),
        Code::InvalidArgument => stop(Exit::Software, FAULT),
        Code::FailedPrecondition => stop(Exit::Configuration, HEADERS),
        Code::ResourceExhausted => backoff(10),
        Code::Ok => Verdict::RetryNow,
        Code::Unavailable
        | Code::Internal
        | Code::Unknown
        | Code::Cancelled
        | Code::Aborted
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::DataLoss => backoff(0),
    }
}

/// Whether an error code is the one that ends so, at a dot.
fn names(error_code: &str, ending: &str) -> bool {
    error_code.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn trailer<'a>(status: &'a Status, name: &str) -> &'a str {
    status.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn what(status: &Status) -> String {
    format!("Salesforce refused the call ({}): {}", grpc_name(status.code()), shown(status.message(), 400))
}

/// A text of the other side, fit to be shown: bounded and printable.
fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|char| !char.is_control()).take(most).collect()
}

/// The name of a status as gRPC spells it.
fn grpc_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a dyn std::error::Error {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, error_code: &str) -> Status {
        let mut status = Status::new(code, "Something. rpcId: 1");
        if !error_code.is_empty() {
            status.metadata_mut().insert("error-code", error_code.parse().expect("ascii"));
        }
        status
    }

    /// The class of a verdict, with its least wait or its exit.
    fn class(verdict: &Verdict) -> String {
        match verdict {
            Verdict::RetryNow => "now".into(),
            Verdict::RetryAfter(pause) => format!("after {}", pause.at_least.as_secs()),
            Verdict::NewToken => "token".into(),
            Verdict::OpenGap => "gap".into(),
            Verdict::Stop(failure) => format!("stop {}", failure.exit as u8),
        }
    }

    #[test]
    fn every_error_code_has_its_verdict_whatever_the_status() {
        for (error_code, expected) in [
            ("service.unavailable", "after 0"),
            ("service.auth.error", "token"),
            ("service.auth.headers.invalid", "stop 78"),
            ("service.auth.refresh.invalid", "stop 78"),
            ("service.protection.triggered", "after 10"),
            ("service.protection.stream.limit.triggered", "after 10"),
            ("service.tenant.license", "stop 77"),
            ("concurrent.client.limit.exceeded", "after 300"),
            ("topic.not.found", "stop 77"),
            ("topic.meta.permission", "stop 77"),
            ("topic.api.unavailable", "after 0"),
            ("topic.validation.empty", "stop 70"),
            ("schema.meta.permission", "stop 77"),
            ("schema.api.unavailable", "after 0"),
            ("schema.validation.failed", "stop 70"),
            ("subscription.fetch.replayid.corrupted", "gap"),
            ("subscription.fetch.replayid.validation.failed", "gap"),
            ("subscription.fetch.replay.repeated", "now"),
            ("subscription.fetch.requested.events.invalid", "stop 70"),
            ("subscription.fetch.topic.mismatch", "stop 70"),
            ("subscription.fetch.request.invalid", "stop 70"),
            ("subscription.fetch.overflow", "after 10"),
            ("subscription.limit.exceeded", "after 3600"),
            ("subscription.topic.cannot.subscribe", "stop 77"),
            ("subscription.internal.error", "after 0"),
            ("managed.subscription.already.active", "after 0"),
        ] {
            for code in [Code::Internal, Code::InvalidArgument, Code::Unavailable, Code::PermissionDenied] {
                let verdict = classify(&status(code, &format!("sfdc.platform.eventbus.grpc.{error_code}")));
                assert_eq!(class(&verdict), expected, "{error_code} with {code:?}");
            }
        }
    }

    #[test]
    fn without_a_known_error_code_the_status_decides() {
        for (code, expected) in [
            (Code::Unavailable, "after 0"),
            (Code::Internal, "after 0"),
            (Code::Unknown, "after 0"),
            (Code::Cancelled, "after 0"),
            (Code::Aborted, "after 0"),
            (Code::DeadlineExceeded, "after 0"),
            (Code::DataLoss, "after 0"),
            (Code::AlreadyExists, "after 0"),
            (Code::ResourceExhausted, "after 10"),
            (Code::Unauthenticated, "token"),
            (Code::PermissionDenied, "stop 77"),
            (Code::NotFound, "stop 77"),
            (Code::Unimplemented, "stop 78"),
            (Code::FailedPrecondition, "stop 78"),
            (Code::InvalidArgument, "stop 70"),
            (Code::OutOfRange, "stop 69"),
            (Code::Ok, "now"),
        ] {
            assert_eq!(class(&classify(&status(code, ""))), expected, "{code:?}");
            assert_eq!(class(&classify(&status(code, "sfdc.platform.brand.new"))), expected, "{code:?}");
        }
        let text = "The Replay ID validation failed. Ensure that the Replay ID is valid. rpcId: 1";
        assert_eq!(classify(&Status::invalid_argument(text)), Verdict::OpenGap, "trailers stripped on the way");
    }

    #[test]
    fn a_code_is_matched_at_a_dot_only() {
        assert!(names("a.b.service.unavailable", "service.unavailable"));
        assert!(names("service.unavailable", "service.unavailable"));
        assert!(!names("a.myservice.unavailable", "service.unavailable"));
    }

    #[test]
    fn an_error_tells_the_code_the_status_and_what_to_do() {
        let error = CallError::from(status(Code::ResourceExhausted, "x.subscription.limit.exceeded"));
        assert_eq!(error.reason(), "allocation");
        assert!(error.failure().remedy.contains("DailyDeliveredPlatformEvents"));
        assert!(error.to_string().contains("RESOURCE_EXHAUSTED x.subscription.limit.exceeded"), "{error}");
        let flood = CallError::from(status(Code::Internal, &"x.\ty".repeat(4_000)));
        assert!(flood.to_string().len() < 700 && !flood.to_string().contains('\t'), "{flood}");
    }
}
