//! P1: between containers on two hosts, compared with the wire between the hosts.

use anyhow::Result;

use super::handmade;
use super::load::{self, Path};
use super::report::{Report, Row, Target, Unit};
use super::rig::{CONTAINERS, Rig};
use super::{Effort, Samples};
use crate::topology::fixed_name;

const PEER: &str = "bridge + VXLAN in the host's namespace";

#[derive(Default)]
struct Figures {
    bits: Samples,
    packets: Samples,
}

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    let paths = paths(rig)?;
    let core = report.machine.cores - 1;
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    for round in 1..=effort.rounds {
        if round % 10 == 1 {
            progress(&format!("P1: TCP and 64-byte packets on three paths, round {round} of {}", effort.rounds));
        }
        for (path, figures) in paths.iter().zip(&mut figures) {
            figures.bits.push(load::tcp_bits_per_second(path, core, effort.transfer)? / 1e9);
            figures.packets.push(load::packets_per_second(path, core, effort.transfer)? / 1e3);
        }
    }
    let [wire, weft, script] = figures;
    for (name, figures) in [("underlay", &wire), ("weft", &weft), ("handmade", &script)] {
        report.keep(&format!("p1_tcp_gbps_{name}"), &figures.bits);
        report.keep(&format!("p1_udp64_kpps_{name}"), &figures.packets);
    }
    let share = |figures: &Samples, wire: &Samples| figures.over(wire).median();
    report.rows.extend([
        row("TCP / wire", share(&weft.bits, &wire.bits), 0.87, share(&script.bits, &wire.bits)),
        row("64-byte packets / wire", share(&weft.packets, &wire.packets), 0.74, share(&script.packets, &wire.packets)),
    ]);
    report.notes.push(format!(
        "P1: the wire carries {:.2} Gb/s of TCP and {:.0} thousand packets/s on one core; Weft {:.2} and {:.0}, the script {:.2} and {:.0}. \
         br_netfilter on, FORWARD policy DROP and 500 rules on both hosts; medians of {} rounds, each path once a round.",
        wire.bits.median(),
        wire.packets.median(),
        weft.bits.median(),
        weft.packets.median(),
        script.bits.median(),
        script.packets.median(),
        effort.rounds
    ));
    Ok(())
}

fn row(what: &str, ours: f64, least: f64, peer: f64) -> Row {
    Row {
        key: "P1",
        what: what.to_owned(),
        unit: Unit::Share,
        ours,
        target: Some(Target::AtLeast(least)),
        peer: Some((PEER, peer)),
    }
}

/// The wire, Weft, the script.
fn paths(rig: &Rig) -> Result<[Path; 3]> {
    let [h1, h2] = &rig.hosts;
    let between = |names: [&str; 2], address| Path { from: fixed_name(names[0]), to: fixed_name(names[1]), address };
    Ok([
        Path { from: h1.netns(), to: h2.netns(), address: h2.id().underlay_address().into() },
        between(CONTAINERS, Rig::address(CONTAINERS[1])?),
        between(handmade::CONTAINERS, handmade::far_address()),
    ])
}
