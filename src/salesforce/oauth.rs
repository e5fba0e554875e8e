//! One token request, and what its answer means.

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::identity::OrgId;
use crate::salesforce::clock::ServerClock;
use crate::salesforce::session_error::SessionError;

/// No token answer comes near this; a longer one is not from Salesforce.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// The longest text of the other side that is repeated to the operator.
const MAX_QUOTE_CHARS: usize = 400;

/// What a successful answer holds.
pub struct Granted {
    /// The access token.
    pub access_token: SecretString,
    /// The host of the org.
    pub instance_url: Url,
    /// The org.
    pub org_id: OrgId,
    /// The id of the user who is signed in; none where the answer has none that could be asked for.
    pub user_id: Option<String>,
}

#[derive(Deserialize)]
struct GrantedJson {
    #[serde(deserialize_with = "secret")]
    access_token: SecretString,
    instance_url: String,
    id: String,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

#[derive(Deserialize)]
struct RefusedJson {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// Posts the form to `{login_url}/services/oauth2/token` and reads the answer.
///
/// The server's clock is learnt from every answer, a refusal too. Redirects are not
/// followed by the client given here: an assertion must not travel to another host.
pub(crate) async fn request_token(
    http: &reqwest::Client,
    login_url: &Url,
    form: &[(&'static str, SecretString)],
    clock: &ServerClock,
) -> Result<Granted, SessionError> {
    let host = login_url.host_str().unwrap_or_default().to_owned();
    let url = login_url
        .join("/services/oauth2/token")
        .map_err(|error| SessionError::Settings(format!("`{login_url}` is not a login URL: {error}")))?;
    let fields: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.expose_secret())).collect();
    let unreachable =
        |error: reqwest::Error| SessionError::Unreachable { host: host.clone(), reason: network_reason(error) };

    let sent = chrono::Utc::now();
    let response = http.post(url).form(&fields).send().await.map_err(unreachable)?;
    clock.learn(response.headers(), sent);
    let status = response.status();
    let body = read_body(response, MAX_ANSWER_BYTES)
        .await
        .map_err(|reason| SessionError::Unreachable { host: host.clone(), reason })?;
    read_answer(login_url, form, status, &body)
}

/// What the token endpoint's answer means: the grant, an OAuth error, or neither.
pub fn read_answer(
    login_url: &Url,
    form: &[(&'static str, SecretString)],
    status: StatusCode,
    body: &[u8],
) -> Result<Granted, SessionError> {
    let host = login_url.host_str().unwrap_or_default();
    let answer = |reason: String| SessionError::Answer { host: host.to_owned(), status: status.as_u16(), reason };
    if !status.is_success() {
        return Err(match serde_json::from_slice::<RefusedJson>(body) {
            Ok(refused) => SessionError::Refused {
                code: quote(&refused.error, form),
                description: quote(&refused.error_description, form),
            },
            Err(_) => answer("the body is not an OAuth error".to_owned()),
        });
    }
    // serde's message could quote the body, and the body holds the token.
    let granted: GrantedJson = serde_json::from_slice(body)
        .map_err(|_| answer("the body lacks access_token, instance_url or id".to_owned()))?;
    let mut secrets = form.to_vec();
    secrets.push(("access_token", granted.access_token.clone()));
    read_granted(granted, login_url).map_err(|reason| answer(quote(&reason, &secrets)))
}

/// Checks the parts of a successful answer that are about to be trusted.
fn read_granted(granted: GrantedJson, login_url: &Url) -> Result<Granted, String> {
    let instance_url = Url::parse(&granted.instance_url)
        .map_err(|error| format!("`{}` is not an instance URL: {error}", granted.instance_url))?;
    if instance_url.host_str().is_none() {
        return Err(format!("the instance URL `{instance_url}` has no host"));
    }
    if login_url.scheme() == "https" && instance_url.scheme() != "https" {
        return Err(format!("the instance URL `{instance_url}` would carry the token unencrypted"));
    }
    // https://login.salesforce.com/id/<org>/<user>
    let mut segments = granted.id.rsplit('/');
    let user =
        segments.next().filter(|id| id.starts_with("005") && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let user_id = user.map(str::to_owned);
    let org = segments.next().unwrap_or_default();
    let org_id = org.parse().map_err(|error| format!("the identity URL `{}`: {error}", granted.id))?;
    if granted.access_token.expose_secret().is_empty() {
        return Err("the access token is empty".to_owned());
    }
    Ok(Granted { access_token: granted.access_token, instance_url, org_id, user_id })
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network_reason)? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(format!("the answer is longer than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost reason: `error sending request` alone helps nobody.
pub(crate) fn network_reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = inner.source();
    }
    reason
}

/// A text of the other side, fit to be shown: bounded, printable, and without what we sent in confidence,
/// should a server or a proxy echo it.
fn quote(text: &str, form: &[(&'static str, SecretString)]) -> String {
    // First of all: a secret with a control character in it would become one by leaving that out.
    let mut text: String = text.chars().filter(|char| !char.is_control()).collect();
    for (name, value) in form {
        let secret = matches!(*name, "assertion" | "client_secret" | "access_token");
        if secret && !value.expose_secret().is_empty() {
            text = text.replace(value.expose_secret(), "[redacted]");
        }
    }
    text.chars().take(MAX_QUOTE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(instance_url: &str, id: &str) -> Result<Granted, String> {
        let login = Url::parse("https://login.salesforce.com").expect("url");
        let json = GrantedJson { access_token: "00D!x".into(), instance_url: instance_url.into(), id: id.into() };
        read_granted(json, &login)
    }

    #[test]
    fn the_org_id_is_the_second_to_last_segment_of_the_identity_url() {
        let id = "https://login.salesforce.com/id/00D8d00000AbCdEEAV/0058d000004XyZaAAK";
        let answer = granted("https://acme.my.salesforce.com", id).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(answer.org_id.as_str(), "00D8d00000AbCdEEAV");
        assert_eq!(answer.user_id.as_deref(), Some("0058d000004XyZaAAK"));
        assert!(granted("https://acme.my.salesforce.com", "https://login.salesforce.com/id/").is_err());
        assert!(granted("http://acme.my.salesforce.com", id).is_err(), "no token over an open line");
        assert!(granted("acme", id).is_err());
    }

    #[test]
    fn what_a_server_echoes_is_shown_without_our_secrets() {
        let form = [("grant_type", SecretString::from("jwt")), ("assertion", "aaa.bbb.ccc".into())];
        assert_eq!(quote("bad jwt\n aaa.bbb.ccc!", &form), "bad jwt [redacted]!");
        assert_eq!(quote("aaa.b\u{7}bb.ccc", &form), "[redacted]");
        assert_eq!(quote(&"x".repeat(9999), &form).len(), MAX_QUOTE_CHARS);
        let long = format!(
            r#"{{"access_token":"00D!0ther","id":"{0}","instance_url":"aaa.bbb.ccc{0}"}}"#,
            "\\u0007y".repeat(9999)
        );
        let login = Url::parse("https://login.salesforce.com").expect("url");
        let error = read_answer(&login, &form, StatusCode::OK, long.as_bytes()).err().expect("no instance URL");
        assert!(
            error.to_string().starts_with("The login server login.salesforce.com answered HTTP 200: `[redacted]yyy"),
            "{error}"
        );
        assert!(error.to_string().len() < 2 * MAX_QUOTE_CHARS, "{error}");
        let misplaced = br#"{"access_token":"00D!t0ken","instance_url":"00D!t0ken","id":""}"#;
        let error = read_answer(&login, &form, StatusCode::OK, misplaced).err().expect("no instance URL");
        assert!(!error.to_string().contains("t0ken"), "{error}");
    }
}
