//! The safeguards: each exchange is judged by the policies that the releases in force name.
//!
//! The rules judge a prompt before the backend gets it. Classifiers take longer, so they read it while the backend does, and
//! nothing of the answer leaves before they have let the prompt pass. An answer is judged piece by piece before a piece
//! leaves, see [`gate`](super::stream). Each choice is an exchange of its own. What a verdict says, an action and names of
//! rules, goes into the record of the request; nothing else of what was judged does.

use std::sync::{Arc, Mutex, PoisonError};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::receipt::ReceiptId;
use cleanroom_attestation::release::Refusal;
use cleanroom_attestation::safeguard::{SAFEGUARD_RULES_LIMIT, SafeguardAction, SafeguardVerdict};
use cleanroom_backend::{Conversation, Input, Message, SecretString, Tool, ToolCall};
use cleanroom_safeguard::{Action, Exchange, Judged, Policy, PromptReading, Verdict, pieces};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::error::{ApiError, SafeguardRefusal};
use super::service::Service;
use crate::grant::Stop;

/// From so many bytes on, rules judge prompts where they hold nobody up.
const LONG: usize = 16 * 1024;

/// The verdict on one request: what its receipt will say. Clones are the same record.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Noted>>, Option<ReceiptId>);

/// What was noted of either part of an exchange; none if it was not judged.
#[derive(Default)]
struct Noted {
    prompt: Option<SafeguardVerdict>,
    answer: Option<SafeguardVerdict>,
}

impl Record {
    /// A record of the request that will have the receipt `id`.
    pub(super) fn of(id: ReceiptId) -> Self {
        Self(Arc::default(), Some(id))
    }

    /// The verdict so far; none if nothing was judged. An answer to a prompt that is refused is as good as none.
    pub(super) fn verdict(&self) -> Option<SafeguardVerdict> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdict = noted.prompt.clone();
        if !verdict.as_ref().is_some_and(|prompt| prompt.action.stops())
            && let Some(SafeguardVerdict { policies_sha256, action, rules }) = &noted.answer
        {
            add(&mut verdict, policies_sha256, *action, rules.iter().cloned());
        }
        verdict
    }

    /// The refusal that the verdict demands. `answer` is the id of the answer, if one has begun to leave.
    pub(super) fn refusal(&self, answer: Option<&str>) -> ApiError {
        let rules = self.verdict().map_or_else(Vec::new, |verdict| verdict.rules);
        let receipt = answer.or(self.1.as_ref().map(ReceiptId::as_str)).map(str::to_owned);
        ApiError::Safeguard(SafeguardRefusal { rules, receipt })
    }

    /// Notes a verdict on the prompt by some of the policies, beside those that were noted before.
    fn note_prompt(&self, policies: &[Sha256Digest], verdict: &Verdict) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut noted.prompt, policies, action(verdict.action), names(verdict));
    }

    /// The same of a verdict on the answer.
    fn note_answer(&self, policies: &[Sha256Digest], verdict: &Verdict) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut noted.answer, policies, action(verdict.action), names(verdict));
    }
}

fn names(verdict: &Verdict) -> impl Iterator<Item = String> {
    verdict.rules.iter().map(ToString::to_string)
}

/// Adds to what was noted before. The rules of the stricter verdict come first.
fn add(
    noted: &mut Option<SafeguardVerdict>,
    policies: &[Sha256Digest],
    action: SafeguardAction,
    rules: impl Iterator<Item = String>,
) {
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
        set.record.note_prompt(&set.digests, &Verdict::default());
        Self { set: set.clone(), exchanges, left, noted }
    }

    /// Judges a prompt by the rules.
    fn prompt(&mut self, input: &Input) -> Result<(), Stopped> {
        let texts = texts(input);
        let step = |exchange: &mut Exchange| {
            let mut verdict = Verdict::default();
            for text in &texts {
                verdict = exchange.prompt_by_rules(text);
            }
            (0, verdict)
        };
        self.step(step, Record::note_prompt)
    }

    /// Judges a further piece of the answer. How much of the answer, in bytes from its beginning, may leave now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn piece(&mut self, text: &str) -> Result<usize, Stopped> {
        self.step(|exchange| judged(&exchange.answer(text)), Record::note_answer)?;
        Ok(self.left())
    }

    /// Judges the end of the answer, all of which may leave now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn finish(&mut self) -> Result<(), Stopped> {
        self.step(|exchange| judged(&exchange.finish()), Record::note_answer)
    }

    /// Whether classifiers read the answer, so that a piece can take milliseconds.
    pub(crate) fn is_slow(&self) -> bool {
        self.exchanges.iter().any(Exchange::classifies_answers)
    }

    /// What the request is refused with.
    pub(crate) fn refusal(&self, answer: Option<&str>) -> ApiError {
        self.set.record.refusal(answer)
    }

    fn left(&self) -> usize {
        self.left.iter().copied().min().unwrap_or(0)
    }

    fn step(
        &mut self,
        mut step: impl FnMut(&mut Exchange) -> (usize, Verdict),
        note: impl Fn(&Record, &[Sha256Digest], &Verdict),
    ) -> Result<(), Stopped> {
        let mut is_stopped = false;
        for ((exchange, left), noted) in self.exchanges.iter_mut().zip(&mut self.left).zip(&mut self.noted) {
            let (leaves, verdict) = step(exchange);
            *left = left.saturating_add(leaves);
            is_stopped |= verdict.action.stops();
            if verdict != *noted {
                note(&self.set.record, &self.set.digests, &verdict);
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

    /// Judges the prompts by the rules. What passes has a judge for each of `choices` answers to each prompt; without
    /// safeguards there are none. `param` is the parameter that holds the prompts.
    ///
    /// # Errors
    /// [`ApiError::Safeguard`], and [`ApiError::TokensNotJudged`] for a prompt that is no text.
    pub(super) async fn judge(
        &self,
        inputs: Vec<Input>,
        choices: usize,
        param: &'static str,
        record: &Record,
    ) -> Result<Passed, ApiError> {
        let Some(set) = self.policy_set(record)? else {
            return Ok(Passed { inputs, judges: Vec::new(), unread: None });
        };
        if inputs.iter().any(|input| matches!(input, Input::Tokens(_))) {
            return Err(ApiError::TokensNotJudged { param });
        }
        let bytes: usize = inputs.iter().flat_map(texts).map(str::len).sum();
        let judge = move || {
            let judges = judges(&set, &inputs, choices)?;
            let unread = Unread::of(set, &inputs);
            Ok(Passed { inputs, judges, unread })
        };
        let passed = if bytes.saturating_mul(choices) < LONG {
            judge()
        } else {
            tokio::task::spawn_blocking(judge).await.map_err(|_| ApiError::Failed)?
        };
        passed.map_err(|Stopped| record.refusal(None))
    }

    /// Has the classifiers read what they have not.
    pub(super) fn classify(&self, unread: Unread) -> Classifying {
        Classifying::begin(unread, &self.readers)
    }
}

/// Prompts that the rules let pass.
pub(super) struct Passed {
    pub(super) inputs: Vec<Input>,
    /// A judge for each answer.
    pub(super) judges: Vec<Judge>,
    /// What the classifiers have not read yet, if there are any.
    pub(super) unread: Option<Unread>,
}

/// Prompts that classifiers are to read.
pub(super) struct Unread {
    set: PolicySet,
    readings: Vec<PromptReading>,
    pieces: Vec<SecretString>,
}

impl Unread {
    fn of(set: PolicySet, inputs: &[Input]) -> Option<Self> {
        let readings: Vec<_> = set.policies.iter().cloned().filter_map(PromptReading::new).collect();
        if readings.is_empty() {
            return None;
        }
        let pieces = inputs.iter().flat_map(texts).flat_map(pieces).map(SecretString::new).collect();
        Some(Self { set, readings, pieces })
    }

    /// Reads piece after piece, each in its turn.
    async fn read(self, readers: Arc<Semaphore>) -> Result<(), Stopped> {
        let Self { set, mut readings, pieces } = self;
        for piece in pieces {
            let turn = Arc::clone(&readers).acquire_owned().await.map_err(|_| Stopped)?;
            let read = move || {
                let read = |reading: &mut PromptReading| reading.read(piece.as_str());
                let verdicts: Vec<_> = readings.iter_mut().map(read).collect();
                drop(turn);
                (readings, verdicts)
            };
            // A classifier that panics has let nothing pass.
            let (back, verdicts) = tokio::task::spawn_blocking(read).await.map_err(|_| Stopped)?;
            readings = back;
            verdicts.iter().for_each(|verdict| set.record.note_prompt(&set.digests, verdict));
            if verdicts.iter().any(|verdict| verdict.action.stops()) {
                return Err(Stopped);
            }
        }
        Ok(())
    }
}

/// Classifiers that read prompts. When it is dropped, they read no further piece.
pub(super) struct Classifying {
    task: JoinHandle<Result<(), Stopped>>,
    record: Record,
}

impl Classifying {
    /// Begins at once, unless as many are reading as may.
    fn begin(unread: Unread, readers: &Arc<Semaphore>) -> Self {
        let record = unread.set.record.clone();
        Self { task: tokio::spawn(unread.read(Arc::clone(readers))), record }
    }

    /// Waits until the classifiers have read everything.
    ///
    /// # Errors
    /// [`ApiError::Safeguard`] when they refuse it, and [`ApiError::Failed`] when they cannot read it.
    pub(super) async fn passed(mut self) -> Result<(), ApiError> {
        match (&mut self.task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Stopped)) if self.record.verdict().is_some_and(|verdict| verdict.action.stops()) => {
                Err(self.record.refusal(None))
            }
            Ok(Err(Stopped)) | Err(_) => Err(ApiError::Failed),
        }
    }
}

impl Drop for Classifying {
    fn drop(&mut self) {
        self.task.abort();
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

#[cfg(test)]
mod tests;
