//! What comes back from the login server, the REST API and the Pub/Sub API when something is wrong, and tokens.
//!
//! The first byte says who answers, the second with which status; the rest is the answer. Whatever it is, it leads to a
//! verdict whose texts are bounded, printable and free of secrets.

#![no_main]

use std::time::Duration;

use casewire::failure::Failure;
use casewire::salesforce::reading;
use casewire::salesforce::verdict::{CallError, Verdict, classify};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tonic::{Code, Status};
use url::Url;

/// In the request; a server or a proxy can echo it.
const ASSERTION: &str = "eyJhbGciOiJSUzI1NiJ9.assertion";

/// In the answer.
const TOKEN: &str = "00D8d!AQ0AQtoken";

/// An error line should fit on a screen.
const LONGEST_TEXT: usize = 3_000;

const STATUSES: [u16; 16] = [200, 201, 204, 301, 302, 400, 401, 403, 404, 408, 415, 420, 429, 500, 503, 599];

fuzz_target!(|data: &[u8]| {
    let [who, status, answer @ ..] = data else { return };
    match who % 3 {
        0 => token(http_status(*status), status & 0x80 != 0, answer),
        1 => rest(http_status(*status), answer),
        _ => trailers(Code::from(i32::from(status % 20)), answer),
    }
});

fn http_status(byte: u8) -> StatusCode {
    StatusCode::from_u16(STATUSES[usize::from(byte) % STATUSES.len()]).expect("a status")
}

fn token(status: StatusCode, plain: bool, body: &[u8]) {
    let login =
        Url::parse(if plain { "http://127.0.0.1:8080" } else { "https://login.salesforce.com" }).expect("a URL");
    let form = [("grant_type", SecretString::from("jwt-bearer")), ("assertion", ASSERTION.into())];
    match reading::token_answer(&login, &form, status, body) {
        Ok(granted) => {
            assert!(status.is_success());
            assert!(plain || granted.instance_url.scheme() == "https", "the token over an open line");
            assert!(granted.instance_url.host_str().is_some_and(|host| !host.is_empty()));
            assert!(!granted.access_token.expose_secret().is_empty());
            assert_eq!(granted.org_id.as_str().parse(), Ok(granted.org_id.clone()));
        }
        Err(error) => {
            let failure = error.failure();
            fit_to_be_shown(&failure);
            assert!(!failure.to_string().contains(ASSERTION), "{failure}");
            let granted: Value = serde_json::from_slice(body).unwrap_or_default();
            // What stands elsewhere is none of an answer that grants another one.
            let is_token = status.is_success() && granted["access_token"] == TOKEN;
            assert!(!is_token || !failure.to_string().contains(TOKEN), "{failure}");
            assert!(error.wait_at_least() <= Duration::from_secs(120));
            // A wait for a refusal that no wait mends would hide it.
            assert!(error.is_retryable() || error.wait_at_least() == Duration::ZERO);
        }
    }
}

fn rest(status: StatusCode, body: &[u8]) {
    let error = reading::refusal(status, body);
    fit_to_be_shown(&error.failure());
    assert!(error.is_retryable() || !status.is_server_error(), "{error}");
}

/// The error code to the first line break, the message after it.
fn trailers(code: Code, answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    let (error_code, message) = text.split_once('\n').unwrap_or((&text, ""));
    let mut status = Status::new(code, message);
    for (name, value) in [("error-code", error_code), ("rpc-id", message)] {
        if let Ok(value) = value.parse() {
            status.metadata_mut().insert(name, value);
        }
    }
    let named = status.metadata().contains_key("error-code");
    let verdict = classify(&status);
    let error = CallError::from(status);
    assert_eq!(error.verdict(), verdict);
    fit_to_be_shown(&error.failure());
    assert!(!error.reason().is_empty());
    let known = named.then(|| known(error_code)).flatten();
    if let Some(expected) = known {
        assert!(expected(&verdict), "{error_code} with {code:?}: {verdict:?}");
    }
    match &verdict {
        // A gap is opened for a refused replay id and for nothing else.
        Verdict::OpenGap => assert!(error_code.contains("replayid") || message.contains("Replay ID")),
        Verdict::NewToken => assert!(error_code.ends_with("service.auth.error") || code == Code::Unauthenticated),
        Verdict::RetryAfter(pause) => assert!(pause.at_least <= Duration::from_secs(3600)),
        Verdict::Stop(failure) => fit_to_be_shown(failure),
        Verdict::RetryNow => assert!(code == Code::Ok || named),
    }
}

type Expected = fn(&Verdict) -> bool;

/// The codes that decide over loss: told by the code alone, whatever the gRPC status.
fn known(error_code: &str) -> Option<Expected> {
    let code = error_code.strip_prefix("sfdc.platform.eventbus.grpc.")?;
    Some(match code {
        "subscription.fetch.replayid.corrupted" | "subscription.fetch.replayid.validation.failed" => {
            |verdict| *verdict == Verdict::OpenGap
        }
        "service.auth.error" => |verdict| *verdict == Verdict::NewToken,
        "service.unavailable" | "subscription.limit.exceeded" => |verdict| matches!(verdict, Verdict::RetryAfter(_)),
        "topic.not.found" => |verdict| matches!(verdict, Verdict::Stop(_)),
        _ => return None,
    })
}

fn fit_to_be_shown(failure: &Failure) {
    let text = failure.to_string();
    assert!(text.len() <= LONGEST_TEXT, "{} bytes of text", text.len());
    assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
    assert!(!failure.remedy.is_empty(), "{text}");
}
