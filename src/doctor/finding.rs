//! What a check found, and the report of all of them.

use serde_json::{Value, json};

use crate::failure::{Exit, Failure};

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// What lies on this machine.
    Files,
    /// The way to Salesforce's hosts, and to the collector of traces.
    Network,
    /// Signing in, and the organisation.
    Salesforce,
    /// What the user may subscribe to and read.
    Streams,
    /// The brokers, the topics, the rights there.
    Kafka,
    /// Where the streams stand.
    Checkpoints,
}

impl Area {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Network => "network",
            Self::Salesforce => "salesforce",
            Self::Streams => "streams",
            Self::Kafka => "kafka",
            Self::Checkpoints => "checkpoints",
        }
    }
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In order, and what was seen.
    Ok(String),
    /// It works, and somebody should look at it.
    Warning {
        /// What is the matter.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// It does not work.
    Failed(Failure),
    /// Not checked, with the reason.
    Skipped(String),
}

impl Outcome {
    /// A warning.
    pub fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), remedy: remedy.into() }
    }

    /// A failure with its remedy.
    pub fn failed(error: impl Into<Failure>) -> Self {
        Self::Failed(error.into())
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Warning { .. } => "warning",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    /// What was seen, in a sentence.
    pub fn what(&self) -> &str {
        match self {
            Self::Ok(what) | Self::Warning { what, .. } | Self::Skipped(what) => what,
            Self::Failed(failure) => &failure.what,
        }
    }

    /// What to do; empty where there is nothing.
    pub fn remedy(&self) -> &str {
        match self {
            Self::Warning { remedy, .. } => remedy,
            Self::Failed(failure) => &failure.remedy,
            Self::Ok(_) | Self::Skipped(_) => "",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// The check: `sign-in`, `topic /data/CaseChangeEvent`.
    pub check: String,
    /// How it went.
    pub outcome: Outcome,
}

impl Finding {
    /// As `doctor --json` has it.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "area": self.area.name(),
            "check": self.check,
            "outcome": self.outcome.word(),
            "what": self.outcome.what(),
        });
        if let Some(members) = json.as_object_mut() {
            if !self.outcome.remedy().is_empty() {
                members.insert("remedy".to_owned(), json!(self.outcome.remedy()));
            }
            if let Outcome::Failed(failure) = &self.outcome {
                members.insert("exit_code".to_owned(), json!(failure.exit as u8));
            }
        }
        json
    }
}

/// All findings in their order. Whoever wants to see them as they come gives a function for it.
pub struct Report<'a> {
    findings: Vec<Finding>,
    tell: &'a mut dyn FnMut(&Finding),
}

impl<'a> Report<'a> {
    /// An empty report; `tell` sees each finding as it is made.
    pub fn new(tell: &'a mut dyn FnMut(&Finding)) -> Self {
        Self { findings: Vec::new(), tell }
    }

    /// Adds a finding; false if it failed.
    pub fn add(&mut self, area: Area, check: impl Into<String>, outcome: Outcome) -> bool {
        let sound = !matches!(outcome, Outcome::Failed(_));
        let finding = Finding { area, check: check.into(), outcome };
        (self.tell)(&finding);
        self.findings.push(finding);
        sound
    }

    /// Adds checks that cannot be made.
    pub fn skip<C: Into<String>>(&mut self, area: Area, checks: impl IntoIterator<Item = C>, because: &str) {
        for check in checks {
            self.add(area, check, Outcome::Skipped(because.to_owned()));
        }
    }

    /// The findings so far.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn count(&self, word: &str) -> usize {
        self.findings.iter().filter(|finding| finding.outcome.word() == word).count()
    }

    /// How many of each, in words.
    pub fn summary(&self) -> String {
        let counts = ["ok", "warning", "failed", "skipped"].map(|word| format!("{} {word}", self.count(word)));
        format!("{} checks: {}", self.findings.len(), counts.join(", "))
    }

    /// How the command ends: by the first check that failed, since what comes after it may only be its consequence;
    /// without any, by the warnings; `None` when all is in order.
    pub fn exit(&self) -> Option<Exit> {
        let failed = self.findings.iter().find_map(|finding| match &finding.outcome {
            Outcome::Failed(failure) => Some(failure.exit),
            _ => None,
        });
        failed.or_else(|| (self.count("warning") > 0).then_some(Exit::Findings))
    }

    /// The whole as `doctor --json` prints it.
    pub fn to_json(&self) -> Value {
        let worst = ["failed", "warning", "ok"].into_iter().find(|word| self.count(word) > 0).unwrap_or("ok");
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "outcome": worst,
            "exit_code": self.exit().map_or(0, |exit| exit as u8),
            "ok": self.count("ok"),
            "warnings": self.count("warning"),
            "failed": self.count("failed"),
            "skipped": self.count("skipped"),
            "findings": self.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_how_the_command_ends_and_warnings_come_next() {
        let mut told = Vec::new();
        let mut tell = |finding: &Finding| told.push(finding.check.clone());
        let mut report = Report::new(&mut tell);
        report.skip(Area::Files, ["certificate"], "there is none");
        assert!(report.add(Area::Files, "key", Outcome::Ok("fine".into())));
        assert_eq!((report.exit(), report.to_json()["outcome"].as_str()), (None, Some("ok")));
        assert!(report.add(Area::Salesforce, "clock", Outcome::warning("late", "set it")));
        assert_eq!((report.exit(), report.to_json()["outcome"].as_str()), (Some(Exit::Findings), Some("warning")));
        assert!(!report.add(
            Area::Salesforce,
            "sign-in",
            Outcome::failed(Failure::new(Exit::NoPermission, "no", "Setup"))
        ));
        assert!(!report.add(
            Area::Kafka,
            "brokers",
            Outcome::failed(Failure::new(Exit::Unavailable, "gone", "start it"))
        ));
        assert_eq!(report.exit(), Some(Exit::NoPermission));
        assert_eq!(report.summary(), "5 checks: 1 ok, 1 warning, 2 failed, 1 skipped");
        let json = report.to_json();
        assert_eq!((json["exit_code"].as_u64(), json["failed"].as_u64()), (Some(77), Some(2)));
        assert_eq!(json["findings"][3]["remedy"], "Setup");
        assert!(json["findings"][1].get("remedy").is_none());
        assert_eq!(told, ["certificate", "key", "clock", "sign-in", "brokers"]);
    }
}
