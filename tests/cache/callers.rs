//! For whom something is stored.

use super::*;

/// A header that one provider looks for keys in is a credential wherever an upstream may see it.
#[tokio::test]
async fn a_key_in_a_header_of_any_name_is_a_credential() {
    let backend = Backend::counting(KEPT).await;
    let keys = format!(
        "[{{hash: \"{}\", subject: one}}]",
        armiger::identity::api_key::hash("a-key-of-forty-characters-that-is-nobodys")
    );
    let identity = format!("identity: {{partners: {{api_keys: {{header: x-partner, keys: {keys}}}}}}}");
    let armiger = Armiger::with(Config::to(&backend).top(&identity).policies("cache: {}")).await;
    assert_eq!(armiger.get("/").await.text(), "1");
    assert_eq!(armiger.get("/").await.text(), "1");
    assert_eq!(get(&armiger, "/", &[("x-partner", "a")]).await.text(), "2");
    assert_eq!(get(&armiger, "/", &[("x-partner", "b")]).await.text(), "3");
}

fn signed(sub: &str, more: Value) -> String {
    let mut all = claims(json!({"sub": sub}));
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    format!("Bearer {}", Signer::secret("HS256").token(&all))
}

fn identified(backend: &Backend, cache: &str) -> Config {
    Config::to(backend)
        .top(&format!(
            "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
        ))
        .policies(&format!("identity: {{providers: [staff]}}\ncache: {cache}"))
}

#[tokio::test]
async fn what_callers_are_known_for_is_cached_only_where_somebody_says_for_whom() {
    let backend = Backend::replies("ok").await;
    for (cache, is_fine) in [
        ("{ttl: {default: 10s}}", false),
        ("{ttl: {200: 10s}}", false),
        ("{ttl: {default: 10s}, vary_by: [\"claim:plan\"]}", false),
        ("{ttl: {default: 10s}, vary_by: [\"claim:sub\"]}", true),
        (
            "{ttl: {default: 10s}, vary_by: [\"claim:sub\"]}\nheaders: {request: {set: {x-plan: \"${claims.plan}\"}}}",
            false,
        ),
        (
            "{ttl: {default: 10s}, vary_by: [\"claim:sub\", \"claim:plan\"]}\nheaders: {request: {set: {x-plan: \"${claims.plan}\"}}}",
            true,
        ),
        ("{ttl: {default: 10s}, shared_across_users: true}", true),
        ("{}", true),
        ("{ttl: {max: 10s}}", true),
    ] {
        let started = Armiger::try_with(identified(&backend, cache)).await;
        assert_eq!(started.is_ok(), is_fine, "{cache}");
        if let Err(report) = started {
            assert!(report.contains("would give one caller's answers to another"), "{report}");
        }
    }
}

/// No key has the client's address, so what a back end makes of it is one client's.
#[tokio::test]
async fn an_address_that_the_route_writes_is_cached_only_where_somebody_says_for_whom() {
    let backend = Backend::replies("ok").await;
    let address = "\nheaders: {request: {set: {x-c: \"${client.address}\"}}}";
    for (cache, headers, is_fine) in [
        ("{ttl: {default: 5s}}", address, false),
        ("{ttl: {200: 5s}, vary_by: [\"header:x-c\"]}", address, false),
        ("{ttl: {default: 5s}}", "\nheaders: {request: {add: {x-c: \"from ${client.address};\"}}}", false),
        ("{ttl: {default: 5s}, shared_across_users: true}", address, true),
        ("{ttl: {max: 5s}}", address, true),
        ("{}", address, true),
        ("{ttl: {default: 5s}}", "\nheaders: {response: {set: {x-c: \"${client.address}\"}}}", true),
        ("{ttl: {default: 5s}}", "\nheaders: {mode: shadow, request: {set: {x-c: \"${client.address}\"}}}", true),
        ("{ttl: {default: 5s}}", "\nheaders: {request: {set: {x-c: \"${request.id}$${client.address}\"}}}", true),
    ] {
        let started = Armiger::try_with(Config::to(&backend).policies(&format!("cache: {cache}{headers}"))).await;
        assert_eq!(started.is_ok(), is_fine, "{cache}{headers}");
        if let Err(report) = started {
            assert!(report.contains("would give one client's answers to another"), "{report}");
        }
    }
}

#[tokio::test]
async fn two_callers_of_one_url_get_each_their_own() {
    let backend = Backend::with(|seen| reply(200, &[], seen.header("authorization").to_owned())).await;
    let armiger = Armiger::with(identified(&backend, "{ttl: {default: 1m}, vary_by: [\"claim:sub\"]}")).await;
    let (ada, bob) = (signed("ada", json!({})), signed("bob", json!({})));

    for caller in [&ada, &bob, &ada, &bob] {
        let response = get(&armiger, "/", &[("authorization", caller)]).await;
        assert_eq!(response.text(), caller);
    }
    get(&armiger, "/", &[]).await.assert_problem(401, "token-missing");

    assert_eq!(backend.count(), 2);
}

/// One caller whose rights have changed is not to see what it saw with those it had.
#[tokio::test]
async fn a_caller_with_other_scopes_gets_an_answer_of_its_own() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(identified(&backend, "{ttl: {default: 1m}, vary_by: [\"claim:sub\"]}")).await;
    for scope in ["read", "read write", "read", "read write"] {
        let token = signed("ada", json!({"scope": scope}));
        get(&armiger, "/", &[("authorization", &token)]).await.assert_status(200);
    }
    assert_eq!(backend.count(), 2);
}

/// The upstream's own word, and the route's.
#[tokio::test]
async fn callers_share_what_is_said_to_be_for_all() {
    for (cache, header, calls) in
        [("{}", "max-age=60", 4), ("{}", "public, max-age=60", 1), ("{shared_across_users: true}", "max-age=60", 1)]
    {
        let backend = Backend::with(move |_| reply(200, &[("cache-control", header)], "x")).await;
        let armiger = Armiger::with(identified(&backend, cache)).await;
        for sub in ["ada", "bob", "ada", "bob"] {
            get(&armiger, "/", &[("authorization", &signed(sub, json!({})))]).await.assert_status(200);
        }
        assert_eq!(backend.count(), calls, "{cache} {header}");
    }
}

/// What the route writes into the request is not known when the next one comes.
#[tokio::test]
async fn an_answer_that_varies_on_what_the_route_writes_is_not_stored() {
    let backend = Backend::with(|seen| {
        reply(200, &[("cache-control", "max-age=60"), ("vary", "x-client, cookie")], seen.header("x-client").to_owned())
    })
    .await;
    let policies = "
        headers: {request: {set: {x-client: \"${client.address}\"}, remove: [cookie]}}
        cache: {}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;
    armiger.get("/").await;
    armiger.get("/").await;
    assert_eq!(backend.count(), 2);

    let backend = Backend::with(|_| reply(200, &[("cache-control", "max-age=60"), ("vary", "cookie")], "x")).await;
    let armiger =
        Armiger::with(Config::to(&backend).policies("headers: {request: {remove: [cookie]}}\ncache: {}")).await;
    get(&armiger, "/", &[("cookie", "a=1")]).await;
    get(&armiger, "/", &[("cookie", "b=2")]).await.assert_status(200);
    assert_eq!(backend.count(), 1, "the upstream never sees the cookie");
}

/// Random callers, `Vary`, purges and answers, against a model that knows only what nobody may ever get.
#[tokio::test]
async fn no_answer_ever_reaches_another_caller() {
    let number = AtomicUsize::new(0);
    let backend = Backend::with(move |seen| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let caller = seen.headers.get("x-caller").map_or("", |value| value.to_str().unwrap());
        let flavour = seen.headers.get("x-flavour").map_or("", |value| value.to_str().unwrap());
        let control = [
            "max-age=60",
            "max-age=0",
            "private",
            "no-store",
            "max-age=60, must-revalidate",
            "max-age=0, stale-while-revalidate=60",
        ];
        let mut seed = fastrand::Rng::with_seed(number as u64);
        let mut headers = vec![("cache-control", control[seed.usize(..control.len())]), ("vary", "x-flavour")];
        if seed.bool() {
            headers.push(("etag", "\"never\""));
        }
        reply(200, &headers, format!("{caller}|{flavour}|{}|{number}", seen.target))
    })
    .await;
    let armiger = caching(&backend, "{vary_by: [\"header:x-caller\"]}").await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut connection = armiger.connect().await;
    // The least number that an answer may have after a purge of all.
    let mut least = 0;
    let mut latest = 0;
    for _ in 0..600 {
        let target = format!("/{}", random.u8(..3));
        let (caller, flavour) = (format!("c{}", random.u8(..4)), format!("f{}", random.u8(..3)));
        if random.u8(..40) == 0 {
            let purged = armiger.admin().post("/cache/purge", json!({"all": true}).to_string()).await;
            purged.assert_status(200);
            least = latest + 1;
        }
        let headers = [("x-caller", caller.as_str()), ("x-flavour", flavour.as_str())];
        let response = connection.request(request("GET", &target, &headers)).await;
        let parts: Vec<&str> = response.text().split('|').collect();
        assert_eq!(parts[..3], [&*caller, &*flavour, &*target], "{}", status(&response));
        let number: usize = parts[3].parse().unwrap();
        assert!(number >= least, "{number} is from before the purge at {least}");
        latest = latest.max(number);
    }
    assert!(backend.count() < 600, "nothing was ever stored");
}

#[tokio::test]
async fn cookies_are_stored_for_nobody() {
    let backend = Backend::counting(&[("cache-control", "max-age=60"), ("set-cookie", "session=secret")]).await;
    let armiger = caching(&backend, "{strip_set_cookie: true}").await;
    for _ in 0..2 {
        let response = armiger.get("/").await;
        response.assert_no_header("set-cookie");
        assert_eq!(response.text(), "1");
    }
}
