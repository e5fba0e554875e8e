//! The channel and its unary calls, over plaintext, TLS and a proxy.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use crate::identity::SchemaId;
use crate::proto::{SchemaInfo, SchemaRequest, TopicInfo, TopicRequest};
use crate::salesforce::pubsub::{PubSub, PubSubSettings};
use crate::salesforce::scripted::{ScriptedHttp, ScriptedPubSub, connect_proxy, session, soon};
use crate::salesforce::verdict::{CallError, Verdict};

#[tokio::test]
async fn a_unary_call_renews_a_refused_token_once() {
    let mut server = ScriptedPubSub::start().await;
    let login = ScriptedHttp::granting().await;
    let pubsub = PubSub::new(PubSubSettings::new(server.url.clone()), session(&login.url)).expect("settings");
    let asking = tokio::spawn({
        let pubsub = pubsub.clone();
        async move { pubsub.schema(&SchemaId::from("fu0f4h")).await }
    });
    server.call().await.fail(Code::Unauthenticated, "service.auth.error", "no");
    let mut call = server.call().await;
    assert_eq!(
        (call.path.as_str(), call.headers["accesstoken"].as_bytes()),
        ("/eventbus.v1.PubSub/GetSchema", &b"token-1"[..])
    );
    assert_eq!(call.request::<SchemaRequest>().await.map(|request| request.schema_id), Some("fu0f4h".into()));
    call.send(&SchemaInfo { schema_json: "{}".into(), schema_id: "fu0f4h".into(), rpc_id: String::new() });
    call.finish();
    assert_eq!(soon(asking).await.expect("no panic").expect("answered").schema_json, "{}");

    let asking = tokio::spawn(async move { pubsub.schema(&SchemaId::from("x")).await });
    for _ in 0..2 {
        server.call().await.fail(Code::Unauthenticated, "service.auth.error", "no");
    }
    let error = soon(asking).await.expect("no panic").expect_err("refused twice");
    assert_eq!(error.verdict(), Verdict::NewToken);
    assert_eq!(login.count(), 3);
}

#[tokio::test]
async fn a_unary_call_without_an_answer_ends_after_its_time_out() {
    let mut server = ScriptedPubSub::start().await;
    let login = ScriptedHttp::granting().await;
    let settings =
        PubSubSettings { call_timeout: Duration::from_millis(50), ..PubSubSettings::new(server.url.clone()) };
    let pubsub = PubSub::new(settings, session(&login.url)).expect("settings");
    let error = soon(pubsub.topic(&"/data/CaseChangeEvent".parse().expect("topic"))).await.expect_err("no answer");
    assert!(matches!(error, CallError::Status { code: Code::DeadlineExceeded, .. }), "{error}");
    assert!(matches!(error.verdict(), Verdict::RetryAfter(_)));
    assert_eq!(
        server.call().await.request::<TopicRequest>().await.map(|asked| asked.topic_name).as_deref(),
        Some("/data/CaseChangeEvent")
    );
}

#[tokio::test]
async fn tls_is_spoken_with_the_server_itself_through_the_proxy_of_the_environment() {
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["pubsub.example".into()])
        .and_then(|params| params.self_signed(&key))
        .expect("certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("certificate");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let mut server = ScriptedPubSub::start_tls(TlsAcceptor::from(Arc::new(tls))).await;
    let target = server.url.socket_addrs(|| None).expect("address")[0];
    let (proxy, mut requests) = connect_proxy(target).await;
    let proxy = proxy.as_str().replace("http://", "http://user:pass@");
    let proxies = Matcher::builder().all(proxy).build();
    let login = ScriptedHttp::granting().await;

    let settings = |extra_ca| PubSubSettings {
        extra_ca,
        ..PubSubSettings::new("https://pubsub.example:7443".parse().expect("url"))
    };
    let trusted = PubSub::through(settings(Some(certificate.pem())), session(&login.url), &proxies).expect("settings");
    let asking = tokio::spawn(async move { trusted.topic(&"/data/CaseChangeEvent".parse().expect("topic")).await });
    let mut call = server.call().await;
    call.send(&TopicInfo { can_subscribe: true, ..TopicInfo::default() });
    call.finish();
    assert!(soon(asking).await.expect("no panic").expect("answered").can_subscribe);
    let request = soon(requests.recv()).await.expect("a CONNECT");
    assert!(request.starts_with("CONNECT pubsub.example:7443 HTTP/1.1\r\n"), "{request}");
    assert!(request.to_ascii_lowercase().contains("proxy-authorization: basic "), "{request}");

    let distrusting = PubSub::through(settings(None), session(&login.url), &proxies).expect("settings");
    let error =
        soon(distrusting.topic(&"/data/CaseChangeEvent".parse().expect("topic"))).await.expect_err("unknown CA");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(matches!(error.verdict(), Verdict::RetryAfter(_)), "an authority may be on its way: {error}");
}

#[tokio::test]
async fn settings_that_make_no_channel_are_refused_with_a_remedy() {
    let session = || session(&"http://127.0.0.1:1".parse().expect("url"));
    for endpoint in ["ftp://api.pubsub.salesforce.com", "unix:/tmp/x"] {
        let error = PubSub::new(PubSubSettings::new(endpoint.parse().expect("url")), session()).expect_err("refused");
        assert!(error.failure().remedy.contains("https://host:port"), "{error}");
    }
    let settings = PubSubSettings {
        extra_ca: Some("nonsense".into()),
        ..PubSubSettings::new("https://pubsub.example".parse().expect("url"))
    };
    assert!(PubSub::new(settings, session()).expect_err("refused").failure().remedy.contains("ca_file"));
}
