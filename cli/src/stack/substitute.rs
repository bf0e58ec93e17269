//! `${NAME}` and `${NAME:-default}` in a stack file, as faas-cli fills them in. Pure.
//!
//! A plain `$NAME` stays as it is; `$${` stands for `${`.

/// A text with its variables filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// Variables that had neither a value nor a default.
    pub(super) missing: Vec<String>,
}

/// How a variable is cut from its default, and whether an empty value counts as none.
const OPERATORS: [(&str, bool); 4] = [(":-", true), (":=", true), ("-", false), ("=", false)];

/// Fills in the variables.
pub(super) fn substitute(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Substituted, String> {
    let mut out = Substituted { text: String::with_capacity(text.len()), missing: Vec::new() };
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            out.text.push_str(before);
            out.text.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.text.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let line = text[..text.len() - rest.len() + start].matches('\n').count() + 1;
        let end = inside.find(['}', '\n']).filter(|&end| inside[end..].starts_with('}'));
        let end = end.ok_or_else(|| format!("line {line}: a '${{' is not closed"))?;
        match value(&inside[..end], &lookup) {
            Value::Text(value) => out.text.push_str(&value),
            Value::Missing(name) => out.missing.push(name.to_owned()),
            Value::NotUnderstood => {
                return Err(format!(
                    "line {line}: ${{{}}} is not understood; use ${{NAME}} or ${{NAME:-default}}, and $${{ for ${{",
                    &inside[..end]
                ));
            }
        }
        rest = &inside[end + 1..];
    }
    out.text.push_str(rest);
    Ok(out)
}

enum Value<'a> {
    Text(String),
    Missing(&'a str),
    NotUnderstood,
}

fn value<'a>(inside: &'a str, lookup: &impl Fn(&str) -> Option<String>) -> Value<'a> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Value::NotUnderstood;
    }
    if rest.is_empty() {
        return lookup(name).map_or(Value::Missing(name), Value::Text);
    }
    let operator = OPERATORS.iter().find_map(|(sign, empty)| Some((rest.strip_prefix(sign)?, *empty)));
    let Some((default, empty_is_none)) = operator else { return Value::NotUnderstood };
    let set = lookup(name).filter(|value| !(empty_is_none && value.is_empty()));
    Value::Text(set.unwrap_or_else(|| default.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, lookup).map(|s| s.text)
    }

    #[test]
    fn variables_and_defaults_are_filled_in() {
        let table = [
            ("x", "x"),
            ("${A}-${A}", "1-1"),
            ("${B}", ""),
            ("${A:-d}|${B:-d}|${EMPTY:-d}|${EMPTY-d}|${B-d}|${B:=d}|${B=d}", "1|d|d||d|d|d"),
            ("${B:-http://h:80/a-b}", "http://h:80/a-b"),
            ("$A $$ 5$", "$A $$ 5$"),
            ("$${A} ${A}", "${A} 1"),
            ("é${A}ü", "é1ü"),
        ];
        for (text, expected) in table {
            assert_eq!(fill(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_names_its_line() {
        for (text, line) in [
            ("a\nb ${", "line 2"),
            ("${}", "line 1"),
            ("${A^^}", "line 1"),
            ("\n\n${1A}", "line 3"),
            ("${A\n}", "line 1"),
        ] {
            let error = fill(text).unwrap_err();
            assert!(error.starts_with(line), "{text}: {error}");
        }
    }
}
