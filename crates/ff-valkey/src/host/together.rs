//! Replies that are valid only as a group.
//!
//! The client library reconnects on its own and sends unanswered commands again, and by then the address may lead to
//! another server. Some questions of a group would be answered by one server and the rest by another: the head of a log
//! by the former primary, its epochs and the role by the new one, and a loss would stay hidden. So the answers to a
//! group of questions count only if one connection returned them all: nothing is sent twice, and a reconnect while they
//! arrive fails the group. The caller then repeats the whole group.
//!
//! Only a primary is accepted. Its role is asked last, over the same connection, so it was a primary after it answered.

use ff_core::EngineError;
use fred::{
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Resp3Frame, Value},
};

use crate::{
    ValkeyHost,
    net::{
        primary::Role,
        unbroken::{Unbroken, once},
        value,
    },
};

/// A command and its arguments.
pub(crate) type Question = (&'static str, Vec<Value>);

/// Questions over the connection for reads, answered by one server.
pub(crate) struct Together<'a> {
    host: &'a ValkeyHost,
    op: &'a str,
    unbroken: Unbroken,
}

impl<'a> Together<'a> {
    /// Starts now: groups that are asked one after the other also count as one group.
    pub(crate) fn new(host: &'a ValkeyHost, op: &'a str) -> Self {
        Self { host, op, unbroken: Unbroken::of(host.reads()) }
    }

    /// One answer, or refusal by the server, for each question.
    ///
    /// # Errors
    /// If no primary returned all answers over one connection.
    pub(crate) async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Result<Value, Error>>, EngineError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let expected = questions.len() + 1;
        let pipeline = self.host.reads().pipeline();
        let queue = pipeline.with_options(&once());
        for (name, args) in questions {
            let queued: Result<(), Error> = queue.custom(command(name), args).await;
            queued.map_err(|error| self.failed(error))?;
        }
        Role::question::<()>(&queue).await.map_err(|error| self.failed(error))?;
        let mut answers = pipeline.try_all::<Value>().await;
        answers.iter().for_each(|answer| self.host.reads_life().hear_of(answer));
        if answers.len() < expected {
            // One error for all questions.
            let error = answers.into_iter().find_map(Result::err).unwrap_or_else(Error::new_canceled);
            return Err(self.failed(error));
        }
        let role = answers.pop().unwrap_or_else(|| Err(Error::new_canceled()));
        self.require_primary(role.and_then(Role::answered))?;
        Ok(answers)
    }

    /// One answer for each question.
    ///
    /// # Errors
    /// As for [`Together::ask`], and if the server refuses one of them.
    pub(crate) async fn ask_all(&self, questions: Vec<Question>) -> Result<Vec<Value>, EngineError> {
        let answers = self.ask(questions).await?;
        answers.into_iter().collect::<Result<_, _>>().map_err(|error| self.failed(error))
    }

    /// One raw answer for each question, or the server's refusal: the client's conversion of an answer costs as much as
    /// decoding it.
    ///
    /// # Errors
    /// As for [`Together::ask`].
    pub(crate) async fn ask_raw(
        &self,
        questions: Vec<Question>,
    ) -> Result<Vec<Result<Resp3Frame, Error>>, EngineError> {
        let life = self.host.reads_life();
        let _large = life.large();
        let client = self.host.reads().with_options(&once());
        let asked = questions
            .into_iter()
            .map(async |(name, args)| client.custom_raw(command(name), args).await.inspect(|_| life.hear()));
        // Sent in the order in which they are polled: the role after the answers.
        let (answers, role) = futures::join!(futures::future::try_join_all(asked), Role::question::<Value>(&client));
        let answers = answers.map_err(|error| self.failed(error))?;
        self.require_primary(role.and_then(Role::answered))?;
        let answer = |answer: Resp3Frame| value::refusal(&answer).map_or(Ok(answer), Err);
        Ok(answers.into_iter().map(answer).collect())
    }

    pub(crate) fn failed(&self, error: Error) -> EngineError {
        self.host.doing(self.op).failed(error)
    }

    fn require_primary(&self, role: Result<Role, Error>) -> Result<(), EngineError> {
        let role = role.map_err(|error| self.failed(error))?;
        if !self.unbroken.holds() {
            let text = "the connection was lost between the answers, which may be of two servers";
            return Err(self.failed(Error::new(ErrorKind::IO, text)));
        }
        self.host.must_be_primary(self.op, &role)
    }
}

fn command(name: &'static str) -> CustomCommand {
    let hash = match name {
        "XINFO" | "MEMORY" => ClusterHash::Offset(1),
        "FCALL_RO" => ClusterHash::Offset(2),
        _ => ClusterHash::FirstKey,
    };
    CustomCommand::new_static(name, hash, false)
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
