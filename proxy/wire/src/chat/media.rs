//! Media types, Bedrock's format words for them, and data URLs.
//!
//! Invariant: one table for each, read in both directions. Deliberately absent: any look into the bytes themselves.

use crate::chat::{Source, Text};

/// (Bedrock `format`, media type): the image formats of all three dialects.
const IMAGES: &[(&str, &str)] = &[
    ("png", "image/png"),
    ("jpeg", "image/jpeg"),
    ("jpeg", "image/jpg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
];

/// (Bedrock `format`, media type): the document formats of Converse.
const DOCUMENTS: &[(&str, &str)] = &[
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("md", "text/markdown"),
    ("doc", "application/msword"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("xls", "application/vnd.ms-excel"),
    (
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
];

/// Bedrock's word for an image's media type.
pub fn image_format(media_type: &str) -> Option<&'static str> {
    format(IMAGES, media_type)
}

/// The media type of Bedrock's word for an image format.
pub fn image_media_type(format: &str) -> Option<&'static str> {
    media_type(IMAGES, format)
}

/// Bedrock's word for a document's media type.
pub fn document_format(media_type: &str) -> Option<&'static str> {
    format(DOCUMENTS, media_type)
}

/// The media type of Bedrock's word for a document format.
pub fn document_media_type(format: &str) -> Option<&'static str> {
    media_type(DOCUMENTS, format)
}

fn format(table: &'static [(&str, &str)], media_type: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(_, known)| media_type.eq_ignore_ascii_case(known))
        .map(|(format, _)| *format)
}

fn media_type(table: &'static [(&str, &str)], format: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(known, _)| format == *known)
        .map(|(_, media_type)| *media_type)
}

/// The two halves of a base64 data URL (RFC 2397).
#[derive(Clone, Debug)]
pub struct DataUrl<'a> {
    /// `type/subtype`, without parameters.
    pub media_type: Text<'a>,
    /// The base64 text.
    pub data: Text<'a>,
}

impl<'a> From<DataUrl<'a>> for Source<'a> {
    fn from(url: DataUrl<'a>) -> Self {
        Source::Base64 {
            media_type: url.media_type,
            data: url.data,
        }
    }
}

/// Splits a base64 data URL without copying its data; `None` for any other address.
pub fn data_url<'a>(url: &Text<'a>) -> Option<DataUrl<'a>> {
    let text = url.as_json();
    if !text.get(..5)?.eq_ignore_ascii_case("data:") {
        return None;
    }
    let comma = memchr::memchr(b',', &text.as_bytes()[..text.len().min(256)])?;
    let head = &text[5..comma];
    let head = head.strip_suffix(";base64").or_else(|| head.strip_suffix(";BASE64"))?;
    let type_end = 5 + head.find(';').unwrap_or(head.len());
    // `/` may come escaped, in the media type and, from some encoders, all over the data.
    if memchr::memchr(b'\\', text.as_bytes()).is_some() {
        let plain = |part: Text<'a>| Text::owned(part.decode().into_owned());
        let media_type = plain(url.slice_to(type_end).slice_from(5));
        return Some(DataUrl {
            media_type,
            data: plain(url.slice_from(comma + 1)),
        });
    }
    Some(DataUrl {
        media_type: url.slice_to(type_end).slice_from(5),
        data: url.slice_from(comma + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> Option<(String, String)> {
        let quoted = format!("\"{url}\"");
        let text = crate::chat::Reader::new(quoted.as_bytes()).unwrap().text().unwrap();
        data_url(&text).map(|url| (url.media_type.decode().into_owned(), url.data.decode().into_owned()))
    }

    #[test]
    fn a_data_url_is_split_whatever_its_parameters_and_escapes() {
        let png = |data: &str| Some(("image/png".to_owned(), data.to_owned()));
        assert_eq!(split("data:image/png;base64,AB/C"), png("AB/C"));
        assert_eq!(split("DATA:image/png;charset=x;base64,AB/C"), png("AB/C"));
        assert_eq!(split("data:image\\/png;base64,AB\\/C"), png("AB/C"));
        assert_eq!(split("data:;base64,AB"), Some((String::new(), "AB".into())));
        for other in [
            "https://x.example/a,b",
            "data:image/png,raw",
            "data:image/png;base64",
            "d",
            "dätä:,",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
    }

    #[test]
    fn formats_and_media_types_are_read_in_both_directions() {
        for (format, media_type) in DOCUMENTS {
            assert_eq!(document_format(media_type), Some(*format));
            assert_eq!(document_media_type(format), Some(*media_type));
        }
        assert_eq!(
            (image_format("image/JPG"), image_media_type("jpeg")),
            (Some("jpeg"), Some("image/jpeg"))
        );
        assert_eq!((image_format("image/tiff"), document_media_type("exe")), (None, None));
    }
}
