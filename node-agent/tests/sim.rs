//! Many agents and two controllers on one store, under a virtual clock, with everything going wrong that a seed says.
//!
//! After every revision of the store an independent checker looks for violations of the invariants; at quiet everything
//! must agree, and when all is removed nothing may be left. `WEFT_SIM_SEED` runs one seed, `WEFT_SIM_SEEDS` so many;
//! with `WEFT_SIM_TRACE` the commits are shown whose keys or values contain that text.
#![expect(clippy::unwrap_used, reason = "a test stops where something cannot be")]
#![expect(clippy::print_stdout, reason = "the trace of a seed is for whoever asked for it")]

#[path = "sim/agent.rs"]
mod agent;
#[path = "sim/checker.rs"]
mod checker;
#[path = "sim/faulty.rs"]
mod faulty;
#[path = "sim/freeze.rs"]
mod freeze;
#[path = "sim/world.rs"]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use faulty::Mutant;
use world::{Outcome, run_seed};

/// Seeds that an ordinary run tries.
const SEEDS: u64 = 1000;

/// Seeds that may pass before a mutant must have been caught.
const MUTANT_SEEDS: u64 = 150;

#[test]
fn no_seed_breaks_an_invariant_loses_an_endpoint_or_leaves_something_behind() {
    if let Some(seed) = number("WEFT_SIM_SEED") {
        let outcome = run_seed(seed, Mutant::None);
        assert!(outcome.violations.is_empty(), "{}", report(seed, &outcome));
        return;
    }
    let seeds = number("WEFT_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, worked) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || failures.len() >= 3 {
                    return failures;
                }
                let outcome = run_seed(seed, Mutant::None);
                worked.fetch_add(outcome.attached, Ordering::Relaxed);
                if !outcome.violations.is_empty() {
                    failures.push(report(seed, &outcome));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed panicked")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let attached = worked.load(Ordering::Relaxed);
    assert!(attached > seeds * 5, "only {attached} endpoints in {seeds} seeds: the simulation does too little");
}

#[test]
fn one_seed_gives_one_history() {
    let (first, second) = (run_seed(8, Mutant::None), run_seed(8, Mutant::None));

    assert_eq!(first.fingerprint, second.fingerprint);
    assert!(first.revisions > 200, "only {} revisions", first.revisions);
}

#[test]
fn an_endpoint_without_the_block_compare_is_caught() {
    caught(Mutant::NoBlockCompare, "I2");
}

#[test]
fn an_endpoint_without_the_fence_compare_is_caught() {
    caught(Mutant::NoFenceCompare, "I2");
}

#[test]
fn a_controller_that_does_not_compare_its_leadership_is_caught() {
    caught(Mutant::NoLeadershipCompare, "leadership");
}

#[test]
fn a_block_that_changes_hands_without_a_rest_is_caught() {
    caught(Mutant::NoQuarantine, "I6");
}

#[test]
fn what_is_removed_while_in_use_is_caught() {
    caught(Mutant::NoEmptyCompare, "in use");
}

#[test]
fn an_address_that_is_reused_without_cooling_is_caught() {
    caught(Mutant::NoCooldown, "cooldown");
}

#[test]
fn a_lost_answer_that_is_taken_for_a_failure_is_caught() {
    caught(Mutant::AmbiguousIsFailure, "quiet");
}

#[test]
fn an_address_that_is_not_compared_is_caught() {
    caught(Mutant::NoAddressCompare, "I1");
}

fn caught(mutant: Mutant, expected: &str) {
    let mut others = Vec::new();
    for seed in 0..MUTANT_SEEDS {
        let outcome = run_seed(seed, mutant);
        if outcome.violations.iter().any(|violation| violation.starts_with(expected)) {
            return;
        }
        others.extend(outcome.violations);
    }
    others.truncate(5);
    panic!("{mutant:?} passed {MUTANT_SEEDS} seeds without a violation of {expected}; others: {others:#?}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn report(seed: u64, outcome: &Outcome) -> String {
    let violations = outcome.violations.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
    let log = outcome.log.join("\n    ");
    format!("seed {seed} (WEFT_SIM_SEED={seed}):\n  {violations}\n  last events:\n    {log}")
}
