//! What reaches the provider and what comes back: the client's own bytes, apart from the few that the gateway owns.

use sluice_tests::http::find;
use sluice_tests::sim::{echoed_body, echoed_fields};
use sluice_tests::{Gateway, Request, Setup, Sim, Value};

fn pair() -> (Sim, Gateway) {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    (sim, gateway)
}

/// Asks, and gives what the provider says has arrived.
fn echo(gateway: &Gateway, request: Request) -> Value {
    let answer = gateway.ask(&request.field("X-Sim-Echo", "1"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn a_body_is_forwarded_byte_for_byte_but_for_the_models_name() {
    let (_sim, gateway) = pair();
    let table = [
        r#"{"model":"@","messages":[]}"#,
        "{\n\t\"messages\" : [ ] ,\r\n \"model\"\t:\n\"@\"  }",
        " \n{\"model\":\"@\"}\n\n",
        r#"{"zeta":1,"alpha":{"z":[1,2],"a":null},"model":"@","beta":[]}"#,
        r#"{"a":1e0,"b":1.0,"c":1.000000000000000000000000001,"d":-0,"e":12345678901234567890123,"model":"@"}"#,
        r#"{"unknown":true,"unknown":false,"unknown":{"unknown":1},"model":"@"}"#,
        r#"{"a":"\u00e9\ud83d\ude00\/\b","model":"@","b":"é😀/"}"#,
        r#"{"k\u0065y":"v","model":"@"}"#,
        r#"{"nested":{"model":"openai/not-this"},"list":[{"model":"openai/nor-this"}],"model":"@"}"#,
        r#"{"text":"\"model\":\"openai/nor-this\"","model":"@"}"#,
        r#"{"model":"@","model_note":"openai/nor-this","MODEL":"openai/nor-this"}"#,
    ];
    for template in table {
        for (asked, given) in [("openai/gpt-4o", "gpt-4o"), ("gpt-4o", "gpt-4o"), ("openai/a/b", "a/b")] {
            let seen = echo(
                &gateway,
                Request::post("/v1/chat/completions", template.replace('@', asked)),
            );
            let expected = template.replace('@', given);
            assert_eq!(String::from_utf8_lossy(&echoed_body(&seen)), expected);
            assert_eq!(echoed_fields(&seen, "content-length"), [expected.len().to_string()]);
        }
    }
}

#[test]
fn a_model_written_with_escapes_is_understood() {
    let (_sim, gateway) = pair();
    let body = r#"{"messages":[],"\u006dodel":"open\u0061i\/gpt-4o"}"#;
    let seen = echo(&gateway, Request::post("/v1/chat/completions", body));
    assert_eq!(
        String::from_utf8_lossy(&echoed_body(&seen)),
        r#"{"messages":[],"\u006dodel":"gpt-4o"}"#
    );
}

#[test]
fn the_model_is_found_and_replaced_wherever_it_stands_in_a_body_in_pieces() {
    let (_sim, gateway) = pair();
    let filler = "x".repeat(9000);
    for (before, after) in [(0, 9000), (4000, 3000), (4096, 1), (8190, 800), (9000, 0)] {
        let text = |bytes: usize| format!(r#""{}""#, &filler[..bytes]);
        let body = |model: &str| format!(r#"{{"a":{},"model":"{model}","b":{}}}"#, text(before), text(after));
        let seen = echo(&gateway, Request::post("/v1/chat/completions", body("openai/gpt-4o")));
        assert!(
            echoed_body(&seen) == body("gpt-4o").as_bytes(),
            "{before} bytes before it"
        );
    }
    // And in a chunked body whose pieces cut the name.
    let body = r#"{"model":"openai/echo","messages":[]}"#;
    let mut client = gateway.client();
    for size in 1..12 {
        let mut bytes = Request::new("POST", "/v1/chat/completions")
            .field("Transfer-Encoding", "chunked")
            .head();
        for piece in body.as_bytes().chunks(size) {
            bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
            bytes.extend(piece);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        client.send(bytes);
        let seen = client.response().json();
        assert_eq!(
            echoed_body(&seen),
            body.replace("openai/", "").as_bytes(),
            "pieces of {size}"
        );
    }
}

#[test]
fn a_megabyte_of_image_arrives_unchanged() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup.provider("openai", &sim.base_url(), &["sk-one"]).start();
        let image: String = (0..1_048_576_u32)
            .map(|n| char::from(b'A' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
            .collect();
        let body = |model: &str| {
            format!(
                r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}],"model":"{model}"}}"#
            )
        };
        for _ in 0..3 {
            let seen = echo(&gateway, Request::post("/v1/chat/completions", body("openai/gpt-4o")));
            let expected = body("gpt-4o");
            assert_eq!(seen["body_bytes"], expected.len());
            assert_eq!(
                seen["body_sha256"],
                sluice_bench::sim::digest::sha256_hex(expected.as_bytes())
            );
        }
    }
}

#[test]
fn a_multipart_upload_is_forwarded_with_its_model_before_or_after_the_file() {
    let (_sim, gateway) = pair();
    // Looks like a boundary and like a model, and is neither.
    let mut file: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    file.extend_from_slice(b"\r\n--bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nopenai/wrong\r\n");
    let part_model = |model: &str| {
        format!("--boundary7\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n").into_bytes()
    };
    let mut part_file =
        b"--boundary7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
            .to_vec();
    part_file.extend_from_slice(&file);
    part_file.extend_from_slice(b"\r\n");
    let end = b"--boundary7--\r\n".to_vec();
    for first in [true, false] {
        let body = |model: &str| {
            let parts = if first {
                [part_model(model), part_file.clone(), end.clone()]
            } else {
                [part_file.clone(), part_model(model), end.clone()]
            };
            parts.concat()
        };
        let sent = body("openai/whisper-1");
        let request = || {
            Request::new("POST", "/v1/audio/transcriptions")
                .field("Content-Type", "multipart/form-data; boundary=boundary7")
                .field("Content-Length", &sent.len().to_string())
        };
        let ask = |request: Request| {
            let mut client = gateway.client();
            client.send([request.head(), sent.clone()].concat());
            let answer = client.response();
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        };
        let seen = ask(request().field("X-Sim-Echo", "1"));
        assert!(echoed_body(&seen) == body("whisper-1"), "the model first: {first}");
        let told = ask(request());
        assert_eq!(told["sim_file"]["bytes"], file.len(), "{told}");
    }
}

#[test]
fn credentials_are_replaced_and_private_fields_are_not_forwarded() {
    let (_sim, gateway) = pair();
    let request = Request::chat("openai/a")
        .field("Authorization", "Bearer client-secret")
        .field("X-Api-Key", "client-secret")
        .field("api-key", "client-secret")
        .field("x-goog-api-key", "client-secret")
        .field("Cookie", "session=client-secret")
        .field("Proxy-Authorization", "Basic client-secret")
        .field("X-Sluice-Tag", "client-secret")
        .field("x-sluice-anything", "client-secret")
        .field("X-Forwarded-For", "10.1.2.3")
        .field("Forwarded", "for=10.1.2.3")
        .field("Via", "1.1 other")
        .field("Keep-Alive", "timeout=5")
        .field("TE", "trailers")
        .field("Upgrade", "h2c")
        .field("Accept-Encoding", "gzip")
        .field("Connection", "keep-alive, X-Hop, Upgrade, TE")
        .field("X-Hop", "client-secret")
        .field("X-Kept", "  one ")
        .field("x-kept", "two")
        .field("OpenAI-Organization", "org")
        .field("User-Agent", "test/1")
        .field("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let seen = echo(&gateway, request);
    let gone = [
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "proxy-authorization",
        "x-sluice-tag",
        "x-sluice-anything",
        "x-forwarded-for",
        "forwarded",
        "via",
        "keep-alive",
        "te",
        "upgrade",
        "x-hop",
        "expect",
    ];
    for name in gone {
        assert!(echoed_fields(&seen, name).is_empty(), "{name}: {seen}");
    }
    assert!(!seen.to_string().contains("client-secret"), "{seen}");
    assert_eq!(echoed_fields(&seen, "authorization"), ["Bearer sk-one"]);
    assert_eq!(echoed_fields(&seen, "accept-encoding"), ["identity"]);
    assert_eq!(echoed_fields(&seen, "x-kept"), ["one", "two"]);
    assert_eq!(echoed_fields(&seen, "openai-organization"), ["org"]);
    assert_eq!(echoed_fields(&seen, "user-agent"), ["test/1"]);
    assert_eq!(echoed_fields(&seen, "content-type"), ["application/json"]);
    assert_eq!(echoed_fields(&seen, "traceparent").len(), 1);
    assert_eq!(echoed_fields(&seen, "host").len(), 1);
    assert_ne!(
        echoed_fields(&seen, "host"),
        ["gateway.test"],
        "the host is the provider's"
    );
}

#[test]
fn configured_header_fields_take_the_place_of_the_clients() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url())
        .set("/providers/openai/headers/OpenAI-Organization", "ours")
        .start();
    let seen = echo(
        &gateway,
        Request::chat("openai/a").field("openai-organization", "theirs"),
    );
    assert_eq!(echoed_fields(&seen, "openai-organization"), ["ours"]);
}

#[test]
fn the_path_and_query_are_put_behind_the_base_url() {
    let sim = Sim::start();
    let base = format!("{}/deployments/x", sim.base_url());
    let gateway = Setup::with(&base).start();
    let seen = echo(
        &gateway,
        Request::post("/v1/chat/completions?a=1&b=%2F", r#"{"model":"openai/a"}"#),
    );
    assert_eq!(seen["target"], "/v1/deployments/x/chat/completions?a=1&b=%2F");
}

#[test]
fn an_answer_comes_back_as_the_provider_sent_it() {
    let (sim, gateway) = pair();
    let body = "{ \"odd\" :\t1e0,\n\"odd\": 1.0 , \"é\": \"\\u00e9\" }";
    sim.rules(&sluice_tests::json!([{"do": {
        "status": 200, "body": body, "content_type": "application/json; charset=utf-8", "header": "X-Custom: kept",
    }}]));
    let answer = gateway.ask(&Request::chat("openai/a"));
    assert_eq!(answer.text(), body);
    assert_eq!(answer.field("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.field("x-custom"), Some("kept"));
    assert_eq!(answer.field("x-sluice-provider"), Some("openai"));
    assert_eq!(answer.field("x-sluice-key"), Some("OPENAI_KEY_0"));
    assert!(!answer.head.contains("sk-one"), "{}", answer.head);
}

#[test]
fn a_stream_comes_back_event_by_event_as_the_provider_sent_it() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup.provider("openai", &sim.base_url(), &["sk-one"]).start();
        let mut client = gateway.client();
        for model in [
            "openai/s",
            "openai/s+write_bytes=7",
            "openai/s+write_bytes=1,tokens=5",
            "openai/s+chunks_per_write=5",
            "openai/s+tool=2",
            "openai/s+unicode",
        ] {
            let answer = client.ask(&Request::stream(model));
            assert_eq!(answer.status, 200, "{model}");
            assert_eq!(answer.field("content-type"), Some("text/event-stream; charset=utf-8"));
            let events = answer.events();
            assert_eq!(events.last().map(|last| &**last), Some("[DONE]"), "{model}");
            assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1, "{model}");
            for event in &events[..events.len() - 1] {
                let event: Value = serde_json::from_str(event).expect("each event is one JSON document");
                assert_eq!(event["model"], "s", "{model}");
            }
        }
    }
}

#[test]
fn an_event_is_passed_on_before_the_next_one_exists() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    let mut client = gateway.client();
    // The provider stops after two events: what it has sent must not wait for more.
    client.send(Request::stream("openai/s+stall=mid_stream:2").bytes());
    let mut answer = client.begin();
    while answer.events().len() < 2 {
        assert!(client.more(&mut answer), "{answer:?}");
    }
    assert!(!answer.is_complete());
}

#[test]
fn a_large_answer_is_passed_on_whole() {
    for setup in [Setup::new(), Setup::new().epoll()] {
        let sim = Sim::start();
        let gateway = setup.provider("openai", &sim.base_url(), &["sk-one"]).start();
        let mut client = gateway.client();
        for bytes in [1000, 70_000, 9_000_000] {
            for shape in ["", ",chunked"] {
                let answer = client.ask(&Request::chat(&format!("openai/big+bytes={bytes}{shape}")));
                assert_eq!((answer.status, answer.body.len()), (200, bytes), "{bytes}{shape}");
                assert_eq!(answer.json()["object"], "chat.completion");
            }
            let speech =
                sluice_tests::json!({"model": format!("openai/tts+bytes={bytes}"), "input": "x", "voice": "alloy"});
            let answer = client.ask(&Request::post("/v1/audio/speech", speech.to_string()));
            assert_eq!((answer.status, answer.body.len()), (200, bytes));
        }
    }
}

#[test]
fn interim_answers_and_bodies_until_close_are_understood() {
    let (_sim, gateway) = pair();
    let mut client = gateway.client();
    for model in [
        "openai/a+interim=1",
        "openai/a+interim=16",
        "openai/a+until_close",
        "openai/a+keep_alive=0",
        "openai/a+chunked",
    ] {
        let answer = client.ask(&Request::chat(model));
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        assert_eq!(
            answer.field("connection"),
            None,
            "{model}: the provider's choice is not the client's"
        );
        assert!(find(&answer.body, b"chat.completion").is_some(), "{model}");
    }
    gateway.expect_metric("sluice_connections_opened_total", 1);
}
