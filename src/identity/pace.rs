//! When to fetch keys: a pure schedule. Time and chance are arguments.

use std::time::{Duration, Instant};

/// How far apart fetches are that unknown keys ask for, at least: a flood of tokens with made-up keys costs no more.
pub const ASK_LEAST: Duration = Duration::from_secs(10);

/// However short the issuer says its answer is good for, it is not asked again sooner.
const FRESH_LEAST: Duration = Duration::from_secs(30);

/// The first pause after a failure, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long after a good fetch the next one is due. `chance` is from 0 to 1.
fn refresh_after(refresh: Duration, fresh_for: Option<Duration>, chance: f64) -> Duration {
    let age = fresh_for.map_or(refresh, |fresh| refresh.min(fresh.max(FRESH_LEAST)));
    age.mul_f64(0.8 - 0.1 * chance)
}

/// How long after the last of so many failures the next try is due.
fn back_off(failures: u32, chance: f64) -> Duration {
    let doubled = BACK_OFF.0.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(BACK_OFF.1.mul_f64(0.8)).mul_f64(1.0 + 0.25 * chance)
}

/// What has been tried, and what is asked for.
#[derive(Debug, Default)]
pub struct Pace {
    /// A fetch is under way.
    is_fetching: bool,
    /// When the last one ended.
    ended: Option<Instant>,
    /// When the last good one ended.
    good: Option<Instant>,
    fresh_for: Option<Duration>,
    failures: u32,
    chance: f64,
    /// A token named an unknown key.
    is_wanted: bool,
    /// When last one was fetched for that.
    fetched_for_want: Option<Instant>,
    /// An operator asks.
    is_told: bool,
}

impl Pace {
    /// When the next fetch is due, if keys are to be no older than `refresh`.
    pub fn due(&self, now: Instant, refresh: Duration) -> Instant {
        let Some(ended) = self.ended.filter(|_| !self.is_told) else { return now };
        let pause = match self.failures {
            0 => refresh_after(refresh, self.fresh_for, self.chance),
            failures => back_off(failures, self.chance),
        };
        let regular = ended + pause;
        if self.is_wanted { regular.min(self.may_ask_at(now)) } else { regular }
    }

    fn may_ask_at(&self, now: Instant) -> Instant {
        self.fetched_for_want.map_or(now, |before| now.max(before + ASK_LEAST))
    }

    /// A token names a key that is not known. Whether a fetch that may bring it is under way or begins at once.
    pub fn want(&mut self, now: Instant) -> bool {
        if self.is_fetching || self.ended.is_none() {
            return true;
        }
        self.is_wanted = true;
        self.may_ask_at(now) <= now
    }

    /// An operator wants a fetch.
    pub fn tell(&mut self) {
        self.is_told = true;
    }

    /// A fetch begins.
    pub fn begin(&mut self, now: Instant) {
        if self.is_wanted {
            self.fetched_for_want = Some(now);
        }
        (self.is_fetching, self.is_wanted, self.is_told) = (true, false, false);
    }

    /// It was good. `fresh_for`: how long the issuer says it is.
    pub fn succeeded(&mut self, now: Instant, fresh_for: Option<Duration>, chance: f64) {
        (self.is_fetching, self.ended, self.good) = (false, Some(now), Some(now));
        (self.failures, self.fresh_for, self.chance) = (0, fresh_for, chance);
    }

    /// It was not.
    pub fn failed(&mut self, now: Instant, chance: f64) {
        (self.is_fetching, self.ended) = (false, Some(now));
        (self.failures, self.chance) = (self.failures.saturating_add(1), chance);
    }

    /// Whether a fetch is under way.
    pub fn is_fetching(&self) -> bool {
        self.is_fetching
    }

    /// Whether the last fetch failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Failures one after the other.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the last good fetch ended.
    pub fn good(&self) -> Option<Instant> {
        self.good
    }
}

/// How long an answer is good for by its `Cache-Control` (RFC 9111 §5.2.2.1). `no-cache` and `no-store`, which some issuers
/// send with every answer, say nothing of how often keys change.
pub fn max_age(cache_control: &str) -> Option<Duration> {
    let seconds = cache_control.split(',').find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| value.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const REFRESH: Duration = Duration::from_secs(600);

    #[test]
    fn keys_are_fetched_again_before_they_are_old_and_not_by_everybody_at_once() {
        for (refresh, fresh_for, chance, after) in [
            (600, None, 0.0, 480),
            (600, None, 1.0, 420),
            (600, Some(3600), 0.0, 480),
            (600, Some(100), 0.0, 80),
            (600, Some(100), 1.0, 70),
            (600, Some(0), 0.0, 24),
            (10, Some(0), 0.0, 8),
        ] {
            let told = refresh_after(SECOND * refresh, fresh_for.map(|fresh: u32| SECOND * fresh), chance);
            assert_eq!(told.as_millis(), after * 1000, "{refresh} {fresh_for:?} {chance}");
        }
    }

    #[test]
    fn tries_in_an_outage_are_from_a_second_to_five_minutes_apart() {
        let pauses: Vec<u64> = (1..12).map(|failures| back_off(failures, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 240, 240, 240]);
        assert_eq!(back_off(1, 1.0), SECOND.mul_f64(1.25));
        for failures in [12, 33, 100, u32::MAX] {
            assert_eq!(back_off(failures, 1.0), SECOND * 300);
        }
    }

    #[test]
    fn the_first_fetch_is_due_at_once_and_the_next_one_by_what_came_of_it() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.due(start, REFRESH), start);
        pace.begin(start);
        pace.failed(start, 0.0);
        assert_eq!((pace.due(start, REFRESH), pace.is_failing()), (start + SECOND, true));
        pace.begin(start + SECOND);
        pace.failed(start + SECOND, 0.0);
        assert_eq!(pace.due(start, REFRESH), start + SECOND * 3);
        pace.succeeded(start + SECOND * 3, None, 0.0);
        assert_eq!((pace.due(start, REFRESH), pace.is_failing()), (start + SECOND * 483, false));
        assert_eq!(pace.due(start, SECOND * 100), start + SECOND * 83, "another interval counts from the last fetch");
    }

    #[test]
    fn unknown_keys_cost_one_fetch_in_ten_seconds_whatever_the_flood() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert!(pace.want(start), "the first fetch is on its way");
        pace.begin(start);
        pace.succeeded(start, None, 0.0);
        let mut fetches = 0;
        // A hundred a second for a minute.
        for tick in 0..6_000_u32 {
            let now = start + SECOND / 100 * tick;
            pace.want(now);
            if pace.due(now, REFRESH) <= now {
                pace.begin(now);
                fetches += 1;
                assert!(pace.want(now), "whoever comes meanwhile waits for the same one");
                pace.succeeded(now, None, 0.0);
            }
        }
        assert_eq!(fetches, 6);
    }

    #[test]
    fn whoever_may_not_have_them_fetched_yet_does_not_wait() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.succeeded(start, None, 0.0);
        assert!(pace.want(start));
        pace.begin(start);
        pace.succeeded(start, None, 0.0);
        assert!(!pace.want(start + SECOND * 2));
        assert_eq!(pace.due(start, REFRESH), start + ASK_LEAST, "but it is fetched as soon as that may be");
        assert!(!pace.want(start + SECOND * 9) && pace.want(start + SECOND * 10));
    }

    #[test]
    fn an_operator_does_not_wait_for_any_pause() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.succeeded(start, None, 0.0);
        pace.tell();
        assert_eq!(pace.due(start, REFRESH), start);
        pace.begin(start);
        pace.failed(start, 0.0);
        assert_eq!(pace.due(start, REFRESH), start + SECOND);
    }

    #[test]
    fn of_cache_control_only_max_age_counts() {
        for (text, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"60\" , must-revalidate", Some(60)),
            ("s-maxage=5, max-age=0", Some(0)),
            ("no-cache, no-store", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(max_age(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
