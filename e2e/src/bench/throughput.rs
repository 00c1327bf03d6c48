//! P1: between containers on two hosts, compared with the wire between two hosts.
//!
//! The wire is that of hosts without Weft. How it is between Weft's hosts is shown beside it: their own traffic passes
//! Weft's tables, and connection tracking, which any of its rules about connections turns on for the whole host.

use anyhow::Result;

use super::handmade;
use super::load::{self, Path};
use super::report::{Report, Row, Target, Unit};
use super::rig::{CONTAINERS, Rig};
use super::{Effort, Samples};
use crate::topology::fixed_name;

const PEER: &str = "bridge + VXLAN in the host's namespace";
const PATHS: [&str; 4] = ["underlay", "weft", "handmade", "underlay_of_weft_hosts"];

#[derive(Default)]
struct Figures {
    bits: Samples,
    packets: Samples,
}

pub(super) fn measure(rig: &Rig, effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    let paths = paths(rig)?;
    let core = report.machine.cores - 1;
    let mut figures: [Figures; PATHS.len()] = Default::default();
    for round in 1..=effort.rounds {
        if round % 10 == 1 {
            progress(&format!("P1: TCP and 64-byte packets on four paths, round {round} of {}", effort.rounds));
        }
        for (path, figures) in paths.iter().zip(&mut figures) {
            figures.bits.push(load::tcp_bits_per_second(path, core, effort.transfer)? / 1e9);
            figures.packets.push(load::packets_per_second(path, core, effort.transfer)? / 1e3);
        }
    }
    for (name, figures) in PATHS.iter().zip(&figures) {
        report.keep(&format!("p1_tcp_gbps_{name}"), &figures.bits);
        report.keep(&format!("p1_udp64_kpps_{name}"), &figures.packets);
    }
    let [wire, weft, script, hosts] = figures;
    let bits = |figures: &Figures| figures.bits.over(&wire.bits).median();
    let packets = |figures: &Figures| figures.packets.over(&wire.packets).median();
    let least = |share| Some(Target::AtLeast(share));
    report.rows.extend([
        row("TCP / wire", bits(&weft), least(0.87), Some(bits(&script))),
        row("64-byte packets / wire", packets(&weft), least(0.74), Some(packets(&script))),
        row("TCP between Weft's hosts / wire", bits(&hosts), None, None),
        row("64-byte packets between Weft's hosts / wire", packets(&hosts), None, None),
    ]);
    report.notes.push(format!(
        "P1: the wire carries {:.2} Gb/s of TCP and {:.0} thousand packets/s on one core; Weft {:.2} and {:.0}, the script {:.2} and {:.0}, \
         Weft's hosts themselves {:.2} and {:.0}. \
         br_netfilter on, FORWARD policy DROP and 500 rules on every host; medians of {} rounds, each path once a round.",
        wire.bits.median(),
        wire.packets.median(),
        weft.bits.median(),
        weft.packets.median(),
        script.bits.median(),
        script.packets.median(),
        hosts.bits.median(),
        hosts.packets.median(),
        effort.rounds
    ));
    Ok(())
}

fn row(what: &str, ours: f64, target: Option<Target>, peer: Option<f64>) -> Row {
    Row { key: "P1", what: what.to_owned(), unit: Unit::Share, ours, target, peer: peer.map(|peer| (PEER, peer)) }
}

/// In the order of [`PATHS`].
fn paths(rig: &Rig) -> Result<[Path; PATHS.len()]> {
    let ([h1, h2], [plain1, plain2]) = (&rig.hosts, &rig.plain);
    let between = |names: [&str; 2], address| Path { from: fixed_name(names[0]), to: fixed_name(names[1]), address };
    Ok([
        Path { from: plain1.netns.clone(), to: plain2.netns.clone(), address: plain2.address.into() },
        between(CONTAINERS, Rig::address(CONTAINERS[1])?),
        between(handmade::CONTAINERS, handmade::far_address()),
        Path { from: h1.netns(), to: h2.netns(), address: h2.id().underlay_address().into() },
    ])
}
