//! What stands in a stack file, and what comes of it.

use super::*;

fn parse(text: &str) -> Result<Stack, Error> {
    parse_some(text, &|_| true)
}

fn parse_some(text: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Stack, Error> {
    let variable = |name: &str| (name == "TAG").then(|| "1.2".to_owned());
    let read = |path: &str| match path {
        "one.yml" => Ok("environment:\n  A: one\n  B: one\n  C: ${TAG}\n  N: 0x10\n  T: yes\n".to_owned()),
        "two.yml" => Ok("environment:\n  B: two\n".to_owned()),
        "bad.yml" => Ok("environment: [1]\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Stack::parse(text, &Surroundings { variable: Some(&variable), read: Some(&read), wanted })
}

fn only(text: &str) -> Deployment {
    let mut stack = parse(text).unwrap();
    assert_eq!(stack.functions.len(), 1);
    stack.functions.remove(0).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> Map {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn every_key_of_a_deployment_is_read() {
    let stack = parse(
        "version: 1.0
provider:
  name: openfaas
  gateway: http://h:8080
configuration:
  templates: [{ name: go }]
  copy: [common]
functions:
  b: { image: img }
  a:
    lang: golang-middleware
    handler: ./a
    build_args: { X: 1 }
    image: r.lan/a:${TAG}
    fprocess: node index.js
    environment:
      A: inline
    secrets: [s1, s2]
    labels:
      com.openfaas.scale.min: 2
    annotations:
      topic: \"a, b\"
    constraints: [\"x = y\"]
    limits: { memory: 64Mi, cpu: 0.5 }
    requests: { memory: 32Mi, cpu: }
    readonly_root_filesystem: true
    namespace: dev
",
    )
    .unwrap();
    assert_eq!(stack.gateway.as_deref(), Some("http://h:8080"));
    assert!(stack.notes.is_empty(), "{:?}", stack.notes);
    let expected = Deployment {
        service: "a".into(),
        image: "r.lan/a:1.2".into(),
        namespace: Some("dev".into()),
        env_process: Some("node index.js".into()),
        env_vars: map(&[("A", "inline")]),
        constraints: vec!["x = y".into()],
        secrets: vec!["s1".into(), "s2".into()],
        labels: map(&[("com.openfaas.scale.min", "2")]),
        annotations: map(&[("topic", "a, b")]),
        limits: map(&[("memory", "64Mi"), ("cpu", "0.5")]),
        requests: map(&[("memory", "32Mi")]),
        read_only_root_filesystem: true,
    };
    assert_eq!(stack.functions[0], Ok(expected));
    assert_eq!(stack.functions[1].as_ref().unwrap().service, "b");
}

#[test]
fn values_keep_their_spelling_whatever_yaml_takes_them_for() {
    let text = "functions:
  a:
    image: i
    labels:
      number: 010
      float: 1.50
      yes: yes
      true: True
      1: 0x1F
      date: 2024-01-02
      none: null
      tilde: ~
      nothing:
      quoted: \"null\"
      exponent: 1e3
      sexagesimal: 12:30
      colon: a:b
";
    let expected = map(&[
        ("number", "010"),
        ("float", "1.50"),
        ("yes", "yes"),
        ("true", "True"),
        ("1", "0x1F"),
        ("date", "2024-01-02"),
        ("none", ""),
        ("tilde", ""),
        ("nothing", ""),
        ("quoted", "null"),
        ("exponent", "1e3"),
        ("sexagesimal", "12:30"),
        ("colon", "a:b"),
    ]);
    assert_eq!(only(text).labels, expected);
    assert_eq!(only(&text.replace("labels:", "annotations:")).annotations, expected);
    assert_eq!(only(&text.replace("labels:", "environment:")).env_vars, expected);
}

#[test]
fn texts_of_several_lines_are_kept_and_folded_as_they_say() {
    let text = "functions:
  a:
    image: i
    annotations:
      kept: |
        {
          \"a\": 1
        }
      folded: >-
        one
        two
";
    assert_eq!(only(text).annotations, map(&[("kept", "{\n  \"a\": 1\n}\n"), ("folded", "one two")]));
}

#[test]
fn anchors_and_merges_share_what_functions_have_in_common() {
    let text = "x-common: &common
  image: i
  labels: &labels { l: 1 }
functions:
  a:
    <<: *common
    fprocess: cat
    annotations: *labels
";
    let a = only(text);
    assert_eq!((a.image.as_str(), a.env_process.as_deref()), ("i", Some("cat")));
    assert_eq!((&a.labels, &a.annotations), (&map(&[("l", "1")]), &map(&[("l", "1")])));
}

#[test]
fn environment_files_win_over_the_stack_and_later_ones_over_earlier_ones() {
    let text =
        "functions: { a: { image: i, environment: { A: s, S: s }, environment_file: [one.yml, two.yml] } }";
    // No variable is filled in there.
    let expected = [("A", "one"), ("B", "two"), ("C", "${TAG}"), ("N", "0x10"), ("S", "s"), ("T", "yes")];
    assert_eq!(only(text).env_vars, map(&expected));
}

#[test]
fn variables_are_filled_in_everywhere_unless_it_is_off() {
    let text = "functions:\n  f-${NO:-x}: { image: 'a:${TAG}' } # ${TAG}\n";
    let filled = only(text);
    assert_eq!((filled.service.as_str(), filled.image.as_str()), ("f-x", "a:1.2"));
    let off = Surroundings { variable: None, read: Some(&|_| unreachable!()), wanted: &|_| true };
    let stack = Stack::parse("functions:\n  a: { image: 'a:${TAG}' }\n", &off).unwrap();
    assert_eq!(stack.functions[0].as_ref().unwrap().image, "a:${TAG}");
}

#[test]
fn what_has_no_effect_is_said() {
    let stack = parse("functions:\n  a:\n    image: ${NOT_SET:-x}${OTHER}\n    enviroment: {}\n").unwrap();
    assert_eq!(stack.functions[0].as_ref().unwrap().image, "x");
    assert_eq!(
        stack.notes,
        ["${OTHER} is not set: it is empty", "functions.a.enviroment is not known: it has no effect"]
    );
}

#[test]
fn only_the_first_document_counts() {
    assert_eq!(only("functions: { a: { image: i } }\n---\nfunctions: { b: { image: i } }\n").service, "a");
    assert_eq!(only("# ---\n\n%YAML 1.2\n---\nfunctions: { a: { image: i } }\n...\n[nothing").service, "a");
    assert_eq!(only("functions: { a: { image: i, annotations: { b: ---c } } }\n").annotations["b"], "---c");
}

#[test]
fn only_what_is_asked_for_is_read() {
    let text = "functions: { a: { image: i }, b: { odd: 1, environment_file: [gone.yml] } }";
    let stack = parse_some(text, &|name| name == "a").unwrap();
    assert_eq!((stack.functions.len(), stack.notes.len()), (1, 0));
    let error = parse_some(text, &|_| false).unwrap_err().to_string();
    assert_eq!(error, "functions: none of these was asked for: a, b");
    let names = Surroundings { variable: None, read: None, wanted: &|_| true };
    let stack = Stack::parse(text.replace("image: i", "image: ").as_str(), &names).unwrap();
    assert!(stack.functions.iter().all(Result::is_ok), "names need no image: {stack:?}");
}

#[test]
fn a_mistake_in_one_function_leaves_the_others() {
    let text = "functions:
  a: { lang: go }
  b: { image: i }
  c: { image: i, environment_file: [gone.yml] }
  d: { image: i, environment_file: [bad.yml] }
  e:
";
    let functions = parse(text).unwrap().functions;
    let shown: Vec<_> = functions
        .iter()
        .map(|f| f.as_ref().map_or_else(ToString::to_string, |deployment| deployment.service.clone()))
        .collect();
    assert_eq!(shown[0], "functions.a.image: is required: build it first, and say where it is");
    assert_eq!(shown[1], "b");
    assert!(shown[2].starts_with("functions.c.environment_file: cannot read gone.yml: "), "{}", shown[2]);
    assert!(shown[3].starts_with("functions.d.environment_file: bad.yml: environment: "), "{}", shown[3]);
    assert!(shown[4].starts_with("functions.e.image: is required"), "{}", shown[4]);
}

#[test]
fn what_is_no_stack_names_the_place() {
    let table = [
        ("version: 1.0\n", &["functions: expected at least one"][..]),
        ("version: 2\nfunctions: { a: { image: i } }\n", &["version: expected 1.0", "\"2\""]),
        ("provider: { name: x }\nfunctions: { a: { image: i } }\n", &["provider.name: expected openfaas"]),
        ("functions:\n  a:\n    image: [1]\n", &["functions.a.image: ", "line 3"]),
        ("functions:\n  a:\n    image: x\n    labels: [1]\n", &["functions.a.labels: ", "line 4"]),
        (
            "functions:\n  a:\n    readonly_root_filesystem: maybe\n",
            &["functions.a.readonly_root_filesystem"],
        ),
        ("functions: ${\n", &["line 1"]),
        ("functions:\n a: {image: x}\n a: {image: y}\n", &["duplicate"]),
        ("functions:\n a: {image: x\n", &["line "]),
        ("", &["functions"]),
        ("just a text\n", &["line 1"]),
    ];
    for (text, expected) in table {
        let error = parse(text).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_websocket_api_is_said_by_the_annotations_of_its_functions() {
    let text = "functions:
  chat: { image: i, annotations: { roost.websocket.aws.stage: mine } }
  send: { image: i }
  other: { image: i }
websockets:
  chat:
    routes:
      $connect:
      $default: send
      ask: { function: send, response: true }
      far: elsewhere
      own: { response: true }
    selection: $request.body.type
    transport: emulator
    stage: dev
";
    let stack = parse(text).unwrap();
    let of = |n: usize| stack.functions[n].as_ref().unwrap().annotations.clone();
    assert_eq!(
        of(0),
        map(&[
            ("roost.websocket", "events"),
            ("roost.websocket.codec", "aws"),
            (
                "roost.websocket.aws.routes",
                "$connect,$default=send,ask=send;two-way,far=elsewhere,own;two-way"
            ),
            ("roost.websocket.aws.selection", "$request.body.type"),
            ("roost.websocket.aws.stage", "mine"),
            ("roost.websocket.aws.transport", "emulator"),
        ])
    );
    assert_eq!(of(2), map(&[("roost.websocket.codec", "aws")]));
    assert!(of(1).is_empty());
    assert_eq!(stack.notes, ["websockets.chat.routes.far: \"elsewhere\" is not in this file"]);

    let bare = only("functions: { a: { image: i } }\nwebsockets: { a: }\n").annotations;
    assert_eq!(bare, map(&[("roost.websocket", "events"), ("roost.websocket.codec", "aws")]));
}

#[test]
fn a_websocket_api_with_a_mistake_is_refused_by_its_key() {
    for (api, expected) in [
        ("b: {}", "websockets.b: expected the name of a function of this file"),
        ("a: { route: }", "websockets.a"),
        ("a: { routes: { x: [y] } }", "websockets.a.routes.x"),
        ("a: { routes: { x: { functions: y } } }", "websockets.a.routes.x"),
        ("a: { routes: { 'x,y': z } }", "websockets.a.routes.x,y: expected no comma"),
    ] {
        let text = format!("functions: {{ a: {{ image: i }} }}\nwebsockets: {{ {api} }}\n");
        let why = parse(&text).unwrap_err().to_string();
        assert!(why.starts_with(expected), "{api}: {why}");
    }
}
