//! Citations of Converse, in answers, in streams and in what is sent back.
//!
//! Invariant: a citation that Bedrock made is written back as it came. Deliberately absent: whether a model accepts citations
//! in its input.

use crate::chat::{Citation, Content, JsonError, Kind, Location, Out, Reader, Text};
use crate::dialect::Dialect;

/// One citation, of an answer's block or of a stream.
pub(super) fn parse_citation<'a>(reader: &mut Reader<'a>) -> Result<Citation<'a>, JsonError> {
    let mut citation = Citation {
        raw: Some((Dialect::Bedrock, reader.clone().raw()?)),
        ..Citation::default()
    };
    let mut source = None;
    reader.object("a citation")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "title" => citation.title = Some(reader.text()?),
            "source" => source = Some(reader.text()?),
            "sourceContent" => citation.cited_text = Some(parse_texts(reader)?),
            "location" => parse_location(reader, &mut citation)?,
            _ => reader.skip()?,
        }
    }
    let is_address = |text: &Text<'_>| text.as_json().starts_with("http");
    citation.url = citation.url.or(source.filter(is_address));
    Ok(citation)
}

pub(super) fn parse_citations_content<'a>(reader: &mut Reader<'a>) -> Result<Content<'a>, JsonError> {
    let (mut text, mut citations) = (Text::default(), Vec::new());
    reader.object("cited content")?;
    while let Some(key) = reader.key()? {
        if reader.null()? {
            continue;
        }
        match &*key {
            "content" => text = parse_texts(reader)?,
            "citations" => {
                reader.array("an array of citations")?;
                while reader.item()? {
                    citations.push(parse_citation(reader)?);
                }
            }
            _ => reader.skip()?,
        }
    }
    Ok(Content::Text { text, citations })
}

/// Whether Converse can say where the citation points.
pub(super) fn can_cite(citation: &Citation<'_>) -> bool {
    match &citation.raw {
        Some((Dialect::Bedrock, _)) => true,
        _ => citation.url.is_some() || !matches!(citation.location, Location::None | Location::Answer { .. }),
    }
}

/// Appends one citation as an object.
pub(super) fn write_citation(citation: &Citation<'_>, out: &mut Out) {
    if let Some((Dialect::Bedrock, raw)) = &citation.raw {
        out.raw(raw);
        return;
    }
    out.token("{");
    if let Some(title) = &citation.title {
        out.key("title").text(title);
    }
    if let Some(cited) = &citation.cited_text {
        out.key("sourceContent").token("[{").key("text").text(cited).token("}]");
    }
    let (member, index_key, (index, start, end)) = match citation.location {
        Location::Char { document, start, end } => ("documentChar", "documentIndex", (document, start, end)),
        Location::Page { document, start, end } => ("documentPage", "documentIndex", (document, start, end)),
        Location::Chunk { document, start, end } => ("documentChunk", "documentIndex", (document, start, end)),
        Location::Search { result, start, end } => ("searchResultLocation", "searchResultIndex", (result, start, end)),
        Location::None | Location::Answer { .. } => {
            if let Some(url) = &citation.url {
                out.key("location")
                    .token("{")
                    .key("web")
                    .token("{")
                    .key("url")
                    .text(url)
                    .token("}}");
            }
            out.token("}");
            return;
        }
    };
    if let Some(url) = &citation.url {
        out.key("source").text(url);
    }
    out.key("location").token("{").key(member).token("{");
    out.key(index_key)
        .whole(index)
        .key("start")
        .whole(start)
        .key("end")
        .whole(end)
        .token("}}}");
}

/// `[{"text": …}, …]`, joined.
fn parse_texts<'a>(reader: &mut Reader<'a>) -> Result<Text<'a>, JsonError> {
    let mut text = Text::default();
    reader.array("an array of texts")?;
    while reader.item()? {
        reader.object("a text")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "text" => text = text.joined(reader.text()?),
                _ => reader.skip()?,
            }
        }
    }
    Ok(text)
}

fn parse_location<'a>(reader: &mut Reader<'a>, citation: &mut Citation<'a>) -> Result<(), JsonError> {
    reader.object("a location")?;
    while let Some(kind) = reader.key()? {
        if reader.kind()? != Kind::Object {
            reader.skip()?;
            continue;
        }
        let (mut index, mut start, mut end) = (0, 0, 0);
        reader.object("a location")?;
        while let Some(key) = reader.key()? {
            match &*key {
                "url" => citation.url = reader.text_or_null()?,
                "documentIndex" | "searchResultIndex" => index = reader.whole_or_null()?.unwrap_or(0),
                "start" => start = reader.whole_or_null()?.unwrap_or(0),
                "end" => end = reader.whole_or_null()?.unwrap_or(0),
                _ => reader.skip()?,
            }
        }
        citation.location = match &*kind {
            "documentChar" => Location::Char {
                document: index,
                start,
                end,
            },
            "documentPage" => Location::Page {
                document: index,
                start,
                end,
            },
            "documentChunk" => Location::Chunk {
                document: index,
                start,
                end,
            },
            "searchResultLocation" => Location::Search {
                result: index,
                start,
                end,
            },
            _ => Location::None,
        };
    }
    Ok(())
}
