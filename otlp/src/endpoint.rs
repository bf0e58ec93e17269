//! Where a collector takes spans.
//!
//! Owns what may be said of it in the settings. Pure.

use std::str::FromStr;

use reqwest::Url;

/// Where spans are taken, below the URL of a collector.
const PATH: &str = "/v1/traces";

/// The collector, by the URL at which it takes spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    /// From the URL of a collector; what OTLP adds to it may be there, or not.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected the http or https URL of a collector, such as http://127.0.0.1:4318";
        let mut url = Url::parse(text).map_err(|_| EXPECTED)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(EXPECTED);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user and a password have no place in it");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a query and a fragment have no place in it");
        }
        let base = url.path().trim_end_matches('/');
        let path = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        url.set_path(&path);
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_collector_leads_to_where_it_takes_spans() {
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://[::1]/otlp/", "https://[::1]/otlp/v1/traces"),
            ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().url().as_str(), url);
        }
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused() {
        for (text, why) in [
            ("", "expected"),
            ("127.0.0.1:4318", "expected"),
            ("grpc://127.0.0.1:4317", "expected"),
            ("http://", "expected"),
            ("http://me:secret@h", "a user"),
            ("http://h/?token=secret", "a query"),
            ("http://h/#here", "a query"),
        ] {
            let told = text.parse::<Endpoint>().unwrap_err();
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }
}
