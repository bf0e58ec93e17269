//! Stack files: deployed and chosen from by a person, written from what runs, and applied by the daemon itself.

use std::fs;
use std::path::Path;

use roost_tests::{Host, echo_binary, eventually};
use serde_json::{Value, json};

/// A host with a login to it and an image that no registry has.
async fn host() -> Host {
    let host = Host::start().await;
    host.log_in().await;
    let binary = echo_binary();
    host.roost_done(&["image", "build", binary.to_str().unwrap(), "-t", "built:1"]).await;
    host
}

fn write(path: &Path, text: &str) -> String {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn names(host: &Host) -> Vec<String> {
    let text = host.roost_done(&["list", "--quiet"]).await;
    text.lines().map(str::to_owned).collect()
}

const STACK: &str = "version: 1.0
provider:
  name: openfaas
x-common: &common
  image: built:${TAG:-1}
functions:
  api-one:
    <<: *common
    lang: go
    environment: { A: stack, B: stack, FROM: '${HOME}' }
    environment_file: [env/one.yml]
    labels: { com.openfaas.scale.min: 1, number: 010 }
  api-two: { <<: *common }
  api-10: { <<: *common }
  web: { <<: *common }
  broken: { handler: ./broken }
";

/// What YAML or the filling in of variables would take for something else.
fn odd() -> Value {
    json!({
        "service": "odd", "image": "built:1", "namespace": "openfaas-fn", "envProcess": "node index.js",
        "envVars": { "YES": "yes", "PORT": "08080", "HOME_OF": "${HOME} $$ \\\\ \\/", "EMPTY": "" },
        "labels": { "com.openfaas.scale.min": "1" },
        "annotations": { "json": "{\n  \"a\": [1, 2]\n}", "lines": "a\n\nb\n", "tab": "\ta: b #c " },
        "constraints": ["node == here"], "limits": { "memory": "64Mi", "cpu": "0.5" },
        "requests": { "memory": "32Mi" }, "readOnlyRootFilesystem": true,
    })
}

#[tokio::test]
async fn functions_of_a_file_are_chosen_deployed_together_and_written_back() {
    let host = host().await;
    let stack = write(&host.dir().join("stack.yaml"), STACK);
    write(&host.dir().join("env/one.yml"), "environment:\n  B: file\n  C: ${HOME}\n");

    // What is asked for is deployed, and what is broken beside it does not matter.
    let regex = host.roost(&["deploy", "-f", &stack, "--regex", "^api-[0-9]+$"]).await;
    assert_eq!(regex.stdout, format!("Deployed api-10: {}/function/api-10\n", host.url()), "{regex:?}");
    assert_eq!(names(&host).await, ["api-10"]);
    let all = host.roost(&["deploy", "-f", &stack]).await;
    assert_eq!(all.code, Some(1));
    assert!(all.stderr.contains("functions.broken.image: is required"), "{all:?}");
    let none = host.roost(&["deploy", "-f", &stack, "--filter", "nothing-*"]).await;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert_eq!(names(&host).await, ["api-10"]);

    let filtered = host.roost_done(&["deploy", "-f", &stack, "--filter", "api-*", "-e", "D=typed"]).await;
    let mut lines: Vec<_> = filtered.lines().collect();
    lines.sort_unstable();
    let expected = ["api-10", "api-one", "api-two"]
        .map(|name| format!("Deployed {name}: {}/function/{name}", host.url()));
    assert_eq!(lines, expected);
    let one = host.function("api-one").await;
    let home = host.dir().join("home");
    let expected = json!({ "A": "stack", "B": "file", "C": "${HOME}", "D": "typed", "FROM": home });
    assert_eq!(one["envVars"], expected, "{one:#}");
    assert_eq!(one["labels"]["number"], "010");
    for name in ["api-one", "api-two", "api-10"] {
        host.assert_echoes(name).await;
    }

    // What runs is written, and deploys to the same again.
    host.post_function(&odd()).await;
    host.ready("odd").await;
    let written = host.roost_done(&["stack", "export"]).await;
    assert!(!written.contains("faas_function"), "{written}");
    let exported = write(&host.dir().join("exported.yaml"), &written);
    host.roost_done(&["remove", "-f", &exported]).await;
    eventually("the end of the functions", || async { names(&host).await.is_empty().then_some(()) }).await;
    host.roost_done(&["deploy", "-f", &exported, "--parallel", "2"]).await;
    assert_eq!(host.roost_done(&["stack", "export"]).await, written);
    let back = host.function("odd").await;
    for (key, value) in odd().as_object().unwrap() {
        match key.as_str() {
            "service" | "labels" => {}
            key => assert_eq!(&back[key], value, "{key}"),
        }
    }
    let some = host.roost_done(&["stack", "export", "odd", "api-two"]).await;
    assert!(
        some.contains("  odd:\n") && some.contains("  api-two:\n") && !some.contains("api-one"),
        "{some}"
    );

    // In the namespaces that the file names, too.
    host.roost_done(&["namespace", "create", "blue", "--label", "team=b"]).await;
    let described = host.roost_done(&["ns", "get", "blue"]).await;
    assert!(described.contains("team=b") && described.contains("openfaas=1"), "{described}");
    let binary = echo_binary();
    host.roost_done(&["image", "build", binary.to_str().unwrap(), "-t", "built:1", "-n", "blue"]).await;
    let text = "functions: { far: { image: 'built:1', namespace: blue }, near: { image: 'built:1' } }";
    let far = write(&host.dir().join("far.yaml"), text);
    host.roost_done(&["deploy", "-f", &far]).await;
    assert_eq!(host.roost_done(&["invoke", "far.blue", "-d", "hi"]).await, "hi");
    let all = host.roost_done(&["list", "-A", "-q"]).await;
    assert!(all.contains("far.blue\n") && all.contains("near.openfaas-fn\n"), "{all}");
    let text = host.roost_done(&["stack", "export", "-A"]).await;
    assert!(text.contains("  far:\n    image: built:1\n    namespace: blue\n  near:\n"), "{text}");
    host.roost_done(&["deploy", "-f", &far, "near", "-n", "blue"]).await;
    let twice = host.roost(&["stack", "export", "-A"]).await;
    assert!(twice.code == Some(1) && twice.stderr.contains("near is in two namespaces"), "{twice:?}");
    host.roost_done(&["remove", "-n", "blue", "far", "near"]).await;
    host.roost_done(&["namespace", "update", "blue"]).await;
    eventually("the end of the namespace", || async {
        (host.roost(&["ns", "delete", "blue"]).await.code == Some(0)).then_some(())
    })
    .await;
    assert_eq!(host.roost_done(&["ns"]).await, "openfaas-fn\n");

    // As faas-cli means it: create only, and create anew.
    let there = host.roost(&["deploy", "-f", &stack, "api-two", "--update=false"]).await;
    assert!(there.code == Some(1) && there.stderr.contains("already exists"), "{there:?}");
    let before = host.function("api-two").await;
    host.roost_done(&["deploy", "-f", &stack, "api-two", "--replace", "--update=false"]).await;
    let after = host.function("api-two").await;
    assert_ne!(before["createdAt"], after["createdAt"]);
}

/// The revisions of functions, once they are ready.
async fn revisions(host: &Host, names: [&str; 2]) -> [Value; 2] {
    let [first, second] = names;
    [
        host.ready(first).await["status"]["revision"].take(),
        host.ready(second).await["status"]["revision"].take(),
    ]
}

#[tokio::test]
async fn a_directory_of_files_is_applied_at_every_start() {
    let mut host = host().await;
    let directory = host.dir().join("functions.d");
    let first = directory.join("10-first.yaml");
    write(
        &first,
        "functions:
  one: { image: 'built:1', environment: { WHERE: '${PATH}', D: '${NOT_SET:-default}' } }
  two: { image: 'built:1', environment_file: [env/two.yaml] }
  bad: { lang: go }
",
    );
    write(&directory.join("env/two.yaml"), "environment: { A: file }\n");
    write(&directory.join("20-broken.yaml"), "functions: [\n");
    write(
        &directory.join("30-more.yml"),
        "functions:
  one: { image: 'other:1' }
  sealed: { image: 'built:1', secrets: [nowhere] }
  far: { image: 'built:1', namespace: blue }
  Upper: { image: 'built:1' }
",
    );
    write(&directory.join("notes.txt"), "functions: { text: { image: 'built:1' } }\n");
    host.restart().await;
    let old = revisions(&host, ["one", "two"]).await;
    assert_eq!(names(&host).await, ["one", "two"]);
    let one = host.function("one").await;
    assert_eq!((&one["image"], &one["envVars"]["D"]), (&json!("built:1"), &json!("default")));
    assert!(one["envVars"]["WHERE"].as_str().unwrap().contains("/usr/bin"), "{one:#}");
    assert_eq!(host.function("two").await["envVars"]["A"], "file");
    host.assert_echoes("one").await;
    let log = fs::read_to_string(host.daemon_log()).unwrap();
    for mistake in [
        "10-first.yaml: functions.bad.image: is required",
        "20-broken.yaml: functions",
        "30-more.yml: functions.one: one.openfaas-fn is in ",
        "30-more.yml: functions.sealed: unable to find secret: nowhere",
        "30-more.yml: functions.far: ",
        "30-more.yml: functions.Upper: service: ",
        "2 functions created, 0 updated, 0 as they were, 6 mistakes",
    ] {
        assert!(log.contains(mistake), "{mistake} in\n{log}");
    }

    // Nothing has changed: nothing is changed. What was changed by hand is brought back.
    host.restart().await;
    assert_eq!(revisions(&host, ["one", "two"]).await, old);
    host.put_function(&json!({ "service": "one", "image": "built:1" })).await;
    let by_hand = revisions(&host, ["one", "two"]).await;
    host.restart().await;
    let restored = revisions(&host, ["one", "two"]).await;
    assert!(restored[0] != by_hand[0] && restored[0] != old[0] && restored[1] == old[1], "{restored:?}");

    // What was missing is there now.
    host.roost_done(&["secret", "create", "nowhere", "--from-literal", "x"]).await;
    host.roost_done(&["namespace", "create", "blue"]).await;
    let binary = echo_binary();
    host.roost_done(&["image", "build", binary.to_str().unwrap(), "-t", "built:1", "-n", "blue"]).await;
    host.reload();
    eventually("functions that waited", || async {
        let all = host.roost_done(&["list", "-A", "-q"]).await;
        (all.contains("sealed.") && all.contains("far.blue")).then_some(())
    })
    .await;
    host.ready("sealed").await;
    host.roost_done(&["ready", "far.blue"]).await;

    // While it runs, too; a function that stands in no file any more stays.
    write(&first, "functions:\n  two: { image: 'built:1', labels: { l: 1 } }\n");
    fs::remove_file(directory.join("30-more.yml")).unwrap();
    host.reload();
    eventually("the change", || async { (host.function("two").await["labels"]["l"] == "1").then_some(()) })
        .await;
    let new = revisions(&host, ["one", "two"]).await;
    assert!(new[0] == restored[0] && new[1] != restored[1], "{new:?}");
    host.assert_echoes("two").await;
}
