//! Where an engine stops in the middle of an answer, until the test lets it go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::wait;

/// Looks at the clock for each token of one answer: before the step, and when the token is permitted.
const LOOKS: u32 = 2;

/// Stops the engine at a token, so that something can happen in the middle of an answer.
///
/// Its end lets the engine go, so that a test that fails in the middle of an answer ends, too.
#[derive(Default)]
pub struct Hold(Arc<Gate>);

#[derive(Default)]
struct Gate {
    /// Looks at the clock that the engine may still take; `None` for any number.
    left: Mutex<Option<u32>>,
    changed: Condvar,
    /// Whether the engine stands at the token.
    reached: AtomicBool,
}

impl Hold {
    /// Stops the engine after so many tokens.
    pub fn after(&self, tokens: u32) {
        *self.0.left.lock().unwrap() = Some(tokens * LOOKS);
    }

    /// Waits until the engine stands there, so that it looks at no clock before it is released.
    pub async fn reached(&self) {
        wait::until("the engine stands at the token", || self.0.reached.load(Ordering::SeqCst)).await;
    }

    /// Lets the engine go on.
    pub fn release(&self) {
        *self.0.left.lock().unwrap() = None;
        self.0.changed.notify_all();
    }

    /// What the enclave's clock has to call whenever somebody looks at it.
    pub fn look(&self) -> impl Fn() + Send + Sync + use<> {
        let gate = Arc::clone(&self.0);
        move || gate.pass()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

impl Gate {
    fn pass(&self) {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("engine")) {
            return;
        }
        let left = self.left.lock().unwrap();
        self.reached.store(*left == Some(0), Ordering::SeqCst);
        let mut left = self.changed.wait_while(left, |left| *left == Some(0)).unwrap();
        if let Some(left) = left.as_mut() {
            *left -= 1;
        }
    }
}
