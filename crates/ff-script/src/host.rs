//! The interface that a server, or an emulation of one, must offer to run the library.

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::EngineError;

/// One call of one function of the library.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function's name, with the ABI major.
    pub function: &'static str,
    /// KEYS: every key that the call may create, all in one slot.
    pub keys: Vec<String>,
    /// ARGV.
    pub args: Vec<Bytes>,
    /// Whether the function is registered as `no-writes`.
    pub read_only: bool,
    /// Whether executing the call twice has the same effect as once. A host may repeat such a call after an error that
    /// [leaves open](EngineError::may_have_run) whether it was executed. After other retryable errors a host may repeat
    /// any call.
    pub idempotent: bool,
}

/// A flat array of strings, the only reply shape of the library.
pub type Reply = Vec<Bytes>;

/// The version of a server, for the check before loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// `valkey` or `redis`.
    pub name: String,
    /// `major.minor.patch`.
    pub version: (u32, u32, u32),
}

/// Runs functions of the library, each call atomically.
#[async_trait]
pub trait ScriptHost: Send + Sync + 'static {
    /// Runs one function.
    ///
    /// # Errors
    /// Transport errors; [`EngineError::Contention`] for replies such as TRYAGAIN; [`EngineError::ResourceExhausted`]
    /// for OOM. If the library is missing, the host loads it and runs the call again.
    async fn fcall(&self, call: Call) -> Result<Reply, EngineError>;

    /// Runs many functions in few round trips. There is one result per call, in the order of the calls.
    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>>;

    /// Like [`ScriptHost::fcall_many`], for renewals of leases, which must succeed although the caller's runtime may
    /// have no free thread. A host whose calls are driven by tasks of that runtime drives these on a thread of its own.
    async fn fcall_apart(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        self.fcall_many(calls).await
    }

    /// Loads the library's source, replacing an earlier one (`FUNCTION LOAD REPLACE`).
    ///
    /// # Errors
    /// Transport errors; [`EngineError::PermissionDenied`].
    async fn load_library(&self, source: &str) -> Result<(), EngineError>;

    /// Like [`ScriptHost::fcall`], but returns `None` if the library is missing, and does not load it.
    ///
    /// # Errors
    /// Transport errors.
    async fn probe(&self, call: Call) -> Result<Option<Reply>, EngineError>;

    /// Name and version of the server.
    ///
    /// # Errors
    /// Transport errors.
    async fn server_version(&self) -> Result<ServerVersion, EngineError>;
}
