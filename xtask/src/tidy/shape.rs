//! The shape of Rust files: their length, that of their functions, how they open, and where modules stand.
//!
//! Deliberately absent: exceptions. A file that is too long is two files.

use super::Violation;
use super::source::Source;

/// Longest file, in lines. Aim for 100 to 500.
const FILE_LINES_MAX: usize = 600;
/// Longest function, in lines from `fn` to its closing brace. Aim for 70.
const FUNCTION_LINES_MAX: usize = 80;

/// Checks one Rust file.
pub fn check(path: &str, text: &str, found: &mut Vec<Violation>) {
    if path.ends_with("/mod.rs") {
        found.push(Violation::new(path, 0, "a module is foo.rs beside foo/, never mod.rs"));
    }
    if !text.starts_with("//!") {
        found.push(Violation::new(
            path,
            1,
            "a file opens with //! and says what it is for, its invariants, and what it leaves out",
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(Violation::new(
            path,
            0,
            format!("{lines} lines; a file has at most {FILE_LINES_MAX}"),
        ));
    }
    for function in Source::read(text).functions() {
        if function.lines > FUNCTION_LINES_MAX {
            found.push(Violation::new(
                path,
                function.line,
                format!(
                    "{} has {} lines; a function has at most {FUNCTION_LINES_MAX}",
                    function.name, function.lines
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(path, text, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_opens_with_its_purpose_and_stands_beside_its_folder() {
        assert!(messages("a.rs", "//! Purpose.\nfn f() {}\n").is_empty());
        assert!(messages("a.rs", "use x;\n//! Late.\n")[0].starts_with("a.rs:1: a file opens"));
        assert!(messages("a/mod.rs", "//! Purpose.\n")[0].contains("never mod.rs"));
    }

    #[test]
    fn lengths_are_allowed_up_to_the_limit_and_not_beyond() {
        let file = |lines: usize| format!("//! Purpose.\n{}", "\n".repeat(lines - 1));
        assert!(messages("a.rs", &file(FILE_LINES_MAX)).is_empty());
        assert_eq!(
            messages("a.rs", &file(FILE_LINES_MAX + 1)),
            ["a.rs: 601 lines; a file has at most 600"]
        );
        let function = |lines: usize| format!("//! Purpose.\nfn long() {{{}}}\n", "\n".repeat(lines - 1));
        assert!(messages("a.rs", &function(FUNCTION_LINES_MAX)).is_empty());
        assert_eq!(
            messages("a.rs", &function(FUNCTION_LINES_MAX + 1)),
            ["a.rs:2: long has 81 lines; a function has at most 80"]
        );
    }
}
