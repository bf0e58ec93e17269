//! The devices of a replica: which are made inside, and what the kernel lets it do with them.
//!
//! Pure, a part of [`super::spec`].

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::runtime::Device;

/// Whoever the function runs as may use what the function was given: nobody else is inside.
const MODE: u32 = 0o666;

/// What is made in `/dev`, besides what runc makes by itself.
pub(super) fn nodes(devices: &[Device]) -> Result<Vec<LinuxDevice>, OciSpecError> {
    let node = |device: &Device| {
        LinuxDeviceBuilder::default()
            .path(&device.target)
            .typ(kind(device))
            .major(device.major)
            .minor(device.minor)
            .file_mode(MODE)
            .uid(0_u32)
            .gid(0_u32)
            .build()
    };
    devices.iter().map(node).collect()
}

/// All devices are denied but these; runc then allows null, zero, random and the like by itself.
pub(super) fn rules(devices: &[Device]) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build();
    let rule = |device: &Device| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(device))
            .major(device.major)
            .minor(device.minor)
            .access(device.access.as_str())
            .build()
    };
    std::iter::once(none).chain(devices.iter().map(rule)).collect()
}

fn kind(device: &Device) -> LinuxDeviceType {
    if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}
