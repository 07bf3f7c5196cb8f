//! An end of an answer that takes its time, and a backend that does not wait for it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use cleanroom_backend::{Event, FinishReason, Sink, Usage};
use tokio::sync::mpsc;

use super::gate::Held;
use super::{Writer, next_token};
use crate::grant::{Grant, Stop};

/// The backend's end of a [`Writer`] that works on a thread of its own. What is between them cannot outgrow the model's
/// context.
pub(super) struct Aside {
    /// The writer's, which lets go of it before anybody sees the end. None without release control.
    grant: Option<Weak<Mutex<Grant>>>,
    /// Until the backend has said that it has.
    inbox: Option<mpsc::UnboundedSender<Said>>,
    /// The writer takes nothing more.
    is_over: Arc<AtomicBool>,
}

/// What the backend says.
enum Said {
    Event(Held),
    Finished(FinishReason, Usage),
    /// No further token is permitted.
    Stop(Stop),
}

impl Aside {
    /// Only within a runtime.
    pub(super) fn new(writer: Writer) -> Self {
        let (inbox, said) = mpsc::unbounded_channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let grant = writer.grant.as_ref().map(|(grant, ..)| Arc::downgrade(grant));
        let over = Arc::clone(&is_over);
        tokio::spawn(follow(writer, said, over));
        Self { grant, inbox: Some(inbox), is_over }
    }

    /// Says it, unless nobody listens any more.
    fn say(&self, said: Said) -> ControlFlow<()> {
        let is_heard = self.inbox.as_ref().is_some_and(|inbox| inbox.send(said).is_ok());
        if is_heard && !self.is_over.load(Ordering::Relaxed) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

/// Has the writer take what was said, until the backend is gone or the writer has enough. The writer is on a thread where it
/// holds nobody up while there is something to take, and on none while there is not.
async fn follow(mut writer: Writer, mut said: mpsc::UnboundedReceiver<Said>, is_over: Arc<AtomicBool>) {
    while let Some(first) = said.recv().await {
        let work = move || {
            let mut flow = writer.take(first);
            while flow.is_continue()
                && let Ok(next) = said.try_recv()
            {
                flow = writer.take(next);
            }
            (writer, said, flow)
        };
        let Ok((back, rest, flow)) = tokio::task::spawn_blocking(work).await else { break };
        (writer, said) = (back, rest);
        if flow.is_break() {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
}

impl Writer {
    fn take(&mut self, said: Said) -> ControlFlow<()> {
        match said {
            Said::Event(held) => self.event(held.event()),
            Said::Finished(reason, usage) => self.event(Event::Finished { reason, usage }),
            Said::Stop(stop) => {
                self.stop(stop);
                ControlFlow::Break(())
            }
        }
    }
}

impl Sink for Aside {
    fn token(&mut self) -> ControlFlow<()> {
        if self.is_over.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let Some(grant) = &self.grant else { return ControlFlow::Continue(()) };
        // Without a grant the writer has ended the answer.
        let Some(grant) = grant.upgrade() else { return ControlFlow::Break(()) };
        let Err(stop) = next_token(&grant) else { return ControlFlow::Continue(()) };
        drop(grant);
        _ = self.say(Said::Stop(stop));
        self.inbox = None;
        ControlFlow::Break(())
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        if let Event::Finished { reason, usage } = event {
            let flow = self.say(Said::Finished(reason, usage));
            self.inbox = None;
            return flow;
        }
        match Held::of(&event) {
            Some(held) => self.say(Said::Event(held)),
            None => ControlFlow::Continue(()),
        }
    }
}
