//! What a function finds around it: names, resolvers, files, limits, environment.
//!
//! The function is a shell: the watchdog of the `shell` example runs what a request's body says, and answers with what that
//! prints.

use hyper::StatusCode;
use roost_tests::{Config, Example, Host, Image};
use serde_json::{Value, json};

/// What the shell is deployed as.
const NAME: &str = "sh";

/// A host with the shell on it, deployed with these fields besides its name and image.
async fn shell_with(config: Config, fields: Value) -> Host {
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    let host = Host::start_with(config).await;
    host.log_in().await;
    // Root, so that only what the daemon forbids is forbidden.
    let build = ["image", "build", root.to_str().unwrap(), "-t", "sh:1", "--cmd", "/bin/watchdog /bin/sh"];
    host.roost_done(&build).await;
    let mut deployment = json!({ "service": NAME, "image": "sh:1" });
    deployment.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    host.post_function(&deployment).await;
    host.ready(NAME).await;
    host
}

async fn shell() -> Host {
    shell_with(Config::default(), json!({})).await
}

/// Runs a script inside, which has to succeed, and returns what it printed.
async fn run(host: &Host, script: &str) -> String {
    let answer = host.call(NAME, &format!("exec 2>&1\n{script}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{script}: {}", answer.text());
    answer.text().to_owned()
}

#[tokio::test]
async fn functions_reach_each_other_through_the_gateway_by_each_of_its_names() {
    let host = shell().await;
    let archive = Image::echo().archive("docker.io/library/echo:1");
    assert_eq!(host.api.post("/system/images?name=echo:1", archive).await.status, StatusCode::OK);
    host.deploy("echo", "echo:1").await;
    // No -T: Debian's busybox crashes with it. The request from outside has an end of its own.
    let wget = "busybox wget -qO-";
    for name in ["gateway", "gateway.openfaas", "gateway.openfaas.svc.cluster.local"] {
        let healthy = run(&host, &format!("{wget} http://{name}:8080/healthz && echo healthy")).await;
        assert!(healthy.ends_with("healthy\n"), "{name}: {healthy}");
        let called = format!("{wget} --post-data=hi http://{name}:8080/function/echo");
        assert_eq!(run(&host, &called).await, "hi", "{name}");
    }
}

#[tokio::test]
async fn the_gateway_asks_functions_for_the_password_too() {
    let host = shell().await;
    let refused = run(&host, "busybox wget -qO- http://gateway:8080/system/functions || true").await;
    assert!(refused.contains("401"), "{refused}");
}

#[tokio::test]
async fn a_replica_resolves_its_own_host_name_to_itself() {
    let host = shell().await;
    assert_eq!(run(&host, "busybox hostname").await.trim(), NAME);
    // This run waits for another one in the same replica, which has nothing to do.
    let script = format!("busybox wget -qO- http://{NAME}:8080/ && echo reached");
    assert_eq!(run(&host, &script).await.trim(), "reached");
    let address = run(&host, "busybox hostname -i").await;
    let listed = run(&host, "busybox ip -4 -o address show dev eth0").await;
    assert!(listed.contains(&format!(" {}/", address.trim())), "{address}: {listed}");
}

#[tokio::test]
async fn functions_ask_the_resolvers_that_the_machine_asks() {
    // Of a stub on a loopback address, the servers behind it.
    let of_machine = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
        .into_iter()
        .map(|path| resolvers(&std::fs::read_to_string(path).unwrap_or_default()))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default();
    let host = shell().await;
    assert_eq!(resolvers(&run(&host, "cat /etc/resolv.conf").await), of_machine);
}

/// The resolvers that a file names, but for those on a loopback address.
fn resolvers(text: &str) -> Vec<String> {
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    servers.filter(|server| !server.starts_with("127.") && *server != "::1").map(str::to_owned).collect()
}

#[tokio::test]
async fn functions_ask_the_resolvers_that_are_configured() {
    let config = Config { dns: &["192.0.2.53", "2001:db8::53"], ..Config::default() };
    let host = shell_with(config, json!({})).await;
    let seen = run(&host, "cat /etc/resolv.conf").await;
    assert_eq!(seen, "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
}

#[tokio::test]
async fn a_read_only_root_has_a_tmp_that_anyone_can_write_to() {
    let host = shell_with(Config::default(), json!({ "readOnlyRootFilesystem": true })).await;
    for path in ["/file", "/etc/file", "/bin/file"] {
        let told = run(&host, &format!("echo x >{path} || true")).await;
        assert!(told.contains("Read-only file system"), "{path}: {told}");
    }
    assert_eq!(
        run(&host, "echo kept >/tmp/file && cat /tmp/file && busybox stat -c %a /tmp").await,
        "kept\n1777\n"
    );
}

#[tokio::test]
async fn a_root_is_writable_unless_told_otherwise() {
    let host = shell().await;
    assert_eq!(run(&host, "echo kept >/file && cat /file").await, "kept\n");
}

#[tokio::test]
async fn the_memory_limit_is_that_of_the_control_group() {
    let host = shell_with(Config::default(), json!({ "limits": { "memory": "48Mi" } })).await;
    // Control groups of version 2, or 1.
    let script = "cd /sys/fs/cgroup && if [ -e memory.max ]; then cat memory.max; else cat memory/memory.limit_in_bytes; fi";
    assert_eq!(run(&host, script).await.trim(), (48 << 20).to_string());
}

#[tokio::test]
async fn the_environment_is_as_it_was_sent() {
    let value = "a=b  'c' \"d\" $HOME \u{e9}\nsecond line";
    let sent =
        json!({ "envVars": { "GREETING": value, "EMPTY": "", "lower.case": "1" }, "envProcess": "cat -n" });
    let host = shell_with(Config::default(), sent).await;
    assert_eq!(run(&host, "printf %s \"$GREETING\"").await, value);
    assert_eq!(run(&host, "echo ${EMPTY-missing}").await, "\n");
    assert_eq!(run(&host, "echo \"$fprocess\"").await, "cat -n\n");
    let all = run(&host, "busybox tr '\\0' '\\n' </proc/1/environ").await;
    assert!(all.lines().any(|line| line == "lower.case=1"), "{all}");
}

#[tokio::test]
async fn files_and_devices_of_the_host_are_seen_where_the_settings_allow_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path).to_str().unwrap().to_owned();
    for path in ["read", "write", "secret"] {
        std::fs::create_dir(at(path)).unwrap();
        std::fs::write(at(&format!("{path}/file")), path).unwrap();
    }
    std::fs::create_dir(at("write/part")).unwrap();
    std::os::unix::fs::symlink(at("secret"), at("read/out")).unwrap();
    // The kernel lets nobody open these who was not given them.
    let device = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| std::fs::exists(path).unwrap());
    let device = device.expect("a device that is not everybody's");
    let config = Config {
        mounts: vec![at("read"), format!("{}:rw", at("write"))],
        devices: vec![device.to_owned()],
        ..Config::default()
    };
    let annotations = json!({
        "roost.mount.read": format!("{}:/in/read", at("read")),
        "roost.mount.write": format!("{}:/in/write:rw", at("write")),
        "roost.mount.part": format!("{}:/in/part", at("write/part")),
        "roost.device.whole": format!("{device}:/dev/whole"),
        "roost.device.part": format!("{device}:/dev/part/of-it:r"),
    });
    let host = shell_with(config, json!({ "annotations": annotations })).await;
    assert_eq!(run(&host, "cat /in/read/file /in/write/file").await, "readwrite");
    assert!(run(&host, "echo x > /in/read/new || echo refused").await.ends_with("refused\n"));
    run(&host, "echo new > /in/write/new").await;
    assert_eq!(std::fs::read_to_string(at("write/new")).unwrap(), "new\n");
    // A link that leads out of what is mounted leads nowhere inside.
    assert!(run(&host, "cat /in/read/out/file || echo refused").await.ends_with("refused\n"));
    // The rules of the same device add up: it may be written by both names.
    assert_eq!(run(&host, "exec 3<>/dev/whole && echo opened").await, "opened\n");
    assert_eq!(run(&host, "test -c /dev/part/of-it && echo there").await, "there\n");

    // What is not allowed is refused by its name, and so is its replica when the host has changed meanwhile.
    for (name, value, part) in [
        ("roost.mount.m", format!("{}:/in/m", at("secret")), "functions.mounts"),
        ("roost.mount.m", format!("{}:/in/m", at("read/out")), "functions.mounts"),
        ("roost.mount.m", format!("{}:/in/m:rw", at("read")), "functions.mounts"),
        ("roost.mount.m", format!("{}:/etc", at("read")), "Roost's own"),
        ("roost.device.d", "/dev/kmsg".to_owned(), "functions.devices"),
        ("roost.device.d", "/dev/nothing-of-this-name".to_owned(), "functions.devices"),
    ] {
        let body = json!({ "service": "other", "image": "sh:1", "annotations": { name: value } });
        let answer = host.api.post("/system/functions", body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{value}: {}", answer.text());
        let text = answer.text();
        assert!(text.starts_with(&format!("annotations.{name}: ")) && text.contains(part), "{value}: {text}");
    }
    std::fs::rename(at("write/part"), at("write/moved")).unwrap();
    std::os::unix::fs::symlink(at("secret"), at("write/part")).unwrap();
    host.kill_function(NAME);
    let refused = |status: &Value| status["message"].as_str().is_some_and(|m| m.contains("roost.mount.part"));
    host.status(NAME, "no way around the settings", refused).await;
    std::fs::remove_file(at("write/part")).unwrap();
    std::fs::rename(at("write/moved"), at("write/part")).unwrap();
    host.ready(NAME).await;
}

#[tokio::test]
async fn a_device_that_was_not_given_cannot_be_opened() {
    let device = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| std::fs::exists(path).unwrap());
    let device = device.expect("a device that is not everybody's");
    let config = Config { devices: vec![device.to_owned()], ..Config::default() };
    let annotations = json!({ "roost.device.part": format!("{device}:r") });
    let host = shell_with(config, json!({ "annotations": annotations })).await;
    let open = format!("exec 3<{device} && echo read; (exec 3<>{device}) || echo refused");
    let told = run(&host, &open).await;
    assert!(told.starts_with("read\n") && told.ends_with("refused\n"), "{told}");
}
