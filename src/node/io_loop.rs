//! A log's writes carried by the runtime that has the sockets: the thread that hears a source also starts the write, hears that it
//! has ended, and answers.

use std::future::poll_fn;
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::io::DriverLoop;

/// Turns the loop until nobody needs it, on the tokio runtime this is spawned in. Dropped, or where the runtime cannot watch it,
/// the loop goes on in a thread of its own.
///
/// A thread of that runtime must not wait for the driver's logs: see [`DriverLoop`]. A runtime that runs only within `block_on` turns
/// the loop only there.
///
/// # Panics
/// When the runtime was built without I/O.
pub async fn run_loop(driver_loop: DriverLoop) {
    // What takes its place in tokio 1.54 is unsafe, for descriptors that change or close while they are watched: this one stays.
    #[allow(deprecated)]
    let watched = AsyncFd::with_interest(driver_loop, Interest::READABLE);
    let Ok(mut watched) = watched else { return };
    poll_fn(|cx| {
        // Looked at before the turn: what ends behind it makes the descriptor readable anew.
        while let Poll::Ready(readable) = watched.poll_read_ready_mut(cx) {
            match readable {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(()),
            }
        }
        watched.get_mut().turn(cx.waker())
    })
    .await;
}
