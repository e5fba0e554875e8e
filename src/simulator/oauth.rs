//! OAuth 2.0 as the login host does it: JWT bearer and client credentials, with every
//! check and the texts that Salesforce answers with.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Form, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::simulator::org::Org;
use crate::simulator::rest::{Refused, bearer};

/// The claims of an assertion; a client may send others.
#[derive(Debug, Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    /// The older name of `sub`.
    prn: Option<String>,
    aud: Option<Value>,
    exp: Option<f64>,
}

/// An OAuth error: the code and the text beside it.
#[derive(Debug, PartialEq, Eq)]
struct OAuthError(&'static str, &'static str);

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.0, "error_description": self.1 });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

/// `POST /services/oauth2/token`.
pub(crate) async fn token(
    State(org): State<Arc<Org>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    if let Some(refused) = org.script.refused_sign_in() {
        org.stats.count(|stats| stats.refused_sign_ins += 1);
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = json!({ "error": refused.error, "error_description": refused.description });
        return (status, Json(body)).into_response();
    }
    let checked = match form.get("grant_type").map(String::as_str) {
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => {
            check_assertion(&org, form.get("assertion")).map(|()| App::Integration)
        }
        Some("client_credentials") => check_client(&org, &headers, &form),
        _ => Err(OAuthError("unsupported_grant_type", "grant type not supported")),
    };
    match checked {
        Ok(app) => {
            org.stats.count(|stats| stats.sign_ins += 1);
            Json(issued(&org, &headers, app)).into_response()
        }
        Err(error) => {
            org.stats.count(|stats| stats.refused_sign_ins += 1);
            error.into_response()
        }
    }
}

/// The apps that can sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum App {
    /// That of the integration user.
    Integration,
    /// The one for the Conversation Data API, whose tokens are good for nothing else.
    ConversationData,
}

/// There is no `expires_in`: Salesforce does not tell when a token ends.
fn issued(org: &Org, headers: &HeaderMap, app: App) -> Value {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let scheme = if org.settings.listen.http_tls { "https" } else { "http" };
    let (token, scope) = match app {
        App::Integration => (org.sessions.issue(), "api full"),
        App::ConversationData => (org.data_sessions.issue(), "sfap_api"),
    };
    json!({
        "access_token": token,
        "scope": scope,
        "instance_url": org.instance_url(),
        "id": format!("{scheme}://{host}/id/{}/{}", org.settings.org_id, org.user_id()),
        "token_type": "Bearer",
    })
}

fn check_assertion(org: &Org, assertion: Option<&String>) -> Result<(), OAuthError> {
    let invalid = OAuthError("invalid_grant", "invalid assertion");
    let Some(assertion) = assertion else { return Err(invalid) };
    // Time and audience are compared by hand: the org's clock may be shifted, and the texts differ.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let Ok(token) = jsonwebtoken::decode::<Claims>(assertion, &org.assertion_key, &validation) else {
        return Err(invalid);
    };
    let (claims, settings) = (token.claims, &org.settings.sign_in);
    if claims.iss.as_deref() != Some(settings.client_id.as_str()) {
        return Err(OAuthError("invalid_client_id", "client identifier invalid"));
    }
    if !claims.aud.as_ref().is_some_and(|audience| is_accepted(org, audience)) {
        return Err(OAuthError("invalid_grant", "audience is invalid"));
    }
    let now = org.now_millis() as f64 / 1000.0;
    let latest = now + settings.longest_assertion.as_secs_f64();
    if !claims.exp.is_some_and(|exp| exp > now && exp <= latest) {
        return Err(invalid);
    }
    if claims.sub.or(claims.prn).as_deref() != Some(settings.username.as_str()) {
        return Err(OAuthError("invalid_grant", "user hasn't approved this consumer"));
    }
    Ok(())
}

/// The login hosts, and the simulator's own addresses by either name of this machine. No path, no trailing slash.
fn is_accepted(org: &Org, audience: &Value) -> bool {
    let mut accepted = org.settings.sign_in.audiences.clone();
    for url in [org.login_url(), org.instance_url()] {
        accepted.push(url.replace("127.0.0.1", "localhost"));
        accepted.push(url);
    }
    let matches =
        |audience: &Value| audience.as_str().is_some_and(|audience| accepted.iter().any(|one| one == audience));
    match audience {
        Value::Array(several) => several.iter().any(matches),
        one => matches(one),
    }
}

fn check_client(org: &Org, headers: &HeaderMap, form: &HashMap<String, String>) -> Result<App, OAuthError> {
    let settings = &org.settings.sign_in;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Only My Domain offers this flow; the common login hosts do not.
    let instance = org.instance_url().replace("127.0.0.1", "localhost");
    let my_domain = instance.split_once("://").is_some_and(|(_, name)| name == host.replace("127.0.0.1", "localhost"));
    if !settings.client_credentials || !my_domain {
        return Err(OAuthError("invalid_grant", "request not supported on this domain"));
    }
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let (id, secret) = match basic {
        Some(basic) => {
            let decoded = STANDARD.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
            let (id, secret) = pair.ok_or(OAuthError("invalid_client", "invalid client credentials"))?;
            (id.to_owned(), secret.to_owned())
        }
        None => {
            let field = |name: &str| form.get(name).cloned().unwrap_or_default();
            (field("client_id"), field("client_secret"))
        }
    };
    let (app, wanted) = match id {
        id if id == settings.client_id => (App::Integration, &settings.client_secret),
        id if id == settings.data_client_id => (App::ConversationData, &settings.data_client_secret),
        _ => return Err(OAuthError("invalid_client_id", "client identifier invalid")),
    };
    if secret != *wanted {
        return Err(OAuthError("invalid_client", "invalid client credentials"));
    }
    Ok(app)
}

/// `GET` or `POST /services/oauth2/userinfo`.
pub(crate) async fn userinfo(State(org): State<Arc<Org>>, headers: HeaderMap) -> Result<Json<Value>, Response> {
    if !bearer(&headers).is_some_and(|token| org.sessions.check(token)) {
        return Err((StatusCode::FORBIDDEN, "Bad_OAuth_Token").into_response());
    }
    let (user, organisation) = (org.user_id(), &org.settings.org_id);
    Ok(Json(json!({
        "sub": format!("{}/id/{organisation}/{user}", org.login_url()),
        "user_id": user,
        "organization_id": organisation,
        "preferred_username": org.settings.sign_in.username,
        "nickname": "integration",
        "name": "Integration User",
        "email": org.settings.sign_in.username,
        "email_verified": true,
        "active": true,
        "user_type": "STANDARD",
        "language": "en_US",
        "locale": "en_US",
        "utcOffset": 0,
        "urls": { "rest": format!("{}/services/data/v{{version}}/", org.instance_url()) },
    })))
}

/// `POST /services/oauth2/revoke`, the token in the body or the query.
pub(crate) async fn revoke(
    State(org): State<Arc<Org>>,
    Form(form): Form<HashMap<String, String>>,
) -> Result<StatusCode, Refused> {
    match form.get("token").map(|token| org.sessions.revoke(token)) {
        Some(true) => Ok(StatusCode::OK),
        _ => Err(Refused::new(StatusCode::BAD_REQUEST, "unsupported_token_type", "this token type is not supported")),
    }
}
