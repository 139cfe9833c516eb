//! `armiger token`: what it makes is accepted, what it is shown is judged, and standard output is data.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Armiger, Signer};

fn run(args: &[&str]) -> crate::harness::Finished {
    Armiger::binary_in(&[&["token"], args].concat(), &[])
}

fn inspect(token: &str, of: &[&str]) -> (Option<i32>, Value) {
    let finished = run(&[&["inspect"], of, &[token]].concat());
    (finished.status.code(), serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}")))
}

#[test]
fn a_minted_token_is_accepted_by_its_provider() {
    let minted = run(&[
        "mint",
        "--demo",
        "--sub",
        "ada",
        "--role",
        "user,admin",
        "--scope",
        "account",
        "--claim",
        "orders=[\"1001\"]",
        "--claim",
        "plan=paid",
        "--claim",
        "/org/id=7",
    ]);
    assert_eq!((minted.status.code(), minted.stderr.as_str()), (Some(0), ""));
    let (code, told) = inspect(minted.stdout.trim(), &["--demo"]);
    assert_eq!(code, Some(0), "{told:#}");
    assert_eq!(told["verdict"]["accepted"], true);
    assert_eq!(told["verdict"]["subject"], "ada");
    assert_eq!(told["verdict"]["roles"], serde_json::json!(["user", "admin"]));
    assert_eq!(told["claims"]["realm_access"]["roles"][1], "admin");
    assert_eq!((&told["claims"]["plan"], &told["claims"]["org"]["id"]), (&"paid".into(), &7.into()));
}

#[test]
fn what_is_wrong_with_a_token_is_told() {
    for (more, cause) in [
        (&["--ttl", "0s", "--claim", "exp=1"][..], "jwt_expired"),
        (&["--claim", "aud=other"], "jwt_audience"),
        (&["--claim", "iss=https://evil.test"], "jwt_issuer"),
        (&["--claim", "exp=null"], "jwt_exp_missing"),
    ] {
        let minted = run(&[&["mint", "--demo"], more].concat());
        assert!(minted.status.code() == Some(0) && minted.stderr.contains(cause), "{minted:?}");
        let (code, told) = inspect(minted.stdout.trim(), &["--demo"]);
        assert_eq!((code, &told["verdict"]["cause"]), (Some(3), &cause.into()), "{told:#}");
    }
    let (code, told) = inspect("nonsense", &["--demo"]);
    assert_eq!((code, &told["verdict"]["cause"], &told["claims"]), (Some(3), &"jwt_malformed".into(), &Value::Null));
    let missing = run(&["mint", "-c", "/nowhere.yaml"]);
    assert!(missing.status.code() == Some(1) && missing.stdout.is_empty(), "{missing:?}");
    let unknown = run(&["mint", "--demo", "--provider", "staff"]);
    assert!(unknown.status.code() == Some(1) && unknown.stderr.contains("there are: demo"), "{unknown:?}");
}

#[test]
fn a_private_key_signs_for_a_provider_with_public_keys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for algorithm in ["RS256", "PS512", "ES256", "ES512", "EdDSA"] {
        let signer = Signer::new(algorithm);
        std::fs::write(path("key.pem"), signer.private_pem()).expect("a temporary file");
        std::fs::write(path("public.pem"), signer.pem()).expect("a temporary file");
        let text = format!(
            "listeners: [{{name: http, address: 127.0.0.1:8080}}]\n\
             identity: {{staff: {{jwt: {{issuer: i, audiences: [a], algorithms: [{algorithm}], \
             keys: {{pem: [\"${{file:public.pem}}\"]}}}}}}}}\n\
             routes: [{{name: all, match: {{path: /}}, respond: {{}}}}]\n"
        );
        std::fs::write(path("config.yaml"), text).expect("a temporary file");
        let config = path("config.yaml");
        let without = run(&["mint", "-c", &config]);
        assert!(without.status.code() == Some(1) && without.stderr.contains("--key FILE"), "{without:?}");
        let minted = run(&["mint", "-c", &config, "--key", &path("key.pem"), "--sub", "ada"]);
        assert_eq!((minted.status.code(), minted.stderr.as_str()), (Some(0), ""), "{algorithm}");
        let (code, told) = inspect(minted.stdout.trim(), &["-c", &config]);
        assert_eq!((code, &told["header"]["alg"]), (Some(0), &algorithm.into()), "{told:#}");
    }
}

#[test]
fn keys_are_hashed_and_weak_ones_are_not() {
    let made = run(&["hash", "--new"]);
    let made: Value = serde_json::from_str(&made.stdout).expect("JSON");
    let key = made["key"].as_str().expect("a key");
    let hashed = |key: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_armiger"))
            .args(["token", "hash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        child.stdin.take().expect("its input").write_all(key.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let output = hashed(&format!("{key}\n"));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), made["hash"].as_str().expect("a hash"));
    let output = hashed("hunter2");
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn where_keys_are_fetched_all_but_the_signature_is_checked_and_that_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let config = |keys: &str| {
        format!(
            "listeners: [{{name: http, address: \"127.0.0.1:0\"}}]\nroutes: [{{name: all, match: {{path: /}}, respond: {{}}}}]\n\
             identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], algorithms: [ES256], keys: {{{keys}}}}}}}}}\n"
        )
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).expect("a temporary file");
    let (path, key) = (path.to_str().unwrap().to_owned(), folder.path().join("key.pem").to_str().unwrap().to_owned());
    for keys in ["jwks_url: \"https://id.test/keys\"", "discover: true"] {
        std::fs::write(&path, config(keys)).expect("a temporary file");
        let mint = |more: &[&str]| {
            let minted =
                run(&[&["mint", "-c", &path, "--key", &key, "--sub", "ada", "--role", "admin"], more].concat());
            minted.assert_code(0);
            (minted.stdout.trim().to_owned(), minted.stderr)
        };
        let (token, said) = mint(&[]);
        assert!(said.contains("is not known: its keys are fetched"), "{said}");
        let (code, told) = inspect(&token, &["-c", &path]);
        let verdict = &told["verdict"];
        assert_eq!((code, &verdict["accepted"]), (Some(3), &Value::Null), "nobody has looked at its signature");
        assert_eq!((&verdict["subject"], &verdict["roles"][0]), (&"ada".into(), &"admin".into()), "{told:#}");
        let signature = verdict["signature"].as_str().expect("words about the signature");
        assert!(signature.starts_with("not checked: `staff` fetches its keys"), "{signature}");
        for (claim, cause) in
            [("aud=other", "jwt_audience"), ("exp=1", "jwt_expired"), ("iss=https://else", "jwt_issuer")]
        {
            let (code, told) = inspect(&mint(&["--claim", claim]).0, &["-c", &path]);
            assert_eq!((code, &told["verdict"]["accepted"]), (Some(3), &false.into()), "{claim}: {told:#}");
            assert_eq!(told["verdict"]["cause"], cause, "{claim}");
        }
    }
}

#[test]
fn of_a_token_that_its_issuer_must_be_asked_about_nothing_is_claimed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let hash = "sha256:7f95f7a0e9b3ebc1f0cb5bbd1ae6ce8a1d7e3a3d6f5bcbf7c9b3e7e66b1a5f52";
    let text = format!(
        "listeners: [{{name: http, address: \"127.0.0.1:0\"}}]\nroutes: [{{name: all, match: {{path: /}}, respond: {{}}}}]\n\
         identity:\n  one: {{introspection: {{url: \"https://id.test/\", client_id: a, \
         client_secret: \"${{env:ARMIGER_TEST_NOT_SET:-0123456789}}\", any_audience: true}}}}\n  \
         staff: {{jwt: {{issuer: i, audiences: [a], keys: {{jwks_url: \"https://id.test/keys\"}}}}}}\n  \
         scripts: {{api_keys: {{bearer: true, keys: [{{hash: \"{hash}\", subject: s}}]}}}}\n"
    );
    std::fs::write(&path, text).expect("a temporary file");
    let path = path.to_str().expect("a path of text");

    let (code, told) = inspect("2YotnFZFEjr1zCsicMWpAA", &["-c", path]);
    let verdict = &told["verdict"];
    assert_eq!((code, &verdict["accepted"]), (Some(3), &Value::Null), "{told:#}");
    assert!(verdict["introspection"].as_str().is_some_and(|text| text.starts_with("not asked: `one` ")), "{told:#}");
    // What no issuer is asked about is no secret of its.
    let (code, told) = inspect("no token", &["-c", path]);
    assert_eq!((code, &told["verdict"]["accepted"]), (Some(3), &false.into()), "{told:#}");
}
