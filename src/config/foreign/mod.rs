//! Words of other proxies, and what the same is called here.

pub(crate) mod keys;
pub(crate) mod values;

use std::net::Ipv4Addr;

use ipnet::IpNet;

pub(crate) use keys::{key, name};
pub(crate) use values::{alone, by_name, listed, value, whole};

/// A text as it stands in YAML, within braces too: in quotes where it would be something else without them.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_alphanumeric() || matches!(first, '/' | '.' | '_' | '$'))
        && !text.contains([',', '[', ']', '{', '}', '"', '\\', '#', '\''])
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !text.contains(char::is_control);
    if is_plain { text.to_owned() } else { format!("\"{}\"", text.escape_debug()) }
}

/// What network a text is meant as that is none: `all`, `10.0.0.1/8`, `10.0.0.*`.
pub(crate) fn network_meant(text: &str) -> Option<String> {
    const ANY: [&str; 7] = ["all", "any", "*", "everyone", "everybody", "world", "0/0"];
    const PRIVATE: [&str; 4] = ["private", "private_ranges", "internal", "rfc1918"];
    let lower = text.to_lowercase();
    if ANY.contains(&lower.as_str()) {
        return Some("write `0.0.0.0/0` for all IPv4 addresses and `::/0` for all of IPv6".to_owned());
    }
    if PRIVATE.contains(&lower.as_str()) {
        return Some("write them out: `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`, `fc00::/7`".to_owned());
    }
    if lower == "localhost" {
        return Some("write `127.0.0.0/8` and `::1`: names are not looked up here".to_owned());
    }
    if let Ok(network) = text.parse::<IpNet>() {
        let whole = network.trunc();
        return Some(format!("write `{whole}` for the network, or `{}` for the address alone", network.addr()));
    }
    if let Some((address, mask)) = text.split_once('/')
        && let (Ok(address), Ok(mask)) = (address.parse::<Ipv4Addr>(), mask.parse::<Ipv4Addr>())
        && u32::from(mask).leading_ones() == u32::from(mask).count_ones()
    {
        let network = u32::from(address) & u32::from(mask);
        return Some(format!("write `{}/{}`", Ipv4Addr::from(network), u32::from(mask).leading_ones()));
    }
    // `10.0.0.*`, `10.0.0.`, `10.0`
    let parts: Vec<&str> = text.trim_end_matches(['*', '.']).split('.').collect();
    let bytes: Option<Vec<u8>> = parts.iter().map(|part| part.parse().ok()).collect();
    if let Some(bytes) = bytes.filter(|bytes| (1..=3).contains(&bytes.len()) && text.contains('.')) {
        let mut all = [0; 4];
        all[..bytes.len()].copy_from_slice(&bytes);
        return Some(format!("write `{}/{}`", Ipv4Addr::from(all), bytes.len() * 8));
    }
    let (from, to) = text.split_once('-')?;
    (from.trim().parse::<Ipv4Addr>().is_ok() && !to.is_empty()).then(|| {
        "a range has no form of its own: write the networks that it consists of, such as `10.0.0.0/29`".to_owned()
    })
}

/// A variable of another proxy in a text that is sent as it stands, and what to do about it.
pub(crate) fn variable(text: &str) -> Option<(&str, String)> {
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

/// What a value that is filled in by other proxies is called here: `$remote_addr` of nginx, `%REQ(X)%` of Envoy, `{{ .Request }}`
/// of Go's templates, and what `${…}` says it. What is no variable anywhere stays what it is: `$5`, `100%`.
pub(crate) fn header_variable(text: &str) -> Option<(&str, String)> {
    for (at, _) in text.match_indices('$') {
        let name = &text[at + 1..];
        let end = name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        if let Some(hint) = of_nginx(&name[..end]) {
            return Some((&text[at..=at + end], hint));
        }
    }
    for (at, _) in text.match_indices('%') {
        let name = &text[at + 1..];
        let end = name.find(|c: char| c != '_' && !c.is_ascii_uppercase()).unwrap_or(name.len());
        let (word, rest) = name.split_at(end);
        let close = match rest.strip_prefix('(') {
            Some(inner) => inner.find(")%").map(|close| end + close + 3),
            None => rest.starts_with('%').then_some(end + 1),
        };
        // Of these there is none without an argument.
        let needs_argument =
            matches!(word, "REQ" | "RESP" | "TRAILER" | "CEL" | "DYNAMIC_METADATA" | "FILTER_STATE" | "ENVIRONMENT");
        if let Some(close) = close.filter(|_| !needs_argument || rest.starts_with('('))
            && let Some(hint) = of_envoy(word)
        {
            return Some((&text[at..=at + close], hint));
        }
    }
    let (open, close) = (text.find("{{")?, text.find("}}")?);
    (open < close).then(|| (&text[open..close + 2], OTHERS.to_owned()))
}

/// What Envoy's command operators are called.
fn of_envoy(word: &str) -> Option<String> {
    let hint = match word {
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => "write `${client.address}`",
        "REQUESTED_SERVER_NAME" => "write `${request.host}`",
        "REQ" | "RESP" | "TRAILER" | "PROTOCOL" | "START_TIME" | "DURATION" | "HOSTNAME" | "DYNAMIC_METADATA"
        | "FILTER_STATE" | "ENVIRONMENT" | "PER_REQUEST_STATE" | "CEL" => OTHERS,
        _ if [
            "DOWNSTREAM_",
            "UPSTREAM_",
            "RESPONSE_",
            "REQUEST_",
            "REQ_",
            "RESP_",
            "BYTES_",
            "ROUTE_",
            "CONNECTION_",
        ]
        .iter()
        .any(|start| word.strip_prefix(start).is_some_and(|rest| !rest.is_empty())) =>
        {
            OTHERS
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

const OTHERS: &str = "values are filled in as `${client.address}`, `${request.host}`, `${path.NAME}`, `${claims.NAME}`";

/// What nginx's variables, and HAProxy's and Caddy's of like names, are called.
fn of_nginx(name: &str) -> Option<String> {
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
        return Some((*ours).to_owned());
    }
    let is_one = ["http_", "arg_", "cookie_", "upstream_", "ssl_", "sent_http_", "proxy_"]
        .iter()
        .any(|start| name.strip_prefix(start).is_some_and(|rest| !rest.is_empty()));
    is_one.then(|| OTHERS.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_in_headers_are_known_and_what_is_none_stays() {
        for (text, found, hint) in [
            ("$remote_addr", "$remote_addr", "${client.address}"),
            ("for=$remote_addr;proto=https", "$remote_addr", "${client.address}"),
            ("$http_x_user", "$http_x_user", "${claims.NAME}"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "%DOWNSTREAM_REMOTE_ADDRESS%", "${client.address}"),
            ("a %REQ(:path)% b", "%REQ(:path)%", "${path.NAME}"),
            ("%REQUESTED_SERVER_NAME%", "%REQUESTED_SERVER_NAME%", "${request.host}"),
            ("{{ .Host }}", "{{ .Host }}", "${request.host}"),
            ("$5", "", ""),
            ("$", "", ""),
            ("100%", "", ""),
            ("%", "", ""),
            ("50% of 100%", "", ""),
            ("%20A%20", "", ""),
            ("%PATH%", "", ""),
            ("default-src /%CEL%/", "", ""),
            ("a-$b-$http_", "", ""),
            ("{\"a\": {\"b\": 1}}", "", ""),
            ("}} {{", "", ""),
            ("${client.address}", "", ""),
        ] {
            let (variable, told) = header_variable(text).unwrap_or_default();
            assert_eq!(variable, found, "{text}");
            assert!(told.contains(hint), "{text}: {told}");
        }
    }

    #[test]
    fn the_network_that_was_meant_is_told() {
        for (text, expected) in [
            ("all", "`0.0.0.0/0`"),
            ("10.0.0.1/8", "`10.0.0.0/8` for the network, or `10.0.0.1`"),
            ("10.1.2.3/255.255.0.0", "`10.1.0.0/16`"),
            ("10.1.2.*", "`10.1.2.0/24`"),
            ("10.1", "`10.1.0.0/16`"),
            ("fd00::1/8", "`fd00::/8`"),
            ("10.0.0.1-10.0.0.9", "a range"),
            ("localhost", "`127.0.0.0/8`"),
        ] {
            let hint = network_meant(text).unwrap_or_default();
            assert!(hint.contains(expected), "{text}: {hint}");
        }
        for none in ["", "office", "a-b", "300.1", "10"] {
            assert_eq!(network_meant(none), None, "{none}");
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
            assert_eq!(variable(text).map(|(variable, _)| variable), found, "{text}");
        }
    }

    #[test]
    fn a_text_is_written_so_that_yaml_reads_it_as_it_is() {
        for (text, expected) in
            [("a", "a"), ("*", "\"*\""), ("a: b", "\"a: b\""), ("10.0.0.0/8", "10.0.0.0/8"), ("", "\"\"")]
        {
            assert_eq!(quoted(text), expected);
        }
    }
}
