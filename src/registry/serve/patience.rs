//! A connection that is given up on when its reader takes nothing for too long, and whose place learns when its
//! reader is waited for. Looks at no byte.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::room::Place;

/// A stream whose writes fail once one of them has waited for `longest`. How slowly it is read is not bounded,
/// as long as it goes on.
pub(super) struct Patient<S> {
    stream: S,
    longest: Duration,
    place: Arc<Place>,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, longest: Duration, place: Arc<Place>) -> Patient<S> {
        Patient {
            stream,
            longest,
            place,
            waiting: None,
        }
    }

    /// What came of a write, or a failure if it takes too long.
    fn bound<T>(&mut self, poll: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if self.waiting.take().is_some() {
                self.place.work();
            }
            return poll;
        }
        let (longest, place) = (self.longest, &self.place);
        let waiting = self.waiting.get_or_insert_with(|| {
            place.wait();
            Box::pin(tokio::time::sleep(longest))
        });
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.bound(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONGEST: Duration = Duration::from_millis(200);

    fn patient<S>(stream: S) -> Patient<S> {
        let seat = super::super::room::Room::new(1, LONGEST).enter().unwrap();
        Patient::new(stream, LONGEST, Arc::clone(seat.place()))
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up_on() {
        let (stream, _reader) = tokio::io::duplex(10);
        let error = patient(stream).write_all(&[0; 100]).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (stream, mut reader) = tokio::io::duplex(1);
        let mut stream = patient(stream);
        let read = async {
            for _ in 0..12 {
                tokio::time::sleep(LONGEST / 8).await;
                reader.read_u8().await.unwrap();
            }
        };
        // Longer than the longest pause, all in all.
        let (written, ()) = tokio::join!(stream.write_all(&[0; 12]), read);
        written.unwrap();
    }
}
