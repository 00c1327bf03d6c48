//! What a refused or failed request is answered with.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::messages::{ErrorClass, ErrorReply};
use crate::reconciler::chain;

/// A refusal or failure: what kind, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(pub ErrorReply);

impl RequestError {
    /// Of an error with all its causes.
    pub fn new(class: ErrorClass, error: &dyn std::error::Error) -> Self {
        Self(ErrorReply { class, error: chain(error) })
    }

    /// In words only.
    pub fn words(class: ErrorClass, error: impl Into<String>) -> Self {
        Self(ErrorReply { class, error: error.into() })
    }

    fn status(&self) -> StatusCode {
        match self.0.class {
            ErrorClass::Invalid => StatusCode::BAD_REQUEST,
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        (self.status(), Json(self.0)).into_response()
    }
}
