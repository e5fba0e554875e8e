//! What lies on this machine: key, certificate, secrets, and the shape of names. Nobody is asked anything.

use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::ExposeSecret;

use crate::config::{Config, Grant, SecretFile};
use crate::doctor::fault::{CheckError, NEW_PAIR};
use crate::doctor::finding::{Area, Finding, Outcome, Report};
use crate::failure::Failure;
use crate::salesforce::certificate::{Certificate, EXPIRY_WARNING_DAYS, Standing};

/// What every consumer key of Salesforce begins with.
const CONSUMER_KEY_PREFIX: &str = "3MVG9";

/// Adds what was found. `usable` is what came of making clients out of the configuration.
pub fn examine(config: &Config, usable: &Result<(), Failure>, now: DateTime<Utc>, report: &mut Report<'_>) {
    report.add(Area::Files, "key", key(&config.salesforce.grant, usable));
    report.add(Area::Files, "certificate", certificate(&config.salesforce.grant, now));
    for finding in at_a_glance(config) {
        report.add(finding.area, finding.check, finding.outcome);
    }
}

/// The findings that cost nothing: no connection, no arithmetic with keys. A start of `casewire run` looks at them too.
pub fn at_a_glance(config: &Config) -> Vec<Finding> {
    let finding = |check: &str, outcome| Finding { area: Area::Files, check: check.to_owned(), outcome };
    let mut findings = vec![finding("secret files", secret_files(&config.secret_files))];
    if let Grant::JwtBearer { username, .. } = &config.salesforce.grant {
        findings.push(finding("user name", user_name(username)));
    }
    let (Grant::JwtBearer { client_id, .. } | Grant::ClientCredentials { client_id, .. }) = &config.salesforce.grant;
    findings.push(finding("client id", consumer_key(client_id)));
    findings.push(finding("encryption", encryption(config)));
    findings
}

/// What is sent without TLS over more than this machine's own loopback.
fn encryption(config: &Config) -> Outcome {
    let kafka = &config.kafka;
    let protocol = kafka.properties.get("security.protocol").map_or("plaintext", String::as_str).to_ascii_lowercase();
    let far = |address: &str| {
        let host = address.trim().rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.rsplit("//").next().unwrap_or(host).trim_matches(['[', ']']);
        host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let mut open = Vec::new();
    if !protocol.ends_with("ssl") && kafka.brokers.split(',').any(far) {
        open.push(format!(
            "records and secrets to Kafka at {} ([kafka.properties] security.protocol is {protocol})",
            kafka.brokers
        ));
    }
    for (key, url) in [
        ("salesforce.login_url", &config.salesforce.login_url),
        ("salesforce.pubsub.endpoint", &config.salesforce.pubsub.endpoint),
    ] {
        if url.scheme() == "http" && url.host_str().is_none_or(far) {
            open.push(format!("events and secrets to Salesforce at {url} ({key})"));
        }
    }
    if let Some(telemetry) = &config.telemetry
        && telemetry.endpoint.scheme() == "http"
        && telemetry.endpoint.host_str().is_none_or(far)
    {
        open.push(format!("traces, with the ids of records, to {} (telemetry.otlp_endpoint)", telemetry.endpoint));
    }
    if open.is_empty() {
        return Outcome::Ok("everything that leaves this machine is encrypted".to_owned());
    }
    Outcome::warning(
        format!("Not encrypted: {}", open.join("; ")),
        "Set \"security.protocol\" = \"SASL_SSL\" (or \"SSL\") and \"ssl.ca.location\" in [kafka.properties]; give https:// addresses for Salesforce and the collector.",
    )
}

fn key(grant: &Grant, usable: &Result<(), Failure>) -> Outcome {
    match (usable, grant) {
        (Err(failure), _) => Outcome::Failed(failure.clone()),
        (Ok(()), Grant::ClientCredentials { .. }) => {
            Outcome::Ok("client credentials: a consumer secret in place of a key".to_owned())
        }
        (Ok(()), Grant::JwtBearer { certificate: None, .. }) => Outcome::Ok("an RSA key that can sign".to_owned()),
        (Ok(()), Grant::JwtBearer { .. }) => {
            Outcome::Ok("an RSA key that can sign, and the certificate belongs to it".to_owned())
        }
    }
}

/// That it is valid at all is part of the key's check; here it is about the days that are left.
fn certificate(grant: &Grant, now: DateTime<Utc>) -> Outcome {
    let pem = match grant {
        Grant::ClientCredentials { .. } => {
            return Outcome::Skipped("client credentials need no certificate".to_owned());
        }
        Grant::JwtBearer { certificate: Some(pem), .. } => pem.as_str(),
        Grant::JwtBearer { private_key, certificate: None, .. } => {
            if !private_key.expose_secret().contains("BEGIN CERTIFICATE") {
                let because = "certificate_file is not set: set it, and the day on which it expires is watched";
                return Outcome::Skipped(because.to_owned());
            }
            private_key.expose_secret()
        }
    };
    match Certificate::from_pem(pem) {
        Ok(certificate) => days_left(&certificate, now),
        Err(error) => Outcome::failed(CheckError::Certificate(error.to_string())),
    }
}

/// What its days say of a certificate.
pub fn days_left(certificate: &Certificate, now: DateTime<Utc>) -> Outcome {
    let Certificate { subject, not_before, not_after, .. } = certificate;
    let day = |at: &DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    match certificate.standing(now) {
        Standing::Expired => Outcome::failed(CheckError::Expired { subject: subject.clone(), on: *not_after }),
        Standing::NotYet => Outcome::failed(CheckError::NotYet { subject: subject.clone(), before: *not_before }),
        Standing::Valid { days_left } if days_left < EXPIRY_WARNING_DAYS => {
            let what = format!(
                "The certificate ({subject}) expires soon: {days_left} days are left, until {}",
                day(not_after)
            );
            Outcome::warning(what, NEW_PAIR)
        }
        Standing::Valid { days_left } => {
            Outcome::Ok(format!("{subject}: {days_left} days are left, until {}", day(not_after)))
        }
    }
}

fn secret_files(files: &[SecretFile]) -> Outcome {
    let open: Vec<&SecretFile> = files.iter().filter(|file| is_open_to_others(&file.path)).collect();
    if open.is_empty() {
        return match files.len() {
            0 => Outcome::Skipped("no secret stands in a file of its own".to_owned()),
            1 => Outcome::Ok("closed to other users of this machine".to_owned()),
            files => Outcome::Ok(format!("all {files} are closed to other users of this machine")),
        };
    }
    let named: Vec<String> = open.iter().map(|file| format!("{} ({})", file.path.display(), file.key)).collect();
    let paths: Vec<String> = open.iter().map(|file| file.path.display().to_string()).collect();
    Outcome::warning(
        format!("Every user of this machine can read {}", named.join(", ")),
        format!("chmod o= {}", paths.join(" ")),
    )
}

/// Whether users who are neither the owner nor of the group may read it. A group is how a service gets at its secret.
#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_path: &Path) -> bool {
    false
}

fn user_name(username: &str) -> Outcome {
    let remedy = "Setup > Users shows it; a sandbox appends its name: integration@example.com.uat.";
    if username.trim() != username || !username.contains('@') {
        return Outcome::warning(format!("\"{username}\" does not look like a user name of Salesforce"), remedy);
    }
    if username.chars().any(char::is_uppercase) {
        let what = format!("\"{username}\" has capital letters, and Salesforce keeps user names in small ones");
        return Outcome::warning(what, format!("Write it in small letters. {remedy}"));
    }
    Outcome::Ok(username.to_owned())
}

fn consumer_key(client_id: &str) -> Outcome {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
    if client_id.starts_with(CONSUMER_KEY_PREFIX) && client_id.bytes().all(legal) {
        return Outcome::Ok(format!("{CONSUMER_KEY_PREFIX}…, {} characters", client_id.len()));
    }
    Outcome::warning(
        format!(
            "`client_id` does not look like a consumer key: those begin with {CONSUMER_KEY_PREFIX} and have letters, digits, dots and underscores"
        ),
        "Copy it from Setup > External Client App Manager > the app > Settings > OAuth Settings > Consumer Key and Secret; the app's \
         own id and the consumer secret are something else.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::key_pair::{KeyBits, SignInKeyPair};

    #[test]
    fn the_days_of_a_certificate_are_counted_down_to_a_warning_and_a_failure() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let pair = SignInKeyPair::generate("a@b.example", KeyBits::Bits2048, now, 100).expect("made");
        let certificate = Certificate::from_pem(&pair.certificate).expect("a certificate");
        let word = |days| days_left(&certificate, now + chrono::TimeDelta::days(days)).word();
        assert_eq!([-2, 0, 70, 71, 100, 101].map(word), ["failed", "ok", "ok", "warning", "warning", "failed"]);
    }

    #[test]
    fn what_leaves_the_machine_without_tls_is_warned_of() {
        let of = |brokers: &str, more: &str| {
            let text = format!(
                "[salesforce]\nusername = 'a@b.example'\nclient_id = '3MVG9'\nprivate_key = 'k'\n[[stream]]\ntopic = '/data/CaseChangeEvent'\n\
                 start = 'latest'\n[kafka]\nbrokers = '{brokers}'\n{more}"
            );
            encryption(&Config::from_table(text.parse().expect("TOML"), &[].into()).expect("valid"))
        };
        assert_eq!(of("127.0.0.1:9092,localhost:9093,[::1]:9094", "").word(), "ok");
        assert!(of("127.0.0.1:9092,broker-1:9092", "").what().contains("security.protocol is plaintext"));
        assert_eq!(of("broker-1:9092", "[kafka.properties]\n'security.protocol' = 'SASL_PLAINTEXT'").word(), "warning");
        assert_eq!(of("broker-1:9092", "[kafka.properties]\n'security.protocol' = 'SASL_SSL'").word(), "ok");
        let traces = |endpoint| of("127.0.0.1:9092", &format!("[telemetry]\notlp_endpoint = '{endpoint}'"));
        assert_eq!((traces("http://127.0.0.1:4317").word(), traces("https://collector:4317").word()), ("ok", "ok"));
        assert!(traces("http://collector:4317").what().contains("telemetry.otlp_endpoint"));
    }

    #[test]
    fn names_that_cannot_be_right_are_warned_of() {
        for (name, word) in [
            ("integration@example.com", "ok"),
            ("integration@example.com.uat", "ok"),
            ("Integration@example.com", "warning"),
            ("integration", "warning"),
            (" integration@example.com", "warning"),
        ] {
            assert_eq!(user_name(name).word(), word, "{name}");
        }
        for (key, word) in
            [("3MVG9abc._1", "ok"), ("1A2B3C", "warning"), ("3MVG9 abc", "warning"), ("\"3MVG9a\"", "warning")]
        {
            assert_eq!(consumer_key(key).word(), word, "{key}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_everybody_can_read_is_named_with_its_key() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key.pem");
        std::fs::write(&path, "secret").expect("written");
        let file = SecretFile { key: "salesforce.private_key_file".to_owned(), path: path.clone() };
        let outcome = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            secret_files(std::slice::from_ref(&file))
        };
        assert_eq!((outcome(0o600).word(), outcome(0o640).word()), ("ok", "ok"));
        let open = outcome(0o644);
        assert!(open.what().contains("salesforce.private_key_file") && open.remedy().contains("chmod"), "{open:?}");
        assert_eq!(secret_files(&[]).word(), "skipped");
    }
}
