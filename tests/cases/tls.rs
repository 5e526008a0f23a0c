//! TLS on both sides: what is presented, what is verified, and that nothing goes on without it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use sluice_tests::certificates::{Authority, Identity, client};
use sluice_tests::gateway::pretty;
use sluice_tests::temp::TempDir;
use sluice_tests::{Client, Gateway, Request, Setup, Sim, json, wait};

type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

/// Connects and completes the handshake.
fn connect(gateway: &Gateway, config: &Arc<ClientConfig>) -> std::io::Result<TlsClient> {
    connect_behind(gateway, config, b"")
}

/// The same, with bytes before the handshake and in one piece with its beginning.
fn connect_behind(gateway: &Gateway, config: &Arc<ClientConfig>, before: &[u8]) -> std::io::Result<TlsClient> {
    let name = "localhost".try_into().expect("a name");
    let session = ClientConnection::new(config.clone(), name).expect("the configuration is sound");
    let mut stream = StreamOwned::new(session, Client::connect(gateway.address).stream);
    let mut hello = before.to_vec();
    stream.conn.write_tls(&mut hello)?;
    stream.sock.write_all(&hello)?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Client::new(stream))
}

fn serve_tls(setup: Setup, identity: &Identity) -> Setup {
    setup
        .set("/server/tls/cert", identity.cert.display().to_string())
        .set("/server/tls/key", identity.key.display().to_string())
}

#[test]
fn clients_are_served_over_tls_and_resume_their_sessions() {
    let dir = TempDir::new();
    let authority = Authority::new(&dir, "ca");
    let identity = authority.issue(&dir, "server", "localhost");
    for setup in [Setup::new(), Setup::new().epoll(), Setup::new().cores(2)] {
        let sim = Sim::start();
        let setup = setup.provider("openai", &sim.base_url(), &["sk-one"]);
        let gateway = serve_tls(setup, &identity).start();
        let config = client(&authority, None);
        for round in 0..4 {
            let mut client = connect(&gateway, &config).expect("the certificate is good");
            let answer = client.ask(&Request::chat("openai/a"));
            assert_eq!(answer.status, 200);
            assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            let resumed = client.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "round {round}");
            let answer = client.ask(&Request::stream("openai/s"));
            assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
            let big = format!(r#"{{"model":"openai/echo","x":"{}"}}"#, "y".repeat(1 << 20));
            let answer = client.ask(&Request::post("/v1/chat/completions", big.clone()));
            assert_eq!(answer.json()["body_bytes"], big.len() - "openai/".len());
            let answer = client.ask(&Request::chat("openai/a+bytes=1000000").field("Connection", "close"));
            assert_eq!(answer.body.len(), 1_000_000);
            client.expect_closed();
        }
        // A client that does not trust the authority goes; one without TLS gets nothing.
        let stranger = client(&Authority::new(&dir, "stranger"), None);
        assert!(connect(&gateway, &stranger).is_err());
        let mut plain = gateway.client();
        plain.send(Request::chat("openai/a").bytes());
        let heard = plain.until_closed();
        assert!(!heard.starts_with(b"HTTP/"), "{heard:?}");
    }
}

#[test]
fn client_certificates_are_required_or_only_verified() {
    let dir = TempDir::new();
    let (authority, clients) = (Authority::new(&dir, "ca"), Authority::new(&dir, "clients"));
    let identity = authority.issue(&dir, "server", "localhost");
    let known = clients.issue(&dir, "known", "client");
    let unknown = Authority::new(&dir, "others").issue(&dir, "unknown", "client");
    let sim = Sim::start();
    for mode in ["required", "optional"] {
        let gateway = serve_tls(Setup::with(&sim.base_url()), &identity)
            .set("/server/tls/client_ca", clients.file.display().to_string())
            .set("/server/tls/client_auth", mode)
            .start();
        // With TLS 1.3 the client's handshake ends before the server has looked: only an answer proves acceptance.
        let served = |identity: Option<&Identity>| {
            let Ok(mut client) = connect(&gateway, &client(&authority, identity)) else {
                return false;
            };
            client.try_send(Request::get("/health").bytes()).is_ok() && !client.until_closed_or_answer().is_empty()
        };
        assert!(served(Some(&known)), "{mode}");
        assert!(!served(Some(&unknown)), "{mode}");
        assert_eq!(served(None), mode == "optional");
    }
}

#[test]
fn providers_are_reached_over_verified_tls_and_sessions_are_resumed() {
    let dir = TempDir::new();
    let authority = Authority::new(&dir, "ca");
    let identity = authority.issue(&dir, "provider", "127.0.0.1");
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start_tls(&identity, None);
        let gateway = setup
            .provider("openai", &sim.base_url(), &["sk-one"])
            .set("/providers/openai/tls/ca_file", authority.file.display().to_string())
            .start();
        let mut client = gateway.client();
        // The provider closes each connection, so each request needs a handshake.
        for _ in 0..4 {
            assert_eq!(client.ask(&Request::chat("openai/a+keep_alive=0")).status, 200);
        }
        let answer = client.ask(&Request::stream("openai/s"));
        assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
        for _ in 0..5 {
            assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
        }
        let big = format!(r#"{{"model":"openai/echo","x":"{}"}}"#, "y".repeat(1 << 20));
        let answer = client.ask(&Request::post("/v1/chat/completions", big.clone()));
        assert_eq!(answer.json()["body_bytes"], big.len() - "openai/".len());
        let bill = sim.bill();
        assert_eq!(bill["tls_full"], 1, "{bill}");
        assert_eq!(bill["tls_resumed"], 4, "{bill}");
    }
}

#[test]
fn a_provider_that_cannot_be_verified_is_not_spoken_to() {
    let dir = TempDir::new();
    let (authority, other) = (Authority::new(&dir, "ca"), Authority::new(&dir, "other"));
    let (good, elsewhere) = (
        authority.issue(&dir, "provider", "127.0.0.1"),
        authority.issue(&dir, "elsewhere", "elsewhere.test"),
    );
    let plain = Sim::start();
    let table = [
        ("another authority", Sim::start_tls(&good, None), Some(&other)),
        ("the system's authorities", Sim::start_tls(&good, None), None),
        ("another name", Sim::start_tls(&elsewhere, None), Some(&authority)),
    ];
    for (name, sim, trusted) in &table {
        for backed in [false, true] {
            let mut setup = Setup::with(&sim.base_url()).provider("backup", &plain.base_url(), &["sk-backup"]);
            if let Some(trusted) = trusted {
                setup = setup.set("/providers/openai/tls/ca_file", trusted.file.display().to_string());
            }
            if backed {
                setup = setup.route(&["openai/*"], &["backup/spare"]);
            }
            let gateway = setup.start();
            for request in [Request::chat("openai/a"), Request::stream("openai/s")] {
                let answer = gateway.ask(&request);
                if backed {
                    assert_eq!(
                        (answer.status, answer.field("x-sluice-fallback-reason")),
                        (200, Some("upstream_tls")),
                        "{name}"
                    );
                } else {
                    assert_eq!((answer.status, &*answer.error_code()), (502, "upstream_tls"), "{name}");
                }
            }
        }
        assert_eq!(sim.attempts().len(), 0, "{name}");
    }
    // A provider that speaks no TLS at all is not asked in plain text instead.
    let url = plain.base_url().replace("http://", "https://");
    let attempts = plain.attempts().len();
    let gateway = Setup::with(&url).start();
    let answer = gateway.ask(&Request::chat("openai/a"));
    assert_eq!((answer.status, &*answer.error_code()), (502, "upstream_tls"));
    assert_eq!(plain.attempts().len(), attempts);
}

#[test]
fn a_provider_may_ask_for_the_gateways_certificate_and_go_by_another_name() {
    let dir = TempDir::new();
    let (authority, clients) = (Authority::new(&dir, "ca"), Authority::new(&dir, "clients"));
    let identity = authority.issue(&dir, "provider", "provider.test");
    let own = clients.issue(&dir, "own", "gateway");
    let sim = Sim::start_tls(&identity, Some(&clients.file));
    let setup = || {
        Setup::with(&sim.base_url())
            .set("/providers/openai/tls/ca_file", authority.file.display().to_string())
            .set("/providers/openai/tls/server_name", "provider.test")
    };
    let gateway = setup()
        .set("/providers/openai/tls/client_cert", own.cert.display().to_string())
        .set("/providers/openai/tls/client_key", own.key.display().to_string())
        .start();
    gateway.expect_healthy();
    let answer = setup().start().ask(&Request::chat("openai/a"));
    assert_eq!(answer.status, 502, "without its certificate: {answer:?}");
}

#[test]
fn tls_may_follow_a_proxy_header_in_the_same_packet() {
    let dir = TempDir::new();
    let authority = Authority::new(&dir, "ca");
    let identity = authority.issue(&dir, "server", "localhost");
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let setup = setup.provider("openai", &sim.base_url(), &["sk-one"]);
        let gateway = serve_tls(setup, &identity)
            .set("/server/proxy_protocol/trusted", json!(["127.0.0.1/32"]))
            .start();
        let config = client(&authority, None);
        let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 12345 8080\r\n";
        let mut client = connect_behind(&gateway, &config, header).expect("the handshake succeeds");
        assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
        assert_eq!(gateway.request_lines(1)[0]["client"], "203.0.113.7");
        assert!(connect(&gateway, &config).is_err(), "a header is due");
    }
}

#[test]
fn a_reload_takes_over_a_new_certificate_for_new_connections() {
    let dir = TempDir::new();
    let (old, new) = (Authority::new(&dir, "old"), Authority::new(&dir, "new"));
    let (first, second) = (
        old.issue(&dir, "first", "localhost"),
        new.issue(&dir, "second", "localhost"),
    );
    let sim = Sim::start();
    let setup = serve_tls(Setup::with(&sim.base_url()), &first);
    let mut changed = setup.config.clone();
    let gateway = setup.start();
    let mut kept = connect(&gateway, &client(&old, None)).expect("the first certificate is good");
    assert_eq!(kept.ask(&Request::chat("openai/a")).status, 200);
    changed["server"]["tls"] = json!({"cert": second.cert, "key": second.key});
    gateway.rewrite(&pretty(&changed));
    gateway.signal(libc::SIGHUP);
    wait::until("the new certificate is shown", || {
        connect(&gateway, &client(&new, None)).ok()
    });
    assert!(connect(&gateway, &client(&old, None)).is_err());
    assert_eq!(
        kept.ask(&Request::chat("openai/a")).status,
        200,
        "an open connection goes on"
    );
    // A certificate that cannot be read changes nothing.
    changed["server"]["tls"]["cert"] = json!("/nowhere.pem");
    gateway.rewrite(&pretty(&changed));
    gateway.signal(libc::SIGHUP);
    gateway.expect_metric("sluice_config_refused_total", 1);
    assert!(connect(&gateway, &client(&new, None)).is_ok());
}
