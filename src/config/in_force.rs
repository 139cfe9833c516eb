//! What is in force where the user wrote nothing: for operators, who see it at `/config`.

use super::Document;
use super::identity::Provider;
use super::route::{Defaults, Host, Respond, Route};
use super::upstream::Upstream;
use super::value::{ByteSize, HumanDuration, Setting};

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
        for asked in document.identity.values_mut().filter_map(|Provider { introspection, .. }| introspection.as_mut())
        {
            asked.scopes_claim = Some(asked.scopes_claim().to_owned());
        }
        let defaults = &mut document.defaults;
        defaults.timeout = Some(defaults.timeout());
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
            aggregate.deadline = Some(HumanDuration::rounded(aggregate.deadline(timeout.get())));
            let forward = aggregate.forward().to_vec();
            for (_, part) in aggregate.parts.iter_mut() {
                part.forward.get_or_insert_with(|| forward.clone());
            }
            aggregate.forward = Some(forward);
        }
        if let Some(batch) = &mut self.batch {
            batch.deadline = Some(HumanDuration::rounded(batch.deadline(timeout.get())));
        }
        if let Some(saga) = &mut self.saga_in_memory {
            saga.deadline = Some(HumanDuration::rounded(saga.deadline(timeout.get())));
            for (_, step) in saga.steps.iter_mut() {
                let forward = step.forward.get_or_insert_with(|| saga.forward.clone());
                if let Setting::On(undo) = &mut step.compensate {
                    undo.upstream.get_or_insert_with(|| step.upstream.clone());
                    undo.forward.get_or_insert_with(|| forward.clone());
                }
            }
        }
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
