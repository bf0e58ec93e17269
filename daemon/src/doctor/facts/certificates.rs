//! Files that hold secrets, and certificates.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use roost_acme::Validity;

use super::Known;
use crate::config::{CertificateFiles, Config};
use crate::tls::{self, Shown, TlsError};

/// How many files of secrets are looked at.
const MAX_SECRETS: usize = 10_000;

/// A file or directory that others than its owner must not see.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct SecretFile {
    pub(in crate::doctor) what: &'static str,
    pub(in crate::doctor) path: PathBuf,
    pub(in crate::doctor) directory: bool,
    /// Its permissions, and the number of the user that it belongs to. `None` if there is no such file.
    pub(in crate::doctor) mode: Known<Option<(u32, u32)>>,
}

/// Why files cannot be shown to clients, and what changes that.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Refused {
    pub(in crate::doctor) why: String,
    pub(in crate::doctor) fix: String,
}

/// A certificate that an authority has given.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Given {
    pub(in crate::doctor) name: String,
    pub(in crate::doctor) validity: Option<Validity>,
}

#[derive(Debug, Clone, Default)]
pub(in crate::doctor) struct Certificates {
    /// Those of the settings.
    pub(in crate::doctor) files: Vec<(PathBuf, Result<Shown, Refused>)>,
    /// Those that were given, by their names; `None` where no authority is asked.
    pub(in crate::doctor) given: Option<Known<Vec<Given>>>,
}

pub(super) fn secrets(config: &Config) -> Vec<SecretFile> {
    let secrets = config.state.join("secrets");
    let mut files = vec![
        look("the credentials of registries", config.images.docker_config.clone(), false),
        look("the state", config.state.clone(), true),
        look("secrets of functions", secrets.clone(), true),
    ];
    if let Some(auth) = &config.auth {
        files.push(look("the admin's password", auth.password_file.clone(), false));
        files.push(look("the users", auth.users_file.clone(), false));
    }
    // One directory a namespace, one file a secret.
    let namespaces = fs::read_dir(&secrets).into_iter().flatten().flatten();
    let all = namespaces.flat_map(|namespace| fs::read_dir(namespace.path()).into_iter().flatten().flatten());
    files.extend(all.take(MAX_SECRETS).map(|file| look("a secret", file.path(), false)));
    files
}

fn look(what: &'static str, path: PathBuf, directory: bool) -> SecretFile {
    let mode = match fs::metadata(&path) {
        Ok(about) => Ok(Some((about.mode() & 0o7777, about.uid()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    };
    SecretFile { what, path, directory, mode }
}

pub(super) fn read(config: &Config) -> Certificates {
    let Some(tls) = &config.tls else { return Certificates::default() };
    let look =
        |files: &CertificateFiles| (files.cert.clone(), tls::look(files).map_err(|error| refused(&error)));
    Certificates {
        files: tls.certificates.iter().map(look).collect(),
        given: tls.acme.as_ref().map(|acme| given(&acme.directory_path)),
    }
}

fn refused(error: &TlsError) -> Refused {
    let fix = match error {
        TlsError::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
        TlsError::Read { path, .. } => format!("put it there: {}", path.display()),
        _ => "put there a certificate with its chain, and the key that belongs to it, both in PEM".to_owned(),
    };
    Refused { why: error.to_string(), fix }
}

/// What is below `HOST-HASH/certificates/`, whichever the authority.
fn given(directory: &Path) -> Known<Vec<Given>> {
    let authorities = match fs::read_dir(directory) {
        Ok(authorities) => authorities,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    let dirs = authorities.flatten().map(|authority| authority.path().join("certificates"));
    let files = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let given = files.filter_map(|file| {
        let path = file.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".pem")?.to_owned();
        Some(Given { name, validity: Validity::of_pem(&fs::read(&path).ok()?) })
    });
    Ok(given.collect())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::Tls;

    #[test]
    fn a_certificate_is_read_with_its_names_and_its_end_and_a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let (pair, mut params) =
            (KeyPair::generate().unwrap(), CertificateParams::new(["h.example".to_owned()]).unwrap());
        params.not_after = date_time_ymd(2030, 1, 1);
        fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        let given = dir.path().join("acme/authority.example-1a2b3c4d/certificates");
        fs::create_dir_all(&given).unwrap();
        fs::copy(&cert, given.join("a.example.pem")).unwrap();
        let files = CertificateFiles { cert: cert.clone(), key: key.clone() };
        let listen = "127.0.0.1:443".parse().unwrap();
        let config =
            Config { tls: Some(Tls { listen, certificates: vec![files], acme: None }), ..Config::usual() };

        for (mode, expected) in [(0o600, None), (0o640, Some(format!("chmod 600 {}", key.display())))] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            let (path, shown) = read(&config).files.remove(0);
            assert_eq!(path, cert);
            assert_eq!(shown.as_ref().err().map(|refused| refused.fix.clone()), expected, "{shown:?}");
            if let Ok(Shown { names, validity }) = shown {
                let until = validity.unwrap().until.duration_since(UNIX_EPOCH).unwrap();
                assert_eq!((names, until.as_secs()), (vec!["h.example".to_owned()], 1_893_456_000));
            }
        }
        let given = super::given(&dir.path().join("acme")).unwrap();
        assert_eq!(given.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a.example"]);
        assert!(given[0].validity.is_some());
        assert!(super::given(&dir.path().join("none")).unwrap().is_empty());
    }
}
