//! Whether the head of an answer is one that may be passed on.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;

use super::error::{Error, Kind};
use super::plan::Plan;
use crate::http::websocket::Wish;

/// Checks what hyper lets pass. `wish` is the upgrade that was asked for. The error says what is wrong.
pub(super) fn check(head: &Parts, plan: &Plan, wish: Option<&Wish>) -> Result<(), Error> {
    // RFC 9110 §15: the first digit is 1 to 5. A 101 is for who asked for it, and answers that wish.
    let is_granted = || head.status == 101 && wish.is_some_and(|wish| wish.is_granted(&head.headers));
    if !(200..=599).contains(&head.status.as_u16()) && !is_granted() {
        return Err(Error::because(Kind::Protocol, "its status is none that may end an exchange"));
    }
    if head.headers.len() > plan.headers_max {
        return Err(Error::because(Kind::HeadTooLarge, "the answer has too many fields"));
    }
    let (mut length, mut coding) = (None, None);
    // One walk: for the few headers of an answer it costs less than a look-up.
    for (name, value) in &head.headers {
        let known = match name {
            name if *name == CONTENT_LENGTH => &mut length,
            name if *name == TRANSFER_ENCODING => &mut coding,
            _ => continue,
        };
        // hyper takes repeated equal lengths for one and passes every line on; readers behind us may take them
        // otherwise (RFC 9112 §6.3 allows to refuse).
        if known.replace(value.as_bytes()).is_some() {
            return Err(Error::because(Kind::Protocol, "`content-length` or `transfer-encoding` is repeated"));
        }
    }
    if let Some(digits) = length {
        let is_number = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(Error::because(Kind::Protocol, "`content-length` is not a number"));
        }
    }
    if let Some(coding) = coding {
        // RFC 9112 §6.1 and §6.3: a length beside a coding is an attempt at smuggling or a fault, and no coding but
        // `chunked` was asked for.
        if length.is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Error::because(
                Kind::Protocol,
                "`transfer-encoding` is not `chunked`, or stands beside `content-length`",
            ));
        }
    }
    Ok(())
}
