use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::image::ResolvedImage;
use crate::runtime::BindMount;
use crate::runtime::containerd::host::Machine;

const V1: Cgroups = Cgroups::V1 { swap: true };

fn plan() -> ReplicaPlan {
    ReplicaPlan {
        id: "echo-1a2b3c4d".parse().unwrap(),
        function: "echo.staging".parse_key(),
        revision: "r1".to_owned(),
        key: None,
        image: ResolvedImage {
            name: "docker.io/library/echo:latest".to_owned(),
            digest: "sha256:1".to_owned(),
            chain_id: "sha256:2".to_owned(),
            config: ImageConfig {
                entrypoint: vec!["/bin/echo".to_owned()],
                cmd: vec!["hi".to_owned()],
                ..ImageConfig::default()
            },
        },
        env: BTreeMap::new(),
        limits: Limits::default(),
        read_only_root: false,
        netns: PathBuf::from("/run/netns/echo"),
        address: "10.63.0.2".parse().unwrap(),
        mounts: Vec::new(),
        devices: Vec::new(),
        labels: BTreeMap::new(),
        log_dir: PathBuf::from("/var/lib/roost/logs"),
        log_limit: 1 << 20,
    }
}

trait ParseKey {
    fn parse_key(&self) -> roost_proxy::function::FunctionKey;
}

impl ParseKey for str {
    fn parse_key(&self) -> roost_proxy::function::FunctionKey {
        roost_proxy::function::FunctionKey::from_route(self).unwrap()
    }
}

fn host(cgroups: Cgroups) -> Host {
    Host { cgroups, open_files: 20_000, machine: Machine::X86_64 }
}

fn json_of(plan: &ReplicaPlan, settings: &Settings, cgroups: Cgroups) -> Value {
    let spec = build(plan, settings, &User::root(), host(cgroups)).unwrap();
    serde_json::to_value(spec).unwrap()
}

fn mount<'a>(spec: &'a Value, target: &str) -> Option<&'a Value> {
    spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == target)
}

#[test]
fn the_command_line_is_entrypoint_and_command() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (entrypoint, cmd, expected) in [
        (&["/app"][..], &["-v"][..], &["/app", "-v"][..]),
        (&[], &["sh", "-c", "true"], &["sh", "-c", "true"]),
        (&["/app"], &[], &["/app"]),
        (&[], &[], &[]),
    ] {
        let config = ImageConfig { entrypoint: words(entrypoint), cmd: words(cmd), ..ImageConfig::default() };
        assert_eq!(args(&config), expected);
    }
}

#[test]
fn an_image_without_a_command_is_refused_by_its_name() {
    let mut plan = plan();
    plan.image.config = ImageConfig::default();
    let error = build(&plan, &Settings::default(), &User::root(), host(V1)).unwrap_err();
    assert!(
        matches!(&error, Error::NoCommand { image } if image == "docker.io/library/echo:latest"),
        "{error}"
    );
}

#[test]
fn the_later_value_of_a_variable_wins() {
    let image = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
    let plan = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(env(&[], &plan(&[])), [DEFAULT_PATH]);
    assert_eq!(env(&image(&["PATH=/app", "A=1", "A=2"]), &plan(&[])), ["PATH=/app", "A=2"]);
    assert_eq!(
        env(&image(&["PATH=/app", "A=1"]), &plan(&[("A", "x=y"), ("B", "")])),
        ["PATH=/app", "A=x=y", "B="]
    );
    assert_eq!(env(&image(&["BARE"]), &plan(&[("BARE", "1")])), [DEFAULT_PATH, "BARE=1"]);
}

#[test]
fn a_process_gets_user_directory_and_no_new_privileges() {
    let mut plan = plan();
    plan.image.config.working_dir = "srv/app".to_owned();
    let user = User { uid: 1000, gid: 1001, groups: vec![29] };
    let spec = build(&plan, &Settings::default(), &user, host(V1)).unwrap();
    let process = serde_json::to_value(spec).unwrap()["process"].take();
    assert_eq!(process["user"], json!({ "uid": 1000, "gid": 1001, "additionalGids": [29] }));
    assert_eq!(process["cwd"], "/srv/app");
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["args"], json!(["/bin/echo", "hi"]));
    assert_eq!(process["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "hard": 20_000, "soft": 20_000 }]));
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 8);
    assert!(process["capabilities"].get("ambient").is_none_or(|set| set.as_array().unwrap().is_empty()));
    assert_eq!(process["terminal"], false);
}

#[test]
fn limits_become_numbers_for_each_version_of_control_groups() {
    let mut plan = plan();
    plan.limits = Limits { memory_bytes: Some(64 << 20), cpu_millis: Some(250) };
    for (cgroups, memory) in [
        (V1, json!({ "limit": 64 << 20, "swap": 64 << 20 })),
        (Cgroups::V1 { swap: false }, json!({ "limit": 64 << 20 })),
        (Cgroups::V2, json!({ "limit": 64 << 20, "swap": 64 << 20 })),
    ] {
        let resources = &json_of(&plan, &Settings::default(), cgroups)["linux"]["resources"];
        assert_eq!(resources["memory"], memory, "{cgroups:?}");
        assert_eq!(resources["cpu"], json!({ "quota": 25_000, "period": 100_000 }));
        assert_eq!(resources["pids"], json!({ "limit": 1024 }));
        assert_eq!(resources["devices"], json!([{ "allow": false, "access": "rwm" }]));
    }
}

#[test]
fn the_smallest_share_of_a_processor_is_what_the_kernel_takes() {
    for (millis, quota) in [(1, 1_000), (10, 1_000), (11, 1_100), (1000, 100_000), (2500, 250_000)] {
        let limits = Limits { cpu_millis: Some(millis), ..Limits::default() };
        let resources = serde_json::to_value(resources(limits, &[], host(V1)).unwrap()).unwrap();
        assert_eq!(resources["cpu"]["quota"], quota, "{millis}");
    }
    let unlimited = serde_json::to_value(resources(Limits::default(), &[], host(V1)).unwrap()).unwrap();
    assert_eq!((unlimited.get("cpu"), unlimited.get("memory")), (None, None));
}

#[test]
fn namespaces_are_its_own_and_the_network_is_the_given_one() {
    let kinds = |cgroups| -> Vec<String> {
        let spec = json_of(&plan(), &Settings::default(), cgroups);
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap().clone();
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network").unwrap();
        assert_eq!(network["path"], "/run/netns/echo");
        namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(V1), ["pid", "ipc", "uts", "mount", "network"]);
    assert_eq!(kinds(Cgroups::V2), ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
}

#[test]
fn a_read_only_root_has_a_writable_tmp() {
    let mut plan = plan();
    let spec = json_of(&plan, &Settings::default(), V1);
    assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": false }));
    assert!(mount(&spec, "/tmp").is_none());
    plan.read_only_root = true;
    let spec = json_of(&plan, &Settings::default(), V1);
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(mount(&spec, "/tmp").unwrap()["type"], "tmpfs");
}

#[test]
fn bind_mounts_come_last_and_bring_no_devices_or_privileges() {
    let mut plan = plan();
    for (target, read_only) in [("/etc/resolv.conf", true), ("/data", false)] {
        let source = Path::new("/host").join(target.trim_start_matches('/'));
        plan.mounts.push(BindMount { source, target: target.into(), read_only });
    }
    let spec = json_of(&plan, &Settings::default(), V1);
    let resolv = mount(&spec, "/etc/resolv.conf").unwrap();
    assert_eq!(resolv["options"], json!(["bind", "rprivate", "nosuid", "nodev", "ro"]));
    assert_eq!(resolv["source"], "/host/etc/resolv.conf");
    assert_eq!(spec["mounts"].as_array().unwrap().last().unwrap()["options"][4], "rw");
}

#[test]
fn settings_choose_shim_seccomp_and_the_parent_group() {
    let on = Settings { cgroup_parent: "/edge".into(), ..Settings::default() };
    let spec = json_of(&plan(), &on, V1);
    assert_eq!(spec["annotations"], json!({ "io.containerd.runc.v2.group": "roost-staging" }));
    assert_eq!(spec["linux"]["cgroupsPath"], "/edge/staging/echo-1a2b3c4d");
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(spec["hostname"], "echo");

    let off = Settings { share_shim: false, seccomp: false, ..Settings::default() };
    let spec = json_of(&plan(), &off, V1);
    assert!(spec["annotations"].as_object().is_none_or(serde_json::Map::is_empty));
    assert!(spec["linux"].get("seccomp").is_none());
}
