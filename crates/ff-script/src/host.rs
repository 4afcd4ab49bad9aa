//! What a server (or something that behaves like one) must offer so that the library can run on it.

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::EngineError;

/// One call of one function of the library.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function's name, with the ABI major.
    pub function: &'static str,
    /// KEYS: everything the call may create. All in one slot.
    pub keys: Vec<String>,
    /// ARGV.
    pub args: Vec<Bytes>,
    /// Whether the function is registered as `no-writes`.
    pub read_only: bool,
    /// Whether executing the call twice does the same as once, so that a host may repeat it after an error that [leaves
    /// open](EngineError::may_have_run) whether it was executed. After other errors that time heals it may repeat any.
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
    /// Transport errors; [`EngineError::Contention`] for answers such as TRYAGAIN; [`EngineError::ResourceExhausted`]
    /// for OOM. A host that finds the library missing loads it and runs the call again.
    async fn fcall(&self, call: Call) -> Result<Reply, EngineError>;

    /// Runs many functions with few round trips; the results are in the order of the calls, each with its own.
    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>>;

    /// As [`ScriptHost::fcall_many`], for calls that must get through although the caller's runtime may have no thread to
    /// spare: renewals of leases. A host whose calls are driven by tasks of that runtime drives these elsewhere.
    async fn fcall_apart(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        self.fcall_many(calls).await
    }

    /// Loads the library's source in place of an earlier one (`FUNCTION LOAD REPLACE`).
    ///
    /// # Errors
    /// Transport errors; [`EngineError::PermissionDenied`].
    async fn load_library(&self, source: &str) -> Result<(), EngineError>;

    /// Runs one function as [`ScriptHost::fcall`] does, but reports a missing library as `None` and loads nothing.
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
