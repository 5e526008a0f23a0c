//! Connections: keep-alive, pipelining, every way a body can arrive, TLS, signatures, stopping.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use sluice_bench::sim::tls::TlsFiles;
use sluice_bench::sim::{self, SimOptions};

use crate::client::{Client, End, call, chat, page, request, start};

#[test]
fn pipelined_requests_are_answered_in_order() {
    let sim = start();
    let mut client = Client::new(&sim);
    let models = ["a", "b+latency_ms=30", "c", "d+tokens=2,tps=100", "e"];
    let all: Vec<u8> = models
        .iter()
        .enumerate()
        .flat_map(|(at, model)| chat(model, at == 3))
        .collect();
    client.send(&all);
    for model in models {
        let name = model.split('+').next().unwrap();
        assert!(client.receive().text().contains(&format!("\"model\":\"{name}\"")));
    }
    assert_eq!(page(&sim, "/sim/bill")["connections"], 2);
}

#[test]
fn requests_split_anywhere_are_the_same_request() {
    let sim = start();
    let wire = request("POST", "/v1/chat/completions", &[], br#"{"model":"echo","x":[1,2,3]}"#);
    let mut client = Client::new(&sim);
    client.send(&wire);
    let expected = client.receive().json();
    for split in (1..wire.len()).step_by(3) {
        client.send(&wire[..split]);
        std::thread::yield_now();
        client.send(&wire[split..]);
        assert_eq!(client.receive().json(), expected, "split at {split}");
    }
}

#[test]
fn chunked_bodies_and_expectations_work() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in [
        "10;ext=1\r\n{\"model\":\"echo\",",
        "\r\n",
        "5\r\n\"a\":1\r\n",
        "1\r\n}\r\n0\r\nx: y\r\n",
        "\r\n",
    ] {
        client.send(piece.as_bytes());
    }
    let echo = client.receive().json();
    assert_eq!((&echo["body_bytes"], &echo["chunked"]), (&22.into(), &true.into()));
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nContent-Length: 13\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.receive().status, 100);
    client.send(b"{\"model\":\"m\"}");
    assert_eq!(client.receive().status, 200);
}

#[test]
fn megabyte_bodies_arrive_whole() {
    let sim = start();
    let body = format!("{{\"model\":\"echo\",\"image\":\"{}\"}}", "A".repeat(3 << 20));
    let echo = call(&sim, "POST", "/v1/chat/completions", &[], body.as_bytes()).json();
    assert_eq!(echo["body_bytes"], body.len());
    assert_eq!(echo["body_sha256"], sim::digest::sha256_hex(body.as_bytes()));
}

#[test]
fn old_clients_and_close_end_the_connection() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(b"GET /v1/models HTTP/1.0\r\n\r\n");
    assert_eq!(client.drain().1, End::Eof);
    let mut client = Client::new(&sim);
    client.send(&chat("m+keep_alive=0", false));
    let response = client.receive();
    assert_eq!(
        (response.header("connection"), client.drain().1),
        (Some("close"), End::Eof)
    );
    let mut client = Client::new(&sim);
    client.send(&chat("m+until_close", false));
    client.receive().json();
    let mut client = Client::new(&sim);
    client.send(b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let text = String::from_utf8(client.patience(Duration::from_millis(100)).drain().0).unwrap();
    assert!(
        !text.contains("gpt-4o") && text.ends_with("{\"status\":\"ok\"}"),
        "{text}"
    );
}

#[test]
fn several_threads_share_one_address_and_one_bill() {
    let sim = sim::spawn(&SimOptions {
        threads: 3,
        ..SimOptions::default()
    })
    .expect("starts");
    for _ in 0..20 {
        assert_eq!(
            call(&sim, "POST", "/v1/chat/completions", &[], br#"{"model":"m"}"#).status,
            200
        );
    }
    assert_eq!(page(&sim, "/sim/bill")["total"]["requests"], 20);
}

#[test]
fn stopping_cuts_connections_and_frees_the_address() {
    let sim = start();
    let addr = sim.addr;
    let mut client = Client::new(&sim);
    client.send(&chat("m+stall=mid_stream", true));
    client.until("data: ", 1);
    sim.stop();
    assert!(matches!(client.drain().1, End::Eof | End::Reset));
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[test]
fn aws_signatures_are_verified() {
    // Computed with the algorithm of the service's documentation by an independent implementation (Python's hmac and hashlib).
    let secrets = vec![(
        "AKIDEXAMPLE".to_owned(),
        "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
    )];
    let headers = [
        httparse::Header {
            name: "Host",
            value: b"bedrock-runtime.eu-central-1.amazonaws.com",
        },
        httparse::Header {
            name: "X-Amz-Date",
            value: b"20260101T000000Z",
        },
    ];
    let mut asked = sim::http::Request {
        method: "POST",
        target: "/model/anthropic.claude-3-5-haiku-20241022-v1%3A0/converse",
        headers: &headers,
        body: b"{\"messages\":[]}",
        head_bytes: 0,
        chunked: false,
    };
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-central-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
        include_str!("signature.txt").trim()
    );
    let now = 1_767_225_600 + 60;
    assert_eq!(sim::sigv4::verify(&asked, &authorization, &secrets, now), Ok(()));
    assert_eq!(
        sim::sigv4::verify(&asked, &authorization, &secrets, now + 600),
        Err("Signature expired")
    );
    asked.body = b"{}";
    assert!(sim::sigv4::verify(&asked, &authorization, &secrets, now).is_err());
    assert!(sim::sigv4::verify(&asked, "", &secrets, now).is_err());
}

#[test]
fn tls_serves_resumes_and_counts_handshakes() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let folder = std::env::temp_dir().join(format!("sluice-sim-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = TlsFiles {
        cert,
        key,
        client_ca: None,
    };
    let sim = sim::spawn(&SimOptions {
        tls: Some(files),
        ..SimOptions::default()
    })
    .expect("starts");
    std::fs::remove_dir_all(&folder).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    for _ in 0..2 {
        let session = rustls::ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap()).unwrap();
        let mut tls = rustls::StreamOwned::new(session, TcpStream::connect(sim.addr).unwrap());
        for stream in [false, true] {
            tls.write_all(&chat("m+tokens=3", stream)).unwrap();
            let mut got = Vec::new();
            let end: &[u8] = if stream { b"[DONE]\n\n\r\n0\r\n\r\n" } else { b"\"}" };
            while !got.ends_with(end) {
                let mut piece = [0; 4096];
                let count = tls.read(&mut piece).unwrap();
                assert!(count > 0);
                got.extend_from_slice(&piece[..count]);
            }
        }
    }
    let bill = sim.shared.bill.lock();
    assert_eq!((bill.tls_full, bill.tls_resumed), (1, 1));
}
