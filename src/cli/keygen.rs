//! `casewire keygen` and `keygen show`: the key pair to sign in with.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use secrecy::ExposeSecret;

use crate::cli::error::KeygenError;
use crate::cli::say;
use crate::doctor::{self, Outcome};
use crate::failure::Failure;
use crate::salesforce::certificate::{Certificate, Standing};
use crate::salesforce::key_pair::{KeyBits, SignInKeyPair};

const KEY_FILE: &str = "casewire.key";
const CERTIFICATE_FILE: &str = "casewire.crt";

/// Make the key pair that casewire signs in with, and say what to upload and to configure.
///
/// Makes casewire.key, which only its owner can read and which never leaves this machine, and casewire.crt, the certificate to
/// upload. Nothing that exists is overwritten.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "Examples:\n  casewire keygen --client-id 3MVG9… --username integration@example.com --directory /etc/casewire\n  \
                        casewire keygen show /etc/casewire/casewire.crt"
)]
pub struct KeygenArguments {
    #[command(subcommand)]
    command: Option<KeygenCommand>,
    /// The consumer key of the External Client App.
    #[arg(long, required = true)]
    client_id: Option<String>,
    /// The integration user that signs in.
    #[arg(long, required = true)]
    username: Option<String>,
    /// How long the certificate is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// The size of the key.
    #[arg(long, value_enum, default_value_t = Size::Bits2048)]
    bits: Size,
    /// The organisation is a sandbox.
    #[arg(long)]
    sandbox: bool,
    /// Where the two files are made; the directory is made too.
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Write the configuration's [salesforce] section to a new file instead of printing it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum KeygenCommand {
    /// Print whose a certificate is, its fingerprints, and how many days are left.
    #[command(after_help = "Example:\n  casewire keygen show /etc/casewire/casewire.crt\n\n\
                            Exit codes: 0 it is valid, 78 it is not valid now, or no certificate")]
    Show(ShowArguments),
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// A PEM file; the first certificate in it is shown.
    #[arg(value_name = "CERT")]
    certificate: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    #[value(name = "2048")]
    Bits2048,
    #[value(name = "4096")]
    Bits4096,
}

/// Runs it.
///
/// # Errors
/// A file that exists or cannot be written; for `show` a certificate that is not valid now.
pub fn run(arguments: KeygenArguments) -> Result<(), Failure> {
    match &arguments.command {
        Some(KeygenCommand::Show(shown)) => show(&shown.certificate, Utc::now()),
        None => make(&arguments, Utc::now()),
    }
}

fn make(arguments: &KeygenArguments, now: DateTime<Utc>) -> Result<(), Failure> {
    let username = arguments.username.as_deref().unwrap_or_default();
    let client_id = arguments.client_id.as_deref().unwrap_or_default();
    let bits = match arguments.bits {
        Size::Bits2048 => KeyBits::Bits2048,
        Size::Bits4096 => KeyBits::Bits4096,
    };
    std::fs::create_dir_all(&arguments.directory).map_err(|error| unusable(&arguments.directory, error))?;
    // The configuration is read from elsewhere than where this was typed.
    let directory = std::path::absolute(&arguments.directory).map_err(|error| unusable(&arguments.directory, error))?;
    let (key, certificate) = (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE));
    // Claimed before the key is made: making it takes a while, and then nothing may be in the way.
    let mut claims = Claims::default();
    let mut key_file = claims.claim(&key, 0o600)?;
    let mut certificate_file = claims.claim(&certificate, 0o644)?;
    let block_file = arguments.write.as_deref().map(|path| claims.claim(path, 0o644)).transpose()?;

    let pair = SignInKeyPair::generate(username, bits, now, arguments.days)
        .map_err(|error| KeygenError::NotMade(error.to_string()))?;
    fill(&mut key_file, &key, pair.private_key.expose_secret())?;
    fill(&mut certificate_file, &certificate, &pair.certificate)?;
    let block = salesforce_section(username, client_id, &key, &certificate, arguments.sandbox);
    if let (Some(mut file), Some(path)) = (block_file, &arguments.write) {
        fill(&mut file, path, &block)?;
    }
    claims.keep();
    say(next_steps(&key, &certificate, arguments.write.as_deref(), &block).trim_end());
    Ok(())
}

/// Files that were made for this run, removed again unless all went well: a half-made pair would be in the way of the next try.
#[derive(Default)]
struct Claims {
    made: Vec<PathBuf>,
}

impl Claims {
    /// Makes an empty file that was not there, with these permissions from its first moment on.
    fn claim(&mut self, path: &Path, mode: u32) -> Result<File, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        restrict(&mut options, mode);
        let file = options.open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => KeygenError::Exists(path.to_owned()),
            _ => unusable(path, error),
        })?;
        self.made.push(path.to_owned());
        Ok(file)
    }

    fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(unix)]
fn restrict(options: &mut OpenOptions, mode: u32) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(mode);
}

#[cfg(not(unix))]
fn restrict(_options: &mut OpenOptions, _mode: u32) {}

fn fill(file: &mut File, path: &Path, text: &str) -> Result<(), Failure> {
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| unusable(path, error).into())
}

fn unusable(path: &Path, error: std::io::Error) -> KeygenError {
    KeygenError::NotWritten { path: path.to_owned(), error }
}

/// The section of the configuration that goes with the pair.
fn salesforce_section(username: &str, client_id: &str, key: &Path, certificate: &Path, sandbox: bool) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        "[salesforce]\nusername = {}\nclient_id = {}\nprivate_key_file = {}\ncertificate_file = {}\nsandbox = {sandbox}\n",
        text(username),
        text(client_id),
        text(&key.display().to_string()),
        text(&certificate.display().to_string()),
    )
}

fn next_steps(key: &Path, certificate: &Path, written: Option<&Path>, block: &str) -> String {
    let configure = match written {
        Some(path) => format!(
            "  3. Add [[stream]] and [kafka] to {} (config/casewire.toml has every key), then:\n",
            path.display()
        ),
        None => format!(
            "  3. Put this into the configuration (config/casewire.toml has every key):\n\n{block}\n     then:\n"
        ),
    };
    let file = written.map_or_else(|| "casewire.toml".to_owned(), |path| path.display().to_string());
    format!(
        "Made {key}, the private key: it stays on this machine, readable for its owner only.\n\
         Made {certificate}, the certificate to upload.\n\n\
         Next (docs/salesforce-setup.md has each step):\n  \
         1. Setup > External Client App Manager > the app > Settings > OAuth Settings > Enable JWT Bearer Flow: upload {name}.\n  \
         2. Setup > External Client App Manager > the app > Policies > OAuth Policies: Permitted Users = \"Admin approved users are \
         pre-authorized\", and select a permission set or profile of the user. A change takes up to ten minutes.\n\
         {configure}       casewire doctor --config {file}\n",
        key = key.display(),
        certificate = certificate.display(),
        name = certificate.file_name().unwrap_or_default().display(),
    )
}

fn show(path: &Path, now: DateTime<Utc>) -> Result<(), Failure> {
    let here = || path.to_owned();
    let pem = std::fs::read_to_string(path).map_err(|error| KeygenError::Unreadable { path: here(), error })?;
    let certificate = Certificate::from_pem(&pem)
        .map_err(|error| KeygenError::NoCertificate { path: here(), reason: error.to_string() })?;
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let days_left = match certificate.standing(now) {
        Standing::Valid { days_left } => days_left,
        Standing::NotYet | Standing::Expired => 0,
    };
    for (name, value) in [
        ("subject", certificate.subject.clone()),
        ("issuer", certificate.issuer.clone()),
        ("key", certificate.key.clone()),
        ("valid from", time(certificate.not_before)),
        ("valid until", time(certificate.not_after)),
        ("days left", days_left.to_string()),
        ("SHA-1", certificate.sha1.clone()),
        ("SHA-256", certificate.sha256.clone()),
    ] {
        say(format_args!("{name:<12} {value}"));
    }
    match doctor::days_left(&certificate, now) {
        Outcome::Failed(failure) => Err(failure),
        Outcome::Warning { what, remedy } => {
            say(format_args!("\n{what}\n{remedy}"));
            Ok(())
        }
        Outcome::Ok(_) | Outcome::Skipped(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn what_was_made_goes_away_again_unless_it_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let mut claims = Claims::default();
        claims.claim(&one, 0o600).map(drop).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(claims.claim(&one, 0o600).map(drop).expect_err("exists").exit, Exit::Usage);
        drop(claims);
        assert!(!one.exists(), "a half-made pair would be in the way");
        let mut claims = Claims::default();
        claims.claim(&two, 0o600).map(drop).unwrap_or_else(|failure| panic!("{failure}"));
        claims.keep();
        drop(claims);
        assert!(two.exists());
    }

    #[test]
    fn the_section_is_toml_whatever_the_names_are() {
        let odd = "quo\"te@example.com";
        let section = salesforce_section(odd, "3MVG9", Path::new("/a b/casewire.key"), Path::new("c.crt"), true);
        let table: toml::Table = section.parse().expect("TOML");
        assert_eq!(table["salesforce"]["username"].as_str(), Some(odd));
        assert_eq!(table["salesforce"]["private_key_file"].as_str(), Some("/a b/casewire.key"));
        assert_eq!(table["salesforce"]["sandbox"].as_bool(), Some(true));
    }
}
