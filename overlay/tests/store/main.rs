//! The store port and the claims on it: every scenario runs on the model and on a real etcd.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test")]

#[path = "../claims/samples.rs"]
#[expect(dead_code, reason = "the golden tests use more of the samples")]
mod samples;

mod blocks;
mod differential;
mod endpoints;
mod etcd_process;
mod failover;
mod lost_nodes;
mod model_faults;
mod networks;
mod nodes;
mod rig;
mod watches;

/// Runs each scenario on both stores; the model's clock is virtual.
macro_rules! on_both_stores {
    ($($scenario:ident),* $(,)?) => {
        mod on_the_model {
            $(#[tokio::test(start_paused = true)]
            async fn $scenario() {
                super::$scenario($crate::rig::Rig::on_model(stringify!($scenario))).await;
            })*
        }

        mod on_etcd {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario($crate::rig::Rig::on_etcd(stringify!($scenario)).await).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;

/// The content of the outcome that must have come about.
macro_rules! outcome {
    ($outcome:expr, $expected:pat => $content:expr) => {
        match $outcome {
            $expected => $content,
            other => panic!("{} came about instead of {}", format!("{other:?}"), stringify!($expected)),
        }
    };
    ($outcome:expr, $expected:pat) => {
        $crate::outcome!($outcome, $expected => {})
    };
}
pub(crate) use outcome;
