//! Tool-call ids that every vendor accepts.
//!
//! Invariant: the mapping is a pure function of the id and the rule, so a call and its result agree without any state.
//! Deliberately absent: a way back; a client sees the provider's own id, and the provider its own when it comes back.

use crate::chat::Text;

/// Which ids a target accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToolIdRule {
    /// Anything.
    #[default]
    Any,
    /// 1 to 64 of `[a-zA-Z0-9_-]` (Anthropic and Bedrock).
    Word64,
    /// 1 to 40 of `[a-zA-Z0-9_-]` (OpenAI).
    Word40,
    /// Exactly 9 of `[a-zA-Z0-9]` (Mistral).
    Nine,
}

/// The id for a target: unchanged where the rule allows it, else derived from a hash of the whole id.
pub fn tool_id<'t>(id: &'t Text<'_>, rule: ToolIdRule) -> Text<'t> {
    let bytes = id.as_json().as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let fits = match rule {
        ToolIdRule::Any => true,
        ToolIdRule::Word64 => (1..=64).contains(&bytes.len()) && bytes.iter().all(word),
        ToolIdRule::Word40 => (1..=40).contains(&bytes.len()) && bytes.iter().all(word),
        ToolIdRule::Nine => bytes.len() == 9 && bytes.iter().all(u8::is_ascii_alphanumeric),
    };
    if fits {
        return id.borrowed();
    }
    let hash = id_hash(id.as_json());
    match rule {
        ToolIdRule::Nine => {
            const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
            let mut rest = hash;
            let id = (0..9).map(|_| {
                let digit = DIGITS[(rest % 36) as usize];
                rest /= 36;
                char::from(digit)
            });
            Text::owned(id.collect())
        }
        _ => Text::owned(format!("call_{hash:016x}")),
    }
}

/// FNV-1a over 64 bits; ids within one conversation are few, and an accidental collision needs billions of them.
pub(crate) fn id_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The id of a call that came without one: the `nth` part of the answer whose id has the hash `answer`.
pub(crate) fn made_id<'t>(answer: u64, nth: usize) -> Text<'t> {
    Text::owned(format!("call_{answer:x}_{nth}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_fits_is_kept_and_any_other_is_derived_alike_everywhere() {
        let id = Text::plain("toolu_01AbC-9");
        assert_eq!(tool_id(&id, ToolIdRule::Word64), id);
        assert_eq!(tool_id(&id, ToolIdRule::Word40), id);
        let odd = [
            Text::plain("functions.f:0"),
            Text::plain("ä"),
            Text::default(),
            Text::owned("x".repeat(65)),
        ];
        for rule in [ToolIdRule::Word64, ToolIdRule::Word40, ToolIdRule::Nine] {
            for (at, text) in odd.iter().enumerate() {
                let new = tool_id(text, rule);
                assert_eq!(tool_id(&new, rule), new, "what is derived fits");
                assert_eq!(tool_id(&Text::owned(text.decode().into_owned()), rule), new);
                assert!(
                    odd[..at].iter().all(|other| tool_id(other, rule) != new),
                    "ids stay apart"
                );
            }
        }
        assert_eq!(tool_id(&id, ToolIdRule::Nine).len(), 9);
        assert_eq!(tool_id(&odd[0], ToolIdRule::Any), odd[0]);
    }
}
