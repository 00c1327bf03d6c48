//! Single behaviours that clients depend on, each against etcd and against the embedded store.
