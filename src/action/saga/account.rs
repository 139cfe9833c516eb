//! What became of each step of a saga, kept while it runs, and how its client is told.

use std::cell::{Ref, RefCell, RefMut};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::Saga;
use crate::action::fill::Said;
use crate::action::json::{Json, Kind, write_text};
use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::Body;
use crate::telemetry::record::{AttemptRow, PartRow, ROWS_MAX, Record};

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was not begun.
    NotAsked,
    /// It is done.
    Done,
    /// It failed, and certainly changed nothing.
    Failed,
    /// Nobody knows whether it was done.
    Uncertain,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
        }
    }

    /// Whether there may be something to undo.
    pub(super) fn may_be_done(self) -> bool {
        matches!(self, Self::Done | Self::Uncertain)
    }
}

/// What became of a step's compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// There is none to be had, or not yet.
    No,
    /// It is still to come, or under way.
    Pending,
    Done,
    /// For this reason.
    Failed(&'static str),
    /// The file says that the step need not be undone.
    Off,
}

/// A step, as far as it came.
pub(super) struct Row {
    pub(super) name: Arc<str>,
    pub(super) state: State,
    pub(super) reason: Option<&'static str>,
    pub(super) is_late: bool,
    pub(super) status: Option<StatusCode>,
    pub(super) headers: HeaderMap,
    /// `null`: there is none.
    pub(super) body: Json,
    pub(super) undone: Undone,
}

/// What is known of a saga.
pub(super) struct Book {
    pub(super) rows: Vec<Row>,
    /// The step that failed.
    pub(super) failed: Option<usize>,
    /// It is over, and this came of it.
    pub(super) end: Option<End>,
    pub(super) parts: Vec<PartRow>,
    pub(super) attempts: Vec<AttemptRow>,
}

/// What came of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Completed,
    /// One failed, and whatever was done is undone.
    Compensated,
    /// One failed, and not all that was done is undone.
    Unresolved,
}

impl End {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Unresolved => "compensation_failed",
        }
    }
}

/// A saga's book. Whoever runs it writes, and its client reads.
pub struct Account {
    /// What the saga is called.
    pub id: Box<str>,
    book: RefCell<Book>,
}

impl Account {
    pub(super) fn new(id: &str, names: impl Iterator<Item = Arc<str>>) -> Self {
        let row = |name| Row {
            name,
            state: State::NotAsked,
            reason: None,
            is_late: false,
            status: None,
            headers: HeaderMap::new(),
            body: Json::null(),
            undone: Undone::No,
        };
        let rows = names.map(row).collect();
        let book = Book { rows, failed: None, end: None, parts: Vec::new(), attempts: Vec::new() };
        Self { id: id.into(), book: RefCell::new(book) }
    }

    /// To read. Never held while anybody waits.
    pub(super) fn book(&self) -> Ref<'_, Book> {
        self.book.borrow()
    }

    /// To write. Never held while anybody waits.
    pub(super) fn write(&self) -> RefMut<'_, Book> {
        self.book.borrow_mut()
    }

    /// Hands over to the log what was asked of upstreams.
    pub fn tell(&self, record: &mut Record) {
        let mut book = self.write();
        let (parts, attempts) = (std::mem::take(&mut book.parts), std::mem::take(&mut book.attempts));
        let room = ROWS_MAX.saturating_sub(record.parts.len());
        record.parts.extend(parts.into_iter().take(room));
        let room = ROWS_MAX.saturating_sub(record.attempts.len());
        record.attempts.extend(attempts.into_iter().take(room));
    }
}

impl Book {
    /// What the step at this place said.
    pub(super) fn said(&self, place: usize) -> Option<Said<'_>> {
        let row = self.rows.get(place).filter(|row| row.state == State::Done)?;
        Some(Said { body: row.body.view(), status: row.status, headers: Some(&row.headers) })
    }

    /// How a log sees it: `reserve done, compensated; pay uncertain, compensation failed (upstream-timeout)`.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| row.state != State::NotAsked) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&row.name);
            text.push(' ');
            text.push_str(row.state.word());
            if let Some(reason) = row.reason {
                text.push_str(" (");
                text.push_str(reason);
                text.push(')');
            }
            match row.undone {
                Undone::No | Undone::Off => {}
                Undone::Pending => text.push_str(", not undone"),
                Undone::Done => text.push_str(", undone"),
                Undone::Failed(why) => {
                    text.push_str(", not undone (");
                    text.push_str(why);
                    text.push(')');
                }
            }
        }
        text
    }
}

impl Saga {
    /// What the client is told.
    ///
    /// # Errors
    /// Not all steps are done. What became of each is then left with the exchange.
    pub fn answer(&self, account: &Account, exchange: &mut Exchange) -> Result<Response<Body>, Rejection> {
        let book = account.book();
        let reason = match book.end {
            Some(End::Completed) => return Ok(completed(account, &book)),
            Some(End::Compensated) => Reason::SagaCompensated,
            Some(End::Unresolved) => Reason::SagaUnresolved,
            None => Reason::SagaCompensating,
        };
        let mut rejection = Rejection::from(reason);
        if let Some(place) = book.failed
            && let (Some(row), Some(step)) = (book.rows.get(place), self.steps.get(place))
        {
            // What could not be undone is no upstream's answer any more.
            if reason == Reason::SagaCompensated {
                let passed = row.status.filter(|status| step.pass_status.contains(status));
                rejection.status = passed.or(row.is_late.then_some(StatusCode::GATEWAY_TIMEOUT));
            }
            let why = row.reason.unwrap_or("unknown");
            rejection = rejection.detail(format!("The step `{}` failed: {why}.", row.name));
        }
        let mut members = Map::new();
        members.insert("saga".into(), (*account.id).into());
        members.insert("outcome".into(), book.end.map_or("compensating", End::word).into());
        members.insert("steps".into(), book.rows.iter().map(Row::shown).collect());
        exchange.closing.members = Some(Box::new(members));
        Err(rejection)
    }
}

impl Row {
    /// As the client sees it, in problem documents.
    fn shown(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("step".into(), (*self.name).into());
        shown.insert("outcome".into(), self.state.word().into());
        if let Some(reason) = self.reason {
            shown.insert("reason".into(), reason.into());
        }
        if let Some(status) = self.status {
            shown.insert("status".into(), status.as_u16().into());
        }
        let (word, why) = match self.undone {
            Undone::No => return Value::Object(shown),
            Undone::Pending => ("pending", None),
            Undone::Done => ("done", None),
            Undone::Failed(why) => ("failed", Some(why)),
            Undone::Off => ("off", None),
        };
        shown.insert("compensation".into(), word.into());
        if let Some(why) = why {
            shown.insert("compensation_reason".into(), why.into());
        }
        Value::Object(shown)
    }
}

/// The answer when all is done. Bodies pass byte for byte.
fn completed(account: &Account, book: &Book) -> Response<Body> {
    let mut out = b"{\"saga\":".to_vec();
    write_text(&mut out, &account.id);
    out.extend_from_slice(b",\"outcome\":\"completed\",\"steps\":[");
    for (place, row) in book.rows.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"{\"step\":" } else { b",{\"step\":" });
        write_text(&mut out, &row.name);
        out.extend_from_slice(b",\"outcome\":\"done\"");
        if let Some(status) = row.status {
            out.extend_from_slice(b",\"status\":");
            out.extend_from_slice(status.as_str().as_bytes());
        }
        if row.body.view().kind() != Kind::Null {
            out.extend_from_slice(b",\"body\":");
            out.extend_from_slice(row.body.bytes());
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    let mut response = Response::new(Body::full(out));
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    response.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
