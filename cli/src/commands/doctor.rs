//! `weft doctor`: the agent's preflight checks without the agent.

use std::process::ExitCode;

use weft_node_agent::doctor::{self, DoctorOptions};
use weft_overlay::keys::Keyspace;

use super::daemon::{etcd_options, observe_host_name, run_daemon};
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
fn run_checks(config: &DoctorConfig) -> Result<Vec<Finding>, Failure> {
    let DoctorConfig { etcd, host, socket } = config;
    let store = etcd.as_ref().map(etcd_options).transpose().map_err(Failure::Daemon)?;
    let keys = etcd.as_ref().map(|etcd| Keyspace::under(&etcd.key_prefix.to_string())).unwrap_or_default();
    let options = DoctorOptions {
        store,
        keys,
        underlay: host.underlay.as_ref().map(ToString::to_string),
        vxlan_port: host.vxlan_port,
        state_dir: host.state_dir.clone(),
        socket: socket.clone(),
    };
    let mut findings = Vec::new();
    run_daemon(async {
        findings = doctor::run(&options).await;
        Ok(())
    })
    .map_err(Failure::Daemon)?;
    Ok(findings)
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
