//! `access_log`: one line per exchange.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::HumanDuration;

/// One line per exchange, on standard output, written by a thread of its own: a slow reader of the log never slows a
/// request. Lines that it cannot take are dropped and counted in `armiger_access_log_dropped_total`. Each worker hands
/// its lines over ten times a second, so lines of different workers may stand out of order; `time` is when the request
/// arrived.
///
/// Fields of a JSON line: `time`, `request_id`, `trace_id`, `client`, `method`, `host`, `path` (normalised), `query`,
/// `protocol`, `status`, `route`, `listener`, `upstream`, `upstream_addr`, `attempts` (each with `addr`, `outcome` and
/// `ms`, milliseconds), `verdicts` (each with `policy`, `stage`, `verdict`, `reason`, `mode`), `reason`, `duration` and
/// `upstream_duration` (seconds; the latter to the head of the answer), `bytes_in` and `bytes_out` (bodies), `complete`,
/// `cut_by` (`client`, `upstream` or `deadline`) and `headers`. What is not known is left out.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// The form of a line.
    pub format: LogFormat,
    /// The share of exchanges that are logged, `0.0` to `1.0`. Errors (5xx), answers that were cut and slow exchanges
    /// are always logged.
    pub sample: f64,
    /// An exchange that takes longer is logged whatever `sample` says.
    pub slow: HumanDuration,
    /// Request headers to log, by name. Credentials (`authorization`, `cookie`, ...) show as `***` even when named.
    pub headers: Vec<String>,
    /// Query parameters whose values are logged; the values of all others show as `***`.
    pub query: Vec<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            sample: 1.0,
            slow: HumanDuration::seconds(1),
            headers: vec!["user-agent".into()],
            query: Vec::new(),
        }
    }
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A JSON object per line.
    #[default]
    Json,
    /// For people at a terminal.
    Text,
    /// No access log.
    Off,
}
