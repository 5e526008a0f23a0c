//! Streams as data, each in every split.

use super::*;
use crate::limits::SSE_LINE_BYTES_MAX;
use crate::testing::split;

/// A whole stream's scan: the last boundary and the flags of all its events.
#[track_caller]
fn scan(stream: &[u8]) -> Scan {
    split(stream, |pieces| {
        let mut scanner = EventScan::new();
        let (mut total, mut base) = (Scan::default(), 0);
        for piece in pieces {
            let scan = scanner.push(piece);
            if scan.complete > 0 {
                total.complete = base + scan.complete;
            }
            add(&mut total, scan);
            base += piece.len();
        }
        total
    })
}

fn add(total: &mut Scan, scan: Scan) {
    total.events += scan.events;
    total.done |= scan.done;
    total.finished |= scan.finished;
    total.error |= scan.error;
    total.content |= scan.content;
}

fn flags(stream: &str) -> String {
    let scan = scan(stream.as_bytes());
    let flag = |set: bool, name: &str| if set { format!(" {name}") } else { String::new() };
    format!(
        "{}/{}{}{}{}{}",
        scan.complete,
        scan.events,
        flag(scan.done, "done"),
        flag(scan.finished, "finished"),
        flag(scan.error, "error"),
        flag(scan.content, "content")
    )
}

#[test]
fn boundaries_are_found_with_every_line_end() {
    for end in ["\n", "\r", "\r\n"] {
        let event = format!("data: a{end}{end}");
        let length = event.len();
        assert_eq!(flags(&event), format!("{length}/1 content"));
        assert_eq!(flags(&event.repeat(2)), format!("{}/2 content", 2 * length));
        assert_eq!(flags(&format!("{event}data: b{end}")), format!("{length}/1 content"));
        assert_eq!(
            flags(&format!("{event}: comment{end}{end}")),
            format!("{}/1 content", length + 9 + 2 * end.len())
        );
        assert_eq!(
            flags(&format!("{event}event: x{end}id: y")),
            format!("{length}/1 content")
        );
    }
    assert_eq!(flags(""), "0/0");
    assert_eq!(flags("\n"), "1/0");
    assert_eq!(flags("data: a\n\r\ndata: b\r\n\ndata: c\r\r\n"), "30/3 content");
}

#[test]
fn ends_errors_and_pings_are_told_apart() {
    let cases = [
        ("data: [DONE]\n\n", "14/1 done"),
        ("data:[DONE]\n\n", "13/1 done"),
        ("data: [DONE] \n\n", "15/1 done"),
        ("data: [DONE]x\n\n", "15/1 content"),
        ("data: [DONE]\ndata: x\n\n", "22/1 content"),
        ("data: \"[DONE]\"\n\n", "16/1 content"),
        (": data: [DONE]\n\n", "16/0"),
        ("\u{feff}data: [DONE]\n\n", "17/1 done"),
        ("data: x\n\n\u{feff}data: [DONE]\n\n", "26/1 content"),
        ("data: {\"error\":1}\n\n", "19/1 error"),
        ("data:{ \"error\" :1}\n\n", "20/1 error"),
        ("data: {\"errors\":1}\n\n", "20/1 content"),
        ("event: error\ndata: {}\n\n", "23/1 error"),
        ("event: error\n\n", "14/0"),
        ("event: ping\ndata: {}\n\n", "22/1"),
        ("event: message_stop\ndata: {}\n\n", "30/1 finished content"),
        ("event:response.completed\ndata: {}\n\n", "35/1 finished content"),
        ("event: response.completed.not\ndata: {}\n\n", "40/1 content"),
        ("data\n\n", "6/1 content"),
        ("database: x\n\n", "13/0"),
        ("retry: 5\n\n", "10/0"),
    ];
    for (stream, expected) in cases {
        assert_eq!(flags(stream), expected, "{stream:?}");
    }
}

#[test]
fn a_finish_reason_counts_only_with_a_value() {
    let finished = |json: &str| scan(format!("data: {{{json}}}\n\n").as_bytes()).finished;
    assert!(finished(r#""choices":[{"finish_reason":"stop"}]"#));
    assert!(finished(r#""finish_reason" : "stop""#));
    assert!(finished(r#""finish_reason":null,"x":"","finish_reason":"length""#));
    assert!(!finished(r#""finish_reason":null"#));
    assert!(!finished(r#""finish_reason" :  null"#));
    assert!(!finished(r#""content":"\"finish_reason\":\"stop\"""#));
    assert!(!finished(r#""content":"finish_reason""#));
    assert!(!finished(r#""x":"finish_reason","y":"finish_reason""#));
    assert!(!finished(r#""native_finish_reason":"stop""#));
    // The quote that ends one key is not the start of another, wherever the stream is cut.
    assert!(!finished(r#""finish_reason"finish_reason":"stop""#));
    assert!(finished(r#""finish_reason""finish_reason":"stop""#));
    assert!(!scan(b": \"finish_reason\":\"stop\"\n\ndata: \"finish_reason\"\n\n").finished);
    assert!(!scan(b"data: \"finish_reason\":\ndata: \"stop\"\n\n").finished);
}

#[test]
fn an_event_without_its_empty_line_counts_at_the_end() {
    for stream in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n"] {
        let done = split(stream.as_bytes(), |pieces| {
            let mut scanner = EventScan::new();
            let early = pieces.iter().any(|piece| scanner.push(piece).done);
            assert!(!early);
            scanner.finish().done
        });
        assert!(done, "{stream:?}");
    }
    let mut scanner = EventScan::new();
    scanner.push(b"data: x\n\n");
    assert_eq!(scanner.finish(), Scan::default());
    scanner.push(b"data: [DO");
    scanner.reset();
    assert_eq!(scanner.push(b"NE]\n\n").events, 0);
}

/// Events as `type|data|id`.
#[track_caller]
fn decode(stream: &[u8]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    split(stream, |pieces| {
        let mut decoder = SseDecoder::new();
        let mut events = Vec::new();
        for piece in pieces {
            let on_event = |event: Event<'_>| {
                events.push(format!("{}|{}|{}", text(event.event), text(event.data), text(event.id)));
            };
            decoder.push(piece, on_event).unwrap();
        }
        events
    })
}

#[test]
fn events_are_decoded_as_the_specification_says() {
    let cases: &[(&str, &[&str])] = &[
        ("data: YHOO\ndata: +2\ndata: 10\n\n", &["|YHOO\n+2\n10|"]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &["|first event|1", "|second event|", "| third event|"],
        ),
        ("data\n\ndata\ndata\n\ndata:", &["||", "|\n|"]),
        ("data:test\n\ndata: test\n\n", &["|test|", "|test|"]),
        ("event: a\n\ndata: x\n\n", &["|x|"]),
        ("event: a\nevent: b\ndata: x\n\ndata: y\n\n", &["b|x|", "|y|"]),
        ("\u{feff}data: x\r\rdata: y\r\n\r\ndata: z\n\r", &["|x|", "|y|", "|z|"]),
        ("id: a\0b\ndata: x\n\nDATA: y\ndatax: y\nunknown\n\n", &["|x|"]),
        ("id: 7\ndata: x\n\ndata: y\n\ndata: cut", &["|x|7", "|y|7"]),
        ("data: a:b: c\n\n", &["|a:b: c|"]),
    ];
    for (stream, events) in cases {
        assert_eq!(decode(stream.as_bytes()), *events, "{stream:?}");
    }
}

#[test]
fn retry_is_kept_if_it_is_a_number() {
    let mut decoder = SseDecoder::new();
    decoder.push(b"retry: 1500\nretry: x\nretry:\n", |_| {}).unwrap();
    assert_eq!(decoder.retry_ms(), Some(1500));
}

#[test]
fn the_decoder_is_bounded_and_can_be_used_again() {
    let mut decoder = SseDecoder::new();
    let piece = vec![b'x'; SSE_LINE_BYTES_MAX];
    decoder.push(&piece, |_| {}).unwrap();
    assert_eq!(decoder.push(b"x", |_| {}), Err(SseError::TooLong));
    decoder.reset();
    let half = [b"data: ".as_slice(), &piece[..SSE_LINE_BYTES_MAX / 2], b"\n"].concat();
    decoder.push(&half, |_| {}).unwrap();
    assert!(decoder.has_partial_event());
    assert_eq!(decoder.push(&half, |_| {}), Err(SseError::TooLong));
    decoder.reset();
    assert!(!decoder.has_partial_event());
    let mut events = 0;
    decoder
        .push(b"data: a\n\n", |event| events += u32::from(event.data == b"a"))
        .unwrap();
    assert_eq!(events, 1);
}

#[test]
fn written_events_are_read_back() {
    for (event, data) in [
        (None, "x"),
        (Some("a"), "b\nc"),
        (None, ""),
        (None, "\n"),
        (Some("e"), "a\r\nb\rc\n"),
    ] {
        let mut stream = Vec::new();
        write_event(event, data.as_bytes(), &mut stream);
        let lines = data.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(decode(&stream), [format!("{}|{lines}|", event.unwrap_or_default())]);
    }
}
