//! The safeguards: each exchange is judged by the policies that the releases in force name.
//!
//! A prompt is judged before the backend gets it. An answer is judged piece by piece before a piece leaves, see
//! [`gate`](super::stream). Each choice is an exchange of its own. What a verdict says, an action and names of rules, goes
//! into the record of the request; nothing else of what was judged does.

use std::sync::{Arc, Mutex, PoisonError};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::receipt::ReceiptId;
use cleanroom_attestation::release::Refusal;
use cleanroom_attestation::safeguard::{SAFEGUARD_RULES_LIMIT, SafeguardAction, SafeguardVerdict};
use cleanroom_backend::{Conversation, Input, Message, SecretString, Tool, ToolCall};
use cleanroom_safeguard::{Action, Exchange, Judged, Policy, Verdict};

use super::error::{ApiError, SafeguardRefusal};
use super::service::Service;
use crate::grant::Stop;

/// From so many bytes on, prompts are judged where they hold nobody up; with classifiers, all are.
const LONG: usize = 16 * 1024;

/// The verdict on one request: what its receipt will say. Clones are the same record.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Option<SafeguardVerdict>>>, Option<ReceiptId>);

impl Record {
    /// A record of the request that will have the receipt `id`.
    pub(super) fn of(id: ReceiptId) -> Self {
        Self(Arc::default(), Some(id))
    }

    /// The verdict so far; none if nothing was judged.
    pub(super) fn verdict(&self) -> Option<SafeguardVerdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The refusal that the verdict demands. `answer` is the id of the answer, if one has begun to leave.
    pub(super) fn refusal(&self, answer: Option<&str>) -> ApiError {
        let rules = self.verdict().map_or_else(Vec::new, |verdict| verdict.rules);
        let receipt = answer.or(self.1.as_ref().map(ReceiptId::as_str)).map(str::to_owned);
        ApiError::Safeguard(SafeguardRefusal { rules, receipt })
    }

    /// Notes a verdict by some of the policies, beside those that were noted before.
    fn note(&self, policies: &[Sha256Digest], verdict: &Verdict) {
        let (action, rules) = (action(verdict.action), verdict.rules.iter().map(ToString::to_string));
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = noted.get_or_insert_with(|| SafeguardVerdict {
            policies_sha256: policies.to_vec(),
            action: SafeguardAction::Allow,
            rules: Vec::new(),
        });
        let (first, then): (Vec<String>, Vec<String>) = if action > noted.action {
            (rules.collect(), std::mem::take(&mut noted.rules))
        } else {
            (std::mem::take(&mut noted.rules), rules.collect())
        };
        noted.action = noted.action.max(action);
        for rule in first.into_iter().chain(then) {
            if noted.rules.len() < SAFEGUARD_RULES_LIMIT && !noted.rules.contains(&rule) {
                noted.rules.push(rule);
            }
        }
    }
}

const fn action(action: Action) -> SafeguardAction {
    match action {
        Action::Allow => SafeguardAction::Allow,
        Action::Flag => SafeguardAction::Flag,
        Action::Refuse => SafeguardAction::Refuse,
        Action::End => SafeguardAction::End,
    }
}

/// The policies that judge a request, and where the verdict is noted.
#[derive(Clone)]
pub(super) struct PolicySet {
    policies: Vec<Arc<Policy>>,
    digests: Vec<Sha256Digest>,
    record: Record,
}

/// Judges one exchange by each of the policies.
pub(crate) struct Judge {
    set: PolicySet,
    exchanges: Vec<Exchange>,
    /// For each exchange, how many bytes of the answer it has let go.
    left: Vec<usize>,
    /// For each exchange, the verdict that was noted last.
    noted: Vec<Verdict>,
}

/// The text that was judged may not leave, and nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl Judge {
    fn new(set: &PolicySet) -> Self {
        let exchanges: Vec<_> = set.policies.iter().map(|policy| Exchange::new(Arc::clone(policy))).collect();
        let (left, noted) = (vec![0; exchanges.len()], vec![Verdict::default(); exchanges.len()]);
        set.record.note(&set.digests, &Verdict::default());
        Self { set: set.clone(), exchanges, left, noted }
    }

    /// Judges a prompt.
    fn prompt(&mut self, input: &Input) -> Result<(), Stopped> {
        let texts = texts(input);
        let step = |exchange: &mut Exchange| {
            let mut verdict = Verdict::default();
            for text in &texts {
                verdict = exchange.prompt(text);
            }
            (0, verdict)
        };
        self.step(step)
    }

    /// Judges a further piece of the answer. How much of the answer, in bytes from its beginning, may leave now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn piece(&mut self, text: &str) -> Result<usize, Stopped> {
        self.step(|exchange| judged(&exchange.answer(text)))?;
        Ok(self.left())
    }

    /// Judges the end of the answer, all of which may leave now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn finish(&mut self) -> Result<(), Stopped> {
        self.step(|exchange| judged(&exchange.finish()))
    }

    /// What the request is refused with.
    pub(crate) fn refusal(&self, answer: Option<&str>) -> ApiError {
        self.set.record.refusal(answer)
    }

    fn left(&self) -> usize {
        self.left.iter().copied().min().unwrap_or(0)
    }

    fn step(&mut self, mut step: impl FnMut(&mut Exchange) -> (usize, Verdict)) -> Result<(), Stopped> {
        let mut is_stopped = false;
        for ((exchange, left), noted) in self.exchanges.iter_mut().zip(&mut self.left).zip(&mut self.noted) {
            let (leaves, verdict) = step(exchange);
            *left = left.saturating_add(leaves);
            is_stopped |= verdict.action.stops();
            if verdict != *noted {
                self.set.record.note(&self.set.digests, &verdict);
                *noted = verdict;
            }
        }
        if is_stopped { Err(Stopped) } else { Ok(()) }
    }
}

fn judged(judged: &Judged) -> (usize, Verdict) {
    (judged.leaves.as_str().len(), judged.verdict.clone())
}

/// Everything of a prompt that a partner wrote and the model reads, in its order.
fn texts(input: &Input) -> Vec<&str> {
    let Conversation { messages, tools, choice: _, parallel: _, thinks: _, effort: _, variables } =
        match input {
            Input::Chat(conversation) => conversation,
            Input::Text(text) => return vec![text.as_str()],
            Input::Tokens(_) => return Vec::new(),
        };
    let mut texts = Vec::new();
    for Tool { name, description, parameters, strict: _ } in tools {
        texts.push(name);
        texts.extend(description.iter().chain(parameters));
    }
    texts.extend(variables);
    for Message { role: _, content, name, reasoning, calls, answers } in messages {
        texts.extend(name);
        texts.extend(reasoning);
        texts.push(content);
        for ToolCall { id, name, arguments } in calls {
            texts.extend([id, name, arguments]);
        }
        texts.extend(answers);
    }
    texts.into_iter().map(SecretString::as_str).filter(|text| !text.is_empty()).collect()
}

impl Service {
    /// The policies that judge a request that was admitted; `None` when no release names one.
    fn policy_set(&self, record: &Record) -> Result<Option<PolicySet>, ApiError> {
        let Some((grants, _)) = &self.control else { return Ok(None) };
        let digests = grants.guard().policies();
        if digests.is_empty() {
            return Ok(None);
        }
        let missing = ApiError::Stopped(Stop::Refused(Refusal::SafeguardMissing));
        let policies = self.policies.find(&digests).ok_or(missing)?;
        Ok(Some(PolicySet { policies, digests, record: record.clone() }))
    }

    /// Judges the prompts, and gives back, beside them, a judge for each of `choices` answers to each prompt. Without safeguards
    /// there are no judges. `param` is the parameter that holds the prompts.
    ///
    /// # Errors
    /// [`ApiError::Safeguard`], and [`ApiError::TokensNotJudged`] for a prompt that is no text.
    pub(super) async fn judge(
        &self,
        inputs: Vec<Input>,
        choices: usize,
        param: &'static str,
        record: &Record,
    ) -> Result<(Vec<Input>, Vec<Judge>), ApiError> {
        let Some(set) = self.policy_set(record)? else { return Ok((inputs, Vec::new())) };
        if inputs.iter().any(|input| matches!(input, Input::Tokens(_))) {
            return Err(ApiError::TokensNotJudged { param });
        }
        let bytes: usize = inputs.iter().flat_map(texts).map(str::len).sum();
        let is_quick = set.policies.iter().all(|policy| policy.classifiers().len() == 0);
        let judge = move || {
            let judges = judges(&set, &inputs, choices);
            (inputs, judges)
        };
        let (inputs, judges) = if is_quick && bytes.saturating_mul(choices) < LONG {
            judge()
        } else {
            tokio::task::spawn_blocking(judge).await.map_err(|_| ApiError::Failed)?
        };
        match judges {
            Ok(judges) => Ok((inputs, judges)),
            Err(Stopped) => Err(record.refusal(None)),
        }
    }
}

fn judges(set: &PolicySet, inputs: &[Input], choices: usize) -> Result<Vec<Judge>, Stopped> {
    let mut judges = Vec::with_capacity(inputs.len().saturating_mul(choices));
    for input in inputs {
        for _ in 0..choices {
            let mut judge = Judge::new(set);
            judge.prompt(input)?;
            judges.push(judge);
        }
    }
    Ok(judges)
}
