//! `weft agent`: from arguments to a running daemon.

use std::process::ExitCode;

use tracing::{error, info};

use super::daemon::{describe_etcd, observe_host_name, observe_kernel_release, start_log};
use crate::{
    args::{AgentArgs, GlobalArgs},
    config::{AgentConfig, Settings},
    exit::{Exit, Failure},
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
#[expect(clippy::needless_pass_by_value, reason = "the agent owns its configuration")]
fn run_agent(config: AgentConfig) -> ExitCode {
    error!(node = %config.host.node, "the agent is not linked into this build of weft yet");
    Exit::Internal.into()
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
        resolv_conf = %host.resolv_conf.display(),
        dns_ttl_s = config.dns_ttl.as_secs(),
        log = %config.log.filter,
        "agent starts"
    );
}
