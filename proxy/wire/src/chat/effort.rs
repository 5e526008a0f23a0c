//! Reasoning effort in words and in tokens, each from the other.
//!
//! Invariant: both directions read one table, and an effort survives the way there and back. Deliberately absent: what a
//! word means to a particular model; no provider publishes that.

/// (effort, thinking budget in tokens), ascending. 1,024 is the least that Claude takes.
const EFFORTS: &[(&str, u64)] = &[
    ("minimal", 1024),
    ("low", 2048),
    ("medium", 8192),
    ("high", 24_576),
    ("xhigh", 32_768),
    ("max", 65_536),
];

/// The thinking budget for an effort; `None` for `none` and for an unknown word.
pub fn budget_for_effort(effort: &str) -> Option<u64> {
    EFFORTS
        .iter()
        .find(|(word, _)| *word == effort)
        .map(|(_, budget)| *budget)
}

/// The effort for a thinking budget: the least that allows it. Never more than `high`, which every reasoning model knows.
pub fn effort_for_budget(budget: u64) -> &'static str {
    EFFORTS
        .iter()
        .take(3)
        .find(|(_, tokens)| budget <= *tokens)
        .map_or("high", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_efforts_that_every_model_knows_survive_the_way_there_and_back() {
        for effort in ["minimal", "low", "medium", "high"] {
            assert_eq!(effort_for_budget(budget_for_effort(effort).unwrap()), effort);
        }
        assert_eq!(
            (
                budget_for_effort("none"),
                effort_for_budget(1),
                effort_for_budget(1 << 40)
            ),
            (None, "minimal", "high")
        );
    }
}
