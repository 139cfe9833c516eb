//! Words of other proxies, and what the same is called here.

pub(crate) mod keys;
pub(crate) mod values;
mod variables;

use std::net::Ipv4Addr;

use ipnet::IpNet;

pub(crate) use keys::{key, name};
pub(crate) use values::{alone, by_name, listed, value, whole};
pub(crate) use variables::{in_header, in_path};

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_text_is_written_so_that_yaml_reads_it_as_it_is() {
        for (text, expected) in
            [("a", "a"), ("*", "\"*\""), ("a: b", "\"a: b\""), ("10.0.0.0/8", "10.0.0.0/8"), ("", "\"\"")]
        {
            assert_eq!(quoted(text), expected);
        }
    }
}
