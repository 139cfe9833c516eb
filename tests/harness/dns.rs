//! A name server that tells what the test says, by UDP and TCP, on a port of its own.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::within;

const A: u16 = 1;
const SRV: u16 = 33;

/// A name server. Ends with the test's process; until then it costs two threads that wait.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    names: HashMap<String, Told>,
    asked: HashMap<String, usize>,
    by_tcp: usize,
    mood: Mood,
}

#[derive(Clone, Default)]
struct Told {
    ttl: u32,
    records: Vec<Record>,
    is_long: bool,
}

#[derive(Clone)]
enum Record {
    Address(Ipv4Addr),
    Service { priority: u16, weight: u16, port: u16, target: String },
}

/// What it does with questions.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Mood {
    /// It answers.
    #[default]
    Well,
    /// It says that it cannot.
    Failing,
    /// It says nothing.
    Silent,
}

impl Dns {
    /// Starts one that knows no name.
    pub fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port on loopback");
            let address = udp.local_addr().expect("a bound socket has an address");
            if let Ok(tcp) = TcpListener::bind(address) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("a bound socket has an address");
        let zone: Arc<Mutex<Zone>> = Arc::default();
        let for_udp = zone.clone();
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                if let Some(answer) = reply(&question[..length], &for_udp, false) {
                    udp.send_to(&answer, from).ok();
                }
            }
        });
        let for_tcp = zone.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let zone = for_tcp.clone();
                std::thread::spawn(move || converse(stream, &zone));
            }
        });
        Self { address, zone }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The section `dns` that has armiger ask it, and often.
    pub fn section(&self, keys: &str) -> String {
        format!("dns: {{servers: [\"{}\"], ttl_min: 20ms, timeout: 200ms{keys}}}\n", self.address)
    }

    /// From now on the name has these addresses.
    pub fn tells(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        let of = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => Record::Address(*ip),
            IpAddr::V6(_) => panic!("this server tells addresses of IPv4"),
        };
        self.set(name, Told { ttl, records: addresses.iter().map(of).collect(), is_long: false });
    }

    /// From now on the service is offered by these: priority, weight, port, host.
    pub fn offers(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let of = |(priority, weight, port, target): &(u16, u16, u16, &str)| Record::Service {
            priority: *priority,
            weight: *weight,
            port: *port,
            target: (*target).to_owned(),
        };
        self.set(name, Told { ttl: 0, records: services.iter().map(of).collect(), is_long: false });
    }

    /// There is no such name any more.
    pub fn forgets(&self, name: &str) {
        self.zone().names.remove(name);
    }

    /// Its answer is too long for a datagram.
    pub fn is_long(&self, name: &str) {
        self.zone().names.entry(name.to_owned()).or_default().is_long = true;
    }

    /// What it does with questions from now on.
    pub fn is(&self, mood: Mood) {
        self.zone().mood = mood;
    }

    /// How often this name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.zone().asked.get(name).copied().unwrap_or(0)
    }

    /// How many questions came by TCP.
    pub fn by_tcp(&self) -> usize {
        self.zone().by_tcp
    }

    /// Waits until a name was asked for so often again.
    pub async fn until_asked(&self, name: &str, times: usize) {
        let from = self.asked(name);
        within(&format!("{name} to be asked for {times} times"), async {
            while self.asked(name) < from + times {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
        .await;
    }

    fn set(&self, name: &str, told: Told) {
        self.zone().names.insert(name.to_owned(), told);
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        lock(&self.zone)
    }
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

fn converse(mut stream: TcpStream, zone: &Mutex<Zone>) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = reply(&question, zone, true) else { continue };
        let length = u16::try_from(answer.len()).expect("answers of tests are short").to_be_bytes();
        if stream.write_all(&[&length[..], &answer].concat()).is_err() {
            return;
        }
    }
}

/// The answer to a question with one name in it (RFC 1035 §4).
fn reply(question: &[u8], zone: &Mutex<Zone>, is_tcp: bool) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes(question.get(at..at + 2)?.try_into().ok()?);
    let end = at + 4;
    let mut zone = lock(zone);
    if kind == A || kind == SRV {
        *zone.asked.entry(name.clone()).or_default() += 1;
    }
    zone.by_tcp += usize::from(is_tcp);
    let told = zone.names.get(&name).cloned();
    let (code, is_cut, records) = match (zone.mood, &told) {
        (Mood::Silent, _) => return None,
        (Mood::Failing, _) => (2, false, Vec::new()),
        (Mood::Well, None) => (3, false, Vec::new()),
        (Mood::Well, Some(told)) if told.is_long && !is_tcp => (0, true, Vec::new()),
        (Mood::Well, Some(told)) => (0, false, told.records.iter().filter_map(|one| data(one, kind)).collect()),
    };
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([0x84 | if is_cut { 2 } else { 0 } | question.get(2)? & 1, 0x80 | code]);
    answer.extend([0, 1]);
    answer.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(question.get(12..end)?);
    for data in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(told.as_ref().map_or(0, |told| told.ttl).to_be_bytes());
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

fn data(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match record {
        Record::Address(ip) if kind == A => Some(ip.octets().to_vec()),
        Record::Service { priority, weight, port, target } if kind == SRV => {
            let mut data: Vec<u8> = [priority, weight, port].into_iter().flat_map(|part| part.to_be_bytes()).collect();
            for label in target.split('.').filter(|label| !label.is_empty()) {
                data.push(u8::try_from(label.len()).ok()?);
                data.extend(label.as_bytes());
            }
            data.push(0);
            Some(data)
        }
        _ => None,
    }
}
