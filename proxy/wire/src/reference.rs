//! Whether a request's size bounds its input: [`ReferenceScan`] looks for members that refer to content elsewhere, for images,
//! which may be more tokens than bytes, and for marks of prompt caches, in the bytes of a body that go by.
//!
//! Invariants: a member that is there is found, in pieces of any size, whatever surrounds it; bytes are not copied but for a
//! few at the edges of pieces. A text that ends like one of these keys counts as one, which makes a reservation larger than it
//! need be; one that merely quotes them does not, because quotes are escaped there. Deliberately absent: what is referred to.

use memchr::memchr_iter;

/// One less than the longest of all.
const EDGE: usize = b"\"previous_response_id\"".len() - 1;

/// A scanner of one request's body.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceScan {
    edge: [u8; EDGE],
    edge_len: usize,
    refers: bool,
    caches: bool,
    images: u32,
}

impl ReferenceScan {
    /// Looks at the next bytes of the body, in order.
    pub fn push(&mut self, input: &[u8]) {
        if self.edge_len > 0 {
            let mut seam = [0; 2 * EDGE];
            let head = input.len().min(EDGE);
            seam[..self.edge_len].copy_from_slice(&self.edge[..self.edge_len]);
            seam[self.edge_len..self.edge_len + head].copy_from_slice(&input[..head]);
            self.look(&seam[..self.edge_len + head], self.edge_len);
            self.look(input, head);
        } else {
            self.look(input, 0);
        }
        self.keep(input);
    }

    /// Whether it refers to content that is not in it.
    pub fn refers(&self) -> bool {
        self.refers
    }

    /// Whether anything in it is marked for a prompt cache.
    pub fn caches(&self) -> bool {
        self.caches
    }

    /// How many images are in it.
    pub fn images(&self) -> u32 {
        self.images
    }

    /// All keys that matter are told by what stands around their last quote: one pass, however many they are.
    ///
    /// Those that refer: to URLs (`url`, `image_url`, `video_url`), to files (`file_id`, `fileUri`, `uri`), and to conversations
    /// and prompts that the provider keeps; and documents (`document`, `file_data`), whose pages compress to next to nothing.
    /// Those that mark: `cache_control`, `cachePoint`. What counts one image: `image`, as a key or a type. Bytes before `from`
    /// were looked at before, so that no image in them counts twice.
    fn look(&mut self, bytes: &[u8], from: usize) {
        for at in memchr_iter(b'"', bytes) {
            let (before, behind) = bytes.split_at(at);
            let ends = |key: &[u8]| before.ends_with(key);
            match before.last() {
                Some(b'l') => {
                    self.refers |= ends(b"url");
                    self.caches |= ends(b"\"cache_control");
                }
                Some(b'i') => self.refers |= ends(b"uri") || ends(b"Uri"),
                Some(b'd') => self.refers |= ends(b"file_id") || ends(b"\"previous_response_id"),
                Some(b'n') => self.refers |= ends(b"\"conversation"),
                Some(b't') => {
                    self.refers |= ends(b"\"prompt") && behind.starts_with(b"\":{");
                    self.caches |= ends(b"\"cachePoint");
                    self.refers |= ends(b"\"document");
                }
                Some(b'a') => self.refers |= ends(b"\"file_data"),
                Some(b'e') if at >= from && ends(b"\"image") => self.images = self.images.saturating_add(1),
                _ => {}
            }
        }
    }

    /// Keeps the last bytes, of several small pieces if need be.
    fn keep(&mut self, input: &[u8]) {
        let new = input.len().min(EDGE);
        let old = self.edge_len.min(EDGE - new);
        self.edge.copy_within(self.edge_len - old..self.edge_len, 0);
        self.edge[old..old + new].copy_from_slice(&input[input.len() - new..]);
        self.edge_len = old + new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(body: &str) -> u32 {
        let mut whole = ReferenceScan::default();
        whole.push(body.as_bytes());
        for cut in 0..=body.len() {
            let mut scan = ReferenceScan::default();
            scan.push(&body.as_bytes()[..cut]);
            scan.push(&body.as_bytes()[cut..]);
            assert_eq!(scan.images(), whole.images(), "cut at {cut}: {body}");
        }
        let mut scan = ReferenceScan::default();
        body.as_bytes()
            .iter()
            .for_each(|byte| scan.push(std::slice::from_ref(byte)));
        assert_eq!(scan.images(), whole.images(), "byte by byte: {body}");
        whole.images()
    }

    #[test]
    fn images_are_counted_once_wherever_the_body_is_cut() {
        for (body, count) in [
            (
                r#"{"content":[{"type":"image","source":{"data":"aaaa"}},{"type": "image","source":{"data":"bb"}}]}"#,
                2,
            ),
            (
                r#"{"content":[{"image":{"format":"png","source":{"bytes":"aaaa"}}}]}"#,
                1,
            ),
            (r#"{"content":[{"type":"text","text":"an \"image\" and image"}]}"#, 0),
        ] {
            assert_eq!(images(body), count, "{body}");
        }
    }

    fn seen(body: &str) -> (bool, bool) {
        let mut whole = ReferenceScan::default();
        whole.push(body.as_bytes());
        let both = |scan: &ReferenceScan| (scan.refers(), scan.caches());
        for cut in 0..=body.len() {
            let mut scan = ReferenceScan::default();
            scan.push(&body.as_bytes()[..cut]);
            scan.push(&body.as_bytes()[cut..]);
            assert_eq!(both(&scan), both(&whole), "cut at {cut}: {body}");
        }
        let mut scan = ReferenceScan::default();
        body.as_bytes()
            .iter()
            .for_each(|byte| scan.push(std::slice::from_ref(byte)));
        assert_eq!(both(&scan), both(&whole), "byte by byte: {body}");
        both(&whole)
    }

    #[test]
    fn references_are_found_wherever_the_body_is_cut() {
        for body in [
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]}"#,
            r#"{"input":[{"type":"input_image","image_url" : "https://x"}]}"#,
            r#"{"source":{"type":"file","file_id":"f"}}"#,
            r#"{"image":{"source":{"s3Location":{"uri":"s3://b/k"}}}}"#,
            r#"{"previous_response_id":"r","input":"go on"}"#,
            r#"{"prompt":{"id":"p"}}"#,
            r#"{"content":[{"type":"document","source":{"data":"JVBERi0"}}]}"#,
            r#"{"content":[{"type":"file","file":{"filename":"a.pdf","file_data":"JVBERi0"}}]}"#,
        ] {
            assert_eq!(seen(body), (true, false), "{body}");
        }
    }

    #[test]
    fn what_is_in_the_body_itself_refers_to_nothing() {
        for body in [
            "",
            r#"{"model":"gpt-5","messages":[{"role":"user","content":"my \"url\" is \"image_url\""}]}"#,
            r#"{"prompt":"a conversation about a url.","max_tokens":5}"#,
        ] {
            assert_eq!(seen(body), (false, false), "{body}");
        }
    }

    #[test]
    fn marks_of_prompt_caches_are_found() {
        assert_eq!(
            seen(r#"{"system":[{"text":"x","cache_control":{"type":"ephemeral"}}]}"#),
            (false, true)
        );
        assert_eq!(seen(r#"{"system":[{"cachePoint":{"type":"default"}}]}"#), (false, true));
    }
}
