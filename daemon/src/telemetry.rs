//! What the daemon says: to the journal where it runs, else to standard error.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to log what passes `filter`; `RUST_LOG` goes before it.
pub fn init(filter: &str) {
    let parse = |text: &str| text.parse::<Targets>().ok();
    let from_environment = std::env::var("RUST_LOG").ok().and_then(|text| parse(&text));
    let registry = tracing_subscriber::registry().with(from_environment.or_else(|| parse(filter)));
    // systemd names the journal's stream in this variable; without it standard error goes somewhere else.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => {
            // Without a prefix: the same `FUNCTION=` that the output of functions carries.
            let journal = journal.with_field_prefix(None).with_syslog_identifier("roostd".to_owned());
            registry.with(journal).init();
        }
        None => {
            let terminal = std::io::stderr().is_terminal();
            registry
                .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal))
                .init();
        }
    }
}
