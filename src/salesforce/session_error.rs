//! Why there is no access token, in the operator's words, and what mends it.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::identity::OrgId;
use crate::salesforce::grant::InvalidKey;
use crate::salesforce::tls::InvalidAuthority;

/// Why there is no token. Holds no secret: texts of the other side are cleaned of them before they get here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The settings cannot work whatever Salesforce says.
    #[error("{0}")]
    Key(#[from] InvalidKey),
    /// The extra CA file cannot be used.
    #[error("{0}")]
    Authority(#[from] InvalidAuthority),
    /// The HTTP client could not be made, or a URL of the settings has no host.
    #[error("The sign-in settings cannot be used: {0}")]
    Settings(String),
    /// The login server could not be reached or did not answer in time.
    #[error("The login server {host} cannot be reached: {reason}")]
    Unreachable {
        /// The host asked.
        host: String,
        /// What the network said.
        reason: String,
    },
    /// An OAuth error (RFC 6749 §5.2) of Salesforce.
    #[error("Salesforce refused to sign in: {} ({code}: {description})", explain(code, description).meaning)]
    Refused {
        /// The `error` field.
        code: String,
        /// The `error_description` field.
        description: String,
    },
    /// An answer that is not one of Salesforce's token endpoint.
    #[error("The login server {host} answered HTTP {status}: {reason}")]
    Answer {
        /// The host asked.
        host: String,
        /// HTTP status.
        status: u16,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The token is for another org than the one pinned, or than the one before.
    #[error("The sign-in led to the organisation {actual}, not to {expected}")]
    WrongOrg {
        /// The organisation wanted.
        expected: OrgId,
        /// The organisation that the token is for.
        actual: OrgId,
    },
}

impl SessionError {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, description } => explain(code, description).retry,
            Self::Answer { status, .. } => matches!(status, 408 | 420 | 429 | 500..=599),
            Self::Key(_) | Self::Authority(_) | Self::Settings(_) | Self::WrongOrg { .. } => false,
        }
    }

    /// How long to leave the login server alone at least.
    pub fn wait_at_least(&self) -> Duration {
        match self {
            // The login rate is counted by the hour.
            Self::Refused { code, .. } if code == "rate_limit_exceeded" => Duration::from_secs(120),
            Self::Answer { status: 420 | 429, .. } => Duration::from_secs(60),
            Self::Refused { code, .. } if code == "slow_down" => Duration::from_secs(10),
            _ => Duration::ZERO,
        }
    }

    /// Whether an assertion signed by a wrong clock is refused like this.
    pub(crate) fn may_be_the_clock(&self) -> bool {
        match self {
            Self::Refused { code, description } => {
                let description = description.to_ascii_lowercase();
                code == "invalid_grant"
                    && ["assertion", "expired", "authentication failure"].iter().any(|text| description.contains(text))
            }
            _ => false,
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::Key(key) => (Exit::Configuration, key_remedy(key)),
            Self::Authority(_) => {
                (Exit::Configuration, "Point `ca_file` to a PEM file with the certificate of your authority.")
            }
            Self::Settings(_) => (Exit::Configuration, "Correct the section [salesforce] of the configuration."),
            Self::Unreachable { .. } => (
                Exit::Unavailable,
                "Check DNS, firewall and HTTPS_PROXY on this machine; `login_url` must name a host that it can reach.",
            ),
            Self::Refused { code, description } => {
                let explanation = explain(code, description);
                (explanation.exit, explanation.remedy)
            }
            Self::Answer { status: 500..=599 | 408 | 420 | 429, .. } => (
                Exit::Unavailable,
                "Salesforce or a proxy before it has a disturbance; see https://status.salesforce.com for the org's instance.",
            ),
            Self::Answer { .. } => (
                Exit::Configuration,
                "Check `login_url`: it must be https://login.salesforce.com, https://test.salesforce.com or the My Domain URL \
                 shown in Setup > My Domain.",
            ),
            Self::WrongOrg { .. } => (
                Exit::Configuration,
                "Check `org_id` against Setup > Company Information, and `username`, `sandbox` and `login_url` against the org meant.",
            ),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

fn key_remedy(key: &InvalidKey) -> &'static str {
    match key {
        InvalidKey::Encrypted => "Store the key without a pass phrase: openssl pkey -in key.pem -out plain.pem",
        InvalidKey::NotRsa => {
            "Make a key and a certificate with `casewire keygen --client-id … --username …`, and upload the certificate."
        }
        InvalidKey::Certificate(_) => {
            "Give the PEM file of the certificate that was uploaded to the External Client App."
        }
        InvalidKey::Mismatch { .. } => {
            "Use the key and the certificate that were made together; the certificate uploaded in Setup > External Client App \
             Manager > the app > Settings > OAuth Settings must be that one."
        }
        InvalidKey::NotValidNow { .. } => {
            "Make a new key and certificate and upload the certificate in Setup > External Client App Manager > the app > \
             Settings > OAuth Settings; check the clock of this machine too."
        }
    }
}

/// What an OAuth error of Salesforce means.
struct Explanation {
    meaning: &'static str,
    remedy: &'static str,
    exit: Exit,
    retry: bool,
}

const APP_POLICIES: &str = "Setup > External Client App Manager > the app > Policies > OAuth Policies: set Permitted Users to \"Admin approved \
     users are pre-authorized\" and add a permission set or profile of the integration user. A change takes up to ten minutes.";
const APP_SETTINGS: &str = "Setup > External Client App Manager > the app > Settings > OAuth Settings: enable the flow that is used here (JWT Bearer \
     Flow or Client Credentials Flow) and check scopes, certificate and consumer key.";
const APP_KEY: &str = "Compare `client_id` with the consumer key in Setup > External Client App Manager > the app > Settings > OAuth Settings > \
     Consumer Key and Secret. A new app needs up to ten minutes.";
const USER_PAGE: &str = "Setup > Users: the integration user must be active, not frozen, and spelt exactly as `username` (a sandbox appends its \
     name); `sandbox` or `login_url` must fit the org.";
const LOGIN_RULES: &str = "Setup > Profiles > the user's profile > Login IP Ranges and Login Hours, and Setup > Network Access: allow this machine's \
     public address; or relax IP restrictions in the app's OAuth Policies.";
const SESSION_RULES: &str = "Setup > Session Settings and the app's OAuth Policies: the app must not demand a high-assurance session of the integration user.";
const ASSERTION: &str = "Upload the certificate of this private key in Setup > External Client App Manager > the app > Settings > OAuth Settings > \
     Enable JWT Bearer Flow, and check `username`, `client_id` and the clock of this machine.";
const AUDIENCE: &str = "Set `sandbox = true` for a sandbox and `false` for production; with `login_url`, use the My Domain URL of Setup > My Domain \
     without a path.";
const NOTHING: &str = "Nothing to do unless it lasts; see https://status.salesforce.com for the org's instance.";
const VENDOR: &str = "Look the code up in Salesforce Help under \"OAuth 2.0 Authorization Errors\" and check Setup > External Client App Manager > the app; \
     Setup > Login History shows the attempt.";

/// The table of OAuth errors: those of the OAuth Errors page with their texts, then the codes that Salesforce lists without one.
fn explain(code: &str, description: &str) -> Explanation {
    use Exit::{Configuration, NoPermission, Unavailable};
    let stop = |exit, meaning, remedy| Explanation { meaning, remedy, exit, retry: false };
    let later = |meaning| Explanation { meaning, remedy: NOTHING, exit: Unavailable, retry: true };
    match code {
        "invalid_grant" => explain_grant(&description.to_ascii_lowercase()),
        "invalid_client_id" => stop(Configuration, "no app has this consumer key", APP_KEY),
        "invalid_client" => stop(Configuration, "the consumer key or secret is wrong", APP_KEY),
        "app_not_found" => stop(Configuration, "the app does not exist in this org", APP_KEY),
        "invalid_app_access" => stop(NoPermission, "the user is not approved for the app", APP_POLICIES),
        "access_denied" => stop(NoPermission, "the app may not act for this user", APP_POLICIES),
        "oauth_policy_not_found" | "ecapp_policy_not_found" => {
            stop(NoPermission, "the app has no OAuth policy in this org", APP_POLICIES)
        }
        "app_blocked" | "fail_close_app_blocked" => stop(
            NoPermission,
            "the app is blocked in this org",
            "Setup > Connected Apps OAuth Usage: unblock or install the app for this org.",
        ),
        "installation_error" | "invalid_distribution_state" => stop(
            Configuration,
            "the app is not installed correctly in this org",
            "Setup > External Client App Manager: install the app in this org, or set its Distribution State to Local.",
        ),
        "oauth_flow_disabled" | "unsupported_grant_type" => {
            stop(Configuration, "the OAuth flow is not enabled for the app or the org", APP_SETTINGS)
        }
        "invalid_scope" => stop(Configuration, "a scope is not allowed for the app (needed: api)", APP_SETTINGS),
        "invalid_assertion_type" | "bad_jti_claim" => stop(Configuration, "the assertion is not accepted", ASSERTION),
        "inactive_user" => stop(NoPermission, "the user is not active", USER_PAGE),
        "login_error" | "otp_error" => stop(NoPermission, "the user cannot sign in", USER_PAGE),
        "inactive_org" => stop(
            NoPermission,
            "the organisation is locked, closed or suspended",
            "Ask the org's administrator or Salesforce Support; Setup > Company Information shows the status.",
        ),
        "invalid_session_level" => stop(NoPermission, "the app demands a session of a higher level", SESSION_RULES),
        "use_dpop_nonce" | "invalid_dpop_proof" => stop(
            Configuration,
            "the app demands DPoP, which this flow does not use",
            "Setup > External Client App Manager > the app > Settings > OAuth Settings: do not require DPoP.",
        ),
        "rate_limit_exceeded" => Explanation {
            meaning: "too many logins of this user in the last hour",
            remedy: "Setup > Login History: find what else signs in as this user and give it a user of its own.",
            exit: Unavailable,
            retry: true,
        },
        "slow_down" => later("the login server asks for fewer requests"),
        "server_error" | "unknown_error" => later("the login server had an error"),
        "service_unavailable" | "system_down" => later("Salesforce is not available"),
        "invalid_request"
        | "invalid_token"
        | "invalid_basic_auth_header"
        | "unsupported_response_type"
        | "unsupported_token_type"
        | "redirect_uri_missing"
        | "redirect_uri_mismatch"
        | "authorization_pending"
        | "registration_error"
        | "failed_registration"
        | "exceeded_registration_limit" => {
            stop(Configuration, "the request does not fit the app's settings", APP_SETTINGS)
        }
        _ => stop(Configuration, "for a reason that casewire does not know", VENDOR),
    }
}

/// `invalid_grant` means many things; only its description tells them apart.
fn explain_grant(description: &str) -> Explanation {
    use Exit::{Configuration, NoPermission};
    let rows: [(&[&str], Exit, &'static str, &'static str); 7] = [
        (&["approved"], NoPermission, "the user has not been approved for the app", APP_POLICIES),
        (&["audience"], Configuration, "the login URL does not fit the org", AUDIENCE),
        (
            &["ip restricted", "login hours"],
            NoPermission,
            "login rules keep this machine or this hour out",
            LOGIN_RULES,
        ),
        (&["inactive user", "user is inactive"], NoPermission, "the user is not active", USER_PAGE),
        (
            &["assertion"],
            Configuration,
            "the assertion is not accepted: key, certificate, user name or clock is wrong",
            ASSERTION,
        ),
        (
            &["authentication failure"],
            NoPermission,
            "the user name, the key or the org is not the right one",
            USER_PAGE,
        ),
        (&["expired"], Configuration, "the assertion is expired: the clock of this machine is wrong", ASSERTION),
    ];
    for (texts, exit, meaning, remedy) in rows {
        if texts.iter().any(|text| description.contains(text)) {
            return Explanation { meaning, remedy, exit, retry: false };
        }
    }
    Explanation { meaning: "the sign-in is not accepted", remedy: ASSERTION, exit: Configuration, retry: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, description: &str) -> SessionError {
        SessionError::Refused { code: code.into(), description: description.into() }
    }

    #[test]
    fn every_documented_text_leads_to_its_own_page() {
        for (code, description, exit, page) in [
            ("invalid_grant", "user hasn't approved this consumer", Exit::NoPermission, "Permitted Users"),
            ("invalid_grant", "audience is invalid", Exit::Configuration, "My Domain"),
            ("invalid_grant", "Audience validation failed", Exit::Configuration, "My Domain"),
            ("invalid_grant", "invalid assertion", Exit::Configuration, "Enable JWT Bearer Flow"),
            ("invalid_grant", "expired authorization code", Exit::Configuration, "clock"),
            ("invalid_grant", "expired access/refresh token", Exit::Configuration, "clock"),
            ("invalid_grant", "authentication failure", Exit::NoPermission, "Setup > Users"),
            ("invalid_grant", "ip restricted", Exit::NoPermission, "Login IP Ranges"),
            ("invalid_grant", "IP restricted or invalid login hours", Exit::NoPermission, "Login Hours"),
            ("invalid_grant", "inactive user", Exit::NoPermission, "Setup > Users"),
            ("invalid_client_id", "client identifier invalid", Exit::Configuration, "Consumer Key"),
            ("invalid_client", "invalid client credentials", Exit::Configuration, "Consumer Key"),
            (
                "invalid_app_access",
                "user is not admin approved to access this app",
                Exit::NoPermission,
                "Permitted Users",
            ),
            ("unsupported_grant_type", "grant type not supported", Exit::Configuration, "enable the flow"),
            ("inactive_user", "User is inactive", Exit::NoPermission, "Setup > Users"),
            ("inactive_org", "", Exit::NoPermission, "Company Information"),
        ] {
            let error = refused(code, description);
            let failure = error.failure();
            assert_eq!(failure.exit, exit, "{code}: {description}");
            assert!(failure.remedy.contains(page), "{code}: {description}: {}", failure.remedy);
            assert!(failure.what.contains(code) && failure.what.contains(description), "{}", failure.what);
            assert!(!error.is_retryable(), "{code}: {description}");
        }
    }

    #[test]
    fn every_listed_code_is_known_and_only_disturbances_are_retried() {
        let disturbances =
            ["rate_limit_exceeded", "server_error", "service_unavailable", "slow_down", "system_down", "unknown_error"];
        for code in disturbances {
            assert!(refused(code, "").is_retryable(), "{code}");
        }
        for code in "access_denied app_blocked app_not_found authorization_pending bad_jti_claim ecapp_policy_not_found \
            exceeded_registration_limit fail_close_app_blocked failed_registration installation_error invalid_assertion_type \
            invalid_basic_auth_header invalid_dpop_proof invalid_distribution_state invalid_request invalid_scope \
            invalid_session_level invalid_token login_error oauth_flow_disabled oauth_policy_not_found otp_error \
            redirect_uri_missing redirect_uri_mismatch registration_error unsupported_response_type unsupported_token_type \
            use_dpop_nonce"
            .split_whitespace()
        {
            let error = refused(code, "");
            assert!(!error.is_retryable(), "{code}");
            assert!(!error.to_string().contains("does not know"), "{code}");
            assert!(matches!(error.failure().exit, Exit::NoPermission | Exit::Configuration), "{code}");
        }
        let unknown = refused("brand_new_code", "never seen");
        assert!(!unknown.is_retryable());
        assert!(unknown.to_string().contains("brand_new_code: never seen"));
    }

    #[test]
    fn answers_of_a_disturbed_or_a_wrong_server_are_told_apart() {
        let answer = |status| SessionError::Answer { host: "login.example".into(), status, reason: "not JSON".into() };
        assert!(answer(503).is_retryable() && answer(429).is_retryable());
        assert!(!answer(404).is_retryable() && answer(404).failure().remedy.contains("login_url"));
        assert_eq!(answer(302).failure().exit, Exit::Configuration);
    }
}
