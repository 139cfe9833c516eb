//! Families of series, and handles of one name that share theirs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// Upper bounds of the duration histograms, in seconds: half a millisecond to half a minute.
pub(super) const DURATION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The most words told apart under one label of one series; the rest counts as `other`.
pub(super) const SLUGS_MAX: usize = 48;

/// A kind of value a family is made of.
pub(super) trait Kind: Metric + Clone + 'static {
    const TYPE: MetricType;
    fn make(opts: Opts) -> prometheus::Result<Self>;
}

impl Kind for IntCounter {
    const TYPE: MetricType = MetricType::COUNTER;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        IntCounter::with_opts(opts)
    }
}

impl Kind for Counter {
    const TYPE: MetricType = MetricType::COUNTER;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Counter::with_opts(opts)
    }
}

impl Kind for IntGauge {
    const TYPE: MetricType = MetricType::GAUGE;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        IntGauge::with_opts(opts)
    }
}

impl Kind for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Gauge::with_opts(opts)
    }
}

impl Kind for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Histogram::with_opts(HistogramOpts { common_opts: opts, buckets: DURATION_BUCKETS.to_vec() })
    }
}

/// What is registered, and what the reference tells of it.
#[derive(Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) entries: Vec<Entry>,
}

/// What is known of a family.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    /// Empty where there is none.
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
}

/// All series of one name, found by their label values.
///
/// In place of the crate's own vectors, which find a series by a hash over its label values run together: the values
/// `a`, `bc` and `ab`, `c` would be one series there, and names from a configuration are free to be like that.
pub(super) struct Family<K: Kind>(Arc<FamilyInner<K>>);

struct FamilyInner<K> {
    desc: Desc,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, K>>,
}

impl<K: Kind> Clone for Family<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Kind> Family<K> {
    pub(super) fn register(
        catalogue: &mut Catalogue,
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        help: &'static str,
    ) -> Self {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())
            .expect("family and label names are valid literals");
        let family = Self(Arc::new(FamilyInner { desc, labels, series: Mutex::new(BTreeMap::new()) }));
        catalogue.registry.register(Box::new(family.clone())).expect("each family is registered once");
        catalogue.entries.push(Entry { name, kind: K::TYPE, labels, unit, help });
        family
    }

    /// The series with these label values, made if need be.
    pub(super) fn series(&self, values: &[&str]) -> K {
        debug_assert_eq!(values.len(), self.0.labels.len());
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut series = lock(&self.0.series);
        series
            .entry(key)
            .or_insert_with_key(|key| {
                let labels = self.0.labels.iter().map(|label| (*label).to_owned()).zip(key.iter().cloned()).collect();
                K::make(Opts::new(self.0.desc.fq_name.clone(), self.0.desc.help.clone()).const_labels(labels))
                    .expect("label names are valid literals and any label value is")
            })
            .clone()
    }

    /// Makes this series the only one.
    pub(super) fn only(&self, values: &[&str]) -> K {
        // Made first: a scrape in between sees one too many rather than none.
        let new = self.series(values);
        lock(&self.0.series).retain(|key, _| key.iter().map(String::as_str).eq(values.iter().copied()));
        new
    }

    /// Takes every series whose first label values are `prefix` out of the exposition.
    pub(super) fn remove(&self, prefix: &[&str]) {
        let from: Vec<String> = prefix.iter().map(|value| (*value).to_owned()).collect();
        let mut series = lock(&self.0.series);
        // Keys are in order, so these stand together: a walk over all of them would make dropping a snapshot quadratic.
        let gone: Vec<Vec<String>> = series
            .range(from.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&from))
            .cloned()
            .collect();
        for key in &gone {
            series.remove(key);
        }
    }
}

impl<K: Kind> Collector for Family<K> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(K::TYPE);
        family.set_metric(lock(&self.0.series).values().map(Metric::metric).collect());
        vec![family]
    }
}

/// Counters of one family that differ in their last label, whose values are words of the code.
///
/// The list only ever grows, entry by entry, so reading takes no lock; its length bounds the number of series.
pub(super) struct SlugCounters {
    pub(super) family: Family<IntCounter>,
    prefix: Vec<String>,
    known: [OnceLock<(&'static str, IntCounter)>; SLUGS_MAX],
}

impl SlugCounters {
    pub(super) fn new(family: &Family<IntCounter>, prefix: &[&str]) -> Self {
        Self {
            family: family.clone(),
            prefix: prefix.iter().map(|value| (*value).to_owned()).collect(),
            known: [const { OnceLock::new() }; SLUGS_MAX],
        }
    }

    pub(super) fn add(&self, slug: &'static str, count: u64) {
        let (last, words) = self.known.split_last().expect("the list has room for a word");
        for cell in words {
            let (word, counter) = cell.get_or_init(|| self.make(slug));
            if *word == slug {
                return counter.inc_by(count);
            }
        }
        last.get_or_init(|| self.make("other")).1.inc_by(count);
    }

    pub(super) fn make(&self, slug: &'static str) -> (&'static str, IntCounter) {
        let mut values: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        values.push(slug);
        (slug, self.family.series(&values))
    }
}

/// A family without labels, and its one series.
pub(super) fn single<K: Kind>(
    catalogue: &mut Catalogue,
    name: &'static str,
    unit: &'static str,
    help: &'static str,
) -> K {
    Family::register(catalogue, name, &[], unit, help).series(&[])
}

/// What a handle counts with, under one name.
pub(super) trait Series {
    /// Takes the name's series out of the exposition.
    fn leave(&self);
}

type Key = Vec<String>;

/// The live series of one sort by their names.
pub(super) struct Shelf<S: Series>(pub(super) Arc<Mutex<HashMap<Key, Weak<Held<S>>>>>);

/// Series that leave when the last handle to them is dropped.
pub(super) struct Held<S: Series> {
    pub(super) series: S,
    key: Key,
    shelf: Shelf<S>,
}

impl<S: Series> Shelf<S> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn get(&self, key: &[&str], make: impl FnOnce() -> S) -> Arc<Held<S>> {
        let key: Key = key.iter().map(|part| (*part).to_owned()).collect();
        let mut shelf = lock(&self.0);
        if let Some(held) = shelf.get(&key).and_then(Weak::upgrade) {
            return held;
        }
        let held = Arc::new(Held { series: make(), key: key.clone(), shelf: Self(Arc::clone(&self.0)) });
        shelf.insert(key, Arc::downgrade(&held));
        held
    }
}

impl<S: Series> Drop for Held<S> {
    fn drop(&mut self) {
        let mut shelf = lock(&self.shelf.0);
        // Between the last handle's end and this lock the name may have been taken up again; its series then belong
        // to the successor, which found them still registered.
        if shelf.get(&self.key).is_some_and(|current| std::ptr::eq(current.as_ptr(), self)) {
            shelf.remove(&self.key);
            self.series.leave();
        }
    }
}

/// Nothing that panics runs under these locks, and a half-made count would be no reason to fail an exchange.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
