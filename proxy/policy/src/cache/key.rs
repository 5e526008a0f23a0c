//! Keys: what a chat request is, apart from how it is written, and which requests may be looked at together.
//!
//! Invariants: everything that may change an answer is in the key: tenant, route, context, epoch, model, parameters, format,
//! history, and the bytes of every attachment; nothing is folded, trimmed or rounded. Hashes are BLAKE3 under a key of our own, so
//! that nobody can craft two requests of one hash; the canonical request is stored and compared all the same. A request with
//! something that we do not understand is not cached. Deliberately absent: what never changes an answer (whether it is
//! streamed, and prompt-cache markers), and the web: an image at an address may be another one tomorrow.

mod canonical;

#[cfg(test)]
mod tests;

use std::fmt;

use sluice_wire::chat::ChatRequest;
use sluice_wire::dialect::Dialect;

pub use canonical::Canonical;

/// The key of all hashes; a secret of this installation, kept as long as its cache.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A hash in a domain of its own.
    pub(super) fn hasher(&self, domain: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(domain.as_bytes());
        hasher.update(&[0]);
        hasher
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A hash under the installation's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

/// Who asks, through what, and what must be equal besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Whose answers may be shared: the virtual key's tenant.
    pub tenant: &'a str,
    /// The route, because another may mean other models by the same name.
    pub route: &'a str,
    /// The client's dialect, because each leaves other things unsaid.
    pub dialect: Dialect,
    /// Declared body paths, header and metadata fields, in the route's order. One that is missing is not one that is empty.
    pub context: &'a [(&'a str, Option<&'a str>)],
    /// Of tenant and context.
    pub epoch: u64,
}

/// Which requests a route caches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Eligible {
    /// Highest temperature, on the client's own scale; a request without one counts as 1. `None`: any.
    pub temperature_max: Option<f64>,
}

/// Why a request has nothing to do with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// Tools are on offer, were called, or answered.
    Tools,
    /// More than one answer is asked for.
    Several,
    /// The temperature is higher than the route allows.
    Temperature,
    /// Something stands at an address whose content can change.
    Remote,
    /// A field that nobody here knows.
    Unknown,
}

impl Bypass {
    /// Its name in metrics and explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Several => "several_answers",
            Self::Temperature => "temperature",
            Self::Remote => "remote_content",
            Self::Unknown => "unknown_field",
        }
    }
}

impl Canonical {
    /// Reads a request; memory is reused.
    ///
    /// # Errors
    /// When it is not to be cached.
    pub fn read(
        &mut self,
        request: &ChatRequest<'_>,
        scope: &Scope<'_>,
        eligible: &Eligible,
        secret: &Secret,
    ) -> Result<(), Bypass> {
        check(request, eligible)?;
        self.write(request, scope, secret)
    }

    /// The key of this very request.
    pub fn exact(&self, secret: &Secret) -> Key {
        self.key(secret, "exact", &[self.images(), self.text().as_bytes()])
    }

    /// The key of all requests that differ from it in the last user text alone, and there agree in the guard's signature, their
    /// vectors of one embedding (empty: our own). `None` if there is no such text, or it cannot be matched by meaning.
    pub fn bucket(&self, secret: &Secret, signature: &[u8], embedding: &[u8]) -> Option<Key> {
        let parts = [self.images(), signature, embedding];
        let parts = if embedding.is_empty() { &parts[..2] } else { &parts };
        self.is_semantic().then(|| self.key(secret, "bucket", parts))
    }

    /// The key of all requests that differ from it in the bytes of its images alone. `None` if it has none.
    pub fn frames(&self, secret: &Secret) -> Option<Key> {
        (!self.images().is_empty()).then(|| self.key(secret, "frames", &[self.text().as_bytes()]))
    }

    fn key(&self, secret: &Secret, domain: &str, parts: &[&[u8]]) -> Key {
        let mut hasher = secret.hasher(domain);
        hasher.update(&self.frame_hash);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(hasher.finalize().into())
    }
}

fn check(request: &ChatRequest<'_>, eligible: &Eligible) -> Result<(), Bypass> {
    if !request.tools.is_empty() || request.tool_choice.is_some() {
        return Err(Bypass::Tools);
    }
    if request.n.is_some_and(|n| n != 1) {
        return Err(Bypass::Several);
    }
    if !request.ignored.is_empty() {
        return Err(Bypass::Unknown);
    }
    let temperature = request.temperature.map_or(1.0, |temperature| temperature.f64());
    // What is no number is above every bound.
    let allowed = eligible.temperature_max.is_none_or(|max| temperature <= max);
    if allowed { Ok(()) } else { Err(Bypass::Temperature) }
}
