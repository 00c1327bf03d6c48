//! P10: what an agent costs that has nothing to do.

use std::thread;
use std::time::Instant;

use anyhow::Result;

use super::Effort;
use super::machine::{cpu_time_of, resident_mb};
use super::report::{Report, Row, Target, Unit};
use super::rig::Rig;

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    progress(&format!("P10: watching an idle agent for {} s", effort.idle.as_secs()));
    let pid = rig.agent_pid(&rig.hosts[0])?;
    let (began, before) = (Instant::now(), cpu_time_of(pid)?);
    thread::sleep(effort.idle);
    let used = cpu_time_of(pid)?.saturating_sub(before);
    let percent = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let row = |what: &str, unit, ours, most| Row {
        key: "P10",
        what: what.to_owned(),
        unit,
        ours,
        target: Some(Target::AtMost(most)),
        peer: None,
    };
    report.rows.extend([
        row("idle agent, processor", Unit::PercentOfACore, percent, 0.2),
        row("idle agent, resident memory", Unit::Megabytes, resident_mb(pid)?, 25.0),
    ]);
    Ok(())
}
