//! Enough of Rust's lexical structure to look for things in code and not in comments or strings.
//!
//! Invariants: a [`Source`] has one token per identifier or punctuation character, in order, each with its line; comments
//! are gone, and so is what strings and characters hold (strings are kept apart). Deliberately absent: a parser; where a
//! rule needs one, clippy is the place for it.

/// One identifier, number, lifetime or punctuation character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// From 1.
    pub line: usize,
    /// Its characters.
    pub text: &'a str,
}

/// A Rust file, cut into tokens.
#[derive(Debug, Default)]
pub struct Source<'a> {
    /// Without comments and strings.
    pub tokens: Vec<Token<'a>>,
    /// What string literals hold, as written.
    pub strings: Vec<Token<'a>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its `fn` stands.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

impl<'a> Source<'a> {
    /// Cuts `text` up.
    pub fn read(text: &'a str) -> Self {
        let mut cutter = Cutter {
            text,
            at: 0,
            line: 1,
            source: Self::default(),
        };
        while cutter.at < text.len() {
            cutter.step();
        }
        cutter.source
    }

    /// The functions that have a body.
    pub fn functions(&self) -> Vec<Function<'a>> {
        let tokens = &self.tokens;
        let mut found = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let Some(name) = tokens.get(at + 1) else { break };
            if token.text != "fn" || !is_word(name.text) {
                continue;
            }
            let Some(open) = self.body_of(at) else { continue };
            let close = self.closing(open);
            found.push(Function {
                name: name.text,
                line: token.line,
                lines: tokens[close].line - token.line + 1,
            });
        }
        found
    }

    /// The tokens outside `#[cfg(test)] mod … { … }`.
    pub fn without_tests(&self) -> Vec<Token<'a>> {
        let tokens = &self.tokens;
        let mut kept = Vec::with_capacity(tokens.len());
        let mut at = 0;
        while at < tokens.len() {
            if self.reads(at, &["#", "[", "cfg", "(", "test", ")", "]", "mod"]) && self.reads(at + 9, &["{"]) {
                at = self.closing(at + 9) + 1;
            } else {
                kept.push(tokens[at]);
                at += 1;
            }
        }
        kept
    }

    /// Whether these tokens stand at `at`.
    fn reads(&self, at: usize, wanted: &[&str]) -> bool {
        let here = self.tokens.iter().skip(at).map(|token| token.text);
        here.take(wanted.len()).eq(wanted.iter().copied())
    }

    /// The brace that opens the body of the function at `at`; `None` if it has none.
    fn body_of(&self, at: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(at) {
            match token.text {
                "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "{" if depth == 0 => return Some(index),
                ";" if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The brace that closes the one at `open`; the last token if none does.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text {
                "{" => depth += 1,
                "}" if depth == 1 => return index,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        self.tokens.len().saturating_sub(1)
    }
}

/// Whether it is an identifier or a number, rather than punctuation.
pub fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

struct Cutter<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    source: Source<'a>,
}

impl<'a> Cutter<'a> {
    fn step(&mut self) {
        let rest = &self.text[self.at..];
        if rest.starts_with("//") {
            self.take(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.take(block_comment_bytes(rest));
        } else if let Some((prefix, hashes)) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[prefix..];
            let bytes = body.find(&end).unwrap_or(body.len());
            self.string(prefix, bytes, end.len());
        } else if let Some(prefix) = ["\"", "b\"", "c\""].iter().find(|prefix| rest.starts_with(**prefix)) {
            let bytes = quoted_bytes(&rest[prefix.len()..], '"');
            self.string(prefix.len(), bytes, 1);
        } else if let Some(bytes) = character_bytes(rest) {
            self.take(bytes);
        } else {
            self.word_or_mark(rest);
        }
    }

    fn word_or_mark(&mut self, rest: &'a str) {
        let word = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let bytes = word.max(first);
        if !rest[..bytes].trim().is_empty() {
            self.source.tokens.push(Token {
                line: self.line,
                text: &rest[..bytes],
            });
        }
        self.take(bytes);
    }

    fn string(&mut self, prefix: usize, bytes: usize, suffix: usize) {
        let from = self.at + prefix;
        self.source.strings.push(Token {
            line: self.line,
            text: &self.text[from..from + bytes],
        });
        self.take((prefix + bytes + suffix).min(self.text.len() - self.at));
    }

    fn take(&mut self, bytes: usize) {
        self.line += self.text[self.at..self.at + bytes].matches('\n').count();
        self.at += bytes;
    }
}

/// Length of the comment that `text` begins with; comments nest.
fn block_comment_bytes(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of `r#"`, `br"` and the like, and how many hashes there are.
fn raw_string(text: &str) -> Option<(usize, usize)> {
    let prefix = ["r", "br", "cr"].iter().find(|prefix| text.starts_with(**prefix))?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..]
        .starts_with('"')
        .then_some((prefix.len() + hashes + 1, hashes))
}

/// How much of `text` comes before the closing `quote`.
fn quoted_bytes(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at,
            _ => {}
        }
    }
    text.len()
}

/// Length of the character literal that `text` begins with; a lifetime is none.
fn character_bytes(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("b'").or_else(|| text.strip_prefix('\''))?;
    let prefix = text.len() - rest.len();
    let mut chars = rest.char_indices();
    let (_, first) = chars.next()?;
    let (second_at, second) = chars.next()?;
    if first == '\\' {
        Some(prefix + quoted_bytes(rest, '\'') + 1)
    } else {
        (second == '\'').then_some(prefix + second_at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let tokens: Vec<&str> = Source::read(text).tokens.iter().map(|token| token.text).collect();
        tokens.join(" ")
    }

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        assert_eq!(words("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(
            words(r###"x("in \" it", r#"also " in"#, b"bytes", br"raw", '"', '\'', b'{')"###),
            "x ( , , , , , , )"
        );
        assert_eq!(words("fn f<'a>(x: &'a str)"), "fn f < ' a > ( x : & ' a str )");
        assert_eq!(words("let robust = br; r"), "let robust = br ; r");
    }

    #[test]
    fn strings_are_kept_apart_with_their_lines() {
        let source = Source::read("a(\n\"one\",\n\"two\nthree\")\nb \"four\"");
        let found: Vec<_> = source.strings.iter().map(|token| (token.line, token.text)).collect();
        assert_eq!(found, [(2, "one"), (3, "two\nthree"), (5, "four")]);
        assert_eq!(source.tokens.iter().find(|token| token.text == "b").unwrap().line, 5);
    }

    #[test]
    fn unfinished_text_ends_where_it_ends() {
        for text in ["\"a", "r#\"a\"", "/* a", "'", "b'", "'\\", "fn", "fn f(", "fn f() {"] {
            let source = Source::read(text);
            source.functions();
            source.without_tests();
        }
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let text = "trait T { fn no_body(&self) -> [u8; 4]; }\nfn a<T>(x: fn(u8)) -> bool\nwhere\n T: Copy,\n{\n \"}\"; {}\n}\nfn b() {}\n";
        let expected = [
            Function {
                name: "a",
                line: 2,
                lines: 6,
            },
            Function {
                name: "b",
                line: 8,
                lines: 1,
            },
        ];
        assert_eq!(Source::read(text).functions(), expected);
    }

    #[test]
    fn test_modules_can_be_left_out() {
        let source = Source::read("a\n#[cfg(test)]\nmod tests { b { c } }\nd #[cfg(test)] mod tests; e");
        let kept: Vec<&str> = source.without_tests().iter().map(|token| token.text).collect();
        assert!(!kept.contains(&"b") && !kept.contains(&"c"));
        assert!(["a", "d", "e"].iter().all(|word| kept.contains(word)));
    }
}
