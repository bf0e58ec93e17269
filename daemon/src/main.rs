//! `roostd`: reads the command line and becomes the daemon, or one of the small things that the daemon needs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use roostd::cli::{Arguments, Command};
use roostd::config::Config;
use roostd::{app, doctor, host_end, logs, memory, supervise, telemetry};

/// How long blocking calls of the daemon may take to return when it ends.
const TASKS_END: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run(&arguments.config),
        Command::Supervise => supervise::run(&arguments.config),
        Command::CheckConfig => check(&arguments.config),
        Command::Doctor { json } => return doctor::run(&arguments.config, json),
        Command::LogDriver { target } => logs::driver::run(&target),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("roostd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    telemetry::init(&config.logs.level);
    // Before any thread is there that might use TLS: two providers in one process would be one too many to guess.
    rustls::crypto::ring::default_provider().install_default().ok();
    let inherited = roostd::systemd::inherited().context("cannot take over the sockets of systemd")?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    memory::bound(workers);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(workers)
        .thread_name("roostd")
        .max_blocking_threads(app::BLOCKING_THREADS)
        .build()
        .context("cannot start the async workers")?;
    let result = runtime.block_on(app::run(&config, inherited));
    // Replicas' tasks that are still at work hold nothing that the next daemon does not find by itself.
    runtime.shutdown_timeout(TASKS_END);
    let handed_over = result?;
    if !handed_over && host_end::has_come() { stop_functions(&config) } else { Ok(()) }
}

/// In a runtime of its own: the other one has ended with the controllers, which would start again what is stopped here.
fn stop_functions(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the last async worker")?.block_on(host_end::stop_functions(config))
}

fn check(path: &std::path::Path) -> anyhow::Result<()> {
    Config::load(path)?;
    say(&format!("{}: the settings are valid", path.display()));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "said to the person who typed the command")]
fn say(text: &str) {
    eprintln!("{text}");
}
