//! What one model's consumption costs: rates per item, processing tier and length of the context.
//!
//! Invariants: a [`Price`] has a standard sheet without a threshold; the worst case of a [`Bound`] is at least the cost of
//! any [`Quantities`] within it; a combination of tier and context that the provider does not list costs, item by item, the
//! more of what it lists for either. Deliberately absent: names of models (`table.rs`).

use sluice_wire::chat::Usage;

use super::{NanoUsd, Tokens};

/// Everything that is charged for. Tokens are priced per million, everything else per piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// Input tokens read in full.
    Input,
    /// Input tokens read from a prompt cache.
    CacheRead,
    /// Input tokens written to a prompt cache.
    CacheWrite,
    /// Input tokens written to a prompt cache that keeps them for an hour or more.
    CacheWriteLong,
    /// Input tokens of sound.
    InputAudio,
    /// Input tokens of images.
    InputImage,
    /// Output tokens.
    Output,
    /// Output tokens of reasoning.
    Reasoning,
    /// Output tokens of sound.
    OutputAudio,
    /// Output tokens of images.
    OutputImage,
    /// The request as such.
    Request,
    /// An image that was made.
    Image,
    /// A second of sound that was transcribed.
    AudioSecond,
    /// A character that was spoken.
    Character,
}

impl Item {
    /// Number of items.
    pub const COUNT: usize = 14;
    /// All of them, with their names in price files, in the order of definition.
    pub const ALL: [(Self, &'static str); Self::COUNT] = [
        (Self::Input, "input"),
        (Self::CacheRead, "cache_read"),
        (Self::CacheWrite, "cache_write"),
        (Self::CacheWriteLong, "cache_write_long"),
        (Self::InputAudio, "input_audio"),
        (Self::InputImage, "input_image"),
        (Self::Output, "output"),
        (Self::Reasoning, "reasoning"),
        (Self::OutputAudio, "output_audio"),
        (Self::OutputImage, "output_image"),
        (Self::Request, "request"),
        (Self::Image, "image"),
        (Self::AudioSecond, "audio_second"),
        (Self::Character, "character"),
    ];

    /// Whether its rate is for a million (tokens), not for one.
    pub const fn is_token(self) -> bool {
        (self as usize) < Self::Request as usize
    }

    /// What it is charged as if the provider lists no rate of its own for it.
    const fn charged_as(self) -> Option<Self> {
        match self {
            Self::CacheRead | Self::CacheWrite | Self::InputAudio | Self::InputImage => Some(Self::Input),
            Self::CacheWriteLong => Some(Self::CacheWrite),
            Self::Reasoning | Self::OutputAudio | Self::OutputImage => Some(Self::Output),
            _ => None,
        }
    }
}

/// The rates of one sheet: nano-dollars for a million of each item, `None` where the provider lists none.
pub type Rates = [Option<u64>; Item::COUNT];

/// How a request is processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// As usual.
    #[default]
    Standard,
    /// Asynchronously.
    Batch,
    /// When there is room.
    Flex,
    /// Before others.
    Priority,
    /// On the fastest hardware.
    Ultrafast,
}

impl Tier {
    /// All of them, with their names in price files.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Standard, "standard"),
        (Self::Batch, "batch"),
        (Self::Flex, "flex"),
        (Self::Priority, "priority"),
        (Self::Ultrafast, "ultrafast"),
    ];

    /// From a `service_tier`; `None` for a name that no price is known under.
    pub fn from_service_tier(name: &str) -> Option<Self> {
        match name {
            "default" | "standard" | "standard_only" | "reserved" => Some(Self::Standard),
            _ => Self::ALL.iter().find(|(_, own)| *own == name).map(|(tier, _)| *tier),
        }
    }
}

/// What one request consumed: a number for each item, none of which includes another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities(pub [u64; Item::COUNT]);

impl Quantities {
    /// From a provider's usage. Sound, images and reasoning are taken out of the totals that include them; what a provider reports
    /// beyond its own total is not counted twice.
    pub fn from_usage(usage: &Usage) -> Self {
        let mut of = Self::default();
        let input_audio = usage.input_audio.min(usage.input);
        let input_image = usage.input_image.min(usage.input - input_audio);
        let output_audio = usage.output_audio.min(usage.output);
        let output_image = usage.output_image.min(usage.output - output_audio);
        let rest = usage.output - output_audio - output_image;
        let reasoning = usage.reasoning.unwrap_or(0).min(rest);
        of.set(Item::Input, usage.input - input_audio - input_image);
        of.set(Item::InputAudio, input_audio);
        of.set(Item::InputImage, input_image);
        of.set(Item::CacheRead, usage.cache_read);
        of.set(Item::CacheWrite, usage.cache_write);
        of.set(Item::CacheWriteLong, usage.cache_write_1h);
        of.set(Item::Output, rest - reasoning);
        of.set(Item::OutputAudio, output_audio);
        of.set(Item::OutputImage, output_image);
        of.set(Item::Reasoning, reasoning);
        of.set(Item::Request, 1);
        of
    }

    /// The number of one item.
    pub const fn get(&self, item: Item) -> u64 {
        self.0[item as usize]
    }

    /// Replaces the number of one item.
    pub const fn set(&mut self, item: Item, count: u64) {
        self.0[item as usize] = count;
    }

    /// All input tokens, cached or not: what the length of the context is measured by.
    pub fn input_tokens(&self) -> Tokens {
        let (first, last) = (Item::Input as usize, Item::InputImage as usize);
        Tokens(
            self.0[first..=last]
                .iter()
                .fold(0, |sum, count| sum.saturating_add(*count)),
        )
    }
}

/// What a request that has not been sent may consume at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Input tokens, images and sound included.
    pub input: Tokens,
    /// Output tokens, over all answers asked for; `None`: as many as the model can give.
    pub output: Option<Tokens>,
    /// Answers asked for (`n`); `output: None` stands for this many times the model's maximum. 0 counts as 1.
    pub answers: u32,
    /// Whether it marks anything to be written to a prompt cache.
    pub may_write_cache: bool,
    /// Whether it holds sound.
    pub audio_in: bool,
    /// Whether it asks for sound.
    pub audio_out: bool,
    /// Whether it asks for an answer with images in it.
    pub image_out: bool,
    /// Images to be made.
    pub images: u32,
    /// Seconds of sound to be transcribed.
    pub audio_seconds: u64,
    /// Characters to be spoken.
    pub characters: u64,
}

/// A plain text request, to be filled in.
pub const PLAIN: Bound = Bound {
    input: Tokens(0),
    output: None,
    answers: 1,
    may_write_cache: false,
    audio_in: false,
    audio_out: false,
    image_out: false,
    images: 0,
    audio_seconds: 0,
    characters: 0,
};

/// Something was consumed, or may be, that the model's price does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// No rate for this item, nor for the one that it would be charged as.
    Item(Item),
    /// The request bounds its output in no way, and the model's own maximum is not known.
    OutputMax,
    /// The cost does not fit.
    TooLarge,
}

/// The price of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    sheets: Box<[Sheet]>,
    /// Most input tokens that the model takes.
    pub input_max: Option<Tokens>,
    /// Most output tokens that it gives in one answer.
    pub output_max: Option<Tokens>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sheet {
    tier: Tier,
    /// It holds for requests with more input tokens than this.
    above: u64,
    rates: Rates,
}

impl Price {
    /// A price of these standard rates, for requests of any length.
    pub fn new(rates: Rates, input_max: Option<Tokens>, output_max: Option<Tokens>) -> Self {
        let base = Sheet {
            tier: Tier::Standard,
            above: 0,
            rates: filled(rates),
        };
        Self {
            sheets: Box::new([base]),
            input_max,
            output_max,
        }
    }

    /// Adds the rates of a tier, or of requests with more than `above` input tokens, or of both; what they leave out is as
    /// without them.
    #[must_use]
    pub fn with_sheet(mut self, tier: Tier, above: u64, rates: Rates) -> Self {
        let base: Rates = {
            let base = self.rates(tier, above);
            Item::ALL.map(|(item, _)| base.get(item))
        };
        let mut rates = rates;
        for (item, _) in Item::ALL {
            // Charged as another item whose rate this sheet changes: left to follow it.
            let follows = item
                .charged_as()
                .is_some_and(|other| rates[other as usize].is_some() && base[item as usize] == base[other as usize]);
            if !follows {
                let own = &mut rates[item as usize];
                *own = own.or(base[item as usize]);
            }
        }
        let sheet = Sheet {
            tier,
            above,
            rates: filled(rates),
        };
        let mut sheets = self.sheets.into_vec();
        sheets.retain(|other| (other.tier, other.above) != (tier, above));
        sheets.push(sheet);
        sheets.sort_by_key(|sheet| (sheet.tier, sheet.above));
        self.sheets = sheets.into();
        self
    }

    /// Whether tokens have no price, but images, seconds or characters do.
    pub fn is_by_pieces(&self) -> bool {
        let has = |item: Item| self.sheets[0].rates[item as usize].is_some();
        let pieces = [Item::Image, Item::AudioSecond, Item::Character];
        pieces.into_iter().any(has) && !Item::ALL.iter().any(|&(item, _)| item.is_token() && has(item))
    }

    /// Whether nothing that it covers costs anything.
    pub fn is_free(&self) -> bool {
        self.sheets
            .iter()
            .all(|sheet| sheet.rates.iter().flatten().all(|rate| *rate == 0))
    }

    /// The cost of what was consumed; rounded up once.
    ///
    /// # Errors
    /// What has no price.
    pub fn cost(&self, of: &Quantities, tier: Tier) -> Result<NanoUsd, Unpriced> {
        let rates = self.rates(tier, of.input_tokens().0);
        total(Item::ALL.iter().map(|&(item, _)| (item, of.get(item), rates.get(item))))
    }

    /// The most that a request within `bound` can cost.
    ///
    /// # Errors
    /// What has no price, and output without any bound.
    pub fn worst(&self, bound: &Bound, tier: Tier) -> Result<NanoUsd, Unpriced> {
        let output = self.output_bound(bound)?;
        total(self.worst_parts(bound, output, tier).into_iter())
    }

    /// The largest number of output tokens with which a request within `bound` costs no more than `money`: over all answers
    /// that it asks for, and at most what it asks for. `None` if its input alone costs more, or leaves not one token.
    pub fn affordable_output(&self, bound: &Bound, tier: Tier, money: NanoUsd) -> Option<Tokens> {
        let asked = self.output_bound(bound).unwrap_or(Tokens(u64::MAX));
        let parts = self.worst_parts(bound, Tokens(0), tier);
        let rate = parts.iter().find(|(item, ..)| *item == Item::Output)?.2?;
        let fixed = exact(parts.into_iter()).ok()?;
        let left = (u128::from(money.0) * MILLION).checked_sub(fixed)?;
        let tokens = left
            .checked_div(u128::from(rate))
            .map_or(u64::MAX, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX));
        Some(Tokens(tokens.min(asked.0))).filter(|tokens| tokens.0 > 0)
    }

    /// Output over all answers.
    fn output_bound(&self, bound: &Bound) -> Result<Tokens, Unpriced> {
        let most = || {
            let one = self.output_max.or(self.input_max)?;
            Some(Tokens(one.0.saturating_mul(u64::from(bound.answers.max(1)))))
        };
        let output = [Item::Output, Item::Reasoning, Item::OutputAudio, Item::OutputImage];
        if output.iter().all(|item| self.sheets[0].rates[*item as usize].is_none()) {
            return Ok(Tokens(0));
        }
        bound.output.or_else(most).ok_or(Unpriced::OutputMax)
    }

    /// All input and output in one item each, at the dearest rate of whatever kind of them the request can cause, over every
    /// length of context up to the bound's.
    fn worst_parts(&self, bound: &Bound, output: Tokens, tier: Tier) -> [Part; 6] {
        let dearest = |items: &[(Item, bool)]| {
            let of = |rates: Applied<'_>| {
                let applies = items.iter().filter(|(_, applies)| *applies);
                applies.filter_map(|(item, _)| rates.get(*item)).max()
            };
            // The first rates are those of requests that are below every threshold.
            let beyond = self.sheets.iter().map(|sheet| sheet.above);
            let beyond = beyond.filter(|above| (1..bound.input.0).contains(above));
            let beyond = beyond.filter_map(|above| of(self.rates(tier, above + 1))).max();
            of(self.rates(tier, 0)).max(beyond)
        };
        // A model takes no more than its context holds: beyond, it refuses, which costs nothing.
        let input = self.input_max.map_or(bound.input.0, |max| bound.input.0.min(max.0));
        let input_rate = dearest(&[
            (Item::Input, true),
            (Item::CacheRead, true),
            (Item::InputImage, true),
            (Item::CacheWrite, bound.may_write_cache),
            (Item::CacheWriteLong, bound.may_write_cache),
            (Item::InputAudio, bound.audio_in),
        ]);
        let output_rate = dearest(&[
            (Item::Output, true),
            (Item::Reasoning, true),
            (Item::OutputAudio, bound.audio_out),
            (Item::OutputImage, bound.image_out),
        ]);
        let piece = |item: Item, count: u64| (item, count, if count > 0 { dearest(&[(item, true)]) } else { None });
        [
            (Item::Input, input, input_rate),
            (Item::Output, output.0, output_rate),
            piece(Item::Request, 1),
            piece(Item::Image, u64::from(bound.images)),
            piece(Item::AudioSecond, bound.audio_seconds),
            piece(Item::Character, bound.characters),
        ]
    }

    /// The rates for a request of that tier with that many input tokens.
    fn rates(&self, tier: Tier, input_tokens: u64) -> Applied<'_> {
        let one = |rates| Applied { rates, or: None };
        if let [only] = &*self.sheets {
            return one(&only.rates);
        }
        let best = |tier: Tier| {
            let fits = |sheet: &&Sheet| sheet.tier == tier && (sheet.above == 0 || sheet.above < input_tokens);
            self.sheets.iter().rfind(fits)
        };
        let standard = best(Tier::Standard).expect("a price has a standard sheet without threshold");
        match best(tier) {
            Some(own) if own.above >= standard.above => one(&own.rates),
            Some(own) => Applied {
                rates: &own.rates,
                or: Some(&standard.rates),
            },
            None => one(&standard.rates),
        }
    }
}

/// Rates as they stand in a sheet; or, item by item, the dearer of two.
#[derive(Clone, Copy)]
struct Applied<'a> {
    rates: &'a Rates,
    or: Option<&'a Rates>,
}

impl Applied<'_> {
    #[inline]
    fn get(&self, item: Item) -> Option<u64> {
        let own = self.rates[item as usize];
        self.or.map_or(own, |other| own.max(other[item as usize]))
    }
}

/// An item, how many of it, and its rate.
type Part = (Item, u64, Option<u64>);

/// Nano-dollars are counted in millionths until the end: rates are per million.
const MILLION: u128 = 1_000_000;

fn exact(parts: impl Iterator<Item = Part>) -> Result<u128, Unpriced> {
    let mut sum: u128 = 0;
    for (item, count, rate) in parts {
        if count == 0 {
            continue;
        }
        match rate {
            Some(rate) => {
                let part = u128::from(count) * u128::from(rate);
                sum = sum.checked_add(part).ok_or(Unpriced::TooLarge)?;
            }
            None if item == Item::Request => {}
            None => return Err(Unpriced::Item(item)),
        }
    }
    Ok(sum)
}

fn total(parts: impl Iterator<Item = Part>) -> Result<NanoUsd, Unpriced> {
    let exact = exact(parts)?;
    // Nearly always in 64 bits, which are divided without a function's help.
    let nanos = match u64::try_from(exact) {
        Ok(exact) => u128::from(exact.div_ceil(MILLION as u64)),
        Err(_) => exact.div_ceil(MILLION),
    };
    u64::try_from(nanos).map(NanoUsd).map_err(|_| Unpriced::TooLarge)
}

/// What is not listed is charged as what it is a kind of.
fn filled(mut rates: Rates) -> Rates {
    for (item, _) in Item::ALL {
        if let Some(other) = item.charged_as() {
            // In the order of definition, so that what an item is charged as has been filled in before.
            let other = rates[other as usize];
            let own = &mut rates[item as usize];
            *own = own.or(other);
        }
    }
    rates
}
