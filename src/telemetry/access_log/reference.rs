//! The page that tells what each field of the access log means, made from the same table that the fields are made from.

use std::fmt::Write;

use crate::config::observe::{FieldType, LogField};

/// `docs/access-log.md`: every field of a JSON line, and the other formats.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for field in LogField::ALL {
        let facts = field.facts();
        let kind = match facts.kind {
            FieldType::Text => "text",
            FieldType::Integer => "whole number",
            FieldType::Number => "number",
            FieldType::Boolean => "`true` or `false`",
            FieldType::List => "list of mappings",
            FieldType::Mapping => "mapping of texts",
        };
        let unit = if facts.unit.is_empty() { "–" } else { facts.unit };
        let left_out = if facts.left_out.is_empty() { "never" } else { facts.left_out };
        let meaning = facts.meaning.trim();
        let _ = writeln!(page, "| `{}` | {kind} | {unit} | {meaning} | {left_out} |", facts.name);
    }
    page.push_str(TAIL);
    page
}

const HEAD: &str = "\
# Access log

<!-- Made from the source (`src/config/observe.rs`, `src/telemetry/access_log/reference.rs`): edit those. -->

One line per exchange, on standard output; [`access_log`](configuration.md#access_log) of the configuration says which
exchanges have one and what it shows. Everything about it changes with a reload: an exchange that is in flight then is
logged as the new settings say, with what the old ones kept of it.

An exchange is logged when it is over: when the last byte of the answer is out, or when it was cut. A request whose head
could not be read is logged too, and so is every refusal.

## What is logged

All exchanges, unless `sample` says less. Always logged are

- failures: a status of 500 and above, or a refusal of armiger's that would have one if gRPC did not ask for 200,
- answers that did not reach their end (`complete` is `false`),
- exchanges that took longer than `slow`.

`sample: 0.0` logs these alone. Metrics count every exchange, whatever is logged.

Lines wait for a tenth of a second at most before they are handed to the thread that writes them. If the destination
takes none, some 2.5 MiB are kept; what comes then is dropped and counted in `armiger_access_log_dropped_total`. No
request ever waits for the log.

## What is not logged

- Values of the query: they show as `***`, but for those of the keys that `query` names. What has no key is masked whole.
- The same within URLs: query, fragment and credentials of `referer`, `location`, `content-location`, `link`, `refresh`,
  `x-original-url`, `x-original-uri`, `x-rewrite-url` and `x-forwarded-uri`.
- Headers that `headers` and `response_headers` do not name.
- Credentials, even if named: a header shows as `***` if its name contains `authorization`, `cookie`, `token`, `secret`,
  `password`, `credential`, `api-key`, `api_key`, `apikey`, `access-key`, `x-auth`, `session` or `jwt`.
- Bodies.

**The trap:** a path is logged as it is. A secret in a path is in the log.

## `format: json`

An object per line, with the fields below in this order, or those that `fields` names in the order that it has. Texts are
UTF-8; bytes that are not become U+FFFD, and control characters are escaped. What a client sends is cut after 8 KiB per
value.

```json
{\"time\":\"2026-03-01T12:00:00.042Z\",\"request_id\":\"0195\u{2026}\",\"client\":\"192.0.2.7\",\"method\":\"GET\",\"host\":\"api.example.com\",\"path\":\"/orders/7\",\"query\":\"page=2&code=***\",\"protocol\":\"HTTP/2\",\"status\":200,\"route\":\"orders\",\"listener\":\"http\",\"upstream\":\"app\",\"upstream_addr\":\"127.0.0.1:3000\",\"attempts\":[{\"addr\":\"127.0.0.1:3000\",\"outcome\":\"ok\",\"status\":200,\"ms\":1.005}],\"duration\":0.001322,\"upstream_duration\":0.001005,\"bytes_in\":0,\"bytes_out\":512,\"complete\":true,\"headers\":{\"user-agent\":\"curl/8.5.0\"}}
```

| field | value | unit | meaning | left out if |
| --- | --- | --- | --- | --- |
";

const TAIL: &str = "
## `format: text`

A short line for people, not for programs: time, method, path, status, duration, and then, as `key=value`, what is worth
a word: `route`, `upstream`, `at` (the endpoint), `reason`, `cause` (of the last attempt, if that
had no answer), `fallback`, `cut_by`, `upload_cut`, `attempts` if there were several, each policy that refused or would have,
`client`, `id`. A value that is no plain word is quoted.

## `format: combined`

Apache's \"combined\" format, `%h %l %u %t \\\"%r\\\" %>s %b \\\"%{Referer}i\\\" \\\"%{User-agent}i\\\"`:

```text
192.0.2.7 - - [01/Mar/2026:12:00:00 +0000] \"GET /orders/7?page=2&code=*** HTTP/2.0\" 200 512 \"-\" \"curl/8.5.0\"
```

What is not known is `-`: the user, whom armiger has no name for; the request's line if no path could be read; the
status if none was sent; the size if no body was sent; headers that the request has not. Escaped as Apache does: `\\\"`
and `\\\\`, the controls `\\b \\n \\r \\t \\v`, and every other byte that is no visible ASCII as `\\xhh`. Unlike Apache's, the
path is the normalised one, and the query and that of the referrer are masked. Times are UTC. `fields`, `headers` and
`response_headers` do not count here.

## `format: \"off\"`

No lines. Metrics go on.
";
