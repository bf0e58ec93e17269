//! A command line as people give it in one argument: words with shell-like quotes, or a JSON array.

/// Splits a command into words. Nothing is expanded.
pub(crate) fn split(text: &str) -> Result<Vec<String>, String> {
    let trimmed = text.trim();
    if trimmed.starts_with('[') {
        return serde_json::from_str(trimmed).map_err(|e| format!("not a JSON array of strings: {e}"));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(q), l) if q == l => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                // Even an empty pair of quotes is a word.
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = letters.next().ok_or("it ends in a backslash")?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, l) if l.is_whitespace() => words.extend(word.take()),
            (_, l) => word.get_or_insert_default().push(l),
        }
    }
    if let Some(q) = quote {
        return Err(format!("a {q} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let table: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("  /app  --port 80 ", &["/app", "--port", "80"]),
            ("sh -c 'echo \"a b\"'", &["sh", "-c", "echo \"a b\""]),
            (r#"a "b \"c\" \n" d"#, &["a", r#"b "c" \n"#, "d"]),
            (r"a\ b c", &["a b", "c"]),
            ("'' x", &["", "x"]),
            ("a'b'\"c\"", &["abc"]),
            (r#"["/app", "a b", ""]"#, &["/app", "a b", ""]),
            ("$HOME `x`", &["$HOME", "`x`"]),
        ];
        for (text, expected) in table {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_cut_is_refused() {
        for text in ["'a", "a \"b", "a\\", "[\"a\"", "[1]"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
