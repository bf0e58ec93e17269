//! Who may see what, and certificates.

use super::*;

fn auth(facts: &mut Facts) -> &mut Auth {
    facts.config.auth.as_mut().unwrap()
}

#[test]
fn who_may_see_what_is_told() {
    all_end_so(
        "access",
        &[
            (|f| f.config.auth = None, Warning, "functions may use the API", "below [auth]: enabled = true"),
            (
                |f| {
                    f.config.auth = None;
                    f.config.listen = "0.0.0.0:8080".parse().unwrap();
                },
                Problem,
                "whoever reaches it may deploy",
                "enabled = true",
            ),
            (
                |f| {
                    f.secrets[0].mode = Ok(None);
                    let users = SecretFile { path: auth(f).users_file.clone(), ..f.secrets[0].clone() };
                    f.secrets.push(users);
                },
                Problem,
                "no user is an admin",
                "roost auth reset",
            ),
        ],
    );
    all_end_so(
        "secrets",
        &[
            (
                |f| f.secrets[0].mode = Ok(Some((0o644, 0))),
                Problem,
                "/etc/roost/admin-password has mode 0644",
                "chmod 600 /etc/roost/admin-password",
            ),
            (
                |f| f.secrets[1].mode = Ok(Some((0o755, 0))),
                Warning,
                "/var/lib/roost has mode 0755",
                "chmod 700 /var/lib/roost",
            ),
            (
                |f| f.secrets[1].mode = Ok(Some((0o700, 1000))),
                Warning,
                "belongs to user 1000",
                "chown root: /var/lib/roost",
            ),
            (|f| f.secrets[1].mode = Err("denied".into()), Warning, "cannot tell", ""),
            (|f| f.secrets[1].mode = Ok(None), Well, "root alone", ""),
        ],
    );
}

fn certified(facts: &mut Facts, names: &[&str], from: SystemTime, until: SystemTime) {
    facts.config.tls =
        Some(Tls { listen: "0.0.0.0:443".parse().unwrap(), certificates: Vec::new(), acme: None });
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let shown = Shown { names, validity: Some(Validity { from, until }) };
    facts.certificates.files.push(("/etc/roost/tls/h.pem".into(), Ok(shown)));
}

fn ordered(facts: &mut Facts, given: &[(&str, Duration)]) {
    let (acme, _) = (acme(), certified(facts, &["h.example"], now(), now() + DAY * 90));
    facts.config.tls.as_mut().unwrap().acme = Some(acme);
    let validity = |left: Duration| Some(Validity { from: now() - DAY, until: now() + left });
    let given = given.iter().map(|(name, left)| Given { name: (*name).into(), validity: validity(*left) });
    facts.certificates.given = Some(Ok(given.collect()));
}

fn acme() -> roost_acme::Settings {
    roost_acme::Settings {
        directory: "https://authority.example/directory".into(),
        contact: Vec::new(),
        domains: vec!["a.example".into()],
        function_domains: true,
        challenges: Vec::new(),
        ca: None,
        directory_path: "/var/lib/roost/acme".into(),
        pace: roost_acme::Pace::default(),
    }
}

#[test]
fn certificates_are_told_of_before_they_end() {
    all_end_so(
        "certificates",
        &[
            (
                |f| certified(f, &["h.example"], now(), now() + DAY * 14),
                Well,
                "(h.example) is good for 14 days",
                "",
            ),
            (
                |f| certified(f, &["h.example"], now(), now() + DAY * 14 - Duration::from_secs(1)),
                Warning,
                "ends in 13 days",
                "renew it",
            ),
            (
                |f| certified(f, &["h.example"], now() - DAY * 9, now() - DAY * 2),
                Problem,
                "ended 2 days ago",
                "renew it",
            ),
            (
                |f| certified(f, &["h.example"], now() + DAY, now() + DAY * 90),
                Problem,
                "not good yet",
                "clock",
            ),
            (|f| certified(f, &[], now(), now() + DAY * 90), Warning, "names no host", "DNS name"),
            (
                |f| {
                    certified(f, &["h.example"], now(), now() + DAY * 90);
                    let refused =
                        Refused { why: "key.pem may be read".into(), fix: "chmod 600 key.pem".into() };
                    f.certificates.files[0].1 = Err(refused);
                },
                Problem,
                "key.pem may be read",
                "chmod 600 key.pem",
            ),
            (|f| ordered(f, &[("a.example", DAY * 60)]), Well, "a.example is good for 60 days", ""),
            (|f| ordered(f, &[]), Warning, "nothing for a.example yet", "ports 80 and 443 of a.example"),
            (
                |f| ordered(f, &[("a.example", DAY * 3)]),
                Warning,
                "a.example ends in 3 days",
                "should have been renewed",
            ),
        ],
    );
}
