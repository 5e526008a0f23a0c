//! [`Names`]: what a request was about and whom it asked, in texts; and [`Introduced`], by which the control thread is told
//! each combination of them once, not with every record.
//!
//! Invariants: bounded, in place, UTF-8 (what is not is left out); a core and the control thread agree on what stands in a slot
//! as of each record, because whatever changes a slot travels ahead of the record that names it. Deliberately absent: how they
//! are shown (`control/roster.rs`).

use arrayvec::ArrayVec;
use sluice_wire::limits::{MODEL_LABEL_BYTES, NAMES_SLOTS};

const METHOD: usize = 0;
const PATH: usize = 1;
const MODEL: usize = 2;
const ROUTE: usize = 3;
const PROVIDER: usize = 4;
const KEY: usize = 5;
/// How much is kept of each.
const MOST: [usize; 6] = [7, 64, MODEL_LABEL_BYTES, 32, 32, 32];
const BYTES: usize = MOST[METHOD] + MOST[PATH] + MOST[MODEL] + MOST[ROUTE] + MOST[PROVIDER] + MOST[KEY];

/// What a request was about, and whom it asked. They are given in the order of the methods below; giving one anew forgets those after it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// One behind the other, so that they are a line or two of memory.
    text: ArrayVec<u8, BYTES>,
    ends: [u16; 6],
}

impl Names {
    /// Names of a request for `path`, its query left out, as it came.
    pub fn of(method: &[u8], path: &[u8]) -> Self {
        let mut names = Self::default();
        names.put::<METHOD>(method);
        names.put::<PATH>(path);
        names
    }

    /// The model as the client named it.
    pub fn set_model(&mut self, model: &str) {
        self.put::<MODEL>(model.as_bytes());
    }

    /// The first model pattern of the route that it follows, if any.
    pub fn set_route(&mut self, route: &str) {
        self.put::<ROUTE>(route.as_bytes());
    }

    /// The provider that answered (or failed last), and the name of the key that was used, empty if none was.
    pub fn set_asked(&mut self, provider: &str, key: &str) {
        self.put::<PROVIDER>(provider.as_bytes());
        self.put::<KEY>(key.as_bytes());
    }

    /// Method of the request.
    pub fn method(&self) -> &str {
        self.get::<METHOD>()
    }

    /// Path of the request, without the query.
    pub fn path(&self) -> &str {
        self.get::<PATH>()
    }

    /// The model as the client named it.
    pub fn model(&self) -> &str {
        self.get::<MODEL>()
    }

    /// The same without the provider's name in front of it.
    pub fn model_at_provider(&self) -> &str {
        let model = self.model();
        let rest = model
            .strip_prefix(self.provider())
            .and_then(|rest| rest.strip_prefix('/'));
        rest.unwrap_or(model)
    }

    /// The first model pattern of its route.
    pub fn route(&self) -> &str {
        self.get::<ROUTE>()
    }

    /// The provider that answered, or failed last.
    pub fn provider(&self) -> &str {
        self.get::<PROVIDER>()
    }

    /// The name of the key that was used last.
    pub fn key(&self) -> &str {
        self.get::<KEY>()
    }

    /// The same as bytes.
    pub fn key_bytes(&self) -> &[u8] {
        self.bytes::<KEY>()
    }

    fn get<const WHICH: usize>(&self) -> &str {
        std::str::from_utf8(self.bytes::<WHICH>()).unwrap_or_default()
    }

    fn bytes<const WHICH: usize>(&self) -> &[u8] {
        &self.text[self.begin::<WHICH>()..usize::from(self.ends[WHICH])]
    }

    fn begin<const WHICH: usize>(&self) -> usize {
        if WHICH == 0 {
            0
        } else {
            usize::from(self.ends[WHICH - 1])
        }
    }

    /// Which one is known when this is compiled, because it is done six times with every request.
    fn put<const WHICH: usize>(&mut self, text: &[u8]) {
        self.text.truncate(self.begin::<WHICH>());
        let text = cut(text, MOST[WHICH]);
        // There is room for the longest of each.
        let _ = self.text.try_extend_from_slice(text);
        let end = self.text.len() as u16;
        let mut at = WHICH;
        while at < self.ends.len() {
            self.ends[at] = end;
            at += 1;
        }
    }

    /// Where these may stand: a slot that most other names do not have, found without reading all of the text.
    fn slot(&self) -> usize {
        let tail = |end: u16| {
            let end = usize::from(end);
            let word = end.checked_sub(8).and_then(|begin| self.text.get(begin..end));
            word.and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let mixed = tail(self.ends[MODEL]).rotate_left(23) ^ tail(self.ends[KEY]) ^ u64::from(self.ends[PATH]) << 32;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % NAMES_SLOTS
    }
}

/// As much of `text` as `most` bytes hold, cut between characters; nothing if it is not UTF-8.
fn cut(text: &[u8], most: usize) -> &[u8] {
    if text.len() <= most && text.is_ascii() {
        return text;
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return &[];
    };
    &text.as_bytes()[..text.floor_char_boundary(most)]
}

/// A core's side of the slots: which names the control thread holds there.
pub struct Introduced {
    slots: Box<[Names]>,
}

impl Default for Introduced {
    fn default() -> Self {
        Self {
            slots: std::iter::repeat_n(Names::default(), NAMES_SLOTS).collect(),
        }
    }
}

impl Introduced {
    /// The slot of these names; and whether they are new there, in which case they must be sent.
    pub fn place(&mut self, names: &Names) -> (u8, bool) {
        let slot = names.slot();
        let held = &mut self.slots[slot];
        let is_new = held != names;
        if is_new {
            held.clone_from(names);
        }
        (slot as u8, is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(model: &str) -> Names {
        let mut names = Names::of(b"POST", b"/v1/chat/completions");
        names.set_model(model);
        names.set_route("openai/*");
        names.set_asked("openai", "PRIMARY");
        names
    }

    #[test]
    fn each_text_is_read_back_as_it_was_given() {
        let mut names = names("gpt-4o");
        let read = |names: &Names| {
            let all = [
                names.method(),
                names.path(),
                names.model(),
                names.route(),
                names.provider(),
                names.key(),
            ];
            all.map(str::to_owned)
        };
        let path = "/v1/chat/completions";
        assert_eq!(read(&names), ["POST", path, "gpt-4o", "openai/*", "openai", "PRIMARY"]);
        names.set_asked("bedrock", "");
        assert_eq!(read(&names), ["POST", path, "gpt-4o", "openai/*", "bedrock", ""]);
    }

    #[test]
    fn long_text_is_cut_between_characters_and_what_is_no_text_is_left_out() {
        let long = "é".repeat(MODEL_LABEL_BYTES);
        let mut names = names(&long);
        assert_eq!(names.model().len(), MODEL_LABEL_BYTES / 2 * 2);
        assert!(long.starts_with(names.model()));
        assert_eq!(names.key(), "PRIMARY");
        let endless = "x".repeat(1000);
        names = Names::of(endless.as_bytes(), endless.as_bytes());
        names.set_model(&endless);
        names.set_route(&endless);
        names.set_asked(&endless, &endless);
        assert_eq!(names.text.len(), BYTES);
        assert_eq!(Names::of(b"GET", b"/\xff").path(), "");
    }

    #[test]
    fn names_are_new_once_in_their_slot_whoever_else_passes_through_it() {
        let mut core = Introduced::default();
        let mut control = vec![Names::default(); NAMES_SLOTS];
        let mut sent = 0;
        for round in 0..3 {
            for at in 0..1000 {
                let names = names(&format!("model-{at}"));
                let (slot, is_new) = core.place(&names);
                if is_new {
                    control[usize::from(slot)] = names.clone();
                    sent += 1;
                }
                assert!(control[usize::from(slot)] == names, "round {round}, {at}");
                assert_eq!(core.place(&names), (slot, false));
            }
        }
        assert!(sent > NAMES_SLOTS, "slots were shared");
    }

    #[test]
    fn a_factorys_few_names_do_not_share_slots() {
        let mut core = Introduced::default();
        let mut all = Vec::new();
        for model in ["openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-sonnet-4-6"] {
            for key in ["PRIMARY", "FAILOVER"] {
                let mut names = names(model);
                names.set_asked("openai", key);
                all.push(names);
            }
        }
        all.iter().for_each(|names| _ = core.place(names));
        let again = all.iter().filter(|names| core.place(names).1).count();
        assert_eq!(again, 0);
    }
}
