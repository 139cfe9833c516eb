//! The page that tells what armiger refuses, made from the same table that refusals are made from.

use std::fmt::Write;

use super::Reason;

/// `docs/reasons.md`: every reason, and what it looks like.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for reason in Reason::ALL {
        let facts = reason.facts();
        let proxy_status = facts.proxy_status.map_or_else(|| "–".to_owned(), |word| format!("`{word}`"));
        let (status, meaning) = (facts.status.as_u16(), facts.meaning.trim());
        let _ = writeln!(page, "| `{}` | {status} | {} | {proxy_status} | {meaning} |", facts.slug, facts.grpc);
    }
    page
}

const HEAD: &str = "\
# Reasons

<!-- Made from the source (`src/exchange/rejection.rs`): edit that. -->

Where armiger answers in the place of a back end because it refuses or something failed, it says why by one word. The word is
stable: clients, dashboards and alerts may rely on it. It stands

- in the answer: `type` of the problem document (RFC 9457) is `urn:armiger:REASON`, but for the types that are registered for limits
  (`rate-limited`, `banned`: [limits.md](limits.md)),
- in the access log: `reason`. For what was wrong beyond it, see `cause` in [access-log.md](access-log.md),
- in the metrics: label `reason` of `armiger_rejections_total`.

A caller that speaks gRPC gets status 200 and the gRPC code in `grpc-status`. `Proxy-Status` (RFC 9209) has the word of its column as
`error`; where an upstream was asked, a better one that tells what became of that. A saga, and an aggregate that passes on the status
of a part, may answer with another status than the row's.

| reason | status | gRPC | `Proxy-Status` | what it means |
| --- | --- | --- | --- | --- |
";
