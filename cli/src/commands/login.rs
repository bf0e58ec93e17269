//! `roost login`: tries a password and keeps it. It is never printed and never taken from the command line.

use std::io::{self, Read};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, Error};
use crate::config::saved::{self, Saved};
use crate::config::{self, Credentials, Endpoint};
use crate::failure::usage;
use crate::output::Output;
use crate::terminal;

/// The longest password that is read, in bytes.
const MAX_PASSWORD: u64 = 4096;

const EXAMPLES: &str = "\
Examples:
  roost login -g http://pi.lan:8080
  ssh pi.lan sudo cat /etc/roost/admin-password |
    roost login -g http://pi.lan:8080 --password-stdin";

/// Save the password of a daemon
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoginArgs {
    /// User
    #[arg(short, long, default_value = "admin")]
    username: String,
    /// Read the password from stdin
    #[arg(short = 's', long)]
    password_stdin: bool,
}

pub(crate) fn run(args: &LoginArgs, global: &Global, out: &mut Output) -> Result<()> {
    let gateway = config::find(global.gateway.as_deref(), None)?.gateway;
    let path = saved::path().context("there is no home folder to save the login in: set HOME")?;
    let login = Credentials { user: args.username.clone(), password: password(args, &gateway)? };
    let client = Client::new(&Endpoint { gateway: gateway.clone(), credentials: Some(login.clone()) });
    match client.functions(None) {
        Ok(_) => {}
        Err(Error::WrongPassword { .. }) => {
            bail!("{gateway} did not accept user and password; nothing was saved")
        }
        Err(e) => return Err(e.into()),
    }
    let mut saved = Saved::read(&path)?;
    saved.insert(&gateway, &login);
    saved.write(&path)?;
    if out.json {
        return out.value(&json!({ "gateway": gateway, "user": login.user }));
    }
    Ok(out.line(format!("Logged in to {gateway} as {}", login.user))?)
}

fn password(args: &LoginArgs, gateway: &str) -> Result<String> {
    if args.password_stdin {
        return password_from_stdin();
    }
    let question = format!("Password of {} at {gateway}: ", args.username);
    let asked = terminal::ask_secret(&question).context("cannot ask for the password")?;
    trimmed(&asked.ok_or_else(|| usage("there is no terminal to ask on: use --password-stdin"))?)
}

/// The password on stdin, without the white space around it.
pub(super) fn password_from_stdin() -> Result<String> {
    let mut text = String::new();
    let read = io::stdin().take(MAX_PASSWORD).read_to_string(&mut text);
    read.context("cannot read the password from stdin")?;
    trimmed(&text)
}

fn trimmed(text: &str) -> Result<String> {
    let password = text.trim();
    if password.is_empty() {
        return Err(usage("the password is empty"));
    }
    Ok(password.to_owned())
}
