//! `roost secret`, run as a person runs it: values go to the daemon and nowhere else.

mod support;

use serde_json::json;
use support::{BASIC, Daemon, Home, Ran};

/// No part of what was printed is a value.
fn quiet(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn values_come_from_a_literal_a_file_or_stdin_and_go_as_they_are() {
    let daemon = Daemon::new(|_| (202, String::new()));
    let home = Home::of(&daemon.url);
    home.file("text", " hunter2\n");
    home.file("bytes", b"\xffhunter2\n");
    let runs: [(&[&str], &[u8], serde_json::Value); 7] = [
        (&["create", "a", "--from-literal", "hunter2 "], b"", json!({"name": "a", "value": "hunter2 "})),
        (&["create", "a", "--from-file", "text"], b"", json!({"name": "a", "value": " hunter2\n"})),
        (&["create", "a", "--from-file=text", "--trim"], b"", json!({"name": "a", "value": "hunter2"})),
        (
            &["create", "a", "--from-file=text", "--trim=false"],
            b"",
            json!({"name": "a", "value": " hunter2\n"}),
        ),
        (&["create", "a", "--from-file", "bytes"], b"", json!({"name": "a", "rawValue": "/2h1bnRlcjIK"})),
        (
            &["create", "a", "-n", "dev"],
            b"hunter2\n",
            json!({"name": "a", "namespace": "dev", "value": "hunter2\n"}),
        ),
        (&["update", "a", "--trim=true"], b"hunter2\n", json!({"name": "a", "value": "hunter2"})),
    ];
    for (args, input, expected) in runs {
        let ran = home.run_with(&[&["secret"], args].concat(), input);
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        quiet(&ran);
        let request = daemon.requests().pop().unwrap();
        let (line, said) = match args[0] {
            "update" => ("PUT /system/secrets", "Updated a\n"),
            _ => ("POST /system/secrets", "Created a\n"),
        };
        assert_eq!((request.line().as_str(), ran.stdout.as_str()), (line, said), "{args:?}");
        assert_eq!(request.header("authorization"), Some(BASIC));
        assert_eq!(request.json(), expected, "{args:?}");
    }
}

#[test]
fn what_cannot_be_a_value_is_not_sent() {
    let daemon = Daemon::new(|_| (202, String::new()));
    let home = Home::of(&daemon.url);
    home.file("large", vec![b'x'; (1 << 20) + 1]);
    for (args, code, said) in [
        (vec!["create", "a"], 2, "the value is empty"),
        (vec!["create", "a", "--from-literal", " ", "--trim"], 2, "the value is empty"),
        (vec!["create", "a", "--from-file", "large"], 1, "larger than 1048576 bytes"),
        (vec!["create", "a", "--from-file", "missing"], 1, "cannot read missing"),
        (vec!["create", "a", "--from-file", "f", "--from-literal", "hunter2"], 2, "cannot be used with"),
        (vec!["create"], 2, "NAME"),
    ] {
        let ran = home.run(&[vec!["secret"], args.clone()].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
        quiet(&ran);
    }
    assert_eq!(daemon.lines(), [""; 0]);
}

#[test]
fn a_secret_that_is_there_is_replaced_only_when_asked() {
    let daemon = Daemon::new(|r| match r.method.as_str() {
        "POST" => (409, "secret a already exists: update it with PUT\n".into()),
        _ => (202, String::new()),
    });
    let home = Home::of(&daemon.url);
    let ran = home.run(&["secret", "create", "a", "--from-literal", "hunter2"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(1), "roost: there is a secret a already: 'roost secret update a' changes it\n")
    );
    let ran = home.run(&["secrets", "create", "a", "--from-literal", "hunter2", "--replace"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Updated a\n"), "{}", ran.stderr);
    let ran = home.run(&["secret", "create", "a", "--from-literal", "hunter2", "--replace", "--json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap(),
        json!({"name": "a", "namespace": null, "updated": true})
    );
    assert_eq!(daemon.lines()[1..3], ["POST /system/secrets", "PUT /system/secrets"]);
    assert_eq!(daemon.requests()[2].json(), json!({"name": "a", "value": "hunter2"}));
}

#[test]
fn secrets_are_listed_by_name_and_removed_one_by_one() {
    let daemon = Daemon::new(|r| {
        match (r.method.as_str(), r.target.as_str()) {
        ("GET", "/system/secrets?namespace=none") => (200, "[]".into()),
        ("GET", _) => (
            200,
            r#"[{"name":"b","namespace":"openfaas-fn"},{"name":"a","namespace":"openfaas-fn","value":"hunter2"}]"#
                .into(),
        ),
        _ if r.json()["name"] == "used" => (409, "secret used is used by: f, g\n".into()),
        _ => (202, String::new()),
    }
    });
    let home = Home::of(&daemon.url);
    assert_eq!(home.run(&["secret", "ls"]).stdout, "NAME  NAMESPACE\na     openfaas-fn\nb     openfaas-fn\n");
    // Even of a host that tells values none is shown.
    quiet(&home.run(&["secret", "list", "--json"]));
    let ran = home.run(&["secret", "list", "-n", "none"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));

    let ran = home.run(&["secret", "rm", "used", "-n", "dev"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "roost: secret used is used by: f, g\n"));
    let request = daemon.requests().pop().unwrap();
    assert_eq!(request.line(), "DELETE /system/secrets");
    assert_eq!(request.json(), json!({"name": "used", "namespace": "dev"}));
    let ran = home.run(&["secret", "remove", "a", "used"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "Removed a\n"));
    assert_eq!(ran.stderr, "roost: used: secret used is used by: f, g\nroost: 1 of 2 failed\n");
    let ran = home.run(&["secret", "remove", "used", "--json"]);
    let told = serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap();
    let used = "secret used is used by: f, g";
    assert_eq!(told, json!([{"name": "used", "namespace": null, "removed": false, "error": used}]));
}
