//! Compiles the Pub/Sub API contract, and finds out which commit is built. `protox` is a protobuf compiler in Rust,
//! so that no `protoc` has to be installed where casewire is built.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// What a build depends on; a change in here that is not committed shows in `--version`.
const SOURCES: [&str; 5] = ["src", "proto", "build.rs", "Cargo.toml", "Cargo.lock"];

/// Holds the commit in an archive of the repository: `git archive` writes it there, as `.gitattributes` asks it to.
const ARCHIVED: &str = ".commit";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/pubsub_api.proto");
    let descriptors = protox::compile(["pubsub_api.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rustc-env=CASEWIRE_COMMIT={}", commit());
    Ok(())
}

/// The commit, in words if need be: what CASEWIRE_BUILD_COMMIT says (an image is built without `.git`), otherwise what
/// git says, otherwise what the archive of a release brings.
fn commit() -> String {
    println!("cargo:rerun-if-env-changed=CASEWIRE_BUILD_COMMIT");
    println!("cargo:rerun-if-changed={ARCHIVED}");
    let given = env::var("CASEWIRE_BUILD_COMMIT").ok().and_then(|given| shortened(&given));
    let archived = || shortened(&std::fs::read_to_string(ARCHIVED).ok()?);
    given.or_else(of_checkout).or_else(archived).unwrap_or_else(|| "unknown".to_owned())
}

/// Twelve digits of a commit's hash; none of anything else.
fn shortened(hash: &str) -> Option<String> {
    let hash = hash.trim();
    (hash.len() >= 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| hash[..12].to_owned())
}

/// What git says of this directory, if it is a checkout of its own and not something unpacked inside of another one.
fn of_checkout() -> Option<String> {
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let commit = shortened(&git(&["rev-parse", "HEAD"])?)?;
    // Whatever is watched here compiles the whole crate anew when it changes. A release can afford that; a debug build would
    // do it after every commit, and only says from which one on.
    if env::var("PROFILE").as_deref() != Ok("release") {
        return Some(format!("{commit} or later"));
    }
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", &branch].into_iter().filter(|name| !name.is_empty()) {
        // One that is not there would make every build the first one.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    let changes = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit} with changes") })
}

fn git(arguments: &[&str]) -> Option<String> {
    // Without the lock that `status` would take to refresh the index: somebody may be committing.
    let output = Command::new("git").env("GIT_OPTIONAL_LOCKS", "0").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
