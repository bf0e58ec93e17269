//! What may be typed: the options that every verb takes, and the table of verbs.
//!
//! The arguments of one verb stand in that verb's own file.

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    auth, connections, deadletters, deploy, describe, doctor, events, groups, image, invoke, list, login,
    logs, namespace, queue, ready, remove, scale, secret, stack, system, token, top, usage, version,
};

const EXAMPLES: &str = "\
Examples:
  roost deploy echo --image docker.io/library/echo:1.0
  roost deploy hello --binary ./target/x86_64-unknown-linux-musl/release/hello
  roost deploy -f stack.yaml
  roost invoke echo -d hi
  roost logs echo -f

The daemon is found in this order: --gateway, the stack file's gateway, OPENFAAS_URL or ROOST_URL, \
/etc/roost/roostd.toml (or the file named by ROOST_CONFIG) when it may be read, the saved login, \
http://127.0.0.1:8080.

Exit codes: 0 done, 1 it failed, 2 the command line is wrong.";

/// Deploy functions, look at them, talk to them.
#[derive(Debug, Parser)]
#[command(name = "roost", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The options that every verb takes.
#[derive(Debug, Default, Args)]
pub(crate) struct Global {
    /// URL of the daemon
    #[arg(short, long, global = true, value_name = "URL", display_order = 100)]
    pub(crate) gateway: Option<String>,
    /// Namespace of the functions
    #[arg(short, long, global = true, value_name = "NAMESPACE", display_order = 101)]
    pub(crate) namespace: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true, display_order = 102)]
    pub(crate) json: bool,
    /// Taken, because faas-cli takes it; certificates are checked all the same
    #[arg(long, global = true, hide = true)]
    pub(crate) tls_no_verify: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Deploy functions: from an image, a stack file, or one static binary
    #[command(visible_alias = "up")]
    Deploy(Box<deploy::DeployArgs>),
    /// List the functions
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show all there is to know about one function
    Describe(describe::DescribeArgs),
    /// Remove functions
    #[command(visible_aliases = ["rm", "delete"])]
    Remove(remove::RemoveArgs),
    /// Set how many replicas a function has
    Scale(scale::ScaleArgs),
    /// Call a function and print what it answers
    Invoke(invoke::InvokeArgs),
    /// Print what a function wrote to stdout and stderr
    #[command(visible_alias = "log")]
    Logs(logs::LogsArgs),
    /// Watch what functions are doing: replicas, load, and the last decision about them
    Top(top::TopArgs),
    /// Show what functions have used of connections, by day
    Usage(usage::UsageArgs),
    /// Follow what is decided about replicas, and why
    Events(events::EventsArgs),
    /// List, show, speak to and close the WebSockets that the daemon holds
    #[command(visible_alias = "conns", alias = "connection")]
    Connections(connections::ConnectionsArgs),
    /// List the groups of such WebSockets, change who is in them, speak to them
    #[command(alias = "group")]
    Groups(groups::GroupsArgs),
    /// Show what calls wait that were handed over with --async, cancel one, print a result
    Queue(queue::QueueArgs),
    /// List, show, send again and remove what functions could not be brought to deal with
    #[command(name = "deadletters", visible_alias = "dl", aliases = ["deadletter", "dead-letters"])]
    DeadLetters(deadletters::DeadLettersArgs),
    /// Build, import, list and remove images
    #[command(visible_alias = "images")]
    Image(image::ImageArgs),
    /// Wait until the daemon answers, or a function is ready
    Ready(ready::ReadyArgs),
    /// Write a stack file from what runs
    Stack(stack::StackVerbArgs),
    /// List, create, change and remove namespaces
    #[command(visible_alias = "ns", alias = "namespaces")]
    Namespace(namespace::NamespaceArgs),
    /// Create, list, update and remove secrets
    #[command(visible_alias = "secrets")]
    Secret(secret::SecretArgs),
    /// Save the password of a daemon
    Login(login::LoginArgs),
    /// Forget the password of a daemon
    Logout,
    /// Show what the daemon keeps on its disk, and take away what nothing uses
    System(system::SystemArgs),
    /// Look whether this machine has what Roost needs, and say what repairs it
    Doctor(doctor::DoctorArgs),
    /// List and change the users of the daemon on this host
    Auth(auth::AuthArgs),
    /// Make a bearer token for tests
    Token(token::TokenArgs),
    /// Print the version of this program and of the daemon
    Version(version::VersionArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_of_arguments_is_sound() {
        Cli::command().debug_assert();
    }

    /// This command, and all below it, each with its words from the first on.
    fn all(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let words = format!("{words} {}", command.get_name());
        let below = command.get_subcommands().flat_map(|one| all(one, &words)).collect::<Vec<_>>();
        std::iter::once((words.trim().to_owned(), command.clone())).chain(below).collect()
    }

    /// clap breaks paragraphs where the terminal ends. One that is broken already gets lines of a few words, and an
    /// example that is too long cannot be copied.
    #[test]
    fn help_is_whole_paragraphs_and_examples_that_fit() {
        let mut root = Cli::command();
        root.build();
        let mut notes = 0;
        for (words, command) in all(&root, "") {
            let text = [command.get_after_help(), command.get_after_long_help()];
            let text: Vec<String> = text.into_iter().flatten().map(ToString::to_string).collect();
            notes += text.len();
            let is_example = |line: &&str| line.starts_with(' ');
            for text in &text {
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.windows(2).filter(|pair| pair.iter().all(|line| !line.is_empty())) {
                    assert!(
                        pair.iter().any(is_example),
                        "{words}: a paragraph is broken before {:?}",
                        pair[1]
                    );
                }
                for line in lines.iter().filter(|line| is_example(line)) {
                    assert!(line.chars().count() <= 80, "{words}: too long for a terminal: {line}");
                }
            }
            for width in [80, 100] {
                let mut command = command.clone().term_width(width);
                for shown in [command.render_help(), command.render_long_help()].map(|help| help.to_string())
                {
                    for line in shown.lines().filter(|line| !line.starts_with("Usage:")) {
                        assert!(line.chars().count() <= width, "{words} at {width}: {line}");
                    }
                    for line in text.iter().flat_map(|text| text.lines()).filter(is_example) {
                        assert!(shown.lines().any(|shown| shown == line), "{words} at {width}: {line}");
                    }
                }
            }
        }
        assert!(notes > 15, "{notes}");
    }

    #[test]
    fn global_options_may_stand_behind_the_verb() {
        let cli = Cli::try_parse_from(["roost", "list", "-g", "http://h:1", "-n", "dev", "--json"]).unwrap();
        assert_eq!(cli.global.gateway.as_deref(), Some("http://h:1"));
        assert_eq!(cli.global.namespace.as_deref(), Some("dev"));
        assert!(cli.global.json);
    }
}
