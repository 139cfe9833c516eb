//! What expressions mean, held against the crate's own interpreter; what is refused, and where; and that nothing is dear.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use http::{Request, header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::exchange::{Caller, Client, Hop, Identity, Place};
use crate::http::body::Body;
use crate::http::forwarded::{self, Scheme};
use crate::telemetry::access_log::{Settings, Writer};
use crate::telemetry::finish::Logger;
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;

fn claims() -> Value {
    json!({
        "sub": "ada", "plan": "paid", "level": 7, "ratio": 0.5, "whole": 2.0, "huge": 9_007_199_254_740_993_i64,
        "is_admin": true, "nothing": null, "orders": ["7", "9"], "numbers": [1, 2.0, 3.5], "empty": [], "none": {},
        "org": {"id": "o1", "units": [{"id": 1, "tags": ["a"]}, {"id": 2}]}, "https://x/roles": ["r1"], "name": "Ada Ö",
    })
}

fn exchange(request: http::request::Builder, claims: Option<Value>) -> Exchange {
    let metrics = Metrics::new();
    let log = Writer::start(Settings::default(), Box::new(std::io::sink()), &metrics).unwrap();
    let logger = Rc::new(Logger::new(log.buffer(), &metrics));
    let (now, peer) = (Instant::now(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let caller = claims.map(|claims| Caller {
        identity: Arc::new(Identity {
            subject: claims["sub"].as_str().unwrap_or_default().into(),
            roles: ["admin", "user"].map(Box::from).into(),
            scopes: ["read"].map(Box::from).into(),
            claims: claims.as_object().unwrap().clone(),
            ..Identity::default()
        }),
        place: Place::Bearer,
        strips: None,
        ends_streams: false,
    });
    let request = request.body(Body::Empty).unwrap();
    let path = request.uri().path();
    let param = path.strip_prefix("/orders/").map_or(0, str::len);
    let end = u32::try_from(path.len()).unwrap();
    Exchange {
        params: [(end - u32::try_from(param).unwrap(), end)].into_iter().collect(),
        request: Box::new(request),
        client: Client {
            peer: SocketAddr::new(peer, 4711),
            reached: SocketAddr::new(peer, 80),
            address: peer,
            is_trusted: false,
        },
        normal_path: None,
        started: now,
        deadline: now,
        due: now,
        inbound: None,
        wheel: Wheel::new(),
        trace: None,
        hop: Rc::new(Hop { forwarded: forwarded::Hop::new(peer, Scheme::Http, 8080), via: None, certificate: None }),
        caller,
        allowance: Default::default(),
        websocket: None,
        form: None,
        closing: logger.begin(now, UNIX_EPOCH, &Arc::from("http")),
    }
}

fn usual() -> Exchange {
    let request = Request::get("/orders/7?page=2&q=a%20b&twice=1&twice=2")
        .header("host", "API.example.com.:8080")
        .header("x-tenant", "t1")
        .header("x-many", "a")
        .header("x-many", "b")
        .header("cookie", "a=1; session=s; double=1; double=2");
    exchange(request, Some(claims()))
}

fn params() -> Params {
    Params::known(&["id".into()])
}

fn compile(text: &str) -> Result<Condition, Mistake> {
    all(text).map_err(|mistakes| mistakes.0.into_iter().next().unwrap())
}

fn all(text: &str) -> Result<Condition, Mistakes> {
    Condition::compile(text, Names::of(&params()))
}

fn holds(text: &str) -> Result<bool, Fault> {
    compile(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}")).holds(&usual())
}

#[test]
fn facts_of_the_exchange_are_read() {
    for text in [
        "claims.sub == 'ada' && subject == claims['sub']",
        "'admin' in roles && !('root' in roles) && 'read' in scopes && size(roles) == 2",
        "path.id == '7' && path['id'] in claims.orders",
        "request.path == '/orders/7' && method == 'GET' && host == 'api.example.com' && client_ip == '127.0.0.1'",
        "query.page == '2' && query.q == 'a b' && int(query.page) + 1 == 3",
        "headers['X-Tenant'] == 't1' && has(headers.host) && !has(headers.missing) && 'x-many' in headers",
        "cookies.session == 's' && has(cookies.a) && cookies.a == '1' && !('b' in cookies)",
        "claims.org.units[0].tags[0] == 'a' && claims.org['units'][1].id == 2",
        "has(claims.org.id) && !has(claims.org.name) && !has(claims.missing) && 'plan' in claims && !('x' in claims)",
        "claims['https://x/roles'] == ['r1']",
        "claims[subject + ''] == 1 || true",
        "claims.numbers.exists(n, n > 3) && claims.org.units.all(unit, unit.id < 3)",
        "claims.orders.map(o, int(o)).filter(n, n > 7) == [9]",
        "claims.org.units.exists_one(unit, has(unit.tags)) && claims.org.exists(key, key == 'id')",
        "claims.name.matches('^Ada') && claims.name.endsWith('Ö') && size(claims.name) == 5",
        "{'paid': 10, 'free': 1}[claims.plan] > 5",
        "(claims.level > 5 ? 'high' : 'low') == 'high'",
        "headers['x-tenant'].lowerAscii().startsWith('t') && 'abc'.contains('b')",
        "claims.huge > 9007199254740992.0 && claims.whole == 2 && claims.nothing == null && claims.plan != null",
        "roles.exists(claims, claims == 'admin')",
    ] {
        assert_eq!(holds(text), Ok(true), "{text}");
    }
}

#[test]
fn what_cannot_be_told_is_a_fault_unless_the_other_side_decides() {
    for (text, expected) in [
        ("claims.missing == 1", Err(Fault::Absent)),
        ("claims.missing == 1 || true", Ok(true)),
        ("true || claims.missing == 1", Ok(true)),
        ("claims.missing == 1 && false", Ok(false)),
        ("claims.missing == 1 && true", Err(Fault::Absent)),
        ("claims.plan.x == 1", Err(Fault::Types)),
        ("has(claims.missing.x)", Err(Fault::Absent)),
        ("claims.plan > 1", Err(Fault::Types)),
        ("claims.plan", Err(Fault::Types)),
        ("!claims.level", Err(Fault::Types)),
        ("claims.orders[5] == ''", Err(Fault::Absent)),
        ("claims.level / 0 == 1", Err(Fault::Arithmetic)),
        ("claims.huge * claims.huge > 0", Err(Fault::Arithmetic)),
        ("claims.level + claims.ratio > 0.0", Err(Fault::Types)),
        ("query.twice == '1'", Err(Fault::Ambiguous)),
        ("headers['x-many'] == 'a'", Err(Fault::Ambiguous)),
        ("cookies.double == '1'", Err(Fault::Ambiguous)),
        ("query.missing == ''", Err(Fault::Absent)),
        ("claims.orders.exists(o, int(o) / 0 == 1 || o == '9')", Ok(true)),
        ("claims.orders.all(o, o == claims.missing)", Err(Fault::Absent)),
        ("int(claims.plan) == 1", Err(Fault::Arithmetic)),
    ] {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn of_nobody_there_are_no_roles_and_no_claims() {
    let nobody = exchange(Request::get("/orders/a%2Fb%20%C3%B6"), None);
    for (text, expected) in [
        ("'admin' in roles || 'read' in scopes || subject != ''", Ok(false)),
        ("claims.sub == ''", Err(Fault::Absent)),
        ("path.id == 'a/b ö'", Ok(true)),
    ] {
        assert_eq!(compile(text).unwrap().holds(&nobody), expected, "{text}");
    }
    assert_eq!(
        compile("path.id == ''").unwrap().holds(&exchange(Request::get("/orders/%ff"), None)),
        Err(Fault::NotText)
    );
}

#[test]
fn numbers_and_values_from_elsewhere() {
    let params = params();
    let number = |text| Number::compile(text, Names::of(&params)).unwrap().of(&usual());
    assert_eq!(number("1 + size(claims.orders) * 2"), Ok(5));
    assert_eq!(number("claims.whole"), Ok(2));
    assert_eq!(number("claims.ratio"), Err(Fault::Arithmetic));
    assert_eq!(number("claims.plan"), Err(Fault::Types));
    assert!(Number::compile("'1'", Names::of(&params)).is_err());
    let names = Names { params: &params, extra: &["parts"] };
    let parts = json!({"user": {"status": 200, "body": {"id": 3}}});
    let condition = Condition::compile("parts.user.body.id == 3 && has(parts.user) && !has(parts.ads)", names).unwrap();
    assert_eq!(condition.holds_with(&usual(), &[&parts]), Ok(true));
    assert_eq!(condition.holds(&usual()), Err(Fault::Absent));
    let reads = |text| compile(text).unwrap().reads().clone();
    assert_eq!(reads("method == 'GET'"), Reads::default());
    let both = Reads { caller: true, address: true, headers: vec![] };
    assert_eq!(reads("client_ip == '::1' || has(claims.x)"), both);
    let headers = vec![HeaderName::from_static("x-a"), header::COOKIE, header::ACCEPT];
    assert_eq!(
        reads("headers['x-a'] == 'b' || has(cookies.c) || 'accept' in headers"),
        Reads { headers, ..Reads::default() }
    );
}

#[test]
fn a_mistake_is_told_at_its_place() {
    for (text, part, message) in [
        ("'a' in rols", "rols", "`rols` is nothing that is known here"),
        ("path.order == 'ö' && clams.x", "order", "the route's path has no parameter `order`"),
        ("'ö' == clams.x", "clams", "`clams` is nothing that is known here"),
        ("roles.contians('x')", "contians", "there is no function `contians`"),
        ("roles == 'admin'", "==", "a list never equals a text"),
        ("claims.a == 1 && subject", "subject", "is a text where true or false is needed"),
        ("subject", "subject", "is a text, and not true or false"),
        ("1 in subject", "in", "a text has no items, so nothing is in it"),
        ("subject > 1", ">", "a text cannot be compared with a whole number"),
        ("1 + 1.0 == 2.0", "+", "a whole number cannot be calculated with a number with a fraction"),
        ("roles.contains('x')", "roles", "`contains` does not take a list"),
        ("size(1) == 1", "1", "`size` does not take a whole number"),
        ("host.matches(claims.x)", ".", "a regular expression must stand here as it is"),
        ("host.matches('(')", "'('", "is no regular expression: unclosed group"),
        ("path == '/'", "path", "`path` has no value of its own"),
        ("headers == {}", "headers", "`headers` has no value of its own"),
        ("headers['a b'] == ''", "a b", "`a b` is no header name"),
        ("cookies['a=b'] == ''", "a=b", "`a=b` is no cookie name"),
        ("'a;b' in cookies", "a;b", "`a;b` is no cookie name"),
        ("a.b.c == 1", "a", "`a` is nothing that is known here"),
        ("1u == 1", "1u", "numbers without a sign are not told apart"),
        ("b'a' == 'a'", "b'a'", "there are no bytes to compare with"),
        ("roles.exists(a, b == a)", "b", "`b` is nothing that is known here"),
        ("has(roles)", "r", "is no expression: invalid argument to has() macro"),
        ("path.id ==", "=", "is no expression: mismatched input 'the end'"),
        ("roles && ", "", "is no expression"),
        ("Order{id: 1} == 1", "", "is a kind of expression that is not supported"),
    ] {
        let mistake = compile(text).err().unwrap_or_else(|| panic!("{text} compiles"));
        assert!(mistake.message.starts_with(message), "{text}: {}", mistake.message);
        assert!(mistake.hint.is_some(), "{text}: what to do?");
        if !part.is_empty() {
            let marked = text.get(mistake.part.clone()).unwrap_or_default();
            assert!(marked.contains(part) || part.contains(marked), "{text}: {marked:?} is marked, not {part:?}");
        }
    }
    let hint = |text: &str| compile(text).unwrap_err().hint.unwrap();
    assert_eq!(hint("'a' in rols"), "did you mean `roles`?");
    assert_eq!(hint("roles.exist(a, true)"), "did you mean `exists`?");
    assert!(compile(&format!("'{}' == ''", "a".repeat(LENGTH_MAX))).unwrap_err().message.contains("too long"));
    assert!(compile(" ").is_err());
}

#[test]
fn all_mistakes_of_an_expression_are_told_at_once_and_none_because_of_another() {
    for (text, marked) in [
        ("'a' in rols && clams.x == 1 || path.order > 2", vec!["rols", "clams", "order"]),
        ("rols.exists(r, r == clams.x) && subject", vec!["rols", "clams", "subject"]),
        ("(subject > 1 ? rols : clams) == 3", vec![">", "rols", "clams"]),
        ("{rols: 1}[clams] in [patth, size(hosst)]", vec!["rols", "clams", "patth", "hosst"]),
        ("roles.contains(subjct) == (1 + 'a')", vec!["roles", "subjct", "+"]),
        ("rols", vec!["rols"]),
    ] {
        let told = all(text).unwrap_err().0;
        let told: Vec<&str> = told.iter().map(|mistake| &text[mistake.part.clone()]).collect();
        let fits = |(told, part): (&&str, &&str)| told.contains(part) || part.contains(told);
        assert!(told.len() == marked.len() && told.iter().zip(&marked).all(fits), "{text}: {told:?} for {marked:?}");
    }
    assert_eq!(all(&vec!["x"; 100].join(" && ")).unwrap_err().0.len(), 8, "more of them have one cause");
}

#[test]
fn no_expression_breaks_what_reads_it() {
    for text in [
        "(".repeat(2000),
        format!("{}1{} == 1", "(".repeat(900), ")".repeat(900)),
        format!("{}true", "!".repeat(2000)),
        format!("1{} == 1", " + 1".repeat(480)),
        format!("claims{} == 1", ".a".repeat(900)),
        format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
        format!("true{}", " || true".repeat(250)),
        format!("true{}", " ? true : true".repeat(140)),
        "roles.all(a, roles.all(b, roles.all(c, true)))".into(),
    ] {
        if let Ok(condition) = compile(&text) {
            let _ = condition.holds(&usual());
        }
    }
    assert!(compile("roles.all(a, roles.all(b, roles.all(c, true)))").is_err());
}

#[test]
fn no_caller_makes_an_expression_expensive() {
    let many = Value::Array((0..5_000).map(Value::from).collect());
    let long = "a".repeat(30_000);
    let request = Request::get("/").header("x-long", &long).header("cookie", &long);
    let dear = exchange(request, Some(json!({"many": many, "text": long})));
    for text in [
        "claims.many.all(a, claims.many.exists(b, a + b == 4999)) || true",
        "claims.many.map(a, claims.text + claims.text) == [] || true",
        "claims.many.exists(a, headers['x-long'].contains('aaaaab')) || true",
        "claims.many.filter(a, claims.many == claims.many) == [] || true",
        "claims.many.exists(a, 'none' in cookies) || true",
    ] {
        let begun = Instant::now();
        assert_eq!(compile(text).unwrap().holds(&dear), Err(Fault::TooMuch), "{text}");
        assert!(begun.elapsed().as_secs() < 5, "{text}: {:?}", begun.elapsed());
    }
    assert_eq!(compile("claims.many.exists(a, a == 4999)").unwrap().holds(&dear), Ok(true));
}

/// What the crate's own interpreter makes of it. `Err`: an error of any kind.
fn oracle(text: &str) -> Result<cel::Value, ()> {
    let program = cel::Program::compile(text).map_err(|_| ())?;
    let mut context = cel::Context::default();
    context.add_variable("claims", claims()).unwrap();
    context.add_variable("roles", ["admin", "user"]).unwrap();
    context.add_variable("subject", "ada").unwrap();
    context.add_variable("method", "GET").unwrap();
    program.execute(&context).map_err(|_| ())
}

/// Expressions that may be wrong in their types, but not in their grammar.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "true",
        "false",
        "null",
        "0",
        "1",
        "7",
        "2.0",
        "0.5",
        "'paid'",
        "'ada'",
        "''",
        "roles",
        "subject",
        "method",
        "claims.plan",
        "claims.level",
        "claims.ratio",
        "claims.whole",
        "claims.is_admin",
        "claims.nothing",
        "claims.orders",
        "claims.numbers",
        "claims.empty",
        "claims.none",
        "claims.org",
        "claims.missing",
        "claims.org.units[0].id",
        "has(claims.plan)",
        "has(claims.missing)",
        "claims.huge",
    ]);
    leaf.prop_map(String::from).prop_recursive(4, 24, 3, |inner| {
        let operator =
            prop::sample::select(vec!["&&", "||", "==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.clone().prop_map(|a| format!("size({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.exists(x, x == {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.all(x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.exists_one(x, x != {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.map(x, [x, {b}])")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.filter(x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a}.startsWith({b})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// What compiles here has the value that the crate's interpreter gives it, faults included.
    #[test]
    fn expressions_mean_what_the_crate_says(text in expressions()) {
        let Ok(condition) = compile(&text) else { return Ok(()) };
        let expected = match oracle(&text) {
            Ok(cel::Value::Bool(value)) => Some(value),
            _ => None,
        };
        prop_assert_eq!(condition.holds(&usual()).ok(), expected, "{}", text);
    }
}
