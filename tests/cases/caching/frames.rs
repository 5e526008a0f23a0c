//! Camera frames that differ in their bytes: of one scene they share an answer, where the route says so; of two they never do.

use sluice_tests::{Gateway, Request, Setup, Sim, json};
use sluice_wire::base64;

use super::{caching, use_of};

const WIDTH: usize = 96;
const HEIGHT: usize = 64;
/// A part on a conveyor: left, top, width, height.
const PART: [usize; 4] = [24, 16, 48, 32];

/// A frame of the part, `light` grey levels brighter than usual, with the noise of a sensor.
fn scene(noise: u32, light: u8) -> Vec<u8> {
    let mut state = noise | 1;
    let mut pixels = Vec::with_capacity(WIDTH * HEIGHT);
    for at in 0..WIDTH * HEIGHT {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let [left, top, width, height] = PART;
        let inside = (left..left + width).contains(&(at % WIDTH)) && (top..top + height).contains(&(at / WIDTH));
        pixels.push(if inside { 140 } else { 60 } + light + (state % 5) as u8);
    }
    pixels
}

/// The same with a scratch of 3 by 5 pixels at a place.
fn scratched(mut pixels: Vec<u8>, (left, top): (usize, usize)) -> Vec<u8> {
    for row in top..top + 3 {
        pixels[row * WIDTH + left..][..5].fill(255);
    }
    pixels
}

fn png(pixels: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().expect("memory takes all");
    writer.write_image_data(pixels).expect("memory takes all");
    writer.finish().expect("memory takes all");
    base64::encode(&bytes)
}

fn matching(sim: &Sim) -> Setup {
    caching(sim, "semantic")
        .set("/cache/default/agreements", 0)
        .set("/cache/default/audit", 0)
        .set("/cache/default/context", json!({"headers": ["x-camera"], "required": true}))
        // Long, because a loaded machine decodes slowly in a debug build.
        .set("/cache/default/frames", json!({"timeout": "10s"}))
}

fn ask(gateway: &Gateway, camera: &str, text: &str, images: &[&str]) -> String {
    let mut parts = vec![json!({"type": "text", "text": text})];
    for image in images {
        let url = format!("data:image/png;base64,{image}");
        parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
    }
    let body = json!({"model": "openai/m", "messages": [{"role": "user", "content": parts}]});
    let request = Request::post("/v1/chat/completions", body.to_string()).field("x-camera", camera);
    use_of(&gateway.ask(&request)).to_owned()
}

const TEXT: &str = "Is the label seated correctly?";

#[test]
fn frames_of_one_scene_share_an_answer_and_a_defect_does_not() {
    let sim = Sim::start();
    let gateway = matching(&sim).start();
    let clean = png(&scene(1, 0));
    assert_eq!(ask(&gateway, "1", TEXT, &[&clean]), "miss");
    assert_eq!(ask(&gateway, "1", TEXT, &[&clean]), "hit");
    for noise in 2..6 {
        assert_eq!(
            ask(&gateway, "1", TEXT, &[&png(&scene(noise, 0))]),
            "semantic",
            "{noise}"
        );
    }
    for place in [(40, 30), (26, 18), (60, 44), (0, 0), (91, 61)] {
        let defect = png(&scratched(scene(7, 0), place));
        assert_eq!(ask(&gateway, "1", TEXT, &[&defect]), "miss", "{place:?}");
    }
    // Another camera, another question, another number of frames.
    let again = png(&scene(8, 0));
    assert_eq!(ask(&gateway, "2", TEXT, &[&again]), "miss");
    assert_eq!(ask(&gateway, "1", "Is the screw seated correctly?", &[&again]), "miss");
    assert_eq!(ask(&gateway, "1", TEXT, &[&again, &again]), "miss");
    gateway.expect_metric("sluice_cache_hits_frames_total", 4);
    assert_eq!(sim.attempts().len(), 1 + 5 + 3);
}

#[test]
fn small_differences_never_add_up() {
    let sim = Sim::start();
    let gateway = matching(&sim).start();
    let lit = |light| png(&scene(3, light));
    assert_eq!(ask(&gateway, "1", TEXT, &[&lit(0)]), "miss");
    // What was answered like the first is no measure for the next.
    assert_eq!(ask(&gateway, "1", TEXT, &[&lit(5)]), "semantic");
    assert_eq!(ask(&gateway, "1", TEXT, &[&lit(10)]), "miss");
}

#[test]
fn only_the_region_of_interest_counts() {
    let sim = Sim::start();
    let [left, top, width, height] = PART;
    let gateway = matching(&sim)
        .set(
            "/cache/default/frames/region",
            json!({"width": WIDTH, "height": HEIGHT, "rectangles": [[left, top, width, height]]}),
        )
        .start();
    assert_eq!(ask(&gateway, "1", TEXT, &[&png(&scene(1, 0))]), "miss");
    let beside = png(&scratched(scene(2, 0), (4, 4)));
    assert_eq!(ask(&gateway, "1", TEXT, &[&beside]), "semantic");
    let on_it = png(&scratched(scene(2, 0), (40, 30)));
    assert_eq!(ask(&gateway, "1", TEXT, &[&on_it]), "miss");
}

#[test]
fn without_being_asked_to_and_without_a_frame_that_can_be_read_bytes_decide() {
    let sim = Sim::start();
    let plain = caching(&sim, "semantic").set("/cache/default/agreements", 0).start();
    assert_eq!(ask(&plain, "1", TEXT, &[&png(&scene(1, 0))]), "miss");
    assert_eq!(ask(&plain, "1", TEXT, &[&png(&scene(2, 0))]), "miss");
    let gateway = matching(&sim).start();
    let broken = base64::encode(b"\x89PNG\r\n\x1a\n and no more");
    assert_eq!(ask(&gateway, "1", TEXT, &[&broken]), "miss");
    assert_eq!(ask(&gateway, "1", TEXT, &[&broken]), "hit");
    assert_eq!(ask(&gateway, "1", TEXT, &[&base64::encode(b"another")]), "miss");
}
