//! [`Page`]: metrics as text, in the form that the reader asks for: Prometheus' text format 0.0.4 or OpenMetrics 1.0.
//!
//! Invariants: a metric's head is written once, before its samples; label values cannot end their quotes or their line; an
//! OpenMetrics page ends with `# EOF`, and its counters are named without `_total` in their heads and with it in their samples.
//! Deliberately absent: `_created` series, which OpenMetrics leaves to the writer and which would double the page.

use std::fmt::{Display, Write as _};

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use sluice_policy::meter::Kind;
use sluice_policy::meter::catalog::Family;
use sluice_policy::meter::histogram::Sums;

/// A form of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a reader accepts (RFC 9110 §12.5.1); Prometheus' own format if it does not say that it prefers the other.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        let fields = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in fields.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let quality = parts
                .filter_map(|part| part.strip_prefix("q="))
                .filter_map(|q| q.parse::<f32>().ok())
                .next_back()
                .unwrap_or(1.0);
            let best = match kind {
                "application/openmetrics-text" => &mut open,
                "text/plain" | "text/*" => &mut plain,
                _ => continue,
            };
            *best = quality.max(*best);
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The page's media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page under construction.
pub struct Page {
    text: String,
    format: Format,
}

impl Page {
    /// An empty one.
    pub fn new(format: Format) -> Self {
        Self {
            text: String::with_capacity(64 * 1024),
            format,
        }
    }

    /// The head of a metric; its samples follow.
    pub fn head(&mut self, name: &str, kind: Kind, unit: &str, help: &str) {
        let name = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.trim_end_matches("_total"),
            _ => name,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        if self.format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    /// The same for an entry of the catalog.
    pub fn family(&mut self, family: &Family) {
        self.head(family.name, family.kind, family.unit, family.help);
    }

    /// A metric with one sample and no label.
    pub fn single(&mut self, family: &Family, value: impl Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    /// One sample; labels without a value are left out.
    pub fn sample(&mut self, family: &Family, values: &[&str], value: impl Display) {
        self.text.push_str(family.name);
        self.labels(family.labels, values, None);
        let _ = writeln!(self.text, " {value}");
    }

    /// One sample of a metric that is no entry of the catalog, with one label.
    pub fn labelled(&mut self, name: &str, label: &str, of: impl Display, value: impl Display) {
        let _ = writeln!(self.text, "{name}{{{label}=\"{of}\"}} {value}");
    }

    /// One histogram, whose values are to be multiplied by `scale`.
    pub fn histogram(&mut self, family: &Family, values: &[&str], sums: &Sums, scale: f64) {
        let bounds = sums.bounds.iter().map(|bound| *bound as f64 * scale);
        let mut seen = 0;
        for (count, bound) in sums.counts.iter().zip(bounds) {
            seen += count;
            self.bucket(family, values, &number(bound), seen);
        }
        let (count, sum) = (sums.count(), sums.sum as f64 * scale);
        self.bucket(family, values, "+Inf", count);
        self.end(family, values, sum, count);
    }

    /// One bucket of a histogram; `seen` is how many values are within its bound.
    pub fn bucket(&mut self, family: &Family, values: &[&str], bound: &str, seen: u64) {
        let _ = write!(self.text, "{}_bucket", family.name);
        self.labels(family.labels, values, Some(bound));
        let _ = writeln!(self.text, " {seen}");
    }

    /// What ends a histogram.
    pub fn end(&mut self, family: &Family, values: &[&str], sum: f64, count: u64) {
        for (suffix, value) in [("_sum", number(sum)), ("_count", count.to_string())] {
            self.text.push_str(family.name);
            self.text.push_str(suffix);
            self.labels(family.labels, values, None);
            let _ = writeln!(self.text, " {value}");
        }
    }

    /// The page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn labels(&mut self, names: &[&str], values: &[&str], bound: Option<&str>) {
        let named = names.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let all = named
            .map(|(name, value)| (*name, *value))
            .chain(bound.map(|bound| ("le", bound)));
        let mut open = '{';
        for (name, value) in all {
            self.text.push(open);
            open = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(value, &mut self.text);
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
    }
}

/// A number as both formats have it: with a point, so that a bound looks the same in both.
pub fn number(value: f64) -> String {
    // Products such as 25e-6 are not exact; twelve digits are more than any of ours has.
    let rounded: f64 = format!("{value:.12}").parse().unwrap_or(value);
    format!("{rounded:?}")
}

/// A label's value: quotes, backslashes and line breaks escaped, as the text formats demand.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_policy::meter::catalog;

    fn accepting(value: &str) -> Format {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, value.parse().unwrap());
        Format::wanted(&headers)
    }

    #[test]
    fn who_prefers_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(accepting(prometheus), Format::OpenMetrics);
        assert_eq!(
            accepting("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5"),
            Format::Prometheus
        );
        for other in ["*/*", "text/html", "application/openmetrics-text;q=0"] {
            assert_eq!(accepting(other), Format::Prometheus, "{other}");
        }
        assert_eq!(Format::wanted(&HeaderMap::new()), Format::Prometheus);
    }

    #[test]
    fn a_label_cannot_end_its_line_or_its_quotes() {
        let mut page = Page::new(Format::Prometheus);
        page.sample(&catalog::TARGET_STATE, &["a\"b\\c\nd"], 1);
        assert_eq!(page.finish(), "sluice_target_state{target=\"a\\\"b\\\\c d\"} 1\n");
    }

    #[test]
    fn the_head_of_a_counter_has_the_name_of_its_format() {
        for (format, name, end) in [
            (Format::Prometheus, "sluice_scrapes_total", ""),
            (Format::OpenMetrics, "sluice_scrapes", "# EOF\n"),
        ] {
            let mut page = Page::new(format);
            page.single(&catalog::SCRAPES, 3);
            let help = catalog::SCRAPES.help;
            let expected = format!("# HELP {name} {help}\n# TYPE {name} counter\nsluice_scrapes_total 3\n{end}");
            assert_eq!(page.finish(), expected);
        }
    }

    #[test]
    fn a_histogram_is_cumulative_and_leaves_empty_labels_out() {
        let mut page = Page::new(Format::Prometheus);
        let sums = Sums {
            bounds: &[25, 1_000_000],
            counts: vec![1, 2, 3],
            sum: 1_500_000,
        };
        page.histogram(&catalog::OPERATION_SECONDS, &["chat", "openai", "m", ""], &sums, 1e-6);
        let name = catalog::OPERATION_SECONDS.name;
        let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"m\"";
        let expected = format!(
            "{name}_bucket{{{labels},le=\"2.5e-5\"}} 1\n{name}_bucket{{{labels},le=\"1.0\"}} 3\n{name}_bucket{{{labels},le=\"+Inf\"}} 6\n\
             {name}_sum{{{labels}}} 1.5\n{name}_count{{{labels}}} 6\n"
        );
        assert_eq!(page.finish(), expected);
    }
}
