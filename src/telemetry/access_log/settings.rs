//! What the access log shows and which exchanges it leaves out: the configuration, made ready for the hot path.

use std::time::Duration;

use http::{HeaderName, header};

use super::redact::Shown;
use crate::config::observe::{self, LogField, LogFormat};

/// What a line shows, what of an exchange is kept for it, and which exchanges have one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub(super) format: LogFormat,
    pub(super) fields: Vec<LogField>,
    /// The query keys whose values are shown, spelt as on the wire.
    pub(super) query_keys: Vec<String>,
    /// The request headers that are kept, each once.
    pub(super) headers: Vec<Shown>,
    /// The headers of the answer that are kept, each once.
    pub(super) response_headers: Vec<Shown>,
    keeps_query: bool,
    sample: f64,
    slow: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&observe::AccessLog::default())
    }
}

impl Settings {
    /// What the configuration asks for. What compile refuses, such as an unlawful header name, is left out.
    pub fn of(config: &observe::AccessLog) -> Self {
        let shows = |field| config.format == LogFormat::Json && config.fields.contains(&field);
        let (headers, response_headers) = match config.format {
            LogFormat::Combined => (vec![Shown::of(header::REFERER), Shown::of(header::USER_AGENT)], Vec::new()),
            _ => (
                if shows(LogField::Headers) { shown(&config.headers) } else { Vec::new() },
                if shows(LogField::ResponseHeaders) { shown(&config.response_headers) } else { Vec::new() },
            ),
        };
        Self {
            format: config.format,
            fields: config.fields.clone(),
            query_keys: config.query.clone(),
            headers,
            response_headers,
            keeps_query: match config.format {
                LogFormat::Json => shows(LogField::Query),
                LogFormat::Text | LogFormat::Combined => true,
                LogFormat::Off => false,
            },
            sample: config.sample,
            slow: config.slow.get(),
        }
    }

    /// Whether anything is written at all.
    pub fn is_on(&self) -> bool {
        self.format != LogFormat::Off
    }

    /// Whether a line shows the query.
    pub fn keeps_query(&self) -> bool {
        self.keeps_query
    }

    /// The request headers that a line shows.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.headers.iter().map(|shown| &shown.name)
    }

    /// The headers of the answer that a line shows.
    pub fn response_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.response_headers.iter().map(|shown| &shown.name)
    }

    /// Whether an exchange is logged that took this long: a failure, a slow one, or one that the sample takes.
    pub fn takes(&self, is_failure: bool, duration: Duration) -> bool {
        self.is_on() && (is_failure || duration >= self.slow || self.sample >= 1.0 || fastrand::f64() < self.sample)
    }
}

/// Names that differ only in case are one header.
fn shown(names: &[String]) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::with_capacity(names.len());
    for name in names.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()) {
        if !shown.iter().any(|known| known.name == name) {
            shown.push(Shown::of(name));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::HumanDuration;

    #[test]
    fn a_sample_of_nothing_takes_failures_and_the_slow() {
        let config = |sample| observe::AccessLog { sample, slow: HumanDuration::seconds(2), ..Default::default() };
        for (sample, is_failure, seconds, want) in [
            (0.0, false, 0, false),
            (0.0, false, 1, false),
            (0.0, false, 2, true),
            (0.0, true, 0, true),
            (1.0, false, 0, true),
        ] {
            let takes = Settings::of(&config(sample)).takes(is_failure, Duration::from_secs(seconds));
            assert_eq!(takes, want, "{sample} {is_failure} {seconds}");
        }
        let half = Settings::of(&config(0.5));
        let taken = (0..2_000).filter(|_| half.takes(false, Duration::ZERO)).count();
        assert!((700..1_300).contains(&taken), "{taken} of 2000");
        let off = Settings::of(&observe::AccessLog { format: LogFormat::Off, ..config(1.0) });
        assert!(!off.takes(true, Duration::from_secs(9)));
    }

    #[test]
    fn nothing_is_kept_that_no_line_shows() {
        let names = |headers: &[Shown]| headers.iter().map(|shown| shown.name.to_string()).collect::<Vec<_>>();
        let config = observe::AccessLog {
            headers: vec!["X-A".into(), "x-a".into(), "no name".into(), "cookie".into()],
            response_headers: vec!["location".into()],
            ..Default::default()
        };
        let kept = |format, fields: &[LogField]| {
            let settings = Settings::of(&observe::AccessLog { format, fields: fields.to_vec(), ..config.clone() });
            (names(&settings.headers), names(&settings.response_headers), settings.keeps_query)
        };
        let all = LogField::ALL;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(kept(LogFormat::Json, all), (words(&["x-a", "cookie"]), words(&["location"]), true));
        assert_eq!(kept(LogFormat::Json, &[LogField::Time]), (words(&[]), words(&[]), false));
        assert_eq!(kept(LogFormat::Text, all), (words(&[]), words(&[]), true));
        assert_eq!(kept(LogFormat::Combined, all), (words(&["referer", "user-agent"]), words(&[]), true));
        assert_eq!(kept(LogFormat::Off, all), (words(&[]), words(&[]), false));
    }
}
