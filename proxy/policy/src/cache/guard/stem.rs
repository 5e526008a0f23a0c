//! Stems: what is left of an English word without the endings of number, tense and adverbs.
//!
//! Invariants: a stem is a prefix of its word, so that none is stored; words of other languages come out shorter at worst.
//! Stems decide only which words two texts share; where that is all, the guard compares the words themselves.
//! Deliberately absent: exceptions, derivation (`painter` is no `paint`).

/// Length of a lower-case word's stem, in bytes.
pub(super) fn stem_len(word: &str) -> usize {
    let bytes = word.as_bytes();
    let mut len = bytes.len();
    if !word.is_ascii() || len < 4 {
        return len;
    }
    let ends = |len: usize, ending: &str| bytes[..len].ends_with(ending.as_bytes());
    if ends(len, "ly") && len > 5 {
        len -= 2;
    }
    if ends(len, "ies") || ends(len, "ied") {
        return len - 2;
    }
    if ends(len, "sses") || ends(len, "shes") || ends(len, "ches") || ends(len, "xes") {
        return len - 2;
    }
    if ends(len, "s") && !ends(len, "ss") && !ends(len, "us") && !ends(len, "is") {
        len -= 1;
    }
    let is_vowel = |byte: &u8| matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u' | b'y');
    for ending in ["ing", "ed"] {
        let left = len.saturating_sub(ending.len());
        if left >= 3 && ends(len, ending) && bytes[..left].iter().any(is_vowel) {
            let is_doubled = bytes[left - 1] == bytes[left - 2] && !matches!(bytes[left - 1], b'l' | b's' | b'z');
            return if is_doubled { left - 1 } else { left };
        }
    }
    if len > 3 && matches!(bytes[len - 1], b'e' | b'y') {
        len -= 1;
    }
    if len > 4 && ends(len, "i") {
        len -= 1;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_have_one_stem_and_different_words_do_not() {
        let stem = |word: &'static str| &word[..stem_len(word)];
        for forms in [
            &["expect", "expects", "expected", "expecting"][..],
            &["close", "closed", "closing"],
            &["scratch", "scratches"],
            &["ship", "shipped", "shipping"],
            &["correct", "correctly"],
        ] {
            for form in forms {
                assert_eq!(stem(form), stem(forms[0]), "{form}");
            }
        }
        assert_ne!(stem("weld"), stem("well"));
        assert_eq!(stem("bus"), "bus");
        assert_eq!(stem("glass"), "glass");
        assert_eq!(stem("prüfung"), "prüfung");
        assert_eq!(stem("red"), "red");
    }
}
