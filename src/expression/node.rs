//! A compiled expression: a tree in which every name has become a place.

use regex::Regex;

/// What an expression is made of.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    /// A fact of the exchange, or a part of one.
    Read(Fact, Box<[Step]>),
    /// Whether there is such a header, query parameter or cookie.
    Present(Fact),
    /// The variable of a loop, by its depth.
    Local(usize),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Both, or either: `is_and` tells which.
    Both {
        is_and: bool,
        sides: Box<[Node; 2]>,
    },
    Choose(Box<[Node; 3]>),
    Equal {
        is_negated: bool,
        sides: Box<[Node; 2]>,
    },
    Compare(Order, Box<[Node; 2]>),
    Calculate(Operation, Box<[Node; 2]>),
    /// Whether the first is an item of the second, or a key of it.
    In(Box<[Node; 2]>),
    /// An item of a list, or the value of a key.
    Index(Box<[Node; 2]>),
    /// The value of a key.
    Member(Box<Node>, Box<str>),
    /// Whether there is such a key.
    Has(Box<Node>, Box<str>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Call(Function, Box<[Node]>),
    Matches(Box<Node>, Box<Regex>),
    /// Something about the items of a list, or the keys of a map.
    Each(Quantifier, Box<[Node; 2]>),
    /// What is made of each item (the last) for which a condition (the second) holds.
    Collect(Box<[Node; 3]>),
}

/// A fact of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Claims,
    Roles,
    Scopes,
    Subject,
    /// A parameter of the path, by its place.
    Param(usize),
    RequestPath,
    Method,
    Host,
    ClientAddress,
    Header(http::HeaderName),
    Query(Box<str>),
    Cookie(Box<str>),
    /// A value that was handed in, by its place.
    Extra(usize),
}

/// A step into a claim.
#[derive(Debug)]
pub(super) enum Step {
    Key(Box<str>),
    Item(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    Text,
    Int,
    Double,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    All,
    Any,
    One,
}

/// What is known of a value before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// It may be anything: only the token, or what was handed in, knows.
    Any,
    Null,
    Bool,
    Int,
    Double,
    Text,
    /// Of texts.
    Texts,
    List,
    Map,
}

impl Type {
    /// As a person says it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Double => "a number with a fraction",
            Self::Text => "a text",
            Self::Texts | Self::List => "a list",
            Self::Map => "a map",
        }
    }

    pub(super) const fn is_any(self) -> bool {
        matches!(self, Self::Any)
    }

    /// Whether it could be this one.
    pub(super) fn may_be(self, other: Self) -> bool {
        self.is_any() || self == other
    }

    pub(super) const fn may_be_number(self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Double)
    }

    pub(super) const fn may_be_list(self) -> bool {
        matches!(self, Self::Any | Self::Texts | Self::List)
    }

    /// What its items are, or its keys.
    pub(super) const fn item(self) -> Self {
        match self {
            Self::Texts => Self::Text,
            _ => Self::Any,
        }
    }

    /// Whether two values of these could ever be equal.
    pub(super) fn may_equal(self, other: Self) -> bool {
        self.is_any()
            || other.is_any()
            || self == other
            || self.may_be_number() && other.may_be_number()
            || self.may_be_list() && other.may_be_list()
            // Asking whether something is null is never a mistake.
            || self == Self::Null
            || other == Self::Null
    }

    /// What two sides have in common.
    pub(super) fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::Any }
    }
}
