//! One lab for many tests: it is handed on while tests succeed and leave nothing behind, and made anew otherwise.
//!
//! A test that panics takes its lab down, which prints everything that is known about it. The last lab of a test
//! program is ended by `e2e/run-isolated.sh`, as everything that runs in its namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use weft_e2e::process::ProcessState;
use weft_e2e::{Lab, LabOptions, dump, eventually};

use super::rig::{Rig, SOON, ensure};

static IDLE: Mutex<Option<(LabOptions, Rig)>> = Mutex::new(None);

/// Runs a test in a lab made with `options`, that of the test before if it was made with the same.
pub(crate) fn with_lab(options: LabOptions, test: impl FnOnce(&Rig)) {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let rig = match idle {
        Some((present, rig)) if present == options => rig,
        other => {
            drop(other);
            Rig { lab: Lab::up(options.clone()).unwrap() }
        }
    };
    let logs = log_lengths(&rig.lab);
    test(&rig);
    leave_nothing(&rig);
    assert_no_errors_logged(&rig.lab, &logs);
    *IDLE.lock().unwrap_or_else(PoisonError::into_inner) = Some((options, rig));
}

/// Removes every container and network, and waits until no trace of them is left anywhere.
fn leave_nothing(rig: &Rig) {
    let status = rig.lab.status().unwrap();
    for row in &status.rows {
        assert!(row.cuts.is_empty(), "the test left {} cut off: {:?}", row.name, row.cuts);
        assert!(
            row.state.is_none_or(|state| state == ProcessState::Running),
            "the test left {} {:?}",
            row.name,
            row.state
        );
    }
    for row in status.rows.iter().filter(|row| row.kind == "container") {
        rig.lab.remove_container(&row.name).unwrap();
    }
    let networks = rig.host(1).weft_json(&["network", "ls"]).unwrap();
    for network in networks.as_array().unwrap() {
        rig.host(1).weft(&["network", "rm", "--force", network["name"].as_str().unwrap()]).unwrap();
    }
    eventually(SOON * 2, "nothing left of the test", || nothing_left(rig).map_err(|error| format!("{error:#}"))?);
    rig.settle();
}

fn nothing_left(rig: &Rig) -> Result<Result<(), String>> {
    let store = dump::store(&rig.lab)?;
    let keys: Vec<_> = ["net/", "netname/", "idx/", "ipam/"]
        .into_iter()
        .flat_map(|section| store.section(section).map(|entry| entry.key.clone()).collect::<Vec<_>>())
        .collect();
    let mut devices = Vec::new();
    for host in rig.lab.hosts()? {
        let links = dump::kernel(&host)?.links;
        devices.extend(links.into_iter().filter(|link| link.name != "lo").map(|link| (host.name(), link.name)));
    }
    Ok(ensure(keys.is_empty() && devices.is_empty(), || format!("keys {keys:?}, devices {devices:?}")))
}

fn logs(lab: &Lab) -> Vec<PathBuf> {
    let hosts = lab.hosts().unwrap();
    let controller = hosts[0].log().with_file_name("controller.log");
    hosts.iter().map(weft_e2e::Host::log).chain([controller]).collect()
}

fn log_lengths(lab: &Lab) -> BTreeMap<PathBuf, usize> {
    let length = |path: &PathBuf| fs::read(path).map_or(0, |content| content.len());
    logs(lab).into_iter().map(|path| (path.clone(), length(&path))).collect()
}

/// An ERROR says that an invariant is broken, whatever the fault was.
fn assert_no_errors_logged(lab: &Lab, before: &BTreeMap<PathBuf, usize>) {
    for path in logs(lab) {
        let content = fs::read(&path).unwrap();
        let new = String::from_utf8_lossy(&content[before[&path].min(content.len())..]).into_owned();
        let bad: Vec<_> = new.lines().filter(|line| line.contains("ERROR") || line.contains("panicked at")).collect();
        assert!(bad.is_empty(), "{}:\n{}", path.display(), bad.join("\n"));
    }
}
