//! Plots as hand-written SVG: bars of CPU time, lines of latency percentiles.
//!
//! No plotting library: two kinds of plot need a page of code, and the files stay small and diffable.

use std::fmt::Write;

use super::Outcome;
use super::scenario::Per;
use super::subject::Name;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 58.0;
const BAR: f64 = 30.0;
const LINES_HEIGHT: f64 = 420.0;
const BOTTOM: f64 = 50.0;

/// The quantile a percentile line ends at: beyond it a run has too few requests to say anything.
const QUANTILE_LAST: f64 = 0.999;

/// The plots of one scenario: file name and content.
#[must_use]
pub fn of(outcome: &Outcome) -> Vec<(String, String)> {
    let name = outcome.scenario.name;
    let mut plots = Vec::new();
    if let Some(svg) = cpu_bars(outcome) {
        plots.push((format!("{name}-cpu.svg"), svg));
    }
    if let Some(svg) = percentile_lines(outcome) {
        plots.push((format!("{name}-latency.svg"), svg));
    }
    plots
}

fn colour(name: Name) -> &'static str {
    match name {
        Name::Gateway => "#d1495b",
        Name::Base | Name::Uncounted | Name::GatewayBare | Name::GatewayTraced => "#777777",
        Name::GatewayTls => "#8d2f3d",
        Name::L4 => "#4d4d4d",
        Name::Direct => "#a0a0a0",
        Name::Nginx => "#2e8b57",
        Name::Haproxy => "#2f6f9f",
        Name::Monoio => "#e09f3e",
        Name::Glommio => "#8a6fb0",
        Name::Tokio => "#5fb3b3",
    }
}

/// Opens an SVG with a title over what was measured; neither holds a character that needs escaping.
fn open(height: f64, title: &str, what: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">{title}</text>\n\
         <text x=\"16\" y=\"42\" fill=\"#666\">{what}</text>\n"
    )
}

fn cpu_bars(outcome: &Outcome) -> Option<String> {
    let bars: Vec<(Name, f64, f64)> = outcome
        .scenario
        .subjects
        .iter()
        .filter_map(|&name| {
            let total = outcome.median(name, |sample| (sample.cpu_us > 0.0).then_some(sample.cpu_us))?;
            Some((name, total, outcome.median(name, |sample| Some(sample.cpu_user_us))?))
        })
        .collect();
    let most = bars.iter().map(|bar| bar.1).reduce(f64::max)?;
    let unit = if outcome.scenario.per == Per::Chunk {
        "chunk"
    } else {
        "request"
    };
    let title = format!("CPU time per {unit} in µs (dark: in user mode)");
    let mut svg = open(TOP + BAR * bars.len() as f64 + 12.0, &title, outcome.scenario.what);
    for (row, (name, total, user)) in bars.iter().enumerate() {
        let y = TOP + BAR * row as f64;
        let scale = (WIDTH - LEFT - RIGHT) / most;
        let (width, dark, fill) = (total * scale, user * scale, colour(*name));
        let (text_x, text_y) = (LEFT + width + 6.0, y + 15.0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{text_y:.0}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"22\" fill=\"{fill}\" opacity=\"0.55\"/>\n\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{dark:.1}\" height=\"22\" fill=\"{fill}\"/>\n\
             <text x=\"{text_x:.0}\" y=\"{text_y:.0}\">{total:.2}</text>",
            LEFT - 8.0,
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A quantile on the horizontal axis: each nine takes the same room.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn percentile_lines(outcome: &Outcome) -> Option<String> {
    let key = if outcome.scenario.is_stream() {
        "first_token_us"
    } else {
        "latency_us"
    };
    let lines: Vec<(Name, Vec<(f64, f64)>)> = outcome
        .scenario
        .subjects
        .iter()
        .map(|&name| (name, median_line(outcome, name, key)))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    let values = || lines.iter().flat_map(|(_, line)| line.iter().map(|point| point.1));
    let marks = marks(values().reduce(f64::min)?, values().reduce(f64::max)?);
    let (low, high) = (marks.first()?.log10(), marks.last()?.log10());
    let x = |quantile: f64| LEFT + nines(quantile) / nines(QUANTILE_LAST) * (WIDTH - LEFT - RIGHT);
    let y = |micros: f64| {
        let share = (micros.max(marks[0]).log10() - low) / (high - low);
        LINES_HEIGHT - BOTTOM - share * (LINES_HEIGHT - BOTTOM - TOP)
    };
    let what = if outcome.scenario.is_stream() {
        "Time to first token"
    } else {
        "Latency"
    };
    let mut svg = open(LINES_HEIGHT, &format!("{what} by percentile"), outcome.scenario.what);
    grid(&mut svg, &marks, &x, &y);
    for (row, (name, line)) in lines.iter().enumerate() {
        let points: Vec<String> = line
            .iter()
            .map(|(q, micros)| format!("{:.1},{:.1}", x(*q), y(*micros)))
            .collect();
        let (points, fill) = (points.join(" "), colour(*name));
        let stroke = if *name == Name::Gateway { 3.5 } else { 2.0 };
        let (legend_x, legend_y) = (WIDTH - RIGHT + 14.0, TOP + 18.0 * row as f64 + 10.0);
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{fill}\" stroke-width=\"{stroke}\"/>\n\
             <text x=\"{legend_x:.0}\" y=\"{legend_y:.0}\" fill=\"{fill}\">{name}</text>",
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// The marks of a logarithmic axis (1, 2, 5, 10, 20, …) from the last one at or below `least` to the first at or above
/// `most`, both in microseconds; at least two.
fn marks(least: f64, most: f64) -> Vec<f64> {
    let all: Vec<f64> = (0..=8)
        .flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(e)))
        .collect();
    let first = all.iter().rposition(|mark| *mark <= least).unwrap_or(0);
    let last = all.iter().position(|mark| *mark >= most).unwrap_or(all.len() - 1);
    all[first.min(all.len() - 2)..=last.max(first + 1).min(all.len() - 1)].to_vec()
}

/// Microseconds in the unit that keeps them short.
fn time(micros: f64) -> String {
    match micros {
        s if s >= 1e6 => format!("{} s", s / 1e6),
        ms if ms >= 1e3 => format!("{} ms", ms / 1e3),
        us => format!("{us} µs"),
    }
}

fn grid(svg: &mut String, marks: &[f64], x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let right = WIDTH - RIGHT;
    for &micros in marks {
        let (label, at) = (time(micros), y(micros));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.0,
        );
    }
    for (quantile, label) in [(0.0, "min"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9")] {
        let (at, bottom) = (x(quantile), LINES_HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#eee\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0,
        );
    }
    let (middle, foot) = ((LEFT + right) / 2.0, LINES_HEIGHT - 10.0);
    let _ = writeln!(
        svg,
        "<text x=\"{middle:.0}\" y=\"{foot:.0}\" fill=\"#666\" text-anchor=\"middle\">percentile</text>"
    );
}

/// The median over the rounds of each point of the generator's percentile line.
fn median_line(outcome: &Outcome, name: Name, key: &str) -> Vec<(f64, f64)> {
    let rounds: Vec<Vec<(f64, f64)>> = outcome
        .of(name)
        .filter_map(|sample| {
            let points = sample.load.get(key)?.get("line")?.as_array()?;
            points
                .iter()
                .map(|point| Some((point.get(0)?.as_f64()?, point.get(1)?.as_f64()?)))
                .collect()
        })
        .collect();
    let Some(first) = rounds.first() else { return Vec::new() };
    let within = first.iter().enumerate().filter(|(_, point)| point.0 <= QUANTILE_LAST);
    within
        .filter_map(|(index, point)| {
            let values = rounds.iter().filter_map(|round| Some(round.get(index)?.1)).collect();
            Some((point.0, super::judge::median(values)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_its_values_between_round_marks() {
        assert_eq!(marks(340.0, 9_000.0), [200.0, 500.0, 1e3, 2e3, 5e3, 1e4]);
        assert_eq!(marks(100.0, 100.0), [100.0, 200.0]);
        assert_eq!(marks(0.2, 0.3), [1.0, 2.0]);
        assert_eq!(marks(1e12, 1e12).len(), 2);
        assert_eq!([time(50.0), time(2e3), time(5e6)], ["50 µs", "2 ms", "5 s"]);
    }
}
