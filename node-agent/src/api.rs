//! The agent's local interface: HTTP with JSON over a unix socket.
//!
//! | request | carries | answers |
//! |---|---|---|
//! | `GET /v1/status` | | [`messages::Status`] |
//! | `GET /v1/plan` | | [`messages::PlanReply`] |
//! | `GET /v1/dump` | | [`messages::DumpReply`] |
//! | `GET /v1/networks`, `GET /v1/networks/NAME` | | [`messages::Network`], a list of them or one |
//! | `POST /v1/networks` | [`messages::CreateNetwork`] | [`messages::Network`] |
//! | `DELETE /v1/networks/NAME?force=BOOL` | | [`messages::RemovedNetwork`] |
//! | `GET /v1/endpoints?network=NAME&node=NAME`, `GET /v1/endpoints/ID` | | [`messages::Endpoint`], a list of them or one |
//! | `POST /v1/connect` | [`messages::Connect`] | [`messages::Endpoint`] |
//! | `POST /v1/disconnect` | [`messages::Disconnect`] | [`messages::Endpoint`], as it was |
//! | `GET /v1/nodes`, `GET /v1/nodes/NAME` | | [`messages::Node`], a list of them or one |
//! | `POST /v1/nodes/NAME/drain?undo=BOOL` | | [`messages::Node`] |
//! | `DELETE /v1/nodes/NAME?force=BOOL` | | [`messages::Node`], as it was |
//!
//! Every failure is a [`messages::ErrorReply`] with a fitting status. Must not decide anything itself.

pub mod error;
pub mod messages;
pub mod server;
