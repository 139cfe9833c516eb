//! Where responses are kept: one store for all routes, weighed in bytes.

use std::sync::Arc;
use std::time::Instant;

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::entry::{Entry, Shelf};
use super::fates::Fates;
use super::invalid::secret;
use super::purge::Fate;
use super::storable::Unstorable;
use super::under_way::UnderWay;
use crate::keep::{Identity, Keep};

type Shelves = Cache<Vec<u8>, Arc<Shelf>, foldhash::fast::RandomState>;

/// All that is stored, and what became of it.
pub struct Store {
    shelves: Shelves,
    /// What was purged, and what unsafe requests made invalid.
    pub fates: Arc<Fates>,
    /// What is on its way in, and refreshes.
    pub under_way: Arc<UnderWay>,
    capacity: u64,
    /// What digests that operators see are by.
    pub secret: u128,
}

impl Store {
    /// Room for this many bytes.
    pub fn new(capacity: u64, fates: Arc<Fates>, under_way: Arc<UnderWay>) -> Self {
        let shelves = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, shelf: &Arc<Shelf>| shelf.weight)
            .build_with_hasher(foldhash::fast::RandomState::default());
        Self { shelves, fates, under_way, capacity, secret: secret() }
    }

    /// The store of all routes, kept over reloads.
    pub fn kept(capacity: u64, keeper: &mut (dyn Keep + '_)) -> Arc<Self> {
        let room = Identity::of("cache_memory", "all routes").shape("memory", capacity);
        let (fates, under_way) = (Fates::kept(keeper), UnderWay::kept(keeper));
        keeper.keep(room, || Self::new(capacity, fates, under_way))
    }

    /// All that is known under a key.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Shelf>> {
        self.shelves.get(key)
    }

    /// What became of a response since it was asked for.
    pub fn fate(&self, key: &[u8], entry: &Entry) -> Fate {
        match self.fates.invalid.fate(entry.head.since) {
            Fate::Dead => Fate::Dead,
            fate => fate.max(entry.fate(key, &self.fates.purges)),
        }
    }

    /// Keeps a response, unless it was purged while it came. Whether it is kept.
    pub fn put(&self, key: &[u8], entry: Arc<Entry>) -> bool {
        if self.fate(key, &entry) == Fate::Dead {
            return false;
        }
        self.change(key, |shelf| Some(shelf.with(entry, key)));
        true
    }

    /// Keeps a response in the place of another one, if that is still there and the new one was not purged while it came.
    pub fn replace(&self, key: &[u8], old: &Arc<Entry>, new: Arc<Entry>) {
        if self.fate(key, &new) != Fate::Dead {
            self.change(key, |shelf| match shelf.variants.iter().any(|entry| Arc::ptr_eq(entry, old)) {
                true => Some(shelf.with(new, key)),
                // What is there stays, and what is not does not come.
                false => (shelf.weight > 0).then(|| shelf.clone()),
            });
        }
    }

    /// Notes that the response of a key was none to store, so that nobody waits for the next one.
    pub fn pass(&self, key: &[u8], stale: Option<&Arc<Entry>>, until: Instant, why: Unstorable) {
        self.change(key, |shelf| Some(shelf.passing(stale, until, why, key)));
    }

    /// Notes why a response was none to store that says nothing of the next one, for operators who look for it.
    pub fn tell(&self, key: &[u8], why: Unstorable) {
        let is_news = |shelf: &Shelf| shelf.variants.is_empty() && shelf.why.is_none();
        if self.get(key).is_none_or(|shelf| is_news(&shelf)) {
            self.change(key, |shelf| Some(if is_news(shelf) { shelf.told(why, key) } else { shelf.clone() }));
        }
    }

    /// Lets go of a variant.
    pub fn remove(&self, key: &[u8], entry: &Arc<Entry>) {
        self.change(key, |shelf| {
            let mut shelf = shelf.clone();
            shelf.variants.retain(|other| !Arc::ptr_eq(other, entry));
            (!shelf.variants.is_empty()).then_some(shelf)
        });
    }

    /// Two that change one shelf do so one after the other.
    fn change(&self, key: &[u8], change: impl FnOnce(&Shelf) -> Option<Shelf>) {
        self.shelves.entry_by_ref(key).and_compute_with(|known| {
            let known = known.map(moka::Entry::into_value);
            match change(known.as_deref().unwrap_or(&Shelf::default())) {
                Some(shelf) => Op::Put(Arc::new(shelf)),
                None if known.is_some() => Op::Remove,
                None => Op::Nop,
            }
        });
    }

    /// How many keys are known, bytes they take, bytes that there is room for, and bytes on their way in.
    pub fn usage(&self) -> Usage {
        self.shelves.run_pending_tasks();
        Usage {
            keys: self.shelves.entry_count(),
            bytes: self.shelves.weighted_size(),
            capacity: self.capacity,
            filling: self.under_way.filling(),
            refreshing: self.under_way.refreshing(),
        }
    }

    /// The shelves whose keys this accepts, at most so many.
    pub fn list(&self, most: usize, accepts: impl Fn(&[u8]) -> bool) -> Vec<(Arc<Vec<u8>>, Arc<Shelf>)> {
        self.shelves.iter().filter(|(key, _)| accepts(key)).take(most).collect()
    }
}

/// What the store takes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Keys.
    pub keys: u64,
    /// Bytes that are stored.
    pub bytes: u64,
    /// Bytes that there is room for.
    pub capacity: u64,
    /// Bytes on their way in.
    pub filling: u64,
    /// Refreshes under way.
    pub refreshing: u64,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::super::entry::{Head, VARIANTS_MAX, compact};
    use super::super::freshness::Terms;
    use super::super::invalid::Since;
    use super::*;

    fn entry(variant: &[u8], length: usize, epoch: u64) -> Arc<Entry> {
        with(&HeaderMap::new(), variant, length, epoch)
    }

    fn with(headers: &HeaderMap, variant: &[u8], length: usize, epoch: u64) -> Arc<Entry> {
        let head = Head {
            status: StatusCode::OK,
            headers: compact(headers),
            length: Some(length),
            vary: vec![http::header::ACCEPT_LANGUAGE],
            variant: variant.into(),
            terms: Terms { lifetime: Duration::from_secs(60), ..Terms::default() },
            initial_age: Duration::ZERO,
            received: Instant::now(),
            received_at: SystemTime::UNIX_EPOCH,
            epoch,
            since: Since::default(),
            tags: Box::default(),
            said: Default::default(),
        };
        Arc::new(Entry::new(Arc::new(head), Bytes::from(vec![0; length])))
    }

    /// As the kernel counts it; none where it is not Linux.
    fn resident() -> Option<usize> {
        let text = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib * 1024)
    }

    /// `ARMIGER_TEST_KEYS=10000000 cargo test --release --lib -- --nocapture what_is_stored_is_bounded` for as many.
    #[test]
    fn what_is_stored_is_bounded_however_many_keys_there_are() {
        let count: u32 = std::env::var("ARMIGER_TEST_KEYS").map_or(40_000, |count| count.parse().unwrap());
        let capacity = if count > 1_000_000 { 256 << 20 } else { 8 << 20 };
        let store = Store::new(capacity, Arc::default(), Arc::default());
        let (before, mut most, mut keys) = (resident().unwrap_or(0), 0, 0);
        for number in 0..count {
            assert!(store.put(&number.to_le_bytes(), entry(b"", 1024, 0)));
            if number % (count / 20) == count / 20 - 1 {
                let usage = store.usage();
                assert!(usage.bytes <= capacity && usage.keys > 1000, "{usage:?}");
                (most, keys) = (most.max(resident().unwrap_or(0).saturating_sub(before)), usage.keys as usize);
                println!("{} keys came: {keys} kept, {} bytes counted, {most} of memory", number + 1, usage.bytes);
            }
        }
        println!("{} bytes each by the store's count, {} of memory", store.usage().bytes as usize / keys, most / keys);
        // Other tests run meanwhile where it is not asked for by itself.
        if count > 1_000_000 {
            assert!(most < capacity as usize * 13 / 10, "{most} bytes for {capacity}");
        }
    }

    /// What an answer of 1 KiB with the headers of most takes, by the store's count and by the kernel's:
    /// `ARMIGER_TEST_ENTRIES=200000 cargo test --release --lib -- --ignored --nocapture what_an_entry_takes`.
    #[test]
    #[ignore = "memory is that of the whole process, so that it tells something only by itself"]
    fn what_an_entry_takes_is_what_is_counted() {
        let count: usize = std::env::var("ARMIGER_TEST_ENTRIES").map_or(200_000, |count| count.parse().unwrap());
        let store = Store::new(1 << 40, Arc::default(), Arc::default());
        let before = resident().unwrap_or(0);
        for number in 0..count {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                (http::header::CONTENT_TYPE, "application/json".to_owned()),
                (http::header::CACHE_CONTROL, "public, max-age=3600".to_owned()),
                (http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
                (http::header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
                (http::header::ETAG, format!("\"{number:016x}\"")),
                (http::header::VARY, "accept-encoding".to_owned()),
                (http::header::SERVER, "origin".to_owned()),
            ] {
                headers.insert(name, http::HeaderValue::try_from(value).unwrap());
            }
            let key = format!("12345678....api.example.com..../catalogue/items/{number:08}....http....443");
            assert!(store.put(key.as_bytes(), with(&headers, &[2], 1024, 0)));
        }
        let usage = store.usage();
        let memory = resident().unwrap_or(0).saturating_sub(before);
        let (counted, taken) = (usage.bytes as usize / count, memory / count);
        println!("{count} entries of 1 KiB: {counted} bytes each by the store's count, {taken} of memory");
        assert!((counted * 9 / 10..counted * 11 / 10).contains(&taken), "{taken} taken, {counted} counted");
    }

    #[test]
    fn variants_of_a_key_are_few_and_the_oldest_go() {
        let store = Store::new(1 << 20, Arc::default(), Arc::default());
        for number in 0..=VARIANTS_MAX {
            store.put(b"key", entry(&number.to_le_bytes(), 1, 0));
        }
        let shelf = store.get(b"key").unwrap();
        assert_eq!(shelf.variants.len(), VARIANTS_MAX);
        assert!(shelf.find(&0_usize.to_le_bytes()).is_none() && shelf.find(&VARIANTS_MAX.to_le_bytes()).is_some());
    }

    #[test]
    fn only_what_is_still_there_is_replaced() {
        let store = Store::new(1 << 20, Arc::default(), Arc::default());
        let [first, second, third] = [1, 2, 3].map(|length| entry(b"", length, 0));
        store.replace(b"key", &first, second.clone());
        assert!(store.get(b"key").is_none());
        store.put(b"key", first.clone());
        store.replace(b"key", &first, second);
        assert_eq!(store.get(b"key").unwrap().variants[0].body.len(), 2);
        store.replace(b"key", &first, third);
        assert_eq!(store.get(b"key").unwrap().variants[0].body.len(), 2, "another took its place meanwhile");
    }

    #[test]
    fn nothing_that_was_purged_while_it_came_is_kept() {
        let store = Store::new(1 << 20, Arc::default(), Arc::default());
        let late = entry(b"", 1, store.fates.purges.epoch());
        store.fates.purges.purge(super::super::purge::What::All, false);
        assert!(!store.put(b"key", late) && store.get(b"key").is_none());
    }
}
