//! The cache end to end: what is answered again, in every dialect and form, what is not, and who waits for whom.

#[path = "caching/elsewhere.rs"]
mod elsewhere;
#[path = "caching/frames.rs"]
mod frames;
#[path = "caching/meaning.rs"]
mod meaning;
#[path = "caching/price.rs"]
mod price;
#[path = "caching/restart.rs"]
mod restart;
#[path = "caching/shifts.rs"]
mod shifts;
#[path = "caching/tenants.rs"]
mod tenants;

use std::time::{Duration, Instant};

use sluice_tests::{Client, Request, Response, Setup, Sim, Value, json, wait};

/// A gateway whose requests are all cached in this mode.
fn caching(sim: &Sim, mode: &str) -> Setup {
    Setup::with(&sim.base_url()).set("/cache", json!({"default": {"mode": mode}}))
}

/// A chat request with this text.
fn asking(model: &str, text: &str, stream: bool) -> Request {
    let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]});
    Request::post("/v1/chat/completions", body.to_string())
}

fn use_of(answer: &Response) -> &str {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.is_complete(), "{answer:?}");
    answer.field("x-sluice-cache").unwrap_or("none")
}

/// What the model says, unary or streamed, in OpenAI's dialect.
fn said(answer: &Response) -> String {
    if answer
        .field("content-type")
        .is_some_and(|kind| kind.starts_with("text/event-stream"))
    {
        let events = answer.events();
        assert_eq!(events.last().map(|last| &**last), Some("[DONE]"), "{answer:?}");
        let pieces = events.iter().filter_map(|event| {
            let event: Value = serde_json::from_str(event).ok()?;
            Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned())
        });
        return pieces.collect();
    }
    answer.json()["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer:?}"))
        .to_owned()
}

#[test]
fn without_configuration_nothing_is_cached_and_nothing_is_said_of_it() {
    let sim = Sim::start();
    let gateway = Setup::with(&sim.base_url()).start();
    for _ in 0..2 {
        assert_eq!(use_of(&gateway.ask(&Request::chat("openai/m"))), "none");
    }
    assert_eq!(sim.attempts().len(), 2);
    assert_eq!(gateway.admin("/admin/cache").status, 409);
}

#[test]
fn the_very_same_request_is_answered_again_in_whichever_form_it_asks_for() {
    for epoll in [false, true] {
        let sim = Sim::start();
        let setup = caching(&sim, "exact");
        let gateway = if epoll { setup.epoll() } else { setup }.start();
        let mut client = gateway.client();
        let first = client.ask(&Request::chat("openai/m"));
        assert_eq!(use_of(&first), "miss");
        let again = client.ask(&Request::chat("openai/m"));
        assert_eq!(use_of(&again), "hit");
        assert_eq!(again.body, first.body, "byte for byte");
        assert_eq!(again.field("x-sluice-cache-age"), Some("0"));
        assert_eq!(again.field("x-sluice-cache-key").map(str::len), Some(64));
        // The other way of writing the same request, and the other form of its answer.
        let streamed = client.ask(&Request::stream("openai/m"));
        assert_eq!((use_of(&streamed), said(&streamed)), ("hit", said(&first)));
        assert_eq!(sim.attempts().len(), 1);
        let line = gateway.request_lines(3).remove(2);
        assert_eq!(
            (&line["cache"], &line["attempts"]),
            (&json!("hit"), &json!(0)),
            "{line}"
        );
        gateway.expect_metric("sluice_cache_hits_total", 2);
        assert!(gateway.metric("sluice_cache_saved_output_tokens_total") > 0);
    }
}

#[test]
fn a_stored_stream_is_replayed_and_becomes_a_whole_answer_if_it_says_what_was_used() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let counted = |model: &str, usage: bool| {
        let body = json!({"model": model, "stream": true, "stream_options": {"include_usage": usage},
            "messages": [{"role": "user", "content": "Hello"}]});
        Request::post("/v1/chat/completions", body.to_string())
    };
    let usage = |answer: &Response| {
        answer
            .events()
            .iter()
            .filter(|event| event.contains("prompt_tokens"))
            .count()
    };
    let first = gateway.ask(&counted("openai/m", true));
    assert_eq!((use_of(&first), usage(&first)), ("miss", 1));
    let again = gateway.ask(&counted("openai/m", true));
    assert_eq!((use_of(&again), &again.body), ("hit", &first.body));
    // Who does not ask for the usage gets no chunk without choices.
    let plain = gateway.ask(&counted("openai/m", false));
    assert_eq!((use_of(&plain), said(&plain), usage(&plain)), ("hit", said(&first), 0));
    let whole = gateway.ask(&Request::chat("openai/m"));
    assert_eq!((use_of(&whole), said(&whole)), ("hit", said(&first)));
    assert!(whole.json()["usage"]["completion_tokens"].as_u64() > Some(0));
    assert_eq!(sim.attempts().len(), 1);
    // A stream that does not say what was used cannot become an answer that does.
    assert_eq!(use_of(&gateway.ask(&counted("openai/n", false))), "miss");
    assert_eq!(use_of(&gateway.ask(&counted("openai/n", false))), "hit");
    assert_eq!(use_of(&gateway.ask(&Request::chat("openai/n"))), "miss");
    assert_eq!(use_of(&gateway.ask(&counted("openai/n", true))), "hit");
}

#[test]
fn every_dialect_is_answered_again_in_its_own_words() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact")
        .set(
            "/routes",
            json!([{"models": ["openai/claude", "openai/nova"], "targets": [{"model": "openai/m"}],
                "cache": {"mode": "exact"}}]),
        )
        .set("/cache/default/mode", "off")
        .start();
    let messages = |stream: bool| {
        let body = json!({"model": "openai/claude", "max_tokens": 50, "stream": stream,
            "messages": [{"role": "user", "content": "Hello"}]});
        Request::post("/v1/messages", body.to_string()).field("anthropic-version", "2023-06-01")
    };
    let converse = |stream: bool| {
        let path = if stream { "converse-stream" } else { "converse" };
        let body = json!({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]});
        Request::post(&format!("/model/openai%2Fnova/{path}"), body.to_string())
    };
    for request in [&messages as &dyn Fn(bool) -> Request, &converse] {
        for first_streams in [false, true] {
            let before = sim.attempts().len();
            let tagged =
                |stream: bool| request(stream).field("x-sluice-cache-key", if first_streams { "a" } else { "b" });
            let first = gateway.ask(&tagged(first_streams));
            assert_eq!(use_of(&first), "miss");
            let again = gateway.ask(&tagged(first_streams));
            assert_eq!((use_of(&again), &again.body), ("hit", &first.body));
            let other = gateway.ask(&tagged(!first_streams));
            assert_eq!(use_of(&other), "hit", "{other:?}");
            assert_ne!(other.field("content-type"), first.field("content-type"));
            assert_eq!(sim.attempts().len(), before + 1);
        }
    }
}

#[test]
fn what_is_not_a_complete_good_answer_to_a_plain_question_is_not_kept() {
    let sim = Sim::start();
    let gateway = caching(&sim, "semantic").start();
    for model in [
        "openai/a+status=400",
        "openai/b+finish=length",
        "openai/c+finish=content_filter",
        "openai/d+close=mid_stream",
        "openai/e+error_event=3",
    ] {
        for stream in [false, true] {
            if !stream && (model.contains("stream") || model.contains("event")) {
                continue;
            }
            for _ in 0..2 {
                let mut client = gateway.client();
                client.send(asking(model, "Hello", stream).bytes());
                let answer = client.response_or_cut();
                assert_ne!(answer.field("x-sluice-cache"), Some("hit"), "{model}");
            }
        }
    }
    gateway.expect_metric("sluice_cache_entries", 0);
    for body in [
        json!({"model": "openai/m", "n": 2, "messages": [{"role": "user", "content": "Hello"}]}),
        json!({"model": "openai/m", "messages": [{"role": "user", "content": "Hello"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
        json!({"model": "openai/m", "messages": [{"role": "user", "content":
            [{"type": "image_url", "image_url": {"url": "https://camera.example/now.jpg"}}]}]}),
        json!({"model": "openai/m", "messages": [{"role": "user", "content": "Hello", "mystery": 1}]}),
    ] {
        let request = Request::post("/v1/chat/completions", body.to_string());
        for _ in 0..2 {
            assert_eq!(use_of(&gateway.ask(&request)), "bypass", "{body}");
        }
    }
}

#[test]
fn a_request_says_what_it_wants_of_the_cache() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let ask = |name: &str, value: &str| gateway.ask(&Request::chat("openai/m").field(name, value));
    assert_eq!(use_of(&ask("Cache-Control", "no-store")), "bypass");
    assert_eq!(use_of(&ask("x-other", "1")), "miss");
    assert_eq!(use_of(&ask("Cache-Control", "no-cache")), "miss");
    assert_eq!(use_of(&ask("x-sluice-cache", "off")), "bypass");
    assert_eq!(use_of(&ask("x-other", "1")), "hit");
    for name in ["x-sluice-cache-key", "cf-aig-cache-key"] {
        assert_eq!(use_of(&ask(name, name)), "miss");
        assert_eq!(use_of(&ask(name, name)), "hit");
    }
    assert_eq!(use_of(&ask("x-sluice-cache-context", "variant=B")), "miss");
    assert_eq!(use_of(&ask("x-sluice-cache-context", "variant=C")), "miss");
    assert_eq!(use_of(&ask("x-sluice-cache-context", "variant=B")), "hit");
}

#[test]
fn an_answer_grows_old_and_is_served_stale_only_while_a_new_one_is_fetched() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact")
        .set("/cache/default/ttl", "100ms")
        .set("/cache/default/stale_while_revalidate", "1h")
        .start();
    let model = "openai/m";
    assert_eq!(use_of(&gateway.ask(&Request::chat(model))), "miss");
    // What grows old here is time itself.
    std::thread::sleep(Duration::from_millis(150));
    sim.rules(&json!([{"do": "latency_ms=3000"}]));
    let mut fetching = gateway.client();
    fetching.send(Request::chat(model).bytes());
    wait::until("the provider is asked", || (sim.attempts().len() == 2).then_some(()));
    let begun = Instant::now();
    assert_eq!(use_of(&gateway.ask(&Request::chat(model))), "hit");
    assert!(begun.elapsed() < Duration::from_millis(2500));
    assert_eq!(use_of(&fetching.response()), "miss");
}

/// Waits until so many requests wait for another.
fn expect_waiting(gateway: &sluice_tests::Gateway, count: u64) {
    wait::until("requests wait", || {
        (gateway.metric("sluice_cache_waited_total") == count).then_some(())
    });
}

#[test]
fn identical_requests_wait_for_one_provider_call() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let model = "openai/m+latency_ms=800";
    let mut clients: Vec<Client> = (0..8).map(|_| gateway.client()).collect();
    clients[0].send(Request::chat(model).bytes());
    wait::until("the provider is asked", || (sim.attempts().len() == 1).then_some(()));
    for (at, client) in clients.iter_mut().enumerate().skip(1) {
        let request = if at % 2 == 0 {
            Request::chat(model)
        } else {
            Request::stream(model)
        };
        client.send(request.bytes());
    }
    let first = clients[0].response();
    assert_eq!(use_of(&first), "miss");
    for client in &mut clients[1..] {
        let answer = client.response();
        assert_eq!((use_of(&answer), said(&answer)), ("hit", said(&first)));
    }
    assert_eq!(sim.attempts().len(), 1);
    gateway.expect_metric("sluice_cache_hits_in_flight_total", 7);
}

#[test]
fn a_stream_reaches_those_who_wait_as_it_comes_and_goes_on_without_the_first() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let request = Request::stream("openai/m+tokens=30,tps=20");
    let mut leader = gateway.client();
    leader.send(request.bytes());
    let mut begun = leader.begin();
    leader.until(&mut begun, "content");
    let (mut follower, mut whole) = (gateway.client(), gateway.client());
    follower.send(request.bytes());
    let mut stream = follower.begin();
    assert_eq!(use_of_head(&stream), Some("hit"));
    follower.until(&mut stream, "content");
    whole.send(Request::chat("openai/m+tokens=30,tps=20").field("x-late", "1").bytes());
    expect_waiting(&gateway, 2);
    // The one who asked first leaves in the middle.
    leader.reset();
    while follower.more(&mut stream) {}
    assert!(stream.is_complete());
    assert_eq!(said(&stream).len(), 30 * 5, "{stream:?}");
    // The stream did not say what was used, so the one who wants a whole answer asks for itself.
    assert_eq!(use_of(&whole.response()), "miss");
    assert_eq!(use_of(&gateway.ask(&request)), "hit");
    assert_eq!(sim.attempts().len(), 2);
    assert_eq!(sim.attempts()[0]["outcome"], "complete");
}

fn use_of_head(answer: &Response) -> Option<&str> {
    answer.field("x-sluice-cache")
}

#[test]
fn without_anybody_who_waits_the_provider_is_left_as_soon_as_the_client_leaves() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let request = Request::stream("openai/m+tokens=2000,tps=20");
    let (mut leader, mut follower) = (gateway.client(), gateway.client());
    leader.send(request.bytes());
    let mut begun = leader.begin();
    leader.until(&mut begun, "content");
    follower.send(request.bytes());
    let mut stream = follower.begin();
    follower.until(&mut stream, "content");
    leader.reset();
    follower.reset();
    sim.last_outcome("cancelled");
    // Nobody waits for what is gone.
    let mut next = gateway.client();
    next.send(request.bytes());
    wait::until("the provider is asked again", || {
        (sim.attempts().len() == 2).then_some(())
    });
}

#[test]
fn a_failure_is_shared_with_nobody_and_a_cut_stream_never_looks_complete() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    sim.rules(&json!([{"do": "latency_ms=800,status=400", "times": 1}]));
    let (mut leader, mut follower) = (gateway.client(), gateway.client());
    leader.send(Request::chat("openai/m").bytes());
    wait::until("the provider is asked", || (sim.attempts().len() == 1).then_some(()));
    follower.send(Request::chat("openai/m").bytes());
    assert_eq!(leader.response().status, 400);
    assert_eq!(use_of(&follower.response()), "miss");
    // A stream that is cut after its first byte is cut for all.
    let request = Request::stream("openai/n+tokens=20,tps=20,close=mid_stream:12");
    leader.send(request.bytes());
    let mut first = leader.begin();
    leader.until(&mut first, "content");
    let mut follower = gateway.client();
    follower.send(request.bytes());
    let mut second = follower.begin();
    while leader.more(&mut first) {}
    while follower.more(&mut second) {}
    for cut in [&first, &second] {
        assert!(cut.text().contains("upstream_stream_interrupted"), "{cut:?}");
        assert!(!cut.text().contains("[DONE]") && !cut.is_complete());
    }
}

#[test]
fn whoever_waits_too_long_asks_for_itself() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact")
        .set("/cache/default/flight_wait", "200ms")
        .start();
    sim.rules(&json!([{"do": "latency_ms=3000", "times": 1}]));
    let (mut leader, mut follower) = (gateway.client(), gateway.client());
    leader.send(Request::chat("openai/m").bytes());
    wait::until("the provider is asked", || (sim.attempts().len() == 1).then_some(()));
    let begun = Instant::now();
    assert_eq!(use_of(&follower.ask(&Request::chat("openai/m"))), "miss");
    assert!(begun.elapsed() < Duration::from_millis(2500));
    assert_eq!(use_of(&leader.response()), "miss");
}

#[test]
fn a_stored_stream_is_replayed_at_a_pace_where_that_is_configured() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact")
        .set("/cache/default/replay_events_per_second", 50)
        .start();
    let request = Request::stream("openai/m+tokens=20");
    let first = gateway.ask(&request);
    let begun = Instant::now();
    let again = gateway.ask(&request);
    assert_eq!((use_of(&again), &again.body), ("hit", &first.body));
    assert!(begun.elapsed() > Duration::from_millis(350), "{:?}", begun.elapsed());
    assert!(again.chunks.len() > 20);
}

#[test]
fn what_one_core_stores_answers_on_the_others_and_a_purge_reaches_all() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").cores(2).start();
    let request = Request::chat("openai/m").field("x-sluice-cache-tags", "night");
    assert_eq!(use_of(&gateway.ask(&request)), "miss");
    wait::until("both cores have it", || {
        (gateway.metric("sluice_cache_entries") == 2).then_some(())
    });
    // New connections: the kernel chooses the core.
    for _ in 0..16 {
        assert_eq!(use_of(&gateway.ask(&request)), "hit");
    }
    let purge = |order: Value| gateway.admin_post("/admin/cache/purge", &order);
    assert_eq!(
        purge(json!({"tag": "day"})).json(),
        json!({"removed": 0, "confirmed": true})
    );
    assert_eq!(use_of(&gateway.ask(&request)), "hit");
    assert_eq!(
        purge(json!({"tag": "night"})).json(),
        json!({"removed": 1, "confirmed": true})
    );
    wait::until("both cores forgot it", || {
        (gateway.metric("sluice_cache_entries") == 0).then_some(())
    });
    assert_eq!(use_of(&gateway.ask(&request)), "miss");
    assert_eq!(purge(json!({"tag": "a", "all": true})).status, 400);
    let stats = gateway.admin("/admin/cache").json();
    assert_eq!(
        (&stats["hits"]["exact"], &stats["misses"]),
        (&json!(17), &json!(2)),
        "{stats}"
    );
}

#[test]
fn an_answer_that_was_under_way_during_a_purge_is_not_kept() {
    let sim = Sim::start();
    let gateway = caching(&sim, "exact").start();
    let mut client = gateway.client();
    client.send(Request::chat("openai/m+latency_ms=700").bytes());
    wait::until("the provider is asked", || (sim.attempts().len() == 1).then_some(()));
    assert_eq!(
        gateway.admin_post("/admin/cache/purge", &json!({"all": true})).status,
        200
    );
    assert_eq!(use_of(&client.response()), "miss");
    assert_eq!(use_of(&client.ask(&Request::chat("openai/m+latency_ms=700"))), "miss");
}
