//! `roost deploy`: from an image, a stack file, or one static binary; then waits until it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use roost_stack::{Deployment, Map};

use super::deploy_many::{self, Job, Way};
use super::faas_cli::PassedOver;
use super::image;
use crate::args::Global;
use crate::client::{Client, How};
use crate::config;
use crate::duration;
use crate::failure::usage;
use crate::image::{Naming, Recipe};
use crate::name::Target;
use crate::output::Output;
use crate::stack_file::StackArgs;

/// The label that says how many replicas there are at least.
const MIN_REPLICAS_LABEL: &str = "com.openfaas.scale.min";
/// Where images made by `--binary` are kept by name. No registry has this name: it is never asked.
const BINARY_REPOSITORY: &str = "roost.local";

const EXAMPLES: &str = "\
Examples:
  roost deploy echo --image docker.io/library/echo:1.0 -e MODE=loud --secret key
  roost deploy hello --binary ./hello --memory 64Mi
  roost deploy -f stack.yaml
  TAG=1.4 roost deploy -f stack.yaml echo     # one of them; ${TAG} is filled in
  roost deploy -f https://example.org/stack.yaml --filter 'api-*'

Without any of these, stack.yaml or stack.yml in this folder is deployed.";

/// Deploy functions
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeployArgs {
    /// Name of the function; with -f, the only one of the file to deploy
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Name of the function, as faas-cli spells it
    #[arg(long = "name", hide = true, conflicts_with = "name", value_name = "NAME")]
    name_option: Option<String>,
    /// Image to run
    #[arg(long, value_name = "REF", conflicts_with_all = ["file", "binary"])]
    image: Option<String>,
    /// One static binary: it becomes an image, is sent to the daemon and runs
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    binary: Option<PathBuf>,
    #[command(flatten)]
    stack: StackArgs,
    /// Environment variable; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Label; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Annotation; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    annotation: Vec<(String, String)>,
    /// Secret that the function may read; may be repeated
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Placement constraint; kept for other hosts, without effect here
    #[arg(long, hide = true, value_name = "RULE")]
    constraint: Vec<String>,
    /// Process that a watchdog runs for each request
    #[arg(long, value_name = "COMMAND")]
    fprocess: Option<String>,
    /// Memory limit, such as 128Mi
    #[arg(long, visible_alias = "memory-limit", value_name = "QUANTITY")]
    memory: Option<String>,
    /// CPU limit, such as 500m or 0.5
    #[arg(long, visible_alias = "cpu-limit", value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Memory that the function would like to have; kept for other hosts
    #[arg(long, hide = true, value_name = "QUANTITY")]
    memory_request: Option<String>,
    /// CPU that the function would like to have; kept for other hosts
    #[arg(long, hide = true, value_name = "QUANTITY")]
    cpu_request: Option<String>,
    /// Make the root file system read-only (except /tmp)
    #[arg(long)]
    readonly: bool,
    /// Least number of replicas
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u32>,
    /// Update functions that are there (the default); with =false only new ones are created
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    update: Option<bool>,
    /// Remove functions that are there, and create them anew
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    replace: Option<bool>,
    /// How many functions to deploy at a time
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// Do not wait until the function is ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for all functions to be ready
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    passed_over: PassedOver,
}

pub(crate) fn run(args: &DeployArgs, global: &Global, out: &mut Output) -> Result<()> {
    let how = args.how()?;
    let stack = match args.stack_file() {
        Some(file) => Some(args.stack.read(file, args.typed_name(), out)?),
        None => None,
    };
    let in_file = stack.as_ref().and_then(|s| s.gateway.as_deref());
    let client = Client::new(&config::find(global.gateway.as_deref(), in_file)?);
    let deployments = match stack {
        Some(stack) => stack.deployments,
        None => vec![of_options(args, global, &client, out)?],
    };
    let jobs: Result<Vec<_>> =
        deployments.into_iter().map(|deployment| job(deployment, args, global)).collect();
    let wait = (!args.no_wait).then_some(args.timeout);
    deploy_many::run(&client, &jobs?, &Way { how, wait, parallel: args.parallel.into() }, out)
}

/// The one function that the options describe; a binary becomes an image first.
fn of_options(args: &DeployArgs, global: &Global, client: &Client, out: &mut Output) -> Result<Deployment> {
    if args.image.is_none() && args.binary.is_none() {
        return Err(usage("say what to deploy: --image REF, --binary PATH or -f stack.yaml"));
    }
    let name = match (args.typed_name(), &args.binary) {
        (Some(name), _) => name.to_owned(),
        (None, Some(path)) => path.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-"),
        (None, None) => return Err(usage("say how the function is called: roost deploy NAME --image REF")),
    };
    let target = Target::new(&name, global.namespace.as_deref())?;
    let image = match &args.binary {
        Some(path) => send_binary(path, &target, client, out)?,
        None => args.image.clone().unwrap_or_default(),
    };
    Ok(Deployment { service: name, image, ..Deployment::default() })
}

/// Builds and imports; answers the name to deploy. Its tag is made of the content, so the same binary is the same
/// revision and a new one never hides behind an old name.
fn send_binary(path: &Path, target: &Target, client: &Client, out: &mut Output) -> Result<String> {
    let naming = Naming::ByContent(format!("{BINARY_REPOSITORY}/{}", target.name));
    let archive = image::build(path, Recipe::default(), naming, out)?;
    let name = archive.name.full();
    let size = archive.size;
    image::send(
        client,
        Some(&name),
        target.namespace.as_deref(),
        Box::new(archive.into_reader()),
        Some(size),
        out,
    )
    .context("cannot import the image")?;
    Ok(name)
}

/// What was typed wins over what stands in a file.
fn job(mut deployment: Deployment, args: &DeployArgs, global: &Global) -> Result<Job> {
    // -n wins over the namespace in a file, and both must agree with `name.namespace`.
    let namespace = global.namespace.clone().or_else(|| deployment.namespace.take());
    let target = Target::new(&deployment.service, namespace.as_deref())?;
    deployment.service.clone_from(&target.name);
    deployment.namespace.clone_from(&target.namespace);
    deployment.env_vars.extend(args.env.iter().cloned());
    deployment.labels.extend(args.label.iter().cloned());
    deployment.annotations.extend(args.annotation.iter().cloned());
    deployment.constraints.extend(args.constraint.iter().cloned());
    for secret in &args.secret {
        if !deployment.secrets.contains(secret) {
            deployment.secrets.push(secret.clone());
        }
    }
    if let Some(count) = args.replicas {
        deployment.labels.extend(Map::from([(MIN_REPLICAS_LABEL.to_owned(), count.to_string())]));
    }
    if args.fprocess.is_some() {
        deployment.env_process.clone_from(&args.fprocess);
    }
    let typed = |key: &str, amount: &Option<String>| amount.clone().map(|amount| (key.to_owned(), amount));
    deployment.limits.extend([typed("memory", &args.memory), typed("cpu", &args.cpu)].into_iter().flatten());
    let requests = [typed("memory", &args.memory_request), typed("cpu", &args.cpu_request)];
    deployment.requests.extend(requests.into_iter().flatten());
    deployment.read_only_root_filesystem |= args.readonly;
    Ok(Job { target, deployment })
}

impl DeployArgs {
    /// The stack file that is meant, if one is.
    fn stack_file(&self) -> Option<&str> {
        if self.image.is_some() || self.binary.is_some() { None } else { self.stack.or_usual() }
    }

    fn how(&self) -> Result<How> {
        match (self.replace.unwrap_or(false), self.update) {
            (true, Some(true)) => Err(usage("say --update or --replace, not both")),
            (true, _) => Ok(How::Replace),
            (false, Some(false)) => Ok(How::Create),
            (false, _) => Ok(How::Update),
        }
    }

    fn typed_name(&self) -> Option<&str> {
        self.name.as_deref().or(self.name_option.as_deref())
    }
}

/// `KEY=VALUE`; the value may hold more equal signs, or nothing.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_file_and_keep_what_they_do_not_name() {
        let map = |pairs: &[(&str, &str)]| -> Map {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let deployment = Deployment {
            service: "a".into(),
            namespace: Some("dev".into()),
            env_vars: map(&[("A", "file"), ("B", "file")]),
            limits: map(&[("memory", "1Mi"), ("cpu", "1")]),
            secrets: vec!["s".into()],
            ..Deployment::default()
        };
        let args = DeployArgs {
            env: vec![("A".into(), "typed".into())],
            memory: Some("2Mi".into()),
            secret: vec!["s".into(), "t".into()],
            replicas: Some(3),
            ..DeployArgs::default()
        };
        let Job { target, deployment } = job(deployment, &args, &Global::default()).unwrap();
        assert_eq!(target.to_string(), "a.dev");
        assert_eq!((deployment.env_vars["A"].as_str(), deployment.env_vars["B"].as_str()), ("typed", "file"));
        assert_eq!(deployment.limits, map(&[("memory", "2Mi"), ("cpu", "1")]));
        assert_eq!(deployment.secrets, ["s", "t"]);
        assert_eq!(deployment.labels[MIN_REPLICAS_LABEL], "3");
    }

    #[test]
    fn pairs_keep_further_equal_signs() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
    }
}
