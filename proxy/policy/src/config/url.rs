//! Base URLs of providers, written as the vendors' own SDKs take them.
//!
//! Invariants: only `http` and `https`, no user, query or fragment; what parses can be put into `Host` and a request target
//! as it is (RFC 3986 §3, RFC 9110 §7.2). Deliberately absent: resolving the host, and percent-decoding.

use std::fmt;
use std::str::FromStr;

use super::values::textual;

/// A base URL that may hold `{region}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlTemplate(String);

textual!(UrlTemplate, "url", "^https?://[^/?#]+[^?#]*$");

impl UrlTemplate {
    /// Whether it needs a region.
    pub fn is_regional(&self) -> bool {
        self.0.contains("{region}")
    }

    /// The URL for one region.
    ///
    /// # Errors
    /// The region makes it something else than a URL.
    pub fn for_region(&self, region: Option<&str>) -> Result<BaseUrl, String> {
        self.0.replace("{region}", region.unwrap_or_default()).parse()
    }
}

impl FromStr for UrlTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.replace("{region}", "region").parse::<BaseUrl>()?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where requests to a provider go: scheme, host, port and the path that precedes every request's own (RFC 3986 §3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `https`, else `http`.
    pub tls: bool,
    /// A name, or an IP address without brackets; lower case.
    pub host: String,
    /// The port, the scheme's own if none is written.
    pub port: u16,
    /// Empty, or begins with `/`; without a slash at the end.
    pub path: String,
}

impl BaseUrl {
    /// The value of `Host`: the port only if it is not the scheme's own (RFC 9110 §7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let port_default = if self.tls { 443 } else { 80 };
        if self.port == port_default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("it does not begin with https:// or http://".into()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if rest.contains(['?', '#']) {
            return Err("a query or fragment has no place in it".into());
        }
        if authority.contains('@') {
            return Err("a user name or password has no place in it".into());
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or("the port is not a number from 1 to 65535")?,
        };
        if !path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'{' | b'}'))
        {
            return Err("the path holds a character that a URL cannot hold".into());
        }
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

/// Splits `host:port`; brackets around an IPv6 address are removed.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("the bracket of the IPv6 address is not closed")?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| "the brackets do not hold an IPv6 address")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("something other than a port follows the IPv6 address".into()),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let well_formed = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if host.is_empty() || host.len() > 253 || !well_formed {
        return Err("the host is not a host name or an IP address".into());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_keep_host_port_and_path() {
        let url: BaseUrl = "https://API.openai.com/v1/".parse().unwrap();
        assert_eq!(
            (url.tls, url.host.as_str(), url.port, url.path.as_str()),
            (true, "api.openai.com", 443, "/v1")
        );
        assert_eq!(url.authority(), "api.openai.com");
        let url: BaseUrl = "http://[::1]:9000".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 9000, ""));
        assert_eq!(url.authority(), "[::1]:9000");
        for text in [
            "api.openai.com",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x?y",
            "https://x:0",
            "https://x:70000",
            "https://a b",
            "https://[::1",
            "https://[x]",
            "https://x/\u{7f}",
            "https://[::1]9",
        ] {
            assert!(text.parse::<BaseUrl>().is_err(), "{text}");
        }
    }
}
