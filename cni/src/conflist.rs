//! The network configuration list: which plugins make a network, in which order, with which settings.
//!
//! Owns its reading, its validation and what each plugin is given to read. Never runs a plugin. Keys that we do not know are
//! kept and passed on: they are the plugins' own.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Error;
use crate::ipam;

/// The longest network name, in bytes: `host-local` makes a directory of it.
const MAX_NAME: usize = 128;
/// The longest interface name, in bytes, as in the kernel.
const MAX_INTERFACE: usize = 15;

/// A key of our own, which no plugin is told.
const MASQUERADE: &str = "roost.masquerade";

/// The versions of the CNI protocol that we speak. Which one is spoken is decided by the conflist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL_TEXT: &'static str = "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0]
            .into_iter()
            .find(|v| v.as_str() == text)
    }

    /// As written in a conflist.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// CHECK, and a previous result for DEL, came with 0.4.0.
    pub(crate) fn knows_check(self) -> bool {
        self >= Self::V0_4_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A valid configuration list. Two are equal when they say the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Map<String, Value>", try_from = "Map<String, Value>")]
pub struct Conflist {
    /// The list as it was read, changed only by overrides.
    document: Map<String, Value>,
    version: Version,
    name: String,
    check_disabled: bool,
    masqueraded: bool,
    plugins: Vec<Plugin>,
}

/// One link of the chain.
#[derive(Debug, Clone)]
pub(crate) struct Plugin {
    /// The plugin's name, which is that of its program.
    pub(crate) kind: String,
    /// The plugin it calls for addresses, if it does.
    pub(crate) ipam: Option<String>,
    /// The kinds of runtime settings it wants to be told.
    capabilities: Vec<String>,
    config: Map<String, Value>,
}

/// What the host's settings change in a conflist. `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The network's name.
    pub name: Option<String>,
    /// The bridge's interface name, at most 15 bytes.
    pub bridge: Option<String>,
    /// The subnet from which addresses are given.
    pub subnet: Option<IpNet>,
    /// The only subnet: whatever else the conflist says of addresses and their families does not count.
    pub only_subnet: Option<IpNet>,
    /// The directory in which `host-local` notes the addresses in use.
    pub ipam_dir: Option<PathBuf>,
}

/// A mistake at a key. Which file it is in is added by those who know.
pub(crate) struct Mistake {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Mistake {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    fn in_origin(self, origin: impl Into<String>) -> Error {
        Error::Conflist { origin: origin.into(), key: self.key, problem: self.problem }
    }
}

/// How a mistake is told where no file is known.
const NO_FILE: &str = "conflist";

impl Conflist {
    /// Reads and validates a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let json = fs::read(path).map_err(|source| Error::ReadConflist { path: path.into(), source })?;
        from_json(&json).map_err(|mistake| mistake.in_origin(path.display().to_string()))
    }

    /// Reads and validates a text.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        from_json(json).map_err(|mistake| mistake.in_origin(NO_FILE))
    }

    /// The same list with the given changes: bridge, subnet and directory in the plugin of type `bridge` and its `ipam`.
    pub fn with_overrides(self, overrides: &Overrides) -> Result<Self, Error> {
        apply(self.document, overrides).and_then(from_document).map_err(|mistake| mistake.in_origin(NO_FILE))
    }

    /// The address of the host on the network, as the plugins will choose it: what `ipam` says, else the first of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        self.plugins.iter().find_map(|plugin| ipam::gateway(&plugin.config))
    }

    /// The first subnet from which addresses are given.
    #[must_use]
    pub fn subnet(&self) -> Option<IpNet> {
        self.plugins.iter().find_map(|plugin| ipam::subnet(&plugin.config))
    }

    /// The interface name of the bridge, if a plugin of that type is in the chain and tells it.
    #[must_use]
    pub fn bridge(&self) -> Option<&str> {
        self.plugins
            .iter()
            .find(|p| p.kind == "bridge")
            .and_then(|p| p.config.get("bridge"))
            .and_then(Value::as_str)
    }

    /// The subnets that are to be masqueraded by a rule of the host's own ([`Masquerade`](crate::Masquerade)): all, if the list says
    /// `"roost.masquerade": true` and no plugin is told to do it.
    #[must_use]
    pub fn masqueraded(&self) -> Vec<IpNet> {
        if !self.masqueraded || self.masquerades() {
            return Vec::new();
        }
        self.plugins.iter().flat_map(|plugin| ipam::subnets(&plugin.config)).collect()
    }

    /// Does a plugin rewrite the addresses of what leaves the network, with rules of each attachment's own?
    pub(crate) fn masquerades(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.config.get("ipMasq") == Some(&Value::Bool(true)))
    }

    /// Where `host-local` notes the addresses of this network, if it is told where.
    pub(crate) fn ipam_dir(&self) -> Option<PathBuf> {
        self.plugins.iter().find_map(|plugin| ipam::directory(&plugin.config, &self.name))
    }

    /// The names of the plugins' programs, those for addresses too.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().flat_map(|plugin| [Some(plugin.kind.as_str()), plugin.ipam.as_deref()]).flatten()
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the protocol spoken with the plugins.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn check_disabled(&self) -> bool {
        self.check_disabled
    }

    pub(crate) fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// What the plugin at `place` reads on stdin: its own settings, those of the list, the runtime settings it asks for, and
    /// what the chain has made so far.
    pub(crate) fn stdin(
        &self,
        place: usize,
        runtime: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let plugin = &self.plugins[place];
        let mut config = plugin.config.clone();
        // For the runtime, not for the plugin.
        config.remove("capabilities");
        config.insert("cniVersion".into(), self.version.as_str().into());
        config.insert("name".into(), self.name.as_str().into());
        let wanted: Map<String, Value> = plugin
            .capabilities
            .iter()
            .filter_map(|capability| runtime.get_key_value(capability))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !wanted.is_empty() {
            config.insert("runtimeConfig".into(), wanted.into());
        }
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        Value::Object(config)
    }
}

impl PartialEq for Conflist {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl Eq for Conflist {}

impl From<Conflist> for Map<String, Value> {
    fn from(conflist: Conflist) -> Self {
        conflist.document
    }
}

impl TryFrom<Map<String, Value>> for Conflist {
    type Error = Error;

    fn try_from(document: Map<String, Value>) -> Result<Self, Error> {
        from_document(document).map_err(|mistake| mistake.in_origin(NO_FILE))
    }
}

fn from_json(json: &[u8]) -> Result<Conflist, Mistake> {
    from_document(serde_json::from_slice(json).map_err(|e| Mistake::new("JSON", e.to_string()))?)
}

fn from_document(document: Map<String, Value>) -> Result<Conflist, Mistake> {
    let text = string(&document, "cniVersion", "cniVersion")?;
    let version = Version::parse(text).ok_or_else(|| {
        Mistake::new(
            "cniVersion",
            format!("{text:?} is not supported: expected one of {}", Version::ALL_TEXT),
        )
    })?;
    let name = string(&document, "name", "name")?.to_owned();
    if !is_name(&name) {
        let problem = format!(
            "{name:?} is not valid: expected at most {MAX_NAME} letters, digits, '_', '.' and '-', beginning with a letter or digit"
        );
        return Err(Mistake::new("name", problem));
    }
    let check_disabled = boolean(&document, "disableCheck")?;
    let masqueraded = boolean(&document, MASQUERADE)?;
    let plugins = match document.get("plugins") {
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
        Some(_) => return Err(Mistake::new("plugins", "expected a list of at least one plugin")),
        None if document.contains_key("type") => {
            return Err(Mistake::new(
                "plugins",
                "is missing: this is a single plugin's file (.conf), expected a list (.conflist)",
            ));
        }
        None => return Err(Mistake::new("plugins", "is missing")),
    };
    let plugins = plugins
        .iter()
        .enumerate()
        .map(|(i, p)| plugin(&format!("plugins[{i}]"), p))
        .collect::<Result<_, _>>()?;
    Ok(Conflist { version, name, check_disabled, masqueraded, plugins, document })
}

fn plugin(key: &str, value: &Value) -> Result<Plugin, Mistake> {
    let Value::Object(config) = value else { return Err(Mistake::new(key, "expected an object")) };
    let kind = program(config, &format!("{key}.type"))?;
    let capabilities = match config.get("capabilities") {
        None => Vec::new(),
        Some(Value::Object(map)) => {
            if let Some((name, _)) = map.iter().find(|(_, value)| !value.is_boolean()) {
                return Err(Mistake::new(format!("{key}.capabilities.{name}"), "expected true or false"));
            }
            map.iter()
                .filter(|(_, value)| **value == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect()
        }
        Some(_) => return Err(Mistake::new(format!("{key}.capabilities"), "expected an object")),
    };
    let ipam = match config.get("ipam") {
        None => None,
        Some(Value::Object(ipam)) if ipam.is_empty() => None,
        Some(Value::Object(ipam)) => Some(program(ipam, &format!("{key}.ipam.type"))?),
        Some(_) => return Err(Mistake::new(format!("{key}.ipam"), "expected an object")),
    };
    if kind == "bridge" {
        bridge_name(config, &format!("{key}.bridge"))?;
    }
    ipam::validate(config, key)?;
    Ok(Plugin { kind, ipam, capabilities, config: config.clone() })
}

/// A plugin is called by the name of its program: anything with a slash would leave the plugin directories.
fn program(map: &Map<String, Value>, key: &str) -> Result<String, Mistake> {
    let name = string(map, "type", key)?;
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Mistake::new(key, format!("{name:?} is not the name of a plugin")));
    }
    Ok(name.to_owned())
}

fn bridge_name(config: &Map<String, Value>, key: &str) -> Result<(), Mistake> {
    if !config.contains_key("bridge") {
        return Ok(());
    }
    let name = string(config, "bridge", key)?;
    let valid = !name.is_empty()
        && name.len() <= MAX_INTERFACE
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b));
    if valid {
        Ok(())
    } else {
        Err(Mistake::new(
            key,
            format!(
                "{name:?} is not an interface name: expected 1 to {MAX_INTERFACE} characters, none of them '/', ':' or a space"
            ),
        ))
    }
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

fn string<'a>(map: &'a Map<String, Value>, name: &str, key: &str) -> Result<&'a str, Mistake> {
    match map.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Mistake::new(key, "expected a string")),
        None => Err(Mistake::new(key, "is missing")),
    }
}

/// Lists written for other runtimes have `"true"` here now and then.
fn boolean(map: &Map<String, Value>, key: &str) -> Result<bool, Mistake> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(Mistake::new(key, "expected true or false")),
    }
}

fn apply(mut document: Map<String, Value>, overrides: &Overrides) -> Result<Map<String, Value>, Mistake> {
    if let Some(name) = &overrides.name {
        document.insert("name".into(), name.as_str().into());
    }
    let Overrides { name: _, bridge, subnet, only_subnet, ipam_dir } = overrides;
    if bridge.is_none() && subnet.is_none() && only_subnet.is_none() && ipam_dir.is_none() {
        return Ok(document);
    }
    let (place, bridge) = document
        .get_mut("plugins")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(place, plugin)| Some((place, plugin.as_object_mut()?)))
        .find(|(_, plugin)| plugin.get("type").is_some_and(|kind| kind == "bridge"))
        .ok_or_else(|| {
            Mistake::new(
                "plugins",
                "none is of type \"bridge\": bridge, subnet and ipam directory cannot be set",
            )
        })?;
    if let Some(name) = &overrides.bridge {
        bridge.insert("bridge".into(), name.as_str().into());
    }
    let key = format!("plugins[{place}]");
    if let Some(subnet) = overrides.subnet {
        ipam::set_subnet(bridge, &key, subnet)?;
    }
    if let Some(subnet) = overrides.only_subnet {
        ipam::set_only(bridge, &key, subnet)?;
    }
    if let Some(dir) = &overrides.ipam_dir {
        ipam::set_directory(bridge, &key, dir)?;
    }
    Ok(document)
}

#[cfg(test)]
mod tests;
