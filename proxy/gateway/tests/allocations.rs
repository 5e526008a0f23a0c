//! No heap allocation per request on the steady path: counted by a global allocator, in the gateway itself.
//!
//! The gateway runs in this process with one core; the provider is a plain thread that answers with fixed bytes. Only what
//! the thread `core-0` allocates counts: the control thread formats the request log, and is not on any request's way.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluice::control::store::{BudgetRow, Change, LimitRow, NewKey, ScopeKind, Store};
use sluice::control::{self, Overrides};
use sluice_policy::budget::Window;
use sluice_policy::keyring::VirtualKey;
use sluice_policy::money::NanoUsd;

/// Requests before the count, so that pools, rings and buffers have their size.
const WARM_UP: usize = 300;
/// Requests that are counted.
const COUNTED: usize = 1000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// 0: not known yet, 1: counted, 2: not counted.
    static COUNTS: Cell<u8> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: usize) {
    let counted = COUNTS.try_with(|counts| {
        if counts.get() == 0 {
            counts.set(if is_core() { 1 } else { 2 });
        }
        counts.get() == 1
    });
    if counted == Ok(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Whether this thread is called `core-0`, asked of the kernel, without an allocation.
fn is_core() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, NUL included, to the buffer.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"core-0\0")
}

// SAFETY: everything is passed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A provider that answers every request on every connection with the same bytes.
fn provider(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while read_message(&mut BufReader::new(&socket)) && (&socket).write_all(answer).is_ok() {}
            });
        }
    });
    address
}

/// Reads one message with a `Content-Length`; false at the connection's end.
fn read_message(from: &mut impl BufRead) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length is a number");
        }
        if line.is_empty() {
            break;
        }
    }
    from.read_exact(&mut vec![0; length]).is_ok()
}

/// A port that is taken for the gateway: it binds with SO_REUSEPORT as well, and only it listens.
fn reserve() -> socket2::Socket {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket can be made");
    socket.set_reuse_port(true).expect("a socket takes SO_REUSEPORT");
    socket.set_reuse_address(true).expect("a socket takes SO_REUSEADDR");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a port can be bound");
    socket
}

/// Runs the gateway in this process until the process ends; `more` is added to its configuration.
fn start(listen: SocketAddr, folder: &std::path::Path, providers: [SocketAddr; 2], more: &str) {
    let [unary, streamed] = providers;
    let text = format!(
        "providers:\n  local:\n    vendor: vllm\n    base_url: http://{unary}/v1\n\
         \x20 events:\n    vendor: vllm\n    base_url: http://{streamed}/v1\n\
         log:\n  requests:\n    output: {}\n{more}",
        folder.join("requests.log").display()
    );
    let path = folder.join(format!("config-{}.yaml", listen.port()));
    std::fs::write(&path, text).expect("a file can be written");
    let config = control::load(&path).expect("the configuration is good");
    let overrides = Overrides {
        listen: Some(listen),
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        cores: Some(1),
        epoll: false,
        takeover: false,
    };
    std::thread::spawn(move || control::run(config, path, &overrides));
}

fn connect(to: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(to) {
            Ok(socket) => {
                socket.set_nodelay(true).expect("a socket takes TCP_NODELAY");
                socket
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .expect("a socket takes a timeout");
                return socket;
            }
            Err(error) => assert!(Instant::now() < deadline, "the gateway does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends `request` and reads until the answer ends with `end`.
fn exchange(socket: &mut TcpStream, request: &[u8], end: &[u8]) {
    socket.write_all(request).expect("the gateway takes a request");
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    while !answer.ends_with(end) {
        let count = socket.read(&mut piece).expect("the gateway answers");
        assert!(count > 0, "cut: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..count]);
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// Allocations of the core during the counted requests.
fn measure(socket: &mut TcpStream, request: &[u8], end: &[u8]) -> (u64, u64) {
    for _ in 0..WARM_UP {
        exchange(socket, request, end);
    }
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    for _ in 0..COUNTED {
        exchange(socket, request, end);
    }
    (
        ALLOCATIONS.load(Ordering::Relaxed) - before.0,
        BYTES.load(Ordering::Relaxed) - before.1,
    )
}

fn request(provider: &str, content: &str, fields: &str) -> Vec<u8> {
    let stream = if provider == "events" { r#""stream":true,"# } else { "" };
    let body = format!(r#"{{{stream}"model":"{provider}/gpt","messages":[{{"role":"user","content":"{content}"}}]}}"#);
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    format!("{head}{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The same for a gateway whose requests come with a virtual key that has a budget and a limit.
fn charged(folder: &std::path::Path) -> ((u64, u64), (u64, u64)) {
    const UNARY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n\
        {\"x\":\"abcd\",\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":5}}";
    const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
        36\r\ndata: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\r\n2\r\n\n\n\r\n\
        4c\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":5}}    \n\n\r\n\
        e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let secret = VirtualKey::from_random(&[7; 32]);
    let store = folder.join("sluice.db");
    fill(&store, &secret);
    let prices = folder.join("prices.yaml");
    let text = "- source: test\n  date: 2026-11-22\n  prices:\n    \"*/gpt\": {input: 1, output: 4, input_max: 200000, output_max: 1000}\n";
    std::fs::write(&prices, text).expect("a file can be written");
    let more = format!(
        "accounts:\n  store: {}\n  prices: {}\n",
        store.display(),
        prices.display()
    );
    let port = reserve();
    let address = port.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.expect("a bound socket has an address");
    start(address, folder, [provider(UNARY), provider(EVENTS)], &more);
    let mut socket = connect(address);
    let field = format!("Authorization: Bearer {}\r\n", secret.expose());
    let small = measure(&mut socket, &request("local", "Hello", &field), b"}");
    let events = measure(&mut socket, &request("events", "Hello", &field), b"0\r\n\r\n");
    (small, events)
}

/// Puts a key with a budget and a limit into a new store.
fn fill(path: &std::path::Path, secret: &VirtualKey) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let (mut store, _) = Store::open(path, 1, false).expect("a store can be made");
    let key = NewKey {
        digest: secret.digest(),
        hint: secret.hint().to_owned(),
        expires_s: None,
    };
    let change = Change {
        actor: "test".into(),
        unix_s: 1,
    };
    let made = runtime.block_on(store.ask(move |tx| {
        let id = tx.add_scope(&change, ScopeKind::Key, "press-1", None, Some(&key))?;
        let budget = BudgetRow {
            id: 0,
            scope: id,
            limit: NanoUsd::LIMIT_MAX,
            soft: None,
            window: Window::Total,
            provider: None,
            model: None,
        };
        tx.add_budget(&change, &budget)?;
        let limit = LimitRow {
            id: 0,
            scope: id,
            unit: "requests".into(),
            window: Window::Total,
            most: 1_000_000,
            provider: None,
            model: None,
        };
        tx.add_limit(&change, &limit)
    }));
    made.expect("a key can be stored");
    store.close();
}

#[test]
fn a_request_over_open_connections_allocates_nothing() {
    const UNARY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n\
        {\"object\":\"chat.completion\", }";
    const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
        1b\r\ndata: {\"choices\":[1, 2, 3]}\r\n2\r\n\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let folder = std::env::temp_dir().join(format!("sluice-allocations-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let port = reserve();
    let address = port.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.expect("a bound socket has an address");
    start(address, &folder, [provider(UNARY), provider(EVENTS)], "");
    let mut socket = connect(address);
    let begun = ALLOCATIONS.load(Ordering::Relaxed);
    exchange(&mut socket, &request("local", "Hello", ""), b"}");
    assert!(
        ALLOCATIONS.load(Ordering::Relaxed) > begun,
        "the first request does allocate: the count works"
    );
    let small = measure(&mut socket, &request("local", "Hello", ""), b"}");
    let large = measure(&mut socket, &request("local", &"x".repeat(100_000), ""), b"}");
    let events = measure(&mut socket, &request("events", "Hello", ""), b"0\r\n\r\n");
    println!("allocations and bytes of {COUNTED} requests: small {small:?}, 100 KB {large:?}, streamed {events:?}");
    let (charged, charged_events) = charged(&folder);
    println!("the same with a key, a budget and a limit: small {charged:?}, streamed {charged_events:?}");
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!(charged, (0, 0), "charged requests");
    assert_eq!(charged_events, (0, 0), "charged streams");
    assert_eq!(small, (0, 0), "small requests");
    assert_eq!(large, (0, 0), "requests of 100 KB");
    assert_eq!(events, (0, 0), "streamed answers");
}
