//! The error of a typed handler.

use std::{error::Error, fmt};

use ff_core::Failure;

/// Why a typed handler failed. `?` makes one of any error, as a failure that a retry may repair;
/// [`PermanentExt::permanent`] marks one that no retry repairs.
///
/// ```
/// use ff_engine::{HandlerError, PermanentExt, WorkContext};
///
/// async fn port(_: WorkContext, text: String) -> Result<u16, HandlerError> {
///     if text.is_empty() {
///         return Err(HandlerError::permanent("the port is missing"));
///     }
///     let port = text.parse::<u16>().permanent()?;
///     tokio::net::TcpListener::bind(("127.0.0.1", port)).await?; // may work later
///     Ok(port)
/// }
/// ```
///
/// It does not implement [`std::error::Error`], because it is made of every type that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError(Failure);

impl HandlerError {
    /// A failure that a retry may repair.
    pub fn retryable(reason: impl fmt::Display) -> Self {
        Self(Failure::retryable(reason.to_string()))
    }

    /// A failure that no retry repairs: the execution ends as failed.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self(Failure::permanent(reason.to_string()))
    }

    /// What is reported of the attempt.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        self.0
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

/// The text of an error and of what caused it, each once.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

impl<E: Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable(with_causes(&error))
    }
}

/// Marks the error of a result as one that no retry repairs.
pub trait PermanentExt<T> {
    /// # Errors
    /// The error of the result, marked.
    fn permanent(self) -> Result<T, HandlerError>;
}

impl<T, E: Into<HandlerError>> PermanentExt<T> for Result<T, E> {
    fn permanent(self) -> Result<T, HandlerError> {
        self.map_err(|error| HandlerError::permanent(error.into().0.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the order cannot be read")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn an_error_by_question_mark_can_be_retried_and_names_its_causes() {
        let fail = || -> Result<(), HandlerError> { Err(Outer("x".parse::<u8>().unwrap_err()))? };
        let failure = fail().unwrap_err().into_failure();
        assert_eq!(failure, Failure::retryable("the order cannot be read: invalid digit found in string"));
    }

    #[test]
    fn a_marked_error_is_permanent() {
        let failure = "x".parse::<u8>().permanent().unwrap_err().into_failure();
        assert_eq!(failure, Failure::permanent("invalid digit found in string"));
    }
}
