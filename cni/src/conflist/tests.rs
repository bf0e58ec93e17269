//! Tables for the reading, the validation and the overriding of conflists.

use serde_json::json;

use super::*;

/// What every host gets.
const SHIPPED: &str = include_str!("../../../systemd/10-roost.conflist");

fn parse(value: &Value) -> Result<Conflist, Error> {
    Conflist::parse(value.to_string().as_bytes())
}

fn with_ipam(ipam: &Value) -> Value {
    json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "bridge", "bridge": "b0", "ipam": ipam}]})
}

#[test]
fn the_shipped_list_is_valid_and_speaks_a_version_old_plugins_know() {
    let shipped = Conflist::parse(SHIPPED.as_bytes()).unwrap();
    assert_eq!(shipped.name(), "roost");
    assert_eq!(shipped.version(), Version::V0_4_0);
    assert_eq!(shipped.bridge(), Some("roost0"));
    assert_eq!(shipped.subnet().unwrap().to_string(), "10.63.0.0/16");
    assert_eq!(shipped.gateway().unwrap().to_string(), "10.63.0.1");
    let kinds: Vec<_> = shipped.plugins().iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(kinds, ["bridge", "firewall"]);
    assert_eq!(shipped.masqueraded(), [shipped.subnet().unwrap()]);
}

#[test]
fn a_list_says_itself_whether_its_subnets_are_masqueraded_and_by_whom() {
    let list = |says: Value, by_plugin: bool| {
        let ranges = json!([[{"subnet": "10.1.0.0/16"}], [{"subnet": "10.2.0.0/16"}]]);
        let mut list = with_ipam(&json!({"type": "host-local", "ranges": ranges}));
        list["roost.masquerade"] = says;
        list["plugins"][0]["ipMasq"] = by_plugin.into();
        parse(&list)
    };
    let both: Vec<IpNet> = ["10.1.0.0/16", "10.2.0.0/16"].map(|subnet| subnet.parse().unwrap()).into();
    for (says, by_plugin, expected) in
        [(true, false, both), (false, false, vec![]), (true, true, vec![]), (false, true, vec![])]
    {
        assert_eq!(list(says.into(), by_plugin).unwrap().masqueraded(), expected, "{says} {by_plugin}");
    }
    assert_eq!(parse(&with_ipam(&json!({}))).unwrap().masqueraded(), [], "nothing said");
    let mistake = list(json!("yes"), false).unwrap_err().to_string();
    assert!(mistake.contains("roost.masquerade: expected true or false"), "{mistake}");
    assert_eq!(list(true.into(), false).unwrap().stdin(0, &Map::new(), None).get("roost.masquerade"), None);
}

#[test]
fn every_version_from_0_3_0_to_1_1_0_is_taken() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let list = parse(&json!({"cniVersion": version, "name": "n", "plugins": [{"type": "x"}]})).unwrap();
        assert_eq!(list.version().to_string(), version);
    }
}

#[test]
fn a_mistake_is_told_with_its_key() {
    let bridge = |extra: Value| {
        let mut plugin = json!({"type": "bridge"});
        plugin.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "x"}, plugin]})
    };
    let host_local = |range: Value| bridge(json!({"ipam": {"type": "host-local", "ranges": [[range]]}}));
    let cases = [
        (json!({"name": "n", "plugins": []}), "cniVersion: is missing"),
        (json!({"cniVersion": 1, "name": "n"}), "cniVersion: expected a string"),
        (
            json!({"cniVersion": "0.2.0", "name": "n"}),
            "cniVersion: \"0.2.0\" is not supported: expected one of 0.3.0",
        ),
        (json!({"cniVersion": "0.4.0", "plugins": []}), "name: is missing"),
        (json!({"cniVersion": "0.4.0", "name": "../x"}), "name: \"../x\" is not valid"),
        (json!({"cniVersion": "0.4.0", "name": ""}), "name: \"\" is not valid"),
        (json!({"cniVersion": "0.4.0", "name": "n"}), "plugins: is missing"),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "type": "bridge"}),
            "plugins: is missing: this is a single plugin's",
        ),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "plugins": []}),
            "plugins: expected a list of at least one",
        ),
        (json!({"cniVersion": "0.4.0", "name": "n", "plugins": {}}), "plugins: expected a list"),
        (json!({"cniVersion": "0.4.0", "name": "n", "plugins": [7]}), "plugins[0]: expected an object"),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "x"}, {}]}),
            "plugins[1].type: is missing",
        ),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "../x"}]}),
            "plugins[0].type: \"../x\" is not",
        ),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": ""}]}),
            "plugins[0].type: \"\" is not",
        ),
        (
            json!({"cniVersion": "0.4.0", "name": "n", "disableCheck": 1, "plugins": [{"type": "x"}]}),
            "disableCheck: expected",
        ),
        (bridge(json!({"capabilities": []})), "plugins[1].capabilities: expected an object"),
        (
            bridge(json!({"capabilities": {"mac": "yes"}})),
            "plugins[1].capabilities.mac: expected true or false",
        ),
        (bridge(json!({"ipam": "host-local"})), "plugins[1].ipam: expected an object"),
        (bridge(json!({"ipam": {"subnet": "10.0.0.0/8"}})), "plugins[1].ipam.type: is missing"),
        (
            bridge(json!({"bridge": "sixteen-letters-"})),
            "plugins[1].bridge: \"sixteen-letters-\" is not an interface name",
        ),
        (bridge(json!({"bridge": "a/b"})), "plugins[1].bridge: \"a/b\" is not"),
        (
            bridge(json!({"ipam": {"type": "host-local", "ranges": {}}})),
            "plugins[1].ipam.ranges: expected a list",
        ),
        (
            bridge(json!({"ipam": {"type": "host-local", "ranges": [{}]}})),
            "plugins[1].ipam.ranges[0]: expected a list",
        ),
        (
            bridge(json!({"ipam": {"type": "host-local", "subnet": "10.0.0.0"}})),
            "plugins[1].ipam.subnet: \"10.0.0.0\" is not",
        ),
        (host_local(json!({})), "plugins[1].ipam.ranges[0][0].subnet: \"\" is not a subnet"),
        (
            host_local(json!({"subnet": "10.0.0.0/31"})),
            "plugins[1].ipam.ranges[0][0].subnet: 10.0.0.0/31 has no room",
        ),
        (
            host_local(json!({"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"})),
            "ranges[0][0].gateway: \"10.0.1.1\" is not an address in",
        ),
        (
            host_local(json!({"subnet": "10.0.0.0/24", "rangeEnd": 9})),
            "ranges[0][0].rangeEnd: 9 is not an address in",
        ),
    ];
    for (list, expected) in cases {
        let message = parse(&list).expect_err(&list.to_string()).to_string();
        assert!(message.contains(expected), "{list}\n  said     {message}\n  expected {expected}");
    }
    assert!(Conflist::parse(b"{").unwrap_err().to_string().starts_with("conflist: JSON: EOF"));
}

#[test]
fn a_file_is_named_in_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.conflist");
    assert!(Conflist::load(&path).unwrap_err().to_string().contains("x.conflist: No such file"));
    fs::write(&path, "{}").unwrap();
    assert!(Conflist::load(&path).unwrap_err().to_string().ends_with("x.conflist: cniVersion: is missing"));
}

#[test]
fn the_gateway_is_the_one_the_plugin_chooses() {
    let cases = [
        (json!({"type": "host-local", "subnet": "10.5.0.0/16"}), "10.5.0.1", "10.5.0.0/16"),
        (
            json!({"type": "host-local", "subnet": "10.5.0.0/16", "gateway": "10.5.9.9"}),
            "10.5.9.9",
            "10.5.0.0/16",
        ),
        (json!({"type": "host-local", "subnet": "10.5.3.7/16"}), "10.5.0.1", "10.5.0.0/16"),
        (
            json!({"type": "host-local", "ranges": [[{"subnet": "10.6.0.0/24"}], [{"subnet": "fd00::/64"}]]}),
            "10.6.0.1",
            "10.6.0.0/24",
        ),
        (
            json!({"type": "host-local", "ranges": [[{"subnet": "fd00::/64", "gateway": "fd00::9"}]]}),
            "fd00::9",
            "fd00::/64",
        ),
        (json!({"type": "host-local", "ranges": [[{"subnet": "fd00::/64"}]]}), "fd00::1", "fd00::/64"),
    ];
    for (ipam, gateway, subnet) in cases {
        let list = parse(&with_ipam(&ipam)).unwrap();
        assert_eq!(list.gateway().unwrap().to_string(), gateway, "{ipam}");
        assert_eq!(list.subnet().unwrap().to_string(), subnet, "{ipam}");
    }
    let list = parse(&with_ipam(&json!({"type": "dhcp"}))).unwrap();
    assert_eq!((list.gateway(), list.subnet()), (None, None));
}

#[test]
fn overrides_change_what_they_name_and_nothing_else() {
    let before: Value = serde_json::from_str(SHIPPED).unwrap();
    let list = Conflist::parse(SHIPPED.as_bytes())
        .unwrap()
        .with_overrides(&Overrides {
            name: Some("other".into()),
            bridge: Some("other0".into()),
            subnet: Some("10.99.7.3/24".parse().unwrap()),
            ipam_dir: Some("/tmp/ipam".into()),
            ..Overrides::default()
        })
        .unwrap();
    assert_eq!(list.gateway().unwrap().to_string(), "10.99.7.1");

    let mut expected = before;
    expected["name"] = "other".into();
    expected["plugins"][0]["bridge"] = "other0".into();
    expected["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] = "10.99.7.0/24".into();
    expected["plugins"][0]["ipam"]["dataDir"] = "/tmp/ipam".into();
    assert_eq!(serde_json::to_value(&list).unwrap(), expected);
}

#[test]
fn a_subnet_replaces_the_one_of_its_family() {
    let list = parse(&with_ipam(
        &json!({"type": "host-local", "ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "10.1.0.0/16"}]]}),
    ))
    .unwrap()
    .with_overrides(&Overrides { subnet: Some("10.2.0.0/16".parse().unwrap()), ..Overrides::default() })
    .unwrap();
    let ranges = &serde_json::to_value(&list).unwrap()["plugins"][0]["ipam"]["ranges"];
    assert_eq!(*ranges, json!([[{"subnet": "fd00::/64"}], [{"subnet": "10.2.0.0/16"}]]));
}

#[test]
fn an_only_subnet_takes_the_place_of_all_that_is_said_about_addresses() {
    let list = with_ipam(&json!({
        "type": "host-local", "subnet": "10.1.0.0/16", "gateway": "10.1.0.9", "rangeStart": "10.1.0.20",
        "ranges": [[{"subnet": "fd00::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }));
    let overrides = Overrides { only_subnet: Some("10.64.1.0/24".parse().unwrap()), ..Overrides::default() };
    let list = parse(&list).unwrap().with_overrides(&overrides).unwrap();
    assert_eq!(list.gateway(), Some("10.64.1.1".parse().unwrap()));
    assert_eq!(
        serde_json::to_value(&list).unwrap()["plugins"][0]["ipam"],
        json!({"type": "host-local", "ranges": [[{"subnet": "10.64.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]})
    );
}

#[test]
fn an_override_that_cannot_be_is_refused() {
    let subnet = |text: &str| Overrides { subnet: Some(text.parse().unwrap()), ..Overrides::default() };
    let pinned = with_ipam(&json!({"type": "host-local", "subnet": "10.1.0.0/16", "gateway": "10.1.0.9"}));
    let no_bridge = json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "ptp"}]});
    let no_ipam = with_ipam(&json!({}));
    let cases = [
        (
            &pinned,
            subnet("10.2.0.0/16"),
            "plugins[0].ipam.gateway: \"10.1.0.9\" is not an address in 10.2.0.0/16",
        ),
        (&pinned, subnet("fd00::/64"), "plugins[0].ipam: has no range of the family"),
        (&no_bridge, subnet("10.2.0.0/16"), "plugins: none is of type \"bridge\""),
        (&no_ipam, subnet("10.2.0.0/16"), "plugins[0].ipam: is missing"),
        (
            &pinned,
            Overrides { bridge: Some("a b".into()), ..Overrides::default() },
            "plugins[0].bridge: \"a b\" is not",
        ),
        (
            &pinned,
            Overrides { name: Some("a/b".into()), ..Overrides::default() },
            "name: \"a/b\" is not valid",
        ),
    ];
    for (list, overrides, expected) in cases {
        let message = parse(list).unwrap().with_overrides(&overrides).unwrap_err().to_string();
        assert!(message.contains(expected), "said {message}, expected {expected}");
    }
}

#[test]
fn a_plugin_reads_its_own_settings_those_of_the_list_and_what_it_asked_for() {
    let list = parse(&json!({
        "cniVersion": "1.0.0", "name": "n", "disableCheck": "true",
        "plugins": [
            {"type": "a", "mtu": 1400},
            {"type": "b", "capabilities": {"portMappings": true, "mac": false, "bandwidth": true}},
        ],
    }))
    .unwrap();
    assert!(list.check_disabled());
    let runtime = json!({"portMappings": [1], "mac": "00:00"});
    let runtime = runtime.as_object().unwrap();

    assert_eq!(
        list.stdin(0, runtime, None),
        json!({"cniVersion": "1.0.0", "name": "n", "type": "a", "mtu": 1400})
    );
    let previous = json!({"ips": []});
    assert_eq!(
        list.stdin(1, runtime, Some(&previous)),
        json!({"cniVersion": "1.0.0", "name": "n", "type": "b", "runtimeConfig": {"portMappings": [1]}, "prevResult": {"ips": []}})
    );
}

#[test]
fn a_list_comes_back_from_the_cache_as_it_went() {
    let list = Conflist::parse(SHIPPED.as_bytes()).unwrap();
    let text = serde_json::to_string(&list).unwrap();
    let back: Conflist = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}
