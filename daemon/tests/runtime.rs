//! Replicas in a real containerd, a private one for each test. Needs root, containerd, runc and busybox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use containerd_client::types::v1::Status;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_proxy::function::{Namespace, ReplicaId};
use roostd::runtime::containerd::{Containerd, Error, Kind, Settings};
use roostd::runtime::{BindMount, Exit, ReplicaPlan, Standing};
use support::{Host, PATIENCE, eventually};
use tokio::time::timeout;

/// Runs for as long as it takes, and ends at TERM with code 7.
const OBEDIENT: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 1000 & wait; done";
/// Does not end at TERM.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1000 & wait; done";
/// A grace that no test waits for.
const LONG: Duration = Duration::from_secs(600);

fn ns() -> Namespace {
    Namespace::default()
}

async fn stop(runtime: &Containerd, id: &ReplicaId, grace: Duration) {
    timeout(PATIENCE, runtime.stop(&ns(), id, grace)).await.expect("a stop in time").unwrap();
}

async fn exit_of(runtime: &Containerd, id: &ReplicaId) -> Exit {
    timeout(PATIENCE, runtime.wait(&ns(), id)).await.expect("an exit in time").unwrap()
}

/// How far all replicas are.
async fn standing(runtime: &Containerd) -> Vec<Option<Standing>> {
    runtime.list().await.unwrap().iter().map(|replica| replica.standing).collect()
}

/// Runs `plan` to its end, and returns how it ended and what it wrote.
async fn run(host: &Host, runtime: &Containerd, plan: &ReplicaPlan) -> (Exit, String) {
    runtime.start(plan).await.unwrap();
    let exit = exit_of(runtime, &plan.id).await;
    // The driver has all output when the task is deleted.
    stop(runtime, &plan.id, Duration::ZERO).await;
    (exit, host.output(plan))
}

#[tokio::test]
async fn connecting_tells_what_is_wrong() {
    let nowhere =
        Containerd::new(Settings { socket: "/nowhere/containerd.sock".into(), ..Settings::default() });
    let error = nowhere.connect().await.unwrap_err();
    assert!(matches!(error, Error::NoSocket { .. }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = Containerd::new(Settings { socket, ..Settings::default() }).connect().await.unwrap_err();
    assert!(matches!(&error, Error::Silent { reason, .. } if reason.contains("refused")), "{error}");

    let (host, runtime) = Host::start().await;
    let version = runtime.connect().await.unwrap();
    assert!(version.snapshotters.contains(&"overlayfs".to_owned()), "{version:?}");
    let other = Settings { snapshotter: "nydus".to_owned(), ..host.settings().clone() };
    let error = Containerd::new(other).connect().await.unwrap_err().to_string();
    assert!(error.contains("nydus") && error.contains("overlayfs"), "{error}");
    host.end().await;
}

#[tokio::test]
async fn a_replica_starts_writes_is_listed_and_stops() {
    let (host, runtime) = Host::start().await;
    let mut plan = host.plan(1, &format!("hostname; env; {OBEDIENT}"));
    plan.env.insert("GREETING".to_owned(), "hello there".to_owned());
    plan.labels.insert("team".to_owned(), "edge".to_owned());
    runtime.start(&plan).await.unwrap();
    let output = host.output_with(&plan, "up\n").await;
    assert!(output.starts_with("probe\n"), "{output}");
    assert!(output.contains("GREETING=hello there\n"), "{output}");

    let found = runtime.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].standing, Some(Standing::Running));
    assert_eq!((&found[0].id, &found[0].function), (&plan.id, &plan.function));
    assert_eq!((found[0].revision.as_str(), found[0].address), ("r1", Some(plan.address)));
    assert_eq!((found[0].image.as_str(), found[0].labels["team"].as_str()), ("sha256:feed", "edge"));
    let usage = runtime.usage(&ns(), &plan.id).await.unwrap();
    assert!(usage.cpu_usec > 0 && usage.memory_bytes > 0, "{usage:?}");

    let again = runtime.start(&plan).await.unwrap_err();
    assert_eq!(again.kind(), Some(Kind::AlreadyExists), "{again}");
    assert_eq!(
        standing(&runtime).await,
        [Some(Standing::Running)],
        "the failed second start took nothing away"
    );

    let waiting = tokio::spawn({
        let (runtime, id) = (runtime.clone(), plan.id.clone());
        async move { exit_of(&runtime, &id).await }
    });
    stop(&runtime, &plan.id, LONG).await;
    assert_eq!(waiting.await.unwrap().code, Some(7));
    stop(&runtime, &plan.id, LONG).await;
    assert_eq!(exit_of(&runtime, &plan.id).await.code, None, "gone: nobody saw it");
    host.end().await;
}

#[tokio::test]
async fn a_created_replica_waits_through_restarts_until_it_is_begun() {
    let (mut host, first) = Host::start().await;
    let mut plan = host.plan(1, OBEDIENT);
    plan.key = Some("room 1".parse().unwrap());
    first.create(&plan).await.unwrap();
    host.crash_containerd().await;
    let second = host.runtime();
    let found = second.list().await.unwrap();
    assert_eq!((found[0].standing, &found[0].key), (Some(Standing::Created), &plan.key));
    assert_eq!(host.output(&plan), "", "its program was not started");
    second.begin(&ns(), &plan.id).await.unwrap();
    host.output_with(&plan, "up").await;
    let again = second.begin(&ns(), &plan.id).await.unwrap_err();
    assert!(!again.is_not_found(), "{again}");
    assert_eq!(standing(&second).await, [Some(Standing::Running)]);
    stop(&second, &plan.id, LONG).await;
    host.end().await;
}

#[tokio::test]
async fn containerd_comes_to_know_of_what_was_begun_without_it() {
    let (host, runtime) = Host::start().await;
    let plans = [host.plan(1, OBEDIENT), host.plan(2, OBEDIENT)];
    runtime.create(&plans[0]).await.unwrap();
    runtime.begin(&ns(), &plans[0].id).await.unwrap();
    runtime.start(&plans[1]).await.unwrap();
    for plan in &plans {
        host.output_with(plan, "up").await;
        host.knows_that_it_runs(&runtime, &plan.id).await;
        let (exit, ()) = tokio::join!(exit_of(&runtime, &plan.id), stop(&runtime, &plan.id, LONG));
        assert_eq!(exit.code, Some(7));
    }
    host.end().await;
}

/// Begins the replica as a daemon does that is killed right behind it.
async fn begin_and_be_killed(host: &Host, id: &ReplicaId) {
    let (settings, id) = (host.settings().clone(), id.clone());
    let daemon = std::thread::spawn(move || {
        let daemon = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // What it has begun to do on the side ends with it.
        daemon.block_on(async { Containerd::new(settings).begin(&ns(), &id).await.unwrap() });
    });
    tokio::task::spawn_blocking(move || daemon.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_daemon_began_runs_and_the_next_one_makes_up_for_it() {
    let (host, runtime) = Host::start().await;
    let plans = [host.plan(1, OBEDIENT), host.plan(2, OBEDIENT), host.plan(3, OBEDIENT)];
    for plan in &plans {
        runtime.create(plan).await.unwrap();
        begin_and_be_killed(&host, &plan.id).await;
        host.output_with(plan, "up").await;
        assert_eq!(host.word(&runtime, &plan.id).await, Status::Created);
    }
    let next = host.runtime();
    assert_eq!(standing(&next).await, [Some(Standing::Running); 3]);
    next.resume(&ns(), &plans[0].id);
    next.begin(&ns(), &plans[1].id).await.unwrap();
    for plan in &plans[..2] {
        host.knows_that_it_runs(&next, &plan.id).await;
        next.resume(&ns(), &plan.id);
        next.begin(&ns(), &plan.id).await.unwrap_err();
    }
    // Whether containerd knows of it or not.
    for plan in &plans {
        let (exit, ()) = tokio::join!(exit_of(&next, &plan.id), stop(&next, &plan.id, LONG));
        assert_eq!(exit.code, Some(7), "it got its TERM");
    }
    host.end().await;
}

/// Is there a `runc start` of this replica?
fn is_being_started(id: &ReplicaId) -> bool {
    let of_it = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first().is_some_and(|word| word.ends_with(b"runc"))
            && words.contains(&b"start".as_slice())
            && words.contains(&id.as_str().as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().any(of_it)
}

#[tokio::test]
async fn a_start_whose_byte_went_with_a_killed_daemon_comes_to_its_end_when_the_next_one_looks() {
    let (host, runtime) = Host::start().await;
    let plan = host.plan(1, OBEDIENT);
    runtime.create(&plan).await.unwrap();
    begin_and_be_killed(&host, &plan.id).await;
    host.output_with(&plan, "up").await;
    let started = host.asks_to_start(&runtime, &plan.id);
    eventually("a start that waits", || is_being_started(&plan.id).then_some(())).await;
    let next = host.runtime();
    assert_eq!(standing(&next).await, [Some(Standing::Running)]);
    assert!(timeout(PATIENCE, started).await.unwrap().unwrap());
    host.knows_that_it_runs(&next, &plan.id).await;
    stop(&next, &plan.id, LONG).await;
    host.end().await;
}

#[tokio::test]
async fn one_that_was_just_begun_can_be_frozen_and_stopped() {
    let (host, runtime) = Host::start().await;
    for n in 0..4 {
        let plan = host.plan(n, OBEDIENT);
        if n % 2 == 0 {
            runtime.start(&plan).await.unwrap();
        } else {
            runtime.create(&plan).await.unwrap();
            runtime.begin(&ns(), &plan.id).await.unwrap();
        }
        if n < 2 {
            runtime.freeze(&ns(), &plan.id).await.unwrap();
            assert_eq!(host.word(&runtime, &plan.id).await, Status::Running, "containerd knows by then");
            assert_eq!(standing(&runtime).await, [Some(Standing::Paused)]);
        }
        stop(&runtime, &plan.id, Duration::ZERO).await;
        assert_eq!(standing(&runtime).await, []);
    }
    host.end().await;
}

#[tokio::test]
async fn a_runtime_that_does_it_otherwise_is_waited_for() {
    let (host, _) = Host::start().await;
    // runc, with its state at another place.
    let elsewhere = host.dir().join("other runc");
    let script = "#!/bin/sh\nfirst=$1 root=$2; shift 2; exec runc \"$first\" \"$root-other\" \"$@\"\n";
    fs::write(&elsewhere, script).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
    let settings =
        Settings { oci_runtime: Some(elsewhere.to_str().unwrap().to_owned()), ..host.settings().clone() };
    let runtime = Containerd::new(settings);
    let plans = [host.plan(1, OBEDIENT), host.plan(2, OBEDIENT)];
    runtime.create(&plans[0]).await.unwrap();
    runtime.begin(&ns(), &plans[0].id).await.unwrap();
    runtime.start(&plans[1]).await.unwrap();
    for plan in &plans {
        assert_eq!(host.word(&runtime, &plan.id).await, Status::Running);
        host.output_with(plan, "up").await;
        stop(&runtime, &plan.id, LONG).await;
    }
    host.end().await;
}

#[tokio::test]
async fn a_created_replica_that_is_killed_or_not_needed_is_seen_and_stopped() {
    let (host, runtime) = Host::start().await;
    let plans = [host.plan(1, OBEDIENT), host.plan(2, OBEDIENT)];
    for plan in &plans {
        runtime.create(plan).await.unwrap();
    }
    let processes = fs::read_to_string(host.cgroup("memory", &plans[0].id).join("cgroup.procs")).unwrap();
    let first = Pid::from_raw(processes.lines().next().unwrap().parse().unwrap());
    let (exit, ()) =
        tokio::join!(exit_of(&runtime, &plans[0].id), async { kill(first, Signal::SIGKILL).unwrap() });
    assert_eq!(exit.code, Some(137));
    for plan in &plans {
        stop(&runtime, &plan.id, LONG).await;
    }
    assert_eq!(standing(&runtime).await, []);
    host.end().await;
}

#[tokio::test]
async fn a_frozen_replica_does_nothing_until_it_is_thawed() {
    let (host, runtime) = Host::start().await;
    let shared = host.dir().join("shared");
    fs::create_dir(&shared).unwrap();
    let script = "while :; do echo > /shared/sign; sleep 0.01; done";
    let mut plan = host.plan(1, script);
    plan.mounts.push(BindMount { source: shared.clone(), target: "/shared".into(), read_only: false });
    runtime.start(&plan).await.unwrap();
    let sign = shared.join("sign");
    let signs = || fs::remove_file(&sign).is_ok().then_some(());
    eventually("a sign of life", signs).await;

    runtime.freeze(&ns(), &plan.id).await.unwrap();
    runtime.freeze(&ns(), &plan.id).await.unwrap();
    let processes = fs::read_to_string(host.cgroup("freezer", &plan.id).join("cgroup.procs")).unwrap();
    assert!(!processes.is_empty());
    signs();
    let spent = || async { runtime.usage(&ns(), &plan.id).await.unwrap().cpu_usec };
    let before = spent().await;
    // Another daemon finds it as it is, and goes on with it.
    let second = host.runtime();
    assert_eq!(standing(&second).await, [Some(Standing::Paused)]);
    assert_eq!((spent().await, sign.exists()), (before, false));
    second.thaw(&ns(), &plan.id).await.unwrap();
    second.thaw(&ns(), &plan.id).await.unwrap();
    assert_eq!(standing(&second).await, [Some(Standing::Running)]);
    eventually("a sign of life", signs).await;
    stop(&second, &plan.id, Duration::ZERO).await;
    second.thaw(&ns(), &plan.id).await.unwrap();
    second.freeze(&ns(), &plan.id).await.unwrap_err();
    host.end().await;
}

#[tokio::test]
async fn a_frozen_replica_gets_its_term_whoever_froze_it() {
    let (host, runtime) = Host::start().await;
    let obedient = host.plan(1, OBEDIENT);
    runtime.start(&obedient).await.unwrap();
    host.output_with(&obedient, "up").await;
    runtime.freeze(&ns(), &obedient.id).await.unwrap();
    let (exit, ()) = tokio::join!(exit_of(&runtime, &obedient.id), stop(&runtime, &obedient.id, LONG));
    assert_eq!(exit.code, Some(7), "it handled TERM");

    // Paused by containerd's own way, too: as somebody may do with its command line.
    let paused = host.plan(2, OBEDIENT);
    runtime.start(&paused).await.unwrap();
    host.knows_that_it_runs(&runtime, &paused.id).await;
    host.pause_by_containerd(&runtime, &paused.id).await;
    assert_eq!(standing(&runtime).await, [Some(Standing::Paused)]);
    let (exit, ()) = tokio::join!(exit_of(&runtime, &paused.id), stop(&runtime, &paused.id, LONG));
    assert_eq!(exit.code, Some(7));
    host.end().await;
}

#[tokio::test]
async fn one_that_ignores_term_is_killed_after_the_grace() {
    let (host, runtime) = Host::start().await;
    let plan = host.plan(1, STUBBORN);
    runtime.start(&plan).await.unwrap();
    host.output_with(&plan, "up").await;
    let grace = Duration::from_millis(200);
    let (exit, ()) = tokio::join!(exit_of(&runtime, &plan.id), stop(&runtime, &plan.id, grace));
    assert_eq!(exit.to_string(), "killed by signal 9");
    host.end().await;
}

#[tokio::test]
async fn an_exit_tells_code_and_reason() {
    let (host, runtime) = Host::start().await;
    let (exit, _) = run(&host, &runtime, &host.plan(1, "exit 3")).await;
    assert_eq!(exit.to_string(), "exited with code 3");

    let mut hungry = host.plan(2, "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    hungry.limits.memory_bytes = Some(32 << 20);
    let (exit, _) = run(&host, &runtime, &hungry).await;
    assert_eq!(exit.to_string(), "out of memory (limit 32 MiB)");

    // Ended while nobody waited: the record tells it to whoever lists.
    runtime.start(&host.plan(3, "exit 4")).await.unwrap();
    let id = host.id(3);
    exit_of(&runtime, &id).await;
    let found = host.runtime().list().await.unwrap();
    assert_eq!(found[0].standing, None);
    assert_eq!(found[0].exit.as_ref().unwrap().code, Some(4));
    host.end().await;
}

#[tokio::test]
async fn limits_are_in_force() {
    let (host, runtime) = Host::start().await;
    let mut plan = host.plan(1, OBEDIENT);
    plan.limits.cpu_millis = Some(250);
    plan.limits.memory_bytes = Some(64 << 20);
    runtime.start(&plan).await.unwrap();
    let read =
        |controller: &str, file: &str| fs::read_to_string(host.cgroup(controller, &plan.id).join(file)).ok();
    let v1 = read("cpu", "cpu.cfs_quota_us")
        .map(|quota| (quota, read("memory", "memory.limit_in_bytes").unwrap()));
    let v2 = || (read("cpu", "cpu.max").unwrap(), read("memory", "memory.max").unwrap());
    let (cpu, memory) = v1.unwrap_or_else(v2);
    assert!(cpu.starts_with("25000"), "{cpu}");
    assert_eq!(memory.trim(), "67108864");
    assert_eq!(read("pids", "pids.max").unwrap().trim(), "1024");
    host.end().await;
}

#[tokio::test]
async fn a_read_only_root_leaves_tmp_and_mounts_writable() {
    let (host, runtime) = Host::start().await;
    let shared = host.dir().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("in"), "from the host\n").unwrap();
    let script = "touch /x || echo root refused; touch /tmp/x && echo tmp taken; cat /ro/in; touch /ro/x || echo ro refused; touch /rw/out";
    let mut plan = host.plan(1, script);
    plan.read_only_root = true;
    for (target, read_only) in [("/ro", true), ("/rw", false)] {
        plan.mounts.push(BindMount { source: shared.clone(), target: target.into(), read_only });
    }
    let (exit, output) = run(&host, &runtime, &plan).await;
    assert_eq!(output, "root refused\ntmp taken\nfrom the host\nro refused\n");
    assert_eq!(exit.code, Some(0));
    assert!(shared.join("out").exists());

    let (_, output) = run(&host, &runtime, &host.plan(2, "touch /x && echo root taken")).await;
    assert_eq!(output, "root taken\n");
    host.end().await;
}

#[tokio::test]
async fn the_user_comes_from_the_image() {
    let (host, runtime) = Host::start().await;
    for (n, user, expected) in [
        (1, "", "uid=0(root) gid=0(root)"),
        (2, "app", "uid=1234(app) gid=2345(app) groups=2345(app),3456(extra)"),
        (3, "1234:0", "uid=1234(app) gid=0(root)"),
        (4, "77", "uid=77 gid=0(root)"),
    ] {
        let mut plan = host.plan(n, "id");
        plan.image.config.user = user.to_owned();
        let (_, output) = run(&host, &runtime, &plan).await;
        assert!(output.starts_with(expected), "{user:?}: {output}");
    }
    let mut plan = host.plan(5, "id");
    plan.image.config.user = "ghost".to_owned();
    let error = runtime.start(&plan).await.unwrap_err();
    assert!(matches!(&error, Error::User { user, .. } if user == "ghost"), "{error}");
    host.end().await;
}

#[tokio::test]
async fn a_replica_is_locked_in() {
    let (host, runtime) = Host::start().await;
    let script = "ls /sys/class/net; mount -t tmpfs x /tmp 2>&1; unshare -U true 2>&1; cat /proc/self/status; echo end";
    let (exit, output) = run(&host, &runtime, &host.plan(1, script)).await;
    assert_eq!(exit.code, Some(0), "{output}");
    assert!(output.starts_with("lo\n"), "its network is the given one: {output}");
    let refused =
        output.lines().filter(|line| line.contains("not permitted") || line.contains("denied")).count();
    assert_eq!(refused, 2, "{output}");
    let status = |key: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!((status("NoNewPrivs").as_str(), status("Seccomp").as_str()), ("1", "2"));
    assert_eq!(status("CapEff"), "00000000000004fb");
    host.end().await;
}

#[tokio::test]
async fn replicas_of_a_namespace_share_one_shim_and_end_one_by_one() {
    let (host, runtime) = Host::start().await;
    let plans: Vec<_> = (0..4).map(|n| host.plan(n, OBEDIENT)).collect();
    // All at once, when there is no shim yet.
    let (a, b, c, d) = tokio::join!(
        runtime.start(&plans[0]),
        runtime.start(&plans[1]),
        runtime.start(&plans[2]),
        runtime.start(&plans[3])
    );
    for (started, plan) in [a, b, c, d].into_iter().zip(&plans) {
        started.unwrap();
        host.output_with(plan, "up").await;
    }
    assert_eq!(host.shims().len(), 1);
    for (gone, plan) in plans.iter().enumerate() {
        stop(&runtime, &plan.id, LONG).await;
        let left = runtime.list().await.unwrap();
        assert_eq!(left.iter().filter(|replica| replica.standing.is_some()).count(), plans.len() - gone - 1);
    }
    host.end().await;
}

/// As when all functions of a host that are at zero are removed: each of them holds a process that was never begun.
#[tokio::test]
async fn a_hundred_created_replicas_are_removed_at_once() {
    const MANY: usize = 100;
    let (host, runtime) = Host::start().await;
    let plans: Vec<_> = (0..MANY).map(|n| host.plan(n, OBEDIENT)).collect();
    for plan in &plans {
        runtime.create(plan).await.unwrap();
    }
    // Somebody waits for each, as a controller does.
    let watching = join_all(plans.iter().map(|plan| exit_of(&runtime, &plan.id)));
    let stopping = join_all(plans.iter().map(|plan| stop(&runtime, &plan.id, LONG)));
    tokio::join!(watching, stopping);
    assert_eq!(standing(&runtime).await, []);
    host.end().await;
}

/// As at a start and at the end of a host.
#[tokio::test]
async fn a_hundred_replicas_start_and_stop_at_once() {
    const MANY: usize = 100;
    let (host, runtime) = Host::start().await;
    let plans: Vec<_> = (0..MANY).map(|n| host.plan(n, OBEDIENT)).collect();
    for started in join_all(plans.iter().map(|plan| runtime.start(plan))).await {
        started.unwrap();
    }
    let watching = join_all(plans.iter().map(|plan| exit_of(&runtime, &plan.id)));
    let stopping = join_all(plans.iter().map(|plan| stop(&runtime, &plan.id, Duration::from_secs(5))));
    tokio::join!(watching, stopping);
    assert_eq!(standing(&runtime).await, []);
    host.end().await;
}

#[tokio::test]
async fn without_sharing_each_replica_has_a_shim() {
    let (host, _) = Host::start().await;
    let runtime = Containerd::new(Settings { share_shim: false, seccomp: false, ..host.settings().clone() });
    for n in [1, 2] {
        runtime.start(&host.plan(n, OBEDIENT)).await.unwrap();
    }
    assert_eq!(host.shims().len(), 2);
    host.end().await;
}

#[tokio::test]
async fn a_start_beside_the_last_stop_finds_a_shim_that_serves() {
    let (host, runtime) = Host::start().await;
    runtime.start(&host.plan(0, OBEDIENT)).await.unwrap();
    for n in 0..8 {
        // Before its trap is set, the first process of a namespace is deaf to TERM.
        host.output_with(&host.plan(n, OBEDIENT), "up").await;
        let (next, last) = (host.plan(n + 1, OBEDIENT), host.id(n));
        let (started, ()) = tokio::join!(runtime.start(&next), stop(&runtime, &last, LONG));
        started.unwrap();
    }
    host.end().await;
}

#[tokio::test]
async fn a_restart_of_containerd_is_survived() {
    let (mut host, runtime) = Host::start().await;
    let go = host.dir().join("go");
    fs::create_dir(&go).unwrap();
    let mut plan = host.plan(1, "echo up; while [ ! -e /go/now ]; do sleep 0.1; done; exit 5");
    plan.mounts.push(BindMount { source: go.clone(), target: "/go".into(), read_only: true });
    runtime.start(&plan).await.unwrap();
    // One that it is still making when it is killed is removed by the next containerd.
    host.knows_that_it_runs(&runtime, &plan.id).await;
    let waiting = tokio::spawn({
        let (runtime, id) = (runtime.clone(), plan.id.clone());
        async move { exit_of(&runtime, &id).await }
    });
    // First it ends after the restart …
    host.crash_containerd().await;
    assert_eq!(standing(&runtime).await, [Some(Standing::Running)]);
    fs::write(go.join("now"), "").unwrap();
    assert_eq!(waiting.await.unwrap().code, Some(5));
    stop(&runtime, &plan.id, LONG).await;

    // … then while containerd is away.
    fs::remove_file(go.join("now")).unwrap();
    let mut plan = host.plan(2, "while [ ! -e /go/now ]; do sleep 0.1; done; echo end; exit 6");
    plan.mounts.push(BindMount { source: go.clone(), target: "/go".into(), read_only: true });
    runtime.start(&plan).await.unwrap();
    host.knows_that_it_runs(&runtime, &plan.id).await;
    let waiting = tokio::spawn({
        let (runtime, id) = (runtime.clone(), plan.id.clone());
        async move { exit_of(&runtime, &id).await }
    });
    host.kill_containerd();
    fs::write(go.join("now"), "").unwrap();
    host.output_with(&plan, "end").await;
    host.restart_containerd().await;
    assert_eq!(waiting.await.unwrap().code, Some(6));
    host.end().await;
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing() {
    let (host, runtime) = Host::start().await;
    let mut no_program = host.plan(1, "");
    no_program.image.config.entrypoint = vec!["/no/such/program".to_owned()];
    let mut no_image = host.plan(2, OBEDIENT);
    no_image.image.chain_id = "chain-9".to_owned();
    let mut no_network = host.plan(3, OBEDIENT);
    no_network.netns = "/proc/1/ns/nothing".into();
    let mut no_command = host.plan(4, OBEDIENT);
    no_command.image.config = roostd::image::ImageConfig::default();
    for plan in [no_program, no_image, no_network, no_command] {
        let error = runtime.start(&plan).await.unwrap_err();
        assert!(error.kind() != Some(Kind::Unavailable), "{error}");
        assert_eq!(runtime.list().await.unwrap().len(), 0, "{error}");
        assert_eq!(host.snapshots(&runtime).await, Vec::<String>::new(), "{error}");
        assert_eq!(host.leases(&runtime).await, Vec::<String>::new(), "{error}");
    }
    let broken = Settings { log_driver: "/no/such/driver".into(), ..host.settings().clone() };
    Containerd::new(broken).start(&host.plan(5, OBEDIENT)).await.unwrap_err();
    host.end().await;
}

#[tokio::test]
async fn another_daemon_finds_waits_for_and_stops_what_one_started() {
    let (host, first) = Host::start().await;
    let plans = [host.plan(1, OBEDIENT), host.plan(2, OBEDIENT)];
    for plan in &plans {
        first.start(plan).await.unwrap();
        host.output_with(plan, "up").await;
    }
    drop(first);
    let second = host.runtime();
    assert_eq!(second.list().await.unwrap().iter().filter(|replica| replica.standing.is_some()).count(), 2);
    let (exit, ()) = tokio::join!(exit_of(&second, &plans[0].id), stop(&second, &plans[0].id, LONG));
    assert_eq!(exit.code, Some(7));
    assert_eq!(second.list().await.unwrap().iter().filter(|replica| replica.standing.is_some()).count(), 1);
    host.end().await;
}

#[tokio::test]
async fn one_whose_shim_is_killed_is_gone_and_can_be_stopped() {
    let (host, runtime) = Host::start().await;
    let plan = host.plan(1, OBEDIENT);
    runtime.start(&plan).await.unwrap();
    let shim = eventually("the shim", || host.shims().first().copied()).await;
    kill(shim, Signal::SIGKILL).unwrap();
    let exit = exit_of(&runtime, &plan.id).await;
    assert!(!exit.out_of_memory && exit.code != Some(0), "{exit}");
    stop(&runtime, &plan.id, LONG).await;
    let next = host.plan(2, OBEDIENT);
    runtime.start(&next).await.unwrap();
    host.output_with(&next, "up").await;
    host.end().await;
}
