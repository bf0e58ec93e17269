//! Options that faas-cli takes with a deploy and that mean nothing here: scripts that give them go on working.

use clap::Args;

/// Taken, and passed over.
#[derive(Debug, Default, Args)]
pub(super) struct PassedOver {
    /// The template is a matter of the build
    #[arg(long, hide = true, value_name = "NAME")]
    lang: Option<String>,
    /// So is its folder
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    handler: Option<String>,
    /// There is one network for each namespace
    #[arg(long, hide = true, value_name = "NAME")]
    network: Option<String>,
    /// Other tags are made at the build: write ${TAG} into the stack file
    #[arg(long, hide = true, value_parser = ["latest"])]
    tag: Option<String>,
    /// An image knows what it runs
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    read_template: Option<bool>,
    /// Nothing is pushed
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    skip_push: Option<bool>,
}
