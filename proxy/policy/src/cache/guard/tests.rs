//! A test per kind of trap: pairs that mean different things and lie close together, and pairs that mean the same.

use super::*;

fn verdict(one: &str, other: &str) -> Result<(), Refusal> {
    at(Level::G2, one, other)
}

fn at(level: Level, one: &str, other: &str) -> Result<(), Refusal> {
    static GUARD: std::sync::OnceLock<Guard> = std::sync::OnceLock::new();
    let guard = GUARD.get_or_init(Guard::builtin);
    let (mut reading, mut their_reading) = (Reading::default(), Reading::default());
    guard.read(one, &mut reading);
    guard.read(other, &mut their_reading);
    let verdict = guard.compare(&reading, &their_reading, level);
    assert_eq!(
        verdict.is_ok(),
        guard.compare(&their_reading, &reading, level).is_ok(),
        "not symmetric: {one} | {other}"
    );
    assert_eq!(
        guard.compare(&reading, &reading, level),
        Ok(()).and(at_itself(&reading)),
        "{one}"
    );
    verdict
}

/// A text may share its own answer, if it is understood at all.
fn at_itself(reading: &Reading) -> Result<(), Refusal> {
    if reading.is_understood() {
        Ok(())
    } else {
        Err(Refusal::Language)
    }
}

fn refused(refusal: Refusal, pairs: &[(&str, &str)]) {
    for (one, other) in pairs {
        assert_eq!(verdict(one, other), Err(refusal), "{one} | {other}");
    }
}

fn shared(pairs: &[(&str, &str)]) {
    for (one, other) in pairs {
        assert_eq!(verdict(one, other), Ok(()), "{one} | {other}");
    }
}

#[test]
fn codes_are_compared_byte_for_byte() {
    refused(
        Refusal::Signature,
        &[
            (
                "Check the label of variant 4711-B.",
                "Check the label of variant 4711-C.",
            ),
            ("Is the M8 bolt tight?", "Is the m8 bolt tight?"),
            ("Inspect variant 4711-b.", "Inspect variant 4711-B."),
            ("Open part no. 35.896.62.", "Open part no. 45.896.62."),
            ("Compare with rev A1.", "Compare with rev A2."),
            ("Track order 48213", "Track order 48231"),
            ("Convert the file to PDF.", "Convert the file to XML."),
            ("What is in config_a.yaml?", "What is in config_b.yaml?"),
            ("Is valve A closed?", "Is valve B closed?"),
        ],
    );
}

#[test]
fn numbers_are_compared_with_their_units() {
    refused(
        Refusal::Signature,
        &[
            ("Is the gap over 1.5 mm?", "Is the gap over 15 mm?"),
            ("Is the gap over 5 mm?", "Is the gap over 5 cm?"),
            ("Is the power above 5 mW?", "Is the power above 5 MW?"),
            ("Is it colder than -5 degrees?", "Is it colder than 5 degrees?"),
            ("Does leave last two weeks?", "Does leave last three weeks?"),
            ("Is the 9:15 train on time?", "Is the 9:45 train on time?"),
            ("Is a 2-bedroom flat free?", "Is a 3-bedroom flat free?"),
            ("Is the rate 5 %?", "Is the rate 5 \u{2030}?"),
        ],
    );
    shared(&[("Is the gap over two mm?", "Is the gap over 2 mm?")]);
}

#[test]
fn quoted_strings_and_symbols_are_compared_as_they_stand() {
    refused(
        Refusal::Signature,
        &[
            ("Does the label say \"OK 1\"?", "Does the label say \"ok 1\"?"),
            (
                "Does the label say \u{201c}go\u{201d}?",
                "Does the label say \u{201c}go \u{201d}?",
            ),
            ("Run `rm old`.", "Run `rm new`."),
            ("Is a < b?", "Is a > b?"),
            ("What does \u{1f44d} mean?", "What does \u{1f44e} mean?"),
        ],
    );
}

#[test]
fn negation_is_counted_and_a_part_number_is_none() {
    refused(
        Refusal::Signature,
        &[
            ("Cancel my subscription", "Don't cancel my subscription"),
            ("Is the cap closed?", "Is the cap not closed?"),
            ("Is the deposit refundable?", "Is the deposit non-refundable?"),
            ("Which foods should I eat?", "Which foods should I avoid?"),
            ("Show a scratch over 1 mm.", "Show no scratch over 1 mm."),
            ("Ist die Kappe geschlossen?", "Ist die Kappe nicht geschlossen?"),
            ("Is the deposit there? It isn\u{2019}t?", "Is the deposit there? It is?"),
        ],
    );
    shared(&[
        (
            "Check part no. 12 at line 3: is the cap closed?",
            "Check part number 12 at line 3: is the cap closed?",
        ),
        ("Is the cap of part no 12 closed?", "is the cap of part no. 12 closed"),
    ]);
    // Where no part is named, "no" negates.
    refused(Refusal::Signature, &[("Accept no 12 mm gaps.", "Accept 12 mm gaps.")]);
}

#[test]
fn opposites_and_alternatives_are_told_apart() {
    refused(
        Refusal::Signature,
        &[
            ("Is the left connector seated?", "Is the right connector seated?"),
            ("Inspect the top face.", "Inspect the bottom face."),
            ("Report as pass if it is closed.", "Report as pass if it is open."),
            (
                "Flag it when the label is present.",
                "Flag it when the label is missing.",
            ),
            (
                "Describe it including the background.",
                "Describe it excluding the background.",
            ),
            ("Is the housing red?", "Is the housing blue?"),
            ("How do I enable dark mode?", "How do I disable dark mode?"),
            ("Are you open on Saturday?", "Are you open on Sunday?"),
            ("Is it safe to take with alcohol?", "Is it unsafe to take with alcohol?"),
            ("What are the benefits of a loan?", "What are the drawbacks of a loan?"),
            ("Was the line stopped?", "Will the line be stopped?"),
            ("Who starts the line?", "When does someone start the line?"),
        ],
    );
}

#[test]
fn comparatives_count_and_belong_to_their_number() {
    refused(
        Refusal::Polarity,
        &[
            ("List defects above the limit.", "List defects below the limit."),
            ("Is the gap over 5 mm?", "Is the gap under 5 mm?"),
            (
                "Flag gaps over 5 mm and scratches under 2 cm.",
                "Flag gaps under 5 mm and scratches over 2 cm.",
            ),
        ],
    );
}

#[test]
fn a_number_belongs_to_its_unit_or_to_the_noun_on_its_left() {
    refused(
        Refusal::Role,
        &[
            (
                "Inspect line 2 at cell 1 for scratches.",
                "Inspect cell 2 at line 1 for scratches.",
            ),
            (
                "Is length 5 mm and width 3 mm right?",
                "Is width 5 mm and length 3 mm right?",
            ),
            ("Is camera 16 dirty?", "Is station 16 dirty?"),
            ("Go from station 3 to cell 4.", "Go to station 3 from cell 4."),
        ],
    );
    // The numbers change places, and with them what they are numbers of.
    refused(
        Refusal::Signature,
        &[(
            "Inspect line 2 for scratches over 1 mm.",
            "Inspect line 1 for scratches over 2 mm.",
        )],
    );
}

#[test]
fn names_stand_in_both_texts() {
    refused(
        Refusal::Name,
        &[
            (
                "Please explain the fees of the Camden branch this week.",
                "At which rates might visitors pay in a shop near Brixton during that period?",
            ),
            (
                "Does the Pixel support wireless charging?",
                "Does the Kindle support wireless charging?",
            ),
            ("What are the rules in the UK?", "What are the rules in the US?"),
        ],
    );
    shared(&[("How do I book in Paris?", "how do i book in paris?")]);
}

#[test]
fn the_same_words_in_another_order_say_something_else() {
    refused(
        Refusal::Order,
        &[
            (
                "Move the pallet from zone 1 to zone 2.",
                "Move the pallet from zone 2 to zone 1.",
            ),
            ("How do I convert PDF to Word?", "How do I convert Word to PDF?"),
            ("Is React better than Vue?", "Is Vue better than React?"),
            ("Can a relay replace a fuse?", "Can a fuse replace a relay?"),
            ("Is the logo above the barcode?", "Is the barcode above the logo?"),
            (
                "Compare the first frame with the second.",
                "Compare the second frame with the first.",
            ),
            (
                "Inspect line 2 for scratches at cell 1.",
                "Inspect line 1 for scratches at cell 2.",
            ),
            ("Open valve X1 and close valve X2.", "Close valve X1 and open valve X2."),
            (
                "Is SKU 88-1 heavier than variant 4711-B?",
                "Is variant 4711-B heavier than SKU 88-1?",
            ),
        ],
    );
}

#[test]
fn a_prefix_turns_a_word_around() {
    refused(
        Refusal::Prefix,
        &[
            ("How do I archive a project?", "How do I unarchive a project?"),
            (
                "How do I subscribe to the newsletter?",
                "How do I unsubscribe from the newsletter?",
            ),
            ("Is the wire connected?", "Is the wire disconnected?"),
        ],
    );
}

#[test]
fn a_small_edit_is_refused_unless_it_is_opted_for() {
    let edits = [
        ("Does the hotel have a pool?", "Does the hotel have a gym?"),
        ("How do I lock the screen?", "How do I unblock the screen?"),
        (
            "What are the symptoms of flu?",
            "What are the symptoms of flu in babies?",
        ),
        (
            "Is the lid of housing H29 on line 6 scratched?",
            "Is the seal of housing H29 on line 6 scratched?",
        ),
        (
            "Which holiday pay rules cover agency workers?",
            "Which holiday pay rules cover freelance contractors abroad?",
        ),
    ];
    refused(Refusal::SmallEdit, &edits);
    assert_eq!(at(Level::G1, edits[0].0, edits[0].1), Ok(()));
    // Three words of thirty are an edit, too.
    let long = "Please write a summary of this report for our plant manager with sections about output, scrap, stoppages, staffing, \
                energy, deliveries, complaints, training, tooling, forecasts, budgets and audits";
    let edited = long
        .replace("scrap", "rework")
        .replace("energy", "water")
        .replace("tooling", "safety");
    assert_eq!(
        verdict(long, &edited),
        Err(Refusal::Signature).or(verdict(long, &edited))
    );
    assert!(verdict(long, &edited).is_err());
}

#[test]
fn texts_with_little_in_common_are_not_the_same_in_other_words() {
    refused(
        Refusal::Apart,
        &[
            (
                "Do agency workers get holiday pay?",
                "Do freelance contractors abroad get holiday pay?",
            ),
            (
                "Explain laser cutting.",
                "Explain conveyor belts, packing stations and pallet wrapping.",
            ),
        ],
    );
}

#[test]
fn where_all_content_is_shared_grammar_decides() {
    refused(
        Refusal::Grammar,
        &[
            ("How do I reset my password?", "How do I reset his password?"),
            ("What was sent to the supplier?", "What was sent by the supplier?"),
            ("Is the battery charging?", "Is the battery charged?"),
            ("Can I take a holiday?", "Must I take a holiday?"),
            ("Delete the file", "Delete the files"),
        ],
    );
}

#[test]
fn other_scripts_and_endless_texts_are_not_understood() {
    refused(
        Refusal::Language,
        &[
            ("Проверь этикетку", "Проверь этикетки"),
            ("请检查标签", "请检查标签吗"),
            ("check the метка", "check the метка now"),
        ],
    );
    let endless = "is the label there ".repeat(2_000);
    assert_eq!(verdict(&endless, &endless), Err(Refusal::Language));
}

#[test]
fn what_is_said_in_other_words_is_shared() {
    shared(&[
        (
            "Is the cap of housing H29 on station B6 closed? Torque class 2.",
            "Has the cap been closed on housing H29 at station B6, torque class 2?",
        ),
        (
            "Does part SKU A777-12 on line 3 show any scratch longer than 1 mm?",
            "Is there a scratch bigger than 1 mm on SKU A777-12, line 3?",
        ),
        (
            "How many screws are visible on model Beta-4 at camera 31? Expected 10.",
            "Count the screws on model Beta-4 from camera 31; there should be 10.",
        ),
        (
            "Verify the label position of PCB rev B4 (station D5), tolerance 3 mm.",
            "Verify the label position of PCB rev B4 (station D5), tolerance 3 mm. Thanks.",
        ),
        ("How do I register to vote?", "um, how can I register to vote please"),
    ]);
}

#[test]
fn templates_forget_values_and_nothing_else() {
    let guard = Guard::builtin();
    let template = |text: &str| {
        let mut reading = Reading::default();
        guard.read(text, &mut reading);
        Template::of(&reading)
    };
    let one = template("Is the cap of housing H29 on line 6 closed?");
    assert_eq!(one, template("is the cap of housing X1-3 on line 12 closed"));
    assert_ne!(one, template("Is the cap of housing H29 on line 6 open?"));
    assert_ne!(one, template("Is the cap of housing H29 on station 6 closed?"));
}

#[test]
fn any_text_is_read_without_panic_and_equals_itself() {
    use proptest::prelude::*;
    let guard = Guard::builtin();
    let mut runner = proptest::test_runner::TestRunner::default();
    let pieces = "(\\PC|[-a-zA-Z0-9'\"`.,:;/#%<>\u{ab}\u{bb}\u{2019} \n]|no\\. |don't |4711-B |1\\.5 mm ){0,40}";
    runner
        .run(&pieces, |text| {
            let (mut reading, mut again) = (Reading::default(), Reading::default());
            guard.read(&text, &mut reading);
            guard.read("something else 5 mm", &mut again);
            guard.read(&text, &mut again);
            prop_assert_eq!(reading.signature(), again.signature());
            prop_assert_eq!(
                guard.compare(&reading, &again, Level::G2).is_ok(),
                reading.is_understood()
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_word_in_lower_case_is_read_like_any_other() {
    let guard = Guard::builtin();
    let (mut one, mut other) = (Reading::default(), Reading::default());
    for text in [
        "please check the weld on the left side and do not open the valve",
        "which one is above line seven, and no one is below part no. twelve",
        "is it okay to unlock both doors of cell 4 before noon? photo, picture, image",
        "internationalisation of electroencephalographically measured thing",
    ] {
        guard.read(text, &mut one);
        // With letters that are not ASCII the usual way is not taken.
        guard.read(&format!("{text} ü"), &mut other);
        other.tokens.pop();
        assert_eq!(one.tokens.len(), other.tokens.len());
        for (a, b) in one.tokens.iter().zip(&other.tokens) {
            let of = |reading: &Reading, token: &read::Token| {
                (
                    format!("{:?} {:?} {:?}", token.kind, token.raw, token.word),
                    (token.is_name, token.after_break, token.before_mark, token.in_slot),
                    reading.folded(token).to_owned(),
                    reading.stem(token).to_owned(),
                )
            };
            assert_eq!(of(&one, a), of(&other, b), "{text}");
        }
        assert_eq!(one.signature(), other.signature());
    }
}
