//! The stack file that a person means: where it comes from, and which of its functions.

use std::io::{self, Read};
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use regex_lite::Regex;
use roost_stack::{Deployment, Lookup, ReadFile, Stack, Surroundings};

use crate::client;
use crate::output::Output;

/// Files that stand for `-f` where nothing is said, as faas-cli does it.
const USUAL: [&str; 2] = ["stack.yaml", "stack.yml"];
/// The longest stack file, in bytes.
const MAX_STACK: u64 = 4 * 1024 * 1024;

/// Which functions of which file.
#[derive(Debug, Default, Args)]
pub(crate) struct StackArgs {
    /// A stack file: its path, its http(s) URL, or - for stdin
    #[arg(short, long, visible_alias = "yaml", value_name = "STACK.YAML")]
    pub(crate) file: Option<String>,
    /// Of the stack file, only functions whose name matches: 'api-*'
    #[arg(long, value_name = "WILDCARD", conflicts_with = "regex")]
    filter: Option<String>,
    /// Of the stack file, only functions in whose name this matches: '^api-[0-9]+$'
    #[arg(long, value_name = "REGEX", value_parser = Regex::new)]
    regex: Option<Regex>,
    /// Fill in ${VARIABLES} of the stack file
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set, hide = true)]
    envsubst: bool,
}

/// What of a stack file was asked for.
pub(crate) struct Chosen {
    pub(crate) gateway: Option<String>,
    pub(crate) deployments: Vec<Deployment>,
}

impl StackArgs {
    /// Takes the usual file where no file was named and there is one.
    pub(crate) fn or_usual(&self) -> Option<&str> {
        self.file.as_deref().or_else(|| USUAL.into_iter().find(|file| Path::new(file).is_file()))
    }

    /// Reads a stack file with its environment files. Every mistake in what was asked for is told.
    pub(crate) fn read(&self, file: &str, only: Option<&str>, out: &mut Output) -> Result<Chosen> {
        let folder =
            if is_url(file) { Path::new("") } else { Path::new(file).parent().unwrap_or(Path::new("")) };
        self.read_with(file, only, Some(&|path| environment(Path::new(path), folder)), out)
    }

    /// Reads a stack file for the names in it. Functions need no image then.
    pub(crate) fn read_names(&self, file: &str, out: &mut Output) -> Result<Chosen> {
        self.read_with(file, None, None, out)
    }

    fn read_with(
        &self,
        file: &str,
        only: Option<&str>,
        read: Option<ReadFile<'_>>,
        out: &mut Output,
    ) -> Result<Chosen> {
        let text = text(file)?;
        let variable = |name: &str| env::var(name).ok();
        let wanted = |name: &str| only.is_none_or(|only| only == name) && self.wants(name);
        let variable = self.envsubst.then_some(&variable as Lookup<'_>);
        let around = Surroundings { variable, read, wanted: &wanted };
        let stack = Stack::parse(&text, &around).with_context(|| file.to_owned())?;
        for note in &stack.notes {
            out.note(format!("roost: note: {note}"));
        }
        let (deployments, mistakes): (Vec<_>, Vec<_>) = stack.functions.into_iter().partition(Result::is_ok);
        let mistakes: Vec<_> = mistakes.into_iter().filter_map(Result::err).map(|m| m.to_string()).collect();
        if !mistakes.is_empty() {
            return Err(anyhow!(mistakes.join("\n")).context(file.to_owned()));
        }
        Ok(Chosen { gateway: stack.gateway, deployments: deployments.into_iter().flatten().collect() })
    }

    fn wants(&self, name: &str) -> bool {
        match (&self.filter, &self.regex) {
            (Some(filter), _) => matches(filter, name),
            (None, Some(regex)) => regex.is_match(name),
            (None, None) => true,
        }
    }
}

fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

fn text(file: &str) -> Result<String> {
    if is_url(file) {
        return client::download(file, MAX_STACK);
    }
    let read = match file {
        "-" => whole(io::stdin()),
        path => fs::File::open(path).and_then(whole),
    };
    read.with_context(|| format!("cannot read {}", if file == "-" { "stdin" } else { file }))
}

/// The text that there is to be read, unless it is longer than a stack file may be.
fn whole(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_STACK + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_STACK {
        return Err(io::Error::other(format!("it has more than {MAX_STACK} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// An environment file. A relative path is looked for here first, as faas-cli does, then beside the stack file.
fn environment(file: &Path, folder: &Path) -> io::Result<String> {
    let beside = folder.join(file);
    fs::read_to_string(if file.exists() { file } else { &beside })
}

/// Does the whole text match? `*` stands for any part of it, and nothing else is special.
fn matches(wildcard: &str, text: &str) -> bool {
    let Some((first, rest)) = wildcard.split_once('*') else { return wildcard == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_file_is_read_whole_or_not_at_all() {
        let of = |length: u64| whole(io::repeat(b'#').take(length));
        assert_eq!(of(MAX_STACK).unwrap().len() as u64, MAX_STACK);
        assert_eq!(of(MAX_STACK + 1).unwrap_err().to_string(), "it has more than 4194304 bytes");
        assert!(whole(&b"\xff"[..]).is_err());
    }

    #[test]
    fn a_star_stands_for_any_part() {
        let table = [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "a", false),
            ("*", "", true),
            ("*", "a-b", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*-fn", "a-fn", true),
            ("*-fn", "a-fn-b", false),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxcxxb", false),
            ("*a*a*", "a", false),
            ("ab*ba", "aba", false),
            ("a?", "ab", false),
        ];
        for (wildcard, text, expected) in table {
            assert_eq!(matches(wildcard, text), expected, "{wildcard} {text}");
        }
    }
}
