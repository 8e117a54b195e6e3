//! A line between two ends that can be cut: what one says goes to the other, until both find that it is gone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: Mutex<SocketAddr>,
    /// Both ends of every connection that may still be there.
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    is_over: AtomicBool,
}

impl Proxy {
    pub(crate) fn new(to: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            open: Mutex::new(Vec::new()),
            connections: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let own = shared.clone();
        std::thread::spawn(move || own.accept(&listener));
        Ok(Proxy { address, shared })
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The other end is somewhere else now.
    pub(crate) fn lead_to(&self, to: SocketAddr) {
        *self.shared.to.lock() = to;
    }

    /// Ends every connection. What is on its way may be cut anywhere. Returns how many there had ever been.
    pub(crate) fn cut(&self) -> u64 {
        for stream in self.shared.open.lock().drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.cut();
        // The listener's thread looks when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((near, _)) = listener.accept() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let to = *self.to.lock();
            // Nobody there: whoever came finds that the connection ends.
            let Ok(far) = TcpStream::connect(to) else { continue };
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
            let (Ok(near_kept), Ok(far_kept)) = (near.try_clone(), far.try_clone()) else { continue };
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.open.lock().extend([near_kept, far_kept]);
            std::thread::spawn(move || carry(near, far));
            std::thread::spawn(move || carry(far_too, near_too));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_until_it_is_cut() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::new(listener.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(proxy.address()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut heard = [0; 5];
        near.write_all(b"there").unwrap();
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"there");
        far.write_all(b"back!").unwrap();
        near.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"back!");
        assert_eq!(proxy.cut(), 1);
        assert!(matches!(near.read(&mut heard), Ok(0) | Err(_)));
        assert!(matches!(far.read(&mut heard), Ok(0) | Err(_)));
    }
}
