//! armiger on files that change while it runs.

use std::panic::Location;
use std::path::PathBuf;
use std::time::Duration;

use armiger::app::watch::Times;
use armiger::app::{Options, Source};
use serde_json::Value;

use super::{Armiger, DEADLINE, within};

/// How often a fact is looked for that nobody announces.
const LOOK: Duration = Duration::from_millis(3);

impl Armiger {
    /// Starts it on a file that it watches, with short waits.
    pub async fn watching(path: PathBuf) -> Self {
        let times = Times {
            quiet: Duration::from_millis(20),
            quiet_max: Duration::from_millis(500),
            patience: Duration::from_millis(200),
            poll: Duration::from_secs(15),
        };
        Self::launch(Options { workers: 1, times, ..Options::new(Source::File(path)) })
            .unwrap_or_else(|report| panic!("armiger did not start:\n{report}"))
    }

    /// `GET /config/status`.
    pub async fn status(&self) -> Value {
        self.admin().get("/config/status").await.assert_status(200).json()
    }

    /// Waits until the status is as it should be, and gives it.
    pub async fn until_status(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let status = self.status().await;
                if fits(&status) {
                    return status;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(DEADLINE, found).await {
            Ok(status) => status,
            Err(_) => panic!("the status never was as it should be, but is {:#}", self.status().await),
        }
    }

    /// Waits until this version is in force.
    pub async fn in_force(&self, version: u64) {
        self.until_status(|status| status["in_force"]["version"] == version).await;
    }

    /// Waits until a metric has this value. What an exchange came to is noted once its answer has left, so that who has the answer
    /// may look too early.
    #[track_caller]
    pub fn until_metric(&self, series: &str, value: f64) -> impl Future<Output = ()> {
        let place = Location::caller();
        async move {
            let reached = async {
                while self.metric(series).await != value {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(DEADLINE, reached).await.is_err() {
                panic!("{series} was to be {value}, but is {} ({place})", self.metric(series).await);
            }
        }
    }

    /// Waits until a metric has at least this value.
    pub async fn until_metric_beyond(&self, series: &str, value: f64) {
        let reached = async {
            while self.metric(series).await < value {
                tokio::time::sleep(LOOK).await;
            }
        };
        within(&format!("{series} to reach {value}"), reached).await;
    }
}
