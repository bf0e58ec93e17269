//! What a plugin answers: results and errors, as the specification writes them.
//!
//! Owns the reading of both. Never runs a plugin. A result is passed on to the next plugin as it came; only what we need
//! ourselves is read from it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::conflist::Version;

/// The parts of a result that we read. The same in all versions since 0.3.0.
#[derive(Deserialize)]
struct AddResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    /// The path of the namespace, absent for the host's side of a veth pair and for the bridge.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: IpNet,
    /// The place in `interfaces` of the interface that has the address.
    interface: Option<usize>,
}

/// An error as a plugin prints it.
#[derive(Deserialize)]
pub(crate) struct ReportedError {
    pub(crate) code: u32,
    #[serde(default)]
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) details: String,
}

/// Reads the answer to an ADD. What comes back has the `cniVersion` set: the next plugin may rely on it.
pub(crate) fn parse_add(stdout: &[u8], asked: Version) -> Result<Value, String> {
    let mut result: Map<String, Value> = serde_json::from_slice(stdout).map_err(|e| e.to_string())?;
    match result.get("cniVersion") {
        None => {
            result.insert("cniVersion".into(), asked.as_str().into());
        }
        Some(version) => {
            let text = version.as_str().unwrap_or_default();
            if Version::parse(text).is_none() {
                return Err(format!("cniVersion {version} is not one of {}", Version::ALL_TEXT));
            }
        }
    }
    let result = Value::Object(result);
    AddResult::deserialize(&result).map_err(|e| e.to_string())?;
    Ok(result)
}

/// The address at which the other side of the attachment is reached: the first IPv4 address inside the namespace, else the
/// first of any kind.
pub(crate) fn address(result: &Value) -> Result<IpAddr, String> {
    let result = AddResult::deserialize(result).map_err(|e| e.to_string())?;
    let inside = |address: &&Address| match address.interface {
        // A plugin that names no interface has only one.
        None => true,
        Some(place) => result.interfaces.get(place).is_some_and(|i| !i.sandbox.is_empty()),
    };
    let mut inside: Vec<IpAddr> = result.ips.iter().filter(inside).map(|a| a.address.addr()).collect();
    inside.sort_by_key(IpAddr::is_ipv6);
    inside.first().copied().ok_or_else(|| "it has no address inside the namespace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_first_inside_the_namespace() {
        let interfaces = r#""interfaces":[{"name":"br0"},{"name":"veth0","sandbox":""},{"name":"eth0","sandbox":"/run/netns/a"}]"#;
        let cases = [
            // 0.4.0 tells the IP version, 1.x does not.
            (
                r#""ips":[{"version":"4","interface":2,"address":"10.1.0.5/16","gateway":"10.1.0.1"}]"#,
                "10.1.0.5",
            ),
            (r#""ips":[{"interface":2,"address":"10.1.0.5/16"}]"#, "10.1.0.5"),
            (r#""ips":[{"address":"10.1.0.5/16"}]"#, "10.1.0.5"),
            (
                r#""ips":[{"interface":0,"address":"10.1.0.1/16"},{"interface":2,"address":"10.1.0.7/16"}]"#,
                "10.1.0.7",
            ),
            (
                r#""ips":[{"interface":2,"address":"fd00::5/64"},{"interface":2,"address":"10.1.0.5/16"}]"#,
                "10.1.0.5",
            ),
            (
                r#""ips":[{"interface":2,"address":"fd00::5/64"},{"interface":2,"address":"fd00::6/64"}]"#,
                "fd00::5",
            ),
        ];
        for (ips, expected) in cases {
            for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
                let text = format!(r#"{{"cniVersion":"{version}",{interfaces},{ips},"dns":{{}}}}"#);
                let result = parse_add(text.as_bytes(), Version::V0_4_0).unwrap();
                assert_eq!(address(&result).unwrap().to_string(), expected, "{text}");
            }
        }
    }

    #[test]
    fn a_result_without_an_address_inside_has_none() {
        for ips in [r#""ips":[]"#, r#""ips":[{"interface":9,"address":"10.1.0.5/16"}]"#, r#""dns":{}"#] {
            let result = parse_add(format!("{{{ips}}}").as_bytes(), Version::V1_0_0).unwrap();
            assert!(address(&result).is_err(), "{ips}");
        }
    }

    #[test]
    fn what_is_not_a_result_is_refused() {
        for text in [
            "",
            "[]",
            "hello",
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16"}}"#,
            r#"{"cniVersion":"0.4.0","ips":[{"address":"10.1.0.300/16"}]}"#,
            r#"{"cniVersion":"0.4.0","ips":[{"interface":0}]}"#,
            r#"{"cniVersion":7}"#,
        ] {
            assert!(parse_add(text.as_bytes(), Version::V0_4_0).is_err(), "{text}");
        }
    }

    #[test]
    fn a_result_that_tells_no_version_has_the_one_asked_for() {
        let result = parse_add(br#"{"ips":[]}"#, Version::V1_0_0).unwrap();
        assert_eq!(result["cniVersion"], "1.0.0");
    }

    #[test]
    fn an_error_is_read_with_and_without_details() {
        let e: ReportedError = serde_json::from_str(
            r#"{"cniVersion":"0.4.0","code":11,"msg":"no addresses","details":"range full"}"#,
        )
        .unwrap();
        assert_eq!((e.code, e.msg.as_str(), e.details.as_str()), (11, "no addresses", "range full"));
        let e: ReportedError = serde_json::from_str(r#"{"code":999,"msg":"x"}"#).unwrap();
        assert_eq!((e.code, e.details.as_str()), (999, ""));
        assert!(serde_json::from_str::<ReportedError>(r#"{"msg":"x"}"#).is_err());
    }
}
