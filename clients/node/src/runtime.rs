//! The threads that requests run on.

use std::future::Future;
use std::sync::OnceLock;

use napi::bindgen_prelude::{Env, Error, Object, Result, ToNapiValue};
use tokio::runtime::{Builder, Runtime};

/// One for TLS and HTTP/2, and one so that a large request of one caller does not hold up the others.
const THREADS: usize = 2;

/// The process's runtime. It lives as long as the process, and does not keep it alive.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let start =
        || Builder::new_multi_thread().worker_threads(THREADS).thread_name("cleanroom").enable_all().build();
    RUNTIME.get_or_init(start).as_ref().map_err(|error| Error::from_reason(format!("no threads: {error}")))
}

/// What JavaScript gets of a promise, made on its own thread.
type Settle<T> = Box<dyn FnOnce(Env) -> Result<T> + Send>;

/// A promise of what comes of `work`, which runs on the runtime. Until then the process stays alive.
pub(crate) fn promise<'e, T>(
    env: &'e Env,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<Object<'e>>
where
    T: ToNapiValue + Send + 'static,
{
    let runtime = runtime()?;
    let (deferred, promise) = env.create_deferred::<T, Settle<T>>()?;
    runtime.spawn(async move {
        match tokio::spawn(work).await {
            Ok(done) => deferred.resolve(Box::new(move |_| Ok(done))),
            Err(_) => deferred.reject(Error::from_reason("a thread of cleanroom ended; this is a defect")),
        }
    });
    Ok(promise)
}
