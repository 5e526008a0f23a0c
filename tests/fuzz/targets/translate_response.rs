//! Answers and errors: whatever a provider sends is refused or becomes, in every dialect, an answer that the dialect's own
//! reader takes, and that costs the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use sluice_fuzz::seeded;
use sluice_wire::chat::Out;
use sluice_wire::dialect::Dialect;
use sluice_wire::provider::{self, ErrorHead, Reply};

const REPLY: Reply<'static> = Reply {
    model: "m",
    id: "i",
    created: 1,
    include_usage: true,
};

fuzz_target!(|input: &[u8]| {
    let (seed, body) = seeded(input);
    let from = Dialect::ALL[usize::from(seed) % 3];
    let status = 200 + u16::from(seed) % 40 * 10;
    let error = provider::parse_error(
        from,
        &ErrorHead {
            status,
            ..ErrorHead::default()
        },
        body,
    );
    let mut out = Out::default();
    for to in Dialect::ALL {
        out.begin(&[]);
        provider::write_error(to, &error, &mut out);
        assert!((400..600).contains(&error.client_status()));
        serde_json::from_slice::<IgnoredAny>(&out.buf).expect("an error is JSON");
    }
    let Ok(response) = provider::parse_response(from, body) else {
        return;
    };
    for to in Dialect::ALL {
        out.begin(body);
        provider::write_response(to, &response, &REPLY, &mut out);
        let whole = out.collect(body);
        let shown = String::from_utf8_lossy(&whole);
        serde_json::from_slice::<IgnoredAny>(&whole).unwrap_or_else(|error| panic!("{error}: {shown}"));
        match provider::parse_response(to, &whole) {
            Ok(again) => {
                let total = response.usage.unwrap_or_default().total();
                // Counts beyond this are cut.
                if total < 1_000_000_000_000_000 {
                    assert_eq!(again.usage.unwrap_or_default().total(), total, "{shown}");
                }
            }
            Err(error) if error.message.contains("deeper") => {}
            Err(error) => panic!("{error:?}: {shown}"),
        }
    }
});
