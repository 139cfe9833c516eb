//! Whether the head of an answer is one that may be passed on.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;

use super::error::Kind;
use super::plan::Plan;

/// Checks what hyper lets pass. The error says what is wrong.
pub(super) fn check(head: &Parts, plan: &Plan) -> Result<(), Kind> {
    // 101 is for upgrades, and no request asks for one. RFC 9110 §15: the first digit is 1 to 5.
    if !(200..=599).contains(&head.status.as_u16()) {
        return Err(Kind::Protocol);
    }
    if head.headers.len() > plan.headers_max {
        return Err(Kind::HeadTooLarge);
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
            return Err(Kind::Protocol);
        }
    }
    if let Some(digits) = length {
        let is_number = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(Kind::Protocol);
        }
    }
    if let Some(coding) = coding {
        // RFC 9112 §6.1 and §6.3: a length beside a coding is an attempt at smuggling or a fault, and no coding but
        // `chunked` was asked for.
        if length.is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Kind::Protocol);
        }
    }
    Ok(())
}
