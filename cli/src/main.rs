//! `roost`: what a person types.
//!
//! It talks to the HTTP API of a daemon and to nothing else: no containerd, no state on the host but the saved login,
//! and, for `roost auth` alone, the files that name the daemon's users. (`roost doctor` leaves the looking to `roostd`.)
//! Read on from here: [`args`] says what may be typed, [`config`] finds the daemon, [`client`] speaks to it, and each
//! verb is one file below [`commands`]. [`output`] and [`screen`] are the only places that write to the terminal.

mod api;
mod args;
mod client;
mod commands;
mod config;
mod duration;
mod failure;
mod image;
mod name;
mod output;
mod screen;
mod stack_file;
mod terminal;
mod token;
mod users;

use std::process::ExitCode;

use args::{Cli, Verb};
use clap::Parser;
use commands as verb;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(shown) => return output::usage(&shown),
    };
    let mut out = Output::new(cli.global.json);
    let result = run(&cli, &mut out);
    out.finish(result)
}

fn run(cli: &Cli, out: &mut Output) -> anyhow::Result<()> {
    let global = &cli.global;
    if global.tls_no_verify {
        out.note("roost: note: --tls-no-verify has no effect: make this host trust the gateway's authority");
    }
    match &cli.verb {
        Verb::Deploy(args) => verb::deploy::run(args, global, out),
        Verb::List(args) => verb::list::run(args, global, out),
        Verb::Describe(args) => verb::describe::run(args, global, out),
        Verb::Remove(args) => verb::remove::run(args, global, out),
        Verb::Scale(args) => verb::scale::run(args, global, out),
        Verb::Invoke(args) => verb::invoke::run(args, global, out),
        Verb::Top(args) => verb::top::run(args, global, out),
        Verb::Usage(args) => verb::usage::run(args, global, out),
        Verb::Events(args) => verb::events::run(args, global, out),
        Verb::Connections(args) => verb::connections::run(args, global, out),
        Verb::Groups(args) => verb::groups::run(args, global, out),
        Verb::Queue(args) => verb::queue::run(args, global, out),
        Verb::DeadLetters(args) => verb::deadletters::run(args, global, out),
        Verb::Logs(args) => verb::logs::run(args, global, out),
        Verb::Image(args) => verb::image::run(args, global, out),
        Verb::Ready(args) => verb::ready::run(args, global, out),
        Verb::Stack(args) => verb::stack::run(args, global, out),
        Verb::Namespace(args) => verb::namespace::run(args, global, out),
        Verb::Secret(args) => verb::secret::run(args, global, out),
        Verb::Login(args) => verb::login::run(args, global, out),
        Verb::System(args) => verb::system::run(args, global, out),
        Verb::Doctor(args) => verb::doctor::run(args, global),
        Verb::Auth(args) => verb::auth::run(args, global, out),
        Verb::Token(args) => verb::token::run(args, global, out),
        Verb::Logout => verb::logout::run(global, out),
        Verb::Version(args) => verb::version::run(args, global, out),
    }
}
