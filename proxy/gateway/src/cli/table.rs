//! Tables for a terminal: columns as wide as they have to be, numbers to the right.
//!
//! Invariants: no line ends in spaces; control characters of what is shown do not reach the terminal. Deliberately absent:
//! colours, borders, and cutting what is long.

/// A table, line by line, under its heading.
pub fn table(heading: &[&str], lines: &[Vec<String>]) -> String {
    let clean = |cell: &str| -> String { cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect() };
    let lines: Vec<Vec<String>> = lines
        .iter()
        .map(|line| line.iter().map(|cell| clean(cell)).collect())
        .collect();
    let cell = |line: &[String], column: usize| line.get(column).map_or(0, |cell| cell.chars().count());
    let columns: Vec<(usize, bool)> = (0..heading.len())
        .map(|column| {
            let width = lines.iter().map(|line| cell(line, column)).max().unwrap_or(0);
            let numbers = lines.iter().filter_map(|line| line.get(column)).filter(|cell| !cell.is_empty());
            let mut numbers = numbers.peekable();
            let is_numeric = numbers.peek().is_some() && numbers.all(|cell| is_number(cell));
            (width.max(heading[column].chars().count()), is_numeric)
        })
        .collect();
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    for line in std::iter::once(&heading).chain(&lines) {
        let mut row = String::new();
        for (cell, (width, is_numeric)) in line.iter().zip(&columns) {
            let width = *width;
            row.push_str(&if *is_numeric {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            });
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn is_number(cell: &str) -> bool {
    cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let lines = [
            vec!["press-line-2".to_owned(), "12".to_owned(), "0.5".to_owned()],
            vec!["ä\u{1b}[2J".to_owned(), "1200".to_owned(), String::new()],
        ];
        let expected = "NAME          REQUESTS  USD\npress-line-2        12  0.5\nä?[2J             1200\n";
        assert_eq!(table(&["NAME", "REQUESTS", "USD"], &lines), expected);
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
    }
}
