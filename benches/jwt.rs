//! What a token costs: at first sight, by algorithm, and once it is known.
//!
//! `cargo bench --bench jwt`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use armiger::app::{self, Source};
use armiger::config::identity::{Algorithm, Encoding};
use armiger::config::{Issues, KeyPath};
use armiger::identity::mint::Signer;
use armiger::identity::provider::{Now, bearer};
use armiger::identity::{self, Provider};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

const SECRET: &str = "a-secret-for-benches-that-is-long-enough-for-the-longest-of-hashes";

/// A signer, and the keys that check what it signs, as they stand in a configuration.
fn pair(algorithm: Algorithm) -> (Signer, String) {
    let public = |key: &dyn AsDer<PublicKeyX509Der<'static>>| key.as_der().expect("DER").as_ref().to_vec();
    let (private, public) = match algorithm {
        Algorithm::HS256 => {
            let signer = Signer::secret(SECRET, Encoding::Text, &[algorithm]).expect("a secret");
            return (signer, format!("{{secret: \"${{env:ARMIGER_BENCH_NOT_SET:-{SECRET}}}\"}}"));
        }
        Algorithm::ES256 => {
            let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a new key");
            (key.to_pkcs8v1().expect("DER").as_ref().to_vec(), public(key.public_key()))
        }
        Algorithm::EdDSA => {
            let key = Ed25519KeyPair::generate().expect("a new key");
            (key.to_pkcs8v1().expect("DER").as_ref().to_vec(), public(key.public_key()))
        }
        _ => {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a new key");
            let der: Pkcs8V1Der<'static> = key.as_der().expect("DER");
            (der.as_ref().to_vec(), public(key.public_key()))
        }
    };
    let pem =
        |kind: &str, der: &[u8]| format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der));
    let signer = Signer::pem(&pem("PRIVATE KEY", &private), &[algorithm]).expect("a private key");
    (signer, format!("{{pem: [{}]}}", json!(pem("PUBLIC KEY", &public))))
}

fn providers(algorithm: Algorithm, keys: &str, cache_max: &str) -> Vec<Arc<Provider>> {
    let text = format!(
        "listeners: [{{name: http, address: 127.0.0.1:0}}]\n\
         identity: {{staff: {{jwt: {{issuer: i, audiences: [a], algorithms: [{}], keys: {keys}, cache_max: {cache_max}}}}}}}\n\
         routes: [{{name: all, match: {{path: /}}, respond: {{}}}}]\n",
        algorithm.name()
    );
    let source = Source::Text { name: "bench.yaml".into(), text };
    let metrics = Metrics::new();
    let checked = app::check(&source, &Machine::detect(), 1, &metrics, Keeper::fresh());
    let snapshot = checked.unwrap_or_else(|report| panic!("{report}")).snapshot;
    let (mut keeper, mut issues) = (Keeper::fresh(), Issues::new());
    let section = &snapshot.document.identity;
    identity::compile(section, &KeyPath::root(), &metrics, &mut keeper, &mut issues, &|_| false)
        .into_values()
        .flatten()
        .collect()
}

fn tokens(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let since = 1_800_000_000;
    let now = Now { wall: since, instant: Instant::now() };
    let claims = json!({
        "iss": "i", "aud": "a", "sub": "ada", "iat": since, "exp": since + 3600, "roles": ["user", "admin"],
        "scope": "read write", "name": "Ada Lovelace", "email": "ada@example.com", "tenant": "t1",
    });
    let mut group = criterion.benchmark_group("jwt");
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (signer, keys) = pair(algorithm);
        let token = signer.token(None, claims.as_object().expect("an object")).expect("signs");
        let mut measure = |what: &str, cache_max: &str| {
            let providers = providers(algorithm, &keys, cache_max);
            group.bench_function(format!("{what} {}", algorithm.name()), |bencher| {
                bencher.iter(|| runtime.block_on(bearer(&providers, black_box(&token), now)).expect("a good token"));
            });
        };
        measure("first sight", "0B");
        if algorithm == Algorithm::RS256 {
            measure("known", "4MiB");
        }
    }
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
