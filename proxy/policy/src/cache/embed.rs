//! Texts into vectors of 128 small integers: a table lookup per word piece, a sum, a scaling.
//!
//! Invariants: integer arithmetic up to the last scaling, in an order that does not depend on the machine, so that a text has
//! one vector everywhere and vectors may be stored and shared; no allocation once the scratch memory has grown. A vector
//! *ranks* candidates and never decides that two texts mean the same: that is `guard`'s part. Deliberately absent: truncation
//! (the caller bounds the text by [`CACHE_TEXT_BYTES_MAX`]), special tokens, and attention.

mod unicode;
mod wordpiece;

use std::fmt;

pub use wordpiece::{Pieces, Vocabulary};

use sluice_lanes::{Work, widest};
use sluice_wire::limits::CACHE_TEXT_BYTES_MAX;

/// Numbers in a vector.
pub const DIMENSIONS: usize = 128;
/// The embedding that the product carries (its layout: [`Model::parse`]; where it comes from: `model/README.md`).
const MODEL: &[u8] = include_bytes!("../../model/static128_i8.bin");
/// Its vocabulary, one piece a line.
const VOCABULARY: &str = include_str!("../../model/vocab.txt");
/// Rows that are summed in 16 bits before they are carried into 32: `16 × 2,032 < 32,768`.
const ROWS_PER_CARRY: usize = 16;
/// Largest multiplier of a row: a product with an `i8` stays within 16 bits.
const MULTIPLIER_MAX: f32 = 256.0;

/// The direction of a text, as integers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Vector(pub [i8; DIMENSIONS]);

impl Vector {
    /// From another embedding's numbers, of which there must be [`DIMENSIONS`]. `None` if there are not, or one is no number.
    pub fn of(numbers: &[f32]) -> Option<Self> {
        let numbers: &[f32; DIMENSIONS] = numbers.try_into().ok()?;
        let largest = numbers
            .iter()
            .fold(0.0_f32, |largest, number| largest.max(number.abs()));
        if !numbers.iter().all(|number| number.is_finite()) || largest == 0.0 {
            return None;
        }
        Some(Self(numbers.map(|number| (number / largest * 127.0).round() as i8)))
    }

    /// Scalar product, as an integer of at most `128 × 127²`.
    #[inline]
    pub fn dot(&self, other: &Self) -> i32 {
        dot(&self.0, &other.0)
    }

    /// One divided by the length; zero for the vector of an empty text.
    pub fn inverse_norm(&self) -> f32 {
        let square = self.dot(self);
        if square == 0 { 0.0 } else { 1.0 / (square as f32).sqrt() }
    }

    /// Cosine of the angle between two vectors, -1 to 1; 0 if one of them is of an empty text.
    pub fn cosine(&self, other: &Self) -> f32 {
        self.dot(other) as f32 * self.inverse_norm() * other.inverse_norm()
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({:?}…)", &self.0[..4])
    }
}

#[inline]
fn dot(one: &[i8; DIMENSIONS], other: &[i8; DIMENSIONS]) -> i32 {
    one.iter()
        .zip(other)
        .map(|(&a, &b)| i32::from(i16::from(a) * i16::from(b)))
        .sum()
}

/// Memory for one embedding at a time, reused.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    pieces: Pieces,
}

impl Scratch {
    /// Word pieces of the text that was embedded last.
    pub fn pieces(&self) -> &[u16] {
        self.pieces.ids()
    }
}

/// Why a model's bytes are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// Not of this layout or version.
    Layout,
    /// Rows and vocabulary are not equally many, or more than 32,767.
    Rows,
    /// A row's scale is no positive finite number.
    Scale,
    /// The vocabulary lacks `[UNK]`.
    Unknown,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layout => "not an embedding of a known layout",
            Self::Rows => "the embedding and its vocabulary differ in length",
            Self::Scale => "a row's scale is no positive number",
            Self::Unknown => "the vocabulary lacks [UNK]",
        })
    }
}

/// A table of one vector per word piece, with the vocabulary to find it by. Large: make one, share it.
#[derive(Debug)]
pub struct Model {
    vocabulary: Vocabulary,
    rows: &'static [u8],
    multipliers: Vec<i16>,
    fingerprint: [u8; 32],
}

impl Model {
    /// The embedding that the product carries.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn builtin() -> Self {
        Self::parse(MODEL, VOCABULARY).expect("the embedded model is tested")
    }

    /// From bytes: `SEM1`, then version 1, rows, dimensions and 0 as `u32`, a scale per row as `f32`, and the rows as `i8`; all
    /// little-endian. `vocabulary` has one piece a line, in the rows' order.
    ///
    /// # Errors
    /// When the bytes are not of that layout, or do not fit the vocabulary.
    pub fn parse(bytes: &'static [u8], vocabulary: &'static str) -> Result<Self, ModelError> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        let number = |at: usize| word(at).map(u32::from_le_bytes);
        let header = [number(4), number(12), number(16)];
        if bytes.get(..4) != Some(b"SEM1") || header != [Some(1), Some(DIMENSIONS as u32), Some(0)] {
            return Err(ModelError::Layout);
        }
        let count = number(8).ok_or(ModelError::Layout)? as usize;
        let rows_at = 20 + count * 4;
        if bytes.len() != rows_at + count * DIMENSIONS {
            return Err(ModelError::Layout);
        }
        let mut hasher = blake3::Hasher::new();
        let fingerprint = hasher.update(bytes).update(vocabulary.as_bytes()).finalize().into();
        let vocabulary = Vocabulary::parse(vocabulary).ok_or(ModelError::Unknown)?;
        if count != vocabulary.len() || count > i16::MAX as usize {
            return Err(ModelError::Rows);
        }
        let scales: Vec<f32> = (0..count)
            .filter_map(|row| word(20 + row * 4).map(f32::from_le_bytes))
            .collect();
        let is_scale = |scale: &f32| scale.is_finite() && *scale > 0.0;
        if !scales.iter().all(is_scale) {
            return Err(ModelError::Scale);
        }
        let largest = scales.iter().copied().fold(0.0, f32::max);
        let multiplier = |scale: &f32| (scale / largest * MULTIPLIER_MAX).round() as i16;
        Ok(Self {
            vocabulary,
            rows: &bytes[rows_at..],
            multipliers: scales.iter().map(multiplier).collect(),
            fingerprint,
        })
    }

    /// The vector of a text of at most [`CACHE_TEXT_BYTES_MAX`] bytes; a longer one is cut there, at a character.
    pub fn embed(&self, text: &str, scratch: &mut Scratch) -> Vector {
        let text = &text[..text.floor_char_boundary(CACHE_TEXT_BYTES_MAX)];
        self.vocabulary.pieces(text, &mut scratch.pieces);
        let ids = scratch.pieces.ids();
        scaled(&widest(Pool { model: self, ids }))
    }

    #[inline(always)]
    fn add_row(&self, id: u16, part: &mut [i16; DIMENSIONS]) {
        let at = usize::from(id) * DIMENSIONS;
        let (Some(row), Some(&multiplier)) = (
            self.rows.get(at..at + DIMENSIONS),
            self.multipliers.get(usize::from(id)),
        ) else {
            return;
        };
        for (part, &weight) in part.iter_mut().zip(row) {
            let product = i16::from(weight as i8).wrapping_mul(multiplier);
            *part = part.wrapping_add(product.wrapping_add(8) >> 4);
        }
    }

    /// A hash of all that a vector depends on.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

/// Sums up the rows of a text's pieces.
struct Pool<'a> {
    model: &'a Model,
    ids: &'a [u16],
}

impl Work for Pool<'_> {
    type Output = [i32; DIMENSIONS];

    #[inline(always)]
    fn run(self) -> [i32; DIMENSIONS] {
        let mut sum = [0_i32; DIMENSIONS];
        for group in self.ids.chunks(ROWS_PER_CARRY) {
            let mut part = [0_i16; DIMENSIONS];
            for &id in group {
                self.model.add_row(id, &mut part);
            }
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += i32::from(part);
            }
        }
        sum
    }
}

/// Scales so that the largest component is 127.
fn scaled(sum: &[i32; DIMENSIONS]) -> Vector {
    let largest = sum.iter().map(|value| value.unsigned_abs()).max().unwrap_or(0);
    let factor = if largest == 0 { 0.0 } else { 127.0 / largest as f32 };
    let mut vector = [0_i8; DIMENSIONS];
    for (to, &value) in vector.iter_mut().zip(sum) {
        // Adding and cutting off is rounding half away from zero, without a call into libm.
        let value = value as f32 * factor;
        *to = (value + 0.5_f32.copysign(value)) as i8;
    }
    Vector(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> &'static Model {
        static MODEL: std::sync::OnceLock<Model> = std::sync::OnceLock::new();
        MODEL.get_or_init(Model::builtin)
    }

    fn embed(text: &str) -> Vector {
        model().embed(text, &mut Scratch::default())
    }

    /// The same in floating point, straight from the definition.
    fn reference(text: &str) -> Vec<f32> {
        let mut pieces = Pieces::default();
        model().vocabulary().pieces(text, &mut pieces);
        let mut sum = vec![0.0_f32; DIMENSIONS];
        for &id in pieces.ids() {
            let at = 20 + usize::from(id) * 4;
            let scale = f32::from_le_bytes(MODEL[at..at + 4].try_into().unwrap());
            let row = 20 + model().vocabulary().len() * 4 + usize::from(id) * DIMENSIONS;
            for (sum, &weight) in sum.iter_mut().zip(&MODEL[row..]) {
                *sum += scale * f32::from(weight as i8);
            }
        }
        sum
    }

    #[test]
    fn integer_vectors_are_those_of_floating_point() {
        let texts = [
            "Is the label on housing H48 at line 2 placed correctly within 3 mm?".to_owned(),
            "a".to_owned(),
            "Überprüfe die Schweißnaht an Kamera 7 — 漢字 inclusive!".to_owned(),
            "How good is the weld seam of part no. 4711-B? ".repeat(60),
        ];
        for text in texts {
            let (vector, exact) = (embed(&text), reference(&text));
            let dot: f32 = vector.0.iter().zip(&exact).map(|(&a, b)| f32::from(a) * b).sum();
            let norm: f32 = exact.iter().map(|value| value * value).sum();
            let cosine = dot * vector.inverse_norm() / norm.sqrt();
            assert!(cosine > 0.999, "{cosine} for {text}");
        }
    }

    #[test]
    fn similar_texts_rank_before_dissimilar_ones() {
        let text = embed("Is there a scratch on the housing?");
        let near = embed("Any scratches on the housing?");
        let far = embed("How do I cancel my gym membership?");
        assert!(text.cosine(&near) > 0.8 && text.cosine(&far) < 0.4);
        assert!((text.cosine(&text) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn anothers_numbers_keep_their_direction() {
        let numbers: Vec<f32> = (0..DIMENSIONS).map(|at| (at as f32 * 0.7).sin() * 0.1).collect();
        let other: Vec<f32> = (0..DIMENSIONS).map(|at| (at as f32 * 0.71).sin() * 9.0).collect();
        let exact = |one: &[f32], other: &[f32]| {
            let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
            dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
        };
        let (vector, another) = (Vector::of(&numbers).unwrap(), Vector::of(&other).unwrap());
        assert!((vector.cosine(&another) - exact(&numbers, &other)).abs() < 0.01);
        assert_eq!(Vector::of(&numbers[1..]), None);
        assert_eq!(Vector::of(&[0.0; DIMENSIONS]), None);
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut numbers = numbers.clone();
            numbers[7] = wrong;
            assert_eq!(Vector::of(&numbers), None);
        }
    }

    #[test]
    fn an_empty_text_is_similar_to_nothing() {
        let empty = embed(" \u{200b} ");
        assert_eq!(empty.0, [0; DIMENSIONS]);
        assert_eq!((empty.cosine(&empty), empty.cosine(&embed("x"))), (0.0, 0.0));
    }

    #[test]
    fn sixteen_of_the_heaviest_rows_do_not_overflow() {
        let heaviest = (0..model().multipliers.len())
            .max_by_key(|&row| model().multipliers[row])
            .unwrap();
        let mut part = [0_i16; DIMENSIONS];
        let mut wide = [0_i32; DIMENSIONS];
        for _ in 0..ROWS_PER_CARRY {
            model().add_row(heaviest as u16, &mut part);
            for (wide, &weight) in wide.iter_mut().zip(&model().rows[heaviest * DIMENSIONS..]) {
                *wide += (i32::from(weight as i8) * i32::from(model().multipliers[heaviest]) + 8) >> 4;
            }
        }
        assert_eq!(part.map(i32::from), wide);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let long = "ä".repeat(CACHE_TEXT_BYTES_MAX);
        assert_eq!(embed(&long), embed(&long[..CACHE_TEXT_BYTES_MAX / 2 * 2]));
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let leak = |bytes: Vec<u8>| -> &'static [u8] { Vec::leak(bytes) };
        let error = |bytes: Vec<u8>, vocabulary: &'static str| Model::parse(leak(bytes), vocabulary).err();
        let mut good = b"SEM1".to_vec();
        for word in [1_u32, 2, DIMENSIONS as u32, 0] {
            good.extend(word.to_le_bytes());
        }
        good.extend([1.0_f32, 0.5].map(f32::to_le_bytes).concat());
        good.extend([1; 2 * DIMENSIONS]);
        assert_eq!(error(good.clone(), "[UNK]\na\n"), None);
        assert_eq!(error(good.clone(), "b\na\n"), Some(ModelError::Unknown));
        assert_eq!(error(good.clone(), "[UNK]\n"), Some(ModelError::Rows));
        assert_eq!(
            error(good[..good.len() - 1].to_vec(), "[UNK]\na\n"),
            Some(ModelError::Layout)
        );
        assert_eq!(error(Vec::new(), "[UNK]\na\n"), Some(ModelError::Layout));
        let mut scale = good.clone();
        scale[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(error(scale, "[UNK]\na\n"), Some(ModelError::Scale));
        good[4] = 2;
        assert_eq!(error(good, "[UNK]\na\n"), Some(ModelError::Layout));
    }
}
