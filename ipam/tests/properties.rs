//! Properties of address allocation, checked against simple reference models.
//!
//! `pool` compares one node's pool with a list that is searched from end to end, `cluster` lets
//! several nodes share one set of claims, `networks` covers subnets, layouts and the dual stack.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "the helpers of tests fail as the tests do"
)]

#[path = "properties/cluster.rs"]
mod cluster;
#[path = "properties/networks.rs"]
mod networks;
#[path = "properties/pool.rs"]
mod pool;
