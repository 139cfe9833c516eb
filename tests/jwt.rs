//! Who calls: tokens, the attacks on them, and what callers, upstreams and operators see of it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Files, Response, SECRET, SECRET_YAML, Signer, claims, now, streamed};

fn request(target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

async fn call(armiger: &Armiger, token: &str) -> Response {
    armiger.request(request("/", &[("authorization", &format!("Bearer {token}"))])).await
}

/// A section `identity` with one provider `staff`, whose `jwt` has this besides issuer and audiences.
fn provider(more: &str) -> String {
    format!("identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], {more}}}}}}}")
}

/// As it stands in a YAML mapping of one line.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text")
}

async fn with(backend: &Backend, provider: &str, policies: &str) -> Armiger {
    Armiger::with(Config::to(backend).top(provider).policies(policies)).await
}

async fn staff(backend: &Backend, keys: &str) -> Armiger {
    with(backend, &provider(&format!("keys: {keys}")), "identity: {providers: [staff]}").await
}

/// What the log says of the policy `identity`.
async fn cause(armiger: &Armiger, response: &Response) -> Value {
    let id = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    let rows = line["verdicts"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["policy"] == "identity").map_or(Value::Null, |row| row["cause"].clone())
}

fn secret() -> String {
    format!("{{secret: {SECRET_YAML}}}")
}

// === signatures ===

#[tokio::test]
async fn every_algorithm_is_accepted_from_its_own_key_and_no_other() {
    let backend = Backend::replies("ok").await;
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"] {
        let (signer, other) = (Signer::new(algorithm), Signer::new(algorithm));
        let jwks = json!({"keys": [signer.jwk("one")]}).to_string();
        for keys in [format!("{{pem: [{}]}}", quoted(&signer.pem())), format!("{{jwks: {}}}", quoted(&jwks))] {
            let armiger = staff(&backend, &keys).await;
            call(&armiger, &signer.token(&claims(json!({})))).await.assert_status(200);
            call(&armiger, &other.token(&claims(json!({})))).await.assert_problem(401, "token-invalid");
        }
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        let armiger = staff(&backend, &secret()).await;
        call(&armiger, &Signer::secret(algorithm).token(&claims(json!({})))).await.assert_status(200);
        let other = Signer::shared(algorithm, &[7; 64]);
        call(&armiger, &other.token(&claims(json!({})))).await.assert_problem(401, "token-invalid");
    }
}

#[tokio::test]
async fn what_another_implementation_signs_is_accepted() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let backend = Backend::replies("ok").await;
    let armiger = staff(&backend, &secret()).await;
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = encode(&Header::new(algorithm), &claims(json!({})), &key).expect("encodes");
        call(&armiger, &token).await.assert_status(200);
    }
}

#[tokio::test]
async fn an_attack_on_a_token_is_a_401_that_tells_nothing_and_a_cause_in_the_log() {
    let backend = Backend::replies("ok").await;
    let signer = Signer::new("RS256");
    let keys = format!("{{jwks: {}}}", quoted(&json!({"keys": [signer.jwk("one")]}).to_string()));
    let armiger = staff(&backend, &keys).await;
    let good = claims(json!({})).to_string();
    let header = |more: Value| {
        let mut header = json!({"alg": "RS256", "kid": "one"});
        for (name, value) in more.as_object().expect("an object") {
            header[name] = value.clone();
        }
        header.to_string()
    };
    let signed = |more: Value| signer.signed(&header(more), &good);
    let unsigned = |alg: &str| {
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string()), URL_SAFE_NO_PAD.encode(&good))
    };
    let whole = signed(json!({}));
    let (message, signature) = whole.rsplit_once('.').expect("three parts");
    let (first, _) = message.split_once('.').expect("three parts");
    let forged = Signer::new("RS256");
    let embedded = forged.signed(&header(json!({"jwk": forged.jwk("one")})), &good);
    let certified = forged.signed(&header(json!({"x5c": [URL_SAFE_NO_PAD.encode(forged.der())]})), &good);
    let remote = forged.signed(&header(json!({"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"})), &good);
    let confused = |secret: &[u8]| Signer::shared("HS256", secret).signed(&header(json!({"alg": "HS256"})), &good);
    let changed = URL_SAFE_NO_PAD.encode(claims(json!({"sub": "root"})).to_string());
    let cases = [
        ("alg none", unsigned("none"), "jwt_algorithm"),
        ("alg None", unsigned("nOnE"), "jwt_algorithm"),
        ("key confusion: the PEM as secret", confused(signer.pem().as_bytes()), "jwt_algorithm"),
        ("key confusion: the DER as secret", confused(&signer.der()), "jwt_algorithm"),
        ("alg of another family", signed(json!({"alg": "ES256"})), "jwt_kid_unknown"),
        ("alg in another case", signed(json!({"alg": "rs256"})), "jwt_algorithm"),
        ("alg that the key is not for", signed(json!({"alg": "PS256"})), "jwt_kid_unknown"),
        ("no signature", format!("{message}."), "jwt_signature"),
        ("a signature of zeros", format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 256])), "jwt_signature"),
        ("other claims under the signature", format!("{first}.{changed}.{signature}"), "jwt_signature"),
        ("an embedded key", embedded, "jwt_signature"),
        ("an embedded certificate", certified, "jwt_signature"),
        ("a key from elsewhere", remote, "jwt_signature"),
        ("an unknown kid", signed(json!({"kid": "two"})), "jwt_kid_unknown"),
        ("a kid that is a path", signed(json!({"kid": "../../dev/null"})), "jwt_kid_unknown"),
        ("a kid that is a query", signed(json!({"kid": "' OR 1=1 --"})), "jwt_kid_unknown"),
        ("an unknown crit", signed(json!({"crit": ["b64"], "b64": false})), "jwt_critical_extension"),
        ("a logout token", signed(json!({"typ": "logout+jwt"})), "jwt_type"),
        ("alg twice", signer.signed(r#"{"alg":"RS256","kid":"one","alg":"none"}"#, &good), "jwt_duplicate_member"),
        (
            "a claim twice",
            signer.signed(&header(json!({})), &good.replacen('{', r#"{"sub":"root","#, 1)),
            "jwt_duplicate_member",
        ),
        ("a part too many", format!("{whole}.x"), "jwt_malformed"),
        ("a part too few", message.to_owned(), "jwt_malformed"),
        ("five parts, as of an encrypted token", "a.b.c.d.e".into(), "jwt_malformed"),
        ("padding", format!("{whole}="), "jwt_malformed"),
        ("the other alphabet", format!("{message}.+{}", &signature[1..]), "jwt_malformed"),
        ("a part before the header", format!(".{whole}"), "jwt_malformed"),
        ("an empty crit", signed(json!({"crit": []})), "jwt_critical_extension"),
        ("a crit that is nothing", signed(json!({"crit": null})), "jwt_critical_extension"),
        ("alg in a list", signed(json!({"alg": ["RS256", "none"]})), "jwt_malformed"),
        ("no alg", signer.signed(r#"{"kid":"one"}"#, &good), "jwt_malformed"),
        ("a kid that is a number", signed(json!({"kid": 1})), "jwt_malformed"),
        ("a typ that is a number", signed(json!({"typ": 1})), "jwt_malformed"),
        ("a header that is a list", signer.signed("[]", &good), "jwt_malformed"),
        ("claims that are a list", signer.signed(&header(json!({})), &format!("[{good}]")), "jwt_malformed"),
        ("claims with something behind", signer.signed(&header(json!({})), &format!("{good}{{}}")), "jwt_malformed"),
        (
            "claims with a comma too many",
            signer.signed(&header(json!({})), &good.replacen('}', ",}", 1)),
            "jwt_malformed",
        ),
        ("claims with a comment", signer.signed(&header(json!({})), &good.replacen('{', "{/* */", 1)), "jwt_malformed"),
        (
            "claims with a mark before them",
            signer.signed(&header(json!({})), &format!("\u{feff}{good}")),
            "jwt_malformed",
        ),
        (
            "claims as deep as a well",
            signer.signed(&header(json!({})), &format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500))),
            "jwt_malformed",
        ),
        (
            "a claim twice, far inside",
            signer.signed(&header(json!({})), &good.replacen('{', r#"{"a":[{"b":1,"b":2}],"#, 1)),
            "jwt_duplicate_member",
        ),
        (
            "a claim twice, once in another spelling",
            signer.signed(&header(json!({})), &good.replacen('{', r#"{"s\u0075b":"root","#, 1)),
            "jwt_duplicate_member",
        ),
        ("nothing", String::new(), "jwt_malformed"),
        ("a token as long as a book", format!("{whole}{}", "A".repeat(8 * 1024)), "jwt_too_large"),
    ];
    for (attack, token, expected) in cases {
        let response = call(&armiger, &token).await;
        response.assert_problem(401, "token-invalid");
        response.assert_header("www-authenticate", "Bearer realm=\"armiger\", error=\"invalid_token\"");
        assert!(!response.text().contains("jwt"), "{attack}: {}", response.text());
        assert_eq!(cause(&armiger, &response).await, expected, "{attack}");
    }
    let curve = Signer::new("ES256");
    let armiger = staff(&backend, &format!("{{pem: [{}]}}", quoted(&curve.pem()))).await;
    let token = curve.token(&claims(json!({})));
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let whole = curve.sign(message.as_bytes());
    let order =
        [
            &[
                0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
                0xad,
            ][..],
            &[0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51],
        ]
        .concat();
    // As ASN.1 has it, whose numbers may need a byte more.
    let integer = |number: &[u8]| {
        let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        [&[2, (sign.len() + number.len()) as u8][..], sign, number].concat()
    };
    let numbers = [integer(&whole[..32]), integer(&whole[32..])].concat();
    for (attack, signature) in [
        ("zeros, which fit every message where they are not looked at (CVE-2022-21449)", vec![0; 64]),
        ("the order of the curve twice", order.repeat(2)),
        ("a byte more", [&whole[..], &[0]].concat()),
        ("a byte more before each number", [&[0], &whole[..32], &[0], &whole[32..]].concat()),
        ("a byte less", whole[..63].to_vec()),
        ("in ASN.1", [&[0x30, numbers.len() as u8][..], &numbers].concat()),
        ("twice", whole.repeat(2)),
    ] {
        let response = call(&armiger, &format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))).await;
        response.assert_problem(401, "token-invalid");
        assert_eq!(cause(&armiger, &response).await, "jwt_signature", "{attack}");
    }
    assert_eq!(backend.count(), 0);
}

/// Keys with which anybody could sign, or that are for something else, are good for nothing (RFC 7517 §4.2, §4.3, RFC 7518 §3.3).
#[tokio::test]
async fn an_attack_by_a_key_that_should_not_be_used_finds_none() {
    let backend = Backend::replies("ok").await;
    let (signer, good) = (Signer::new("RS256"), Signer::new("ES256"));
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk("one");
        jwk[name] = value;
        jwk
    };
    let modulus = |bytes: usize| json!(URL_SAFE_NO_PAD.encode([&[0xc1][..], &vec![0x55; bytes - 1]].concat()));
    for (attack, jwk) in [
        ("for encryption", with("use", json!("enc"))),
        ("for encryption, said otherwise", with("key_ops", json!(["encrypt"]))),
        ("for another algorithm", with("alg", json!("RS512"))),
        ("of 1024 bits", with("n", modulus(128))),
        ("of 16384 bits", with("n", modulus(2048))),
        ("with the exponent 1", with("e", json!("AQ"))),
        ("an even exponent", with("e", json!("Ag"))),
        (
            "a published secret",
            json!({"kty": "oct", "kid": "one", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode([7; 64])}),
        ),
    ] {
        let keys = json!({"keys": [jwk, good.jwk("other")]}).to_string();
        let armiger = staff(&backend, &format!("{{jwks: {}}}", quoted(&keys))).await;
        call(&armiger, &good.token_by("other", &claims(json!({})))).await.assert_status(200);
        let signed = [
            signer.token_by("one", &claims(json!({}))),
            Signer::shared("HS256", &[7; 64]).token_by("one", &claims(json!({}))),
        ];
        for (token, expected) in signed.iter().zip(["jwt_kid_unknown", "jwt_algorithm"]) {
            let response = call(&armiger, token).await;
            response.assert_problem(401, "token-invalid");
            assert_eq!(cause(&armiger, &response).await, expected, "{attack}");
        }
    }
}

/// Only where the route says so: a token in the query is in every log on the way.
#[tokio::test]
async fn a_token_in_the_query_or_a_cookie_is_none_unless_the_route_says_so() {
    let backend = Backend::replies("ok").await;
    let armiger = staff(&backend, &secret()).await;
    let token = Signer::secret("HS256").token(&claims(json!({})));
    armiger.get(&format!("/?access_token={token}")).await.assert_problem(401, "token-missing");
    let cookie = format!("access_token={token}; session={token}");
    armiger.request(request("/", &[("cookie", &cookie)])).await.assert_problem(401, "token-missing");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn what_a_token_claims_is_checked() {
    let backend = Backend::replies("ok").await;
    let armiger = staff(&backend, &secret()).await;
    let signer = Signer::secret("HS256");
    for (changes, expected) in [
        (json!({"iss": "https://id.test/"}), "jwt_issuer"),
        (json!({"iss": "absent"}), "jwt_issuer"),
        (json!({"iss": 1}), "jwt_claim_type"),
        (json!({"aud": "other"}), "jwt_audience"),
        (json!({"aud": "absent"}), "jwt_audience"),
        (json!({"exp": now() - 31}), "jwt_expired"),
        (json!({"exp": "absent"}), "jwt_exp_missing"),
        (json!({"exp": (now() + 600).to_string()}), "jwt_claim_type"),
        (json!({"nbf": now() + 90}), "jwt_not_yet_valid"),
        (json!({"exp": 1e300}), "jwt_claim_type"),
        (json!({"exp": -1}), "jwt_claim_type"),
        (json!({"exp": [now() + 600]}), "jwt_claim_type"),
        (json!({"aud": [["api"]]}), "jwt_claim_type"),
        (json!({"aud": {"api": true}}), "jwt_claim_type"),
        (json!({"aud": []}), "jwt_audience"),
        (json!({"aud": "API"}), "jwt_audience"),
        (json!({"aud": "api other"}), "jwt_audience"),
        (json!({"iss": ["https://id.test"]}), "jwt_claim_type"),
        (json!({"iss": "https://ID.test"}), "jwt_issuer"),
        (json!({"sub": 7}), "jwt_claim_type"),
        (json!({"nbf": "1"}), "jwt_claim_type"),
        (json!({"iat": now() + 90}), "jwt_issued_in_future"),
        (json!({"roles": {"admin": true}}), "jwt_claim_type"),
    ] {
        let response = call(&armiger, &signer.token(&claims(changes.clone()))).await;
        response.assert_problem(401, "token-invalid");
        assert_eq!(cause(&armiger, &response).await, expected, "{changes}");
    }
    for changes in [json!({"aud": ["x", "api"]}), json!({"exp": now() - 20}), json!({"exp": now() as f64 + 9.5})] {
        call(&armiger, &signer.token(&claims(changes))).await.assert_status(200);
    }
}

// === where the credential stands ===

#[tokio::test]
async fn a_request_without_a_credential_is_asked_for_one() {
    let backend = Backend::replies("ok").await;
    let armiger = staff(&backend, &secret()).await;
    for headers in [&[][..], &[("authorization", "Basic YTpi")], &[("authorization", "Bearerx y")]] {
        let response = armiger.request(request("/", headers)).await;
        response.assert_problem(401, "token-missing").assert_header("www-authenticate", "Bearer realm=\"armiger\"");
    }
    let grpc = armiger.request(request("/", &[("content-type", "application/grpc")])).await;
    grpc.assert_status(200).assert_header("grpc-status", "16");
    assert_eq!(backend.count(), 0);
    let token = Signer::secret("HS256").token(&claims(json!({})));
    armiger.request(request("/", &[("authorization", &format!("bEARER  {token}"))])).await.assert_status(200);
}

#[tokio::test]
async fn a_caller_may_be_optional_but_a_bad_credential_never_is() {
    let backend = Backend::replies("ok").await;
    let armiger =
        with(&backend, &provider(&format!("keys: {}", secret())), "identity: {providers: [staff], caller: optional}")
            .await;
    armiger.get("/").await.assert_status(200);
    call(&armiger, "a.b.c").await.assert_problem(401, "token-invalid");
    call(&armiger, &Signer::secret("HS256").token(&claims(json!({})))).await.assert_status(200);
}

#[tokio::test]
async fn one_credential_in_one_place() {
    let backend = Backend::replies("ok").await;
    let policy = "identity: {providers: [staff], from: {cookie: session, query: access_token}}";
    let armiger = with(&backend, &provider(&format!("keys: {}", secret())), policy).await;
    let token = Signer::secret("HS256").token(&claims(json!({})));
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=1; session={token}; b=2");
    let query = format!("/?b=1&access_token={token}&c=2");
    armiger.request(request("/", &[("authorization", &bearer)])).await.assert_status(200);
    armiger.request(request("/", &[("cookie", &cookie)])).await.assert_status(200);
    armiger.request(request(&query, &[])).await.assert_status(200);
    let passed = backend.requests();
    assert_eq!(passed[1].header("cookie"), cookie, "a back end of one's own gets the credential");
    assert_eq!(passed[2].target, "/?b=1&c=2", "save for the query, which is logged everywhere");
    for (target, headers) in [
        ("/", vec![("authorization", &bearer), ("cookie", &cookie)]),
        (&query, vec![("authorization", &bearer)]),
        (&query, vec![("cookie", &cookie)]),
        (&format!("{query}&%61ccess_token=x"), vec![]),
        ("/", vec![("cookie", &format!("{cookie}; session=x"))]),
    ] {
        let headers: Vec<(&str, &str)> = headers.into_iter().map(|(name, value)| (name, value.as_str())).collect();
        armiger.request(request(target, &headers)).await.assert_problem(400, "credential-ambiguous");
    }
    // Refused before anybody looks at it: which of the two would the next reader take?
    let twice = armiger.request(request("/", &[("authorization", &bearer), ("authorization", &bearer)])).await;
    twice.assert_problem(400, "bad-header");
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_credential_in_the_query_is_never_logged() {
    let backend = Backend::replies("ok").await;
    let policy = "identity: {providers: [staff], from: {query: access_token}}";
    let section = provider(&format!("keys: {}", secret()));
    let armiger = with(&backend, &format!("{section}\naccess_log: {{query: [b]}}"), policy).await;
    let token = Signer::secret("HS256").token(&claims(json!({})));
    for (target, status) in [(format!("/?b=1&access_token={token}"), 200), ("/?b=1&access_token=a.b.c".into(), 401)] {
        let response = armiger.request(request(&target, &[])).await;
        response.assert_status(status);
        let id = response.header("x-request-id").to_owned();
        let line = armiger.logged(|line| line["request_id"] == *id).await.to_string();
        assert!(line.contains("b=1") && !line.contains(&token) && !line.contains("a.b.c"), "{line}");
    }
    let told = Armiger::try_with(
        Config::to(&backend).top(&format!("{section}\naccess_log: {{query: [access_token]}}")).policies(policy),
    )
    .await;
    assert!(told.err().is_some_and(|report| report.contains("shows a credential")), "the log is not told to show it");
}

// === several providers, keys and changes ===

#[tokio::test]
async fn of_several_providers_the_one_decides_that_knows_the_issuer() {
    let backend = Backend::replies("ok").await;
    let (one, two) = (Signer::new("ES256"), Signer::new("ES256"));
    let section = format!(
        "identity:\n  one: {{jwt: {{issuer: one, audiences: [api], keys: {{pem: [{}]}}}}}}\n  two: {{jwt: {{issuer: two, \
         more_issuers: [zwei], audiences: [api], keys: {{pem: [{}]}}}}}}",
        quoted(&one.pem()),
        quoted(&two.pem())
    );
    let armiger = with(&backend, &section, "identity: {providers: [one, two]}").await;
    let token = |signer: &Signer, issuer: &str| signer.token(&claims(json!({"iss": issuer})));
    call(&armiger, &token(&one, "one")).await.assert_status(200);
    call(&armiger, &token(&two, "two")).await.assert_status(200);
    call(&armiger, &token(&two, "zwei")).await.assert_status(200);
    for forged in [token(&one, "two"), token(&two, "one"), token(&one, "three")] {
        call(&armiger, &forged).await.assert_problem(401, "token-invalid");
    }
    let narrow = with(&backend, &section, "identity: {providers: [one]}").await;
    let response = call(&narrow, &token(&two, "two")).await;
    response.assert_problem(401, "token-invalid");
    assert_eq!(cause(&narrow, &response).await, "jwt_issuer");
}

#[tokio::test]
async fn a_known_token_is_not_verified_again_and_its_end_counts_all_the_same() {
    let backend = Backend::replies("ok").await;
    let armiger = staff(&backend, &secret()).await;
    let token = Signer::secret("HS256").token(&claims(json!({})));
    for _ in 0..5 {
        call(&armiger, &token).await.assert_status(200);
    }
    let count = async |outcome: &str| {
        armiger.metric(&format!("armiger_identity_credentials_total{{outcome=\"{outcome}\",provider=\"staff\"}}")).await
    };
    assert_eq!((count("verified").await, count("known").await), (1.0, 4.0));
    // The same claims under another signature are another token.
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    call(&armiger, &format!("{message}.{flipped}{}", &signature[1..])).await.assert_problem(401, "token-invalid");
    assert_eq!(count("jwt_signature").await, 1.0);
}

#[tokio::test]
async fn secrets_are_rotated_with_overlap() {
    let backend = Backend::replies("ok").await;
    let old = "${env:ARMIGER_TEST_NOT_SET:-the-old-secret-the-old-secret-the-old-secret}";
    let armiger = staff(&backend, &format!("{{secrets: [{SECRET_YAML}, \"{old}\"]}}")).await;
    let signer = Signer::shared("HS256", b"the-old-secret-the-old-secret-the-old-secret");
    call(&armiger, &signer.token(&claims(json!({})))).await.assert_status(200);
    call(&armiger, &Signer::secret("HS256").token_by("new", &claims(json!({})))).await.assert_status(200);
}

// === what check says ===

#[tokio::test]
async fn mistakes_of_the_section_are_told_at_once() {
    let backend = Backend::replies("ok").await;
    let told = async |section: &str, policies: &str| {
        let config = Config::to(&backend).top(section).policies(policies);
        Armiger::try_with(config).await.err().expect("must be refused")
    };
    let report = told(
        "identity:
  a: {jwt: {issuer: a, keys: {secret: \"${env:ARMIGER_TEST_NOT_SET:-tiny!}\"}, algorithms: [HS256, RS256], leeway: 10m}}
  b: {jwt: {issuer: \"\", audiences: [x], any_audience: true, keys: {pem: [nonsense], jwks: \"{}\"}, token_max: 1MiB}}
  c: {}
  d: {jwt: {issuer: d, audiences: [x], keys: {jwks: \"{}\"}, max_age: 0s, roles_claim: \"\"}}",
        "identity: {providers: [a, e], from: {bearer: false}}",
    )
    .await;
    for part in [
        "names no audience",
        "a secret of 5 bytes is too short for HS256",
        "RS256 does not go with the keys",
        "10m is too much",
        "is empty",
        "contradicts `audiences`",
        "has keys of 2 kinds: `pem`, `jwks`",
        "1MiB is out of bounds",
        "does not say how it vouches",
        "it has no list `keys`",
        "is less than a second",
        "unknown provider `e`",
        "leaves no place for a credential",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    let of =
        |name: &str, issuer: &str| format!("{name}: {{jwt: {{issuer: {issuer}, audiences: [x], keys: {}}}}}", secret());
    let section = format!("identity: {{{}, {}}}", of("one", "i"), of("two", "i"));
    let report = told(&section, "identity: {providers: [one, two]}").await;
    assert!(report.contains("`two` is never asked: one before it decides about tokens of `i`"), "{report}");
    let report = told("", "roles: {any: [admin]}\nscopes: {all: [x]}").await;
    assert!(report.contains("roles are a caller's, and this route knows none"), "{report}");
    assert!(report.contains("scopes are a caller's") && report.contains("1 issue"), "{report}");
    let section = provider(&format!("keys: {}", secret()));
    let report = told(&section, "identity: {providers: [staff], mode: shadow}\nroles: {any: [admin]}").await;
    assert!(report.contains("roles are a caller's"), "{report}");
}

// === roles and scopes ===

#[tokio::test]
async fn roles_and_scopes_are_a_403_without_a_challenge() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}, roles_claim: /realm_access/roles", secret()));
    let policies = "identity: {providers: [staff], caller: optional}
roles: {any: [user, admin], none: [suspended]}
scopes: {all: [read]}";
    let armiger = with(&backend, &section, policies).await;
    let signer = Signer::secret("HS256");
    let token =
        |roles: Value, scope: &str| signer.token(&claims(json!({"realm_access": {"roles": roles}, "scope": scope})));
    call(&armiger, &token(json!(["user"]), "write read")).await.assert_status(200);
    call(&armiger, &token(json!("admin user"), "read")).await.assert_status(200);
    for bad in [
        token(json!(["guest"]), "read"),
        token(json!([]), "read"),
        token(json!(["user", "suspended"]), "read"),
        token(json!(["user"]), "reader"),
        token(json!(["User"]), "read"),
    ] {
        call(&armiger, &bad).await.assert_problem(403, "forbidden").assert_no_header("www-authenticate");
    }
    armiger.get("/").await.assert_problem(401, "token-missing");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn in_shadow_nobody_is_refused_and_the_log_tells_who_would_be() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}", secret()));
    let armiger = with(&backend, &section, "identity: {providers: [staff], mode: shadow}").await;
    let response = call(&armiger, "a.b.c").await;
    response.assert_status(200);
    assert_eq!(cause(&armiger, &response).await, "jwt_malformed");
}

// === streams ===

#[tokio::test]
async fn an_endless_answer_ends_with_the_credential_and_a_download_does_not() {
    let (chunks, stream) = streamed(200);
    let (rest, download) = streamed(200);
    let answers = std::sync::Mutex::new(vec![stream, download]);
    let backend = Backend::with(move |seen| {
        let mut answer = answers.lock().unwrap().pop().expect("two requests");
        if seen.target == "/download" {
            answer.headers_mut().insert("content-length", http::HeaderValue::from_static("10"));
        }
        answer
    })
    .await;
    let section = provider(&format!("leeway: 0s, keys: {}", secret()));
    let armiger = with(&backend, &section, "identity: {providers: [staff]}").await;
    let token = Signer::secret("HS256").token(&claims(json!({"exp": now() + 2})));
    let bearer = format!("Bearer {token}");
    let mut connection = armiger.connect().await;
    let download = connection.open(request("/download", &[("authorization", &bearer)])).await.unwrap();
    let mut other = armiger.connect().await;
    let events = other.open(request("/events", &[("authorization", &bearer)])).await.unwrap();
    chunks.data("event").await;

    // The credential ends, and the stream with it: visibly, not as if it were complete.
    assert!(events.into_body().collect().await.is_err(), "cut, and seen to be");
    chunks.unwanted().await;
    let line = armiger.logged(|line| line["path"] == "/events").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("credential")), "{line:#}");

    rest.data("0123456789").await;
    drop(rest);
    assert_eq!(download.into_body().collect().await.unwrap().to_bytes(), "0123456789");
}

#[tokio::test]
async fn a_stream_of_http2_ends_with_the_credential_and_the_others_go_on() {
    let (chunks, stream) = streamed(200);
    let (kept, other) = streamed(200);
    let answers = std::sync::Mutex::new(vec![other, stream]);
    let backend = Backend::with(move |_| answers.lock().unwrap().pop().expect("two requests")).await;
    let section = provider(&format!("leeway: 0s, keys: {}", secret()));
    let armiger = with(&backend, &section, "identity: {providers: [staff]}").await;
    let bearer = |exp: i64| format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({"exp": now() + exp}))));
    let mut connection = armiger.connect_h2c().await;
    let events = connection.open(request("http://a/short", &[("authorization", &bearer(2))])).await.unwrap();
    let mut shared = connection.share();
    let long = shared.open(request("http://a/long", &[("authorization", &bearer(600))])).await.unwrap();
    chunks.data("event").await;
    assert!(events.into_body().collect().await.is_err(), "reset, and not as if it were complete");
    chunks.unwanted().await;
    let line = armiger.logged(|line| line["path"] == "/short").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("credential")), "{line:#}");
    kept.data("all of it").await;
    drop(kept);
    assert_eq!(long.into_body().collect().await.unwrap().to_bytes(), "all of it");
}

// === what upstreams see ===

#[tokio::test]
async fn claims_become_headers_that_no_client_can_write() {
    let backend = Backend::replies("ok").await;
    let routes = "
- name: known
  match: {path_prefix: /known}
  policies:
    identity: {providers: [staff], caller: optional}
    headers:
      request:
        set:
          x-user: \"${claims.sub}\"
          x-org: \"org-${claims./org/id}\"
          x-roles: \"${identity.roles}\"
          x-caller: \"${identity.subject};roles=${identity.roles};scopes=${identity.scopes}\"
          x-scopes: \"${identity.scopes|json}\"
          x-name: \"${claims.name|base64url}\"
          x-claims: \"${claims.org|json}\"
        add: {x-note: \"${identity.provider}\"}
  proxy: {upstream: app}
- name: by-header
  match: {path_prefix: /open, headers: {x-user: {present: true}}}
  respond: {body: never}
- {name: open, match: {path_prefix: /open}, proxy: {upstream: app}}
";
    let section = provider(&format!("keys: {}", secret()));
    let armiger = Armiger::with(Config::to(&backend).top(&section).routes(routes)).await;
    let told = json!({
        "sub": "a\r\nx-admin: 1", "org": {"id": 7, "unit": "ö"}, "roles": ["a,b", "c"], "name": "Ada Ö",
    });
    let token = format!("Bearer {}", Signer::secret("HS256").token(&claims(told)));
    let forged = ["x-user", "X_User", "x_org", "x-roles", "x_roles", "x-name", "x-claims", "X.Note", "x-note"];
    let mut headers: Vec<(&str, &str)> = forged.iter().map(|name| (*name, "forged")).collect();
    headers.push(("x-users", "kept"));

    // A route that knows nobody, and one on which nobody proves anything: nothing is left of what was made up.
    for target in ["/open", "/known"] {
        let response = armiger.request(request(target, &headers)).await;
        assert_eq!(response.assert_status(200).text(), "ok", "a route must not be chosen by what is made up");
        let seen = backend.requests().pop().expect("a request");
        assert_eq!(seen.header("x-users"), "kept");
        assert!(seen.headers.iter().all(|(_, value)| value.as_bytes() != b"forged"), "{seen:?}");
    }
    headers.push(("authorization", &token));
    armiger.request(request("/known", &headers)).await.assert_status(200);
    let seen = backend.requests().pop().expect("a request");
    assert!(seen.headers.iter().all(|(_, value)| value.as_bytes() != b"forged"), "{seen:?}");
    for (name, value) in [
        ("x-user", "a%0D%0Ax-admin:%201"),
        ("x-org", "org-7"),
        ("x-roles", "a%2Cb,c"),
        ("x-name", "QWRhIMOW"),
        ("x-claims", r#"{"id":7,"unit":"\u00f6"}"#),
        ("x-note", "staff"),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    // What is not there, and what is no single value, leaves no header.
    let token = format!(
        "Bearer {}",
        Signer::secret("HS256").token(&claims(json!({"sub": "absent", "org": "x", "name": ["a"]})))
    );
    armiger.request(request("/known", &[("authorization", &token), ("x-user", "forged")])).await.assert_status(200);
    let seen = backend.requests().pop().expect("a request");
    assert!(["x-user", "x-org", "x-name"].iter().all(|name| !seen.headers.contains_key(*name)), "{seen:?}");
    // Nobody is there of whom it could be said.
    assert!(!seen.headers.contains_key("x-caller"), "{seen:?}");

    // A caller without roles and scopes is known to have none.
    let token = format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({"sub": "ada"}))));
    armiger.request(request("/known", &[("authorization", &token), ("x-roles", "forged")])).await.assert_status(200);
    let seen = backend.requests().pop().expect("a request");
    for (name, value) in [("x-roles", ""), ("x-scopes", "[]"), ("x-caller", "ada;roles=;scopes=")] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_claim_that_is_too_long_for_a_header_is_refused() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}", secret()));
    let policies =
        "identity: {providers: [staff]}\nheaders: {request: {set: {x-name: \"${claims.name}\"}}, claim_max: 64B}";
    let armiger = with(&backend, &section, policies).await;
    let call_as =
        async |name: &str| call(&armiger, &Signer::secret("HS256").token(&claims(json!({"name": name})))).await;
    call_as(&"a".repeat(64)).await.assert_status(200);
    call_as(&"ö".repeat(11)).await.assert_problem(431, "headers-too-large");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn who_calls_is_named_only_where_it_is_known() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}", secret()));
    for (policies, part) in [
        (
            "headers: {request: {set: {x-user: \"${claims.sub}\"}}}",
            "the value names who calls, and this route knows none",
        ),
        (
            "identity: {providers: [staff], mode: shadow}\nheaders: {request: {add: {x-user: \"${identity.subject}\"}}}",
            "the value names who calls, and this route knows none",
        ),
        (
            "identity: {providers: [staff]}\nheaders: {response: {set: {x-user: \"${claims.sub}\"}}}",
            "names who calls, which is not known yet",
        ),
        (
            "identity: {providers: [staff]}\nheaders: {request: {set: {x-user: \"${claims.sub}\"}, rename: {x-a: X_User}}}",
            "a client could write `x_user`",
        ),
        (
            "identity: {providers: [staff]}\nheaders: {request: {set: {x-user: \"${claims.sub|hex}\"}}}",
            "`hex` is no form",
        ),
    ] {
        let config = Config::to(&backend).top(&section).policies(policies);
        let report = Armiger::try_with(config).await.err().expect(policies);
        assert!(report.contains(part), "{part}\n{report}");
    }
}

#[tokio::test]
async fn a_credential_is_forwarded_stripped_or_replaced() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}", secret()));
    let token = Signer::secret("HS256").token(&claims(json!({})));
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=1; session={token}; b=2");
    for (upstream, policy, forwarded) in [
        ("", "", true),
        ("", "credential: strip", false),
        ("third_party: true", "", false),
        ("third_party: true", "credential: forward", true),
    ] {
        let policies = format!("identity: {{providers: [staff], from: {{cookie: session}}, {policy}}}");
        let config = Config::to(&backend).top(&section).upstream(upstream).policies(&policies);
        let armiger = Armiger::with(config).await;
        armiger.request(request("/", &[("authorization", &bearer)])).await.assert_status(200);
        let seen = backend.requests().pop().expect("a request");
        let kept = forwarded.then_some(bearer.as_str());
        assert_eq!(
            seen.headers.get("authorization").and_then(|value| value.to_str().ok()),
            kept,
            "{upstream} {policy}"
        );
        armiger.request(request("/", &[("cookie", &cookie)])).await.assert_status(200);
        let seen = backend.requests().pop().expect("a request");
        assert_eq!(seen.header("cookie"), if forwarded { &cookie } else { "a=1; b=2" }, "{upstream} {policy}");
    }
    // What is no credential of ours stays: it is for the back end to judge.
    let policies = "identity: {providers: [staff], caller: optional, credential: strip}";
    let armiger = with(&backend, &section, policies).await;
    armiger.request(request("/", &[("authorization", "Basic YTpi")])).await.assert_status(200);
    assert_eq!(backend.requests().pop().expect("a request").header("authorization"), "Basic YTpi");
    // Another one in its place.
    let policies = "identity: {providers: [staff], credential: strip}
headers: {request: {set: {authorization: \"${env:ARMIGER_TEST_NOT_SET:-Bearer internal}\"}}}";
    let armiger = with(&backend, &section, policies).await;
    call(&armiger, &token).await.assert_status(200);
    assert_eq!(backend.requests().pop().expect("a request").header("authorization"), "Bearer internal");
}

// === how refusals look ===

#[tokio::test]
async fn refusals_are_for_whoever_asks() {
    let backend = Backend::replies("ok").await;
    let section = provider(&format!("keys: {}", secret()));
    let policies =
        "identity: {providers: [staff]}\nroles: {any: [admin]}\ncors: {origins: [\"https://shop.example.com\"]}";
    let armiger = with(&backend, &section, policies).await;
    let good = format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({}))));
    const SHOP: (&str, &str) = ("origin", "https://shop.example.com");
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    for (authorization, status, slug, grpc) in [
        (None, 401, "token-missing", "16"),
        (Some("Bearer a.b.c"), 401, "token-invalid", "16"),
        (Some(good.as_str()), 403, "forbidden", "7"),
    ] {
        let mut headers: Vec<(&str, &str)> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        headers.push(SHOP);
        // A page of another origin must be able to read the answer.
        let response = armiger.request(request("/", &headers)).await;
        response.assert_problem(status, slug).assert_header("access-control-allow-origin", SHOP.1);
        assert_eq!(response.headers.contains_key("www-authenticate"), status == 401);
        headers.push(GRPC);
        armiger.request(request("/", &headers)).await.assert_status(200).assert_header("grpc-status", grpc);
    }
    assert_eq!(backend.count(), 0);
}

/// A secret's text is another key in another encoding: what the old one signed is known no more.
#[tokio::test]
async fn another_encoding_of_the_secret_forgets_what_was_known() {
    let backend = Backend::replies("ok").await;
    let config = |more: &str| {
        Config::to(&backend)
            .top(&provider(&format!("keys: {{secret: {SECRET_YAML}{more}}}, algorithms: [HS256]")))
            .policies("identity: {providers: [staff]}")
    };
    let files = Files::of(config(""));
    let armiger = Armiger::watching(files.config().into()).await;
    let token = Signer::secret("HS256").token(&claims(json!({})));
    for _ in 0..2 {
        call(&armiger, &token).await.assert_status(200);
    }
    files.replace("config.yaml", config(", secret_encoding: base64"));
    armiger.in_force(2).await;
    call(&armiger, &token).await.assert_problem(401, "token-invalid");
}
