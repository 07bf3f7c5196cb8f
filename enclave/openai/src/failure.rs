//! How an engine can fail a request.

/// What an engine did wrong. The words repeat nothing that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens at the engine's socket.
    #[error("the engine cannot be reached: it is not running, or is being started")]
    Unreachable,
    /// The connection ended, or what came on it is not HTTP/1.1.
    #[error("the engine ended the connection, or does not speak HTTP/1.1")]
    Broken,
    /// Nothing came for too long.
    #[error("the engine was silent for longer than the configuration's engine.silence")]
    Silent,
    /// The engine answered with an error.
    #[error("expected status 200 of the engine, got {0}")]
    Status(u16),
    /// The answer has another media type.
    #[error("expected text/event-stream of the engine")]
    NotEvents,
    /// A line or an event of the stream is too long.
    #[error("expected lines and events of at most {limit} bytes of the engine")]
    LineTooLong {
        /// The limit.
        limit: usize,
    },
    /// A body is too long.
    #[error("expected at most {limit} bytes in an answer of the engine")]
    BodyTooLong {
        /// The limit.
        limit: usize,
    },
    /// An event or a body is not the JSON that it must be.
    #[error("the engine's JSON is not what its API says")]
    Nonsense,
    /// The engine says in its stream that it failed.
    #[error("the engine says that it failed")]
    Reported,
    /// The engine goes on after the most that was asked for.
    #[error("the engine sends more than it was asked for")]
    TooMuch,
    /// The stream ended before a reason to finish came.
    #[error("the engine's stream ended before the answer did")]
    EndedEarly,
    /// A finish reason that no complete answer has.
    #[error("the engine gives a finish reason that no complete answer has")]
    FinishReason,
    /// A call of a tool that the request does not have, or one whose arguments are no JSON object.
    #[error("the engine calls a tool that the request does not have, or without a JSON object")]
    Call,
}

impl Failure {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Status(_) => "status",
            Self::NotEvents => "not-events",
            Self::LineTooLong { .. } => "line-too-long",
            Self::BodyTooLong { .. } => "body-too-long",
            Self::Nonsense => "nonsense",
            Self::Reported => "reported",
            Self::TooMuch => "too-much",
            Self::EndedEarly => "ended-early",
            Self::FinishReason => "finish-reason",
            Self::Call => "call",
        }
    }
}
