//! Signing in: what is accepted and the exact words of each refusal.

use serde_json::{Value, json};

use super::{assertion, client, config, error_code, exchange, post_token, start, trailer};
use crate::proto::TopicRequest;
use crate::simulator::Fault;

#[tokio::test]
async fn a_right_assertion_gets_a_token_that_works_everywhere() {
    let simulator = start(config().await).await;
    let (status, token) = exchange(&simulator, &assertion(&simulator, |_| {})).await;
    assert_eq!(status, 200, "{token}");
    let mut keys: Vec<&String> = token.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["access_token", "id", "instance_url", "scope", "token_type"], "and no expires_in");
    let access = token["access_token"].as_str().expect("a text");
    assert!(access.starts_with(&format!("{}!", &simulator.org_id()[..15])));
    assert_eq!(token["id"].as_str().and_then(|id| id.rsplit('/').nth(1)), Some(simulator.org_id()));
    let http = reqwest::Client::new();
    let instance = simulator.instance_url();
    let info =
        http.get(format!("{instance}/services/oauth2/userinfo")).bearer_auth(access).send().await.expect("an answer");
    let info: Value = info.json().await.expect("JSON");
    assert_eq!(info["organization_id"], json!(simulator.org_id()));
    let limits =
        http.get(format!("{instance}/services/data/v66.0/limits")).bearer_auth(access).send().await.expect("an answer");
    assert!(limits.headers().contains_key("date"));
    assert_eq!(limits.headers()["sforce-limit-info"], "api-usage=1/100000");
    let limits: Value = limits.json().await.expect("JSON");
    assert_eq!(limits["DailyDeliveredPlatformEvents"], json!({ "Max": 50_000, "Remaining": 50_000 }));
    let versions = reqwest::get(format!("{instance}/services/data")).await.expect("an answer");
    let versions: Value = versions.json().await.expect("JSON");
    assert!(versions.as_array().is_some_and(|versions| versions.iter().any(|one| one["version"] == "66.0")));
}

#[tokio::test]
async fn each_wrong_assertion_is_refused_in_the_words_of_salesforce() {
    let simulator = start(config().await).await;
    let now = chrono::Utc::now().timestamp();
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(Change, &str, &str)> = vec![
        (Box::new(|claims| claims["iss"] = json!("somebody")), "invalid_client_id", "client identifier invalid"),
        (
            Box::new(|claims| claims["sub"] = json!("nobody@example.com")),
            "invalid_grant",
            "user hasn't approved this consumer",
        ),
        (
            Box::new(|claims| claims["aud"] = json!("https://login.salesforce.com/")),
            "invalid_grant",
            "audience is invalid",
        ),
        (Box::new(move |claims| claims["exp"] = json!(now - 1)), "invalid_grant", "invalid assertion"),
        (Box::new(move |claims| claims["exp"] = json!(now + 3_600)), "invalid_grant", "invalid assertion"),
        (Box::new(|claims| claims["exp"] = Value::Null), "invalid_grant", "invalid assertion"),
    ];
    for (change, error, description) in cases {
        let answer = exchange(&simulator, &assertion(&simulator, change)).await;
        assert_eq!(answer, (400, json!({ "error": error, "error_description": description })));
    }
    let forged = assertion(&simulator, |_| {});
    let cut = forged.rfind('.').expect("a signature") + 5;
    let other = if &forged[cut..=cut] == "A" { "B" } else { "A" };
    let forged = format!("{}{other}{}", &forged[..cut], &forged[cut + 1..]);
    assert_eq!(exchange(&simulator, &forged).await.1["error_description"], "invalid assertion");
    let (status, answer) = post_token(&simulator, &[("grant_type", "password")]).await;
    assert_eq!((status, &answer["error"]), (400, &json!("unsupported_grant_type")));
}

#[tokio::test]
async fn the_client_credentials_flow_needs_the_secret_and_the_instance_host() {
    let mut config = config().await;
    config.listen.instance = Some(config.listen.http);
    let simulator = start(config).await;
    assert_ne!(simulator.login_url(), simulator.instance_url());
    let http = reqwest::Client::new();
    let ask = async |host: String, secret: &str| {
        let form =
            [("grant_type", "client_credentials"), ("client_id", simulator.client_id()), ("client_secret", secret)];
        let response = http.post(format!("{host}/services/oauth2/token")).form(&form).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.expect("JSON")["error"].clone())
    };
    assert_eq!(ask(simulator.instance_url(), simulator.client_secret()).await, (200, Value::Null));
    assert_eq!(ask(simulator.instance_url(), "wrong").await, (400, json!("invalid_client")));
    assert_eq!(ask(simulator.login_url(), simulator.client_secret()).await, (400, json!("invalid_grant")));
}

#[tokio::test]
async fn tokens_end_and_scripted_errors_are_answered_as_often_as_ordered() {
    let simulator = start(config().await).await;
    let control = simulator.control();
    let refuse = Fault::RefuseSignIn {
        error: "inactive_user".to_owned(),
        description: "User is inactive".to_owned(),
        status: 400,
        times: 2,
    };
    control.inflict(refuse).await.expect("inflicted");
    for expected in [400, 400, 200] {
        assert_eq!(exchange(&simulator, &assertion(&simulator, |_| {})).await.0, expected);
    }
    let (_, token) = exchange(&simulator, &assertion(&simulator, |_| {})).await;
    let access = token["access_token"].as_str().expect("a text").to_owned();
    let http = reqwest::Client::new();
    let limits = async || {
        let url = format!("{}/services/data/v66.0/limits", simulator.instance_url());
        let response = http.get(url).bearer_auth(&access).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    };
    assert_eq!(limits().await.0, 200);
    let revoke = http.post(format!("{}/services/oauth2/revoke", simulator.login_url())).form(&[("token", &access)]);
    assert_eq!(revoke.send().await.expect("an answer").status(), 200);
    let refused = (401, r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#.to_owned());
    assert_eq!(limits().await, refused);
    control.inflict(Fault::FailHttp { status: 503, times: 1 }).await.expect("inflicted");
    let (status, body) = limits().await;
    assert!(status == 503 && body.starts_with("<html>"));
    control.inflict(Fault::ShiftClock { seconds: 7_200 }).await.expect("inflicted");
    assert_eq!(exchange(&simulator, &assertion(&simulator, |_| {})).await.0, 400, "expired by the org's clock");
}

#[tokio::test]
async fn an_idle_token_expires() {
    let mut config = config().await;
    config.sign_in.token_idle_timeout = std::time::Duration::ZERO;
    let simulator = start(config).await;
    let mut client = client(&simulator).await;
    let request = client.request(TopicRequest { topic_name: "/data/CaseChangeEvent".to_owned() });
    let refused = client.stub.get_topic(request).await.expect_err("expired");
    assert_eq!((refused.code(), error_code(&refused)), (tonic::Code::Unauthenticated, "service.auth.error".to_owned()));
}

#[tokio::test]
async fn every_call_needs_the_three_headers_and_errors_carry_their_trailers() {
    let simulator = start(config().await).await;
    let good = client(&simulator).await;
    let ask = async |headers: Vec<(&'static str, String)>, topic: &str| {
        let mut client = super::Client { headers, ..good.clone() };
        let request = client.request(TopicRequest { topic_name: topic.to_owned() });
        client.stub.get_topic(request).await.map(tonic::Response::into_inner)
    };
    let topic = ask(good.headers.clone(), "/data/CaseChangeEvent").await.expect("known");
    assert!(topic.can_subscribe && !topic.can_publish && topic.schema_id.len() == 22);
    for missing in 0..3 {
        let mut headers = good.headers.clone();
        headers.remove(missing);
        let refused = ask(headers, "/data/CaseChangeEvent").await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert_eq!(error_code(&refused), "service.auth.headers.invalid");
        let mut headers = good.headers.clone();
        headers[missing].1.push('x');
        let refused = ask(headers, "/data/CaseChangeEvent").await.expect_err("refused");
        assert_eq!(
            (refused.code(), error_code(&refused)),
            (tonic::Code::Unauthenticated, "service.auth.error".to_owned())
        );
        assert_eq!(trailer(&refused, "type"), "GetTopic");
        assert!(refused.message().ends_with(&format!(" rpcId: {}", trailer(&refused, "rpc-id"))));
    }
    let refused = ask(good.headers.clone(), "/data/casechangeevent").await.expect_err("topics are case-sensitive");
    assert_eq!((refused.code(), error_code(&refused)), (tonic::Code::NotFound, "topic.not.found".to_owned()));
}

#[tokio::test]
async fn the_login_host_can_speak_tls_and_keeps_its_authority_between_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = config().await.directory.expect("set");
    for file in ["key.pem", "certificate.pem"] {
        std::fs::copy(pair.join(file), directory.path().join(file)).expect("copied");
    }
    let mut config = config().await;
    config.listen.http_tls = true;
    config.directory = Some(directory.path().to_owned());
    let earlier = start(config.clone()).await;
    let trusted = earlier.ca_pem().expect("a CA").to_owned();
    earlier.shutdown().await;
    let simulator = start(config).await;
    assert_eq!(simulator.ca_pem(), Some(trusted.as_str()));
    let ca = reqwest::Certificate::from_pem(trusted.as_bytes()).expect("a certificate");
    let http = reqwest::Client::builder().tls_certs_only([ca]).build().expect("a client");
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let signed = assertion(&simulator, |_| {});
    let url = format!("{}/services/oauth2/token", simulator.login_url());
    let answer = http.post(url).form(&[("grant_type", grant), ("assertion", &signed)]).send().await.expect("an answer");
    let token: Value = answer.json().await.expect("JSON");
    assert!(token["instance_url"].as_str().is_some_and(|url| url.starts_with("https://")), "{token}");
}
