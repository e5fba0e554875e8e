//! No token, key, assertion or secret in a log line, an error or a debug print.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};

use secrecy::ExposeSecret;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing_subscriber::fmt::MakeWriter;

use crate::position::{Anchor, Position};
use crate::salesforce::buffer::Buffer;
use crate::salesforce::grant::Grant;
use crate::salesforce::pubsub::{PubSub, PubSubSettings};
use crate::salesforce::scripted::{
    KEY, ORG, ScriptedHttp, ScriptedPubSub, answer, events, granted, quick, refused, soon,
};
use crate::salesforce::session::{Session, SessionSettings};
use crate::salesforce::subscription::{SubscriptionSettings, SubscriptionState, run};

const TOKEN: &str = "00D8d00000AbCdE!AQEAQsecret-access-token";
const CLIENT_SECRET: &str = "consumer-secret-8315";

/// Everything written to it, as one text.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while writing")).into_owned()
    }

    fn add(&self, value: &(impl Debug + ?Sized)) {
        let text = format!("{value:?}\n{value:#?}\n");
        self.0.lock().expect("no panic while writing").extend_from_slice(text.as_bytes());
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while writing").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn jwt() -> Grant {
    Grant::JwtBearer {
        username: "integration@example.com".into(),
        client_id: "3MVG9".into(),
        private_key: KEY.pkcs8.as_str().into(),
        certificate: Some(KEY.certificate.clone()),
    }
}

/// Signs in, subscribes and reads limits with everything logged; returns the assertions that were sent.
async fn a_day_in_the_life(captured: &Captured) -> Vec<String> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let rest =
        ScriptedHttp::start(|asked| answer(403, format!(r#"[{{"message":"for {}","errorCode":"NO"}}]"#, asked.path)))
            .await;
    let (assertions, instance) = (sent.clone(), rest.url.to_string());
    let login = ScriptedHttp::start(move |asked| {
        let assertion = asked.form.get("assertion").or(asked.form.get("client_secret")).cloned().unwrap_or_default();
        assertions.lock().expect("no panic").push(assertion.clone());
        match asked.number {
            // A server that repeats what it got.
            0 | 2 => refused("invalid_grant", &format!("invalid assertion {assertion}")),
            _ => granted(TOKEN, &instance, ORG),
        }
    })
    .await;
    let mut server = ScriptedPubSub::start().await;
    let settings = quick(SessionSettings::new(login.url.clone(), jwt()));
    captured.add(&settings);
    let session = Session::new(settings).expect("settings");
    let error = session.token().await.expect_err("refused");
    captured.add(&error);
    captured.add(&error.failure().to_string());
    let token = session.token().await.expect("granted");
    assert_eq!(token.access_token().expose_secret(), TOKEN);
    captured.add(&token);
    captured.add(&session);
    captured.add(&session.limits().await.expect_err("refused"));

    let secret = Grant::ClientCredentials { client_id: "3MVG9".into(), client_secret: CLIENT_SECRET.into() };
    let other = Session::new(SessionSettings::new(login.url.clone(), secret)).expect("settings");
    captured.add(&other.token().await.expect_err("refused"));
    captured.add(&other);

    let pubsub = PubSub::new(PubSubSettings::new(server.url.clone()), session).expect("settings");
    captured.add(&pubsub);
    let (sender, mut intake) = mpsc::channel(4);
    let position = Position::starting(Anchor::Earliest { since: chrono::DateTime::UNIX_EPOCH });
    let settings = SubscriptionSettings::new("/data/CaseChangeEvent".parse().expect("topic"), 1);
    let state = watch::Sender::new(SubscriptionState::default());
    let watcher = state.subscribe();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run(pubsub, settings, position, Buffer::new(100, 1 << 20), sender, state, cancel));
    let mut call = server.call().await;
    assert_eq!(call.headers["accesstoken"], TOKEN, "the token does travel");
    call.send(&events([1], 99));
    soon(intake.recv()).await.expect("a batch");
    call.fail(Code::PermissionDenied, "topic.meta.permission", "No permission.");
    server.call().await.fail(Code::PermissionDenied, "topic.meta.permission", "No permission.");
    captured.add(&soon(task).await.expect("no panic"));
    captured.add(&*watcher.borrow());
    sent.lock().expect("no panic").clone()
}

#[tokio::test]
async fn no_secret_reaches_a_log_an_error_or_a_debug_print() {
    let captured = Captured::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(captured.clone()).finish();
    // While there is one subscriber only, a line first reached on a thread without it is switched off for all.
    // A second one makes every line ask both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // For this thread: the runtime of this test has no other.
    let guard = tracing::subscriber::set_default(subscriber);
    let assertions = a_day_in_the_life(&captured).await;
    drop(guard);

    let text = captured.text();
    for proof in ["signed in to salesforce", "TRACE", "h2::", "[redacted]", "the call failed"] {
        assert!(text.contains(proof), "the capture is not what it should be: no `{proof}`");
    }
    let key_lines = KEY.pkcs8.lines().filter(|line| !line.starts_with("-----"));
    let secrets = key_lines.chain(assertions.iter().map(String::as_str)).chain([TOKEN, CLIENT_SECRET, "AQEAQsecret"]);
    let mut searched = 0;
    for secret in secrets {
        searched += 1;
        assert!(!text.contains(secret), "a secret of {} characters got out", secret.len());
    }
    assert!(searched > 20, "{searched}");
}
