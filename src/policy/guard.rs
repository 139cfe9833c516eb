//! What of a block protects, and which change of it weakens the protection. For the report of a reload.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::http::forwarded::parse_network;

/// A setting that protects, and the change of it that weakens.
///
/// A setting without one is never said to weaken anything: only what is certain is said.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    /// Where it stands in its block, `request.remove`. `*` is any one key of a mapping of names, `[]` any entry of a list.
    /// Empty: the block itself.
    pub path: &'static str,
    /// Which change weakens.
    pub weaker: Weaker,
    /// What is so after that change. Goes on from "weakens protection: ".
    pub reason: &'static str,
}

/// A change that weakens.
#[derive(Clone, Copy, Debug)]
pub enum Weaker {
    /// It is there no more, switched off, or no longer enforced.
    Gone,
    /// A number, a size or a duration goes up.
    Higher,
    /// Another value, if this says so of the old one and the new one. A value that is not there is empty.
    When(fn(old: &str, new: &str) -> bool),
    /// A list of what is let through gets an entry that no old one covers.
    Grows(Uncovered),
    /// The same, of a list that lets everything through when it is empty.
    Allows(Uncovered),
    /// A list of what is meant is empty, or an entry of a mapping of conditions is there no more, and without one it is any.
    Any,
    /// A list of what is kept out loses an entry that no new one covers.
    Denies(Uncovered),
    /// A list or mapping loses a name, and the new block has it in none of these places either.
    Loses {
        /// Paths in the block, its own among them.
        among: &'static [&'static str],
        /// Whether it is about this name, in lower case.
        of: fn(&str) -> bool,
    },
    /// A list of mappings gets an entry that lets something through, by what stands under the key `lets`, or loses one
    /// that keeps something out, by `keeps`. Entries may have a `mode`.
    Entries {
        /// The key of what is let through.
        lets: &'static str,
        /// The key of what is kept out.
        keeps: &'static str,
    },
    /// Nothing is certain, but the order of this list has a meaning. Lists of single values are sets without it.
    Ordered,
}

/// Tells of each entry whether none of the others covers it: lets through, or keeps out, all that it does.
pub type Uncovered = fn(entries: &[&str], by: &[&str]) -> Vec<bool>;

impl Guard {
    /// For the block itself. Each policy has one.
    pub const fn gone(reason: &'static str) -> Self {
        Self::at("", Weaker::Gone, reason)
    }

    /// For a list in which the order counts.
    pub const fn ordered(path: &'static str) -> Self {
        Self::at(path, Weaker::Ordered, "")
    }

    /// Whether it is about this setting.
    pub fn is_at(&self, path: &str) -> bool {
        let mut steps = path.split('.');
        let mut wanted = self.path.split('.');
        loop {
            match (wanted.next(), steps.next()) {
                (None, None) => return true,
                (Some(one), Some(step)) if one == step || one == "*" => {}
                _ => return false,
            }
        }
    }

    /// For a setting of the block.
    pub const fn at(path: &'static str, weaker: Weaker, reason: &'static str) -> Self {
        Self { path, weaker, reason }
    }
}

/// [`Uncovered`] of networks and addresses.
pub fn networks(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let by: Vec<IpNet> = by.iter().filter_map(|text| parse_network(text).ok()).collect();
    let by: HashSet<IpNet> = IpNet::aggregate(&by).into_iter().collect();
    let covered = |network: IpNet| std::iter::successors(Some(network), IpNet::supernet).any(|one| by.contains(&one));
    entries.iter().map(|text| parse_network(text).is_ok_and(|network| !covered(network))).collect()
}

/// The same of those who are believed: `unix`, who have no address, are in no network.
pub fn peers(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let uncovered = networks(entries, by).into_iter();
    let of = |(entry, uncovered): (&&str, bool)| if *entry == "unix" { !by.contains(entry) } else { uncovered };
    entries.iter().zip(uncovered).map(of).collect()
}

/// [`Uncovered`] of names in which case does not count, and of which `*` stands for any.
pub fn names(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let by: HashSet<String> = by.iter().map(|name| name.to_ascii_lowercase()).collect();
    entries.iter().map(|name| !by.contains("*") && !by.contains(&name.to_ascii_lowercase())).collect()
}

/// [`Uncovered`] of names that count byte for byte.
pub fn exact(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let by: HashSet<&str> = by.iter().copied().collect();
    entries.iter().map(|name| !by.contains(name)).collect()
}

/// [`Uncovered`] of names that count byte for byte, and of which `*` at the end stands for any rest.
pub fn beginnings(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let covers = |known: &str, name: &str| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => known == name,
    };
    entries.iter().map(|name| !by.iter().any(|known| covers(known, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_covered_by_a_wider_one_and_by_parts_that_make_it_up() {
        for (entry, by, uncovered) in [
            ("10.1.0.0/16", &["10.0.0.0/8"][..], false),
            ("10.0.0.0/8", &["10.1.0.0/16"], true),
            ("10.0.0.0/8", &["10.0.0.0/9", "10.128.0.0/9"], false),
            ("10.0.0.1", &["10.0.0.1/32"], false),
            ("0.0.0.0/0", &["0.0.0.0/0"], false),
            ("::1", &["0.0.0.0/0"], true),
            ("::1", &["::/0"], false),
            ("10.0.0.1", &[], true),
        ] {
            assert_eq!(networks(&[entry], by), [uncovered], "{entry} by {by:?}");
            assert_eq!(peers(&[entry], by), [uncovered], "{entry} by {by:?}");
        }
        assert_eq!(peers(&["unix", "10.0.0.1"], &["0.0.0.0/0"]), [true, false]);
        assert_eq!(peers(&["unix"], &["::/0", "unix"]), [false]);
    }

    #[test]
    fn a_name_is_covered_in_any_case_and_by_a_star() {
        assert_eq!(names(&["GET", "PUT"], &["get"]), [false, true]);
        assert_eq!(names(&["x-a", "*"], &["*"]), [false, false]);
        assert_eq!(names(&["*"], &["x-a"]), [true]);
    }

    #[test]
    fn names_of_callers_count_byte_for_byte_and_a_star_covers_what_begins_so() {
        assert_eq!(exact(&["a", "A"], &["a"]), [false, true]);
        let (mesh, one) = ("spiffe://a/*", "spiffe://a/b");
        for (entry, by, uncovered) in [
            (one, &[mesh][..], false),
            (mesh, &[one], true),
            (mesh, &["spiffe://*"], false),
            (one, &[one], false),
            (one, &["spiffe://a/B"], true),
            (one, &[], true),
        ] {
            assert_eq!(beginnings(&[entry], by), [uncovered], "{entry} by {by:?}");
        }
    }
}
