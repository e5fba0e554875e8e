//! Text diffs: raw ones, and ones that are made here from an old and a new text.
//!
//! Only a value with the digest of the diff is ever returned, and a diff that fits gives exactly the new text.

#![no_main]

use std::fmt::Write as _;

use casewire::change::text_diff::{TextDiffError, apply};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Raw { old: &'a str, hunks: &'a str },
    Unproven { old: &'a str, diff: &'a str },
    Made { line_break: LineBreak, lines: Vec<Line<'a>> },
}

#[derive(Debug, Arbitrary)]
enum LineBreak {
    Windows,
    Unix,
    Mac,
}

/// What becomes of one line of the old text.
#[derive(Debug, Arbitrary)]
enum Line<'a> {
    Kept(&'a str),
    Removed(&'a str),
    Replaced(&'a str, &'a str),
    Added(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    match input {
        // With the digest of something that hardly ever comes out.
        Input::Raw { old, hunks } => proven(old, &format!("--- \n+++ {}\n{hunks}", hexadecimal(old))),
        Input::Unproven { old, diff } => proven(old, diff),
        Input::Made { line_break, lines } => made(line_break, &lines),
    }
});

fn hexadecimal(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn proven(old: &str, diff: &str) {
    if let Ok(new) = apply(old, diff) {
        let digest = diff.lines().nth(1).and_then(|line| line.strip_prefix("+++ ")).expect("accepted");
        assert!(hexadecimal(&new).eq_ignore_ascii_case(digest.trim_end()), "another text than Salesforce's");
    }
}

fn made(line_break: LineBreak, lines: &[Line<'_>]) {
    let end = match line_break {
        LineBreak::Windows => "\r\n",
        LineBreak::Unix => "\n",
        LineBreak::Mac => "\r",
    };
    let broken = |text: &str| text.contains(['\r', '\n']);
    let (mut old, mut new, mut hunks) = (Vec::new(), Vec::new(), String::new());
    for line in lines {
        let (removed, added) = match line {
            Line::Kept(text) if !broken(text) => {
                old.push(*text);
                new.push(*text);
                continue;
            }
            Line::Removed(text) if !broken(text) => (Some(*text), None),
            Line::Replaced(text, other) if !broken(text) && !broken(other) => (Some(*text), Some(*other)),
            Line::Added(text) if !broken(text) => (None, Some(*text)),
            _ => return,
        };
        // Each change is a hunk of its own; a range of no lines names the line before it.
        let range = |lines: usize, some: bool| (lines + usize::from(some), usize::from(some));
        let ((old_at, old_count), (new_at, new_count)) =
            (range(old.len(), removed.is_some()), range(new.len(), added.is_some()));
        let _ = writeln!(hunks, "@@ -{old_at},{old_count} +{new_at},{new_count} @@");
        removed.iter().for_each(|text| _ = writeln!(hunks, "-{text}"));
        added.iter().for_each(|text| _ = writeln!(hunks, "+{text}"));
        old.extend(removed);
        new.extend(added);
    }
    // A text without lines is one empty line.
    if old.is_empty() || new.is_empty() {
        return;
    }
    let (old, new) = (old.join(end), new.join(end));
    let diff = format!("--- \n+++ {}\n{hunks}", hexadecimal(&new));
    assert_eq!(apply(&old, &diff).as_deref(), Ok(new.as_str()), "{diff}");
    let other = format!("--- \n+++ {}\n{hunks}", hexadecimal(&format!("{new}.")));
    assert_eq!(apply(&old, &other), Err(TextDiffError::OtherDigest));
}
