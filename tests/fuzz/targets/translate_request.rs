//! Requests: whatever a client sends is refused or becomes, in every dialect, a request that the dialect's own reader takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use sluice_fuzz::seeded;
use sluice_wire::chat::{Notes, Out};
use sluice_wire::dialect::Dialect;
use sluice_wire::error::Code;
use sluice_wire::provider::{self, Ingress, Quirks, Target, ThinkingStyle};

const STYLES: [ThinkingStyle; 4] = [
    ThinkingStyle::ByModel,
    ThinkingStyle::Budget,
    ThinkingStyle::Adaptive,
    ThinkingStyle::AdaptiveOnly,
];

fuzz_target!(|input: &[u8]| {
    let (seed, body) = seeded(input);
    let from = Dialect::ALL[usize::from(seed) % 3];
    let ingress = Ingress {
        path_model: Some("m"),
        path_stream: seed & 64 != 0,
    };
    let Ok(request) = provider::parse_request(from, body, &ingress) else {
        return;
    };
    let thinking = STYLES[usize::from(seed >> 2) % 4];
    let all = seed & 128 != 0;
    let quirks = Quirks {
        thinking,
        top_k: all,
        cache_control: all,
        reasoning: all,
        video_url: all,
        ..Quirks::default()
    };
    let target = Target {
        model: "anthropic.claude-3-7-sonnet",
        max_tokens_default: 4096,
        quirks,
    };
    let (mut out, mut notes) = (Out::default(), Notes::default());
    for to in Dialect::ALL {
        out.begin(body);
        notes.clear();
        if provider::write_request(to, &request, &target, &mut out, &mut notes).is_err() {
            continue;
        }
        let whole = out.collect(body);
        assert_eq!(whole.len(), out.total_len());
        let shown = String::from_utf8_lossy(&whole);
        serde_json::from_slice::<IgnoredAny>(&whole).unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert!(notes.header_value().is_ascii());
        match provider::parse_request(to, &whole, &ingress) {
            Ok(_) => {}
            // A translation may nest a few levels deeper than what it was made from.
            Err(error) if error.code == Code::InvalidBody && error.message.contains("deeper") => {}
            Err(error) => panic!("{error:?}: {shown}"),
        }
    }
});
