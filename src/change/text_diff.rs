//! The unified diff that stands for a long text in an update.
//!
//! Salesforce sends one instead of the value when the text is long and little of it changed:
//! `--- `, `+++ ` with the SHA-256 of the whole new value in hexadecimal, then hunks without context lines.
//! Its lines end in `\n` whatever line break the text itself has, so how a new line ends is not in the diff: it is
//! found out, and proven by the digest. Nothing but a value with the right digest is ever returned.

use sha2::{Digest, Sha256};

/// Why a diff gives no value. The field has to be read from Salesforce then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextDiffError {
    /// It is not a unified diff as Salesforce writes it.
    #[error("The text diff is malformed at its line {0}.")]
    Malformed(usize),
    /// It was made from another text than the one at hand.
    #[error("The text diff does not fit the old value.")]
    OtherText,
    /// The result is not what Salesforce has.
    #[error("The value made with the text diff has another digest than the one that came with it.")]
    OtherDigest,
}

/// The line breaks a stored text can have: browsers send the first, programs mostly the second.
const LINE_BREAKS: [&str; 3] = ["\r\n", "\n", "\r"];

/// One change: these lines for those.
#[derive(Debug, Default)]
struct Hunk<'d> {
    /// How many lines of the old text stand before it.
    before: usize,
    old: Vec<&'d str>,
    new: Vec<&'d str>,
}

/// The new value of a field from its old value and the diff.
pub fn apply(old: &str, diff: &str) -> Result<String, TextDiffError> {
    let (digest, hunks) = parse(diff)?;
    let lines = split_lines(old);
    let changed = replace(&lines, &hunks)?;
    let proven = |value: &String| hexadecimal(value).eq_ignore_ascii_case(digest);
    LINE_BREAKS.iter().map(|end| join(&changed, end)).find(proven).ok_or(TextDiffError::OtherDigest)
}

fn hexadecimal(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest and the hunks of a diff.
fn parse(diff: &str) -> Result<(&str, Vec<Hunk<'_>>), TextDiffError> {
    let mut lines = diff.split('\n').enumerate().map(|(at, line)| (at + 1, line)).peekable();
    let mut next = |start: &str| {
        let (at, line) = lines.next().unwrap_or((1, ""));
        line.strip_prefix(start).ok_or(TextDiffError::Malformed(at))
    };
    next("---")?;
    let digest = next("+++ ")?.trim_end();
    let mut hunks = Vec::new();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() && lines.peek().is_none() {
            break;
        }
        let malformed = TextDiffError::Malformed(at);
        let ((old_at, mut old_left), (_, mut new_left)) = parse_ranges(line).ok_or(malformed)?;
        // A range of no lines names the line after which it stands, not its first.
        let before = if old_left == 0 { old_at } else { old_at.checked_sub(1).ok_or(malformed)? };
        let mut hunk = Hunk { before, ..Hunk::default() };
        while old_left > 0 || new_left > 0 {
            let (at, line) = lines.next().ok_or(malformed)?;
            let malformed = TextDiffError::Malformed(at);
            let (removed, added) = if let Some(text) = line.strip_prefix('-') {
                (Some(text), None)
            } else if let Some(text) = line.strip_prefix('+') {
                (None, Some(text))
            } else {
                let text = line.strip_prefix(' ').ok_or(malformed)?;
                (Some(text), Some(text))
            };
            old_left = old_left.checked_sub(usize::from(removed.is_some())).ok_or(malformed)?;
            new_left = new_left.checked_sub(usize::from(added.is_some())).ok_or(malformed)?;
            hunk.old.extend(removed);
            hunk.new.extend(added);
        }
        hunks.push(hunk);
    }
    Ok((digest, hunks))
}

/// First line and number of lines.
type Range = (usize, usize);

/// The two ranges of `@@ -2,1 +2,1 @@`.
fn parse_ranges(line: &str) -> Option<(Range, Range)> {
    let (old, new) = line.strip_prefix("@@ -")?.strip_suffix(" @@")?.split_once(" +")?;
    let range = |text: &str| {
        let (start, count) = text.split_once(',').unwrap_or((text, "1"));
        Some((start.parse().ok()?, count.parse().ok()?))
    };
    Some((range(old)?, range(new)?))
}

/// A line and the line break that it has of its own; `None` for a line that the diff brought.
type Line<'t> = (&'t str, Option<&'t str>);

/// The lines of a text, each with its line break; the last has an empty one.
fn split_lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\n']) {
        let (line, from_break) = rest.split_at(at);
        let line_break = LINE_BREAKS.iter().find(|line_break| from_break.starts_with(**line_break));
        let (line_break, after) = from_break.split_at(line_break.map_or(1, |line_break| line_break.len()));
        lines.push((line, Some(line_break)));
        rest = after;
    }
    lines.push((rest, Some("")));
    lines
}

/// The lines of the new text.
fn replace<'t>(old: &[Line<'t>], hunks: &[Hunk<'t>]) -> Result<Vec<Line<'t>>, TextDiffError> {
    let mut new = Vec::with_capacity(old.len());
    let mut taken = 0;
    for hunk in hunks {
        let kept = old.get(taken..hunk.before).ok_or(TextDiffError::OtherText)?;
        let replaced =
            old.get(hunk.before..hunk.before.saturating_add(hunk.old.len())).ok_or(TextDiffError::OtherText)?;
        if replaced.iter().zip(&hunk.old).any(|((old, _), expected)| old != expected) {
            return Err(TextDiffError::OtherText);
        }
        new.extend_from_slice(kept);
        new.extend(hunk.new.iter().map(|line| (*line, None)));
        taken = hunk.before + replaced.len();
    }
    new.extend_from_slice(old.get(taken..).ok_or(TextDiffError::OtherText)?);
    Ok(new)
}

/// The text of the lines. Old lines keep their line break; new ones, and a last line that is no longer the last, get `end`.
fn join(lines: &[Line<'_>], end: &str) -> String {
    let mut text = String::new();
    for (at, (line, line_break)) in lines.iter().enumerate() {
        text.push_str(line);
        if at + 1 < lines.len() {
            text.push_str(line_break.filter(|line_break| !line_break.is_empty()).unwrap_or(end));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn diff_to(new: &str, hunks: &str) -> String {
        format!("--- \n+++ {}\n{hunks}", hexadecimal(new))
    }

    #[test]
    fn a_diff_in_salesforces_form_gives_the_new_value_with_its_own_line_breaks() {
        for end in LINE_BREAKS {
            let old = ["one", "two", "three", "four", "five", "six", "seven"].join(end);
            let new = ["one", "2", "three", "four", "five", "six", "7"].join(end);
            let diff = diff_to(&new, "@@ -2,1 +2,1 @@\n-two\n+2\n@@ -7,1 +7,1 @@\n-seven\n+7");
            assert_eq!(apply(&old, &diff), Ok(new));
        }
    }

    #[test]
    fn lines_are_added_and_removed_at_either_end() {
        let cases = [
            ("b", "a\nb", "@@ -0,0 +1,1 @@\n+a"),
            ("a", "a\nb\nc", "@@ -1,0 +2,2 @@\n+b\n+c"),
            ("a\nb", "b", "@@ -1,1 +0,0 @@\n-a"),
            ("a\nb", "a", "@@ -2,1 +1,0 @@\n-b"),
            ("a\nb\nc", "a\nx\nc", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c"),
            ("a", "b", "@@ -1 +1 @@\n-a\n+b\n"),
            ("--- a", "+++ b", "@@ -1 +1 @@\n---- a\n++++ b"),
        ];
        for (old, new, hunks) in cases {
            assert_eq!(apply(old, &diff_to(new, hunks)).as_deref(), Ok(new), "{hunks}");
        }
    }

    #[test]
    fn a_diff_that_does_not_fit_gives_no_value() {
        let hunk = "@@ -1,1 +1,1 @@\n-a\n+b";
        assert_eq!(apply("a", &diff_to("c", hunk)), Err(TextDiffError::OtherDigest));
        assert_eq!(apply("x", &diff_to("b", hunk)), Err(TextDiffError::OtherText));
        assert_eq!(apply("a", &diff_to("b", "@@ -9,1 +9,1 @@\n-a\n+b")), Err(TextDiffError::OtherText));
        let backwards = "@@ -2,1 +2,1 @@\n-b\n+x\n@@ -1,1 +1,1 @@\n-a\n+y";
        assert_eq!(apply("a\nb", &diff_to("y\nx", backwards)), Err(TextDiffError::OtherText));
        for (line, malformed) in [
            (1, ""),
            (1, "a new value"),
            (2, "--- \n@@ -1 +1 @@"),
            (3, "--- \n+++ ab\nx"),
            (3, "--- \n+++ ab\n@@ -1,2 +1,1 @@\n-a\n+b"),
            (3, "--- \n+++ ab\n@@ -0,1 +1,1 @@\n-a\n+b"),
            (4, "--- \n+++ ab\n@@ -1,1 +1,1 @@\n*a"),
            (3, "--- \n+++ ab\n@@ -1,99999999999999999999999 +1,1 @@"),
        ] {
            assert_eq!(apply("a", malformed), Err(TextDiffError::Malformed(line)), "{malformed:?}");
        }
    }

    proptest! {
        #[test]
        fn any_replacement_of_lines_is_applied(
            lines in prop::collection::vec("[a-z+-]{0,4}", 1..12),
            new in prop::collection::vec("[a-z+-]{0,4}", 0..4),
            from in 0_usize..12,
            count in 0_usize..4,
            end in prop::sample::select(LINE_BREAKS.to_vec()),
        ) {
            let from = from.min(lines.len());
            let to = (from + count).min(lines.len());
            let mut expected = lines.clone();
            let old: Vec<_> = expected.splice(from..to, new.clone()).collect();
            prop_assume!(!expected.is_empty());
            let position = |count: usize| if count == 0 { from } else { from + 1 };
            let mut hunk = format!("@@ -{},{} +{},{} @@", position(old.len()), old.len(), position(new.len()), new.len());
            old.iter().for_each(|line| hunk.push_str(&format!("\n-{line}")));
            new.iter().for_each(|line| hunk.push_str(&format!("\n+{line}")));
            let expected = expected.join(end);
            prop_assert_eq!(apply(&lines.join(end), &diff_to(&expected, &hunk)), Ok(expected));
        }

        #[test]
        fn no_diff_panics(old in ".{0,30}", diff in "--- \n\\+\\+\\+ [0-9a-f]{0,4}\n(@@ -[0-9]{0,3}(,[0-9]{1,20})? \\+[0-9]{0,2} @@\n([-+ ].{0,3}\n?){0,4}){0,3}|.{0,40}") {
            let _ = apply(&old, &diff);
        }
    }
}
