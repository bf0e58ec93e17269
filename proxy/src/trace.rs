//! Traces that a request is part of, as W3C's Trace Context has them.
//!
//! Owns the headers `traceparent` and `tracestate` of requests to functions. What a client sends is passed on as it is
//! if it is valid, and dropped if not: the function then begins a trace of its own. Where Roost takes part itself, the
//! function sees a span of Roost's as its parent, in the client's trace or a new one. Never sends spans anywhere: that is
//! for who takes the entries of the access log.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::call::CallIds;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of the version that we know. Later ones begin the same.
const LENGTH: usize = 55;

/// The flags of a trace that begins here: whoever records spans is to record those of this one.
const SAMPLED: u8 = 1;

/// A request's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The whole trace.
    pub trace_id: u128,
    /// The client's span, if it sent one.
    pub parent_id: Option<u64>,
    /// Our own span, if we take part.
    pub span_id: Option<u64>,
    /// Whoever records spans is to record those of this trace.
    pub sampled: bool,
}

impl Trace {
    /// Is there a span of ours that is to be recorded?
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.sampled && self.span_id.is_some()
    }
}

/// What a client says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Makes a client's trace the one for the function. `Some` of `ids` is where the ids of our own spans come from; without,
/// we take no part.
pub(crate) fn pass_on(headers: &mut HeaderMap, ids: Option<&CallIds>) -> Option<Trace> {
    let parent = of_client(headers);
    let Some(ids) = ids else {
        return parent.map(|Parent { trace_id, span_id, flags }| Trace {
            trace_id,
            parent_id: Some(span_id),
            span_id: None,
            sampled: flags & SAMPLED != 0,
        });
    };
    // Zero is no id.
    let span_id = (ids.bits() as u64).max(1);
    let (trace_id, flags) = match parent {
        Some(parent) => (parent.trace_id, parent.flags),
        None => (ids.bits().max(1), SAMPLED),
    };
    let text = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
    headers.insert(TRACEPARENT, HeaderValue::from_str(&text).expect("hexadecimal digits and dashes"));
    Some(Trace {
        trace_id,
        parent_id: parent.map(|parent| parent.span_id),
        span_id: Some(span_id),
        sampled: flags & SAMPLED != 0,
    })
}

/// What the headers say, if it is valid; if not, they are removed.
fn of_client(headers: &mut HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let parent = match (values.next(), values.next()) {
        (Some(one), None) => parse(one.as_bytes()),
        (None, _) | (_, Some(_)) => None,
    };
    if parent.is_none() {
        headers.remove(TRACEPARENT);
        // It means nothing without the other.
        headers.remove(TRACESTATE);
    }
    parent
}

/// Reads a `traceparent`: version, trace, span and flags, in lower case.
fn parse(text: &[u8]) -> Option<Parent> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    if [2, 35, 52].iter().any(|at| known[*at] != b'-') {
        return None;
    }
    match hex(&known[..2])? {
        0 if rest.is_empty() => {}
        0 | 0xff => return None,
        // A later version may say more behind another dash.
        _ if rest.first().is_none_or(|byte| *byte == b'-') => {}
        _ => return None,
    }
    let parent = Parent {
        trace_id: hex(&known[3..35])?,
        span_id: u64::try_from(hex(&known[36..52])?).ok()?,
        flags: u8::try_from(hex(&known[53..])?).ok()?,
    };
    (parent.trace_id != 0 && parent.span_id != 0).then_some(parent)
}

/// The number that lower-case hexadecimal digits make.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn headers(parents: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).unwrap());
        }
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers
    }

    const INVALID: [&str; 12] = [
        "",
        "00",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7--01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
    ];

    #[test]
    fn a_valid_trace_goes_on_as_it_is_and_another_not_at_all() {
        for good in [GOOD, "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"] {
            let mut given = headers(&[good]);
            let trace = Trace { trace_id: TRACE, parent_id: Some(SPAN), span_id: None, sampled: true };
            assert_eq!(pass_on(&mut given, None), Some(trace));
            assert_eq!(given, headers(&[good]));
        }
        for bad in INVALID {
            let mut given = headers(&[bad]);
            assert_eq!(pass_on(&mut given, None), None, "{bad}");
            assert!(given.is_empty(), "{bad}");
        }
        let mut twice = headers(&[GOOD, GOOD]);
        assert_eq!(pass_on(&mut twice, None), None);
        assert!(twice.is_empty());
    }

    #[test]
    fn where_we_take_part_the_functions_parent_is_our_span() {
        let ids = CallIds::default();
        let mut given = headers(&[&GOOD.replace("-01", "-00")]);
        let trace = pass_on(&mut given, Some(&ids)).unwrap();
        assert_eq!((trace.trace_id, trace.parent_id), (TRACE, Some(SPAN)));
        let sent = parse(given[TRACEPARENT].as_bytes()).unwrap();
        assert_eq!(sent, Parent { trace_id: TRACE, span_id: trace.span_id.unwrap(), flags: 0 });
        assert_ne!(sent.span_id, SPAN);
        assert!(!trace.is_recorded(), "who began the trace does not want it recorded");
        assert_eq!(given[TRACESTATE], "a=1", "what others have to say of the trace stays");
    }

    #[test]
    fn where_we_take_part_and_there_is_no_trace_one_begins() {
        let ids = CallIds::default();
        let mut seen = std::collections::HashSet::new();
        for parents in [&[][..], &["nonsense"], &[GOOD, GOOD]] {
            let mut given = headers(parents);
            let trace = pass_on(&mut given, Some(&ids)).unwrap();
            assert_eq!(trace.parent_id, None);
            let sent = parse(given[TRACEPARENT].as_bytes()).unwrap();
            assert_eq!((sent.trace_id, Some(sent.span_id)), (trace.trace_id, trace.span_id));
            assert_eq!(sent.flags, SAMPLED);
            assert!(trace.is_recorded());
            assert!(!given.contains_key(TRACESTATE));
            assert!(seen.insert(trace.trace_id) && trace.trace_id != TRACE);
        }
    }
}
