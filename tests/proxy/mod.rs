//! Forwarding: what of a request reaches the back end, what of its answer reaches the client, and when.

mod connections;
mod ends;
mod forwarded;
mod hop;
mod local;
mod streaming;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame};

use crate::harness::{
    Answer, Armiger, Backend, Broken, Config, Connection, Reader, Script, Signal, answer, streamed, within,
};

/// A request without a body.
fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

/// An upstream `app` whose endpoints are these.
fn to_all(backends: &[&Backend]) -> Config {
    let urls: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    Config::to_url(&urls.join("\", \""))
}

fn with_headers(mut answer: Answer, headers: &[(&'static str, &'static str)]) -> Answer {
    for (name, value) in headers {
        answer.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    answer
}
