//! A response as it is written down for others: with its version, its lengths and a digest of all of it. What cannot be read
//! to the last byte is no response.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::Ground;
use crate::policy::cache::control::Control;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::freshness::Terms;
use crate::policy::cache::storable::strip;

/// What a value begins with. Another layout has another one.
const MAGIC: &[u8; 8] = b"armiger2";

/// Bytes of a digest at the end.
const SEAL: usize = 16;

/// The most headers and tags of a value.
const LIST_MAX: usize = 1000;

/// A response that others wrote down.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// As of when it was asked for.
    pub ground: Ground,
    /// How old it was when it was written down.
    pub age: Duration,
    /// How long it is kept, from then on.
    pub keep: Duration,
    /// What it may be used for.
    pub terms: Terms,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Which request headers chose it. Filled in by who knows.
    pub vary: Vec<HeaderName>,
    /// Names by which it can be purged.
    pub tags: Box<[Box<str>]>,
    /// Its body.
    pub body: Bytes,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes an entry down under the name that it gets.
pub fn write(name: &[u8; 32], entry: &Entry, ground: Ground, age: Duration, keep: Duration) -> Vec<u8> {
    let head = &entry.head;
    let mut out = Vec::with_capacity(512 + entry.body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(name);
    out.extend_from_slice(&ground.life.to_le_bytes());
    for number in [
        ground.purges,
        ground.time,
        millis(age),
        millis(keep),
        millis(head.terms.lifetime),
        millis(head.terms.while_revalidate),
        millis(head.terms.if_error),
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(u8::from(head.terms.forbids_stale) | u8::from(head.terms.is_for_all) << 1);
    out.extend_from_slice(&head.status.as_u16().to_le_bytes());
    push_count(&mut out, head.headers.len());
    for (name, value) in &head.headers {
        push(&mut out, name.as_str().as_bytes());
        push(&mut out, value.as_bytes());
    }
    push_count(&mut out, head.tags.len());
    for tag in &head.tags {
        push(&mut out, tag.as_bytes());
    }
    push(&mut out, &entry.body);
    let seal = Sha256::digest(&out);
    out.extend_from_slice(&seal[..SEAL]);
    out
}

fn push_count(out: &mut Vec<u8>, count: usize) {
    // Heads and bodies are bounded far below 4 GiB.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    push_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads what is written under this name.
pub fn read(name: &[u8; 32], value: Bytes) -> Option<Stored> {
    let end = value.len().checked_sub(SEAL)?;
    if Sha256::digest(&value[..end])[..SEAL] != value[end..] {
        return None;
    }
    let mut reader = Reader { rest: &value[..end] };
    if reader.take(MAGIC.len())? != MAGIC || reader.take(name.len())? != name {
        return None;
    }
    let life = u128::from_le_bytes(*reader.take(16)?.first_chunk()?);
    let mut number = || reader.take(8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let ground = Ground { life, purges: number()?, time: number()? };
    let (age, keep) = (Duration::from_millis(number()?), Duration::from_millis(number()?));
    let mut terms = Terms {
        lifetime: Duration::from_millis(number()?),
        while_revalidate: Duration::from_millis(number()?),
        if_error: Duration::from_millis(number()?),
        ..Terms::default()
    };
    let flags = *reader.take(1)?.first()?;
    if flags > 3 {
        return None;
    }
    (terms.forbids_stale, terms.is_for_all) = (flags & 1 != 0, flags & 2 != 0);
    let status = u16::from_le_bytes(*reader.take(2)?.first_chunk()?);
    let status = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 200)?;
    let mut headers = HeaderMap::new();
    for _ in 0..reader.count()? {
        let name = HeaderName::from_bytes(reader.bytes()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(reader.bytes()?).ok()?);
    }
    // Whoever wrote it did so as well; nothing that frames a message may come from elsewhere.
    let control = Control::of(&headers);
    strip(&mut headers, &control);
    let mut tags = Vec::new();
    for _ in 0..reader.count()? {
        tags.push(Box::from(std::str::from_utf8(reader.bytes()?).ok()?));
    }
    let body = value.slice_ref(reader.bytes()?);
    // In an allocation of its own: the value's buffer would be kept with it.
    let body = Bytes::from(Box::<[u8]>::from(&*body));
    let is_read = reader.rest.is_empty();
    is_read.then(|| Stored { ground, age, keep, terms, status, headers, vary: Vec::new(), tags: tags.into(), body })
}

struct Reader<'r> {
    rest: &'r [u8],
}

impl<'r> Reader<'r> {
    fn take(&mut self, length: usize) -> Option<&'r [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(*self.take(4)?.first_chunk()?)).ok()
    }

    fn count(&mut self) -> Option<usize> {
        self.number().filter(|count| *count <= LIST_MAX)
    }

    fn bytes(&mut self) -> Option<&'r [u8]> {
        let length = self.number()?;
        self.take(length)
    }
}

/// Writes down which request headers choose among variants.
pub fn write_names(names: &[HeaderName]) -> String {
    names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",")
}

/// Reads that. Nothing is written where nothing chooses.
pub fn read_names(text: &[u8]) -> Option<Vec<HeaderName>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(|byte| *byte == b',').map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// What a response is called: a digest of the rules that it was stored by, its key, and what tells it apart among variants.
pub fn name(scope: &[u8; 32], key: &[u8], vary: &[HeaderName], variant: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(scope);
    for part in [key, write_names(vary).as_bytes(), variant] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::policy::cache::entry::{Head, compact};
    use crate::policy::cache::invalid::Since;

    const GROUND: Ground = Ground { life: 7, purges: 3, time: 1_000 };

    fn entry(body: &[u8]) -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.append("link", HeaderValue::from_static("a"));
        headers.append("link", HeaderValue::from_bytes(b"b\xff").unwrap());
        let head = Head {
            status: StatusCode::NOT_FOUND,
            headers: compact(&headers),
            length: Some(body.len()),
            vary: Vec::new(),
            variant: Box::default(),
            terms: Terms { lifetime: Duration::from_secs(60), is_for_all: true, ..Terms::default() },
            initial_age: Duration::ZERO,
            received: Instant::now(),
            received_at: SystemTime::UNIX_EPOCH,
            epoch: 0,
            since: Since::default(),
            tags: Box::new(["t".into()]),
            said: Default::default(),
        };
        Entry::new(Arc::new(head), Bytes::copy_from_slice(body))
    }

    fn written(name: &[u8; 32], body: &[u8]) -> Vec<u8> {
        write(name, &entry(body), GROUND, Duration::from_secs(2), Duration::from_secs(58))
    }

    #[test]
    fn what_is_written_is_read() {
        let stored = read(&[1; 32], written(&[1; 32], b"body").into()).expect("it is one");
        assert_eq!((stored.ground, &*stored.body, stored.status.as_u16()), (GROUND, &b"body"[..], 404));
        assert_eq!((stored.age.as_secs(), stored.keep.as_secs(), stored.terms.lifetime.as_secs()), (2, 58, 60));
        assert!(stored.terms.is_for_all && !stored.terms.forbids_stale);
        assert_eq!((stored.headers.len(), stored.headers.get_all("link").iter().count(), stored.tags.len()), (3, 2, 1));
        assert!(!stored.headers.contains_key("age"), "it is told anew");
    }

    #[test]
    fn a_value_under_another_name_is_none() {
        assert_eq!(read(&[2; 32], written(&[1; 32], b"body").into()), None);
        for foreign in [&b""[..], b"OK", &[0; 300]] {
            assert_eq!(read(&[1; 32], Bytes::copy_from_slice(foreign)), None);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let names = [http::header::ACCEPT_LANGUAGE, HeaderName::from_static("x-a")];
        assert_eq!(read_names(write_names(&names).as_bytes()), Some(names.to_vec()));
        assert_eq!((read_names(b""), read_names(b"a,,b")), (Some(Vec::new()), None));
        let of = |key: &[u8], variant: &[u8]| name(&[0; 32], key, &names, variant);
        assert_ne!(of(b"a", b"bc"), of(b"ab", b"c"));
        assert_ne!(name(&[1; 32], b"a", &[], b""), name(&[0; 32], b"a", &[], b""));
    }

    proptest! {
        /// Never a wrong body: whatever happens to a value, it is itself or nothing.
        #[test]
        fn a_value_that_was_damaged_is_none(
            body in prop::collection::vec(any::<u8>(), 0..64),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = written(&[9; 32], &body);
            let mut damaged = whole.clone();
            let place = at.index(damaged.len());
            damaged[place] ^= flip;
            prop_assert_eq!(read(&[9; 32], damaged.into()), None);
            prop_assert_eq!(read(&[9; 32], whole[..cut.index(whole.len())].to_vec().into()), None);
            let mut longer = whole;
            longer.push(0);
            prop_assert_eq!(read(&[9; 32], longer.into()), None);
        }
    }
}
