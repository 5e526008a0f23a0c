//! Request bodies: an OpenAI chat request of an exact size, and the head in front of it.
//!
//! Small bodies are a conversation of four messages; from 64 KiB on the filling is a base64 image in a data URL, which
//! is what makes requests that large in practice. The head carries what the official SDK sends.

use sluice_policy::keyring::VirtualKey;

use super::Flags;

/// From this size on a body carries an image instead of text.
const IMAGE_FROM_BYTES: usize = 64 * 1024;

const PROSE: &str = "The quarterly report lists each region with revenue, churn and the three largest renewals. \
    Compare them with the forecast, say which assumptions no longer hold, and keep every figure that you quote. ";

const BASE64: &[u8] = b"iVBORw0KGgoAAAANSUhEUgAAA8AAAAJYCAIAAAAi+0mNAAEAAElEQVR4nOz9Z3NkyZIlCJ6j1y8cHHQGDR4ZSV4mq8";

/// Reads `700`, `1k`, `1.7k` or `1m` as bytes (k = 1,000).
///
/// # Errors
/// A sentence for the user when the text is no such size or lies outside 0.3 KB to 16 MB.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 1e3),
        Some(b'm') => (&lower[..lower.len() - 1], 1e6),
        _ => (lower.as_str(), 1.0),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a size such as 1.7k or 1m"))?;
    let bytes = (number * unit).round();
    if (300.0..=16e6).contains(&bytes) {
        Ok(bytes as usize)
    } else {
        Err("the size must be 300 to 16m".to_owned())
    }
}

/// The whole request, head and body, ready to be written again and again.
#[must_use]
pub fn render(flags: &Flags) -> Vec<u8> {
    render_with(flags, "sk-bench-0000000000000000")
}

/// The same with each of the run's virtual keys, or just once without any.
#[must_use]
pub fn render_all(flags: &Flags) -> Vec<Vec<u8>> {
    if flags.virtual_keys == 0 {
        return vec![render(flags)];
    }
    let secret = |at: u32| {
        let mut bits = [0; 32];
        bits[..4].copy_from_slice(&at.to_le_bytes());
        VirtualKey::from_random(&bits)
    };
    (0..flags.virtual_keys)
        .map(|at| render_with(flags, secret(at).expose()))
        .collect()
}

fn render_with(flags: &Flags, credential: &str) -> Vec<u8> {
    let body = chat(&flags.model, flags.stream, flags.body);
    let host = flags.target.trim_start_matches("http://").trim_end_matches('/');
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 2.8.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.8.0\r\n\
         X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n\
         Authorization: Bearer {credential}\r\n",
        flags.path,
    );
    for field in &flags.header {
        let (name, value) = field.split_once(':').unwrap_or((field, ""));
        request.push_str(&format!("{name}: {}\r\n", value.trim()));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [request.into_bytes(), body].concat()
}

/// A chat request whose JSON is `bytes` long (or as short as it gets).
fn chat(model: &str, stream: bool, bytes: usize) -> Vec<u8> {
    let model = serde_json::Value::from(model);
    let stream = if stream {
        ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"
    } else {
        ""
    };
    let image = bytes >= IMAGE_FROM_BYTES;
    let open = format!(
        "{{\"model\":{model},\"messages\":[{{\"role\":\"system\",\"content\":\"You are a careful analyst.\"}},\
         {{\"role\":\"user\",\"content\":\"Summarise the attached report.\"}},\
         {{\"role\":\"assistant\",\"content\":\"Which part matters most to you?\"}},{{\"role\":\"user\",\"content\":"
    );
    let (before, after) = if image {
        let text = "[{\"type\":\"text\",\"text\":\"What changed?\"},{\"type\":\"image_url\",\"image_url\":{\"url\":";
        (format!("{open}{text}\"data:image/png;base64,"), "\"}}]")
    } else {
        (format!("{open}\""), "\"")
    };
    let close = format!("{after}}}],\"temperature\":0.2,\"max_tokens\":256,\"user\":\"bench-42\"{stream}}}");
    let room = bytes.saturating_sub(before.len() + close.len());
    let filling: Vec<u8> = if image {
        BASE64.iter().copied().cycle().take(room).collect()
    } else {
        PROSE.bytes().cycle().take(room).collect()
    };
    [before.into_bytes(), filling, close.into_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_exact_size() {
        for (size, stream) in [(1_000, false), (1_700, true), (100_000, false), (1_000_000, true)] {
            let body = chat("gpt-4o-mini", stream, size);
            assert_eq!(body.len(), size);
            let parsed: serde_json::Value = serde_json::from_slice(&body).expect("valid JSON");
            assert_eq!(parsed["messages"].as_array().map(Vec::len), Some(4));
            assert_eq!(parsed["stream"].as_bool().unwrap_or(false), stream);
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_size("1.7k"), Ok(1_700));
        assert_eq!(parse_size("1M"), Ok(1_000_000));
        assert!(parse_size("12").is_err() && parse_size("x").is_err() && parse_size("").is_err());
    }
}
