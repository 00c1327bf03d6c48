//! `weft doctor`: the agent's preflight checks without the agent.

use std::process::ExitCode;

use super::daemon::observe_host_name;
use crate::{
    args::{DoctorArgs, GlobalArgs},
    config::{DoctorConfig, Settings},
    exit::{Exit, Failure},
    output::{self, Finding, Verdict},
};

/// Validates the settings, makes the checks and prints what they found.
pub(super) fn run(args: DoctorArgs, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    let settings = Settings { args, socket: global.socket.clone(), host_name: observe_host_name() };
    let findings = run_checks(&DoctorConfig::try_from(settings)?)?;
    output::show(&findings, global.output)?;
    Ok(verdict(&findings).into())
}

/// Makes the checks.
fn run_checks(_config: &DoctorConfig) -> Result<Vec<Finding>, Failure> {
    Err(Failure::NotLinked("the preflight check"))
}

fn verdict(findings: &[Finding]) -> Exit {
    let stands_in_the_way = findings.iter().any(|finding| finding.verdict == Verdict::Failure);
    if stands_in_the_way { Exit::Failed } else { Exit::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_makes_the_command_fail() {
        let finding = |verdict| Finding { check: "x".to_owned(), verdict, detail: "x".to_owned(), remedy: None };

        assert_eq!(verdict(&[]), Exit::Ok);
        assert_eq!(verdict(&[finding(Verdict::Ok), finding(Verdict::Warning)]), Exit::Ok);
        assert_eq!(verdict(&[finding(Verdict::Ok), finding(Verdict::Failure)]), Exit::Failed);
    }
}
