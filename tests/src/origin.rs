//! Providers that the simulator cannot play: an address that refuses connections, and one that does exactly as told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A port that is taken, so that nobody else gets it, but on which nobody listens: connections are refused.
pub struct ClosedPort {
    socket: socket2::Socket,
}

impl ClosedPort {
    /// Takes one.
    ///
    /// # Panics
    /// When the system gives none.
    #[must_use]
    pub fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket can be made");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port can be bound");
        Self { socket }
    }

    /// What a provider's `base_url` is set to.
    ///
    /// # Panics
    /// Never: a bound socket has an address.
    #[must_use]
    pub fn base_url(&self) -> String {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        format!("http://{}/v1", address.expect("a bound socket has an address"))
    }
}

impl Default for ClosedPort {
    fn default() -> Self {
        Self::new()
    }
}

/// A provider in the test's own hands: each accepted connection is given to a function on a thread of its own.
pub struct Origin {
    address: SocketAddr,
    accepted: Receiver<()>,
    stop: Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Origin {
    /// Starts one; `play` is told the number of the connection, from 0.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(play: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (told, accepted) = channel();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let play = std::sync::Arc::new(play);
            for (number, socket) in listener.incoming().enumerate() {
                if stopped.try_recv().is_ok() {
                    break;
                }
                let Ok(socket) = socket else { break };
                let _ = socket.set_read_timeout(Some(crate::wait::PATIENCE));
                let _ = told.send(());
                let play = play.clone();
                std::thread::spawn(move || play(number, socket));
            }
        });
        Self {
            address,
            accepted,
            stop,
            thread: Some(thread),
        }
    }

    /// What a provider's `base_url` is set to.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// How many connections have been accepted since it was asked last.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.try_iter().count()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one request with a `Content-Length` body, or none; false if the connection has ended.
pub fn read_request(socket: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(head) = crate::http::find(&bytes, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                .unwrap_or(0);
            if bytes.len() >= head + 4 + length {
                return true;
            }
        }
        match socket.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return false,
        }
    }
}

/// Reads a request, sends `answer` as it is, and closes.
pub fn answer_once(mut socket: TcpStream, answer: &[u8]) {
    if read_request(&mut socket) {
        let _ = socket.write_all(answer);
        let _ = socket.shutdown(Shutdown::Write);
        // Until the other side closes as well: a close with unread bytes would reset the connection.
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    }
}
