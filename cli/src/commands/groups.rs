//! `roost groups`: WebSockets that the daemon holds and that are spoken to together.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use super::groups_past::{self, HistoryArgs, WatchArgs};
use super::held::{self, Ending, Except, Words, scope};
use crate::api::Group;
use crate::args::Global;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  roost groups add lobby kXr3uWcQRzG5vJ1mT0yLbA
  roost groups members lobby
  roost groups send lobby -d 'the doors open'
  roost groups history lobby
  roost groups watch lobby --history 10 --presence
  roost groups close lobby --code 4001 --reason 'the doors close'

A group is there as long as a connection is in it. Functions put connections into groups as well.";

/// List the groups of WebSockets, change who is in them, speak to them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GroupsArgs {
    #[command(subcommand)]
    verb: GroupsVerb,
}

#[derive(Debug, Subcommand)]
enum GroupsVerb {
    /// List the groups
    #[command(visible_alias = "ls")]
    List,
    /// List the connections in a group
    Members(MembersArgs),
    /// List the users in a group, and how many connections each has there
    Users(UsersArgs),
    /// Show what was last said in a group, as far as it is kept
    History(HistoryArgs),
    /// Follow what is said in a group, until Ctrl-C and over restarts of the daemon
    Watch(WatchArgs),
    /// Put connections into a group
    Add(ChangeArgs),
    /// Take connections out of a group
    #[command(visible_alias = "rm")]
    Remove(ChangeArgs),
    /// Say something to all connections in a group
    Send(SendArgs),
    /// Close all connections in a group
    Close(CloseArgs),
}

#[derive(Debug, Args)]
struct MembersArgs {
    /// Name of the group
    group: String,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct UsersArgs {
    /// Name of the group
    group: String,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// Name of the group
    group: String,
    /// Ids of the connections
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
struct SendArgs {
    /// Name of the group
    group: String,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    except: Except,
}

#[derive(Debug, Args)]
struct CloseArgs {
    /// Name of the group
    group: String,
    #[command(flatten)]
    ending: Ending,
}

pub(crate) fn run(args: &GroupsArgs, global: &Global, out: &mut Output) -> Result<()> {
    match &args.verb {
        GroupsVerb::List => list(super::connect(global)?.held(&["groups"], "groups", &scope(global))?, out),
        GroupsVerb::Members(MembersArgs { group, quiet }) => {
            let path = ["groups", group, "connections"];
            held::show(super::connect(global)?.held(&path, "connections", &scope(global))?, *quiet, out)
        }
        GroupsVerb::Users(UsersArgs { group }) => {
            let path = ["groups", group, "users"];
            users(&super::connect(global)?.held(&path, "users", &scope(global))?, out)
        }
        GroupsVerb::History(args) => groups_past::history(args, global, out),
        GroupsVerb::Watch(args) => groups_past::watch(args, global, out),
        GroupsVerb::Add(args) => change(&Method::PUT, "Added", args, global, out),
        GroupsVerb::Remove(args) => change(&Method::DELETE, "Removed", args, global, out),
        GroupsVerb::Send(SendArgs { group, words, except }) => {
            let said = words.read()?;
            let parameters = except.parameters(words.parameters(scope(global)));
            held::told(super::connect(global)?.say_to_all(&["groups", group], &parameters, said)?, out)
        }
        GroupsVerb::Close(CloseArgs { group, ending }) => {
            let parameters = ending.parameters(scope(global));
            held::closed(super::connect(global)?.close_all(&["groups", group], &parameters)?, out)
        }
    }
}

fn list(values: Vec<Value>, out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&values);
    }
    if values.is_empty() {
        out.note("No groups: one is there as long as a connection is in it.");
        return Ok(());
    }
    let mut rows = vec![["NAME", "CONNECTIONS"].map(str::to_owned).to_vec()];
    for value in values {
        let group: Group = serde_json::from_value(value)?;
        rows.push(vec![group.name, group.connections.to_string()]);
    }
    Ok(out.table(&rows)?)
}

fn users(values: &[Value], out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&values);
    }
    if values.is_empty() {
        out.note("No users: none of its connections has one.");
        return Ok(());
    }
    let mut rows = vec![["USER", "CONNECTIONS"].map(str::to_owned).to_vec()];
    rows.extend(values.iter().map(|value| {
        vec![value["id"].as_str().unwrap_or_default().to_owned(), value["connections"].to_string()]
    }));
    Ok(out.table(&rows)?)
}

fn change(method: &Method, done: &str, args: &ChangeArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let changes = args.ids.iter().map(|id| {
        let path = ["groups", &args.group, "connections", id];
        let result = client.change_held(method.clone(), &path, &scope(global));
        (id.clone(), json!({ "group": args.group, "id": id }), result)
    });
    super::remove::tell_each(done, &done.to_lowercase(), changes, out)
}
