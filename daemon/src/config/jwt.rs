//! The section `[jwt]`: whose tokens count, and where in a request they may be.
//!
//! Owns what is valid in it. Looks at no file and asks nobody.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use roost_proxy::TokenPlaces;
use serde::Deserialize;

use super::Mistakes;
use crate::units;

/// How long a token may still count after its end.
const LONGEST_LEEWAY: Duration = Duration::from_mins(10);

/// How long a connection may go on behind the end of its token, where that has an end at all.
const LONGEST_GRACE: Duration = Duration::from_hours(24 * 365);

/// How old keys become before they are fetched again.
const REFRESH: Duration = Duration::from_mins(15);
const REFRESHES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_hours(24);

/// How many issuers there may be: a token is tried with the keys of each.
const MAX_ISSUERS: usize = 16;

/// Whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// Who may have made them: the first one that has a key for a token and is content with it.
    pub issuers: Vec<Issuer>,
    /// By how much the clocks of others may be wrong.
    pub leeway: Duration,
    /// For how long a WebSocket goes on behind the end of its token; `None`: whatever becomes of that.
    pub grace: Option<Duration>,
    /// Where in a request they may be.
    pub places: TokenPlaces,
}

/// Whoever makes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The keys that verify them, a JSON Web Key Set.
    pub keys: KeysAt,
    /// What it calls itself (`iss`); `None`: whoever has a key.
    pub name: Option<String>,
    /// For whom they have to be made (`aud`); `None`: for nobody in particular.
    pub audience: Option<String>,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysAt {
    /// In a file of this host.
    File(PathBuf),
    /// With whoever has made them.
    Url {
        /// Where they are fetched.
        url: Url,
        /// How old they become.
        refresh: Duration,
        /// The certificates of the authorities that are trusted for this, instead of those of this host.
        ca: Option<PathBuf>,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawJwt {
    keys: Option<PathBuf>,
    keys_url: Option<String>,
    ca_file: Option<PathBuf>,
    refresh: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Option<String>,
    grace: Option<String>,
    sources: Option<Vec<String>>,
    issuers: Vec<RawIssuer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawIssuer {
    keys: Option<PathBuf>,
    keys_url: Option<String>,
    ca_file: Option<PathBuf>,
    refresh: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl RawJwt {
    /// `None` where no tokens are verified.
    pub(super) fn resolve(self, m: &mut Mistakes) -> Option<Jwt> {
        let Self { keys, keys_url, ca_file, refresh, issuer, audience, leeway, grace, sources, issuers } =
            self;
        let first = RawIssuer { keys, keys_url, ca_file, refresh, issuer, audience };
        let only_others = !first.is_given() && !issuers.is_empty();
        let given = first.is_given() || leeway.is_some() || grace.is_some() || sources.is_some();
        let mut resolved = Vec::new();
        if given && !only_others {
            resolved.extend(first.resolve("jwt", m));
        }
        let count = issuers.len() + resolved.len();
        m.require(count <= MAX_ISSUERS, &format!("jwt.issuers: expected at most {MAX_ISSUERS} in all"));
        for (index, issuer) in issuers.into_iter().enumerate() {
            let key = format!("jwt.issuers[{index}]");
            let named = issuer.issuer.is_some();
            m.require(named, &format!("{key}.issuer: expected what its tokens say as iss"));
            resolved.extend(issuer.resolve(&key, m));
        }
        let leeway = m.read("jwt.leeway", leeway.as_deref(), Duration::from_mins(1), |text| {
            match units::duration(text) {
                Ok(leeway) if leeway <= LONGEST_LEEWAY => Ok(leeway),
                Ok(_) => Err("expected at most 10m".to_owned()),
                Err(why) => Err(why.to_string()),
            }
        });
        let expected = "expected a duration such as 30s, or never";
        let grace = m.read("jwt.grace", grace.as_deref(), Some(Duration::ZERO), |text| {
            self::grace(text).ok_or(expected)
        });
        let places = sources.map_or_else(TokenPlaces::default, |sources| places(&sources, m));
        (!resolved.is_empty()).then_some(Jwt { issuers: resolved, leeway, grace, places })
    }
}

impl RawIssuer {
    fn is_given(&self) -> bool {
        let Self { keys, keys_url, ca_file, refresh, issuer, audience } = self;
        let paths = keys.is_some() || ca_file.is_some();
        paths || [keys_url, refresh, issuer, audience].into_iter().any(Option::is_some)
    }

    fn resolve(self, key: &str, m: &mut Mistakes) -> Option<Issuer> {
        let Self { keys, keys_url, ca_file, refresh, issuer, audience } = self;
        for (name, value) in [("issuer", &issuer), ("audience", &audience)] {
            m.require(
                value.as_deref() != Some(""),
                &format!("{key}.{name} = \"\": expected what tokens say, or no such line"),
            );
        }
        for (name, path) in [("keys", &keys), ("ca_file", &ca_file)] {
            if let Some(path) = path {
                m.require(path.is_absolute(), &format!("{key}.{name} = {path:?}: expected an absolute path"));
            }
        }
        let fetched = keys_url.is_some();
        let only = "only with keys_url";
        m.require(fetched || ca_file.is_none(), &format!("{key}.ca_file: {only}"));
        m.require(fetched || refresh.is_none(), &format!("{key}.refresh: {only}"));
        let refresh = m.read(&format!("{key}.refresh"), refresh.as_deref(), REFRESH, |text| {
            units::duration(text)
                .ok()
                .filter(|refresh| REFRESHES.contains(refresh))
                .ok_or("expected a duration from 10s to 24h")
        });
        let keys = match (keys, keys_url) {
            (Some(path), None) => KeysAt::File(path),
            (None, Some(text)) => {
                let url =
                    m.read(&format!("{key}.keys_url"), Some(&text), None, |text| url(text).map(Some))?;
                KeysAt::Url { url, refresh, ca: ca_file }
            }
            (None, None) => {
                m.require(
                    false,
                    &format!("{key}.keys: expected the path of a JSON Web Key Set, or keys_url"),
                );
                return None;
            }
            (Some(_), Some(_)) => {
                m.require(false, &format!("{key}.keys: expected no such line where there is keys_url"));
                return None;
            }
        };
        Some(Issuer { keys, name: issuer, audience })
    }
}

/// For how long a connection goes on; `Some(None)` is for ever.
#[expect(clippy::option_option, reason = "that there is no limit is something that can be said")]
pub(crate) fn grace(text: &str) -> Option<Option<Duration>> {
    if text == "never" {
        return Some(None);
    }
    units::duration(text).ok().filter(|grace| *grace <= LONGEST_GRACE).map(Some)
}

/// Keys that came over a network say who is let in: nobody may have put others in their place.
fn url(text: &str) -> Result<Url, &'static str> {
    let expected = "expected an https URL, or an http one of this host";
    let url = Url::parse(text).map_err(|_| expected)?;
    let host = url.host_str().ok_or(expected)?;
    let here = || {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    if url.scheme() == "https" || url.scheme() == "http" && here() { Ok(url) } else { Err(expected) }
}

fn places(sources: &[String], m: &mut Mistakes) -> TokenPlaces {
    let mut places = TokenPlaces { header: false, query: None, protocol: None, cookie: None };
    for source in sources {
        let (kind, name) =
            source.split_once(':').map_or((&**source, None), |(kind, name)| (kind, Some(name)));
        let is_name = |name: &&str| {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
            (1..=64).contains(&name.len()) && name.bytes().all(token)
        };
        let place = match (kind, name) {
            ("header", None) => {
                places.header = true;
                continue;
            }
            ("query", name) => Some((&mut places.query, name.unwrap_or("access_token"))),
            ("protocol", name) => Some((&mut places.protocol, name.unwrap_or("bearer"))),
            ("cookie", Some(name)) => Some((&mut places.cookie, name)),
            _ => None,
        };
        match place.filter(|(place, name)| place.is_none() && is_name(name)) {
            Some((place, name)) => *place = Some(name.into()),
            None => m.require(
                false,
                &format!(
                    "jwt.sources: {source:?}: expected header, query[:NAME], protocol[:NAME] or cookie:NAME, each once"
                ),
            ),
        }
    }
    m.require(!sources.is_empty(), "jwt.sources: expected one at least");
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Option<Jwt>, String> {
        let raw: RawJwt = toml::from_str(text).map_err(|why| why.to_string())?;
        let mut mistakes = Mistakes::default();
        let jwt = raw.resolve(&mut mistakes);
        let mistakes = mistakes.to_string();
        if mistakes.is_empty() { Ok(jwt) } else { Err(mistakes) }
    }

    #[test]
    fn no_tokens_are_verified_unless_there_are_keys() {
        assert_eq!(resolve(""), Ok(None));
        let jwt = resolve("keys = '/k.json'").unwrap().unwrap();
        let issuer = Issuer { keys: KeysAt::File("/k.json".into()), name: None, audience: None };
        assert_eq!((jwt.issuers, jwt.leeway), (vec![issuer], Duration::from_secs(60)));
        assert_eq!((jwt.grace, jwt.places), (Some(Duration::ZERO), TokenPlaces::default()));
        let jwt = resolve(
            "keys = '/k.json'\nissuer = 'https://i'\naudience = 'roost'\nleeway = '0s'\ngrace = '30s'\n\
             sources = ['header', 'cookie:session', 'query:t']",
        );
        let jwt = jwt.unwrap().unwrap();
        let [issuer] = &jwt.issuers[..] else { panic!("one") };
        assert_eq!((issuer.name.as_deref(), issuer.audience.as_deref()), (Some("https://i"), Some("roost")));
        assert_eq!((jwt.leeway, jwt.grace), (Duration::ZERO, Some(Duration::from_secs(30))));
        let places = TokenPlaces {
            header: true,
            query: Some("t".into()),
            protocol: None,
            cookie: Some("session".into()),
        };
        assert_eq!(jwt.places, places);
    }

    #[test]
    fn keys_may_be_fetched_and_issuers_may_be_many() {
        let jwt = resolve("keys_url = 'https://id.example/jwks'\ngrace = 'never'").unwrap().unwrap();
        assert_eq!(jwt.grace, None);
        let KeysAt::Url { url, refresh, ca: None } = &jwt.issuers[0].keys else { panic!("{jwt:?}") };
        assert_eq!((url.as_str(), *refresh), ("https://id.example/jwks", Duration::from_mins(15)));
        let jwt = resolve(
            "leeway = '5s'\n[[issuers]]\nissuer = 'a'\nkeys = '/a'\n[[issuers]]\nissuer = 'b'\n\
             keys_url = 'http://[::1]:9/jwks'\nrefresh = '1h'\nca_file = '/ca.pem'",
        );
        let jwt = jwt.unwrap().unwrap();
        assert_eq!(jwt.issuers.len(), 2);
        let KeysAt::Url { refresh, ca: Some(_), .. } = &jwt.issuers[1].keys else { panic!("{jwt:?}") };
        assert_eq!(*refresh, Duration::from_hours(1));
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        for (text, expected) in [
            ("issuer = 'i'", "jwt.keys: expected the path"),
            ("leeway = '1s'", "jwt.keys: expected the path"),
            ("keys = 'k.json'", "jwt.keys = \"k.json\": expected an absolute path"),
            ("keys = '/k'\nissuer = ''", "jwt.issuer = \"\": expected"),
            ("keys = '/k'\naudience = ''", "jwt.audience = \"\": expected"),
            ("keys = '/k'\nleeway = '1h'", "jwt.leeway = \"1h\": expected at most 10m"),
            ("keys = '/k'\nleeway = 'x'", "jwt.leeway = \"x\":"),
            ("keys = '/k'\ngrace = 'x'", "jwt.grace = \"x\": expected a duration such as 30s, or never"),
            ("key = '/k'", "key"),
            ("keys = '/k'\nkeys_url = 'https://x'", "jwt.keys: expected no such line"),
            ("keys = '/k'\nrefresh = '1m'", "jwt.refresh: only with keys_url"),
            ("keys = '/k'\nca_file = '/c'", "jwt.ca_file: only with keys_url"),
            (
                "keys_url = 'https://x'\nrefresh = '1s'",
                "jwt.refresh = \"1s\": expected a duration from 10s to 24h",
            ),
            (
                "keys_url = 'http://id.example/'",
                "jwt.keys_url = \"http://id.example/\": expected an https URL",
            ),
            ("keys_url = 'x'", "jwt.keys_url = \"x\": expected an https URL"),
            ("keys = '/k'\nsources = []", "jwt.sources: expected one"),
            ("keys = '/k'\nsources = ['cookie']", "jwt.sources: \"cookie\": expected header, query"),
            ("keys = '/k'\nsources = ['query', 'query:x']", "jwt.sources: \"query:x\":"),
            ("keys = '/k'\nsources = ['protocol:a,b']", "jwt.sources: \"protocol:a,b\":"),
            ("[[issuers]]\nkeys = '/k'", "jwt.issuers[0].issuer: expected what its tokens say"),
            ("[[issuers]]\nissuer = 'a'", "jwt.issuers[0].keys: expected the path"),
        ] {
            let mistakes = resolve(text).unwrap_err();
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
    }
}
