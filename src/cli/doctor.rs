//! `casewire doctor`: everything that has to be in order, looked at one by one.

use clap::Args;

use crate::cli::error::DoctorError;
use crate::cli::{ConfigFile, say};
use crate::config::Config;
use crate::doctor::{self, Area, Finding, Outcome, Report};
use crate::failure::Failure;

/// Look at everything that has to be in order for a run, and say what mends what is not.
///
/// Files and key, the network, the sign-in and the organisation, topics and rights in Salesforce and in Kafka, stored
/// positions. Nothing is written to Salesforce, no topic is made, and what is written to Kafka is taken back. It can be used
/// while casewire runs: it fences nobody.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire doctor --config casewire.toml\n  \
                        casewire doctor --config casewire.toml --json | jq -r '.findings[] | select(.outcome == \"failed\") | .remedy'\n\n\
                        Exit codes: 0 all is in order, 1 nothing failed and there are warnings, otherwise that of the first check that \
                        failed: 69 unavailable, 75 temporary, 77 no permission, 78 configuration")]
pub struct DoctorArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// As JSON: `outcome`, `exit_code` and `findings`, when all checks are made.
    #[arg(long)]
    json: bool,
}

/// Prints the findings as they come, or all of them as JSON.
///
/// # Errors
/// When not all is in order.
pub async fn run(arguments: DoctorArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.file.config, &Config::environment());
    let json = arguments.json;
    let mut area = None;
    let mut tell = |finding: &Finding| {
        if !json {
            show(finding, &mut area);
        }
    };
    let mut report = Report::new(&mut tell);
    doctor::examine(config, &mut report).await;
    if json {
        say(format_args!("{:#}", report.to_json()));
    } else {
        say(format_args!("\n{}", report.summary()));
    }
    let Some(exit) = report.exit() else { return Ok(()) };
    let failed = report.findings().iter().any(|finding| matches!(finding.outcome, Outcome::Failed(_)));
    let summary = report.summary();
    Err(if failed { DoctorError::Failed { summary, exit } } else { DoctorError::Warnings(summary) }.into())
}

/// One finding as two lines at most, below the name of its area.
fn show(finding: &Finding, area: &mut Option<Area>) {
    if *area != Some(finding.area) {
        let gap = if area.is_some() { "\n" } else { "" };
        say(format_args!("{gap}{}", finding.area.name()));
        *area = Some(finding.area);
    }
    let because = if matches!(finding.outcome, Outcome::Skipped(_)) { "because " } else { "" };
    say(format_args!("  {:<8} {:<34} {because}{}", finding.outcome.word(), finding.check, finding.outcome.what()));
    if !finding.outcome.remedy().is_empty() {
        say(format_args!("           what to do: {}", finding.outcome.remedy()));
    }
}
