//! Who may see what: the API, files that hold secrets, certificates.

use std::path::Path;
use std::time::{Duration, SystemTime};

use roost_acme::Validity;

use super::set;
use crate::doctor::facts::{Facts, SecretFile};
use crate::doctor::{Finding, Verdict};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// From when on before its end a certificate is told of, in days.
const SOON: u32 = 14;

/// What each step that is not a certificate's own is done by.
const LOG: &str = "journalctl -u roostd tells why";

pub(in crate::doctor) fn access(facts: &Facts) -> Finding {
    let config = &facts.config;
    let Some(auth) = &config.auth else {
        let fix = set(facts, "auth", "enabled = true");
        let tls = config.tls.as_ref().map(|tls| tls.listen);
        let outside =
            [Some(config.listen), tls].into_iter().flatten().find(|address| !address.ip().is_loopback());
        return match outside {
            Some(address) => Finding::problem(
                format!(
                    "auth.enabled = false, on {address}: whoever reaches it may deploy, and so do functions"
                ),
                fix,
            ),
            None => Finding::warning("auth.enabled = false: functions may use the API, too", fix),
        };
    };
    let is_missing =
        |path: &Path| facts.secrets.iter().any(|file| file.path == path && matches!(file.mode, Ok(None)));
    if is_missing(&auth.password_file) && is_missing(&auth.users_file) {
        let found = format!("no user is an admin: {} is not there", auth.password_file.display());
        return Finding::problem(found, "roost auth reset");
    }
    Finding::ok("the API asks for a login")
}

pub(in crate::doctor) fn secrets(facts: &Facts) -> Finding {
    let mut findings: Vec<Finding> = facts.secrets.iter().filter_map(|file| secret(facts, file)).collect();
    findings.push(Finding::ok("passwords and secrets are for root alone"));
    Finding::all(findings)
}

fn secret(facts: &Facts, file: &SecretFile) -> Option<Finding> {
    let SecretFile { what, path, directory, .. } = file;
    let (mode, owner) = match &file.mode {
        Ok(mode) => (*mode)?,
        Err(why) => return Some(Finding::unknown(&format!("who may read {what}"), why)),
    };
    let path = path.display();
    if mode & 0o077 != 0 {
        let found = format!("{what} may be read by others: {path} has mode {mode:04o}");
        let fix = format!("chmod {} {path}", if *directory { 700 } else { 600 });
        // The daemon takes no users from such a file, and does not start.
        let users = facts
            .config
            .auth
            .as_ref()
            .is_some_and(|auth| [&auth.password_file, &auth.users_file].contains(&&file.path));
        let verdict = if users { Verdict::Problem } else { Verdict::Warning };
        return Some(Finding { verdict, ..Finding::problem(found, fix) });
    }
    (owner != 0).then(|| {
        let found = format!("{what} belongs to user {owner}: {path}");
        Finding::warning(found, format!("chown root: {path}"))
    })
}

pub(in crate::doctor) fn certificates(facts: &Facts) -> Finding {
    let Some(tls) = &facts.config.tls else { return Finding::ok("TLS is not switched on") };
    let mut findings: Vec<Finding> = Vec::new();
    for (path, shown) in &facts.certificates.files {
        let path = path.display().to_string();
        findings.push(match shown {
            Err(refused) if facts.root => Finding::problem(&refused.why, &refused.fix),
            Err(refused) => Finding::unknown("what certificates there are", &refused.why),
            Ok(shown) if shown.names.is_empty() => Finding::warning(
                format!("{path} names no host"),
                "order one that names this host as a DNS name (subjectAltName)",
            ),
            Ok(shown) => {
                let about = format!("{path} ({})", shown.names.join(", "));
                validity(
                    facts.now,
                    &about,
                    shown.validity,
                    "renew it; roostd takes the new files up by itself",
                )
            }
        });
    }
    match (&facts.certificates.given, &tls.acme) {
        (Some(Ok(given)), Some(acme)) => {
            let missing = acme.domains.iter().filter(|name| !given.iter().any(|one| one.name == **name));
            findings.extend(missing.map(|name| {
                let found = format!("the authority has given nothing for {name} yet");
                let fix = format!("see that ports 80 and 443 of {name} lead here; {LOG}");
                Finding::warning(found, fix)
            }));
            let fix = format!("it should have been renewed: {LOG}");
            findings.extend(given.iter().map(|one| {
                let finding = validity(facts.now, &one.name, one.validity, &fix);
                // Of functions that are gone certificates stay.
                let verdict =
                    if acme.domains.contains(&one.name) { Verdict::Problem } else { Verdict::Warning };
                Finding { verdict: finding.verdict.min(verdict), ..finding }
            }));
        }
        (Some(Err(why)), _) => findings.push(Finding::unknown("what the authority has given", why)),
        _ => {}
    }
    Finding::all(findings)
}

fn validity(now: SystemTime, about: &str, validity: Option<Validity>, fix: &str) -> Finding {
    let Some(Validity { from, until }) = validity else {
        return Finding::unknown(&format!("how long {about} is good"), "it does not say");
    };
    let days = |time: Duration| time.as_secs() / DAY.as_secs();
    match until.duration_since(now) {
        Err(ended) => Finding::problem(format!("{about} ended {} days ago", days(ended.duration())), fix),
        Ok(_) if from > now => {
            Finding::problem(format!("{about} is not good yet"), "see that the clock is right: date")
        }
        Ok(left) if left < DAY * SOON => {
            Finding::warning(format!("{about} ends in {} days", days(left)), fix)
        }
        Ok(left) => Finding::ok(format!("{about} is good for {} days", days(left))),
    }
}
