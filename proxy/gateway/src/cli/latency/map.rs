//! Heat-maps of histograms: how times are spread, and how that changes while it is looked at.
//!
//! Invariants: shades are logarithmic, so that one in a thousand is still seen; nothing is wider than what it shows, nor higher than there
//! is room for. Deliberately absent: what is counted (`latency.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Buckets, Counts, MAPPED, NAME_WIDTH, shown_us};

/// From the lightest to the darkest, where there are no colours.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];
/// The same in colours of the 256-colour palette.
const COLOURS: [u8; 6] = [17, 19, 27, 45, 220, 196];
/// Columns of one power of two in [`spread`]: enough for a label over every second.
const CELL: usize = 4;
/// Rows of a map that are not of times.
const TITLE_ROWS: usize = 2;

/// One row for each histogram, one column for each power of two.
pub fn spread(all: &Counts, colours: bool) -> String {
    let rows: Vec<(String, BTreeMap<u32, u64>)> = all
        .iter()
        .map(|((place, name), buckets)| (format!("{name} {}", MAPPED[*place]), octaves(Some(buckets))))
        .collect();
    let Some((low, high)) = ends(rows.iter().map(|(_, row)| row)) else {
        return String::new();
    };
    const TITLE: &str = "how times are spread, from";
    let widths = rows.iter().map(|(name, _)| name.chars().count());
    let width = widths.fold(NAME_WIDTH.max(TITLE.len()), usize::max);
    // Writing to a string cannot fail.
    let mut text = String::new();
    let _ = write!(text, "\n{TITLE:<width$} ");
    for octave in (low..=high).step_by(2) {
        let _ = write!(text, "{:<1$}", shown_us(1 << octave), 2 * CELL);
    }
    text.push('\n');
    for (name, row) in rows {
        let most = row.values().copied().max().unwrap_or(1);
        let _ = write!(text, "{name:<width$} ");
        for octave in low..=high {
            text.push_str(&cell(row.get(&octave).copied().unwrap_or(0), most, colours, CELL));
        }
        text.push('\n');
    }
    text
}

/// One map for each histogram, as many as fit into so many rows: a column for each look, the newest at the right; a row for each power of
/// two, the slowest above.
pub fn over_time(history: &[Counts], room: usize, colours: bool) -> String {
    let names: BTreeSet<&(usize, String)> = history.iter().flat_map(BTreeMap::keys).collect();
    let (mut text, mut used, mut left_out) = (String::new(), 0, 0);
    for name in names {
        let columns: Vec<BTreeMap<u32, u64>> = history.iter().map(|look| octaves(look.get(name))).collect();
        let Some((low, high)) = ends(columns.iter()) else {
            continue;
        };
        let height = (high - low) as usize + 1 + TITLE_ROWS;
        // One row is kept to say how many are left out.
        if used + height >= room {
            left_out += 1;
            continue;
        }
        used += height;
        let most = columns.iter().flat_map(BTreeMap::values).copied().max().unwrap_or(1);
        let _ = writeln!(text, "\n{} {} (darkest: {most} in one look)", name.1, MAPPED[name.0]);
        for octave in (low..=high).rev() {
            let _ = write!(text, "{:>9} ", shown_us(1 << octave));
            for column in &columns {
                text.push_str(&cell(column.get(&octave).copied().unwrap_or(0), most, colours, 1));
            }
            text.push('\n');
        }
    }
    if left_out > 0 {
        let _ = writeln!(
            text,
            "{left_out} more do not fit; --of WHAT chooses, a larger terminal shows them"
        );
    }
    text
}

/// Rows of the terminal that standard output is.
pub fn rows() -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure is what the kernel writes to, and outlives the call.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (asked == 0 && size.ws_row > 0).then_some(size.ws_row.into())
}

/// The lowest and the highest power of two that anything is in.
fn ends<'a>(all: impl Iterator<Item = &'a BTreeMap<u32, u64>> + Clone) -> Option<(u32, u32)> {
    let keys = all.flat_map(BTreeMap::keys).copied();
    Some((keys.clone().min()?, keys.max()?))
}

/// Counts by power of two.
fn octaves(buckets: Option<&Buckets>) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    for (&bound, &count) in buckets.into_iter().flatten() {
        *all.entry(bound.max(1).ilog2()).or_insert(0) += count;
    }
    all
}

/// A count as a shade of so many columns.
fn cell(count: u64, most: u64, colours: bool, width: usize) -> String {
    if count == 0 {
        return " ".repeat(width);
    }
    let steps = if colours { COLOURS.len() } else { SHADES.len() };
    let share = (count as f64).ln_1p() / (most as f64).ln_1p();
    let step = ((share * steps as f64).ceil() as usize).clamp(1, steps) - 1;
    if colours {
        format!("\x1b[48;5;{}m{}\x1b[0m", COLOURS[step], " ".repeat(width))
    } else {
        SHADES[step].to_string().repeat(width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bound: u64, count: u64) -> Counts {
        let other = Buckets::from([(64, 1)]);
        Counts::from([
            ((0, "upstream x".to_owned()), Buckets::from([(bound, count)])),
            ((1, "upstream x".to_owned()), other),
        ])
    }

    #[test]
    fn a_map_has_a_row_for_each_power_of_two_and_a_column_for_each_look() {
        let map = over_time(&[look(1_024, 1), look(4_096, 100)], usize::MAX, false);
        let lines: Vec<&str> = map.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[0], "upstream x first_byte (darkest: 100 in one look)");
        assert_eq!(lines[1..4], ["    4.1ms  █", "    2.0ms   ", "    1.0ms ░ "], "{map}");
        assert_eq!(
            lines[4..],
            ["upstream x ready_wait (darkest: 1 in one look)", "     64us ██"],
            "{map}"
        );
    }

    #[test]
    fn maps_that_do_not_fit_are_left_out_and_counted() {
        let looks = [look(1_024, 1), look(4_096, 100)];
        for (room, maps, more) in [(0, 0, "2 more"), (6, 1, "1 more"), (9, 2, "")] {
            let map = over_time(&looks, room, false);
            assert_eq!(map.matches("darkest").count(), maps, "{map}");
            assert!(map.lines().count() <= room.max(1), "{map}");
            assert!(map.contains(more) && map.contains("more") == (maps < 2), "{map}");
        }
    }

    #[test]
    fn a_spread_has_a_row_for_each_histogram() {
        let text = spread(&look(1_024, 7), false);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].ends_with(" 64us    256us   1.0ms   "), "{text}");
        assert!(
            lines[1].starts_with("upstream x first_byte") && lines[1].ends_with("████"),
            "{text}"
        );
        assert!(
            lines[2].starts_with("upstream x ready_wait") && lines[2].contains(" ████ "),
            "{text}"
        );
        assert_eq!(spread(&Counts::new(), false), "");
    }
}
