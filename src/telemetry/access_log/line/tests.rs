//! Tests of lines, in all their forms.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Version, header};
use serde_json::{Value, json};

use super::*;
use crate::config::observe::{AccessLog, FieldType, LogField};
use crate::telemetry::record::{AttemptRow, CutBy, Enforcement, PartRow, VerdictRow, VerdictWord};
use crate::telemetry::trace::RequestId;

fn config() -> AccessLog {
    AccessLog::default()
}

fn everything() -> AccessLog {
    AccessLog { response_headers: vec!["location".into()], ..config() }
}

fn lines(config: AccessLog, records: &[Record]) -> String {
    let (mut out, mut clock, settings) = (Vec::new(), ClockText::default(), Settings::of(&config));
    records.iter().for_each(|record| write(&mut out, &mut clock, record, &settings));
    String::from_utf8(out).unwrap()
}

fn json_of(config: AccessLog, record: Record) -> Value {
    serde_json::from_str(&lines(config, &[record])).unwrap()
}

fn full_record() -> Record {
    let mut record = Record::new();
    record.time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
    record.request_id = RequestId::from_inbound(&HeaderValue::from_static("req-1"));
    record.trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    record.client = Some([192, 0, 2, 7].into());
    record.method = Method::POST;
    record.version = Version::HTTP_2;
    record.status = 503;
    record.set_host(b"shop.example.com");
    record.set_path(b"/orders/1");
    record.set_query(Some(b"page=2&token=secret"));
    record.route = Some("orders".into());
    record.listener = Some("http".into());
    record.upstream = Some("app".into());
    record.reason = Some("rate-limited");
    record.grpc_status = Some("UNAVAILABLE");
    record.fallback = Some("respond");
    record.duration = Duration::from_micros(1_002_003);
    record.bytes_in = u64::MAX;
    record.bytes_out = 42;
    record.cut_by = Some(CutBy::Upstream);
    record.upload_cut = true;
    record.push_header(&header::USER_AGENT, b"curl/8");
    record.push_response_header(&header::LOCATION, b"/a");
    let attempt = |outcome, micros| AttemptRow {
        addr: "127.0.0.1:3000".into(),
        outcome,
        status: (outcome == "ok").then_some(503),
        cause: (outcome != "ok").then_some("it said \"no\"".into()),
        duration: Duration::from_micros(micros),
        was_asked: true,
    };
    record.attempts.push(attempt("reset", 1_005));
    record.attempts.push(attempt("ok", 70));
    for (part, status) in [("user", Some(200)), ("ads", None)] {
        record.parts.push(PartRow {
            part: part.into(),
            upstream: "app".into(),
            status,
            outcome: if status.is_some() { "ok" } else { "part-timeout" },
            duration: Duration::from_micros(1_500),
        });
    }
    record.verdicts.push(VerdictRow {
        policy: "cors",
        stage: "admit",
        verdict: VerdictWord::Pass,
        reason: None,
        cause: None,
        mode: Enforcement::Enforce,
    });
    record.verdicts.push(VerdictRow {
        policy: "rate_limit",
        stage: "limit",
        verdict: VerdictWord::Reject,
        reason: Some("rate-limited"),
        cause: Some("per-caller".into()),
        mode: Enforcement::Shadow,
    });
    record
}

#[test]
fn a_json_line_holds_every_fact() {
    assert_eq!(
        json_of(everything(), full_record()),
        json!({
            "time": "2023-11-14T22:13:20.042Z",
            "request_id": "req-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "client": "192.0.2.7",
            "method": "POST",
            "host": "shop.example.com",
            "path": "/orders/1",
            "query": "page=***&token=***",
            "protocol": "HTTP/2",
            "status": 503,
            "grpc_status": "UNAVAILABLE",
            "route": "orders",
            "listener": "http",
            "upstream": "app",
            "upstream_addr": "127.0.0.1:3000",
            "attempts": [
                {"addr": "127.0.0.1:3000", "outcome": "reset", "cause": "it said \"no\"", "ms": 1.005},
                {"addr": "127.0.0.1:3000", "outcome": "ok", "status": 503, "ms": 0.07},
            ],
            "parts": [
                {"part": "user", "upstream": "app", "status": 200, "outcome": "ok", "ms": 1.5},
                {"part": "ads", "upstream": "app", "outcome": "part-timeout", "ms": 1.5},
            ],
            "verdicts": [
                {"policy": "cors", "stage": "admit", "verdict": "pass", "mode": "enforce"},
                {"policy": "rate_limit", "stage": "limit", "verdict": "would_reject", "reason": "rate-limited",
                 "cause": "per-caller", "mode": "shadow"},
            ],
            "reason": "rate-limited",
            "fallback": "respond",
            "duration": 1.002003,
            "upstream_duration": 0.00007,
            "bytes_in": u64::MAX,
            "bytes_out": 42,
            "complete": false,
            "cut_by": "upstream",
            "upload_cut": true,
            "headers": {"user-agent": "curl/8"},
            "response_headers": {"location": "/a"},
        })
    );
}

#[test]
fn a_text_line_is_short_and_cannot_be_faked() {
    let mut record = full_record();
    record.set_path(b"/a b\n\x1b[31m status=200");
    let config = AccessLog { format: LogFormat::Text, ..config() };
    assert_eq!(
        lines(config, &[record]),
        "2023-11-14T22:13:20.042Z POST \"/a b\\n\\u001b[31m status=200\"?page=***&token=*** 503 1002.003ms \
         grpc_status=UNAVAILABLE route=orders upstream=app \
         at=127.0.0.1:3000 reason=rate-limited fallback=respond cut_by=upstream upload_cut=true attempts=2 \
         rate_limit=would_reject \
         client=192.0.2.7 id=req-1\n"
    );
}

#[test]
fn hostile_strings_stay_in_their_field_and_come_back_whole() {
    let every_byte: Vec<u8> = (0..=255).collect();
    for hostile in [
        &b"/plain"[..],
        b"",
        b"\"}{\"status\":200",
        b"\\\" \\u0000 \\",
        b"\0\x01\x1f\x7f\r\n\t\x0c\x08",
        "caf\u{e9} \u{2028} \u{1f980} \u{85}\u{9b}".as_bytes(),
        b"\xff\xfe/ok",
        b"cut \xe2\x82",
        b"\xc3\x28 \xed\xa0\x80",
        &every_byte,
    ] {
        let mut record = Record::new();
        record.set_path(hostile);
        record.set_host(hostile);
        record.set_query(Some(hostile));
        record.push_header(&header::USER_AGENT, hostile);
        record.route = Some(String::from_utf8_lossy(hostile).into());
        let line = lines(config(), &[record]);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.trim_end().contains(char::is_control), "{line}");
        let parsed: Value = serde_json::from_str(&line).unwrap();
        let want = String::from_utf8_lossy(hostile);
        assert_eq!(parsed["path"], want.as_ref());
        assert_eq!(parsed["route"], want.as_ref());
        assert_eq!(parsed["headers"]["user-agent"], want.as_ref());
        assert_eq!(parsed["status"], 0);
    }
}

#[test]
fn the_time_follows_the_record_through_the_second_cache() {
    let mut clock = ClockText::default();
    for (millis, want) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_000, "1970-01-01T00:00:01.000Z"),
        (951_782_400_007, "2000-02-29T00:00:00.007Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (253_402_207_200_000, "9999-12-30T22:00:00.000Z"),
    ] {
        let shown = clock.at(UNIX_EPOCH + Duration::from_millis(millis)).to_vec();
        assert_eq!(String::from_utf8(shown).unwrap(), want);
    }
    for extreme in [UNIX_EPOCH - Duration::from_secs(5), UNIX_EPOCH + Duration::from_secs(1 << 40)] {
        assert_eq!(clock.at(extreme).len(), ClockText::LENGTH);
    }
}

#[test]
fn every_field_is_as_its_row_says() {
    let parse = |line: &str| serde_json::from_str::<serde_json::Map<String, Value>>(line).unwrap();
    let full = parse(&lines(everything(), &[full_record()]));
    let names: Vec<&str> = LogField::ALL.iter().map(|field| field.facts().name).collect();
    assert_eq!(full.keys().collect::<Vec<_>>(), names, "all fields, in order");
    let bare = parse(&lines(everything(), &[Record::new()]));
    for facts in LogField::ALL.iter().map(|field| field.facts()) {
        let value = &full[facts.name];
        let is_kind = match facts.kind {
            FieldType::Text => value.is_string(),
            FieldType::Integer => value.is_u64(),
            FieldType::Number => value.is_f64(),
            FieldType::Boolean => value.is_boolean(),
            FieldType::List => value.is_array(),
            FieldType::Mapping => value.is_object(),
        };
        assert!(is_kind, "{}: {value}", facts.name);
        assert_eq!(bare.contains_key(facts.name), facts.left_out.is_empty(), "{}", facts.name);
    }
}

#[test]
fn a_line_leaves_out_what_is_unset() {
    let line = lines(config(), &[Record::new()]);
    assert_eq!(
        line,
        "{\"time\":\"1970-01-01T00:00:00.000Z\",\"method\":\"GET\",\"path\":\"\",\"protocol\":\"HTTP/1.1\",\
         \"status\":0,\"duration\":0.000000,\"bytes_in\":0,\"bytes_out\":0,\"complete\":false}\n"
    );
}

#[test]
fn fields_stand_in_the_order_asked_for() {
    for (fields, want) in [
        (&[LogField::Status, LogField::Path][..], "{\"status\":503,\"path\":\"/orders/1\"}\n"),
        (&[LogField::TraceId, LogField::Complete], "{\"complete\":false}\n"),
        (&[LogField::TraceId], "{}\n"),
    ] {
        let mut record = full_record();
        record.trace_id = [0; 16];
        let before = full_record();
        let config = AccessLog { fields: fields.to_vec(), ..config() };
        // Behind another line, whose end must stay as it is.
        let text = lines(config, &[before, record]);
        let (_, second) = text.split_once('\n').unwrap();
        assert_eq!(second, want);
    }
}

#[test]
fn the_query_is_masked_but_for_listed_keys() {
    let mut record = Record::new();
    record.set_query(Some(b"page=\"2&token=secret"));
    for (keys, want) in [(&["page"][..], "page=\"2&token=***"), (&[], "page=***&token=***")] {
        let query: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        for format in [LogFormat::Json, LogFormat::Text, LogFormat::Combined] {
            let text = lines(AccessLog { format, query: query.clone(), ..config() }, &[record.clone()]);
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(json_of(AccessLog { query, ..config() }, record.clone())["query"], want);
    }
}

#[test]
fn only_listed_headers_are_shown_and_credentials_are_masked() {
    let mut record = Record::new();
    let mut record_response = Record::new();
    for name in ["user-agent", "x-other", "authorization", "x-api-key", "cookie", "cookie", "via", "via"] {
        let name = HeaderName::from_static(name);
        record.push_header(&name, b"value");
        record_response.push_response_header(&name, b"value");
    }
    let names: Vec<String> =
        ["user-agent", "Authorization", "X-Api-Key", "cookie", "via", "x-absent"].map(String::from).to_vec();
    let want = json!({"user-agent": "value", "authorization": "***", "x-api-key": "***", "cookie": "***",
                      "via": "value, value"});
    let config = AccessLog { headers: names.clone(), response_headers: names, ..config() };
    let shown = json_of(config.clone(), record);
    assert_eq!((&shown["headers"], shown.get("response_headers")), (&want, None));
    assert_eq!(json_of(config, record_response)["response_headers"], want);
}

#[test]
fn a_combined_line_is_apaches() {
    let combined =
        |record: &Record| lines(AccessLog { format: LogFormat::Combined, ..config() }, std::slice::from_ref(record));
    let mut record = full_record();
    record.push_header(&header::REFERER, b"https://shop.example.com/cart?id=7");
    assert_eq!(
        combined(&record),
        "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"POST /orders/1?page=***&token=*** HTTP/2.0\" 503 42 \
         \"https://shop.example.com/cart?id=***\" \"curl/8\"\n"
    );
    assert_eq!(combined(&Record::new()), "- - - [01/Jan/1970:00:00:00 +0000] \"-\" - - \"-\" \"-\"\n");

    let every_byte: Vec<u8> = (0..=255).collect();
    let mut record = Record::new();
    record.set_path(b"/\"\n");
    record.push_header(&header::USER_AGENT, &every_byte);
    let line = combined(&record);
    assert!(line.contains(" \"GET /\\\"\\n HTTP/1.1\" "), "{line}");
    let controls = r#"\x00\x01\x02\x03\x04\x05\x06\x07\b\t\n\v\x0c\r\x0e\x0f\x10"#;
    let mut agent = controls.to_owned();
    (0x11..=0x1f).for_each(|byte| agent.push_str(&format!("\\x{byte:02x}")));
    for byte in 0x20..=0x7e_u8 {
        if matches!(byte, b'"' | b'\\') {
            agent.push('\\');
        }
        agent.push(byte.into());
    }
    (0x7f..=0xff).for_each(|byte| agent.push_str(&format!("\\x{byte:02x}")));
    assert!(line.ends_with(&format!(" \"{agent}\"\n")), "{line}");
}
