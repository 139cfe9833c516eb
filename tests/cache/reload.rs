//! What outlives a reload.

use super::*;

#[tokio::test]
async fn what_is_stored_outlives_a_reload_unless_keys_mean_something_else() {
    let backend = Backend::counting(&[("cache-control", "max-age=60")]).await;
    let yaml = |policy: &str| Config::to(&backend).policies(&format!("cache: {policy}")).to_string();
    let files = Files::of(yaml("{}"));
    let armiger = Armiger::watching(files.config().into()).await;
    let get = async || get(&armiger, "/a", &[("host", "h.test")]).await.text().to_owned();
    assert_eq!(get().await, "1");

    files.replace("config.yaml", yaml("{stale_if_error: 5m, ttl: {max: 1h}}"));
    armiger.in_force(2).await;
    assert_eq!(get().await, "1");
    files.replace("config.yaml", yaml("{query: {sort: true}}"));
    armiger.in_force(3).await;
    assert_eq!(get().await, "2");
    let told = armiger.status().await.to_string();
    assert!(told.contains("reset"), "{told}");
}

/// A variant has the values of headers one after the other: read by other names it would show one as another.
#[tokio::test]
async fn a_look_after_a_reload_that_withholds_a_header_shows_no_value_of_it() {
    let reply_headers = [("cache-control", "max-age=60, public"), ("vary", "cookie, origin")];
    let backend = Backend::with(move |_| reply(200, &reply_headers, "x")).await;
    let yaml =
        |more: &str| Config::to(&backend).policies(&format!("cache: {{shared_across_users: true}}{more}")).to_string();
    let files = Files::of(yaml(""));
    let armiger = Armiger::watching(files.config().into()).await;
    get(&armiger, "/a", &[("cookie", "sid=s3cret"), ("origin", "https://a.test")]).await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;
    let look = async || armiger.admin().get("/cache/lookup?url=/a").await.assert_status(200).text().to_owned();
    assert!(look().await.contains("https://a.test"));

    files.replace("config.yaml", yaml("\nheaders: {request: {remove: [cookie]}}"));
    armiger.in_force(2).await;

    let told = look().await;
    assert!(!told.contains("s3cret"), "{told}");
    let status = armiger.status().await.to_string();
    assert!(status.contains("headers withheld from the upstream"), "{status}");
}

#[tokio::test]
async fn what_was_stored_for_all_is_gone_when_it_is_for_each() {
    let backend = Backend::counting(&[("cache-control", "max-age=60")]).await;
    let yaml = |policy: &str| Config::to(&backend).policies(&format!("cache: {policy}")).to_string();
    let files = Files::of(yaml("{shared_across_users: true}"));
    let armiger = Armiger::watching(files.config().into()).await;
    let headers = [("host", "h.test"), ("authorization", "Bearer a")];
    assert_eq!(get(&armiger, "/a", &headers).await.text(), "1");
    assert_eq!(get(&armiger, "/a", &headers).await.text(), "1");

    files.replace("config.yaml", yaml("{}"));
    armiger.in_force(2).await;
    assert_eq!(get(&armiger, "/a", &[("host", "h.test")]).await.text(), "2");
}

/// Answers what is asked for safely, with how often it was written, and what is not only upon the signal.
async fn written(go: &Signal) -> Backend {
    let (wait, writes) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    Backend::serving(move |asked| {
        let (go, writes) = (wait.clone(), writes.clone());
        async move {
            if asked.method() == Method::POST {
                go.wait().await;
                writes.fetch_add(1, Ordering::SeqCst);
            }
            reply(200, &[("cache-control", "max-age=600")], writes.load(Ordering::SeqCst).to_string())
        }
    })
    .await
}

/// What is stored by the new configuration was asked for before the write too.
#[tokio::test]
async fn an_unsafe_request_makes_invalid_what_is_stored_after_a_reload_too() {
    let host = [("host", "h")];
    for (section, policy) in [("cache: {memory: 80MiB}", "{}"), ("", "{query: {ignore: [b]}}")] {
        let go = Signal::new();
        let backend = written(&go).await;
        let files = Files::of(Config::to(&backend).policies("cache: {}").to_string());
        let armiger = Armiger::watching(files.config().into()).await;
        let write = armiger.raw("POST /a?b=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
        backend.arrived(1).await;
        let config = Config::to(&backend).top(section).policies(&format!("cache: {policy}"));
        files.replace("config.yaml", config.to_string());
        armiger.in_force(2).await;
        assert_eq!(get(&armiger, "/a?b=1", &host).await.text(), "0");
        assert!(status(&get(&armiger, "/a?b=1", &host).await).contains("hit"), "{section}{policy}");

        go.send();

        within("the write to count", async { while get(&armiger, "/a?b=1", &host).await.text() == "0" {} }).await;
        drop(write);
    }
}

/// Nobody knows which unsafe requests came while the route had no cache, or one that was not enforced.
#[tokio::test]
async fn what_was_stored_before_a_route_was_without_a_cache_is_not_used_after() {
    let backend = Backend::counting(&[("cache-control", "max-age=60")]).await;
    // Another route's, so that what is stored is kept.
    let other = "- {name: other, match: {path: /other}, policies: {cache: {}}, proxy: {upstream: app}}";
    let yaml = |policies: &str| {
        let route = format!(
            "- {{name: all, match: {{path: \"/{{rest...}}\"}}, policies: {{{policies}}}, proxy: {{upstream: app}}}}"
        );
        Config::to(&backend).routes(&format!("{other}\n{route}")).to_string()
    };
    for meanwhile in ["", "cache: {mode: shadow}", "cache: off"] {
        let files = Files::of(yaml("cache: {}"));
        let armiger = Armiger::watching(files.config().into()).await;
        let get = async || get(&armiger, "/a", &[("host", "h.test")]).await;
        let before = get().await.text().to_owned();
        assert_eq!(get().await.text(), before);

        files.replace("config.yaml", yaml(meanwhile));
        armiger.in_force(2).await;
        armiger.request(request("POST", "/a", &[("host", "h.test")])).await.assert_status(200);
        files.replace("config.yaml", yaml("cache: {}"));
        armiger.in_force(3).await;

        let after = get().await;
        assert_ne!(after.text(), before, "{meanwhile}: {after:?}");
        assert!(status(&get().await).contains("hit"), "{meanwhile}");
    }
}
