//! Variables that other proxies fill in, in texts that are sent as they stand.

use std::borrow::Cow;

use super::super::issue::quote;

/// A variable of another proxy in a text that is sent as it stands, and what to do about it.
pub(crate) fn in_path(text: &str) -> Option<(&str, String)> {
    const NGINX: [&str; 10] = [
        "request_uri",
        "uri",
        "host",
        "scheme",
        "args",
        "is_args",
        "query_string",
        "server_name",
        "document_uri",
        "http_host",
    ];
    const REMEDY: &str = "write the names of the route's path in braces, `{id}`, `{rest}`; the query is kept by itself";
    for (at, _) in text.match_indices('$') {
        let name = &text[at + 1..];
        let end = name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        let name = &name[..end];
        let is_group = !name.is_empty() && name.len() < 3 && name.bytes().all(|byte| byte.is_ascii_digit());
        if is_group || NGINX.contains(&name) {
            return Some((&text[at..=at + end], REMEDY.to_owned()));
        }
    }
    if let Some(at) = text.find("/:") {
        let name = &text[at + 2..];
        let end = name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        if name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Some((&text[at + 1..at + 2 + end], format!("write `{{{}}}`", &name[..end])));
        }
    }
    None
}

/// A value of a header as it is sent, with what armiger itself fills in still in it.
///
/// Variables of nginx, Envoy, HAProxy, Caddy and Go's templates would be sent as they are, which nobody means. Whoever does doubles
/// their first sign: `$$host` is `$host`. What is no variable anywhere stays what it is: `$5`, `100%`, `a$$b`.
///
/// # Errors
/// All such variables, each with what to do about it.
pub(crate) fn in_header(text: &str) -> Result<Cow<'_, str>, Vec<(String, String)>> {
    let scan = Scan::new(text);
    let (mut out, mut wrong) = (String::new(), Vec::new());
    // From where it is copied, and from where it is looked at.
    let (mut from, mut at) = (0, 0);
    while let Some(next) = text[at..].find(['$', '%', '{']).map(|more| at + more) {
        at = next + 1;
        let sign = &text[next..at];
        let doubled = text[at..].starts_with(sign).then(|| scan.variable(at)).flatten();
        match (doubled, scan.variable(next)) {
            // Of more than two, the first two are of no meaning together.
            (Some(inner), outer) if outer.as_ref().is_none_or(|outer| outer.length <= inner.length + 1) => {
                out.push_str(&text[from..next]);
                from = at;
                at += inner.length;
            }
            (_, Some(Variable { length, hint })) => {
                let written = &text[next..next + length];
                wrong.push((
                    format!("{} is no variable here", quote(written)),
                    format!("{hint}; as plain text, {}", quote(&format!("{sign}{written}"))),
                ));
                at = next + length;
            }
            (_, None) => {}
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if from == 0 {
        return Ok(text.into());
    }
    out.push_str(&text[from..]);
    Ok(out.into())
}

/// A variable of another proxy.
struct Variable {
    /// How many bytes it has.
    length: usize,
    hint: &'static str,
}

/// A text that is looked through once, with where its last closing signs are: what is never closed is not searched for again and
/// again.
struct Scan<'t> {
    text: &'t str,
    braces: usize,
    percent: usize,
    bracket: usize,
}

impl<'t> Scan<'t> {
    fn new(text: &'t str) -> Self {
        let last = |sign: &str| text.rfind(sign).unwrap_or(0);
        Self { text, braces: last("}}"), percent: last(")%"), bracket: last("]") }
    }

    /// The variable that begins at a place.
    fn variable(&self, at: usize) -> Option<Variable> {
        let rest = &self.text[at..];
        match rest.as_bytes() {
            [b'$', ..] => self.of_nginx(at, rest),
            [b'%', b'[', ..] => self.of_haproxy(at, rest),
            [b'%', ..] => self.of_envoy(at, rest),
            // `${…}` is armiger's own.
            [b'{', ..] if !self.text[..at].ends_with('$') => {
                self.of_templates(at, rest).or_else(|| self.of_caddy(rest))
            }
            _ => None,
        }
    }

    /// `$remote_addr`; and `$API_KEY` of shells, where it is all of the text.
    fn of_nginx(&self, at: usize, rest: &str) -> Option<Variable> {
        let name = word(&rest[1..], |c| c == '_' || c.is_ascii_alphanumeric());
        let is_whole = name.len() + 1 == rest.len() && matches!(&self.text[..at], "" | "$");
        let is_shouted = name.len() > 1 && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase());
        let hint = match is_whole && is_shouted {
            true => ENVIRONMENT,
            false => of_nginx(name)?,
        };
        Some(Variable { length: 1 + name.len(), hint })
    }

    /// `%REQ(X)%`, `%PROTOCOL%`.
    fn of_envoy(&self, at: usize, rest: &str) -> Option<Variable> {
        let name = word(&rest[1..], |c| c == '_' || c.is_ascii_uppercase());
        let hint = of_envoy(name)?;
        let after = &rest[1 + name.len()..];
        // Of these there is none without an argument.
        let needs_argument =
            matches!(name, "REQ" | "RESP" | "TRAILER" | "CEL" | "DYNAMIC_METADATA" | "FILTER_STATE" | "ENVIRONMENT");
        let length = match after.as_bytes() {
            [b'(', ..] if at < self.percent => 1 + name.len() + after.find(")%")? + 2,
            [b'%', ..] if !needs_argument => name.len() + 2,
            _ => return None,
        };
        Some(Variable { length, hint })
    }

    /// `%[src]`, `%[req.hdr(host),lower]`.
    fn of_haproxy(&self, at: usize, rest: &str) -> Option<Variable> {
        const PREFIXES: [&str; 22] = [
            "req.", "req_", "res.", "res_", "txn.", "http_", "ssl_", "fc_", "bc_", "be_", "fe_", "srv_", "sc_", "sc0_",
            "sc1_", "sc2_", "src_", "dst_", "path_", "url_", "capture.", "hdr_",
        ];
        const NAMES: [&str; 25] = [
            "src",
            "dst",
            "hdr",
            "fhdr",
            "shdr",
            "path",
            "pathq",
            "query",
            "url",
            "urlp",
            "method",
            "base",
            "cookie",
            "cook",
            "date",
            "rand",
            "uuid",
            "hostname",
            "unique-id",
            "var",
            "env",
            "str",
            "status",
            "nbsrv",
            "pid",
        ];
        let inner = &rest[2..];
        let name = word(inner, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        let is_known = NAMES.contains(&name) || PREFIXES.iter().any(|start| name.starts_with(start));
        let after = &inner[name.len()..];
        if !is_known || !after.starts_with([']', '(', ',']) || at >= self.bracket {
            return None;
        }
        let body = &inner[..inner.find(']')?];
        let argument =
            after.strip_prefix('(').and_then(|argument| argument.split([')', ',']).next()).unwrap_or_default();
        let is_host = argument.trim_matches(['"', '\'']).eq_ignore_ascii_case("host");
        let hint = match name {
            "src" => "write `${client.address}`",
            "method" => "write `${request.method}`",
            "path" => "write `${request.path}`",
            "unique-id" | "uuid" => "write `${request.id}`",
            "ssl_fc_sni" => "write `${request.host}`",
            "hdr" | "req.hdr" | "req.fhdr" | "fhdr" if is_host => "write `${request.host}`",
            _ => OTHERS,
        };
        Some(Variable { length: body.len() + 3, hint })
    }

    /// `{{ .Request.Host }}`.
    fn of_templates(&self, at: usize, rest: &str) -> Option<Variable> {
        if !rest.starts_with("{{") || at >= self.braces {
            return None;
        }
        let end = rest.find("}}")? + 2;
        // `{{{x}}}`
        let end = if rest.starts_with("{{{") && rest[end..].starts_with('}') { end + 1 } else { end };
        Some(Variable { length: end, hint: OTHERS })
    }

    /// `{http.request.host}`, `{remote_host}`. Short names that stand in templates of links too are left alone: `{id}`, `{path}`.
    fn of_caddy(&self, rest: &str) -> Option<Variable> {
        const PREFIXES: [&str; 9] =
            ["http.", "env.", "header.", "cookie.", "vars.", "system.", "tls_", "upstream_", "time.now"];
        let name = word(&rest[1..], |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '$' | '>' | ':'));
        if !rest[1 + name.len()..].starts_with('}') {
            return None;
        }
        let hint = match name {
            "remote_host" | "client_ip" | "http.request.remote.host" | "http.vars.client_ip" => {
                "write `${client.address}`"
            }
            "http.request.host" | "http.request.hostport" => "write `${request.host}`",
            "http.request.method" => "write `${request.method}`",
            "http.request.uri" => "write `${request.path}`, which is without the query",
            "http.request.uri.path" | "http.request.orig_uri.path" => "write `${request.path}`",
            "http.request.uuid" => "write `${request.id}`",
            "http.auth.user.id" => "write `${identity.subject}`",
            "http.request.scheme" => "leave it out: `X-Forwarded-Proto` is written for every upstream",
            "remote" | "remote_port" => OTHERS,
            _ if name.starts_with("env.") || name.starts_with('$') && name.len() > 1 => ENVIRONMENT,
            _ if PREFIXES.iter().any(|start| name.strip_prefix(start).is_some_and(|rest| !rest.is_empty())) => OTHERS,
            "time.now" => OTHERS,
            _ => return None,
        };
        Some(Variable { length: name.len() + 2, hint })
    }
}

/// What a text begins with, as far as its signs are of this kind.
fn word(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

/// What Envoy's command operators are called.
fn of_envoy(word: &str) -> Option<&'static str> {
    const PREFIXES: [&str; 9] =
        ["DOWNSTREAM_", "UPSTREAM_", "RESPONSE_", "REQUEST_", "REQ_", "RESP_", "BYTES_", "ROUTE_", "CONNECTION_"];
    Some(match word {
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => "write `${client.address}`",
        "DOWNSTREAM_REMOTE_ADDRESS" => "write `${client.address}`, which is without the port",
        "REQUESTED_SERVER_NAME" => "write `${request.host}`",
        "ROUTE_NAME" => "write `${route.name}`",
        "HOSTNAME" | "ENVIRONMENT" => ENVIRONMENT,
        "REQ" | "RESP" | "TRAILER" | "PROTOCOL" | "START_TIME" | "DURATION" | "DYNAMIC_METADATA" | "FILTER_STATE"
        | "PER_REQUEST_STATE" | "CEL" => OTHERS,
        _ if PREFIXES.iter().any(|start| word.strip_prefix(start).is_some_and(|rest| !rest.is_empty())) => OTHERS,
        _ => return None,
    })
}

const ENVIRONMENT: &str = "what comes from the environment is written `${env:NAME}`";

const OTHERS: &str = "there is none for it: filled in are `${client.address}`, `${request.host}`, `${path.NAME}`, `${claims.NAME}` and the like";

/// What nginx's variables are called.
fn of_nginx(name: &str) -> Option<&'static str> {
    const NAMES: &[(&str, &str)] = &[
        ("remote_addr", "write `${client.address}`"),
        ("realip_remote_addr", "write `${client.address}`"),
        ("binary_remote_addr", "write `${client.address}`"),
        ("proxy_add_x_forwarded_for", "leave it out: `X-Forwarded-For` is written for every upstream"),
        ("scheme", "leave it out: `X-Forwarded-Proto` is written for every upstream"),
        ("host", "write `${request.host}`"),
        ("http_host", "write `${request.host}`"),
        ("server_name", "write `${request.host}`"),
        ("uri", "write `${request.path}`"),
        ("document_uri", "write `${request.path}`"),
        ("request_uri", "write `${request.path}`, which is without the query"),
        ("request_method", "write `${request.method}`"),
        ("request_id", "write `${request.id}`"),
        ("remote_user", "write `${identity.subject}`"),
        ("remote_port", OTHERS),
        ("args", OTHERS),
        ("is_args", OTHERS),
        ("query_string", OTHERS),
        ("request", OTHERS),
        ("server_addr", OTHERS),
        ("server_port", OTHERS),
        ("server_protocol", OTHERS),
        ("status", OTHERS),
        ("hostname", OTHERS),
        ("time_local", OTHERS),
        ("time_iso8601", OTHERS),
        ("msec", OTHERS),
        ("connection", OTHERS),
        ("request_time", OTHERS),
        ("body_bytes_sent", OTHERS),
        ("bytes_sent", OTHERS),
        ("content_type", OTHERS),
        ("content_length", OTHERS),
    ];
    if let Some((_, ours)) = NAMES.iter().find(|(theirs, _)| *theirs == name) {
        return Some(ours);
    }
    let is_one = ["http_", "arg_", "cookie_", "upstream_", "ssl_", "sent_http_", "proxy_"]
        .iter()
        .any(|start| name.strip_prefix(start).is_some_and(|rest| !rest.is_empty()));
    is_one.then_some(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_in_headers_are_known() {
        for (text, found, hint) in [
            ("$remote_addr", "$remote_addr", "${client.address}"),
            ("for=$remote_addr;proto=https", "$remote_addr", "${client.address}"),
            ("$http_x_user", "$http_x_user", "${claims.NAME}"),
            (
                "%DOWNSTREAM_REMOTE_ADDRESS%",
                "%DOWNSTREAM_REMOTE_ADDRESS%",
                "`${client.address}`, which is without the port",
            ),
            (
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "`${client.address}`;",
            ),
            ("%PROTOCOL%", "%PROTOCOL%", "there is none for it"),
            ("a %REQ(:path)% b", "%REQ(:path)%", "${path.NAME}"),
            ("%REQUESTED_SERVER_NAME%", "%REQUESTED_SERVER_NAME%", "${request.host}"),
            ("%[src]", "%[src]", "${client.address}"),
            ("a=%[req.hdr(Host),lower];b", "%[req.hdr(Host),lower]", "${request.host}"),
            ("%[hdr(x)]", "%[hdr(x)]", "there is none for it"),
            ("{http.request.host}", "{http.request.host}", "${request.host}"),
            ("a {remote_host} b", "{remote_host}", "${client.address}"),
            ("{$HOME}", "{$HOME}", "${env:NAME}"),
            ("$API_KEY", "$API_KEY", "${env:NAME}"),
            ("{{http.request.host}}", "{{http.request.host}}", "there is none for it"),
            ("{{ .Host }}", "{{ .Host }}", "${request.host}"),
            ("{{{ .Host }}}", "{{{ .Host }}}", "${request.host}"),
            ("${{ .Host }}", "", ""),
        ] {
            let wrong = in_header(text).err().unwrap_or_default();
            assert_eq!(wrong.len(), usize::from(!found.is_empty()), "{text}: {wrong:?}");
            let (message, told) = wrong.into_iter().next().unwrap_or_default();
            assert!(message.contains(found) && told.contains(hint), "{text}: {message}, {told}");
        }
        let all = in_header("$host %[src] {remote_host} %REQ(a)% {{ b }} $http_c").unwrap_err();
        assert_eq!(all.len(), 6, "{all:?}");
    }

    #[test]
    fn what_is_no_variable_stays_as_it_is() {
        for text in [
            "$5",
            "$",
            "$B",
            "US $USD",
            "a$$b $$",
            "100%",
            "%",
            "%%",
            "50% of 100%",
            "%20A%20",
            "%PATH%",
            "%REQ(",
            "default-src /%CEL%/",
            "a-$b-$http_",
            "%[a-z]+",
            "%[src",
            "100%[1]",
            "{\"a\": {\"b\": 1}}",
            "[{\"a\":{}},{}]",
            "}} {{",
            "{",
            "</orders/{id}>; rel=item, <{path}>, {host}{?page}",
            "{http.}",
            "${client.address}",
            "$${http.request.host}",
        ] {
            assert_eq!(in_header(text).unwrap(), text);
        }
    }

    #[test]
    fn a_variable_whose_first_sign_is_doubled_is_a_text_and_the_remedy_says_so() {
        for (text, expected) in [
            ("$$host", "$host"),
            ("a $$$remote_addr b", "a $$remote_addr b"),
            ("%%REQ(X)% %%PROTOCOL%", "%REQ(X)% %PROTOCOL%"),
            ("%%[src]", "%[src]"),
            ("$$API_KEY", "$API_KEY"),
            ("{{http.request.host}", "{http.request.host}"),
            ("{{{ .Host }}", "{{ .Host }}"),
            ("$${path.id} $$uri", "$${path.id} $uri"),
        ] {
            assert_eq!(in_header(text).unwrap(), expected, "{text}");
        }
        for variable in ["$host", "%REQ(X)%", "%PROTOCOL%", "%[hdr(x)]", "{remote_host}", "{{ .Host }}"] {
            let wrong = in_header(variable).unwrap_err();
            let written = wrong[0].1.rsplit('`').nth(1).unwrap();
            assert_eq!(in_header(written).unwrap(), variable, "{wrong:?}");
        }
        assert!(in_header("$$host $host").is_err());
    }

    #[test]
    fn a_long_text_is_looked_through_once() {
        for piece in ["{", "{{", "%REQ(", "%[hdr(", "$$", "{{{ }}", "${", "{{a} "] {
            let text = piece.repeat(200_000);
            let _ = in_header(&text);
        }
    }

    #[test]
    fn variables_of_others_are_known_and_nothing_else_is() {
        for (text, found) in [
            ("/$1", Some("$1")),
            ("https://$host$request_uri", Some("$host")),
            ("/users/:id/x", Some(":id")),
            ("/$metadata", None),
            ("https://a.test/x", None),
            ("http://a:80/", None),
            ("/a/$100", None),
        ] {
            assert_eq!(in_path(text).map(|(variable, _)| variable), found, "{text}");
        }
    }
}
