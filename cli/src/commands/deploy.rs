//! `roost deploy`: from an image, a stack file, or one static binary; then waits until it answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::{image, wait};
use crate::api::{Deployment, Map, Resources};
use crate::args::Global;
use crate::client::Client;
use crate::config;
use crate::duration;
use crate::failure::{Partly, usage};
use crate::image::{Naming, Recipe};
use crate::name::Target;
use crate::output::Output;
use crate::stack::Stack;

/// The label that says how many replicas there are at least.
const MIN_REPLICAS_LABEL: &str = "com.openfaas.scale.min";
/// Where images made by `--binary` are kept by name. No registry has this name: it is never asked.
const BINARY_REPOSITORY: &str = "roost.local";

const EXAMPLES: &str = "\
Examples:
  roost deploy echo --image docker.io/library/echo:1.0 -e MODE=loud -l com.openfaas.scale.zero=true
  roost deploy hello --binary ./hello --memory 64Mi
  roost deploy -f stack.yaml
  TAG=1.4 roost deploy -f stack.yaml echo      (one function of the file; ${TAG} is filled in)";

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
    /// A stack file: deploys every function in it
    #[arg(short, long, visible_alias = "yaml", value_name = "STACK.YAML")]
    file: Option<PathBuf>,
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
    /// Make the root file system read-only (except /tmp)
    #[arg(long)]
    readonly: bool,
    /// Least number of replicas
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u32>,
    /// Do not wait until the function is ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for all functions to be ready
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    timeout: Duration,
}

pub(crate) fn run(args: &DeployArgs, global: &Global, out: &mut Output) -> Result<()> {
    let stack = args.file.as_deref().map(Stack::read).transpose()?;
    let in_file = stack.as_ref().and_then(|s| s.gateway.as_deref());
    let client = Client::new(&config::find(global.gateway.as_deref(), in_file)?);
    let mut deployments = match stack {
        Some(stack) => of_stack(stack, args, out)?,
        None => vec![of_options(args, global, &client, out)?],
    };
    let mut accepted = Vec::new();
    for deployment in &mut deployments {
        let target = apply_options(deployment, args, global)?;
        let sent = client.deploy(deployment);
        accepted.push((target, deployment.image.clone(), sent));
    }
    let deadline = Instant::now() + args.timeout;
    let mut results = Vec::new();
    for (target, image, sent) in accepted {
        let result = sent.and_then(|()| match args.no_wait {
            true => Ok(()),
            false => Ok(wait::until_ready(&client, &target, deadline, args.timeout, out)?),
        });
        results.push((target, image, result));
    }
    report(&client, args, results, out)
}

type Outcome = (Target, String, Result<()>);

/// Says of each function how it went; one failure is one error, and the last word.
fn report(client: &Client, args: &DeployArgs, results: Vec<Outcome>, out: &mut Output) -> Result<()> {
    if out.json {
        let values: Vec<Value> = results.iter().map(|r| outcome(client, args, r)).collect();
        out.value(&values)?;
    }
    let all = results.len();
    let mut errors = Vec::new();
    for (target, _, result) in results {
        match result {
            Ok(()) if out.json => {}
            Ok(()) => {
                let how = if args.no_wait { "Accepted" } else { "Deployed" };
                out.line(format!("{how} {target}: {}", client.function_url(&target)))?;
            }
            Err(error) => errors.push(error.context(target.to_string())),
        }
    }
    if all == 1 {
        return errors.pop().map_or(Ok(()), Err);
    }
    for error in &errors {
        out.note(format!("roost: {error:#}"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Partly(errors.len(), all).into()) }
}

fn outcome(client: &Client, args: &DeployArgs, (target, image, result): &Outcome) -> Value {
    json!({
        "name": target.name,
        "namespace": target.namespace,
        "image": image,
        "url": client.function_url(target),
        "ready": result.is_ok() && !args.no_wait,
        "error": result.as_ref().err().map(|e| format!("{e:#}")),
    })
}

/// The functions of the file, or the one that was named.
fn of_stack(stack: Stack, args: &DeployArgs, out: &mut Output) -> Result<Vec<Deployment>> {
    for note in &stack.notes {
        out.note(format!("roost: note: {note}"));
    }
    let mut deployments = stack.deployments;
    if let Some(only) = args.typed_name() {
        deployments.retain(|d| d.service == only);
        if deployments.is_empty() {
            return Err(usage(format!("the stack file has no function '{only}'")));
        }
    }
    Ok(deployments)
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
fn apply_options(deployment: &mut Deployment, args: &DeployArgs, global: &Global) -> Result<Target> {
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
    if args.memory.is_some() || args.cpu.is_some() {
        let limits = deployment.limits.get_or_insert_with(Resources::default);
        limits.memory = args.memory.clone().or(limits.memory.take());
        limits.cpu = args.cpu.clone().or(limits.cpu.take());
    }
    deployment.read_only_root_filesystem |= args.readonly;
    Ok(target)
}

impl DeployArgs {
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
        let mut deployment = Deployment {
            service: "a".into(),
            namespace: Some("dev".into()),
            env_vars: Map::from([("A".into(), "file".into()), ("B".into(), "file".into())]),
            limits: Some(Resources { memory: Some("1Mi".into()), cpu: Some("1".into()) }),
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
        let target = apply_options(&mut deployment, &args, &Global::default()).unwrap();
        assert_eq!(target.to_string(), "a.dev");
        assert_eq!((deployment.env_vars["A"].as_str(), deployment.env_vars["B"].as_str()), ("typed", "file"));
        assert_eq!(deployment.limits, Some(Resources { memory: Some("2Mi".into()), cpu: Some("1".into()) }));
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
