//! Bodies as data, each in every split.

use super::*;
use crate::testing::split;

/// Payload, bytes consumed, whether the body ended; or why it was refused.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut payload, mut consumed, mut spans) = (Vec::new(), 0, Vec::new());
    for piece in pieces {
        spans.clear();
        let step = decoder.push(piece, &mut spans)?;
        for &(start, end) in &spans {
            payload.extend_from_slice(&piece[start as usize..end as usize]);
        }
        consumed += step.consumed;
        assert_eq!(step.done, decoder.is_done());
        assert!(step.done || step.consumed == piece.len());
        if step.done {
            break;
        }
    }
    Ok((payload, consumed, decoder.is_done()))
}

#[test]
fn chunked_bodies_give_their_payload_and_leave_what_follows() {
    let cases: &[(&[u8], &str, usize, bool)] = &[
        (b"0\r\n\r\nGET", "", 5, true),
        (b"5\r\nhello\r\n0\r\n\r\n5\r\n", "hello", 15, true),
        (
            b"0005;a=\"b;c\"\r\nhello\r\nA ; x\r\n0123456789\r\n00\r\n\r\n",
            "hello0123456789",
            46,
            true,
        ),
        (b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n\r\n", "a", 21, true),
        (b"0000000000000001\r\na\r\n0\r\n\r\n", "a", 26, true),
        (b"3\r\nab", "ab", 5, false),
    ];
    for &(input, payload, consumed, done) in cases {
        let outcome = split(input, |pieces| decode(Framing::Chunked, pieces));
        assert_eq!(
            outcome,
            Ok((payload.as_bytes().to_vec(), consumed, done)),
            "{:?}",
            String::from_utf8_lossy(input)
        );
    }
}

#[test]
fn bad_chunks_are_refused_by_the_rule_they_break() {
    use BodyError::*;
    let long_extension = [b"1;".as_slice(), &[b'x'; CHUNK_LINE_BYTES_MAX], b"\r\na\r\n"].concat();
    let long_trailer = [b"0\r\nx:".as_slice(), &[b'x'; TRAILER_BYTES_MAX], b"\r\n\r\n"].concat();
    let cases: &[(BodyError, &[u8])] = &[
        (ChunkSize, b"\r\n"),
        (ChunkSize, b"g\r\n"),
        (ChunkSize, b"-1\r\n"),
        (ChunkSize, b"+1\r\na"),
        (ChunkSize, b"0x1\r\na"),
        (ChunkSize, b" 1\r\na"),
        (ChunkSize, b"1 \r\na"),
        (ChunkSize, b"1 1\r\na"),
        (ChunkSize, b"1\na\r\n"),
        (ChunkSize, b";x\r\na"),
        (ChunkSize, b"00000000000000001\r\na"),
        (ChunkSize, b"1\x00\r\na"),
        (ChunkExtension, b"1;x\na\r\n"),
        (ChunkExtension, b"1;\x01\r\na"),
        (ChunkExtension, b"1\rxa"),
        (ChunkExtension, b"1;a\r;b\r\na"),
        (ChunkLineTooLong, &long_extension),
        (ChunkEnd, b"1\r\nab\r\n"),
        (ChunkEnd, b"1\r\na\n0\r\n\r\n"),
        (ChunkEnd, b"1\r\na\rx"),
        (Trailer, b"0\r\n\n"),
        (Trailer, b"0\r\n\rx"),
        (Trailer, b"0\r\nno colon\r\n\r\n"),
        (Trailer, b"0\r\n: x\r\n\r\n"),
        (Trailer, b"0\r\nX : y\r\n\r\n"),
        (Trailer, b"0\r\nX: y\n\r\n"),
        (Trailer, b"0\r\nX: y\r\n folded\r\n\r\n"),
        (Trailer, b"0\r\nX: \x00\r\n\r\n"),
        (TrailerTooLong, &long_trailer),
    ];
    for &(rule, input) in cases {
        let outcome = if input.len() < 100 {
            split(input, |pieces| decode(Framing::Chunked, pieces))
        } else {
            decode(Framing::Chunked, &[input])
        };
        assert_eq!(outcome, Err(rule), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn framing_may_not_outweigh_the_payload_for_ever() {
    let chunk = [b"1;".as_slice(), &[b'x'; 500], b"\r\na\r\n"].concat();
    assert_eq!(
        decode(Framing::Chunked, &[&chunk.repeat(33)]).map(|(payload, ..)| payload.len()),
        Ok(33)
    );
    assert_eq!(
        decode(Framing::Chunked, &[&chunk.repeat(40)]),
        Err(BodyError::ChunkOverhead)
    );
    let plain = b"1\r\na\r\n".repeat(100_000);
    assert_eq!(
        decode(Framing::Chunked, &[&plain]).map(|(payload, ..)| payload.len()),
        Ok(100_000)
    );
}

#[test]
fn only_whole_plain_chunks_are_verbatim() {
    let verbatim = |pieces: &[&[u8]]| -> Vec<bool> {
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        pieces
            .iter()
            .map(|piece| decoder.push(piece, &mut Vec::new()).unwrap().verbatim)
            .collect()
    };
    assert_eq!(verbatim(&[b"1\r\na\r\n2\r\nbc\r\n", b"0\r\n\r\n"]), [true, true]);
    assert_eq!(verbatim(&[b"1\r\na\r\n0\r\n\r\nGET"]), [true]);
    assert_eq!(
        verbatim(&[b"1\r\na\r\n2\r\nb", b"c\r\n", b"1\r\na\r\n"]),
        [false, false, true]
    );
    assert_eq!(verbatim(&[b"1\r\na\r", b"\n0\r\n\r\n"]), [false, false]);
    assert_eq!(
        verbatim(&[b"1;x\r\na\r\n", b"1 ;x\r\na\r\n", b"0\r\nX: y\r\n\r\n"]),
        [false, false, false]
    );
    assert_eq!(verbatim(&[b""]), [false]);
    let mut decoder = BodyDecoder::new(Framing::Length(1));
    assert!(!decoder.push(b"a", &mut Vec::new()).unwrap().verbatim);
}

#[test]
fn length_and_close_end_where_they_say() {
    assert_eq!(
        split(b"abcdef", |pieces| decode(Framing::Length(4), pieces)),
        Ok((b"abcd".to_vec(), 4, true))
    );
    assert_eq!(
        split(b"abc", |pieces| decode(Framing::UntilClose, pieces)),
        Ok((b"abc".to_vec(), 3, false))
    );
    assert_eq!(
        split(b"abc", |pieces| decode(Framing::Empty, pieces)),
        Ok((Vec::new(), 0, true))
    );
    assert!(BodyDecoder::new(Framing::Length(0)).is_done());
    let mut decoder = BodyDecoder::new(Framing::Length(4));
    decoder.push(b"a", &mut Vec::new()).unwrap();
    assert_eq!(decoder.remaining(), Some(3));
    assert_eq!(decoder.finish_at_eof(), Err(BodyError::Truncated));
    assert_eq!(
        BodyDecoder::new(Framing::Chunked).finish_at_eof(),
        Err(BodyError::Truncated)
    );
    let mut decoder = BodyDecoder::new(Framing::UntilClose);
    assert_eq!(
        (decoder.remaining(), decoder.finish_at_eof(), decoder.remaining()),
        (None, Ok(()), Some(0))
    );
}

#[test]
fn written_chunks_are_read_back() {
    for len in [1, 15, 16, 255, 256, 65_535, 1 << 20] {
        let mut body = Vec::new();
        write_chunk_head(len, &mut body);
        body.resize(body.len() + len, b'x');
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(LAST_CHUNK);
        let (payload, consumed, done) = decode(Framing::Chunked, &[&body]).unwrap();
        assert_eq!((payload.len(), consumed, done), (len, body.len(), true));
    }
    let mut zero = Vec::new();
    write_chunk_head(0, &mut zero);
    assert_eq!(zero, b"0\r\n");
}
