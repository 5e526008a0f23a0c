//! Camera frames of one scene: the brightness of 8 by 8 pixels, block by block.
//!
//! Invariants: two frames are of one scene only if they are equally large and no block inside the region of interest differs by the
//! threshold; the frame that is compared with is always the one whose answer is stored, so that small differences never add
//! up. A defect that moves no block's mean by the threshold is missed, which is why this is on request only.
//! Deliberately absent: decoding, which takes milliseconds and belongs to a worker thread; shifts by a pixel, which are refused.

use sluice_wire::limits::CACHE_FRAME_BLOCKS_MAX;

/// Pixels of a block's side.
const SIDE: usize = 8;
/// Default of the smallest difference of a block's mean that tells two scenes apart, in grey levels.
pub const FRAME_THRESHOLD_DEFAULT: u8 = 8;

/// A frame, as the means of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameMap {
    width: u32,
    height: u32,
    /// Means times 64, row by row. Blocks at the edges have fewer pixels.
    means: Box<[u16]>,
}

impl FrameMap {
    /// From one byte of brightness a pixel, row by row. `None` if that is not what `luma` holds, or the frame is too large.
    pub fn from_luma(width: u32, height: u32, luma: &[u8]) -> Option<Self> {
        let (columns, rows) = blocks(width, height)?;
        let (width_px, height_px) = (width as usize, height as usize);
        if luma.len() != width_px * height_px {
            return None;
        }
        let mut means = Vec::with_capacity(columns * rows);
        let mut sums = vec![0_u32; columns];
        for lines in luma.chunks(SIDE * width_px) {
            sums.fill(0);
            for line in lines.chunks(width_px) {
                for (sum, pixels) in sums.iter_mut().zip(line.chunks(SIDE)) {
                    *sum += pixels.iter().map(|&pixel| u32::from(pixel)).sum::<u32>();
                }
            }
            let high = lines.len() / width_px;
            for (column, sum) in sums.iter().enumerate() {
                let wide = SIDE.min(width_px - column * SIDE);
                means.push((sum * 64 / (wide * high) as u32) as u16);
            }
        }
        Some(Self {
            width,
            height,
            means: means.into(),
        })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.means.len() * 2
    }

    /// The largest difference of any block inside the region, in 64ths of a grey level. `None` if the frames, or the region, are
    /// of different sizes: they have nothing in common.
    pub fn difference(&self, other: &Self, region: Option<&Region>) -> Option<u16> {
        let same_size = (self.width, self.height) == (other.width, other.height);
        let fits = region.is_none_or(|region| (region.width, region.height) == (self.width, self.height));
        if !same_size || !fits {
            return None;
        }
        let pairs = self
            .means
            .iter()
            .zip(&other.means)
            .map(|(one, other)| one.abs_diff(*other));
        match region {
            None => pairs.max(),
            Some(region) => pairs
                .zip(&region.inside)
                .filter(|(_, inside)| **inside)
                .map(|(difference, _)| difference)
                .max(),
        }
    }

    /// Whether both show one scene: no block inside the region differs by `threshold` grey levels.
    pub fn is_same_scene(&self, other: &Self, threshold: u8, region: Option<&Region>) -> bool {
        self.difference(other, region)
            .is_some_and(|difference| difference < u16::from(threshold) * 64)
    }
}

/// The part of a frame that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    width: u32,
    height: u32,
    inside: Box<[bool]>,
}

/// A rectangle, in pixels from the upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Region {
    /// All blocks that one of the rectangles touches. `None` if the frame is too large, or none is touched.
    pub fn new(width: u32, height: u32, rectangles: &[Rectangle]) -> Option<Self> {
        let (columns, rows) = blocks(width, height)?;
        let touches = |rectangle: &Rectangle, column: usize, row: usize| {
            let within = |from: u32, len: u32, block: usize| {
                let (from, len, block) = (from as usize, len as usize, block * SIDE);
                from < block + SIDE && block < from + len
            };
            within(rectangle.left, rectangle.width, column) && within(rectangle.top, rectangle.height, row)
        };
        let inside: Vec<bool> = (0..columns * rows)
            .map(|at| {
                rectangles
                    .iter()
                    .any(|rectangle| touches(rectangle, at % columns, at / columns))
            })
            .collect();
        inside.contains(&true).then(|| Self {
            width,
            height,
            inside: inside.into(),
        })
    }
}

fn blocks(width: u32, height: u32) -> Option<(usize, usize)> {
    let (columns, rows) = (
        width.div_ceil(SIDE as u32) as usize,
        height.div_ceil(SIDE as u32) as usize,
    );
    let count = columns.checked_mul(rows)?;
    (count > 0 && count <= CACHE_FRAME_BLOCKS_MAX).then_some((columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: u32 = 83;
    const HEIGHT: u32 = 61;

    /// A part on a conveyor, with the noise of a sensor.
    fn scene(seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        (0..WIDTH * HEIGHT)
            .map(|at| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let (x, y) = (at % WIDTH, at / WIDTH);
                let part = if (20..60).contains(&x) && (15..45).contains(&y) {
                    140
                } else {
                    60
                };
                (part + (x + y) / 4 + state % 9 - 4) as u8
            })
            .collect()
    }

    fn map(luma: &[u8]) -> FrameMap {
        FrameMap::from_luma(WIDTH, HEIGHT, luma).unwrap()
    }

    fn with(mut luma: Vec<u8>, at: (u32, u32), size: u32, value: u8) -> Vec<u8> {
        for y in at.1..at.1 + size {
            for x in at.0..at.0 + size {
                luma[(y * WIDTH + x) as usize] = value;
            }
        }
        luma
    }

    #[test]
    fn noise_is_the_same_scene_and_a_small_defect_is_not() {
        let (clean, again) = (map(&scene(1)), map(&scene(2)));
        assert!(clean.is_same_scene(&again, FRAME_THRESHOLD_DEFAULT, None));
        // 4 by 4 pixels, somewhere across the borders of blocks and at the edges.
        for at in [(26, 22), (24, 24), (0, 0), (WIDTH - 4, HEIGHT - 4)] {
            let defect = map(&with(scene(2), at, 4, 255));
            assert!(!clean.is_same_scene(&defect, FRAME_THRESHOLD_DEFAULT, None), "{at:?}");
        }
    }

    #[test]
    fn the_threshold_itself_tells_scenes_apart() {
        let (dark, light) = (map(&[100; 83 * 61]), map(&[108; 83 * 61]));
        assert_eq!(dark.difference(&light, None), Some(8 * 64));
        assert!(!dark.is_same_scene(&light, 8, None) && dark.is_same_scene(&light, 9, None));
    }

    #[test]
    fn only_the_region_counts_and_whole_blocks_of_it() {
        let region = |left, top| {
            let rectangle = Rectangle {
                left,
                top,
                width: 8,
                height: 8,
            };
            Region::new(WIDTH, HEIGHT, &[rectangle]).unwrap()
        };
        let (clean, defect) = (map(&scene(1)), map(&with(scene(1), (33, 25), 6, 255)));
        assert!(clean.is_same_scene(&defect, 8, Some(&region(8, 8))));
        assert!(!clean.is_same_scene(&defect, 8, Some(&region(30, 22))));
        assert_eq!(Region::new(WIDTH, HEIGHT, &[]), None);
    }

    #[test]
    fn frames_of_other_sizes_have_nothing_in_common() {
        let (one, other) = (map(&scene(1)), FrameMap::from_luma(HEIGHT, WIDTH, &scene(1)).unwrap());
        assert_eq!(one.difference(&other, None), None);
        let whole = Rectangle {
            left: 0,
            top: 0,
            width: 10,
            height: 10,
        };
        assert_eq!(one.difference(&one, Region::new(10, 10, &[whole]).as_ref()), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(FrameMap::from_luma(8, 8, &[0; 63]), None);
        assert_eq!(FrameMap::from_luma(0, 8, &[]), None);
        assert_eq!(FrameMap::from_luma(u32::MAX, u32::MAX, &[]), None);
    }
}
