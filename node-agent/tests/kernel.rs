//! The kernel adapter against the real kernel, in namespaces that the tests make for themselves. Needs root.

#[path = "kernel/lab.rs"]
mod lab;

use lab::{Host, Network};
use weft_overlay::kernel::Scope;

#[test]
fn everything_is_read_back_as_it_was_created() {
    let mut host = Host::new();
    let network = Network::new(1);

    host.create(&network.state);

    let seen = host.observe_all(&network);
    similar(&seen, &network.state);
}

#[track_caller]
fn similar(seen: &weft_overlay::kernel::KernelState, wanted: &weft_overlay::kernel::KernelState) {
    let mut differences = Vec::new();
    for (id, object) in &wanted.objects {
        match seen.objects.get(id) {
            Some(found) if found == object => {}
            Some(found) => differences.push(format!("~ {id}: {found}; wanted: {object}")),
            None => differences.push(format!("+ {id}: {object}")),
        }
    }
    differences.extend(
        seen.objects.iter().filter(|(id, _)| !wanted.objects.contains_key(id)).map(|(id, o)| format!("- {id}: {o}")),
    );
    assert!(differences.is_empty(), "{differences:#?}");
}
