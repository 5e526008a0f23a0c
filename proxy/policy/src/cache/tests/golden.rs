//! Labelled pairs through the whole decision: what may not share an answer never does, and enough of what may does.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::*;

#[test]
fn no_trap_is_answered_and_most_paraphrases_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cache/pairs.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    // Hits and pairs, by category.
    let mut table: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for line in text.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| pair[name].as_str().unwrap();
        let mut cache = with(field("a"));
        let hit = matches!(look(&mut cache, &mut query(field("b")), &rules()), Outcome::Hit(_));
        let may_share = pair["label"] == 1;
        assert!(may_share || !hit, "{}: {} | {}", field("cat"), field("a"), field("b"));
        let row = table.entry(field("cat").to_owned()).or_default();
        row[0] += usize::from(hit);
        row[1] += 1;
    }
    let at_least = |category: &str, percent: usize| {
        let [hits, pairs] = table[category];
        assert!(hits * 100 >= pairs * percent, "{category}: {hits} of {pairs}");
    };
    assert!(table.len() >= 13 && table.values().map(|row| row[1]).sum::<usize>() > 900);
    at_least("fac_para", 50);
    at_least("fac_near", 95);
    at_least("fow_near_repeat", 35);
}
