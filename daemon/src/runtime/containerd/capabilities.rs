//! What root inside a replica may still do.
//!
//! Owns the list, each entry with its reason. A process of another user has none of them: nothing is ambient or
//! inheritable, and no new privileges can be gained.

use oci_spec::OciSpecError;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

/// All that is kept. Left out on purpose, though other defaults have them: `NET_RAW` (forges packets to the
/// neighbours on the bridge), `MKNOD`, `SYS_CHROOT`, `SETFCAP`, `AUDIT_WRITE`, `SETPCAP`.
const KEPT: [Capability; 8] = [
    // An entrypoint that starts as root hands its directories to the user that it then becomes …
    Capability::Chown,
    // … after it wrote into directories of that user …
    Capability::DacOverride,
    // … changed the modes of files that it does not own …
    Capability::Fowner,
    // … and kept the set-group-id bit on them.
    Capability::Fsetid,
    // Then it becomes that user (su-exec, gosu, the workers of nginx) …
    Capability::Setuid,
    Capability::Setgid,
    // … and a supervisor that stayed root stops its children.
    Capability::Kill,
    // Servers that listen on port 80.
    Capability::NetBindService,
];

/// The capabilities of a replica's first process.
pub(super) fn kept() -> Result<LinuxCapabilities, OciSpecError> {
    let set: Capabilities = KEPT.into_iter().collect();
    let none = Capabilities::new();
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(none.clone())
        .ambient(none)
        .build()
}
