//! One direction of a connection.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use cleanroom_vsock::WRITE_CAP;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Whether one of the two directions of a connection has come to its end.
#[derive(Debug, Default)]
pub(super) struct Ends(AtomicBool);

impl Ends {
    /// One more direction has ended. Gives whether it is the last one.
    fn another(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }
}

/// The most that a direction of a connection holds in memory, in bytes: what one read gives while much comes.
const READ_CAP: usize = 4 * WRITE_CAP;

/// Writes `first`, and copies from `reader` to `writer` until the reader's end. Then closes the writer's half, unless
/// the other direction has ended before: whoever drops both streams closes them whole.
///
/// No write is of more than `longest_write` bytes. Nothing is read while a write waits, so a slow reader slows its
/// writer down. `passed` hears how many bytes were written, each time.
///
/// # Errors
/// The first error of either side. A writer that takes no byte is an error.
pub(super) async fn pass(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    first: Vec<u8>,
    longest_write: usize,
    ends: &Ends,
    passed: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = first;
    buffer.reserve_exact(WRITE_CAP.saturating_sub(buffer.len()));
    loop {
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let piece = rest.get(..longest_write).unwrap_or(rest);
            let count = writer.write(piece).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            passed(count);
            rest = rest.get(count..).unwrap_or_default();
        }
        writer.flush().await?;
        fit(&mut buffer);
        if read_piece(&mut reader, &mut buffer).await? == 0 {
            return if ends.another() { Ok(()) } else { close(&mut writer).await };
        }
    }
}

/// Empties a buffer, and gives it more space if it was full, or less if it was nearly empty: few connections carry much
/// at once, and each of the others needs little memory.
fn fit(buffer: &mut Vec<u8>) {
    let (held, space) = (buffer.len(), buffer.capacity());
    buffer.clear();
    let wanted = if held == space { space.saturating_mul(2) } else { space };
    let wanted = if held < WRITE_CAP / 4 { WRITE_CAP } else { wanted.clamp(WRITE_CAP, READ_CAP) };
    if wanted != space {
        *buffer = Vec::with_capacity(wanted);
    }
}

/// Adds what has come to `buffer`, at most what it has space for. Gives how much it was: 0 at the reader's end.
///
/// # Errors
/// The reader's.
pub(super) async fn read_piece(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    let space = buffer.capacity().saturating_sub(buffer.len());
    reader.take(space as u64).read_buf(buffer).await
}

/// Closes the writing half. A peer that is already gone needs no telling.
async fn close(writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    match writer.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::time::{Instant, sleep};
    use tokio_util::io::StreamReader;

    use super::*;

    /// Remembers when it was written what, and that it was closed. It takes at most `limit` bytes at once.
    #[derive(Clone)]
    struct Recorder {
        begun: Instant,
        limit: usize,
        writes: Rc<RefCell<Vec<(u128, usize)>>>,
        closed: Rc<RefCell<bool>>,
    }

    impl Recorder {
        fn new(limit: usize) -> Self {
            Self { begun: Instant::now(), limit, writes: Rc::default(), closed: Rc::default() }
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.limit);
            self.writes.borrow_mut().push((self.begun.elapsed().as_millis(), bytes.len()));
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            *self.closed.borrow_mut() = true;
            Poll::Ready(Ok(()))
        }
    }

    /// A reader that gives each piece at its time in milliseconds, then ends, or fails if told to.
    fn script<const COUNT: usize>(pieces: [(u64, usize); COUNT], fails: bool) -> impl AsyncRead + Unpin {
        let begun = Instant::now();
        let mut pieces = pieces.into_iter();
        let stream = async_stream(move || {
            let piece = pieces.next();
            async move {
                match piece {
                    Some((at, length)) => {
                        tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
                        Some(Ok(io::Cursor::new(vec![7; length])))
                    }
                    None if fails => Some(Err(io::Error::other("scripted"))),
                    None => None,
                }
            }
        });
        StreamReader::new(Box::pin(stream))
    }

    fn async_stream<T, F: Future<Output = Option<T>>>(
        mut next: impl FnMut() -> F,
    ) -> impl futures_util::Stream<Item = T> {
        futures_util::stream::unfold((), move |()| {
            let future = next();
            async move { future.await.map(|item| (item, ())) }
        })
    }

    /// The only direction of a connection.
    async fn direction(reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        pass(reader, writer, Vec::new(), WRITE_CAP, &Ends::default(), |_| ()).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_direction_leaves_closing_to_whoever_drops_the_streams() {
        let (ends, [first, second]) = (Ends::default(), [(); 2].map(|()| Recorder::new(usize::MAX)));
        for recorder in [&first, &second] {
            pass(script([], false), recorder.clone(), b"x".to_vec(), WRITE_CAP, &ends, |_| ()).await.unwrap();
            assert_eq!(*recorder.writes.borrow(), [(0, 1)]);
        }
        assert_eq!((*first.closed.borrow(), *second.closed.borrow()), (true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits() {
        let recorder = Recorder::new(usize::MAX);
        direction(script([(0, 10), (1, 20), (50, 30)], false), recorder.clone()).await.unwrap();
        assert_eq!(*recorder.writes.borrow(), [(0, 10), (1, 20), (50, 30)]);
        assert!(*recorder.closed.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn no_write_is_larger_than_the_cap() {
        let recorder = Recorder::new(usize::MAX);
        direction(script([(0, 10), (0, 3 * WRITE_CAP)], false), recorder.clone()).await.unwrap();
        assert_eq!(*recorder.writes.borrow(), [(0, 10), (0, WRITE_CAP), (0, WRITE_CAP), (0, WRITE_CAP)]);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_grow_while_much_comes_and_shrink_again() {
        let recorder = Recorder::new(usize::MAX);
        let reader = script([(0, 10 * WRITE_CAP), (1, 10), (2, 2 * WRITE_CAP)], false);
        pass(reader, recorder.clone(), Vec::new(), usize::MAX, &Ends::default(), |_| ()).await.unwrap();
        let lengths: Vec<_> = recorder.writes.borrow().iter().map(|(_, length)| *length).collect();
        let [much, most] = [2 * WRITE_CAP, READ_CAP];
        assert_eq!(lengths, [WRITE_CAP, much, most, 3 * WRITE_CAP, 10, WRITE_CAP, WRITE_CAP]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_takes_nothing_ends_the_direction() {
        let error = direction(script([(0, 10)], false), Recorder::new(0)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_writer_does_not_take_is_offered_again() {
        let recorder = Recorder::new(6);
        let total = RefCell::new(0);
        pass(script([(0, 10)], false), recorder.clone(), Vec::new(), WRITE_CAP, &Ends::default(), |count| {
            *total.borrow_mut() += count;
        })
        .await
        .unwrap();
        assert_eq!(*recorder.writes.borrow(), [(0, 10), (0, 4)]);
        assert_eq!(*total.borrow(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_before_a_failure_is_written_and_the_half_is_not_closed() {
        let recorder = Recorder::new(usize::MAX);
        let result = direction(script([(0, 10), (1, 20)], true), recorder.clone()).await;
        assert_eq!(result.unwrap_err().to_string(), "scripted");
        assert_eq!(*recorder.writes.borrow(), [(0, 10), (1, 20)]);
        assert!(!*recorder.closed.borrow(), "a failure must not look like an end");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_a_write_waits() {
        let (mut source, reader) = tokio::io::duplex(WRITE_CAP);
        let (writer, _never_read) = tokio::io::duplex(1000);
        let mut relay = Box::pin(direction(reader, writer));
        let mut offered = 0;
        let fill = async {
            loop {
                offered += source.write(&[0; 1024]).await.unwrap();
            }
        };
        tokio::select! {
            _ = &mut relay => panic!("the relay ended"),
            () = fill => {}
            () = sleep(Duration::from_secs(3600)) => {}
        }
        // What the writer's pipe, the relay's buffer and the reader's pipe hold, and no more.
        assert!(offered <= 1000 + WRITE_CAP + READ_CAP, "{offered}");
    }
}
