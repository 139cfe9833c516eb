//! No text is a token but one that was signed: and of what is signed, all that must hold does.
//!
//! The input is taken as a token, and then as a header and claims, parted by LF, that are signed with the right key.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use armiger::app::{self, Source};
use armiger::config::{Issues, KeyPath};
use armiger::exchange::Identity;
use armiger::identity::provider::{Now, bearer};
use armiger::identity::{self, Provider};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const SECRET: &str = "for-the-fuzzer-only-and-known-to-everybody";
const NOW: i64 = 1_800_000_000;

static PROVIDERS: LazyLock<Vec<Arc<Provider>>> = LazyLock::new(|| {
    let text = format!(
        "listeners: [{{name: http, address: 127.0.0.1:0}}]\n\
         identity: {{staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: \"${{env:ARMIGER_FUZZ:-{SECRET}}}\"}}, \
         algorithms: [HS256], cache_max: 0B}}}}}}\n\
         routes: [{{name: all, match: {{path: /}}, respond: {{}}}}]\n"
    );
    let source = Source::Text { name: "fuzz.yaml".into(), text };
    let metrics = Metrics::new();
    let checked = app::check(&source, &Machine::detect(), 1, &metrics, Keeper::fresh());
    let snapshot = checked.unwrap_or_else(|report| panic!("{report}")).snapshot;
    let (mut keeper, mut issues) = (Keeper::fresh(), Issues::new());
    let section = &snapshot.document.identity;
    identity::compile(section, &KeyPath::root(), &metrics, &mut keeper, &mut issues, &|_| false)
        .into_values()
        .flatten()
        .collect()
});

fn judge(token: &str) -> Option<Arc<Identity>> {
    let now = Now { wall: NOW, instant: Instant::now() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(bearer(&PROVIDERS, token, now)).ok()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(judge(text).is_none(), "accepted without a signature: {text}");

    let (header, claims) = text.split_once('\n').unwrap_or(("{\"alg\":\"HS256\"}", text));
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes())));
    let Some(identity) = judge(&token) else { return };
    // What a second reader makes of it.
    let header: Value = serde_json::from_str(header).expect("an accepted header is JSON");
    let claims: Value = serde_json::from_str(claims).expect("accepted claims are JSON");
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none());
    assert_eq!(claims["iss"], "i");
    let audiences = &claims["aud"];
    assert!(audiences == "a" || audiences.as_array().is_some_and(|list| list.iter().any(|one| one == "a")));
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp.floor() + 30.0 > NOW as f64), "expired: {claims}");
    assert!(claims.get("nbf").is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf.floor() <= (NOW + 30) as f64)));
    assert_eq!(claims.get("sub").map_or("", |sub| sub.as_str().expect("a text")), &*identity.subject);
});
