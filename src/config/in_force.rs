//! What is in force where the user wrote nothing: for operators, who see it at `/config`.

use super::Document;
use super::discovery::Dns;
use super::identity::Provider;
use super::route::{Defaults, Host, Respond, Route};
use super::upstream::Upstream;
use super::value::{ByteSize, HumanDuration, Setting, Statuses};

impl<P: Clone> Document<P> {
    /// The document with what holds in the place of what was left out. `policies` tells those of a route.
    ///
    /// Left out stays what is off, and what is another one for each endpoint, caller or answer.
    #[must_use]
    pub fn in_force(&self, policies: impl Fn(&P, &P) -> P) -> Self {
        let mut document = self.clone();
        for listener in &mut document.listeners {
            let value_max = listener.limits.header_value_bytes();
            listener.limits.header_value_bytes_max = Some(ByteSize::bytes(value_max));
            listener.forwarded = Some(listener.writes_forwarded());
        }
        document.upstreams.values_mut().for_each(Upstream::fill);
        document.identity.values_mut().for_each(Provider::fill);
        if document.dns.servers.is_empty() {
            document.dns.servers.push(Dns::SYSTEM.into());
        }
        document.cache.memory = Some(document.cache.memory());
        let defaults = &mut document.defaults;
        defaults.timeout = Some(defaults.timeout());
        defaults.policies = policies(&defaults.policies, &defaults.policies);
        for route in &mut document.routes {
            route.policies = policies(&route.policies, &defaults.policies);
            route.fill(defaults);
        }
        document
    }
}

impl Upstream {
    fn fill(&mut self) {
        if self.tls.is_none() && self.endpoints.iter().any(|endpoint| is_secured(endpoint)) {
            self.tls = Some(Default::default());
        }
        if let Some(retry) = &mut self.retry {
            retry.per_try.get_or_insert(self.timeouts.first_byte);
        }
    }
}

impl Provider {
    fn fill(&mut self) {
        if let Some(jwt) = &mut self.jwt {
            if jwt.algorithms.is_empty() {
                jwt.algorithms = jwt.algorithms_of_keys();
            }
            let is_of_issuer = jwt.keys.discover && is_secured(&jwt.issuer);
            if is_of_issuer || jwt.keys.jwks_url.as_deref().is_some_and(is_secured) {
                jwt.keys.tls.get_or_insert_default();
            }
        }
        if let Some(asked) = &mut self.introspection {
            asked.scopes_claim = Some(asked.scopes_claim().to_owned());
            if is_secured(&asked.url) {
                asked.tls.get_or_insert_default();
            }
        }
    }
}

fn is_secured(endpoint: &str) -> bool {
    let url = endpoint.strip_prefix("dns:").unwrap_or(endpoint);
    url.get(.."https://".len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

impl<P> Route<P> {
    fn fill(&mut self, defaults: &Defaults<P>) {
        let timeout = self.timeout(defaults);
        self.timeout = Some(timeout);
        self.deadline_header = self.deadline_header(defaults).map(str::to_owned);
        if let Some(proxy) = &mut self.proxy {
            proxy.host.get_or_insert(Host::default());
            if let Some(respond) = proxy.fallback.as_mut().and_then(|fallback| fallback.respond.as_mut()) {
                respond.fill();
            }
        }
        if let Some(respond) = &mut self.respond {
            respond.fill();
        }
        if let Some(aggregate) = &mut self.aggregate {
            let deadline = HumanDuration::rounded(aggregate.deadline(timeout.get()));
            aggregate.deadline = Some(deadline);
            let forward = aggregate.forward().to_vec();
            for (_, part) in aggregate.parts.iter_mut() {
                part.forward.get_or_insert_with(|| forward.clone());
                part.timeout.get_or_insert(deadline);
                accept(&mut part.accept, &[]);
            }
            aggregate.forward = Some(forward);
        }
        if let Some(batch) = &mut self.batch {
            batch.deadline = Some(HumanDuration::rounded(batch.deadline(timeout.get())));
        }
        if let Some(saga) = &mut self.saga_in_memory {
            let deadline = HumanDuration::rounded(saga.deadline(timeout.get()));
            saga.deadline = Some(deadline);
            for (_, step) in saga.steps.iter_mut() {
                let forward = step.forward.get_or_insert_with(|| saga.forward.clone());
                step.timeout.get_or_insert(deadline);
                accept(&mut step.accept, &[]);
                if let Setting::On(undo) = &mut step.compensate {
                    undo.upstream.get_or_insert_with(|| step.upstream.clone());
                    undo.forward.get_or_insert_with(|| forward.clone());
                    accept(&mut undo.accept, &[404, 410]);
                }
            }
        }
    }
}

/// Writes which statuses are good where none is named: those of success, and `more`.
fn accept(accept: &mut Vec<Statuses>, more: &[u16]) {
    if accept.is_empty() {
        accept.push(Statuses::SUCCESS);
        accept.extend(more.iter().copied().map(Statuses::one));
    }
}

impl Respond {
    fn fill(&mut self) {
        let is_said = self.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"));
        if !self.body.is_empty() && !is_said {
            self.content_type.get_or_insert_with(|| Self::CONTENT_TYPE.into());
        }
    }
}
