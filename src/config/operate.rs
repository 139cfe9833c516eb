//! `admin`, `probes`, `drain` and `log`: how armiger is operated.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::value::{HumanDuration, Secret};
use super::yaml::with_hint;

/// The listener for operators: probes, metrics, what is in force and how it fares, `POST /reload`, `POST /drain`. Each
/// page stands in `docs/admin.md`. Changes with a reload.
///
/// ```yaml
/// admin: {address: "unix:/run/armiger/admin.sock"}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `IP:port`, or `unix:` and the absolute path of a socket, whose folder must be there.
    ///
    /// The trap: whoever reaches it sees the configuration and may end armiger. So other addresses than loopback serve
    /// nothing that changes anything unless there is a `token`.
    pub address: AdminAddress,
    /// Who may connect to a `unix:` socket, besides root.
    pub socket_access: SocketAccess,
    /// What `Authorization: Bearer …` must hold, at least 16 bytes. Asked for everything but `/livez` and `/readyz`.
    /// Default: nothing is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: AdminAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
            socket_access: SocketAccess::default(),
            token: None,
        }
    }
}

/// Who may connect to a socket that is a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SocketAccess {
    /// The user that armiger runs as: mode 0600.
    #[default]
    Owner,
    /// Also this user's group: mode 0660.
    Group,
}

impl SocketAccess {
    /// The mode of the file.
    pub fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }
}

/// Where a listener is, for operators or for clients: `127.0.0.1:8080`, or `unix:/run/armiger.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AdminAddress {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A socket that is a file.
    Unix(PathBuf),
}

/// The longest path that a socket may have: `sun_path` has 108 bytes, of which one ends it (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

impl AdminAddress {
    /// Reads either form. An error holds a remedy, as [`with_hint`] puts it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("unix:") else {
            // In the words of the standard library, which the decoder makes clearer.
            return text.parse().map(Self::Tcp).map_err(|error: std::net::AddrParseError| error.to_string());
        };
        if !path.starts_with('/') || path.ends_with('/') {
            let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("armiger.sock");
            return Err(with_hint(
                format!("`unix:{path}` names no file from the root on"),
                format!("write the whole path: `unix:/run/armiger/{name}`"),
            ));
        }
        if path.len() > SOCKET_PATH_MAX || path.contains('\0') {
            return Err(with_hint(
                format!("a socket cannot have this path of {} bytes", path.len()),
                format!("the most is {SOCKET_PATH_MAX}: choose a shorter folder"),
            ));
        }
        Ok(Self::Unix(path.into()))
    }

    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the socket, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Whether other machines may reach it.
    pub fn is_exposed(&self) -> bool {
        self.tcp().is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Whether not both can be bound: the same, or one of them every address of a port that both have. Port 0 takes a
    /// free one each time.
    pub fn clashes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                let is_any = |ip: IpAddr| ip.is_unspecified();
                one.port() == other.port()
                    && one.port() != 0
                    && (one.ip().to_canonical() == other.ip().to_canonical() || is_any(one.ip()) || is_any(other.ip()))
            }
            (one, other) => one == other,
        }
    }
}

impl Display for AdminAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for AdminAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl Serialize for AdminAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AdminAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = AdminAddress;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as `127.0.0.1:8080` or `unix:/run/armiger.sock`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AdminAddress, E> {
                AdminAddress::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for AdminAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AdminAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8080", "unix:/run/armiger.sock"] })
    }
}

/// A listener that has nothing but `/livez`, `/readyz` and `/metrics`, and asks for no token, so that a kubelet and
/// Prometheus reach them while `admin` stays on loopback. Changes with a reload.
///
/// ```yaml
/// probes: {address: 0.0.0.0:9902}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probes {
    /// `IP:port`, such as `0.0.0.0:9902`.
    pub address: SocketAddr,
}

/// How armiger ends on SIGTERM, Ctrl-C or `POST /drain`, so that no request is lost.
///
/// In order: `/readyz` fails at once; for `delay` connections are still accepted, while every answer asks its client to
/// close (`Connection: close`, GOAWAY); then listeners close, and what is in flight may finish within `timeout`; what is
/// left is cut and logged. A second signal cuts at once.
///
/// ```yaml
/// drain: {delay: 5s, timeout: 25s}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long connections are still accepted: the time that load balancers need to learn that armiger goes. `0s`
    /// where nobody has to learn it.
    ///
    /// The trap: Kubernetes kills a pod `terminationGracePeriodSeconds` after it began to end, and that is 30 s unless
    /// told otherwise: set it to at least `delay` + `timeout` + 5 s.
    pub delay: HumanDuration,
    /// How long requests in flight may take after that.
    pub timeout: HumanDuration,
    /// Exit with code 3 if anything had to be cut. `false`: with 0 all the same.
    pub strict: bool,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: HumanDuration::seconds(5), timeout: HumanDuration::seconds(25), strict: true }
    }
}

/// armiger's own messages, on standard error. Not the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What to show. Changes with a reload. `--log-level` (or `ARMIGER_LOG_LEVEL`), if given, overrules it.
    pub level: LogLevel,
}

/// What of armiger's own messages to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What needs somebody's attention now.
    Error,
    /// Also what may need it later.
    Warn,
    /// Also what an operator did: starts, reloads, drains.
    #[default]
    Info,
    /// Also each connection that broke.
    Debug,
    /// Everything.
    Trace,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_tcp_or_a_file() {
        for (text, is_exposed) in [
            ("127.0.0.1:9901", false),
            ("[::1]:9901", false),
            ("127.8.8.8:1", false),
            ("0.0.0.0:9901", true),
            ("[::]:9901", true),
            ("10.0.0.1:0", true),
            ("unix:/run/armiger/admin.sock", false),
        ] {
            let address = AdminAddress::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_exposed()), (text, is_exposed));
        }
        assert!(!AdminAddress::parse("[::ffff:127.0.0.1]:1").unwrap().is_exposed());
    }

    #[test]
    fn a_wrong_admin_address_says_what_to_write() {
        for (text, said) in [
            ("unix:admin.sock", "names no file from the root on"),
            ("unix:/run/", "names no file from the root on"),
            ("unix:", "names no file"),
            ("localhost:9901", "invalid socket address"),
            ("/run/admin.sock", "invalid socket address"),
        ] {
            let error = AdminAddress::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_MAX));
        assert!(AdminAddress::parse(&long).unwrap_err().contains("the most is 107"));
        assert!(AdminAddress::parse(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn addresses_clash_when_one_port_is_wanted_twice() {
        for (one, other, clash) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:1", false),
        ] {
            let (one, other) = (AdminAddress::parse(one).unwrap(), AdminAddress::parse(other).unwrap());
            assert_eq!((one.clashes(&other), other.clashes(&one)), (clash, clash), "{one} {other}");
        }
    }
}
