//! `grpc_web`: gRPC for web pages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guard, Policy, Scope, Stage};
use crate::config::value::Mode;
use crate::exchange::{Exchange, Rejection, Verdict};
use crate::http::body::Body;
use crate::http::grpc_web::{self, Base64, Call, Form};

/// Lets web pages call gRPC services: requests of gRPC-Web (`application/grpc-web` and `application/grpc-web-text`)
/// reach the service as gRPC, over HTTP/1.1 too, and are answered in the form that they ask for. What else comes is left
/// alone.
///
/// Refusals are answers of gRPC-Web as well. Deadlines (`grpc-timeout`), metrics and the log are as with gRPC.
///
/// Pages of another origin need `cors` beside it: `headers: [content-type, x-grpc-web, x-user-agent, grpc-timeout]` and
/// what else they send. The status stands in the body, so that `expose` need only name metadata that pages read.
///
/// The trap: the upstream must speak HTTP/2 (`protocol: h2c` or `h2`). And a page can only stream towards itself: a
/// browser sends a request whole.
///
/// ```yaml
/// grpc_web: {}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "GrpcWeb")]
pub struct Config {
    /// Whether it is enforced. In `shadow` nothing is translated.
    pub mode: Mode,
}

/// What of it protects: nothing.
pub(super) const GUARDS: &[Guard] = &[Guard::gone("calls of web pages reach the service as they are")];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        scope.add(Stage::Always, self.mode, GrpcWeb);
    }
}

/// Translates calls of gRPC-Web.
pub struct GrpcWeb;

impl Policy for GrpcWeb {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let Some(call) = Call::of(exchange.headers()) else { return Ok(Verdict::Pass) };
        Ok(Verdict::amend_both(
            move |exchange| {
                grpc_web::translate(exchange.request.headers_mut());
                if let (Form::Text, Body::Received(received)) = (call.request, exchange.request.body_mut()) {
                    received.recode(Box::new(Base64::default()));
                }
            },
            move |response| grpc_web::answer(response, call.answer),
        ))
    }
}
