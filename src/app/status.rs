//! What operators may know of the configuration: which one is in force since when, what the last reload changed or why it
//! was refused.

use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::diff::Comparison;
use crate::config::issue::Report;

/// How long ago something came into force that whoever asks may well have meant.
const JUST_NOW: Duration = Duration::from_secs(10);

/// The version that armiger starts with: nobody's edit.
const FIRST: u64 = 1;

/// Where a configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The files.
    Files,
    /// An earlier version, put in force again by hand. It stays until a file changes or somebody reloads.
    Rollback(u64),
    /// The last one that was accepted, since the files were no good at the start.
    LastGood,
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files => f.write_str("files"),
            Self::Rollback(version) => write!(f, "rollback to {version}"),
            Self::LastGood => f.write_str("last good"),
        }
    }
}

/// What putting a configuration in force did.
pub(super) struct Applied {
    pub(super) version: u64,
    pub(super) hash: String,
    pub(super) time: SystemTime,
    pub(super) origin: Origin,
    /// From the files having come to rest to the swap.
    pub(super) took: Duration,
    pub(super) comparison: Comparison,
}

impl Applied {
    pub(super) fn json(&self) -> Value {
        let mut json = self.comparison.json();
        json["version"] = self.version.into();
        json["hash"] = (*self.hash).into();
        json["time"] = time(self.time).into();
        json["origin"] = self.origin.to_string().into();
        json["duration_seconds"] = self.took.as_secs_f64().into();
        json
    }
}

impl Applied {
    /// For who asks for what is in force already, in both forms. What came into force a moment ago is most often what is
    /// asked for: the edit was seen first, so what it changed is told as well.
    pub(super) fn unchanged(&self, now: SystemTime) -> (String, Value) {
        let Self { version, .. } = self;
        let age = now.duration_since(self.time).unwrap_or_default();
        if *version == FIRST || age > JUST_NOW {
            let since = time(self.time);
            let json = json!({"version": version, "time": since, "origin": self.origin.to_string()});
            return (format!("unchanged: version {version} is in force since {since}"), json);
        }
        let seen = match self.origin {
            Origin::Files => "when the file's edit was seen".to_owned(),
            origin => format!("by {origin}"),
        };
        let ago = age.as_secs();
        let mut lines = vec![format!("unchanged: version {version} is in force since {ago} s ago, {seen}:")];
        lines.extend(self.comparison.lines());
        if lines.len() == 1 {
            lines.push("no change".into());
        }
        (lines.join("\n"), self.json())
    }
}

/// What the last look at the files came to.
pub(super) enum Last {
    /// They are in force.
    Applied,
    /// They are wrong.
    Refused { time: SystemTime, report: Box<Report> },
}

/// Shared between the thread that reloads and those who ask.
pub(super) struct Status(Mutex<Inner>);

struct Inner {
    in_force: Arc<Applied>,
    last: Last,
    watched: Vec<String>,
}

impl Status {
    pub(super) fn new(first: Arc<Applied>) -> Self {
        Self(Mutex::new(Inner { in_force: first, last: Last::Applied, watched: Vec::new() }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What put the configuration in force that is.
    pub(super) fn in_force(&self) -> Arc<Applied> {
        self.with(|inner| inner.in_force.clone())
    }

    pub(super) fn applied(&self, applied: Arc<Applied>) {
        self.with(|inner| {
            inner.in_force = applied;
            inner.last = Last::Applied;
        });
    }

    pub(super) fn refused(&self, time: SystemTime, report: Box<Report>) {
        self.with(|inner| inner.last = Last::Refused { time, report });
    }

    /// The files are what is in force again, as after an edit was taken back.
    pub(super) fn mended(&self) {
        self.with(|inner| inner.last = Last::Applied);
    }

    pub(super) fn watching(&self, directories: Vec<String>) {
        self.with(|inner| inner.watched = directories);
    }

    /// Whether the files as they are now were refused.
    pub(super) fn is_refused(&self) -> bool {
        self.with(|inner| matches!(inner.last, Last::Refused { .. }))
    }

    /// `GET /config/status`.
    pub(super) fn json(&self) -> Value {
        self.with(|inner| {
            let last = match &inner.last {
                Last::Applied => json!({"result": "applied"}),
                Last::Refused { time: at, report } => json!({
                    "result": "refused",
                    "time": time(*at),
                    "issues": report.json(),
                    "text": report.text(false),
                }),
            };
            json!({
                "in_force": inner.in_force.json(),
                "last_reload": last,
                "restart_required": [],
                "watched_directories": inner.watched,
            })
        })
    }
}

/// In RFC 3339, UTC.
pub(super) fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_what_came_into_force_just_now_is_told_what_that_was() {
        let applied = |version, origin| Applied {
            version,
            hash: "ab".into(),
            time: SystemTime::UNIX_EPOCH,
            origin,
            took: Duration::ZERO,
            comparison: Comparison::default(),
        };
        let told = |version, origin, age| {
            let (text, json) = applied(version, origin).unchanged(SystemTime::UNIX_EPOCH + Duration::from_secs(age));
            assert_eq!((&json["version"], &json["time"]), (&version.into(), &"1970-01-01T00:00:00.000Z".into()));
            text
        };
        let since = |version| format!("unchanged: version {version} is in force since 1970-01-01T00:00:00.000Z");
        let seen = "unchanged: version 26 is in force since 3 s ago, when the file's edit was seen:\nno change";
        assert_eq!(told(26, Origin::Files, 3), seen);
        assert_eq!(told(26, Origin::Files, 11), since(26));
        assert_eq!(told(1, Origin::Files, 3), since(1), "nobody edited anything");
        assert!(told(9, Origin::Rollback(3), 10).contains(" since 10 s ago, by rollback to 3:"));
    }
}
