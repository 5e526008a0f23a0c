//! The simulator's fast path allocates nothing per request.
//!
//! A process of its own, because the count is the allocator's and therefore the whole process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_bench::sim::{self, SimOptions};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_fast_path_allocates_nothing_per_request() {
    let sim = sim::spawn(&SimOptions::default()).expect("the simulator starts");
    let body = format!(
        "{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
        "word ".repeat(300)
    );
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer sk-test\r\nContent-Length: ";
    let request = format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes();
    let mut stream = TcpStream::connect(sim.addr).expect("it listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut buffer = [0u8; 8192];
    let mut ask = |times: usize| {
        for _ in 0..times {
            stream.write_all(&request).expect("it reads");
            let mut got = 0;
            while !buffer[..got].ends_with(b"_51db84afab\"}") {
                let count = stream.read(&mut buffer[got..]).expect("it answers");
                assert!(count > 0, "it stays open");
                got += count;
            }
        }
    };
    ask(1000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    ask(2000);
    let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The attempts' ring doubles until it is full, and the date is formatted once a second.
    assert!(count < 20, "{count} allocations in 2000 requests");
}
