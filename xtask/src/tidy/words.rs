//! What no file may hold: marks of unfinished work, paths of one machine, and anything but text with a newline at its end.
//!
//! The words are put together here, so that this file may stand in the tree that it checks.

use super::{File, Violation};

/// What must not occur, and why.
const FORBIDDEN: [(&str, &str); 7] = [
    (concat!("to", "do!"), "finish it"),
    (concat!("unimple", "mented!"), "finish it"),
    (concat!("#[ig", "nore"), "a test that does not run is no test"),
    (concat!("TO", "DO"), "do it, or say plainly what is absent"),
    (concat!("FIX", "ME"), "do it, or say plainly what is absent"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp/", "wt"), "a path of one machine"),
];

/// Data whose bytes are what they are.
fn is_data(path: &str) -> bool {
    path.starts_with("tests/fuzz/seeds/")
        || path.starts_with("tests/golden/")
        || path.ends_with(".png")
        || path.ends_with("/model/static128_i8.bin")
        || path.starts_with("ebpf/objects/") && path.ends_with(".o")
}

/// Checks one file.
pub fn check(file: &File, found: &mut Vec<Violation>) {
    let path = &file.path;
    if is_data(path) {
        return;
    }
    let Some(text) = file.text().filter(|text| !text.contains('\0')) else {
        found.push(Violation::new(path, 0, "neither text nor known to be data"));
        return;
    };
    if !text.ends_with('\n') {
        found.push(Violation::new(path, 0, "no newline at the end"));
    }
    for (number, line) in text.lines().enumerate() {
        for (word, why) in FORBIDDEN {
            if line.contains(word) {
                found.push(Violation::new(path, number + 1, format!("`{word}`: {why}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let file = File {
            path: path.to_owned(),
            bytes: bytes.to_vec(),
        };
        check(&file, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn marks_of_unfinished_work_are_found_with_their_line() {
        for (word, _) in FORBIDDEN {
            let found = messages("a.md", format!("fine\nsome {word} here\n").as_bytes());
            assert_eq!(found.len(), 1, "{word}");
            assert!(found[0].starts_with("a.md:2: "), "{}", found[0]);
        }
        assert!(messages("a.rs", b"let ignore = method; // work to do\n").is_empty());
    }

    #[test]
    fn files_are_text_with_a_newline_at_the_end_unless_they_are_data() {
        assert_eq!(messages("a.md", b"no end"), ["a.md: no newline at the end"]);
        assert_eq!(messages("a.md", b"").len(), 1);
        assert_eq!(
            messages("a.bin", b"\xff\xfe\n"),
            ["a.bin: neither text nor known to be data"]
        );
        assert_eq!(messages("a.bin", b"a\0b\n").len(), 1);
        assert!(messages("tests/fuzz/seeds/x/1", b"\xff").is_empty());
    }
}
