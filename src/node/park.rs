//! Waiting for a future on a thread of one's own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks until the future is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

/// Calls back after a while. For rare moments: it takes a thread, and needs no runtime.
pub(crate) fn call_later(after: Duration, call: impl FnOnce() + Clone + Send + 'static) {
    let late = call.clone();
    let sleeps = thread::Builder::new().name("seawall-retry".into()).spawn(move || {
        thread::sleep(after);
        late();
    });
    if sleeps.is_err() {
        // No thread to be had: better late for everybody than at once, over and over.
        thread::sleep(after);
        call();
    }
}
