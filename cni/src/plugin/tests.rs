//! Runs real programs: shell scripts that behave as plugins may.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A plugin that is a shell and does what its stdin says. (A script written here could not be run while another test's child still
/// holds it open for writing.)
fn shell() -> (tempfile::TempDir, Plugins) {
    let dir = tempfile::tempdir().unwrap();
    symlink("/bin/sh", dir.path().join("probe")).unwrap();
    let plugins = Plugins::new(vec!["/nonexistent".into(), dir.path().into()]);
    (dir, plugins)
}

async fn run(plugins: &Plugins, script: &str) -> Result<Vec<u8>, PluginError> {
    run_with(plugins, "", None, script).await
}

async fn run_with(
    plugins: &Plugins,
    args: &str,
    netns: Option<&Path>,
    script: &str,
) -> Result<Vec<u8>, PluginError> {
    let stdin = script.as_bytes();
    plugins
        .run(&Run {
            plugin: "probe",
            command: Command::Add,
            id: "a-1",
            netns,
            interface: "eth0",
            args,
            stdin,
        })
        .await
}

#[tokio::test]
async fn a_plugin_gets_its_environment_and_stdin_and_nothing_else() {
    let (dir, plugins) = shell();
    let script = "env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^PATH= -e ^OLDPWD= | sort";
    let out = run_with(&plugins, "A=1;B=2", Some(Path::new("/run/netns/a")), script).await.unwrap();
    let expected = format!(
        "CNI_ARGS=A=1;B=2\nCNI_COMMAND=ADD\nCNI_CONTAINERID=a-1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/a\nCNI_PATH=/nonexistent:{}\n",
        dir.path().display()
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    let out = String::from_utf8(run(&plugins, script).await.unwrap()).unwrap();
    assert!(out.contains("CNI_NETNS=\n") && !out.contains("CNI_ARGS"), "{out}");
}

#[tokio::test]
async fn an_error_on_stdout_is_typed() {
    let (_dir, plugins) = shell();
    let answer = r#"{"cniVersion":"1.0.0","code":11,"msg":"full","details":"all gone"}"#;
    let error = run(&plugins, &format!("echo noise >&2; echo '{answer}'; exit 1")).await.unwrap_err();
    assert!(matches!(&error, PluginError::Reported { code: 11, .. }));
    assert_eq!(error.to_string(), r#"CNI plugin "probe" failed on ADD (code 11): full (all gone)"#);
}

#[tokio::test]
async fn a_failure_without_a_proper_error_tells_the_end_of_what_was_printed() {
    let (_dir, plugins) = shell();
    let error = run(&plugins, "echo starting; echo 'panic: no such thing' >&2; exit 2")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("exit status: 2") && error.contains("panic: no such thing"), "{error}");

    let (_dir, plugins) = shell();
    let error = run(&plugins, "kill -9 $$").await.unwrap_err().to_string();
    assert!(error.contains("signal: 9") && error.contains("it printed nothing"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_reads_nothing_can_still_answer() {
    let (_dir, plugins) = shell();
    let script = format!("exec <&-; echo done; exit\n{}", " ".repeat(1 << 20));
    assert_eq!(run(&plugins, &script).await.unwrap(), b"done\n");
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    // The child holds stdout open and would outlive its parent.
    let (dir, mut plugins) = shell();
    let script = format!("sleep 1000 & echo $! > {}/child; wait", dir.path().display());
    // Long enough for a shell to start its child on a crowded machine.
    plugins.deadline = Duration::from_secs(3);
    let error = run(&plugins, &script).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error}");

    let child: i32 = fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
    // It is an orphan now, gone as soon as it is reaped; a zombie counts as gone.
    let gone =
        || fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "));
    timeout(Duration::from_secs(10), async {
        while !gone() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the plugin's child is gone");
}

#[tokio::test]
async fn a_plugin_that_prints_without_end_is_killed() {
    for stream in ["1", "2"] {
        let (_dir, plugins) = shell();
        let error = run(&plugins, &format!("exec cat /dev/zero >&{stream}")).await.unwrap_err();
        assert!(matches!(error, PluginError::TooMuchOutput { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_that_is_not_there_is_named() {
    let plugins = Plugins::new(vec!["/nonexistent".into()]);
    let error = run(&plugins, "").await.unwrap_err().to_string();
    assert_eq!(
        error,
        r#"CNI plugin "probe" cannot be started for ADD: it is in none of the plugin directories"#
    );
}

#[test]
fn a_file_that_cannot_be_executed_is_not_a_plugin() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("probe"), "").unwrap();
    fs::create_dir(dir.path().join("other")).unwrap();
    let plugins = Plugins::new(vec![dir.path().into()]);
    assert_eq!(plugins.find("probe"), None);
    assert_eq!(plugins.find("other"), None);
}
