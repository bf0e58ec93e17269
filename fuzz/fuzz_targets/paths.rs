//! Routing: a path that names a function is the function's byte for byte, and every other path has one clean form that
//! leads to no function by another way.

#![no_main]

use http::Uri;
use libfuzzer_sys::{Corpus, fuzz_target};
use roost_proxy::fuzzing::{Path, read_path};

fuzz_target!(|input: &[u8]| -> Corpus {
    // What is no URL never gets so far.
    let Ok(uri) = Uri::try_from(input) else { return Corpus::Reject };
    let path = uri.path();
    match read_path(path) {
        Path::Function { segment, rest, deferred } => {
            let prefix = if deferred { "/async-function/" } else { "/function/" };
            let whole = format!("{prefix}{segment}{rest}");
            assert!(whole == path || whole == format!("{path}/"), "{whole} for {path}");
            assert!(rest.starts_with('/'));
            assert!(!segment.is_empty() && segment != "." && segment != "..");
            assert!(segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
            let rest: Uri = rest.parse().expect("a part of a URL is one");
            assert!(whole.ends_with(rest.path()));
        }
        Path::Redirect(clean) => {
            assert!(clean.starts_with('/') && !clean.starts_with("//"), "{clean} for {path}");
            assert!(!matches!(read_path(&clean), Path::Redirect(_)), "{clean} for {path}");
            assert!(clean.split('/').all(|segment| !matches!(
                segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
                "." | ".."
            )));
        }
        Path::Other => {
            assert!(path == "*" || path.starts_with('/'), "{path}");
            assert!(!path.contains("//"), "{path}");
        }
    }
    Corpus::Keep
});
