//! One header field of a head, and the closed list of names that the gateway recognises.
//!
//! Invariants: names compare case-insensitively; a field is hop-by-hop if RFC 9110 §7.6.1 lists it or the message's own
//! `Connection` field names it. Deliberately absent: values' meaning, beyond what framing needs (that is `head`).

use super::Span;

/// A header field, as spans of its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// The whole line, CRLF included.
    pub line: Span,
    /// The name, as sent.
    pub name: Span,
    /// The value without the white space around it; possibly empty.
    pub value: Span,
    /// Which field it is.
    pub id: FieldId,
    /// Whether it must not be forwarded: hop-by-hop by name, or named in `Connection`.
    pub hop: bool,
}

macro_rules! field_ids {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal / $len:literal; )*) => {
        /// The fields that something acts on.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum FieldId {
            /// Any other name.
            #[default]
            Other,
            /// Any name that starts with `x-sluice-`: ours, never forwarded to a provider.
            Sluice,
            $( $(#[$doc])* $variant, )*
        }

        impl FieldId {
            /// Which field a name is; case is ignored. `name` holds only token characters (RFC 9110 §5.6.2).
            #[inline]
            pub fn of(name: &[u8]) -> Self {
                match name.len() {
                    // The last byte tells most names of one length apart, cheaply.
                    $( $len if (name[$len - 1] | 0x20) == $name[$len - 1] && same(name, $name) => Self::$variant, )*
                    10.. if name[2] | 0x20 == b's' && same(&name[..9], b"x-sluice-") => Self::Sluice,
                    _ => Self::Other,
                }
            }

            /// How many identities there are.
            const COUNT: usize = [Self::Other, Self::Sluice, $( Self::$variant, )*].len();

            /// Every recognised name, in lower case.
            #[cfg(test)]
            pub(crate) const NAMES: &[(Self, &[u8], usize)] = &[$( (Self::$variant, $name, $len), )*];
        }
    };
}

field_ids! {
    /// `Host`
    Host = b"host" / 4;
    /// `Connection`
    Connection = b"connection" / 10;
    /// `Keep-Alive`
    KeepAlive = b"keep-alive" / 10;
    /// `Proxy-Connection`
    ProxyConnection = b"proxy-connection" / 16;
    /// `Proxy-Authenticate`
    ProxyAuthenticate = b"proxy-authenticate" / 18;
    /// `Proxy-Authorization`
    ProxyAuthorization = b"proxy-authorization" / 19;
    /// `Transfer-Encoding`
    TransferEncoding = b"transfer-encoding" / 17;
    /// `TE`
    Te = b"te" / 2;
    /// `Trailer`
    Trailer = b"trailer" / 7;
    /// `Upgrade`
    Upgrade = b"upgrade" / 7;
    /// `Content-Length`
    ContentLength = b"content-length" / 14;
    /// `Content-Type`
    ContentType = b"content-type" / 12;
    /// `Content-Encoding`
    ContentEncoding = b"content-encoding" / 16;
    /// `Accept-Encoding`
    AcceptEncoding = b"accept-encoding" / 15;
    /// `Accept`
    Accept = b"accept" / 6;
    /// `Expect`
    Expect = b"expect" / 6;
    /// `Authorization`
    Authorization = b"authorization" / 13;
    /// `x-api-key`
    XApiKey = b"x-api-key" / 9;
    /// `api-key`
    ApiKey = b"api-key" / 7;
    /// `x-goog-api-key`
    XGoogApiKey = b"x-goog-api-key" / 14;
    /// `x-bf-vk`: another gateway's virtual key, which this one takes in its place.
    XBfVk = b"x-bf-vk" / 7;
    /// `Cookie`
    Cookie = b"cookie" / 6;
    /// `Set-Cookie`
    SetCookie = b"set-cookie" / 10;
    /// `X-Request-Id`
    XRequestId = b"x-request-id" / 12;
    /// `X-Forwarded-For`
    XForwardedFor = b"x-forwarded-for" / 15;
    /// `X-Forwarded-Proto`
    XForwardedProto = b"x-forwarded-proto" / 17;
    /// `X-Forwarded-Host`
    XForwardedHost = b"x-forwarded-host" / 16;
    /// `X-Real-IP`
    XRealIp = b"x-real-ip" / 9;
    /// `Forwarded`
    Forwarded = b"forwarded" / 9;
    /// `Via`
    Via = b"via" / 3;
    /// `Retry-After`
    RetryAfter = b"retry-after" / 11;
    /// `Date`
    Date = b"date" / 4;
    /// `Server`
    Server = b"server" / 6;
    /// `Location`
    Location = b"location" / 8;
    /// `User-Agent`
    UserAgent = b"user-agent" / 10;
    /// `traceparent`
    Traceparent = b"traceparent" / 11;
    /// `anthropic-version`
    AnthropicVersion = b"anthropic-version" / 17;
    /// `anthropic-beta`
    AnthropicBeta = b"anthropic-beta" / 14;
    /// `OpenAI-Organization`
    OpenaiOrganization = b"openai-organization" / 19;
    /// `X-Stainless-Read-Timeout`
    StainlessReadTimeout = b"x-stainless-read-timeout" / 24;
    /// `X-Stainless-Timeout`
    StainlessTimeout = b"x-stainless-timeout" / 19;
    /// `OpenAI-Project`
    OpenaiProject = b"openai-project" / 14;
    /// `x-ratelimit-remaining-requests`
    RequestsLeft = b"x-ratelimit-remaining-requests" / 30;
    /// `x-ratelimit-limit-requests`
    RequestsLimit = b"x-ratelimit-limit-requests" / 26;
    /// `x-ratelimit-remaining-tokens`
    TokensLeft = b"x-ratelimit-remaining-tokens" / 28;
    /// `x-ratelimit-limit-tokens`
    TokensLimit = b"x-ratelimit-limit-tokens" / 24;
    /// `anthropic-ratelimit-requests-remaining`
    AnthropicRequestsLeft = b"anthropic-ratelimit-requests-remaining" / 38;
    /// `anthropic-ratelimit-requests-limit`
    AnthropicRequestsLimit = b"anthropic-ratelimit-requests-limit" / 34;
    /// `anthropic-ratelimit-input-tokens-remaining`
    AnthropicInputLeft = b"anthropic-ratelimit-input-tokens-remaining" / 42;
    /// `anthropic-ratelimit-input-tokens-limit`
    AnthropicInputLimit = b"anthropic-ratelimit-input-tokens-limit" / 38;
    /// `anthropic-ratelimit-output-tokens-remaining`
    AnthropicOutputLeft = b"anthropic-ratelimit-output-tokens-remaining" / 43;
    /// `anthropic-ratelimit-output-tokens-limit`
    AnthropicOutputLimit = b"anthropic-ratelimit-output-tokens-limit" / 39;
}

impl FieldId {
    /// Whether the field belongs to one connection, whatever `Connection` says (RFC 9110 §7.6.1).
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::TransferEncoding
                | Self::Te
                | Self::Trailer
                | Self::Upgrade
        )
    }
}

/// Which of the recognised fields a head has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present(u64);

const _: () = assert!(FieldId::COUNT <= u64::BITS as usize, "one bit for each identity");

impl Present {
    /// The head has this one.
    #[inline(always)]
    pub(super) fn add(&mut self, id: FieldId) {
        self.0 |= 1 << id as u8;
    }

    /// Whether it does.
    #[inline(always)]
    pub(super) fn has(self, id: FieldId) -> bool {
        self.0 >> id as u8 & 1 == 1
    }
}

/// Compares a name of token characters with a lower-case one. Setting bit 5 folds case, and merges no two token
/// characters that the recognised names (letters, digits, `-`) could confuse. Branch-free, so that it vectorises.
#[inline(always)]
fn same<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else {
        return false;
    };
    let mut differences = 0;
    for at in 0..N {
        differences |= (name[at] | 0x20) ^ lower[at];
    }
    differences == 0
}

/// The first field with an identity; `present` are those that `fields` has.
#[inline]
pub(super) fn find(fields: &[Field], present: Present, id: FieldId) -> Option<&Field> {
    // Most that are asked for are not there.
    if id != FieldId::Other && !present.has(id) {
        return None;
    }
    fields.iter().find(|field| field.id == id)
}

/// The value of the first field of a name, which is given in lower case.
pub(super) fn named<'a>(fields: &[Field], buf: &'a [u8], lowercase_name: &[u8]) -> Option<&'a [u8]> {
    fields
        .iter()
        .find(|field| {
            field.name.len() == lowercase_name.len() && field.name.of(buf).eq_ignore_ascii_case(lowercase_name)
        })
        .map(|field| field.value.of(buf))
}

/// Appends the lines that `keep` wants, each run of neighbours in one copy.
pub(super) fn copy_fields(fields: &[Field], buf: &[u8], out: &mut Vec<u8>, keep: impl Fn(&Field) -> bool) {
    let mut run = Span::default();
    for field in fields.iter().filter(|field| keep(field)) {
        if field.line.start == run.end {
            run.end = field.line.end;
        } else {
            out.extend_from_slice(run.of(buf));
            run = field.line;
        }
    }
    out.extend_from_slice(run.of(buf));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case_and_only_whole() {
        for &(id, name, len) in FieldId::NAMES {
            assert_eq!(name.len(), len, "{id:?}");
            assert_eq!(FieldId::of(name), id);
            assert_eq!(FieldId::of(&name.to_ascii_uppercase()), id);
            let mut longer = name.to_vec();
            longer.push(b'x');
            assert_eq!(FieldId::of(&longer), FieldId::Other);
            let mut near = name.to_vec();
            near[0] ^= 1;
            assert_ne!(FieldId::of(&near), id);
        }
        assert_eq!(FieldId::of(b"X-Sluice-Cache"), FieldId::Sluice);
        assert_eq!(FieldId::of(b"x-sluice-"), FieldId::Other);
        assert_eq!(FieldId::of(b"x-sluiced-a"), FieldId::Other);
    }
}
