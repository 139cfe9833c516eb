//! The strict rules of HTTP/1.1 answers, without any IO: where an answer's head ends, what stands in it, how its body is
//! delimited, and everything that is refused because two readers could take it in two ways.
//!
//! [`HeadReader`] reads a head while it arrives, [`BodyReader`] takes the body out of what follows. Both come to the same
//! result however the bytes are cut into reads.
//!
//! Where RFC 9112 leaves a choice, the stricter reading is taken:
//! - every line ends with CR LF, the status line is the first, and no line goes on with the next;
//! - two `Content-Length` lines are refused even when they agree, and so is one beside a `Transfer-Encoding`;
//! - no coding but a single `chunked` is taken, and none from HTTP/1.0;
//! - a byte behind an answer belongs to no answer.

mod body;
mod head;
#[cfg(test)]
mod tests;

pub use body::{BodyReader, Piece};
pub use head::{Asked, Fault, Framing, Head, HeadBounds, HeadReader, says_close};

/// Where the value begins and ends that follows `from`, without the blanks around it.
fn trimmed(line: &[u8], mut from: usize) -> (usize, usize) {
    let mut to = line.len();
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    while from < to && is_blank(line[from]) {
        from += 1;
    }
    while from < to && is_blank(line[to - 1]) {
        to -= 1;
    }
    (from, to)
}
