//! A failure as an operator needs it: what failed, what mends it, and how the
//! process ends if it ends because of it.
//!
//! Each room has errors of its own that say what failed. Where they leave the room
//! they become a [`Failure`] through that room's one table.

use std::fmt;
use std::process::ExitCode;

/// How the process ends; the numbers are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command came to its end and found what it looks for.
    Findings = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A service that is needed is not there.
    Unavailable = 69,
    /// A fault of casewire's own.
    Software = 70,
    /// It may work later; run again.
    Temporary = 75,
    /// Another instance took over.
    Fenced = 76,
    /// A permission is missing.
    NoPermission = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// Whether what failed may work later without anybody's doing.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Temporary | Self::Unavailable)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Something that does not mend itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// What failed, in a sentence, with the other side's own words where it has some.
    pub what: String,
    /// What to do about it: the Setup page to open, the command to run.
    pub remedy: String,
    /// How the process ends if nothing else keeps it running.
    pub exit: Exit,
}

impl Failure {
    /// A failure with its remedy.
    pub fn new(exit: Exit, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), exit }
    }

    /// The same in other words.
    #[must_use]
    pub fn told_as(self, what: String) -> Self {
        Self { what, ..self }
    }

    /// The same, said of one among several.
    #[must_use]
    pub fn of(&self, whose: &str) -> Self {
        self.clone().told_as(format!("{whose}: {}", self.what))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(formatter, " — {}", self.remedy) }
    }
}
