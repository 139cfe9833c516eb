//! The cache: what is stored and for whom, what is asked anew, who waits for whom, and what operators do with it.

mod callers;
mod crowd;
mod invalidation;
mod operators;
mod reload;
mod rules;
mod stale;
mod stories;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{
    Answer, Armiger, Backend, Config, Connection, Files, Response, SECRET_YAML, Signal, Signer, answer, claims,
    streamed, within,
};

type Headers<'h> = &'h [(&'h str, &'h str)];

const AUTH: Headers<'static> = &[("authorization", "Basic YTpi")];
const KEPT: Headers<'static> = &[("cache-control", "max-age=60")];
const FRESH: Headers<'static> = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];

fn request(method: &str, target: &str, headers: Headers<'_>) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

async fn get(armiger: &Armiger, target: &str, headers: Headers<'_>) -> Response {
    armiger.request(request("GET", target, headers)).await
}

fn reply(status: u16, headers: Headers<'_>, body: impl Into<Bytes>) -> Answer {
    let mut reply = answer(status, body);
    for (name, value) in headers {
        reply.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    reply
}

/// Answers by their numbers, those that are to wait upon the signal.
async fn numbered(go: &Signal, waits: fn(usize) -> bool, answer: fn(usize) -> Answer) -> Backend {
    let (go, count) = (go.clone(), AtomicUsize::new(0));
    Backend::serving(move |_| {
        let (go, number) = (go.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if waits(number) {
                go.wait().await;
            }
            answer(number)
        }
    })
    .await
}

async fn caching(backend: &Backend, policy: &str) -> Armiger {
    Armiger::with(Config::to(backend).policies(&format!("cache: {policy}"))).await
}

fn status(response: &Response) -> String {
    response.headers.get("cache-status").map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}
