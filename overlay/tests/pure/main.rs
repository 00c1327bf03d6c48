//! Tests of what is decided without a kernel and without a store: view, desired state and plan.

#![cfg(test)]

mod builder;
mod candidates;
mod cost;
mod golden;
mod happening;
mod knowledge;
mod properties;
mod script;
mod world;
