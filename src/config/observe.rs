//! `access_log`: one line per exchange.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::HumanDuration;

/// One line per exchange, on standard output, written by a thread of its own: a slow reader of the log never slows a
/// request. Lines that it cannot take are dropped and counted in `armiger_access_log_dropped_total`. Each worker hands
/// its lines over ten times a second, so lines of different workers may stand out of order; `time` is when the request
/// arrived. Everything here changes with a reload.
///
/// What may be secret is not written: the values of the query are masked as `***`, also within a URL such as that of
/// `referer`; headers are logged only if they are named here, and credentials are masked all the same.
///
/// Only what went wrong or took long: `sample: 0.0` logs failures (5xx, and what would be one where it is told in gRPC's
/// way), answers that were cut, and what takes longer than `slow`.
///
/// ```yaml
/// access_log: {sample: 0.0, slow: 500ms, query: [page], headers: [user-agent, x-tenant]}
/// ```
///
/// [access-log.md](access-log.md) has the meaning of each field.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// The form of a line.
    pub format: LogFormat,
    /// The fields of a JSON line, in this order. The other formats have fields of their own.
    pub fields: Vec<LogField>,
    /// The share of exchanges that are logged, `0.0` to `1.0`. Failures (5xx), answers that were cut and slow exchanges
    /// are always logged.
    pub sample: f64,
    /// An exchange that takes longer is logged whatever `sample` says.
    pub slow: HumanDuration,
    /// Request headers to log, by name, under `headers`. Credentials (`authorization`, `cookie`, `x-api-key`, and
    /// whatever else is called like one) show as `***` even when named.
    pub headers: Vec<String>,
    /// Headers of the answer to log, by name, under `response_headers`, masked likewise.
    pub response_headers: Vec<String>,
    /// Query parameters whose values are logged; the values of all others show as `***`.
    pub query: Vec<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            fields: LogField::ALL.to_vec(),
            sample: 1.0,
            slow: HumanDuration::seconds(1),
            headers: vec!["user-agent".into()],
            response_headers: Vec::new(),
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
    /// Apache's "combined" format, for tools that read no other.
    Combined,
    /// No access log.
    Off,
}

/// What a field's value is in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// A number with decimals.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An array of objects.
    List,
    /// An object of strings.
    Mapping,
}

/// What is known of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldFacts {
    /// Its key in a JSON line.
    pub name: &'static str,
    /// What its value is.
    pub kind: FieldType,
    /// The unit of its value; empty where there is none.
    pub unit: &'static str,
    /// When a line has no such key; empty if every line has.
    pub left_out: &'static str,
    /// What it means, as Markdown.
    pub meaning: &'static str,
}

/// Turns rows into the enum and its facts, so that a field without a complete row does not compile.
macro_rules! fields {
    ($($(#[doc = $doc:tt])+ $Field:ident => $name:literal, $kind:ident, $unit:literal, $left_out:literal;)+) => {
        /// A field of a JSON line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum LogField { $($(#[doc = $doc])+ $Field,)+ }

        impl LogField {
            /// Every field, in the order that lines have unless told otherwise.
            pub const ALL: &'static [Self] = &[$(Self::$Field,)+];

            /// The row.
            pub const fn facts(self) -> FieldFacts {
                match self {
                    $(Self::$Field => FieldFacts {
                        name: $name,
                        kind: FieldType::$kind,
                        unit: $unit,
                        left_out: $left_out,
                        meaning: concat!($($doc),+),
                    },)+
                }
            }
        }
    };
}

fields! {
    /// When the request arrived: RFC 3339, UTC, with milliseconds.
    Time => "time", Text, "", "";
    /// The exchange's id, which the client and the upstream get as `X-Request-Id`.
    RequestId => "request_id", Text, "", "never in practice: every exchange gets one";
    /// The trace that the request belongs to (W3C Trace Context), 32 hexadecimal digits.
    TraceId => "trace_id", Text, "", "the request brought no trace";
    /// The client's address, after trusted proxies have been believed.
    Client => "client", Text, "", "never in practice: every connection has one";
    /// The method. `-` where the request's head was refused before it could be read.
    Method => "method", Text, "", "";
    /// The host that the client asked for.
    Host => "host", Text, "", "the request names none, or its head could not be read";
    /// The path in the one form that routes, policies and upstreams see. Where the request's head was refused before it could be
    /// read, the path as it was sent, as far as it was there, and else empty.
    Path => "path", Text, "", "";
    /// The query; the values of keys that `access_log.query` does not name show as `***`.
    Query => "query", Text, "", "the request has none";
    /// The protocol that the client speaks: `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`.
    Protocol => "protocol", Text, "", "";
    /// The status that was sent; `0` if none was.
    Status => "status", Integer, "", "";
    /// What came of a gRPC call, gRPC-Web included: `OK`, `NOT_FOUND`; `none` if it ended without a status.
    GrpcStatus => "grpc_status", Text, "", "the exchange is no gRPC call";
    /// The name of the route that the request took.
    Route => "route", Text, "", "no route was found";
    /// The name of the listener that the request came in by.
    Listener => "listener", Text, "", "never in practice: every exchange has one";
    /// The name of the upstream that was asked.
    Upstream => "upstream", Text, "", "the route asks none, or the request never came so far";
    /// The address of the endpoint that was asked last, be it that its answer was not waited for.
    UpstreamAddr => "upstream_addr", Text, "", "no endpoint was asked";
    /// The attempts to get an answer, in order: `addr`, the endpoint; `outcome`, `ok` or what went wrong (a reason, or
    /// `abandoned`); `status` of the answer, if there was one: an answer that is tried again is `ok` as well; `cause`, why there
    /// was none, in words for people that may change, 200 bytes at most, unless the client was it; `ms`, milliseconds until the
    /// head of the answer or the failure. At most 64.
    Attempts => "attempts", List, "", "no endpoint was chosen";
    /// The parts of an aggregated answer, or the steps of a saga, in the order they ended: `part`, `upstream`, `status` if there was an answer,
    /// `outcome` (`ok` or what went wrong), `ms`, milliseconds. At most 64.
    Parts => "parts", List, "", "the route is no `aggregate` and no saga, or never came so far";
    /// What the policies said, in the order they were asked: `policy`, `stage`, `verdict` (`pass`, `amend`, `answer`,
    /// `reject`, and `would_…` in shadow mode), `reason` if it refused or would have, `cause` if operators
    /// are told more than the client (`jwt_expired`; of `cors` why a page gets no permission: `origin_not_allowed`,
    /// `method_not_allowed` or `header_not_allowed`), `mode` (`enforce` or `shadow`). At most 64.
    Verdicts => "verdicts", List, "", "the route has no policy that was asked";
    /// Why armiger refused or failed: the word that the answer, the metrics and this log share. `client-closed` if the
    /// client went away before it was answered. Of an answer that broke off behind its head, why: the word in
    /// `armiger_answers_cut_total`, such as `upstream-cut` or `upstream-idle`.
    Reason => "reason", Text, "", "armiger neither refused nor failed, and the answer is complete";
    /// What stood in for an upstream that failed: `upstream` (the other one) or `respond` (the fixed answer).
    Fallback => "fallback", Text, "", "nothing did";
    /// From the request's head to the last byte of the answer.
    Duration => "duration", Number, "seconds", "";
    /// The last attempt that asked an endpoint, to the head of the answer, the failure, or the end of patience.
    UpstreamDuration => "upstream_duration", Number, "seconds", "no endpoint was asked";
    /// Body bytes received from the client, framing left out.
    BytesIn => "bytes_in", Integer, "bytes", "";
    /// Body bytes sent to the client, framing left out.
    BytesOut => "bytes_out", Integer, "bytes", "";
    /// Whether the answer reached its end.
    Complete => "complete", Boolean, "", "";
    /// Who or what cut the answer short: `client`, `upstream`, `deadline` (a limit of armiger's own, or its end), or
    /// `credential`: the token or certificate that let the request in has ended (`stream_max_life`).
    CutBy => "cut_by", Text, "", "the answer is complete";
    /// `true` where an upstream of HTTP/1.1 ended its answer before it had all of the request's body, or was gone by then: what had not
    /// gone to it never did, and the client, which may have sent it all, was not told.
    UploadCut => "upload_cut", Boolean, "", "the upstream had it all, or the exchange ended otherwise";
    /// The request headers that `access_log.headers` names; several lines of one are joined with `, `. Credentials show
    /// as `***`.
    Headers => "headers", Mapping, "", "the request has none of them";
    /// The headers of the answer that `access_log.response_headers` names, likewise. What is added while the answer is
    /// sent is not among them: `date`, `connection`, `transfer-encoding`.
    ResponseHeaders => "response_headers", Mapping, "", "the answer has none of them";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_called_in_the_file_what_it_is_called_in_a_line() {
        for field in LogField::ALL {
            assert_eq!(serde_json::to_value(field).expect("a field is a word"), field.facts().name);
        }
    }
}
