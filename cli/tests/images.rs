//! The verbs about images; what is built is read by another program where that is installed.

mod support;

use std::fs;
use std::process::Command;

use support::{BASIC, Daemon, Home, static_program};

#[test]
fn an_image_of_a_directory_is_understood_by_skopeo() {
    let home = Home::of("http://127.0.0.1:1");
    fs::create_dir_all(home.path().join("rootfs/app")).unwrap();
    fs::write(home.path().join("rootfs/app/run"), static_program()).unwrap();
    let build = [
        "image",
        "build",
        "rootfs",
        "-t",
        "shop:2",
        "--cmd",
        "/app/run 'two words'",
        "-o",
        "shop.tar",
        "--json",
    ];
    let ran = home.run(&build);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let built: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(built["name"], "docker.io/library/shop:2");
    assert_eq!(built["size"], fs::metadata(home.path().join("shop.tar")).unwrap().len());

    let Ok(skopeo) = Command::new("skopeo")
        .args(["inspect", "--config", "oci-archive:shop.tar"])
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .output()
    else {
        return; // Not on this host: the unit tests read the archive by themselves.
    };
    assert!(skopeo.status.success(), "{}", String::from_utf8_lossy(&skopeo.stderr));
    let config: serde_json::Value = serde_json::from_slice(&skopeo.stdout).unwrap();
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["/app/run", "two words"]));
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "oci-archive:shop.tar", "oci:copy:2"])
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

#[test]
fn a_build_goes_to_the_daemon_or_to_stdout() {
    let daemon =
        Daemon::new(|_| (200, r#"[{"name":"docker.io/library/hello:1","digest":"sha256:0"}]"#.into()));
    let home = Home::of(&daemon.url);
    home.file("hello", static_program());
    let ran = home.run(&["image", "build", "hello", "-t", "hello:1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("Built docker.io/library/hello:1 (amd64, "), "{}", ran.stdout);
    let sent = &daemon.requests()[0];
    assert_eq!(sent.line(), "POST /system/images?name=docker.io%2Flibrary%2Fhello%3A1");
    let direct = home.command(&["image", "build", "hello", "-t", "hello:1", "-o", "-"]).output().unwrap();
    assert!(direct.status.success() && direct.stdout == sent.body);
}

#[test]
fn what_cannot_run_alone_is_refused() {
    let home = Home::of("http://127.0.0.1:1");
    home.file("script", "#!/bin/sh\n");
    let ran = home.run(&["image", "build", "script", "-t", "s"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with("roost: script is a script (#!…)"), "{}", ran.stderr);
    let ran = home.run(&["image", "build", "/bin/ls", "-t", "ls"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("needs shared libraries") && ran.stderr.contains("musl"), "{}", ran.stderr);
}

#[test]
fn an_archive_is_sent_as_it_is_from_a_file_or_from_stdin() {
    let daemon =
        Daemon::new(|_| (200, r#"[{"name":"docker.io/library/a:1","digest":"sha256:0123"}]"#.into()));
    let home = Home::of(&daemon.url);
    home.file("a.tar", "content");
    let ran = home.run(&["image", "import", "a.tar", "-t", "a:1", "-n", "dev"]);
    assert_eq!(ran.stdout, "Imported docker.io/library/a:1 (sha256:0123)\n", "{}", ran.stderr);
    assert_eq!(home.run_with(&["image", "import", "-"], b"piped").code, Some(0));
    let requests = daemon.requests();
    assert_eq!(requests[0].line(), "POST /system/images?name=docker.io%2Flibrary%2Fa%3A1&namespace=dev");
    assert_eq!(
        (requests[0].body.as_slice(), requests[0].header("authorization")),
        (&b"content"[..], Some(BASIC))
    );
    assert_eq!((requests[1].target.as_str(), requests[1].body.as_slice()), ("/system/images", &b"piped"[..]));
}

#[test]
fn images_are_listed_and_removed() {
    let body = r#"[{"name":"docker.io/library/a:1","digest":"sha256:0123456789abcdef","size":2048,"createdAt":"","imported":true,"inUse":false}]"#;
    let daemon = Daemon::new(move |r| match (r.method.as_str(), r.target.contains("busy")) {
        ("GET", _) => (200, body.into()),
        (_, true) => (409, "busy is in use by a.openfaas-fn\n".into()),
        _ => (202, String::new()),
    });
    let home = Home::of(&daemon.url);
    let ran = home.run(&["image", "list"]);
    assert_eq!(
        ran.stdout,
        "NAME                   DIGEST               SIZE     AGE  FROM    USED\n\
         docker.io/library/a:1  sha256:0123456789ab  2.0 KiB       import  no\n"
    );
    assert_eq!(home.run(&["image", "rm", "a:1"]).stdout, "Removed a:1\n");
    let ran = home.run(&["image", "rm", "busy"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "roost: busy: busy is in use by a.openfaas-fn\n"));
    assert_eq!(daemon.lines()[1], "DELETE /system/images?name=a%3A1");
}
