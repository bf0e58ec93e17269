//! The daemon's binary: so far, only the log driver.

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("log-driver"), Some(arg)) => roostd::logs::driver::run(&arg),
        _ => anyhow::bail!("usage: roostd log-driver <max_bytes>:<dir>"),
    }
}
