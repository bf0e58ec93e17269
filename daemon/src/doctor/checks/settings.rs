//! Whether the doctor sees all, and the daemon's settings.

use crate::doctor::Finding;
use crate::doctor::facts::{Facts, Settings};

pub(in crate::doctor) fn rights(facts: &Facts) -> Finding {
    if facts.root {
        return Finding::ok("root sees all");
    }
    let found = "this is not root: files, rules and processes of others are not all to be seen";
    Finding::warning(found, "sudo roost doctor")
}

pub(in crate::doctor) fn settings(facts: &Facts) -> Finding {
    let path = facts.config_path.display();
    match &facts.settings {
        Settings::Valid => Finding::ok(format!("{path} is valid")),
        Settings::Closed => Finding::unknown(
            "what the settings are",
            &format!("{path} is for root to read (all else is judged by the defaults)"),
        ),
        Settings::Missing => Finding::problem(
            format!("{path} is not there: all else is judged by the defaults"),
            format!("run install.sh, or: cp /usr/local/share/roost/roostd.toml {path}"),
        ),
        Settings::Wrong(why) => Finding::problem(
            format!("{why} (all else is judged by the defaults)"),
            format!("correct it until this is content: roostd --config {path} check-config"),
        ),
    }
}
