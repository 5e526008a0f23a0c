//! Bodies as data, each in every split.

use super::*;
use crate::testing::split;

const TYPE: &[u8] = b"multipart/form-data; boundary=x-Y";

#[track_caller]
fn scan(body: &[u8]) -> Result<(Option<Located>, bool), MultipartError> {
    split(body, |pieces| {
        let mut multipart = Multipart::new(TYPE)?;
        for piece in pieces {
            multipart.push(piece)?;
        }
        multipart.finish()?;
        Ok((multipart.model().cloned(), multipart.stream()))
    })
}

/// A body of the given parts: (head without its empty line, data).
fn body(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, data) in parts {
        body.extend_from_slice(format!("--x-Y\r\n{head}\r\n\r\n{data}\r\n").as_bytes());
    }
    body.extend_from_slice(b"--x-Y--\r\n");
    body
}

const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";
const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a;\\\".wav\"\r\nContent-Type: audio/wav";

#[test]
fn the_model_is_found_beside_files_that_look_like_boundaries() {
    let tricky = "\r\n--x-\r\n\r\n--x-X\r\r\r\n--x\r\n-name=\"model\"\r";
    let stream = ("content-disposition:form-data;NAME=stream", "True");
    let input = body(&[(FILE, tricky), (MODEL, "openai/whisper-1"), stream, (FILE, "")]);
    let (model, streams) = scan(&input).unwrap();
    let model = model.unwrap();
    assert_eq!(model.as_str(), "openai/whisper-1");
    assert_eq!(&input[model.start as usize..model.end as usize], b"openai/whisper-1");
    assert!(streams);
}

#[test]
fn a_value_may_hold_the_start_of_a_boundary() {
    let (model, _) = scan(&body(&[(MODEL, "a--x-Y")])).unwrap();
    assert_eq!(model.unwrap().as_str(), "a--x-Y");
    assert_eq!(scan(&body(&[(MODEL, "--x-")])).unwrap().0.unwrap().as_str(), "--x-");
    assert_eq!(scan(&body(&[(MODEL, "")])).unwrap().0.unwrap().as_str(), "");
    assert_eq!(scan(b"--x-Y--").unwrap(), (None, false));
    assert_eq!(
        scan(b"--x-Y \t\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x-Y--after").unwrap(),
        (None, false)
    );
}

#[test]
fn bodies_that_parsers_read_differently_are_refused() {
    use MultipartError::*;
    let long = "x".repeat(MODEL_BYTES_MAX + 1);
    let one = |head: &str| body(&[(head, "m")]);
    let cases: &[(MultipartError, Vec<u8>)] = &[
        (DuplicateField("model"), body(&[(MODEL, "a"), (MODEL, "a")])),
        (ValueTooLong("model"), body(&[(MODEL, &long)])),
        (Value("model"), body(&[(MODEL, "a\r\nb")])),
        (Value("model"), one(&format!("{MODEL}; filename=x"))),
        (
            Value("model"),
            [b"--x-Y\r\n", MODEL.as_bytes(), b"\r\n\r\n\xff\r\n--x-Y--"].concat(),
        ),
        (PartHead, one("Content-Type: text/plain")),
        (PartHead, one(&format!("{MODEL}\r\n{MODEL}"))),
        (PartHead, one(&format!("{MODEL}; name=\"file\""))),
        (PartHead, one("Content-Disposition: form-data; name=\"mo\\del\"")),
        (PartHead, one("Content-Disposition: form-data; name*=utf-8''model")),
        (PartHead, one("Content-Disposition: form-data; name=\"model")),
        (PartHead, one("Content-Disposition: form-data; name=\"model\" x=y")),
        (PartHead, one("Content-Disposition: attachment; name=\"model\"")),
        (PartHead, one("Content-Disposition: form-data")),
        (PartHead, one("Content-Disposition: form-data; x=y")),
        (PartHead, one("Content-Disposition: form-data;\r\n name=\"model\"")),
        (PartHead, one("X: y\nContent-Disposition: form-data; name=\"model\"")),
        (PartHead, one("Content-Disposition : form-data; name=\"model\"")),
        (PartHead, b"--x-Y\r\n\r\nm\r\n--x-Y--".to_vec()),
        (
            PartHeadTooLong,
            one(&format!("{MODEL}\r\nX: {}", "y".repeat(MULTIPART_PART_HEAD_BYTES_MAX))),
        ),
        (
            TooManyParts,
            body(&vec![
                ("Content-Disposition: form-data; name=a", "");
                1 + MULTIPART_PARTS_MAX as usize
            ]),
        ),
        (NoBoundary, b"preamble\r\n--x-Y--".to_vec()),
        (NoBoundary, b"\r\n--x-Y--".to_vec()),
        (Delimiter, b"--x-Yz\r\n".to_vec()),
        (Delimiter, b"--x-Y-\r\n".to_vec()),
        (Delimiter, b"--x-Y\n".to_vec()),
        (Delimiter, [b"--x-Y\r\n", MODEL.as_bytes(), b"\r\n\r\n--x-Y--"].concat()),
        (Delimiter, b"--x-Y\rx".to_vec()),
        (Delimiter, b"--x-Y --".to_vec()),
        (Truncated, b"".to_vec()),
        (Truncated, body(&[(MODEL, "a")])[..60].to_vec()),
    ];
    for (rule, input) in cases {
        assert_eq!(scan(input), Err(*rule), "{}", String::from_utf8_lossy(input));
        assert!(!rule.to_string().is_empty() && rule.code().status() == 400);
    }
}

#[test]
fn boundaries_are_taken_from_sound_content_types_only() {
    let sound: &[(&str, &str)] = &[
        ("multipart/form-data; boundary=abc", "abc"),
        ("Multipart/Form-Data;BOUNDARY=\"a b:c\" ; charset=utf-8", "a b:c"),
        (
            "multipart/form-data; charset=utf-8;; boundary=----WebKitFormBoundaryx",
            "----WebKitFormBoundaryx",
        ),
    ];
    for (text, boundary) in sound {
        assert_eq!(part::boundary(text.as_bytes()), Some(boundary.as_bytes()), "{text}");
    }
    let long = format!(
        "multipart/form-data; boundary={}",
        "x".repeat(MULTIPART_BOUNDARY_BYTES_MAX + 1)
    );
    let unsound = [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        "multipart/form-data; boundary=\"a ",
        "multipart/form-data; boundary=\"a \"",
        "multipart/form-data; boundary=a; boundary=a",
        "multipart/form-data; boundary=a\\b",
        "multipart/form-data; x; boundary=a",
        "multipart/mixed; boundary=a",
        "application/json; boundary=a",
        &long,
    ];
    for text in unsound {
        assert!(Multipart::new(text.as_bytes()).is_err(), "{text}");
    }
}
