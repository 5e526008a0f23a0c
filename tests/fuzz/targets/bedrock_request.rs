//! Converse requests and answers into every dialect: valid JSON out for whatever is accepted, and what Bedrock itself would be
//! sent is accepted again and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sluice_fuzz::is_json;
use sluice_wire::chat::{Notes, Out};
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, Ingress, Quirks, Reply, Target};

const ALL: [(Dialect, &str); 4] = [
    (Dialect::OpenAi, "gpt-5"),
    (Dialect::Anthropic, "claude-sonnet-4-5"),
    (Dialect::Bedrock, "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    (Dialect::Bedrock, "us.amazon.nova-pro-v1:0"),
];
const REPLY: Reply<'_> = Reply {
    model: "m",
    id: "id",
    created: 0,
    include_usage: true,
};

fuzz_target!(|body: &[u8]| {
    let ingress = Ingress {
        path_model: Some("m"),
        path_stream: false,
    };
    if let Ok(request) = provider::parse_request(Dialect::Bedrock, body, &ingress) {
        for (dialect, model) in ALL {
            let target = Target {
                model,
                max_tokens_default: 4096,
                quirks: Quirks::default(),
            };
            let (mut out, mut notes) = (Out::default(), Notes::default());
            out.begin(body);
            if provider::write_request(dialect, &request, &target, &mut out, &mut notes).is_err() {
                continue;
            }
            let written = out.collect(body);
            assert!(is_json(&written), "{}", String::from_utf8_lossy(&written));
            if dialect == Dialect::Bedrock {
                again(&written, &target);
            }
        }
    }
    if let Ok(response) = provider::parse_response(Dialect::Bedrock, body) {
        for (dialect, _) in ALL {
            let mut out = Out::default();
            out.begin(body);
            provider::write_response(dialect, &response, &REPLY, &mut out);
            let written = out.collect(body);
            assert!(is_json(&written), "{}", String::from_utf8_lossy(&written));
        }
    }
});

/// A second pass changes nothing: all that had to be adapted was adapted in the first.
fn again(body: &[u8], target: &Target<'_>) {
    let request =
        provider::parse_request(Dialect::Bedrock, body, &Ingress::default()).expect("what was written is read");
    let (mut out, mut notes) = (Out::default(), Notes::default());
    out.begin(&[]);
    provider::write_request(Dialect::Bedrock, &request, target, &mut out, &mut notes).expect("nothing new to refuse");
    let written = out.collect(&[]);
    assert!(is_json(&written), "{}", String::from_utf8_lossy(&written));
    // A number that no `Value` can hold cannot be compared either.
    if let (Ok(first), Ok(second)) = (
        serde_json::from_slice::<Value>(body),
        serde_json::from_slice::<Value>(&written),
    ) {
        assert_eq!(first, second);
    }
}
