//! The bill agrees with what was said, and disconnects are noticed at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_bench::sim::{SimHandle, monotonic_us};

use crate::client::{Client, call, chat, page, start};

/// The first attempt, once it is no longer in flight.
fn ended(sim: &SimHandle) -> Value {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let attempt = page(sim, "/sim/attempts")["attempts"][0].clone();
        if attempt["outcome"] != "in_flight" {
            return attempt;
        }
        assert!(Instant::now() < deadline, "still in flight: {attempt}");
    }
}

#[test]
fn usage_and_bill_agree() {
    let sim = start();
    let mut said = (0, 0);
    for tokens in [1, 24, 100] {
        let usage = call(
            &sim,
            "POST",
            "/v1/chat/completions",
            &[],
            format!("{{\"model\":\"m+tokens={tokens}\"}}").as_bytes(),
        )
        .json()["usage"]
            .clone();
        said.0 += usage["prompt_tokens"].as_u64().unwrap();
        said.1 += usage["completion_tokens"].as_u64().unwrap();
    }
    call(
        &sim,
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"model":"m+status=500"}"#,
    );
    let total = page(&sim, "/sim/bill")["total"].clone();
    assert_eq!(
        (&total["input_tokens"], &total["output_tokens"]),
        (&json!(said.0), &json!(said.1))
    );
    assert_eq!((said.1, &total["statuses"]), (125, &json!({"200": 3, "500": 1})));
    call(&sim, "POST", "/sim/reset", &[], b"");
    assert_eq!(page(&sim, "/sim/bill")["total"]["requests"], 0);
}

#[test]
fn rows_are_per_key_and_model() {
    let sim = start();
    for (key, model) in [("Bearer a", "m"), ("Bearer a", "n"), ("Bearer b", "m")] {
        call(
            &sim,
            "POST",
            "/v1/chat/completions",
            &[("authorization", key)],
            format!("{{\"model\":\"{model}\"}}").as_bytes(),
        );
    }
    let rows: Vec<String> = page(&sim, "/sim/bill")["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}{}", row["key"], row["model"]))
        .collect();
    assert_eq!(rows, ["\"a\"\"m\"", "\"a\"\"n\"", "\"b\"\"m\""]);
    assert_eq!(
        page(&sim, "/sim/attempts?key=a&model=n")["attempts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_silent_attempt_is_in_the_log_while_it_lasts() {
    let sim = start();
    let mut client = Client::new(&sim).patience(Duration::from_millis(50));
    client.send(&chat("m+stall=before_head", false));
    client.drain();
    assert_eq!(page(&sim, "/sim/attempts")["attempts"][0]["outcome"], "in_flight");
    drop(client);
    assert_eq!(ended(&sim)["outcome"], "stalled");
}

#[test]
fn disconnects_are_noticed_at_once_and_billed_by_what_was_generated() {
    for (model, stream, input_only) in [
        ("m+latency_ms=60000", false, true),
        ("m+first_token_ms=60000", true, true),
        ("m+tps=20,tokens=10000", true, false),
    ] {
        let sim = start();
        let mut client = Client::new(&sim);
        client.send(&chat(model, stream));
        if input_only {
            let deadline = Instant::now() + Duration::from_secs(5);
            while page(&sim, "/sim/attempts")["next"] == 0 {
                assert!(Instant::now() < deadline, "the request never arrived");
            }
        } else {
            client.until("data: ", 4);
        }
        let left = monotonic_us();
        drop(client);
        let attempt = ended(&sim);
        assert_eq!(attempt["outcome"], "cancelled", "{model}");
        let noticed = attempt["end_us"].as_u64().unwrap() - left;
        assert!(noticed < 50_000, "{model}: noticed after {noticed} us");
        assert!(attempt["input_tokens"].as_u64().unwrap() > 0);
        let output = attempt["output_tokens"].as_u64().unwrap();
        assert!(
            if input_only {
                output == 0
            } else {
                (2..20).contains(&output)
            },
            "{model}: {output} tokens"
        );
        assert_eq!(page(&sim, "/sim/bill")["total"]["cancelled"], 1);
    }
}

#[test]
fn a_lost_answer_is_billed_in_full() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(&chat("m+reset=mid_body", false));
    client.drain();
    let attempt = ended(&sim);
    assert_eq!(
        (&attempt["outcome"], &attempt["output_tokens"]),
        (&json!("cut"), &json!(24))
    );
}

#[test]
fn forbidden_framing_is_refused_and_counted() {
    let sim = start();
    let mut client = Client::new(&sim);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.receive().status, 400);
    assert_eq!(
        page(&sim, "/sim/bill")["violations"],
        json!({"content_length_and_transfer_encoding": 1})
    );
}
