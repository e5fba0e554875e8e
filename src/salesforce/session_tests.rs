//! The session against login servers that answer by script.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::Exit;
use crate::salesforce::grant::Grant;
use crate::salesforce::rest::{Allowance, RestError};
use crate::salesforce::scripted::{
    Asked, KEY, ORG, ScriptedHttp, answer, granted, quick, refused, session, settings, soon,
};
use crate::salesforce::session::{Session, SessionError, SessionSettings, Token, audience_of};

use secrecy::ExposeSecret;

const OTHER_ORG: &str = "00D8d00000XyZab";

fn secret(token: &Token) -> &str {
    token.access_token().expose_secret()
}

fn jwt(login: &ScriptedHttp) -> SessionSettings {
    let grant = Grant::JwtBearer {
        username: "integration@example.com".into(),
        client_id: "3MVG9".into(),
        private_key: KEY.pkcs8.as_str().into(),
        certificate: Some(KEY.certificate.clone()),
    };
    quick(SessionSettings::new(login.url.clone(), grant))
}

/// The claims of an assertion, unverified.
fn claims(asked: &Asked) -> serde_json::Value {
    jsonwebtoken::dangerous::insecure_decode_claims(&asked.form["assertion"]).expect("a JWT")
}

#[test]
fn the_audience_is_the_origin_of_the_login_url() {
    for (login, audience) in [
        ("https://login.salesforce.com", "https://login.salesforce.com"),
        ("https://test.salesforce.com/", "https://test.salesforce.com"),
        ("https://acme--uat.sandbox.my.salesforce.com/", "https://acme--uat.sandbox.my.salesforce.com"),
        ("http://127.0.0.1:8080/org", "http://127.0.0.1:8080"),
    ] {
        assert_eq!(audience_of(&login.parse().expect("url")), audience);
    }
}

#[tokio::test]
async fn one_exchange_serves_all_who_wait_and_each_rejection_costs_one_more() {
    let login = ScriptedHttp::granting().await;
    let session = session(&login.url);
    let everybody = || {
        let mut waiting = JoinSet::new();
        for _ in 0..20 {
            let session = session.clone();
            waiting.spawn(async move { session.token().await.expect("granted") });
        }
        waiting.join_all()
    };
    let first = soon(everybody()).await;
    assert!(first.iter().all(|token| secret(token) == "token-0"));
    assert_eq!((login.count(), first[0].org_id().as_str()), (1, ORG));
    for token in &first {
        session.reject(token);
    }
    let second = soon(everybody()).await;
    assert!(second.iter().all(|token| secret(token) == "token-1"));
    session.reject(&first[0]);
    assert_eq!(secret(&session.token().await.expect("cached")), "token-1", "that one was renewed already");
    assert_eq!(login.count(), 2);
}

#[tokio::test]
async fn a_failure_is_told_to_those_who_waited_and_to_nobody_after() {
    let login = ScriptedHttp::start(|asked| match asked.number {
        0 => refused("invalid_client_id", "client identifier invalid"),
        _ => granted("token", "http://127.0.0.1:1", ORG),
    })
    .await;
    let session = session(&login.url);
    let (one, two, three) = soon(async { tokio::join!(session.token(), session.token(), session.token()) }).await;
    let expected =
        SessionError::Refused { code: "invalid_client_id".into(), description: "client identifier invalid".into() };
    for outcome in [one, two, three] {
        assert_eq!(outcome.expect_err("refused"), expected);
    }
    assert_eq!(login.count(), 1);
    assert!(session.token().await.is_ok());
}

#[tokio::test]
async fn a_token_that_is_always_rejected_costs_no_more_than_one_exchange_a_spacing() {
    let login = ScriptedHttp::granting().await;
    let spacing = Duration::from_millis(40);
    let session = Session::new(SessionSettings { minimum_spacing: spacing, ..settings(&login.url) }).expect("settings");
    let began = Instant::now();
    for _ in 0..5 {
        session.reject(&session.token().await.expect("granted"));
    }
    assert!(began.elapsed() >= spacing * 4);
    assert_eq!(login.count(), 5);
}

#[tokio::test]
async fn disturbances_are_tried_again_and_refusals_are_not() {
    let login = ScriptedHttp::start(|asked| match asked.number {
        0 => answer(503, "<html>maintenance</html>"),
        1 => refused("server_error", "unexpected"),
        _ => granted("token", "http://127.0.0.1:1", ORG),
    })
    .await;
    assert!(soon(session(&login.url).token()).await.is_ok());
    assert_eq!(login.count(), 3);

    for (code, exit) in [("invalid_app_access", Exit::NoPermission), ("never_seen", Exit::Configuration)] {
        let login = ScriptedHttp::start(move |_| refused(code, "no")).await;
        let error = session(&login.url).token().await.expect_err("refused");
        assert_eq!((error.failure().exit, login.count()), (exit, 1), "{code}");
    }

    let gone = ScriptedHttp::start(|_| answer(302, "")).await;
    let error = session(&gone.url).token().await.expect_err("an assertion does not follow redirects");
    assert!(error.failure().remedy.contains("login_url"), "{error}");

    let nobody = session(&"http://127.0.0.1:1".parse().expect("url"));
    let error = soon(nobody.token()).await.expect_err("nobody listens");
    assert!(error.is_retryable() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_assertion_is_signed_by_salesforces_clock_when_ours_is_off() {
    let server_now = || Utc::now() + TimeDelta::hours(2);
    let login = ScriptedHttp::start(move |asked| {
        let left = claims(&asked)["exp"].as_i64().expect("number") - server_now().timestamp();
        assert_eq!(claims(&asked)["aud"].as_str().map(|aud| aud.starts_with("http://127.0.0.1:")), Some(true));
        let mut response = if (1..=180).contains(&left) {
            granted("token", "http://127.0.0.1:1", ORG)
        } else {
            refused("invalid_grant", "expired assertion")
        };
        let date = server_now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        response.headers_mut().insert("date", date.parse().expect("header"));
        response
    })
    .await;
    let session = Session::new(jwt(&login)).expect("settings");
    assert!(session.token().await.is_ok());
    assert_eq!(login.count(), 2, "one retry, at once");
    assert!((session.salesforce_now() - server_now()).abs() < TimeDelta::seconds(30));
}

#[tokio::test]
async fn a_wrong_assertion_is_not_blamed_on_a_clock_that_is_right() {
    let login = ScriptedHttp::start(|_| refused("invalid_grant", "invalid assertion")).await;
    let error = Session::new(jwt(&login)).expect("settings").token().await.expect_err("refused");
    assert_eq!(login.count(), 1);
    assert!(error.failure().remedy.contains("Upload the certificate"));
}

#[tokio::test]
async fn a_token_of_another_org_is_refused_whether_pinned_or_seen_before() {
    let login = ScriptedHttp::start(|asked| {
        granted("token", "http://127.0.0.1:1", if asked.number == 0 { ORG } else { OTHER_ORG })
    })
    .await;
    let session = session(&login.url);
    session.reject(&session.token().await.expect("granted"));
    let error = session.token().await.expect_err("the org cannot change");
    assert!(matches!(error, SessionError::WrongOrg { .. }), "{error}");

    let pinned = SessionSettings { org_id: Some(ORG.parse().expect("org")), ..settings(&login.url) };
    let error = Session::new(pinned).expect("settings").token().await.expect_err("pinned");
    assert!(error.to_string().contains(ORG) && error.to_string().contains(OTHER_ORG), "{error}");
    assert_eq!(error.failure().exit, Exit::Configuration);
}

#[tokio::test]
async fn an_aged_token_is_renewed_or_kept_while_the_login_server_is_disturbed() {
    let login = ScriptedHttp::start(|asked| match asked.number {
        2 => refused("rate_limit_exceeded", "Number of logins exceeded"),
        number => granted(&format!("token-{number}"), "http://127.0.0.1:1", ORG),
    })
    .await;
    let aged = SessionSettings { maximum_age: Duration::ZERO, ..settings(&login.url) };
    let session = Session::new(aged).expect("settings");
    assert_eq!(secret(&session.token().await.expect("granted")), "token-0");
    assert_eq!(secret(&session.token().await.expect("renewed")), "token-1");
    let kept = session.token().await.expect("kept");
    assert_eq!(secret(&kept), "token-1");
    assert_eq!(secret(&session.token().await.expect("not asked again so soon")), "token-1");
    assert_eq!(login.count(), 3);
    session.reject(&kept);
    assert_eq!(secret(&session.token().await.expect("a refused one is not kept")), "token-3");
}

#[tokio::test]
async fn rest_calls_follow_the_instance_and_renew_an_expired_session_once() {
    let expired = r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#;
    let limits = r#"{"DailyApiRequests":{"Max":15000,"Remaining":14998},"Other":{"Max":1,"Remaining":1},
        "DailyDeliveredPlatformEvents":{"Max":50000,"Remaining":-3}}"#;
    let old = ScriptedHttp::start(move |_| answer(401, expired)).await;
    let new = ScriptedHttp::start(move |asked| match (asked.bearer.as_str(), asked.path.as_str()) {
        ("token-1", "/services/data/v66.0/limits") => answer(200, limits),
        _ => answer(401, expired),
    })
    .await;
    let instances = [old.url.to_string(), new.url.to_string()];
    let login = ScriptedHttp::start(move |asked| {
        granted(&format!("token-{}", asked.number), &instances[asked.number.min(1)], ORG)
    })
    .await;
    let session = session(&login.url);
    let limits = session.limits().await.expect("limits");
    assert_eq!(limits.delivered_events, Some(Allowance { max: 50_000, remaining: -3 }));
    assert_eq!(limits.api_requests, Some(Allowance { max: 15_000, remaining: 14_998 }));
    assert_eq!((old.count(), new.count(), login.count()), (1, 1, 2));

    let error = session.get_json::<serde_json::Value>("/other").await.expect_err("refused twice");
    assert!(matches!(error, RestError::Refused { status: 401, .. }), "{error}");
    assert_eq!((new.count(), login.count()), (3, 3), "once more, with one new token");
    let error = session.get_json::<serde_json::Value>("https://elsewhere.example/").await.expect_err("another host");
    assert!(matches!(error, RestError::Path(_)), "{error}");
}
