//! A camera frame as a client sends it (base64 of a PNG or JPEG) into the brightness of its blocks.
//!
//! Invariants: no frame of more pixels than [`CACHE_FRAME_PIXELS_MAX`] is decoded, whatever its head promises; what cannot be
//! decoded to its last pixel is no frame. Deliberately absent: colour, which the comparison does not look at; animation; alpha
//! (a frame with transparency is refused).

use png::{BitDepth, ColorType, Transformations};
use sluice_policy::cache::image::FrameMap;
use sluice_wire::base64;
use sluice_wire::limits::CACHE_FRAME_PIXELS_MAX;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The brightness of a frame's blocks; `None` if it is no frame.
pub fn decode(text: &str) -> Option<FrameMap> {
    let bytes = base64::decode(text)?;
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(&bytes)
    } else {
        decode_jpeg(&bytes)
    }
}

fn decode_jpeg(bytes: &[u8]) -> Option<FrameMap> {
    // One channel: the picture's own luminance, which is not computed but stored in it.
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::Luma)
        .set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().ok()?;
    let (width, height) = decoder.dimensions()?;
    if !fits(width, height) {
        return None;
    }
    let luma = decoder.decode().ok()?;
    FrameMap::from_luma(u32::try_from(width).ok()?, u32::try_from(height).ok()?, &luma)
}

fn decode_png(bytes: &[u8]) -> Option<FrameMap> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().ok()?;
    let (width, height) = (reader.info().width, reader.info().height);
    if reader.info().is_animated() || !fits(width as usize, height as usize) {
        return None;
    }
    let mut pixels = vec![0; reader.output_buffer_size()?];
    let frame = reader.next_frame(&mut pixels).ok()?;
    reader.finish().ok()?;
    pixels.truncate(frame.buffer_size());
    let luma = match (frame.color_type, frame.bit_depth) {
        (ColorType::Grayscale, BitDepth::Eight) => pixels,
        (ColorType::Rgb, BitDepth::Eight) => pixels.as_chunks().0.iter().map(brightness).collect(),
        _ => return None,
    };
    FrameMap::from_luma(width, height, &luma)
}

/// As JPEG defines it (ITU-R BT.601), in 1,024ths.
fn brightness(&[red, green, blue]: &[u8; 3]) -> u8 {
    let weighed = u32::from(red) * 306 + u32::from(green) * 601 + u32::from(blue) * 117;
    (weighed >> 10) as u8
}

fn fits(width: usize, height: usize) -> bool {
    width
        .checked_mul(height)
        .is_some_and(|pixels| (1..=CACHE_FRAME_PIXELS_MAX).contains(&pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG of 24 by 16 pixels, all of them of grey level 128.
    const GREY: &str = "\
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUV\
        DA8XGBYUGBIUFRT/wAALCAAQABgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9\
        AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZn\
        aGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP0\
        9fb3+Pn6/9oACAEBAAA/ACiiiiiv/9k=";

    fn png(width: u32, height: u32, color: ColorType, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(color);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(pixels).unwrap();
        writer.finish().unwrap();
        out
    }

    fn decoded(bytes: &[u8]) -> Option<FrameMap> {
        decode(&base64::encode(bytes))
    }

    #[test]
    fn a_png_is_as_bright_as_its_pixels() {
        let luma: Vec<u8> = (0..24 * 17).map(|at| (at * 7) as u8).collect();
        let grey = decoded(&png(24, 17, ColorType::Grayscale, &luma)).unwrap();
        assert_eq!(Some(&grey), FrameMap::from_luma(24, 17, &luma).as_ref());
        let colours: Vec<u8> = luma.iter().flat_map(|grey| [*grey; 3]).collect();
        let colour = decoded(&png(24, 17, ColorType::Rgb, &colours)).unwrap();
        assert!(
            grey.difference(&colour, None).unwrap() <= 64,
            "a grey level of rounding"
        );
    }

    #[test]
    fn a_jpeg_is_as_bright_as_its_pixels() {
        let grey = decode(GREY).unwrap();
        let luma = vec![128; 24 * 16];
        let expected = FrameMap::from_luma(24, 16, &luma).unwrap();
        assert!(grey.difference(&expected, None).unwrap() <= 64);
    }

    #[test]
    fn what_is_no_frame_or_not_all_of_one_is_refused() {
        assert_eq!(decode("not base64"), None);
        assert_eq!(decoded(b""), None);
        assert_eq!(decoded(b"\xff\xd8\xff\xe0 and nothing behind"), None);
        let whole = png(64, 64, ColorType::Grayscale, &[7; 64 * 64]);
        assert!(decoded(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(decoded(&whole[..len]), None, "{len}");
        }
        let transparent = png(8, 8, ColorType::Rgba, &[7; 8 * 8 * 4]);
        assert_eq!(decoded(&transparent), None);
    }

    #[test]
    fn a_head_that_promises_too_much_is_refused_before_anything_is_decoded() {
        let mut bomb = png(1, 1, ColorType::Grayscale, &[0]);
        bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        assert_eq!(decoded(&bomb), None);
        assert!(!fits(usize::MAX, 2) && !fits(CACHE_FRAME_PIXELS_MAX + 1, 1) && !fits(0, 5) && fits(640, 480));
    }
}
