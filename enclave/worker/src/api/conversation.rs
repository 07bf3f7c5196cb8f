//! What the three endpoints for conversations have in common.

use cleanroom_backend::Conversation;

use super::request::Parameters;
use super::tools::Thinking;

/// A conversation that may be answered, of whichever endpoint.
pub(crate) struct ConversationRequest {
    pub(crate) parameters: Parameters,
    pub(crate) conversation: Conversation,
    pub(crate) thinking: Thinking,
}
