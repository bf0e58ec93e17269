//! The section `[jwt]`: whose tokens count.
//!
//! Owns what is valid in it. Looks at no file.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::Mistakes;
use crate::units;

/// How long a token may still count after its end.
const LONGEST_LEEWAY: Duration = Duration::from_mins(10);

/// Whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// The file of the keys that verify them, a JSON Web Key Set.
    pub keys: PathBuf,
    /// Who has to have made them (`iss`); `None`: whoever has a key.
    pub issuer: Option<String>,
    /// For whom they have to be made (`aud`); `None`: for nobody in particular.
    pub audience: Option<String>,
    /// By how much the clocks of others may be wrong.
    pub leeway: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawJwt {
    keys: Option<PathBuf>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Option<String>,
}

impl RawJwt {
    /// `None` where no tokens are verified.
    pub(super) fn resolve(self, m: &mut Mistakes) -> Option<Jwt> {
        let Self { keys, issuer, audience, leeway } = self;
        let given = issuer.is_some() || audience.is_some() || leeway.is_some();
        m.require(keys.is_some() || !given, "jwt.keys: expected the path of a JSON Web Key Set");
        if let Some(path) = &keys {
            m.require(path.is_absolute(), &format!("jwt.keys = {path:?}: expected an absolute path"));
        }
        for (key, value) in [("jwt.issuer", &issuer), ("jwt.audience", &audience)] {
            m.require(
                value.as_deref() != Some(""),
                &format!("{key} = \"\": expected what tokens say, or no such line"),
            );
        }
        let leeway = m.read("jwt.leeway", leeway.as_deref(), Duration::from_mins(1), |text| {
            match units::duration(text) {
                Ok(leeway) if leeway <= LONGEST_LEEWAY => Ok(leeway),
                Ok(_) => Err("expected at most 10m".to_owned()),
                Err(why) => Err(why.to_string()),
            }
        });
        Some(Jwt { keys: keys?, issuer, audience, leeway })
    }
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
    fn no_tokens_are_verified_unless_there_is_a_file_of_keys() {
        assert_eq!(resolve(""), Ok(None));
        let jwt = resolve("keys = '/k.json'").unwrap().unwrap();
        assert_eq!((jwt.issuer, jwt.audience, jwt.leeway), (None, None, Duration::from_secs(60)));
        let jwt = resolve("keys = '/k.json'\nissuer = 'https://i'\naudience = 'roost'\nleeway = '0s'")
            .unwrap()
            .unwrap();
        assert_eq!((jwt.issuer.as_deref(), jwt.audience.as_deref()), (Some("https://i"), Some("roost")));
        assert_eq!((jwt.keys.to_str(), jwt.leeway), (Some("/k.json"), Duration::ZERO));
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        for (text, expected) in [
            ("issuer = 'i'", "jwt.keys: expected the path"),
            ("keys = 'k.json'", "jwt.keys = \"k.json\": expected an absolute path"),
            ("keys = '/k'\nissuer = ''", "jwt.issuer = \"\": expected"),
            ("keys = '/k'\naudience = ''", "jwt.audience = \"\": expected"),
            ("keys = '/k'\nleeway = '1h'", "jwt.leeway = \"1h\": expected at most 10m"),
            ("keys = '/k'\nleeway = 'x'", "jwt.leeway = \"x\":"),
            ("key = '/k'", "key"),
        ] {
            let mistakes = resolve(text).unwrap_err();
            assert!(mistakes.contains(expected), "{expected} in {mistakes}");
        }
    }
}
