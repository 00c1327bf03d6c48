//! `weft agent`: from arguments to a running daemon.

use std::{fs, process::ExitCode};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tracing::{error, info};

use weft_node_agent::{
    agent::{self, AgentError, AgentOptions, Progress},
    docker::{DockerEngine, DockerOptions},
    underlay::UnderlayError,
};
use weft_overlay::keys::Keyspace;

use super::daemon::{
    describe_etcd, etcd_options, observe_host_name, observe_kernel_release, run_daemon, start_log, tell_manager,
    termination,
};
use crate::{
    args::{AgentArgs, GlobalArgs},
    config::{AgentConfig, Docker, Settings},
    exit::{Exit, Failure},
    values::SocketGroup,
};

/// Validates the settings, starts the log, logs the settings and hands over to the agent.
pub(super) fn start(args: AgentArgs, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    let settings = Settings { args, socket: global.socket.clone(), host_name: observe_host_name() };
    let config = AgentConfig::try_from(settings)?;
    start_log(&config.log);
    log_settings(&config);
    Ok(run_agent(config))
}

/// Runs the agent until it is told to end.
fn run_agent(config: AgentConfig) -> ExitCode {
    let outcome = run_daemon(async {
        let options = agent_options(config)?;
        Ok(agent::run(options, tell, termination()?).await?)
    });
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            error!(error = %format!("{failure:#}"), "the agent ended");
            exit_of(&failure).into()
        }
    }
}

/// Passes news of the agent on to the service manager.
fn tell(progress: Progress) {
    match progress {
        Progress::Serving => tell_manager(&[NotifyState::Ready]),
        Progress::Standing(words) => tell_manager(&[NotifyState::Status(&words)]),
    }
}

fn agent_options(config: AgentConfig) -> anyhow::Result<AgentOptions> {
    let AgentConfig { etcd, host, socket, socket_group, dns_ttl, docker, docker_plugins, .. } = config;
    let engine = match docker {
        Docker::Auto => DockerEngine::Auto,
        Docker::Off => DockerEngine::Off,
        Docker::At(socket) => DockerEngine::At(socket),
    };
    Ok(AgentOptions {
        store: etcd_options(&etcd)?,
        keys: Keyspace::under(&etcd.key_prefix.to_string()),
        node: host.node,
        underlay: host.underlay.map(|underlay| underlay.to_string()),
        vxlan_port: host.vxlan_port,
        state_dir: host.state_dir,
        socket,
        socket_group: socket_group.as_ref().map(group_id).transpose()?,
        netns: host.netns.to_string(),
        resolv_conf: host.resolv_conf,
        dns_ttl,
        docker: DockerOptions { engine, plugins: docker_plugins },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn group_id(group: &SocketGroup) -> anyhow::Result<u32> {
    // An absent file names no group.
    let listing = fs::read_to_string("/etc/group").unwrap_or_default();
    group.id(&listing).context("--socket-group (WEFT_SOCKET_GROUP)")
}

/// What a service manager is told: starting again does not help where privilege is missing or settings are wrong. It
/// does where the host has no such address yet, as at boot before DHCP has answered.
fn exit_of(failure: &anyhow::Error) -> Exit {
    match failure.downcast_ref::<AgentError>() {
        Some(AgentError::Privilege(_)) => Exit::Privilege,
        Some(AgentError::Underlay(UnderlayError::NoneSelected { .. } | UnderlayError::NoCandidate)) => {
            Exit::Unavailable
        }
        Some(AgentError::Underlay(_) | AgentError::Identity(_) | AgentError::Store(_)) => Exit::Config,
        Some(AgentError::PartEnded(_)) => Exit::Internal,
        Some(_) => Exit::Failed,
        None => Exit::Config,
    }
}

fn log_settings(config: &AgentConfig) {
    let host = &config.host;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = observe_kernel_release(),
        node = %host.node,
        etcd = describe_etcd(&config.etcd),
        key_prefix = %config.etcd.key_prefix,
        underlay = host.underlay.as_ref().map(tracing::field::display),
        vxlan_port = host.vxlan_port,
        netns = %host.netns,
        state_dir = %host.state_dir.display(),
        socket = %config.socket.display(),
        socket_group = config.socket_group.as_ref().map(tracing::field::display),
        resolv_conf = %host.resolv_conf.display(),
        dns_ttl_s = config.dns_ttl.as_secs(),
        docker = ?config.docker,
        docker_plugins = %config.docker_plugins.display(),
        log = %config.log.filter,
        "agent starts"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_still_come_is_waited_for_and_a_wrong_setting_is_not() {
        let wanted = || "192.168.56.0/24".to_owned();
        for (error, exit) in [
            (UnderlayError::NoCandidate, Exit::Unavailable),
            (UnderlayError::NoneSelected { wanted: wanted(), available: Vec::new() }, Exit::Unavailable),
            (UnderlayError::SeveralSelected { wanted: wanted(), selected: Vec::new() }, Exit::Config),
            (UnderlayError::SeveralCandidates(Vec::new()), Exit::Config),
            (UnderlayError::Malformed("/".to_owned()), Exit::Config),
        ] {
            let failure = anyhow::Error::from(AgentError::from(error.clone()));
            assert_eq!(exit_of(&failure), exit, "{error}");
        }
    }
}
