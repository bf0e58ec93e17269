//! `${NAME}` and its kin in a stack file, filled in as faas-cli does it. Pure.
//!
//! The whole text is filled in before it is read as YAML, comments too. A plain `$NAME` stays as it is. `$$` stands for
//! `$`, `\\` for `\` and `\/` for `/`. A variable that is not set is empty, and an empty one counts as not set.
//! Patterns (`${NAME#…}`, `${NAME%…}`) are refused.

use std::str::Chars;

use crate::Lookup;

/// How deep variables may stand in the defaults of variables.
const MAX_DEPTH: usize = 16;

/// A text with its variables filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Substituted {
    pub(crate) text: String,
    /// Variables that were asked for plainly, and are not set.
    pub(crate) missing: Vec<String>,
}

/// Fills in the variables.
///
/// # Errors
/// With the line of what is not understood.
pub(crate) fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Substituted, String> {
    let mut missing = Vec::new();
    let mut rest = text;
    let mut filled = String::with_capacity(text.len());
    while let Some(at) = rest.find(['$', '\\']) {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(inside) = rest.strip_prefix("${") {
            let mut variable = Variable { rest: inside, lookup, missing: &mut missing, depth: 0 };
            let value = variable.value().ok_or_else(|| {
                let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
                let shown = rest.lines().next().unwrap_or_default();
                format!("line {line}: not understood from {shown:?} on; write ${{NAME}} or ${{NAME:-default}}, and $$ for a plain $")
            })?;
            filled.push_str(&value);
            rest = variable.rest;
            continue;
        }
        let escaped = ["$$", "\\\\", "\\/"].iter().any(|sign| rest.starts_with(sign));
        let (skipped, kept) = if escaped { (1, 2) } else { (0, 1) };
        filled.push_str(&rest[skipped..kept]);
        rest = &rest[kept..];
    }
    filled.push_str(rest);
    missing.sort();
    missing.dedup();
    Ok(Substituted { text: filled, missing })
}

/// The text that [`substitute`] turns into this one.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest: Chars<'_> = text.chars();
    while let Some(c) = rest.next() {
        escaped.push(c);
        let next = rest.clone().next();
        if matches!((c, next), ('$', Some('$' | '{')) | ('\\', Some('\\' | '/'))) {
            escaped.push(c);
        }
    }
    escaped
}

/// One `${…}`; `rest` begins behind its brace, and ends up behind the closing one.
struct Variable<'a, 'b> {
    rest: &'a str,
    lookup: Lookup<'b>,
    missing: &'b mut Vec<String>,
    /// How many variables it stands in.
    depth: usize,
}

impl<'a> Variable<'a, '_> {
    /// `None` when it is not understood.
    fn value(&mut self) -> Option<String> {
        if self.take("#").is_some() {
            let value = (self.lookup)(self.name()?).unwrap_or_default();
            self.take("}")?;
            return Some(value.len().to_string());
        }
        let name = self.name()?;
        let found = (self.lookup)(name);
        let value = found.clone().unwrap_or_default();
        if self.take("}").is_some() {
            if found.is_none() {
                self.missing.push(name.to_owned());
            }
            return Some(value);
        }
        // In this order: what begins with another sign stands before it.
        for (sign, act) in [
            (":-", Self::or_default as fn(&mut Self, &str) -> Option<String>),
            (":=", Self::or_default),
            (":?", Self::or_default),
            (":+", Self::or_default),
            ("=", Self::or_default),
            ("-", Self::or_default),
            (":", Self::part),
            (",,", |me, value| me.end(value.to_lowercase())),
            (",", |me, value| me.end(with_first(value, |c| c.to_lowercase().collect()))),
            ("^^", |me, value| me.end(value.to_uppercase())),
            ("^", |me, value| me.end(with_first(value, |c| c.to_uppercase().collect()))),
            ("//", |me, value| me.replaced(|old, new| value.replace(old, new))),
            ("/#", |me, value| {
                me.replaced(|old, new| match value.strip_prefix(old) {
                    Some(end) => format!("{new}{end}"),
                    None => value.to_owned(),
                })
            }),
            ("/%", |me, value| {
                me.replaced(|old, new| match value.strip_suffix(old) {
                    Some(start) => format!("{start}{new}"),
                    None => value.to_owned(),
                })
            }),
            ("/", |me, value| me.replaced(|old, new| value.replacen(old, new, 1))),
        ] {
            if self.take(sign).is_some() {
                return act(self, &value);
            }
        }
        None
    }

    fn take(&mut self, sign: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(sign)?;
        Some(())
    }

    fn end(&mut self, value: String) -> Option<String> {
        self.take("}").map(|()| value)
    }

    fn name(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(name).filter(|name| !name.is_empty())
    }

    /// Everything up to one of these signs, with the variables in it filled in.
    fn text_until(&mut self, ends: &[char]) -> Option<String> {
        let mut text = String::new();
        loop {
            let end = self.rest.find(|c| ends.contains(&c))?;
            let Some(inner) = self.rest[..end].find("${") else {
                text.push_str(&self.rest[..end]);
                self.rest = &self.rest[end..];
                return Some(text);
            };
            text.push_str(&self.rest[..inner]);
            self.rest = &self.rest[inner + 2..];
            self.depth += 1;
            text.push_str(&(self.depth <= MAX_DEPTH).then(|| self.value())??);
            self.depth -= 1;
        }
    }

    /// faas-cli takes `:?` and `:+` for `:-`.
    fn or_default(&mut self, value: &str) -> Option<String> {
        let missing = self.missing.len();
        let default = self.text_until(&['}'])?;
        if !value.is_empty() {
            // What the default lacks does not matter.
            self.missing.truncate(missing);
            return self.end(value.to_owned());
        }
        self.end(default)
    }

    /// `offset` or `offset:length`, in bytes as in faas-cli, but never inside a character.
    fn part(&mut self, value: &str) -> Option<String> {
        let offset: usize = self.text_until(&[':', '}'])?.trim().parse().ok()?;
        let length = match self.take(":") {
            Some(()) => self.text_until(&['}'])?.trim().parse().ok()?,
            None => value.len(),
        };
        let end = offset.saturating_add(length).min(value.len());
        let part = if offset < end { value.get(offset..end)?.to_owned() } else { String::new() };
        self.end(part)
    }

    fn replaced(&mut self, replace: impl FnOnce(&str, &str) -> String) -> Option<String> {
        let old = self.text_until(&['/', '}'])?;
        let new = if self.take("/").is_some() { self.text_until(&['}'])? } else { String::new() };
        self.end(replace(&old, &new))
    }
}

fn with_first(text: &str, change: impl FnOnce(char) -> String) -> String {
    let mut chars = text.chars();
    chars.next().map(change).unwrap_or_default() + chars.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<Substituted, String> {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "W" => Some("aBcBd".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        substitute(text, &lookup)
    }

    #[test]
    fn variables_and_defaults_are_filled_in() {
        let table = [
            ("x", "x"),
            ("${A}-${A}", "1-1"),
            ("${B}|${E}|${1}", "||"),
            ("${A:-d}|${B:-d}|${E:-d}|${B:=d}|${B=d}|${E=d}|${B:-}", "1|d|d|d|d|d|"),
            ("${A:+d}|${B:+d}|${B:?d}", "1|d|d"),
            ("${B:-http://h:80/a-b}", "http://h:80/a-b"),
            ("${B:-x${A}y${C:-z}}", "x1yz"),
            ("${B:-two\nlines}", "two\nlines"),
            ("${#W}|${#B}", "5|0"),
            ("${W^}|${W^^}|${W,,}|${W,}", "ABcBd|ABCBD|abcbd|aBcBd"),
            ("${W:1}|${W:1:2}|${W:9}|${W:3:9}", "BcBd|Bc||Bd"),
            ("${W/B/x}|${W//B/x}|${W//B/}|${W/B/${A}}", "axcBd|axcxd|acd|a1cBd"),
            ("${W/#a/x}|${W/#B/x}|${W/%d/x}|${W/%B/x}", "xBcBd|aBcBd|aBcBx|aBcBd"),
            ("é${A}ü", "é1ü"),
        ];
        for (text, expected) in table {
            assert_eq!(fill(text).map(|s| s.text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn plain_signs_stay_and_escaped_ones_lose_their_escape() {
        let table = [
            ("$A $ 5$", "$A $ 5$"),
            ("$${A} $$$${A} $$${A}", "${A} $${A} $1"),
            ("$$", "$"),
            (r#"\n \" \d"#, r#"\n \" \d"#),
            (r"a\\b\/c", r"a\b/c"),
        ];
        for (text, expected) in table {
            assert_eq!(fill(text).map(|s| s.text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_escaped_comes_out_as_it_was() {
        for text in ["${A}", "$$", "$$${A}", r"\\", r"\\\/\n", "$A $ \\", r"$\${\$$\\{/"] {
            assert_eq!(fill(&escape(text)).map(|s| s.text).as_deref(), Ok(text), "{text}");
        }
    }

    #[test]
    fn only_what_has_neither_value_nor_default_is_missing() {
        let missing = fill("${B} ${A} ${E} ${C:-d} ${D:-${B}} ${A:-${F}} ${B}").unwrap().missing;
        assert_eq!(missing, ["B"]);
    }

    #[test]
    fn what_is_not_understood_names_its_line() {
        for (text, line) in [
            ("a\nb ${", "line 2"),
            ("${}", "line 1"),
            ("${A%x}", "line 1"),
            ("${A#x}", "line 1"),
            ("${W:x}", "line 1"),
            ("\n\n${A B}", "line 3"),
            ("${A\n}", "line 1"),
            ("${B:-x", "line 1"),
        ] {
            let error = fill(text).unwrap_err();
            assert!(error.starts_with(line), "{text}: {error}");
        }
        assert!(fill(&"${B:-".repeat(100_000)).is_err());
    }
}
