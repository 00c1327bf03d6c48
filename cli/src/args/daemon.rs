//! Arguments of the long-running commands and of `doctor`, which checks the same settings.
//!
//! Values are kept as they were typed, even numbers: a systemd unit with three mistakes in its environment file should
//! report three mistakes, not the first. Must not parse a value; [`crate::config`] does.

use clap::Args;

use super::examples;

/// Run the agent of this host
///
/// Keeps this host's bridges, VXLAN devices, forwarding rows and firewall as the cluster's store says, and answers the
/// other weft commands on its unix socket. Runs in the foreground until it is told to end by SIGTERM or SIGINT; then
/// it leaves the kernel as it is, so containers keep talking while it is away.
///
/// Needs root, or CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE; with mounts of its own, as in a
/// sandboxed service, CAP_SYS_CHROOT and CAP_SYS_PTRACE too. `weft doctor` says beforehand what is missing. Every setting
/// may also come from its environment variable; an option on the command line wins. Wrong settings are reported all
/// together, with exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    override_usage = "weft agent --etcd <URL>[,<URL>...] [OPTIONS]",
    after_long_help = examples::AGENT
)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Group whose members may use the agent's socket: a name in /etc/group, or a number [default: only root may]
    ///
    /// The socket then belongs to the group, with mode 0660. Its members may do with networks and containers of this host
    /// what root may do with weft.
    #[arg(long, env = "WEFT_SOCKET_GROUP", hide_env_values = true, value_name = "GROUP")]
    pub(crate) socket_group: Option<String>,
    /// Seconds for which containers may keep an answer about a name, 0 to 86400
    #[arg(long, env = "WEFT_DNS_TTL", hide_env_values = true, value_name = "SECONDS", default_value = "5")]
    pub(crate) dns_ttl: String,
    /// Serve Docker's networks of driver weft: auto (once this host has an engine), off, or the engine's socket
    ///
    /// The agent makes a plugin socket that the engine finds by itself, and asks the engine for the names of networks and
    /// containers. Nothing needs to be configured in Docker. With auto, the engine's socket is /var/run/docker.sock.
    #[arg(
        long,
        env = "WEFT_DOCKER",
        hide_env_values = true,
        value_name = "auto|off|SOCKET",
        default_value = "auto",
        help_heading = "Docker"
    )]
    pub(crate) docker: String,
    /// Directory in which the Docker engine looks for plugins
    #[arg(
        long,
        env = "WEFT_DOCKER_PLUGINS",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/run/docker/plugins",
        help_heading = "Docker"
    )]
    pub(crate) docker_plugins: String,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Run the cluster's controller
///
/// Does what one process must do for the whole cluster: declares nodes lost that have shown no sign of life for long,
/// removes what they left behind, and finishes the deletion of networks. Several may run, on any machines: one is
/// elected, the others wait to take over. While none runs, everything that exists keeps working.
///
/// With --listen it serves the cluster's store itself, and no etcd is needed: agents, and etcdctl, use it as they would
/// use etcd. That store is one server: while it is away nothing can be changed in the cluster, and everything that
/// exists keeps working. Each acknowledged change is on its disk. `weft store` copies it, and moves it to an etcd of
/// several members.
///
/// Needs no privilege, only a way to etcd, or a directory and a port. Every setting may also come from its environment
/// variable; an option on the command line wins. Wrong settings are reported all together, with exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    override_usage = "weft controller --listen <ADDRESS:PORT> [OPTIONS]\n       weft controller --etcd <URL>[,<URL>...] [OPTIONS]",
    after_long_help = examples::CONTROLLER
)]
pub(crate) struct ControllerArgs {
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    /// For how long a node must show no sign of life to be given up, such as 90s, 10m or 1h
    ///
    /// The endpoints of a node that is given up are removed, and its addresses become free. Short times help nobody:
    /// replacement containers get other addresses anyway.
    #[arg(long, env = "WEFT_LOST_AFTER", hide_env_values = true, value_name = "DURATION", default_value = "1h")]
    pub(crate) lost_after: String,
    /// The name that this controller stands for election with [default: the host's name]
    #[arg(long, env = "WEFT_NAME", hide_env_values = true, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Check whether this host can run the agent
///
/// Checks privileges, kernel features, the underlay address, whether the VXLAN port is free, br_netfilter, the firewall
/// and etcd, with the settings that the agent would use, and says for each what to do about it. Changes nothing and
/// needs no running agent. Without --etcd everything but etcd is checked.
///
/// Exits with 0 when nothing stands in the way (warnings may remain), and with 1 when something does.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_long_help = examples::DOCTOR)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// Where the store is and how to get in.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct EtcdArgs {
    /// URLs of the etcd members, such as http://10.0.0.1:2379; repeat the option or separate them by commas
    #[arg(
        long,
        env = "WEFT_ETCD",
        hide_env_values = true,
        value_name = "URL[,URL...]",
        value_delimiter = ',',
        help_heading = "Store"
    )]
    pub(crate) etcd: Vec<String>,
    /// File with the certificates (PEM) of the authority that etcd's certificate is checked against
    #[arg(long, env = "WEFT_ETCD_CA", hide_env_values = true, value_name = "FILE", help_heading = "Store")]
    pub(crate) etcd_ca: Option<String>,
    /// File with this program's certificate (PEM) for etcd; goes with --etcd-key
    #[arg(long, env = "WEFT_ETCD_CERT", hide_env_values = true, value_name = "FILE", help_heading = "Store")]
    pub(crate) etcd_cert: Option<String>,
    /// File with the private key (PEM) of --etcd-cert
    #[arg(long, env = "WEFT_ETCD_KEY", hide_env_values = true, value_name = "FILE", help_heading = "Store")]
    pub(crate) etcd_key: Option<String>,
    /// What every key in etcd begins with; a second cluster in the same etcd uses another one
    #[arg(
        long,
        env = "WEFT_KEY_PREFIX",
        hide_env_values = true,
        value_name = "PREFIX",
        default_value = "/weft/v1/",
        help_heading = "Store"
    )]
    pub(crate) key_prefix: String,
}

/// The store that the controller serves itself.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ServingArgs {
    /// Serve the cluster's store at this address instead of using an etcd, such as 10.0.0.1:2379
    #[arg(
        long,
        env = "WEFT_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS:PORT",
        help_heading = "Store of its own"
    )]
    pub(crate) listen: Option<String>,
    /// Directory of that store
    #[arg(
        long,
        env = "WEFT_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/var/lib/weft",
        help_heading = "Store of its own"
    )]
    pub(crate) data_dir: String,
    /// File with that store's certificate (PEM); clients must then use https
    #[arg(long, env = "WEFT_CERT", hide_env_values = true, value_name = "FILE", help_heading = "Store of its own")]
    pub(crate) cert: Option<String>,
    /// File with the private key (PEM) of --cert
    #[arg(long, env = "WEFT_KEY", hide_env_values = true, value_name = "FILE", help_heading = "Store of its own")]
    pub(crate) key: Option<String>,
    /// File with the authority (PEM) that clients' certificates must come from
    ///
    /// Each node's certificate must have the node's name as its common name (CN): it may then write what is that node's,
    /// and nothing else.
    #[arg(
        long,
        env = "WEFT_CLIENT_CA",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Store of its own"
    )]
    pub(crate) client_ca: Option<String>,
    /// Common name (CN) of clients' certificates that may write everything
    #[arg(
        long,
        env = "WEFT_CLIENT_ADMIN",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "weft-admin",
        help_heading = "Store of its own"
    )]
    pub(crate) client_admin: String,
}

/// What the agent uses of its host.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct HostArgs {
    /// This node's name, unique in the cluster [default: the host's name]
    #[arg(long, env = "WEFT_NODE", hide_env_values = true, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Where tunnel packets leave and arrive: an interface, a subnet (CIDR) or an address of this host
    ///
    /// Must select exactly one address of this host, and no other node may have it. Without this option the agent takes
    /// the only candidate; if there are several it refuses to start and lists them.
    #[arg(long, env = "WEFT_UNDERLAY", hide_env_values = true, value_name = "IFACE|CIDR|ADDRESS")]
    pub(crate) underlay: Option<String>,
    /// UDP port of VXLAN, 1 to 65535, the same on every node
    #[arg(long, env = "WEFT_VXLAN_PORT", hide_env_values = true, value_name = "PORT", default_value = "4789")]
    pub(crate) vxlan_port: String,
    /// Directory for what must survive a restart: the node's id above all
    #[arg(long, env = "WEFT_STATE_DIR", hide_env_values = true, value_name = "DIR", default_value = "/var/lib/weft")]
    pub(crate) state_dir: String,
    /// The network namespace that bridges and tunnels are kept in: a name in /run/netns, made if missing
    #[arg(long, env = "WEFT_NETNS", hide_env_values = true, value_name = "NAME", default_value = "weft")]
    pub(crate) netns: String,
    /// File with the resolvers that names outside the cluster are asked of
    #[arg(
        long,
        env = "WEFT_RESOLV_CONF",
        hide_env_values = true,
        value_name = "FILE",
        default_value = "/etc/resolv.conf"
    )]
    pub(crate) resolv_conf: String,
}

/// What is logged and how; always to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace), or levels by target such as info,weft_overlay=debug
    #[arg(
        long,
        env = "WEFT_LOG",
        hide_env_values = true,
        value_name = "FILTER",
        default_value = "info",
        help_heading = "Log"
    )]
    pub(crate) log: String,
    /// How to log: text, or json for one object per line
    #[arg(
        long,
        env = "WEFT_LOG_FORMAT",
        hide_env_values = true,
        value_name = "text|json",
        default_value = "text",
        help_heading = "Log"
    )]
    pub(crate) log_format: String,
}
