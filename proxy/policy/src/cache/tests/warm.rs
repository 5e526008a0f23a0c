//! Snapshots: what a restart keeps, and what is refused.

use super::super::snapshot::{Snapshot, SnapshotError};
use super::*;

fn filled() -> Cache {
    let mut cache = with(ONE);
    cache.insert(entry(query("something without any meaning to match"), "no", NOW), NOW);
    let Outcome::Hit(hit) = look(&mut cache, &mut query(OTHER), &rules()) else {
        panic!("not served")
    };
    cache.settle(&hit, true);
    cache.bump("office", Some("variant=a"));
    cache
}

#[test]
fn a_restart_keeps_answers_evidence_checks_and_epochs() {
    let mut before = filled();
    let bytes: Bytes = before.snapshot().encode(brain()).into();
    let snapshot = Snapshot::decode(&bytes, brain()).unwrap();
    let mut after = cache();
    after.restore(&snapshot);
    for entry in snapshot.entries {
        assert!(after.insert(entry, NOW));
    }
    assert_eq!(after.size().entries, 2);
    let careful = Rules {
        agreements: 1,
        ..rules()
    };
    assert_eq!(
        served(look(&mut after, &mut query(ONE), &careful)).unwrap().0,
        By::Exact
    );
    assert_eq!(
        served(look(&mut after, &mut query(OTHER), &careful)).unwrap().0,
        By::Meaning
    );
    let namespace = brain().namespace("plant", "r");
    assert_eq!(after.audits().of(namespace), before.audits().of(namespace));
    assert_eq!(after.audits().of(namespace).checks, 1);
    assert_eq!(
        after.epoch("office", ["variant=a"]),
        before.epoch("office", ["variant=a"])
    );
    assert_eq!(after.epoch("office", ["variant=a"]), 1);
}

#[test]
fn what_is_damaged_cut_or_foreign_is_refused_as_a_whole() {
    let bytes = filled().snapshot().encode(brain());
    let error = |bytes: Vec<u8>, brain: &Brain| Snapshot::decode(&bytes.into(), brain).err();
    assert_eq!(error(bytes.clone(), brain()), None);
    assert_eq!(error(Vec::new(), brain()), Some(SnapshotError::Magic));
    for len in [8, 71, 72, 100, bytes.len() - 1] {
        assert!(error(bytes[..len].to_vec(), brain()).is_some(), "{len}");
    }
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(error(damaged, brain()).is_some(), "{at}");
    }
    let foreign = Brain::new(Secret::new([1; 32]));
    assert_eq!(error(bytes.clone(), &foreign), Some(SnapshotError::Damaged));
    // Whole, and of this installation, but made with another embedding.
    let mut outdated = bytes[..bytes.len() - 32].to_vec();
    outdated[8] ^= 1;
    let hash = brain().secret.hasher("snapshot").update(&outdated).finalize();
    outdated.extend(hash.as_bytes());
    assert_eq!(error(outdated, brain()), Some(SnapshotError::Outdated));
}

#[test]
fn an_expired_entry_is_not_taken_over() {
    let bytes: Bytes = filled().snapshot().encode(brain()).into();
    let snapshot = Snapshot::decode(&bytes, brain()).unwrap();
    let mut after = cache();
    assert!(!after.insert(snapshot.entries[0].clone(), NOW + HOUR + 1));
}
