//! Expressions in the configuration: conditions and numbers, written in CEL, over what is known of an exchange.
//!
//! `compile.rs` reads a text with the crate `cel` and turns it into a tree of our own (`node.rs`), in which no name is
//! left: a claim is a path, a path parameter a place, a regular expression is compiled. `evaluate.rs` walks that tree over an
//! [`Exchange`]: it reads only what the expression names, copies nothing, and gives up after a bounded number of steps,
//! so that no caller can make an expression expensive. All use of the crate stays in `compile.rs`.

mod compile;
mod evaluate;
mod node;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use http::HeaderName;
use serde_json::Value;

use crate::config::{Issue, KeyPath};
use crate::exchange::Exchange;
use crate::exchange::template::Params;
use node::{Node, Type};

/// The longest expression, in bytes.
pub const LENGTH_MAX: usize = 2048;

/// What an expression may name besides the facts of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Names<'n> {
    /// The parameters of the route's path: `path.id`.
    pub params: &'n Params,
    /// Values that the caller hands in when it evaluates, in this order: `parts`.
    pub extra: &'n [&'n str],
}

impl<'n> Names<'n> {
    /// The facts of an exchange on a route with these path parameters.
    pub fn of(params: &'n Params) -> Self {
        Self { params, extra: &[] }
    }
}

/// An expression, compiled.
struct Expression {
    node: Node,
    reads: Reads,
}

/// What an expression reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Who calls: `claims`, `roles`, `scopes` or `subject`.
    pub caller: bool,
    /// The client's address.
    pub address: bool,
    /// Headers of the request; for its cookies, the one in which they stand.
    pub headers: Vec<HeaderName>,
}

/// An expression that is true or false of an exchange: `path.id in claims.orders`.
pub struct Condition(Expression);

impl Condition {
    /// Compiles it.
    ///
    /// # Errors
    /// It is no expression, names what is not there, or can be seen never to be true or false.
    pub fn compile(text: &str, names: Names<'_>) -> Result<Self, Mistakes> {
        compile::compile(text, names, Type::Bool).map(Self)
    }

    /// What it reads.
    pub fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It cannot be told: see [`Fault`]. Whoever asks must then take the safe side.
    pub fn holds(&self, exchange: &Exchange) -> Result<bool, Fault> {
        self.holds_with(exchange, &[])
    }

    /// Whether it holds, given the values of [`Names::extra`].
    ///
    /// # Errors
    /// As [`holds`](Self::holds).
    pub fn holds_with(&self, exchange: &Exchange, extra: &[&Value]) -> Result<bool, Fault> {
        evaluate::condition(&self.0.node, exchange, extra)
    }
}

/// An expression that is a whole number: `size(claims.orders) + 1`.
pub struct Number(Expression);

impl Number {
    /// Compiles it.
    ///
    /// # Errors
    /// It is no expression, names what is not there, or can be seen never to be a whole number.
    pub fn compile(text: &str, names: Names<'_>) -> Result<Self, Mistakes> {
        compile::compile(text, names, Type::Int).map(Self)
    }

    /// What it reads.
    pub fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// The number, which may be negative.
    ///
    /// # Errors
    /// It cannot be told: see [`Fault`]. Whoever asks must then take the safe side.
    pub fn of(&self, exchange: &Exchange) -> Result<i64, Fault> {
        self.with(exchange, &[])
    }

    /// The number, given the values of [`Names::extra`].
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn with(&self, exchange: &Exchange, extra: &[&Value]) -> Result<i64, Fault> {
        evaluate::number(&self.0.node, exchange, extra)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condition")
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Number")
    }
}

/// Why an expression does not compile: all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    fn one(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }

    /// As issues with the expression `text`, which stands at `path`.
    pub fn issues(self, path: &KeyPath, text: &str) -> impl Iterator<Item = Issue> {
        self.0.into_iter().map(move |mistake| mistake.issue(path.clone(), text))
    }
}

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Which bytes of the expression.
    pub part: Range<usize>,
}

impl Mistake {
    fn issue(self, path: KeyPath, text: &str) -> Issue {
        Issue::new(path, self.message).maybe_hint(self.hint).part(text, self.part)
    }
}

/// Why an expression has no value for an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It reads what is not there. `has(claims.plan)` asks before.
    Absent,
    /// Values do not go together: a text is less than no number, and no list.
    Types,
    /// A header, parameter or cookie stands several times: the next reader might take another one.
    Ambiguous,
    /// Bytes that are no text.
    NotText,
    /// A number out of bounds, or a division by zero.
    Arithmetic,
    /// It takes too many steps.
    TooMuch,
}

impl Fault {
    /// Its stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Types => "types",
            Self::Ambiguous => "ambiguous",
            Self::NotText => "not_text",
            Self::Arithmetic => "arithmetic",
            Self::TooMuch => "too_much",
        }
    }
}
