//! Walks a compiled expression over an exchange, within a bounded number of steps.

use std::cmp::Ordering;
use std::rc::Rc;

use http::header;
use serde_json::{Map, Value as Json};

use super::Fault;
use super::node::{Fact, Function, Node, Operation, Order, Quantifier, Step};
use crate::exchange::Exchange;
use crate::exchange::identity::{percent_decode, query_pairs};

/// How many steps an expression may take. A node is a step, as is each item that is looked at and some bytes of a text.
const STEPS_MAX: u32 = 100_000;

/// Bytes of text that are one step.
const BYTES_PER_STEP: usize = 64;

pub(super) fn condition(node: &Node, exchange: &Exchange, extra: &[&Json]) -> Result<bool, Fault> {
    Walk::new(exchange, extra).truth(node)
}

pub(super) fn number(node: &Node, exchange: &Exchange, extra: &[&Json]) -> Result<i64, Fault> {
    match Walk::new(exchange, extra).value(node)? {
        Value::Int(number) => Ok(number),
        Value::Double(number) => whole(number),
        _ => Err(Fault::Types),
    }
}

/// A double that is a whole number, as one.
fn whole(number: f64) -> Result<i64, Fault> {
    const MOST: f64 = (1_i64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() <= MOST { Ok(number as i64) } else { Err(Fault::Arithmetic) }
}

/// A value while an expression is walked. Nothing of the exchange is copied.
#[derive(Clone, Debug)]
enum Value<'e> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'e str),
    /// A text that was made.
    Made(Rc<str>),
    Words(&'e [Box<str>]),
    Array(&'e [Json]),
    Object(&'e Map<String, Json>),
    /// A list that was made.
    List(Rc<[Value<'e>]>),
    /// A map that was made.
    Entries(Rc<[(Value<'e>, Value<'e>)]>),
}

impl<'e> Value<'e> {
    fn of(json: &'e Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::Array(items),
            Json::Object(members) => Self::Object(members),
        }
    }

    fn text(&self) -> Result<&str, Fault> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Made(text) => Ok(text),
            _ => Err(Fault::Types),
        }
    }

    /// How many items it has, if it is a list or a map.
    fn length(&self) -> Result<usize, Fault> {
        Ok(match self {
            Self::Words(words) => words.len(),
            Self::Array(items) => items.len(),
            Self::Object(members) => members.len(),
            Self::List(items) => items.len(),
            Self::Entries(entries) => entries.len(),
            _ => return Err(Fault::Types),
        })
    }

    /// The item of a list, or the key of a map, at a place.
    fn item(&self, place: usize) -> Option<Value<'e>> {
        match self {
            Self::Words(words) => words.get(place).map(|word| Value::Text(word)),
            Self::Array(items) => items.get(place).map(Value::of),
            Self::Object(members) => members.keys().nth(place).map(|key| Value::Text(key)),
            Self::List(items) => items.get(place).cloned(),
            Self::Entries(entries) => entries.get(place).map(|(key, _)| key.clone()),
            _ => None,
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::Words(_) | Self::Array(_) | Self::List(_))
    }
}

/// What is done over all items.
type Items<'w, 'e> = &'w mut dyn FnMut(&mut Walk<'e>, Value<'e>) -> Result<bool, Fault>;

struct Walk<'e> {
    exchange: &'e Exchange,
    extra: &'e [&'e Json],
    /// How many steps are left.
    steps: u32,
    /// Variables of loops, by their depth.
    locals: Vec<Value<'e>>,
}

impl<'e> Walk<'e> {
    fn new(exchange: &'e Exchange, extra: &'e [&'e Json]) -> Self {
        Self { exchange, extra, steps: STEPS_MAX, locals: Vec::new() }
    }

    fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.steps.checked_sub(steps));
        // What is spent stays spent: no `||` goes on after it.
        self.steps = left.unwrap_or(0);
        if left.is_some() { Ok(()) } else { Err(Fault::TooMuch) }
    }

    fn truth(&mut self, node: &'e Node) -> Result<bool, Fault> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            _ => Err(Fault::Types),
        }
    }

    fn pair(&mut self, [left, right]: &'e [Node; 2]) -> Result<(Value<'e>, Value<'e>), Fault> {
        Ok((self.value(left)?, self.value(right)?))
    }

    fn value(&mut self, node: &'e Node) -> Result<Value<'e>, Fault> {
        self.spend(1)?;
        Ok(match node {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::Double(value) => Value::Double(*value),
            Node::Text(text) => Value::Text(text),
            Node::Read(fact, steps) => self.read(fact, steps)?,
            Node::Present(fact) => Value::Bool(self.has(fact)?),
            Node::Local(depth) => self.locals.get(*depth).cloned().ok_or(Fault::Absent)?,
            Node::Not(one) => Value::Bool(!self.truth(one)?),
            Node::Negate(one) => match self.value(one)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or(Fault::Arithmetic)?),
                Value::Double(value) => Value::Double(-value),
                _ => return Err(Fault::Types),
            },
            Node::Both { is_and, sides } => Value::Bool(self.both(*is_and, sides)?),
            Node::Choose(parts) => {
                let [condition, then, otherwise] = &**parts;
                return if self.truth(condition)? { self.value(then) } else { self.value(otherwise) };
            }
            Node::Equal { is_negated, sides } => {
                let (left, right) = self.pair(sides)?;
                Value::Bool(self.equal(&left, &right)? != *is_negated)
            }
            Node::Compare(order, sides) => {
                let (left, right) = self.pair(sides)?;
                Value::Bool(self.compare(*order, &left, &right)?)
            }
            Node::Calculate(operation, sides) => {
                let (left, right) = self.pair(sides)?;
                self.calculate(*operation, left, right)?
            }
            Node::In(sides) => {
                let (item, list) = self.pair(sides)?;
                Value::Bool(self.contains(&list, &item)?)
            }
            Node::Index(sides) => {
                let (of, key) = self.pair(sides)?;
                self.index(&of, &key)?
            }
            Node::Member(of, name) => {
                let of = self.value(of)?;
                self.member(&of, name)?.ok_or(Fault::Absent)?
            }
            Node::Has(of, name) => {
                let of = self.value(of)?;
                Value::Bool(self.member(&of, name)?.is_some())
            }
            Node::List(nodes) => {
                Value::List(nodes.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?.into())
            }
            Node::Map(entries) => {
                let mut made: Vec<(Value<'e>, Value<'e>)> = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.value(key)?;
                    self.spend(made.len())?;
                    if made.iter().any(|(known, _)| known.text().ok() == key.text().ok()) {
                        return Err(Fault::Ambiguous);
                    }
                    key.text()?;
                    made.push((key, self.value(value)?));
                }
                Value::Entries(made.into())
            }
            Node::Call(function, arguments) => self.call(*function, arguments)?,
            Node::Matches(text, regex) => {
                let text = self.value(text)?;
                let text = text.text()?;
                self.spend(text.len() / BYTES_PER_STEP)?;
                Value::Bool(regex.is_match(text))
            }
            Node::Each(quantifier, parts) => Value::Bool(self.each(*quantifier, parts)?),
            Node::Collect(parts) => self.collect(parts)?,
        })
    }

    /// As CEL has it: one side that decides is enough, whatever is wrong with the other one.
    fn both(&mut self, is_and: bool, [left, right]: &'e [Node; 2]) -> Result<bool, Fault> {
        let left = self.truth(left);
        if left == Ok(!is_and) {
            return left;
        }
        let right = self.truth(right)?;
        if right != is_and { Ok(right) } else { left }
    }

    fn read(&mut self, fact: &Fact, steps: &'e [Step]) -> Result<Value<'e>, Fault> {
        let exchange = self.exchange;
        let identity = exchange.caller.as_ref().map(|caller| &*caller.identity);
        Ok(match fact {
            Fact::Claims => {
                let claims = &identity.ok_or(Fault::Absent)?.claims;
                match steps.split_first() {
                    None => Value::Object(claims),
                    Some((Step::Key(first), rest)) => follow(claims.get(&**first), rest)?,
                    Some((Step::Item(_), _)) => return Err(Fault::Types),
                }
            }
            Fact::Extra(place) => follow(self.extra.get(*place).copied(), steps)?,
            Fact::Roles => Value::Words(identity.map_or(&[], |identity| &identity.roles)),
            Fact::Scopes => Value::Words(identity.map_or(&[], |identity| &identity.scopes)),
            Fact::Subject => Value::Text(identity.map_or("", |identity| &identity.subject)),
            Fact::Param(place) => {
                let param = exchange.param(*place);
                self.spend(param.len() / BYTES_PER_STEP)?;
                decoded(param)?
            }
            Fact::RequestPath => Value::Text(exchange.path()),
            Fact::Method => Value::Text(exchange.request.method().as_str()),
            Fact::Host => host(exchange.host()),
            Fact::ClientAddress => Value::Made(exchange.client.address.to_string().into()),
            Fact::Header(name) => {
                let mut lines = exchange.headers().get_all(name).iter();
                let line = lines.next().ok_or(Fault::Absent)?;
                if lines.next().is_some() {
                    return Err(Fault::Ambiguous);
                }
                Value::Text(std::str::from_utf8(line.as_bytes()).map_err(|_| Fault::NotText)?)
            }
            Fact::Query(name) => {
                let query = exchange.request.uri().query().unwrap_or("");
                self.spend(query.len() / BYTES_PER_STEP)?;
                let value = only(query_pairs(query).filter(|(key, _)| key.as_deref() == Some(name)))?;
                match value.1.ok_or(Fault::NotText)? {
                    std::borrow::Cow::Borrowed(text) => Value::Text(text),
                    std::borrow::Cow::Owned(text) => Value::Made(text.into()),
                }
            }
            Fact::Cookie(name) => {
                self.spend(cookie_bytes(exchange) / BYTES_PER_STEP)?;
                Value::Text(std::str::from_utf8(only(cookies(exchange, name))?).map_err(|_| Fault::NotText)?)
            }
        })
    }

    fn has(&mut self, fact: &Fact) -> Result<bool, Fault> {
        Ok(match fact {
            Fact::Header(name) => self.exchange.headers().contains_key(name),
            Fact::Query(name) => {
                let query = self.exchange.request.uri().query().unwrap_or("");
                self.spend(query.len() / BYTES_PER_STEP)?;
                query_pairs(query).any(|(key, _)| key.as_deref() == Some(name))
            }
            Fact::Cookie(name) => {
                self.spend(cookie_bytes(self.exchange) / BYTES_PER_STEP)?;
                cookies(self.exchange, name).next().is_some()
            }
            _ => true,
        })
    }

    fn equal(&mut self, left: &Value<'e>, right: &Value<'e>) -> Result<bool, Fault> {
        self.spend(1)?;
        Ok(match (left, right) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::Int(one), Value::Int(other)) => one == other,
            (Value::Double(one), Value::Double(other)) => one == other,
            (Value::Int(one), Value::Double(other)) | (Value::Double(other), Value::Int(one)) => {
                order(*one, *other) == Some(Ordering::Equal)
            }
            (Value::Text(_) | Value::Made(_), Value::Text(_) | Value::Made(_)) => {
                let (one, other) = (left.text()?, right.text()?);
                self.spend(one.len().min(other.len()) / BYTES_PER_STEP)?;
                one == other
            }
            _ if left.is_list() && right.is_list() => {
                let length = left.length()?;
                if length != right.length()? {
                    return Ok(false);
                }
                for place in 0..length {
                    match (left.item(place), right.item(place)) {
                        (Some(one), Some(other)) if self.equal(&one, &other)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Object(_) | Value::Entries(_), Value::Object(_) | Value::Entries(_)) => {
                let length = left.length()?;
                if length != right.length()? {
                    return Ok(false);
                }
                for place in 0..length {
                    self.spend(length)?;
                    let Some(key) = left.item(place) else { return Ok(false) };
                    let name = key.text()?;
                    match (self.member(left, name)?, self.member(right, name)?) {
                        (Some(one), Some(other)) if self.equal(&one, &other)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            // Values of two kinds are not equal (cel-spec, "Equality").
            _ => false,
        })
    }

    fn compare(&mut self, wanted: Order, left: &Value<'e>, right: &Value<'e>) -> Result<bool, Fault> {
        let found = match (left, right) {
            (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
            (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
            (Value::Int(one), Value::Double(other)) => order(*one, *other),
            (Value::Double(one), Value::Int(other)) => order(*other, *one).map(Ordering::reverse),
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            _ => {
                let (one, other) = (left.text()?, right.text()?);
                self.spend(one.len().min(other.len()) / BYTES_PER_STEP)?;
                Some(one.cmp(other))
            }
        };
        Ok(match wanted {
            Order::Less => found.is_some_and(Ordering::is_lt),
            Order::LessOrEqual => found.is_some_and(Ordering::is_le),
            Order::More => found.is_some_and(Ordering::is_gt),
            Order::MoreOrEqual => found.is_some_and(Ordering::is_ge),
        })
    }

    fn calculate(&mut self, operation: Operation, left: Value<'e>, right: Value<'e>) -> Result<Value<'e>, Fault> {
        match (left, right) {
            (Value::Int(one), Value::Int(other)) => match operation {
                Operation::Add => one.checked_add(other),
                Operation::Subtract => one.checked_sub(other),
                Operation::Multiply => one.checked_mul(other),
                Operation::Divide => one.checked_div(other),
                Operation::Remainder => one.checked_rem(other),
            }
            .map(Value::Int)
            .ok_or(Fault::Arithmetic),
            (Value::Double(one), Value::Double(other)) => Ok(Value::Double(match operation {
                Operation::Add => one + other,
                Operation::Subtract => one - other,
                Operation::Multiply => one * other,
                Operation::Divide => one / other,
                Operation::Remainder => return Err(Fault::Types),
            })),
            (left, right) if operation == Operation::Add && left.is_list() && right.is_list() => {
                let (one, other) = (left.length()?, right.length()?);
                self.spend(one + other)?;
                let items = (0..one).filter_map(|place| left.item(place));
                Ok(Value::List(items.chain((0..other).filter_map(|place| right.item(place))).collect()))
            }
            (left, right) if operation == Operation::Add => {
                let (one, other) = (left.text()?, right.text()?);
                self.spend((one.len() + other.len()) / BYTES_PER_STEP)?;
                Ok(Value::Made([one, other].concat().into()))
            }
            _ => Err(Fault::Types),
        }
    }

    fn contains(&mut self, list: &Value<'e>, item: &Value<'e>) -> Result<bool, Fault> {
        if let Value::Words(words) = list {
            self.spend(words.len())?;
            // Something else than a text is not among texts.
            return Ok(item.text().is_ok_and(|item| words.iter().any(|word| **word == *item)));
        }
        if list.is_list() {
            for place in 0..list.length()? {
                let Some(one) = list.item(place) else { break };
                if self.equal(&one, item)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        list.length()?;
        match item.text() {
            Ok(name) => Ok(self.member(list, name)?.is_some()),
            Err(_) => Ok(false),
        }
    }

    /// The value of a key. `None`: there is none.
    fn member(&mut self, of: &Value<'e>, name: &str) -> Result<Option<Value<'e>>, Fault> {
        match of {
            Value::Object(members) => Ok(members.get(name).map(Value::of)),
            Value::Entries(entries) => {
                self.spend(entries.len())?;
                let found = entries.iter().find(|(key, _)| key.text().is_ok_and(|key| key == name));
                Ok(found.map(|(_, value)| value.clone()))
            }
            _ => Err(Fault::Types),
        }
    }

    fn index(&mut self, of: &Value<'e>, key: &Value<'e>) -> Result<Value<'e>, Fault> {
        if !of.is_list() {
            return self.member(of, key.text()?)?.ok_or(Fault::Absent);
        }
        let place = match key {
            Value::Int(place) => *place,
            Value::Double(place) => whole(*place)?,
            _ => return Err(Fault::Types),
        };
        usize::try_from(place).ok().and_then(|place| of.item(place)).ok_or(Fault::Absent)
    }

    fn call(&mut self, function: Function, arguments: &'e [Node]) -> Result<Value<'e>, Fault> {
        let first = self.value(arguments.first().ok_or(Fault::Absent)?)?;
        if let Some(second) = arguments.get(1) {
            let second = self.value(second)?;
            let (text, part) = (first.text()?, second.text()?);
            self.spend((text.len() + part.len()) / BYTES_PER_STEP)?;
            return Ok(Value::Bool(match function {
                Function::Contains => text.contains(part),
                Function::StartsWith => text.starts_with(part),
                Function::EndsWith => text.ends_with(part),
                _ => return Err(Fault::Types),
            }));
        }
        Ok(match function {
            Function::Size => {
                let size = match first.text() {
                    Ok(text) => {
                        self.spend(text.len() / BYTES_PER_STEP)?;
                        text.chars().count()
                    }
                    Err(_) => first.length()?,
                };
                Value::Int(i64::try_from(size).map_err(|_| Fault::Arithmetic)?)
            }
            Function::LowerAscii => {
                let text = first.text()?;
                self.spend(text.len() / BYTES_PER_STEP)?;
                Value::Made(text.to_ascii_lowercase().into())
            }
            Function::Text => match first {
                Value::Bool(value) => Value::Made(value.to_string().into()),
                Value::Int(value) => Value::Made(value.to_string().into()),
                Value::Double(value) => Value::Made(value.to_string().into()),
                text => {
                    text.text()?;
                    text
                }
            },
            Function::Int => match first {
                Value::Int(value) => Value::Int(value),
                // Towards zero (cel-spec, "int").
                Value::Double(value) => Value::Int(whole(value.trunc())?),
                text => Value::Int(text.text()?.parse().map_err(|_| Fault::Arithmetic)?),
            },
            Function::Double => match first {
                Value::Int(value) => Value::Double(value as f64),
                Value::Double(value) => Value::Double(value),
                text => Value::Double(text.text()?.parse().map_err(|_| Fault::Arithmetic)?),
            },
            Function::Contains | Function::StartsWith | Function::EndsWith => return Err(Fault::Types),
        })
    }

    /// Hands each item over, until `enough` of it.
    fn items(&mut self, range: &'e Node, enough: Items<'_, 'e>) -> Result<(), Fault> {
        let range = self.value(range)?;
        for place in 0..range.length()? {
            self.spend(1)?;
            let Some(item) = range.item(place) else { break };
            if enough(self, item)? {
                break;
            }
        }
        Ok(())
    }

    /// The value of a loop's body for an item.
    fn under<T>(&mut self, item: Value<'e>, body: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.locals.push(item);
        let value = body(self);
        self.locals.pop();
        value
    }

    fn each(&mut self, quantifier: Quantifier, [range, body]: &'e [Node; 2]) -> Result<bool, Fault> {
        let mut wrong = None;
        let mut count = 0;
        let mut decided = None;
        self.items(range, &mut |walk, item| {
            let holds = walk.under(item, |walk| walk.truth(body));
            match (quantifier, holds) {
                (_, Err(Fault::TooMuch)) => return Err(Fault::TooMuch),
                (Quantifier::One, holds) => count += usize::from(holds?),
                (Quantifier::All, Ok(false)) | (Quantifier::Any, Ok(true)) => {
                    decided = Some(quantifier == Quantifier::Any);
                }
                // One item that decides is enough, whatever is wrong with others.
                (_, Err(fault)) => wrong = Some(fault),
                _ => {}
            }
            Ok(decided.is_some())
        })?;
        match (decided, wrong) {
            (Some(decided), _) => Ok(decided),
            (None, Some(fault)) => Err(fault),
            (None, None) => Ok(match quantifier {
                Quantifier::All => true,
                Quantifier::Any => false,
                Quantifier::One => count == 1,
            }),
        }
    }

    fn collect(&mut self, [range, condition, made]: &'e [Node; 3]) -> Result<Value<'e>, Fault> {
        let mut list = Vec::new();
        self.items(range, &mut |walk, item| {
            let made = walk.under(item, |walk| walk.truth(condition)?.then(|| walk.value(made)).transpose())?;
            list.extend(made);
            Ok(false)
        })?;
        Ok(Value::List(list.into()))
    }
}

/// Follows steps into a value.
fn follow<'e>(from: Option<&'e Json>, steps: &[Step]) -> Result<Value<'e>, Fault> {
    let mut at = from.ok_or(Fault::Absent)?;
    for step in steps {
        let next = match (step, at) {
            (Step::Key(key), Json::Object(members)) => members.get(&**key),
            (Step::Item(place), Json::Array(items)) => items.get(*place),
            _ => return Err(Fault::Types),
        };
        at = next.ok_or(Fault::Absent)?;
    }
    Ok(Value::of(at))
}

/// The order of two numbers of two kinds, exactly: beyond 2^53 a float stands for several integers.
fn order(int: i64, double: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        None
    } else if double >= LIMIT {
        Some(Ordering::Less)
    } else if double < -LIMIT {
        Some(Ordering::Greater)
    } else {
        let whole = double.trunc();
        Some(int.cmp(&(whole as i64)).then(if double > whole {
            Ordering::Less
        } else if double < whole {
            Ordering::Greater
        } else {
            Ordering::Equal
        }))
    }
}

/// What there is one of.
fn only<T>(mut found: impl Iterator<Item = T>) -> Result<T, Fault> {
    let one = found.next().ok_or(Fault::Absent)?;
    if found.next().is_some() { Err(Fault::Ambiguous) } else { Ok(one) }
}

fn cookies<'e>(exchange: &'e Exchange, name: &str) -> impl Iterator<Item = &'e [u8]> {
    let lines = exchange.headers().get_all(header::COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).filter_map(move |cookie| {
        cookie.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
    })
}

/// How much there is to search for a cookie.
fn cookie_bytes(exchange: &Exchange) -> usize {
    exchange.headers().get_all(header::COOKIE).iter().map(|line| line.len()).sum()
}

/// A parameter of the path as what it stands for.
fn decoded(param: &str) -> Result<Value<'_>, Fault> {
    match percent_decode(param).ok_or(Fault::NotText)? {
        std::borrow::Cow::Borrowed(text) => Ok(Value::Text(text)),
        std::borrow::Cow::Owned(text) => Ok(Value::Made(text.into())),
    }
}

/// A host as it is routed: in small letters, without port or dot at the end.
fn host(raw: &str) -> Value<'_> {
    let name = match raw.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => raw,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Value::Made(name.to_ascii_lowercase().into())
    } else {
        Value::Text(name)
    }
}
