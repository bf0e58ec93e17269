//! `/system/openapi.json`: the description of the API, as a document.
//!
//! The document is written by hand, in `openapi.json`, and packed in the program, as it is rarely asked for. A route that is not in it fails a test below; the end-to-end tests
//! hold a host against it.

use std::io::{self, Read};

use axum::http::{HeaderName, header};
use flate2::read::GzDecoder;

use super::ApiError;

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

pub(super) async fn document() -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let text = unpacked().map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}

fn unpacked() -> io::Result<String> {
    let mut text = String::new();
    GzDecoder::new(PACKED).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn each_route_of_the_api_is_described() {
        let document: Value = serde_json::from_str(&unpacked().unwrap()).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let described = |path: &str| document["paths"].get(path).is_some();
        let mut routes = 0;
        let directories =
            ["/src/api", "/src/api/held"].map(|dir| format!("{}{dir}", env!("CARGO_MANIFEST_DIR")));
        for file in directories.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap()) {
            let file = file.unwrap().path();
            // This one's own search is no route.
            if file.ends_with("openapi.rs") || file.extension().is_none_or(|kind| kind != "rs") {
                continue;
            }
            let source = std::fs::read_to_string(&file).unwrap();
            for call in source.split(".route(").skip(1) {
                let path = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                let path =
                    path.unwrap_or_else(|| panic!("{}: a route without a literal path", file.display()));
                let full = [path.to_owned(), format!("/system{path}"), format!("/ui{path}")];
                assert!(full.iter().any(|path| described(path)), "{}: {path}", file.display());
                routes += 1;
            }
        }
        assert!(routes > 10, "{routes} routes were found");
    }
}
