//! `roost connections`: the WebSockets that the daemon holds, for functions with `roost.websocket: events`.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use super::held::{self, Ending, Except, Words, scope};
use crate::api::Connection;
use crate::args::Global;
use crate::output::{Output, bytes};

const EXAMPLES: &str = "\
Examples:
  roost connections list --function chat
  roost connections send kXr3uWcQRzG5vJ1mT0yLbA -d 'hello there'
  roost connections broadcast --function chat -d 'back in five minutes'
  roost connections close kXr3uWcQRzG5vJ1mT0yLbA --code 4000 --reason enough

Those are held here whose function is deployed with the annotation roost.websocket: events. The WebSockets of \
all others are between their clients and the function.";

/// List, show, speak to and close the WebSockets that the daemon holds
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConnectionsArgs {
    #[command(subcommand)]
    verb: ConnectionsVerb,
}

#[derive(Debug, Subcommand)]
enum ConnectionsVerb {
    /// List connections
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show all there is to know about one connection
    #[command(visible_alias = "describe")]
    Show(OneArgs),
    /// Say something to one connection
    Send(SendArgs),
    /// Close connections
    Close(CloseArgs),
    /// Say something to all connections of a namespace, or of one function
    Broadcast(BroadcastArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Those of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Those in this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Those of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Id of the connection
    id: String,
}

#[derive(Debug, Args)]
struct SendArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    words: Words,
}

#[derive(Debug, Args)]
struct CloseArgs {
    /// Ids of the connections
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    ending: Ending,
}

#[derive(Debug, Args)]
struct BroadcastArgs {
    /// To those of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    except: Except,
}

pub(crate) fn run(args: &ConnectionsArgs, global: &Global, out: &mut Output) -> Result<()> {
    match &args.verb {
        ConnectionsVerb::List(args) => list(args, global, out),
        ConnectionsVerb::Show(one) => show(super::connect(global)?.connection(&one.id, &scope(global))?, out),
        ConnectionsVerb::Send(SendArgs { one, words }) => {
            let said = words.read()?;
            super::connect(global)?.say(&one.id, &words.parameters(scope(global)), said)?;
            if out.json { out.value(&json!({ "id": one.id, "said": true })) } else { Ok(out.line("Said")?) }
        }
        ConnectionsVerb::Close(args) => close(args, global, out),
        ConnectionsVerb::Broadcast(args) => broadcast(args, global, out),
    }
}

fn list(args: &ListArgs, global: &Global, out: &mut Output) -> Result<()> {
    let mut parameters = scope(global);
    for (name, value) in [("function", &args.function), ("group", &args.group), ("user", &args.user)] {
        parameters.extend(value.as_deref().map(|value| (name, value)));
    }
    let connections = super::connect(global)?.held(&["connections"], "connections", &parameters)?;
    held::show(connections, args.quiet, out)
}

fn show(value: Value, out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&value);
    }
    let of: Connection = serde_json::from_value(value)?;
    let carried = |messages: u64, size: u64| format!("{messages} messages, {}", bytes(size));
    let rows = [
        ("ID:", of.id),
        ("Function:", format!("{}.{}", of.function, of.namespace)),
        ("State:", of.state),
        ("User:", of.user.unwrap_or_default()),
        ("Groups:", of.groups.join(", ")),
        ("Subprotocol:", of.subprotocol.unwrap_or_default()),
        ("Peer:", of.peer),
        ("User agent:", of.user_agent.unwrap_or_default()),
        ("Path:", of.path),
        ("Since:", of.since),
        ("Last active:", of.last_active),
        ("In:", carried(of.messages.r#in, of.bytes.r#in)),
        ("Out:", carried(of.messages.out, of.bytes.out)),
        ("Unsent:", bytes(of.unsent_bytes)),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(out.table(&rows.map(|(name, value)| vec![name.to_owned(), value]).collect::<Vec<_>>())?)
}

fn close(args: &CloseArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let parameters = args.ending.parameters(scope(global));
    let ends = args.ids.iter().map(|id| {
        let result = client.change_held(Method::DELETE, &["connections", id], &parameters);
        (id.clone(), json!({ "id": id }), result)
    });
    super::remove::tell_each("Closed", "closed", ends, out)
}

fn broadcast(args: &BroadcastArgs, global: &Global, out: &mut Output) -> Result<()> {
    let said = args.words.read()?;
    let mut parameters = args.except.parameters(args.words.parameters(scope(global)));
    parameters.extend(args.function.as_deref().map(|function| ("function", function)));
    held::told(super::connect(global)?.say_to_all(&["connections"], &parameters, said)?, out)
}
