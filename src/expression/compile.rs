//! From the text of an expression to its tree, or to what is wrong with it and where.

use std::ops::Range;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::parser::{Parser, PrattParser};
use http::{HeaderName, header};
use regex::RegexBuilder;

use super::node::{Fact, Function, Node, Operation, Order, Quantifier, Step, Type};
use super::{Expression, LENGTH_MAX, Mistake, Mistakes, Names, Reads};
use crate::config::issue::suggest;
use crate::http::headers::{COOKIE_NAME_HINT, is_cookie_name};

/// How deep an expression may be nested. Whoever walks the tree has this much stack to spare.
const DEPTH_MAX: usize = 48;

/// How many mistakes of one expression are told.
const WRONGS_MAX: usize = 8;

/// How many loops may stand within one another.
const LOOPS_MAX: usize = 2;

/// The longest regular expression, compiled, in bytes.
const REGEX_MAX: usize = 256 * 1024;

/// The stack that reading takes at most, with room to spare: the crate's parsers call themselves.
const STACK: usize = 16 << 20;

/// What an expression may name.
const FACTS: [&str; 12] = [
    "claims",
    "roles",
    "scopes",
    "subject",
    "path",
    "query",
    "headers",
    "cookies",
    "method",
    "host",
    "client_ip",
    "request.path",
];

/// The functions that there are, with what they take: as `x.f(y)` the receiver counts.
const FUNCTIONS: [(&str, Function, usize); 8] = [
    ("size", Function::Size, 1),
    ("contains", Function::Contains, 2),
    ("startsWith", Function::StartsWith, 2),
    ("endsWith", Function::EndsWith, 2),
    ("lowerAscii", Function::LowerAscii, 1),
    ("string", Function::Text, 1),
    ("int", Function::Int, 1),
    ("double", Function::Double, 1),
];

/// Functions that are no calls once they are read.
const MACROS: [&str; 7] = ["matches", "has", "all", "exists", "exists_one", "map", "filter"];

/// Compiles an expression that must have a value of this type.
///
/// Where its form is wrong, one mistake is told: what stands behind it could be anything. Else all are.
pub(super) fn compile(text: &str, names: Names<'_>, wanted: Type) -> Result<Expression, Mistakes> {
    if text.len() > LENGTH_MAX {
        return Err(Mistakes::one(Mistake {
            message: format!("an expression of {} bytes is too long", text.len()),
            hint: Some(format!("the most is {LENGTH_MAX}; split it into several rules")),
            part: 0..0,
        }));
    }
    if text.trim().is_empty() {
        return Err(Mistakes::one(Mistake {
            message: "is no expression: it is empty".into(),
            hint: Some("write a condition such as `'admin' in roles`".into()),
            part: 0..0,
        }));
    }
    on_a_large_stack(|| {
        let tree = PrattParser::new().max_recursion_depth(DEPTH_MAX as u16).parse(text).map_err(|errors| {
            let first = errors.errors.first();
            Mistakes::one(syntax(text, first.map_or("", |error| &error.msg), first.map_or((0, 0), |error| error.pos)))
        })?;
        Reader::new(names).whole(&tree, wanted).map_err(|wrongs| {
            // This parser does not tell where things stand and the other one does. It is slow, so only now.
            let placed = Parser::new().parse_with_source_info(text).ok();
            let placed = placed.and_then(|(tree, info)| Some((Reader::new(names).whole(&tree, wanted).err()?, info)));
            let (wrongs, info) = placed.map_or((wrongs, None), |(wrongs, info)| (wrongs, Some(info)));
            Mistakes(wrongs.into_iter().map(|wrong| wrong.placed(text, info.as_ref())).collect())
        })
    })
}

/// Runs it where deep nesting does no harm.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Mistakes> + Send) -> Result<T, Mistakes> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("expression".into()).stack_size(STACK).spawn_scoped(scope, work);
        thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| {
            Err(Mistakes::one(Mistake {
                message: "the expression could not be read".into(),
                hint: Some("write it in a simpler way".into()),
                part: 0..0,
            }))
        })
    })
}

fn syntax(text: &str, message: &str, (line, column): (isize, isize)) -> Mistake {
    let message = message.trim_start_matches("Syntax error: ").replace("<EOF>", "the end");
    let place = |number: isize| usize::try_from(number - 1).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(place(line)).map(str::len).sum();
    let start = (before + place(column)).min(text.len());
    let rest = text.get(start..).unwrap_or_default();
    let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let hint = match word.to_ascii_lowercase().as_str() {
        _ if message.contains("has()") => {
            "`has` asks about a member, `has(claims.plan)`; of other names ask `'x-tenant' in headers`"
        }
        "and" => "write `&&` for \"and\"",
        "or" => "write `||` for \"or\"",
        "not" => "write `!` before what must not be",
        _ if rest.starts_with('=') && !rest.starts_with("==") => "`==` compares; a single `=` is none of CEL",
        _ => "it is written in CEL, such as `'admin' in roles && method == 'GET'`",
    };
    Mistake {
        message: format!("is no expression: {message}"),
        hint: Some(hint.into()),
        part: start..text.len().min(start + 1),
    }
}

/// What is wrong with a part of a tree.
struct Wrong {
    message: String,
    hint: Option<String>,
    /// The part.
    id: u64,
    /// The word that is marked, if it is not the part's own.
    word: Option<String>,
}

impl Wrong {
    fn new(at: &IdedExpr, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, id: at.id, word: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    fn word(mut self, word: impl Into<String>) -> Self {
        self.word = Some(word.into());
        self
    }

    fn placed(self, text: &str, info: Option<&SourceInfo>) -> Mistake {
        let part = info.and_then(|info| info.offset_for(self.id)).map_or(0..text.len(), |(start, stop)| {
            // The last byte included.
            let (start, end) = (start as usize, stop as usize + 1);
            let word = self.word.as_deref().and_then(|word| nearest(text, start, word));
            word.unwrap_or(if text.get(start..end).is_some() { start..end } else { 0..text.len() })
        });
        Mistake { message: self.message, hint: self.hint, part }
    }
}

/// The word's occurrence that is next to a place.
fn nearest(text: &str, place: usize, word: &str) -> Option<Range<usize>> {
    let found = text.match_indices(word).map(|(at, _)| at).min_by_key(|at| at.abs_diff(place))?;
    Some(found..found + word.len())
}

struct Reader<'n> {
    names: Names<'n>,
    /// Variables of loops, the innermost last.
    locals: Vec<(String, Type)>,
    depth: usize,
    reads: Reads,
    /// What is wrong so far. A part with a mistake in it may be anything to what is around it.
    wrongs: Vec<Wrong>,
}

/// A node and what is known of its value.
type Typed = (Node, Type);

impl<'n> Reader<'n> {
    fn new(names: Names<'n>) -> Self {
        Self { names, locals: Vec::new(), depth: 0, reads: Reads::default(), wrongs: Vec::new() }
    }

    fn whole(mut self, tree: &IdedExpr, wanted: Type) -> Result<Expression, Vec<Wrong>> {
        let (node, found) = self.node(tree);
        let fits = found.may_be(wanted) || wanted == Type::Int && found == Type::Double;
        if !fits {
            let hint = match (wanted, found) {
                (Type::Bool, Type::Texts | Type::List) => "ask whether something is in it: `'admin' in roles`",
                (Type::Bool, _) => "compare it with something: `==`, `!=`, `<`, `in`",
                _ => "write a number, or a calculation such as `1 + size(roles)`",
            };
            let message = format!("is {}, and not {}", found.name(), wanted.name());
            self.wrong(Wrong::new(tree, message).hint(hint));
        }
        if self.wrongs.is_empty() { Ok(Expression { node, reads: self.reads }) } else { Err(self.wrongs) }
    }

    /// Reads a part. One with a mistake, which is noted, may be anything.
    fn node(&mut self, expr: &IdedExpr) -> Typed {
        self.depth += 1;
        let read = match self.depth > DEPTH_MAX {
            true => Err(Wrong::new(expr, "is nested too deeply")
                .hint(format!("the most is {DEPTH_MAX} levels; a list with `in` is flatter than many `||`"))),
            false => self.inner(expr),
        };
        self.depth -= 1;
        read.unwrap_or_else(|wrong| {
            self.wrong(wrong);
            (Node::Null, Type::Any)
        })
    }

    /// Notes a mistake. One cause is told a few times at most, however wide the tree is.
    fn wrong(&mut self, wrong: Wrong) {
        if self.wrongs.len() < WRONGS_MAX {
            self.wrongs.push(wrong);
        }
    }

    fn inner(&mut self, expr: &IdedExpr) -> Result<Typed, Wrong> {
        match &expr.expr {
            Expr::Literal(literal) => constant(expr, literal),
            Expr::Ident(name) => self.name(expr, name),
            Expr::Select(select) => {
                if let Some(fact) = self.fact(expr)? {
                    return Ok(fact);
                }
                if select.test
                    && let Some(present) = self.present(&select.operand, &select.field)?
                {
                    return Ok((present, Type::Bool));
                }
                let (operand, of) = self.node(&select.operand);
                if !of.may_be(Type::Map) {
                    return Err(Wrong::new(&select.operand, format!("{} has no `{}`", of.name(), select.field))
                        .hint("only maps have members"));
                }
                let field = select.field.as_str().into();
                Ok(match select.test {
                    true => (Node::Has(operand.into(), field), Type::Bool),
                    false => (Node::Member(operand.into(), field), Type::Any),
                })
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let mut nodes = Vec::with_capacity(list.elements.len());
                let mut texts = !list.elements.is_empty();
                for element in &list.elements {
                    let (node, of) = self.node(element);
                    texts &= of == Type::Text;
                    nodes.push(node);
                }
                Ok((Node::List(nodes.into()), if texts { Type::Texts } else { Type::List }))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, of) = self.node(&entry.key);
                    if !of.may_be(Type::Text) {
                        return Err(Wrong::new(&entry.key, format!("{} is no key of a map", of.name()))
                            .hint("keys are texts: `{'paid': 10}`"));
                    }
                    entries.push((key, self.node(&entry.value).0));
                }
                Ok((Node::Map(entries.into()), Type::Map))
            }
            Expr::Comprehension(each) => self.each(expr, each),
            Expr::Struct(_) | Expr::Unspecified => {
                Err(Wrong::new(expr, "is a kind of expression that is not supported").hint("see docs/expressions.md"))
            }
        }
    }

    fn local(&self, name: &str) -> Option<Typed> {
        let at = self.locals.iter().rposition(|(local, _)| local == name)?;
        Some((Node::Local(at), self.locals[at].1))
    }

    fn name(&mut self, expr: &IdedExpr, name: &str) -> Result<Typed, Wrong> {
        if let Some(local) = self.local(name) {
            return Ok(local);
        }
        if let Some(fact) = self.fact(expr)? {
            return Ok(fact);
        }
        let hint = match name {
            "path" => "`path.NAME` is a parameter of the route's path, and `request.path` all of the path",
            "request" => "only `request.path` is known of it; `method`, `host` and `headers` stand by themselves",
            "headers" => "name one: `headers.authorization`, `headers['x-tenant']`",
            "query" | "cookies" => "name one: `query.page`, `cookies['session']`",
            _ => {
                let known = FACTS.iter().copied().chain(self.names.extra.iter().copied());
                let near = suggest(name, known).map(|near| format!("did you mean `{near}`?"));
                let all: Vec<&str> = FACTS.iter().copied().chain(self.names.extra.iter().copied()).collect();
                return Err(Wrong::new(expr, format!("`{name}` is nothing that is known here"))
                    .hint(near.unwrap_or_else(|| format!("known are {}; texts stand in quotes", all.join(", ")))));
            }
        };
        Err(Wrong::new(expr, format!("`{name}` has no value of its own")).hint(hint))
    }

    /// A fact with the steps into it, if the expression is one: `claims.a['b'][0]`, `path.id`, `roles`.
    fn fact(&mut self, expr: &IdedExpr) -> Result<Option<Typed>, Wrong> {
        let Some((root, steps)) = chain(expr) else { return Ok(None) };
        if self.local(root).is_some() {
            return Ok(None);
        }
        let whole = |fact, of: Type| {
            if steps.is_empty() { Ok(Some((Node::Read(fact, Box::default()), of))) } else { Ok(None) }
        };
        match root {
            "roles" | "scopes" => {
                self.reads.caller = true;
                whole(if root == "roles" { Fact::Roles } else { Fact::Scopes }, Type::Texts)
            }
            "subject" => {
                self.reads.caller = true;
                whole(Fact::Subject, Type::Text)
            }
            "method" => whole(Fact::Method, Type::Text),
            "host" => whole(Fact::Host, Type::Text),
            "client_ip" => {
                self.reads.address = true;
                whole(Fact::ClientAddress, Type::Text)
            }
            "claims" => {
                self.reads.caller = true;
                let of = if steps.is_empty() { Type::Map } else { Type::Any };
                Ok(Some((Node::Read(Fact::Claims, owned(steps)), of)))
            }
            "path" | "headers" | "query" | "cookies" => match steps.as_slice() {
                [Link::Key(name)] => {
                    let fact = self.part(expr, root, name)?;
                    Ok(Some((Node::Read(fact, Box::default()), Type::Text)))
                }
                _ => Ok(None),
            },
            "request" => match steps.as_slice() {
                [Link::Key("path")] => Ok(Some((Node::Read(Fact::RequestPath, Box::default()), Type::Text))),
                _ => Ok(None),
            },
            _ => Ok(self.names.extra.iter().position(|extra| *extra == root).map(|place| {
                let of = if steps.is_empty() { Type::Map } else { Type::Any };
                (Node::Read(Fact::Extra(place), owned(steps)), of)
            })),
        }
    }

    /// A part of a fact that has nothing but parts.
    fn part(&mut self, at: &IdedExpr, root: &str, name: &str) -> Result<Fact, Wrong> {
        Ok(match root {
            "path" => Fact::Param(
                self.names
                    .params
                    .place(name)
                    .map_err(|error| Wrong::new(at, error.message).maybe_hint(error.hint).word(name))?,
            ),
            "headers" => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    Wrong::new(at, format!("`{name}` is no header name"))
                        .hint("such as `headers['x-tenant']`")
                        .word(name)
                })?;
                self.reads.headers.push(name.clone());
                Fact::Header(name)
            }
            "query" => Fact::Query(name.into()),
            _ if !is_cookie_name(name) => {
                return Err(Wrong::new(at, format!("`{name}` is no cookie name")).hint(COOKIE_NAME_HINT).word(name));
            }
            _ => {
                self.reads.headers.push(header::COOKIE);
                Fact::Cookie(name.into())
            }
        })
    }

    /// `has(headers.x)`, `'x' in query`.
    fn present(&mut self, root: &IdedExpr, name: &str) -> Result<Option<Node>, Wrong> {
        match &root.expr {
            Expr::Ident(root_name)
                if matches!(root_name.as_str(), "headers" | "query" | "cookies") && self.local(root_name).is_none() =>
            {
                self.part(root, root_name, name).map(|fact| Some(Node::Present(fact)))
            }
            _ => Ok(None),
        }
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Typed, Wrong> {
        let name = call.func_name.as_str();
        if call.target.is_some() || is_word(name) {
            return self.function(expr, call);
        }
        if let (operators::INDEX, Some(fact)) = (name, self.fact(expr)?) {
            return Ok(fact);
        }
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let sides = Box::new([self.truth(left), self.truth(right)]);
                Ok((Node::Both { is_and: name == operators::LOGICAL_AND, sides }, Type::Bool))
            }
            (operators::LOGICAL_NOT, [one]) => Ok((Node::Not(self.truth(one).into()), Type::Bool)),
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let condition = self.truth(condition);
                let ((then, one), (otherwise, other)) = (self.node(then), self.node(otherwise));
                Ok((Node::Choose(Box::new([condition, then, otherwise])), one.or(other)))
            }
            (operators::NEGATE, [one]) => {
                let (node, of) = self.node(one);
                if !of.may_be_number() {
                    return Err(Wrong::new(expr, format!("`-` before {}", of.name())).hint("only numbers have a sign"));
                }
                Ok((Node::Negate(node.into()), of))
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                let ((one, of), (other, and)) = (self.node(left), self.node(right));
                if !of.may_equal(and) {
                    return Err(Wrong::new(expr, format!("{} never equals {}", of.name(), and.name()))
                        .hint("compare two of a kind; `string(x)` makes a text of a number"));
                }
                let is_negated = name == operators::NOT_EQUALS;
                Ok((Node::Equal { is_negated, sides: Box::new([one, other]) }, Type::Bool))
            }
            (operators::IN, [item, list]) => self.within(expr, item, list),
            (operators::INDEX, [of, key]) => {
                let ((node, kind), (key, by)) = (self.node(of), self.node(key));
                let fits = kind.may_be(Type::Map) && by.may_be(Type::Text) || kind.may_be_list() && by.may_be_number();
                if !fits {
                    return Err(Wrong::new(expr, format!("{} has no item at {}", kind.name(), by.name()))
                        .hint("lists have items by number, maps by text"));
                }
                Ok((Node::Index(Box::new([node, key])), kind.item()))
            }
            (_, [left, right]) => self.operation(expr, name, left, right),
            _ => Err(Wrong::new(expr, "is a kind of expression that is not supported").hint("see docs/expressions.md")),
        }
    }

    /// A part that must be true or false.
    fn truth(&mut self, expr: &IdedExpr) -> Node {
        let (node, of) = self.node(expr);
        if !of.may_be(Type::Bool) {
            self.wrong(
                Wrong::new(expr, format!("is {} where true or false is needed", of.name()))
                    .hint("compare it with something: `==`, `!=`, `<`, `in`"),
            );
        }
        node
    }

    fn within(&mut self, expr: &IdedExpr, item: &IdedExpr, list: &IdedExpr) -> Result<Typed, Wrong> {
        if let Expr::Literal(LiteralValue::String(name)) = &item.expr
            && let Some(present) = self.present(list, name.inner())?
        {
            return Ok((present, Type::Bool));
        }
        let ((one, item), (all, list_type)) = (self.node(item), self.node(list));
        if !list_type.may_be_list() && list_type != Type::Map {
            return Err(Wrong::new(expr, format!("{} has no items, so nothing is in it", list_type.name()))
                .hint("write a list: `method in ['GET', 'HEAD']`; `x.contains(y)` looks into a text"));
        }
        let needs_text = matches!(list_type, Type::Texts | Type::Map);
        if needs_text && !item.may_be(Type::Text) {
            return Err(Wrong::new(expr, format!("{} is never in it: it has texts", item.name()))
                .hint("`string(x)` makes a text of a number"));
        }
        Ok((Node::In(Box::new([one, all])), Type::Bool))
    }

    fn operation(&mut self, expr: &IdedExpr, name: &str, left: &IdedExpr, right: &IdedExpr) -> Result<Typed, Wrong> {
        let ((one, of), (other, and)) = (self.node(left), self.node(right));
        let sides = Box::new([one, other]);
        let fail = |verb: &str, hint: &str| {
            Err(Wrong::new(expr, format!("{} cannot be {verb} {}", of.name(), and.name())).hint(hint))
        };
        let order = match name {
            operators::LESS => Some(Order::Less),
            operators::LESS_EQUALS => Some(Order::LessOrEqual),
            operators::GREATER => Some(Order::More),
            operators::GREATER_EQUALS => Some(Order::MoreOrEqual),
            _ => None,
        };
        if let Some(order) = order {
            let fits = of.may_be_number() && and.may_be_number()
                || of.may_be(Type::Text) && and.may_be(Type::Text)
                || of.may_be(Type::Bool) && and.may_be(Type::Bool);
            return match fits {
                true => Ok((Node::Compare(order, sides), Type::Bool)),
                false => fail("compared with", "compare numbers with numbers, and texts with texts"),
            };
        }
        let operation = match name {
            operators::ADD => Operation::Add,
            operators::SUBSTRACT => Operation::Subtract,
            operators::MULTIPLY => Operation::Multiply,
            operators::DIVIDE => Operation::Divide,
            operators::MODULO => Operation::Remainder,
            _ => {
                return Err(
                    Wrong::new(expr, "is a kind of expression that is not supported").hint("see docs/expressions.md")
                );
            }
        };
        let joins = operation == Operation::Add
            && (of.may_be(Type::Text) && and.may_be(Type::Text) || of.may_be_list() && and.may_be_list());
        let counts = of.may_be_number() && and.may_be_number() && (of.is_any() || and.is_any() || of == and);
        if !joins && !counts {
            return fail("calculated with", "both must be whole numbers, or both have a fraction: `1` or `1.0`");
        }
        let kind = if of.is_any() { and } else { of };
        Ok((Node::Calculate(operation, sides), kind))
    }

    fn function(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Typed, Wrong> {
        let name = call.func_name.as_str();
        let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        if name == "matches" && arguments.len() == 2 {
            return self.matches(arguments[0], arguments[1]);
        }
        let Some((_, function, count)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            if MACROS.contains(&name) {
                return Err(Wrong::new(expr, format!("`{name}` has the wrong number of arguments"))
                    .hint("`roles.exists(role, role.startsWith('team-'))`, `has(claims.plan)`, `host.matches('^api')`")
                    .word(name));
            }
            // What looks like a loop has a variable, which is known to it alone.
            let names_variable =
                |call: &CallExpr| matches!(call.args.first(), Some(IdedExpr { expr: Expr::Ident(_), .. }));
            let read = if call.target.is_some() && names_variable(call) { 1 } else { arguments.len() };
            arguments.into_iter().take(read).for_each(|argument| drop(self.node(argument)));
            let known = FUNCTIONS.iter().map(|(known, ..)| *known).chain(MACROS);
            let near = suggest(name, known.clone()).map(|near| format!("did you mean `{near}`?"));
            let all: Vec<&str> = known.collect();
            return Err(Wrong::new(expr, format!("there is no function `{name}`"))
                .hint(near.unwrap_or_else(|| format!("there are {}", all.join(", "))))
                .word(name));
        };
        if arguments.len() != *count {
            arguments.into_iter().for_each(|argument| drop(self.node(argument)));
            return Err(Wrong::new(expr, format!("`{name}` has the wrong number of arguments"))
                .hint(if *count == 1 { format!("write `{name}(x)`") } else { format!("write `x.{name}(y)`") })
                .word(name));
        }
        let mut nodes = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let (node, of) = self.node(argument);
            let fits = match function {
                Function::Size => of.may_be(Type::Text) || of.may_be_list() || of == Type::Map,
                Function::Text => !matches!(of, Type::Texts | Type::List | Type::Map | Type::Null),
                Function::Int | Function::Double => of.may_be_number() || of == Type::Text,
                _ => of.may_be(Type::Text),
            };
            if !fits {
                let hint = match *function == Function::Contains && of.may_be_list() {
                    true => "of a list ask `x in list`",
                    false => "see docs/expressions.md for what it takes",
                };
                self.wrong(Wrong::new(argument, format!("`{name}` does not take {}", of.name())).hint(hint));
            }
            nodes.push(node);
        }
        let of = match function {
            Function::Size | Function::Int => Type::Int,
            Function::Double => Type::Double,
            Function::Text | Function::LowerAscii => Type::Text,
            Function::Contains | Function::StartsWith | Function::EndsWith => Type::Bool,
        };
        Ok((Node::Call(*function, nodes.into()), of))
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr) -> Result<Typed, Wrong> {
        let (node, of) = self.node(text);
        if !of.may_be(Type::Text) {
            return Err(Wrong::new(text, format!("`matches` does not take {}", of.name())).hint("it looks at a text"));
        }
        let Expr::Literal(LiteralValue::String(pattern_text)) = &pattern.expr else {
            return Err(Wrong::new(pattern, "a regular expression must stand here as it is")
                .hint("write it in quotes: one that a caller could choose might cost anything"));
        };
        let regex = RegexBuilder::new(pattern_text.inner()).size_limit(REGEX_MAX).build().map_err(|error| {
            let error = error.to_string();
            let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Wrong::new(pattern, format!("is no regular expression: {cause}"))
                .hint("a backslash is written twice, `'\\\\d'`, or in a raw text, `r'\\d'`")
        })?;
        Ok((Node::Matches(node.into(), regex.into()), Type::Bool))
    }

    /// `all`, `exists`, `exists_one`, `map` and `filter`, as the parser has spelt them out.
    fn each(&mut self, expr: &IdedExpr, each: &ComprehensionExpr) -> Result<Typed, Wrong> {
        let (range, of) = self.node(&each.iter_range);
        if !of.may_be_list() && of != Type::Map {
            self.wrong(
                Wrong::new(&each.iter_range, format!("{} has no items to go through", of.name()))
                    .hint("go through a list, such as `roles`"),
            );
        }
        if self.locals.len() >= LOOPS_MAX {
            return Err(Wrong::new(expr, "loops stand too deep in one another")
                .hint(format!("the most is {LOOPS_MAX}: callers could make more of them expensive")));
        }
        let item = if of == Type::Map { Type::Text } else { of.item() };
        self.locals.push((each.iter_var.clone(), item));
        let read = self.body(expr, each, range);
        self.locals.pop();
        read
    }

    fn body(&mut self, expr: &IdedExpr, each: &ComprehensionExpr, range: Node) -> Result<Typed, Wrong> {
        let odd = || Wrong::new(expr, "is a loop of a kind that is not supported").hint("see docs/expressions.md");
        let Expr::Call(step) = &each.loop_step.expr else { return Err(odd()) };
        let starts_with =
            |expected: &LiteralValue| matches!(&each.accu_init.expr, Expr::Literal(start) if start == expected);
        match (step.func_name.as_str(), step.args.as_slice()) {
            (operators::LOGICAL_OR, [_, body]) if starts_with(&LiteralValue::Boolean(false.into())) => {
                Ok((Node::Each(Quantifier::Any, Box::new([range, self.truth(body)])), Type::Bool))
            }
            (operators::LOGICAL_AND, [_, body]) if starts_with(&LiteralValue::Boolean(true.into())) => {
                Ok((Node::Each(Quantifier::All, Box::new([range, self.truth(body)])), Type::Bool))
            }
            (operators::CONDITIONAL, [body, _, _]) if starts_with(&LiteralValue::Int(0.into())) => {
                Ok((Node::Each(Quantifier::One, Box::new([range, self.truth(body)])), Type::Bool))
            }
            (operators::CONDITIONAL, [condition, step, _]) => {
                let condition = self.truth(condition);
                let (made, of) = self.node(collected(step).ok_or_else(odd)?);
                Ok((Node::Collect(Box::new([range, condition, made])), list_of(of)))
            }
            (operators::ADD, _) => {
                let (made, of) = self.node(collected(&each.loop_step).ok_or_else(odd)?);
                Ok((Node::Collect(Box::new([range, Node::Bool(true), made])), list_of(of)))
            }
            _ => Err(odd()),
        }
    }
}

fn list_of(item: Type) -> Type {
    if item == Type::Text { Type::Texts } else { Type::List }
}

/// Of `@result + [x]` the `x`.
fn collected(step: &IdedExpr) -> Option<&IdedExpr> {
    let Expr::Call(call) = &step.expr else { return None };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) => list.elements.first(),
        _ => None,
    }
}

fn constant(at: &IdedExpr, literal: &LiteralValue) -> Result<Typed, Wrong> {
    Ok(match literal {
        LiteralValue::Null => (Node::Null, Type::Null),
        LiteralValue::Boolean(value) => (Node::Bool(*value.inner()), Type::Bool),
        LiteralValue::Int(value) => (Node::Int(*value.inner()), Type::Int),
        LiteralValue::Double(value) => (Node::Double(*value.inner()), Type::Double),
        LiteralValue::String(value) => (Node::Text(value.inner().into()), Type::Text),
        LiteralValue::UInt(_) => {
            return Err(Wrong::new(at, "numbers without a sign are not told apart").hint("leave the `u` out"));
        }
        LiteralValue::Bytes(_) => {
            return Err(Wrong::new(at, "there are no bytes to compare with").hint("leave the `b` out"));
        }
    })
}

/// A step of a chain.
enum Link<'e> {
    Key(&'e str),
    Item(usize),
}

fn owned(links: Vec<Link<'_>>) -> Box<[Step]> {
    let step = |link| match link {
        Link::Key(key) => Step::Key(Box::from(key)),
        Link::Item(place) => Step::Item(place),
    };
    links.into_iter().map(step).collect()
}

/// `a.b['c'][0]` is `a` with three steps.
fn chain(expr: &IdedExpr) -> Option<(&str, Vec<Link<'_>>)> {
    let mut links = Vec::new();
    let mut expr = expr;
    loop {
        match &expr.expr {
            Expr::Ident(name) => {
                links.reverse();
                return Some((name, links));
            }
            Expr::Select(select) if !select.test => {
                links.push(Link::Key(&select.field));
                expr = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, key] = call.args.as_slice() else { return None };
                links.push(match &key.expr {
                    Expr::Literal(LiteralValue::String(key_text)) => Link::Key(key_text.inner()),
                    Expr::Literal(LiteralValue::Int(place)) => Link::Item(usize::try_from(*place.inner()).ok()?),
                    _ => return None,
                });
                expr = operand;
            }
            _ => return None,
        }
    }
}

fn is_word(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
}
