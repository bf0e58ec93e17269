//! `roost auth`: who may use the daemon on this host. Changes its files, as root; the daemon reads them by itself.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::login::password_from_stdin;
use crate::args::Global;
use crate::config::local::{self, Host};
use crate::config::saved::{self, Saved};
use crate::config::{Credentials, normalise, same_place};
use crate::failure::usage;
use crate::output::Output;
use crate::users::{self, Role, Users};

const EXAMPLES: &str = "\
Examples:
  roost auth add ci                   a new admin; the password is printed once
  roost auth add grafana --read-only  may look, not change
  roost auth reset                    a new password for the first admin
  roost auth reset --user ci --password-stdin <password.txt

As root, on the daemon's own host. The daemon takes changes up by itself.";

/// List and change the users of the daemon on this host
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AuthArgs {
    #[command(subcommand)]
    verb: AuthVerb,
}

#[derive(Debug, Subcommand)]
enum AuthVerb {
    /// List the users
    #[command(visible_alias = "ls")]
    List,
    /// Add a user
    Add(AddArgs),
    /// Remove a user
    #[command(visible_aliases = ["rm", "delete"])]
    Remove {
        /// Who
        name: String,
    },
    /// Give a user a new password
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Letters, digits, '-', '_', '.' and '@'
    name: String,
    /// The user may look, and change nothing
    #[arg(long)]
    read_only: bool,
    /// Read the password from stdin, instead of making one up
    #[arg(short = 's', long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
struct ResetArgs {
    /// Who, if not the first admin
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Read the password from stdin, instead of making one up
    #[arg(short = 's', long)]
    password_stdin: bool,
}

pub(crate) fn run(args: &AuthArgs, global: &Global, out: &mut Output) -> Result<()> {
    let host = local::host()?;
    let elsewhere = global.gateway.as_deref().map(normalise).transpose()?;
    if elsewhere.is_some_and(|gateway| !same_place(&gateway, &host.gateway)) {
        return Err(usage(format!(
            "--gateway is not {}: users are changed on the daemon's own host",
            host.gateway
        )));
    }
    let users = Users::open(host.auth.clone())?;
    if !host.auth.enabled {
        out.note("auth.enabled is false in the daemon's settings: nobody is asked for a password");
    }
    match &args.verb {
        AuthVerb::List => list(&users, out),
        AuthVerb::Add(args) => add(args, &host, users, out),
        AuthVerb::Remove { name } => remove(name, users, out),
        AuthVerb::Reset(args) => reset(args, &host, users, out),
    }
}

fn list(users: &Users, out: &mut Output) -> Result<()> {
    let users = users.list()?;
    if out.json {
        let values = users.iter().map(|u| json!({ "name": u.name, "role": u.role, "file": u.file }));
        return out.value(&values.collect::<Vec<_>>());
    }
    let mut rows = vec![["NAME", "ROLE", "FILE"].map(str::to_owned).to_vec()];
    rows.extend(users.into_iter().map(|u| vec![u.name, u.role, u.file.display().to_string()]));
    Ok(out.table(&rows)?)
}

fn add(args: &AddArgs, host: &Host, mut users: Users, out: &mut Output) -> Result<()> {
    let password = Password::choose(args.password_stdin)?;
    let role = if args.read_only { Role::ReadOnly } else { Role::Admin };
    users.add(&args.name, role, password.text())?;
    password.tell(&args.name, &role.to_string(), out)?;
    out.note(format!("Added {} ({role}); log in with: roost login -g {} -u {0}", args.name, host.gateway));
    Ok(())
}

fn remove(name: &str, mut users: Users, out: &mut Output) -> Result<()> {
    users.remove(name)?;
    if out.json {
        return out.value(&json!({ "name": name, "removed": true }));
    }
    Ok(out.line(format!("Removed {name}"))?)
}

fn reset(args: &ResetArgs, host: &Host, mut users: Users, out: &mut Output) -> Result<()> {
    let password = Password::choose(args.password_stdin)?;
    let user = users.reset(args.user.as_deref(), password.text())?;
    password.tell(&user.name, &user.role, out)?;
    let login = Credentials { user: user.name.clone(), password: password.text().to_owned() };
    let renewed = renew_saved_login(host, &login)?;
    out.note(format!(
        "The password of {} has changed, in {}; the old one counts no more.",
        user.name,
        user.file.display()
    ));
    if renewed {
        out.note("The login that was saved here has the new one.");
    }
    out.note(format!(
        "Elsewhere, log in again: roost login -g URL -u {0}, or faas-cli login -u {0}",
        user.name
    ));
    Ok(())
}

/// Puts the new password into the saved logins of this user that are for this host.
fn renew_saved_login(host: &Host, login: &Credentials) -> Result<bool> {
    let Some(path) = saved::path() else { return Ok(false) };
    let mut saved = Saved::read(&path)?;
    let renewed = saved.renew(login, |gateway| same_place(gateway, &host.gateway));
    if renewed {
        saved.write(&path)?;
    }
    Ok(renewed)
}

/// A password, and whether its owner knows it already.
enum Password {
    Given(String),
    Made(String),
}

impl Password {
    fn choose(from_stdin: bool) -> Result<Self> {
        Ok(if from_stdin { Self::Given(password_from_stdin()?) } else { Self::Made(users::new_password()?) })
    }

    fn text(&self) -> &str {
        match self {
            Self::Given(text) | Self::Made(text) => text,
        }
    }

    /// Prints one that was made up, alone on its line: it is nowhere to be seen again.
    fn tell(&self, name: &str, role: &str, out: &mut Output) -> Result<()> {
        match self {
            Self::Given(_) if out.json => out.value(&json!({ "name": name, "role": role })),
            Self::Given(_) => Ok(()),
            Self::Made(text) if out.json => {
                out.value(&json!({ "name": name, "role": role, "password": text }))
            }
            Self::Made(text) => Ok(out.line(text)?),
        }
    }
}
