//! The requests. `{S}` stands for a whole request that nobody sent, `{N}` for its length.

/// One request, or what looks like one.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Expected,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    /// One answer of 4xx, and the connection is closed. No server sees it whole.
    Refused,
    /// The server sees this, once: `METHOD PATH LENGTH`. What comes behind it on the connection is another request.
    One(&'static str),
    /// The same, and the connection is closed: what comes behind it is not read.
    OneAndClosed(&'static str),
}

use Expected::{One, OneAndClosed, Refused};

const SMUGGLED: &str = "GET /function/f/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

const EMPTY: Expected = One("POST /one 0");
const FIVE: Expected = One("POST /one 5");

/// What stands behind `POST /function/f/one HTTP/1.1`, a line with the host, and the name.
const POSTED: &[(&str, &[u8], Expected)] = &[
    // Two lengths.
    ("length and chunked, empty", b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 0")),
    ("length and chunked", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 5")),
    ("chunked and length", b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 5")),
    ("chunked behind a tab and length", b"Content-Length: 3\r\nTransfer-Encoding:\tchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 5")),
    ("chunked and a length that is none", b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 0")),
    ("two lengths", b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{S}", Refused),
    ("zero and a length", b"Content-Length: 0\r\nContent-Length: {N}\r\n\r\n{S}", Refused),
    ("the same length twice", b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("the same length twice in a line", b"Content-Length: 5, 5\r\n\r\nhello{S}", Refused),
    // Codings.
    ("chunked", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
    ("chunked in capitals", b"tRANSFER-eNCODING:CHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
    ("a space in front of the colon", b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("xchunked", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked, identity", b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{S}", Refused),
    ("identity, chunked", b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("identity", b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked, then cow", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n{S}", Refused),
    ("cow, then chunked", b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked in quotes", b"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{S}", Refused),
    ("chunked with a parameter", b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a comma in front of chunked", b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a comma behind chunked", b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a byte above 127", b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a coding on the next line", b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("an empty coding", b"Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a coding with an underscore", b"Transfer_Encoding: chunked\r\nContent-Length: {N}\r\n\r\n{S}", Refused),
    ("a coding behind a line feed", b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n{S}", OneAndClosed("POST /one 0")),
    ("a name in two lines", b"Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("a name behind a carriage return", b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    // Lengths.
    ("a length with a plus", b"Content-Length: +5\r\n\r\nhello{S}", Refused),
    ("a length with a minus", b"Content-Length: -5\r\n\r\nhello{S}", Refused),
    ("a length in hexadecimal", b"Content-Length: 0x5\r\n\r\nhello{S}", Refused),
    ("a length that others read as octal", b"Content-Length: 010\r\n\r\nhelloworld{S}", Refused),
    ("two numbers in a length", b"Content-Length: 5 6\r\n\r\nhello{S}", Refused),
    ("a length with letters behind it", b"Content-Length: 5a\r\n\r\nhello{S}", Refused),
    ("a length with a fraction", b"Content-Length: 5.0\r\n\r\nhello{S}", Refused),
    ("an empty length", b"Content-Length:\r\n\r\n{S}", Refused),
    ("a length that is too large to be one", b"Content-Length: 18446744073709551621\r\n\r\nhello{S}", Refused),
    ("a length in other digits", b"Content-Length: \xd9\xa5\r\n\r\nhello{S}", Refused),
    ("a length in two lines", b"Content-Length: 5\r\n 0\r\n\r\nhello{S}", Refused),
    ("a length behind a vertical tab", b"Content-Length: \x0b5\r\n\r\nhello{S}", Refused),
    ("a length with an underscore", b"Content_Length: 3\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a length with a space in front of the colon", b"Content-Length : 5\r\n\r\nhello{S}", Refused),
    ("a request as a body", b"Content-Length: {N}\r\n\r\n{S}", One("POST /one 46")),
    // Chunks.
    ("a request as a chunk", b"Transfer-Encoding: chunked\r\n\r\n2e\r\n{S}\r\n0\r\n\r\n", One("POST /one 46")),
    ("an extension", b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", FIVE),
    ("an empty extension", b"Transfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0;\r\n\r\n", FIVE),
    ("a line feed in an extension", b"Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a line break in a quoted extension", b"Transfer-Encoding: chunked\r\n\r\n0;a=\"\r\n\"\r\n\r\n{S}", Refused),
    ("a line feed behind a size", b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a line feed behind a chunk", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n{S}", Refused),
    ("a carriage return too many behind a size", b"Transfer-Encoding: chunked\r\n\r\n5\r\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size with 0x", b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size with a plus", b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size with a minus", b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size behind a space", b"Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size with a space behind it", b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", FIVE),
    ("a size with an underscore", b"Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size that is too large to be one", b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("no size", b"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a size that is none", b"Transfer-Encoding: chunked\r\n\r\ng\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a chunk that is longer than its size", b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n{S}", Refused),
    ("a chunk without an end", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n{S}", Refused),
    ("a last chunk of many zeros", b"Transfer-Encoding: chunked\r\n\r\n0000000000000000000\r\n\r\n", EMPTY),
    ("lengths in trailers", b"Transfer-Encoding: chunked\r\nTrailer: Content-Length, Transfer-Encoding\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\n\r\n", FIVE),
    ("a trailer that is none", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nno colon\r\n\r\n{S}", Refused),
    // Headers of the connection.
    ("the length named in Connection", b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("the coding named in Connection", b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
    ("the host named in Connection", b"Connection: Host\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("headers of ours named in Connection", b"Connection: X-Forwarded-For, X-Call-Id, X-Start-Time\r\nX-Call-Id: x\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("an offer of HTTP/2", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("an offer of HTTP/2 and of WebSocket", b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n", EMPTY),
    ("an upgrade with a body", b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {N}\r\n\r\n{S}", Refused),
    ("an upgrade with a chunked body", b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\n{S}\r\n0\r\n\r\n", Refused),
    ("an upgrade that nobody takes", b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", EMPTY),
    ("an expectation", b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("an expectation that is none", b"Expect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    // Bytes that are none of a header's.
    ("a NUL", b"X: a\x00b\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a carriage return", b"X: a\rb\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a control byte", b"X: a\x01b\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a deletion", b"X: a\x7fb\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a value in two lines", b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a value in two lines, with a tab", b"X: a\r\n\tContent-Length: 50\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a line without a colon", b"X\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a header without a name", b": a\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a space in a name", b"X y: a\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a NUL in a name", b"X\x00: a\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("a line feed for a line's end", b"X: a\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("another host", b"Host: g\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("the same host again", b"hOST: h\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
    ("an address of ours with underscores", b"X_Forwarded_For: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello{S}", Refused),
];

/// From the first byte on.
const WHOLE: &[(&str, &[u8], Expected)] = &[
    ("no host", b"GET /function/f/one HTTP/1.1\r\n\r\n{S}", Refused),
    ("a host that is none", b"GET /function/f/one HTTP/1.1\r\nHost: h/../x\r\n\r\n{S}", Refused),
    ("chunked in HTTP/1.0", b"POST /function/f/one HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}", Refused),
    ("HTTP/1.0", b"POST /function/f/one HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello{S}", OneAndClosed("POST /one 5")),
    ("HTTP/1.0 that stays", b"POST /function/f/one HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", FIVE),
    ("HTTP/1.0 that would upgrade", b"GET /function/f/one HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{S}", OneAndClosed("GET /one 0")),
    ("HTTP/0.9", b"GET /function/f/one\r\n{S}", Refused),
    ("HTTP/1.2", b"GET /function/f/one HTTP/1.2\r\nHost: h\r\n\r\n{S}", Refused),
    ("HTTP/2.0", b"GET /function/f/one HTTP/2.0\r\nHost: h\r\n\r\n{S}", Refused),
    ("http/1.1", b"GET /function/f/one http/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a space behind the version", b"GET /function/f/one HTTP/1.1 \r\nHost: h\r\n\r\n{S}", Refused),
    ("two versions", b"GET /function/f/one HTTP/1.1 HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a tab behind the method", b"GET\t/function/f/one HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a space in the path", b"GET /function/f/one two HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a NUL in the path", b"GET /function/f/one\x00 HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a line break in the path", b"GET /function/f/one\r\nX: HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a method that is none", b"G@T /function/f/one HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a whole URL", b"GET http://h/function/f/one HTTP/1.1\r\nHost: h\r\n\r\n", One("GET /one 0")),
    ("a whole URL of another host", b"GET http://g/function/f/one HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("a whole URL with a user", b"GET http://h@g/function/f/one HTTP/1.1\r\nHost: g\r\n\r\n{S}", Refused),
    ("a whole URL of another scheme", b"GET gopher://h/function/f/one HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("empty lines in front", b"\r\n\r\nGET /function/f/one HTTP/1.1\r\nHost: h\r\n\r\n", One("GET /one 0")),
    ("a space in front", b" GET /function/f/one HTTP/1.1\r\nHost: h\r\n\r\n{S}", Refused),
    ("line feeds only", b"GET /function/f/one HTTP/1.1\nHost: h\n\n", One("GET /one 0")),
    ("a space in front of the first header", b"GET /function/f/one HTTP/1.1\r\n Host: h\r\n\r\n{S}", Refused),
    ("a GET with a body", b"GET /function/f/one HTTP/1.1\r\nHost: h\r\nContent-Length: {N}\r\n\r\n{S}", One("GET /one 46")),
    ("a GET with a chunked body", b"GET /function/f/one HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\n{S}\r\n0\r\n\r\n", One("GET /one 46")),
    ("a DELETE with a body", b"DELETE /function/f/one HTTP/1.1\r\nHost: h\r\nContent-Length: {N}\r\n\r\n{S}", One("DELETE /one 46")),
    ("OPTIONS with a chunked body", b"OPTIONS /function/f/one HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\n{S}\r\n0\r\n\r\n", One("OPTIONS /one 46")),
    ("a line break in an escape", b"GET /function/f/one%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n\r\n", One("GET /one%0d%0aX:%20y 0")),
    ("a fragment", b"GET /function/f/one#/../smuggled HTTP/1.1\r\nHost: h\r\n\r\n", One("GET /one 0")),
];

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let posted = POSTED.iter().map(|(name, rest, expected)| {
        let start = b"POST /function/f/one HTTP/1.1\r\nHost: h\r\n".as_slice();
        (*name, [start, rest].concat(), *expected)
    });
    let whole = WHOLE.iter().map(|(name, bytes, expected)| (*name, bytes.to_vec(), *expected));
    posted
        .chain(whole)
        .map(|(name, bytes, expected)| Case { name, bytes: filled_in(&bytes), expected })
        .collect()
}

fn filled_in(bytes: &[u8]) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = bytes;
    while let Some((byte, tail)) = rest.split_first() {
        rest = match rest {
            [b'{', b'S', b'}', tail @ ..] => {
                filled.extend_from_slice(SMUGGLED.as_bytes());
                tail
            }
            [b'{', b'N', b'}', tail @ ..] => {
                filled.extend_from_slice(SMUGGLED.len().to_string().as_bytes());
                tail
            }
            _ => {
                filled.push(*byte);
                tail
            }
        };
    }
    filled
}
