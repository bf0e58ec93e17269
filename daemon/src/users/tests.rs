//! Users as tables, with passwords that are really hashed, at the lowest cost.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use argon2::password_hash::CustomizedPasswordHasher;
use argon2::{Algorithm, Params, Version};
use tempfile::TempDir;

use super::places::{PLACES, SHARE};
use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A line of the users file.
fn line(name: &str, role: &str, password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let params = Params::new(8, 1, 1, None).unwrap();
    let hash: PasswordHash =
        argon2.hash_password_with_params(password.as_bytes(), b"some salt of it", params).unwrap();
    format!("{name}:{role}:{hash}\n")
}

fn write(path: &Path, text: &str) {
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}

/// The files in a directory of their own; `None` for one that is not there.
fn files(password: Option<&str>, users: Option<&str>) -> (TempDir, Auth) {
    let folder = tempfile::tempdir().unwrap();
    let auth = Auth {
        user: "admin".into(),
        password_file: folder.path().join("password"),
        users_file: folder.path().join("users"),
    };
    for (path, text) in [(&auth.password_file, password), (&auth.users_file, users)] {
        if let Some(text) = text {
            write(path, text);
        }
    }
    (folder, auth)
}

fn headers(value: &str) -> HeaderMap {
    let value = value.strip_prefix("basic ").map_or_else(|| value.to_owned(), encoded);
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
}

fn encoded(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn anna_and_bert() -> String {
    format!("# all of us\n{}{}", line("anna", "admin", "a:pw"), line("bert", "read-only", "b"))
}

#[tokio::test]
async fn only_users_with_their_own_passwords_are_known_the_second_time_too() {
    let (_folder, auth) = files(Some(" s3:cret\n"), Some(&anna_and_bert()));
    let users = Users::load(&auth).unwrap();
    let table = [
        ("basic admin:s3:cret", Some(Role::Admin)),
        ("basic anna:a:pw", Some(Role::Admin)),
        ("basic bert:b", Some(Role::ReadOnly)),
        ("basic admin:", None),
        ("basic admin:s3:cre", None),
        ("basic anna:b", None),
        ("basic bert:a:pw", None),
        ("basic bert:", None),
        ("basic nobody:b", None),
        ("basic anna", None),
        ("basic :", None),
        ("Bearer ", None),
        ("Bearer YW5uYTphOnB3", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic YWRtaW4=", None),
    ];
    for _ in 0..2 {
        for (value, role) in table {
            let known = users.authenticate(&headers(value), PEER).await;
            assert_eq!(known, role.ok_or(Refused::Wrong), "{value}");
        }
        assert_eq!(users.authenticate(&HeaderMap::new(), PEER).await, Err(Refused::Wrong));
    }
}

#[tokio::test]
async fn a_right_password_is_hashed_once_until_the_users_change() {
    let (_folder, auth) = files(None, Some(&anna_and_bert()));
    let users = Users::load(&auth).unwrap();
    let proven = || users.known.load().listed["anna"].proven.get().is_some();
    assert_eq!(users.authenticate(&headers("basic anna:wrong"), PEER).await, Err(Refused::Wrong));
    assert!(!proven());
    users.authenticate(&headers("basic anna:a:pw"), PEER).await.unwrap();
    assert!(proven());
    // Whoever is proven needs no turn.
    let turn = users.turns.acquire().await.unwrap();
    assert_eq!(users.authenticate(&headers("basic anna:a:pw"), PEER).await, Ok(Role::Admin));
    drop(turn);
    users.reload();
    assert!(proven(), "nothing has changed");
    let carl = line("carl", "admin", "c");
    write(&auth.users_file, &(line("anna", "admin", "a:pw") + &carl));
    users.reload();
    assert!(proven(), "bert has gone and carl has come, but anna's line is the same");
    assert_eq!(users.authenticate(&headers("basic bert:b"), PEER).await, Err(Refused::Wrong));
    write(&auth.users_file, &(line("anna", "read-only", "a:pw") + &carl));
    users.reload();
    assert!(!proven(), "another role");
    write(&auth.users_file, &(line("anna", "read-only", "new") + &carl));
    users.reload();
    assert_eq!(users.authenticate(&headers("basic anna:a:pw"), PEER).await, Err(Refused::Wrong));
    assert_eq!(users.authenticate(&headers("basic anna:new"), PEER).await, Ok(Role::ReadOnly));
}

#[tokio::test]
async fn files_that_are_wrong_change_nothing() {
    let (_folder, auth) = files(None, Some(&anna_and_bert()));
    let users = Users::load(&auth).unwrap();
    let mut without_admin = line("anna", "read-only", "a:pw");
    for broken in ["anna:admin\n", "", &*without_admin] {
        write(&auth.users_file, broken);
        users.reload();
        assert_eq!(
            users.authenticate(&headers("basic anna:a:pw"), PEER).await,
            Ok(Role::Admin),
            "{broken:?}"
        );
    }
    fs::remove_file(&auth.users_file).unwrap();
    users.reload();
    assert_eq!(users.authenticate(&headers("basic bert:b"), PEER).await, Ok(Role::ReadOnly));
    without_admin += &line("carl", "admin", "c");
    write(&auth.users_file, &without_admin);
    users.reload();
    assert_eq!(users.authenticate(&headers("basic anna:a:pw"), PEER).await, Ok(Role::ReadOnly));
}

#[tokio::test]
async fn there_has_to_be_an_admin() {
    for (password, text, fine) in [
        (None, None, false),
        (Some("p"), None, true),
        (None, Some(line("anna", "admin", "a")), true),
        (None, Some(line("anna", "read-only", "a")), false),
        (Some(" \n"), Some(line("anna", "admin", "a")), false),
        (Some("p"), Some(line("admin", "admin", "a")), false),
        (None, Some(line("admin", "admin", "a")), true),
    ] {
        let (_folder, auth) = files(password, text.as_deref());
        assert_eq!(Users::load(&auth).is_ok(), fine, "{password:?} {text:?}");
    }
}

#[tokio::test]
async fn more_than_may_wait_are_told_to_come_again_and_the_first_user_never_waits_with_the_right_password() {
    let (_folder, auth) = files(Some("p"), Some(&anna_and_bert()));
    let users = Users::load(&auth).unwrap();
    let turn = users.turns.acquire().await.unwrap();
    let mut waiting = Vec::new();
    // One peer has its share, and then others are still heard, until all places are taken.
    for peer in (1..=PLACES / SHARE).map(|peer| IpAddr::from([192, 0, 2, u8::try_from(peer).unwrap()])) {
        let before = users.places.taken();
        for _ in 0..SHARE {
            let users = Arc::clone(&users);
            waiting.push(tokio::spawn(
                async move { users.authenticate(&headers("basic anna:a:pw"), peer).await },
            ));
        }
        while users.places.taken() < before + SHARE {
            tokio::task::yield_now().await;
        }
        assert_eq!(users.authenticate(&headers("basic anna:x"), peer).await, Err(Refused::Busy));
    }
    for name in ["anna", "nobody", "admin"] {
        assert_eq!(users.authenticate(&headers(&format!("basic {name}:x")), PEER).await, Err(Refused::Busy));
    }
    assert_eq!(users.authenticate(&headers("basic admin:p"), PEER).await, Ok(Role::Admin));
    drop(turn);
    for waited in waiting {
        assert_eq!(waited.await.unwrap(), Ok(Role::Admin));
    }
    assert_eq!(users.places.taken(), 0);
}
