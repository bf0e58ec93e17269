use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

/// Writes a new certificate and its key, `0644` and `0600`.
fn make(directory: &Path, name: &str) -> CertificateFiles {
    let made = rcgen::generate_simple_self_signed(vec![format!("{name}.example")]).unwrap();
    let files = CertificateFiles {
        cert: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
    };
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    files
}

fn load(files: &[CertificateFiles]) -> Result<Certificates, TlsError> {
    Certificates::load(files, None, Challenges::default())
}

#[test]
fn without_any_certificate_there_is_no_tls_unless_one_is_to_come() {
    assert!(matches!(load(&[]), Err(TlsError::None)));
    let (give, given) = watch::channel(Held::default());
    let certificates = Certificates::load(&[], Some(given), Challenges::default()).unwrap();
    assert!(!certificates.has()("one.example"));
    let directory = tempfile::tempdir().unwrap();
    let files = make(directory.path(), "one");
    let read = files::read(std::slice::from_ref(&files)).unwrap().certificates;
    let held = Held::new([("one.example".to_owned(), read[0].clone())].into());
    give.send_replace(Held::clone(&held));
    certificates.show_given();
    // A file goes before what was given, and both before what nobody trusts.
    let placeholder = roost_acme::placeholder().unwrap();
    let names = |shown: &[Certificate]| shown.iter().flat_map(|one| one.names().to_vec()).collect::<Vec<_>>();
    let others = files::read(&[make(directory.path(), "two")]).unwrap().certificates;
    for (files, given, expected) in [
        (&[][..], None, &["roost.invalid"][..]),
        (&[], Some(&held), &["one.example"]),
        (&others, Some(&held), &["two.example", "one.example"]),
    ] {
        assert_eq!(names(&shown(files, given, Some(&placeholder))), expected);
    }
    assert!(load(&[files]).unwrap().has()("one.example"));
}

#[test]
fn only_files_that_are_all_right_are_taken_up_and_only_when_they_have_changed() {
    let directory = tempfile::tempdir().unwrap();
    let files = [make(directory.path(), "one"), make(directory.path(), "two")];
    let certificates = load(&files).unwrap();
    assert!(!certificates.reload().unwrap(), "nothing has changed");
    let old = fs::read(&files[1].key).unwrap();
    make(directory.path(), "two");
    assert!(certificates.reload().unwrap());
    let new = fs::read(&files[1].key).unwrap();
    fs::write(&files[1].key, &old).unwrap();
    let why = certificates.reload().unwrap_err().to_string();
    assert!(
        why.contains("two.pem") && why.contains("two.key") && why.ends_with("not the one of the certificate"),
        "{why}"
    );
    fs::remove_file(&files[0].cert).unwrap();
    let why = certificates.reload().unwrap_err().to_string();
    assert!(why.contains("cannot read") && why.contains("one.pem"), "{why}");
    make(directory.path(), "one");
    fs::write(&files[1].key, &new).unwrap();
    assert!(certificates.reload().unwrap());
    assert!(!certificates.reload().unwrap());
}

#[test]
fn a_key_that_others_may_read_is_refused_by_its_name_and_a_certificate_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let files = [make(directory.path(), "one")];
    for mode in [0o640, 0o604, 0o660, 0o777] {
        fs::set_permissions(&files[0].key, Permissions::from_mode(mode)).unwrap();
        let why = load(&files).err().unwrap().to_string();
        assert!(why.contains("one.key") && why.contains(&format!("mode {mode:04o}")), "{why}");
    }
    fs::set_permissions(&files[0].key, Permissions::from_mode(0o400)).unwrap();
    load(&files).unwrap();
}

#[tokio::test]
async fn a_file_is_followed_when_it_is_replaced_and_a_link_when_it_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let files = make(directory.path(), "one");
    std::os::unix::fs::symlink(&files.cert, path("live.pem")).unwrap();
    let (link, key) = (path("live.pem"), files.key.clone());
    let mut changes = Changes::new("certificates", &[&link, &key]);
    fs::write(path("other"), "x").unwrap();
    fs::write(path("new"), "x").unwrap();
    fs::rename(path("new"), &key).unwrap();
    changes.next().await;
    fs::remove_file(&link).unwrap();
    changes.next().await;
    std::os::unix::fs::symlink(path("other"), &link).unwrap();
    changes.next().await;
}
