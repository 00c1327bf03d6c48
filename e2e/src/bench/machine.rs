//! The machine, because a figure without it means nothing; and what processes use of it.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

/// Where a run took place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Logical processors.
    pub cores: usize,
    /// The processor's own name.
    pub model: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory in megabytes (10^6).
    pub memory_mb: u64,
    /// Mean number of runnable processes in the minute before: above 0.5 or so, something else was at work.
    pub load_before: f64,
}

impl Machine {
    /// Reads what the kernel says.
    ///
    /// # Errors
    /// When `/proc` is not readable.
    pub fn observe() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let processors = read("/proc/cpuinfo")?;
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg")?;
        Ok(Self {
            cores: thread::available_parallelism().context("counting processors")?.get(),
            model: model.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            memory_mb: field_kib(&read("/proc/meminfo")?, "MemTotal").context("reading the memory size")? * 1024
                / 1_000_000,
            load_before: load.split(' ').next().and_then(|load| load.parse().ok()).context("reading the load")?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, model, kernel, memory_mb, load_before } = self;
        write!(formatter, "{cores} x {model}, {memory_mb} MB, Linux {kernel}, load {load_before:.2} before the run")
    }
}

/// Processor time that a process has used, all threads, also those that ended.
pub(super) fn cpu_time_of(pid: i32) -> Result<Duration> {
    let clock =
        ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).with_context(|| format!("finding the clock of process {pid}"))?;
    Ok(clock_gettime(clock).with_context(|| format!("reading the clock of process {pid}"))?.into())
}

/// Processor time of the programs that this process has run to their end.
pub(super) fn cpu_time_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the usage of children")?;
    let microseconds = [usage.user_time(), usage.system_time()]
        .map(|time| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0));
    Ok(Duration::from_micros(microseconds.iter().sum()))
}

/// Resident memory of a process in megabytes (10^6).
pub(super) fn resident_mb(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib = field_kib(&status, "VmRSS").with_context(|| format!("finding VmRSS in {path}"))?;
    let kib = u32::try_from(kib).context("a process of more than 4 TiB")?;
    Ok(f64::from(kib) * 1024.0 / 1_000_000.0)
}

/// Keeps the calling thread on one processor.
pub(super) fn pin_this_thread(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("choosing processor {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("moving to processor {core}"))
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_by_their_whole_name() {
        let text = "VmRSSx:\t1 kB\nVmRSS:\t  2048 kB\n";

        assert_eq!(field_kib(text, "VmRSS"), Some(2048));
        assert_eq!(field_kib(text, "Vm"), None);
    }

    #[test]
    fn own_processor_time_grows_with_work() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = cpu_time_of(pid).unwrap();
        let mut sum = 0_u64;

        while cpu_time_of(pid).unwrap() - before < Duration::from_millis(2) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }

        assert!(sum != 0);
    }
}
