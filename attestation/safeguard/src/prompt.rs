//! What the classifiers of a policy say of a prompt, beside its rules.

use std::sync::Arc;

use crate::{Action, Part, Policy, Verdict};

/// The classifiers of a policy, over the texts of prompts.
///
/// A classifier takes a thousand times as long as the rules. So rules can be asked first, with
/// [`Exchange::prompt_by_rules`](crate::Exchange::prompt_by_rules), and classifiers elsewhere. A prompt has passed
/// when both let it.
pub struct PromptReading {
    policy: Arc<Policy>,
    /// For each classifier, the strictest action that a text demanded.
    classified: Vec<Action>,
}

impl PromptReading {
    /// Nothing was read yet. `None` when no classifier of the policy reads prompts.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Option<Self> {
        let classified = vec![Action::Allow; policy.classifiers().len()];
        let reads = policy.classifiers().any(|classifier| classifier.part != Part::Answer);
        reads.then_some(Self { policy, classified })
    }

    /// Has the classifiers score a further one of the [`pieces`] of a text, unless one has demanded its strictest
    /// action already. After a piece that is refused, they score none.
    pub fn read(&mut self, piece: &str) -> Verdict {
        if !self.classified.iter().any(|action| action.stops()) {
            classify(&self.policy, &mut self.classified, piece);
        }
        Verdict::of(core::iter::empty(), &self.policy, &self.classified)
    }
}

/// The most bytes of a prompt's text that classifiers are asked about at once, and how many of them belong to the
/// piece before as well.
const PIECE_BYTES: usize = 2 << 10;
const OVERLAP_BYTES: usize = 512;

/// The pieces of a text that classifiers are asked about, one after the other: so nobody waits long for one. They
/// overlap, so that what matters is whole in one of them. A short text is one piece, and an empty one none.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let piece = rest.get(..rest.floor_char_boundary(PIECE_BYTES))?;
        let is_last = piece.len() == rest.len();
        let next = if is_last { rest.len() } else { rest.floor_char_boundary(piece.len() - OVERLAP_BYTES) };
        rest = rest.get(next..)?;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Has each classifier of prompts score a piece that may still change what it demands. Whether one refuses it.
pub(crate) fn classify(policy: &Policy, classified: &mut [Action], piece: &str) -> bool {
    for (attached, classified) in policy.attached().iter().zip(classified) {
        if attached.summary.part == Part::Answer || *classified >= attached.strictest() {
            continue;
        }
        *classified = attached.judge(piece).max(*classified);
        if classified.stops() {
            return true;
        }
    }
    false
}
