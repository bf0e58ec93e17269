//! Which route a message takes, by what it says.
//!
//! Owns route selection expressions. Pure. Of a message no more is kept than the one text that the expression names,
//! however long it is.

use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most keys in an expression.
const MAX_DEPTH: usize = 16;

/// The longest key of a route, in bytes. A message that names a longer one names none.
const MAX_KEY: usize = 128;

/// Where in a message its route stands: `$request.body.action`, also written `${request.body.action}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression(Box<[Box<str>]>);

/// Why a text is no route selection expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "route selection expression {0:?} is not valid: expected $request.body.KEY or ${{request.body.KEY}}, with at most {MAX_DEPTH} keys behind each other"
)]
pub struct InvalidExpression(String);

impl Default for Expression {
    /// `$request.body.action`
    fn default() -> Self {
        Self(["action".into()].into())
    }
}

impl FromStr for Expression {
    type Err = InvalidExpression;

    fn from_str(text: &str) -> Result<Self, InvalidExpression> {
        let invalid = || InvalidExpression(text.chars().take(80).collect());
        let inner = text.strip_prefix('$').ok_or_else(invalid)?;
        let inner = match inner.strip_prefix('{') {
            Some(inner) => inner.strip_suffix('}').ok_or_else(invalid)?,
            None => inner,
        };
        let path = inner.strip_prefix("request.body.").ok_or_else(invalid)?;
        let keys: Box<[Box<str>]> = path.split('.').map(Box::from).collect();
        let is_key = |key: &str| {
            !key.is_empty()
                && !key.contains(|c: char| c.is_whitespace() || c.is_control() || "${}[]'\"".contains(c))
        };
        if keys.len() > MAX_DEPTH || !keys.iter().all(|key| is_key(key)) {
            return Err(invalid());
        }
        Ok(Self(keys))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$request.body.{}", self.0.join("."))
    }
}

impl Expression {
    /// The text at that place of `message`. `None` if it is no JSON, or there is no text, or an empty one.
    pub(super) fn select(&self, message: &[u8]) -> Option<String> {
        let mut json = serde_json::Deserializer::from_slice(message);
        let found = At(&self.0).deserialize(&mut json).ok()?;
        json.end().ok()?;
        found.filter(|key| !key.is_empty())
    }
}

/// Reads a value, and gives back the text at this path in it. Of two members of the same name the last counts.
struct At<'p>(&'p [Box<str>]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Option<String>, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut found = None;
        while let Some(here) = map.next_key_seed(Is(self.0.first().map(Box::as_ref)))? {
            if here {
                found = map.next_value_seed(At(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<String>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok((self.0.is_empty() && text.len() <= MAX_KEY).then(|| text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }
}

/// Is a member's name this one?
struct Is<'p>(Option<&'p str>);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0 == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_expression_is_written_in_either_of_two_ways() {
        for (text, shown) in [
            ("$request.body.action", "$request.body.action"),
            ("${request.body.action}", "$request.body.action"),
            ("$request.body.service.do", "$request.body.service.do"),
            ("${request.body.a-b.ü}", "$request.body.a-b.ü"),
        ] {
            assert_eq!(text.parse::<Expression>().map(|it| it.to_string()).as_deref(), Ok(shown));
        }
        assert_eq!("$request.body.action".parse(), Ok(Expression::default()));
        let deep = format!("$request.body.{}", vec!["a"; MAX_DEPTH + 1].join("."));
        for text in [
            "",
            "action",
            "request.body.action",
            "$request.body",
            "$request.body.",
            "$request.body..a",
            "${request.body.a",
            "$request.body.a}",
            "$request.header.a",
            "$request.body.a b",
            "$request.body['a']",
            "${request.body.a}${request.body.b}",
            &deep,
        ] {
            let why = text.parse::<Expression>().expect_err(text).to_string();
            assert!(why.contains("expected $request.body.KEY or ${request.body.KEY}"), "{why}");
        }
    }

    #[test]
    fn a_message_names_its_route_by_a_text_at_the_place_of_the_expression() {
        let long = format!(r#"{{"action":"{}"}}"#, "a".repeat(MAX_KEY + 1));
        for (expression, message, route) in [
            ("$request.body.action", r#"{"action":"echo"}"#, Some("echo")),
            (
                "$request.body.action",
                r#" {"a":[{"action":"x"}],"action":"\u0065cho","b":1.5e3} "#,
                Some("echo"),
            ),
            ("$request.body.action", r#"{"action":"one","action":"two"}"#, Some("two")),
            ("$request.body.action", r#"{"action":"one","action":2}"#, None),
            ("$request.body.action", r#"{"action":""}"#, None),
            ("$request.body.action", r#"{"action":1}"#, None),
            ("$request.body.action", r#"{"action":-1}"#, None),
            ("$request.body.action", r#"{"action":null}"#, None),
            ("$request.body.action", r#"{"action":true}"#, None),
            ("$request.body.action", r#"{"action":["echo"]}"#, None),
            ("$request.body.action", r#"{"action":{"action":"echo"}}"#, None),
            ("$request.body.action", r#"{"nested":{"action":"echo"}}"#, None),
            ("$request.body.action", r#"["action","echo"]"#, None),
            ("$request.body.action", r#""action""#, None),
            ("$request.body.action", "echo", None),
            ("$request.body.action", "", None),
            ("$request.body.action", r#"{"action":"echo"} x"#, None),
            ("$request.body.action", r#"{"action":"echo""#, None),
            ("$request.body.action", &long, None),
            ("$request.body.service.do", r#"{"service":{"do":"run","x":{}}}"#, Some("run")),
            ("$request.body.service.do", r#"{"service":"do"}"#, None),
            ("$request.body.service.do", r#"{"service.do":"run"}"#, None),
        ] {
            let expression: Expression = expression.parse().unwrap();
            assert_eq!(expression.select(message.as_bytes()).as_deref(), route, "{expression} {message}");
        }
        assert_eq!(Expression::default().select(b"{\"action\":\"\xff\"}"), None);
        // Deep nesting is refused, not followed.
        assert_eq!(Expression::default().select("[".repeat(100_000).as_bytes()), None);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ab\\PC]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[ab]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_stands_there(message in json(), nested in any::<bool>()) {
            let (text, pointer) = if nested { ("$request.body.a.b", "/a/b") } else { ("$request.body.a", "/a") };
            let expected = message.pointer(pointer).and_then(Value::as_str).filter(|key| !key.is_empty());
            // A pointer also leads into lists.
            let expected = expected.filter(|_| message.get("a").is_some_and(|a| !nested || a.is_object()));
            let expression: Expression = text.parse().unwrap();
            let found = expression.select(message.to_string().as_bytes());
            prop_assert_eq!(found.as_deref(), expected);
        }
    }
}
