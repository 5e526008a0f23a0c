//! HTTP/1.1 towards the client: message framing, connection handling, limits, and the gateway's own answers.

#[path = "http/limits.rs"]
mod limits;

use sluice_tests::{Client, Gateway, Request, Setup, Sim, Value, json, wait};

/// A gateway with one provider behind it.
fn pair() -> (Sim, Gateway) {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    (sim, gateway)
}

/// The body of the echo answer's request.
fn echoed(answer: &sluice_tests::Response) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["object"], "sim.echo", "{body}");
    body
}

#[test]
fn one_connection_carries_many_requests() {
    let (sim, gateway) = pair();
    let mut client = gateway.client();
    for number in 0..20 {
        let answer = client.ask(&Request::chat(&format!("openai/gpt-{number}")));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["model"], format!("gpt-{number}"));
        assert_eq!(answer.field("connection"), None);
    }
    gateway.expect_metric("sluice_connections_opened_total", 1);
    gateway.expect_metric("sluice_upstream_connects_total", 1);
    assert_eq!(sim.bill()["connections"], 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup.provider("openai", &sim.base_url(), &["sk-one"]).start();
        let mut client = gateway.client();
        let mut bytes = Vec::new();
        for number in 0..30 {
            // The first answers are slow: a later one must not overtake them.
            let delay = if number < 2 { "+latency_ms=30" } else { "" };
            let request = match number % 3 {
                0 => Request::stream(&format!("openai/p{number}{delay}")),
                _ => Request::chat(&format!("openai/p{number}{delay}")),
            };
            bytes.extend(request.bytes());
        }
        client.send(&bytes);
        for number in 0..30 {
            let answer = client.response();
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains(&format!("\"p{number}\"")), "{}", answer.text());
        }
    }
}

#[test]
fn connection_close_is_obeyed_and_announced() {
    let (_sim, gateway) = pair();
    for request in [
        Request::chat("openai/a"),
        Request::stream("openai/a"),
        Request::get("/health"),
    ] {
        let mut client = gateway.client();
        let answer = client.ask(&request.field("Connection", "close"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("connection"), Some("close"));
        client.expect_closed();
    }
}

#[test]
fn a_client_that_expects_100_continue_gets_it_before_it_sends_the_body() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    for _ in 0..2 {
        let request = Request::chat("openai/a").field("Expect", "100-continue");
        client.send(request.head());
        assert_eq!(client.response().status, 100);
        client.send(request.body());
        assert_eq!(client.response().status, 200);
    }
    // A client that does not wait gets no interim answer.
    let answer = client.ask(&Request::chat("openai/a").field("Expect", "100-continue"));
    assert_eq!(answer.status, 200);
    // One that is refused learns it at once.
    client.send(
        Request::new("POST", "/v1/nowhere")
            .field("Content-Length", "1000")
            .field("Expect", "100-continue")
            .head(),
    );
    let answer = client.response();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.field("connection"), Some("close"));
    let mut client = gateway.client();
    let answer = client.ask(&Request::chat("openai/a").field("Expect", "a-miracle"));
    assert_eq!((answer.status, &*answer.error_code()), (417, "expectation_failed"));
}

#[test]
fn a_chunked_request_with_extensions_and_trailers_is_read_byte_by_byte() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    let body = br#"{"model":"openai/echo","messages":[]}"#;
    let mut message = Request::new("POST", "/v1/chat/completions")
        .field("Transfer-Encoding", "chunked")
        .field("Content-Type", "application/json")
        .head();
    for piece in body.chunks(5) {
        message.extend(format!("{:X};name=value;quoted=\"a;b\"\r\n", piece.len()).bytes());
        message.extend(piece);
        message.extend(b"\r\n");
    }
    message.extend(b"0;last\r\nX-Trailer: one\r\nx-other: two\r\n\r\n");
    for round in 0..3 {
        if round == 0 {
            client.send(&message);
        } else {
            message.iter().for_each(|&byte| client.send([byte]));
        }
        let seen = echoed(&client.response());
        assert_eq!(seen["chunked"], false);
        assert_eq!(seen["body_bytes"], body.len() - "openai/".len());
        assert!(
            !seen["headers"].to_string().to_ascii_lowercase().contains("trailer"),
            "{seen}"
        );
    }
}

#[test]
fn a_head_is_read_whatever_pieces_it_arrives_in() {
    let (_sim, gateway) = pair();
    let bytes = Request::post("/v1/chat/completions", r#"{"model":"openai/a","messages":[]}"#).bytes();
    let mut client = gateway.client();
    for at in 1..bytes.len() {
        client.send(&bytes[..at]);
        client.send(&bytes[at..]);
        let answer = client.response();
        assert_eq!(answer.status, 200, "split at {at}");
    }
    gateway.expect_metric("sluice_connections_opened_total", 1);
}

#[test]
fn head_is_answered_without_a_body_and_the_connection_goes_on() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    for target in ["/health", "/ready", "/v1/models"] {
        client.send(Request::new("HEAD", target).bytes());
        let head = client.response_to_head();
        assert_eq!(head.status, 200, "{target}");
        assert!(head.field("content-type").is_some(), "{target}");
        let got = client.ask(&Request::get(target));
        assert_eq!(got.status, 200);
        assert!(!got.body.is_empty());
        if target != "/v1/models" {
            assert_eq!(head.field("content-length"), got.field("content-length"), "{target}");
        }
    }
    client.send(Request::new("HEAD", "/nowhere").bytes());
    assert_eq!(client.response_to_head().status, 404);
    assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
}

#[test]
fn http_1_0_clients_are_served_with_and_without_keep_alive() {
    let (_sim, gateway) = pair();
    let message = |stream: bool, fields: &str| {
        let body = format!(r#"{{"model":"openai/a","stream":{stream},"messages":[]}}"#);
        let length = body.len();
        format!("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
    };
    let mut client = gateway.client();
    client.send(message(false, ""));
    let answer = client.response();
    assert_eq!(answer.json()["model"], "a");
    client.expect_closed();

    let mut client = gateway.client();
    for _ in 0..3 {
        client.send(message(false, "Connection: keep-alive\r\n"));
        let answer = client.response();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
    // A stream has no length, and chunks do not exist in HTTP/1.0: the connection's end is the body's.
    client.send(message(true, "Connection: keep-alive\r\n"));
    let answer = client.response();
    assert_eq!(answer.field("transfer-encoding"), None);
    assert_ne!(answer.field("connection"), Some("keep-alive"));
    assert_eq!(answer.events().last().map(|last| &**last), Some("[DONE]"));
}

#[test]
fn an_absolute_target_is_taken_as_its_path() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    let body = r#"{"model":"openai/echo"}"#;
    let answer = client.ask(&Request::post("http://gateway.test/v1/chat/completions?a=b%20c", body));
    assert_eq!(echoed(&answer)["target"], "/v1/chat/completions?a=b%20c");
    let answer = client.ask(&Request::get("http://gateway.test/health"));
    assert_eq!(answer.status, 200);
}

/// Messages that two readers could understand differently: name, bytes. `@post` is the beginning of a request, `@body` its
/// body, `@size` that one's length in decimal and `@hex` in hexadecimal digits, `@chunked` the body in one chunk.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "length and chunked",
        "@postContent-Length: @size\r\nTransfer-Encoding: chunked\r\n\r\n@chunked",
    ),
    (
        "chunked and length",
        "@postTransfer-Encoding: chunked\r\nContent-Length: @size\r\n\r\n@chunked",
    ),
    (
        "differing lengths",
        "@postContent-Length: @size\r\nContent-Length: 1\r\n\r\n@body",
    ),
    ("a list of lengths", "@postContent-Length: @size, 1\r\n\r\n@body"),
    ("a signed length", "@postContent-Length: +@size\r\n\r\n@body"),
    ("a negative length", "@postContent-Length: -1\r\n\r\n@body"),
    ("a hexadecimal length", "@postContent-Length: 0x10\r\n\r\n@body"),
    (
        "a huge length",
        "@postContent-Length: 99999999999999999999999\r\n\r\n@body",
    ),
    (
        "an unknown coding",
        "@postTransfer-Encoding: gzip, chunked\r\n\r\n@chunked",
    ),
    (
        "chunked not last",
        "@postTransfer-Encoding: chunked, identity\r\n\r\n@chunked",
    ),
    ("a hidden coding", "@postTransfer-Encoding:\x0bchunked\r\n\r\n@chunked"),
    (
        "two codings",
        "@postTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n@chunked",
    ),
    ("space before the colon", "@postContent-Length : @size\r\n\r\n@body"),
    ("a folded line", "@postX-A: a\r\n Content-Length: @size\r\n\r\n@body"),
    ("a bare line feed", "@postX-A: a\nContent-Length: @size\r\n\r\n@body"),
    (
        "a bare carriage return",
        "@postX-A: a\rb\r\nContent-Length: @size\r\n\r\n@body",
    ),
    ("a zero byte", "@postX-A: a\0b\r\nContent-Length: @size\r\n\r\n@body"),
    (
        "no host",
        "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: @size\r\n\r\n@body",
    ),
    ("two hosts", "@postHost: b\r\nContent-Length: @size\r\n\r\n@body"),
    (
        "chunked in HTTP/1.0",
        "POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n@chunked",
    ),
    (
        "a hop-by-hop length",
        "@postConnection: content-length\r\nContent-Length: @size\r\n\r\n@body",
    ),
    (
        "a chunk size without digits",
        "@postTransfer-Encoding: chunked\r\n\r\n;a=b\r\n@body\r\n0\r\n\r\n",
    ),
    (
        "a signed chunk size",
        "@postTransfer-Encoding: chunked\r\n\r\n+@chunked",
    ),
    (
        "a prefixed chunk size",
        "@postTransfer-Encoding: chunked\r\n\r\n0x@chunked",
    ),
    (
        "a huge chunk size",
        "@postTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n@body",
    ),
    (
        "a chunk longer than its size",
        "@postTransfer-Encoding: chunked\r\n\r\n5\r\n@body\r\n0\r\n\r\n",
    ),
    (
        "a chunk line with a bare line feed",
        "@postTransfer-Encoding: chunked\r\n\r\n@hex\n@body\r\n0\r\n\r\n",
    ),
    (
        "a chunk without its end",
        "@postTransfer-Encoding: chunked\r\n\r\n@hex\r\n@body0\r\n\r\n",
    ),
    (
        "a malformed trailer",
        "@postTransfer-Encoding: chunked\r\n\r\n@hex\r\n@body\r\n0\r\nbad trailer\r\n\r\n",
    ),
    ("a fragment in the target", "GET /health#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "an encoded slash",
        "GET /v1/models/a%2f..%2fb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "a dot segment",
        "GET /v1/models/../files HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ),
    ("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n"),
];

#[test]
fn a_message_that_could_be_read_in_two_ways_is_refused_and_never_forwarded() {
    let (sim, gateway) = pair();
    let body = r#"{"model":"openai/smuggled","messages":[]}"#;
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    for (name, template) in AMBIGUOUS {
        let message = template
            .replace("@chunked", "@hex\r\n@body\r\n0\r\n\r\n")
            .replace("@post", post)
            .replace("@size", &body.len().to_string())
            .replace("@hex", &format!("{:x}", body.len()))
            .replace("@body", body);
        let mut client = gateway.client();
        // A second request right behind must not be seen as one.
        let follower = Request::chat("openai/smuggled").bytes();
        let _ = client.try_send([message.as_bytes(), &follower].concat());
        let answer = client.response();
        assert_eq!((answer.status, &*answer.error_code()), (400, "bad_request"), "{name}");
        // An HTTP/1.0 client expects nothing else.
        let said = (!name.contains("1.0")).then_some("close");
        assert_eq!(answer.field("connection"), said, "{name}");
        client.expect_closed();
    }
    assert_eq!(sim.attempts().len(), 0, "nothing of it reached the provider");
    gateway.expect_metric("sluice_responses_4xx_total", AMBIGUOUS.len() as u64);
    gateway.expect_healthy();
}

#[test]
fn paths_models_and_methods_that_do_not_exist_are_named_in_the_error() {
    let (sim, gateway) = pair();
    let mut client = gateway.client();
    let table = [
        (Request::get("/nowhere"), 404, "unknown_path"),
        (Request::get("/v1/"), 400, "bad_request"),
        (Request::get("/v1"), 404, "unknown_path"),
        (Request::get("/v2/models"), 404, "unknown_path"),
        (Request::get("/v1/chat/completions"), 405, "method_not_allowed"),
        (Request::new("DELETE", "/health"), 405, "method_not_allowed"),
        (Request::post("/v1/chat/completions", "{}"), 400, "invalid_parameter"),
        (
            Request::post("/v1/chat/completions", r#"{"model":7}"#),
            400,
            "invalid_body",
        ),
        (Request::post("/v1/chat/completions", ""), 400, "invalid_parameter"),
        (Request::post("/v1/chat/completions", "[]"), 400, "invalid_body"),
        (
            Request::post("/v1/chat/completions", r#"{"model":"openai/a""#),
            400,
            "invalid_body",
        ),
        (
            Request::post("/v1/chat/completions", r#"{"model":"openai/a","model":"openai/b"}"#),
            400,
            "invalid_body",
        ),
        (Request::chat("openai/"), 404, "model_not_found"),
        (Request::chat(""), 400, "invalid_parameter"),
        (Request::chat("nobody/a"), 404, "model_not_found"),
    ];
    for (request, status, code) in table {
        let answer = client.ask(&request);
        assert_eq!((answer.status, &*answer.error_code()), (status, code), "{request:?}");
        if answer.field("connection") == Some("close") {
            // Right where the rest of a body may be still to come; never where there was none.
            assert!(!request.body().is_empty(), "{request:?}");
            client.expect_closed();
            client = gateway.client();
        }
    }
    assert_eq!(sim.attempts().len(), 0);
    assert_eq!(client.ask(&Request::chat("openai/a")).status, 200);
}

#[test]
fn a_model_is_found_by_prefix_by_list_or_goes_to_the_default() {
    let (one, two) = (Sim::start(), Sim::start());
    let gateway = Setup::new()
        .provider("first", &one.base_url(), &["sk-first"])
        .provider("second", &two.base_url(), &["sk-second"])
        .set("/providers/second/models", json!(["listed", "org/listed"]))
        .start();
    let mut client = gateway.client();
    let provider = |client: &mut Client, model: &str| {
        let answer = client.ask(&Request::chat(model));
        assert_eq!(answer.status, 200, "{model}");
        (
            answer.field("x-sluice-provider").unwrap_or_default().to_owned(),
            answer.json()["model"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let said = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(provider(&mut client, "second/any"), said("second", "any"));
    assert_eq!(provider(&mut client, "second/org/any"), said("second", "org/any"));
    assert_eq!(provider(&mut client, "listed"), said("second", "listed"));
    assert_eq!(provider(&mut client, "unlisted"), said("first", "unlisted"));
    assert_eq!(provider(&mut client, "org/listed"), said("second", "org/listed"));
    assert_eq!(one.attempts().len(), 1);
    assert_eq!(two.attempts().len(), 4);
}

#[test]
fn health_and_readiness_are_answered_on_both_ports() {
    let (_sim, gateway) = pair();
    for address in [gateway.address, gateway.admin] {
        let mut client = Client::connect(address);
        let alive = client.ask(&Request::get("/health"));
        assert_eq!((alive.status, alive.json()), (200, json!({"status": "alive"})));
        let ready = client.ask(&Request::get("/ready"));
        assert_eq!(ready.status, 200);
        assert_eq!(ready.json()["status"], "ready");
        assert_eq!(ready.json()["providers"][0]["name"], "openai");
    }
}

#[test]
fn every_surface_of_the_openai_api_reaches_the_provider() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    let table = [
        ("/v1/completions", json!({"model": "openai/a", "prompt": "x"})),
        ("/v1/embeddings", json!({"model": "openai/a", "input": ["x", "y"]})),
        ("/v1/responses", json!({"model": "openai/a", "input": "x"})),
        ("/v1/moderations", json!({"model": "openai/a", "input": "x"})),
        ("/v1/moderations", json!({"input": "x"})),
        ("/v1/images/generations", json!({"model": "openai/a", "prompt": "x"})),
        (
            "/v1/audio/speech",
            json!({"model": "openai/a", "input": "x", "voice": "alloy"}),
        ),
        (
            "/openai/v1/chat/completions",
            json!({"model": "openai/a", "messages": []}),
        ),
    ];
    for (path, body) in table {
        let answer = client.ask(&Request::post(path, body.to_string()));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.field("x-request-id").is_some(), "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/gpt-4o"),
        ("GET", "/v1/files"),
        ("GET", "/v1/batches"),
    ] {
        let answer = client.ask(&Request::new(method, path));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    gateway.expect_metric("sluice_connections_opened_total", 1);
}

#[test]
fn two_cores_share_the_connections_and_agree() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).cores(2).start();
    let served = |core: usize| {
        let page = gateway.admin("/metrics").text();
        let name = format!("sluice_requests_total{{core=\"{core}\"}} ");
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .map(str::parse::<u64>);
        value.and_then(Result::ok).unwrap_or_default()
    };
    // The kernel spreads connections by their ports.
    wait::until("both cores have served requests", || {
        gateway.expect_healthy();
        (served(0) > 0 && served(1) > 0).then_some(())
    });
    // A client has its answer a moment before that is counted.
    wait::until("they agree on what was answered", || {
        (served(0) + served(1) == gateway.metric("sluice_responses_2xx_total")).then_some(())
    });
}
