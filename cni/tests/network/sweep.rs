//! No rule stays behind of plugins that masquerade, although other programs change the rules at the same time.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use roost_cni::{Network, Settings};

use crate::support::{Host, PLUGIN_DIRS, names_in, on_host, run, until_no_veth};

/// An `iptables` that fails as it does when another program is quicker: for each file in `faults` once, on the command that the file
/// is named after.
const WRAPPER: &str = r#"#!/bin/sh
for fault in DIR/faults/*; do
    case " $* " in
        *" ${fault##*/} "*) if rm "$fault" 2>/dev/null; then echo "Device or resource busy" >&2; exit 4; fi ;;
    esac
done
PATH=${PATH#*:} exec iptables "$@"
"#;

/// Makes a program. Written by a child: while a child of another test still holds our own descriptor, it could not be run.
fn script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&draft, text).unwrap();
    run("install", &["-m", "755", draft.to_str().unwrap(), path.to_str().unwrap()]);
}

/// The shipped network, whose real `bridge` finds that `iptables`; and the directory of the faults.
fn faulty(host: &Host) -> (Network, PathBuf) {
    let dir = host.netns_dir().with_file_name("faulty");
    fs::create_dir_all(dir.join("faults")).unwrap();
    script(&dir.join("bin/iptables"), &WRAPPER.replace("DIR", dir.to_str().unwrap()));
    let mut places = PLUGIN_DIRS.iter().map(|dir| Path::new(dir).join("bridge"));
    let real = places.find(|path| path.exists()).unwrap();
    let text = format!("#!/bin/sh\nPATH={}/bin:$PATH exec {}\n", dir.display(), real.display());
    script(&dir.join("plugins/bridge"), &text);
    let mut settings: Settings = host.settings(host.masqueraded_by_plugin());
    settings.plugin_dirs.insert(0, dir.join("plugins"));
    (Network::new(settings).unwrap(), dir.join("faults"))
}

/// What table `nat` has for attachments: rules and chains.
fn rules() -> Vec<String> {
    let saved = run("iptables-save", &["-t", "nat"]);
    saved.lines().filter(|line| line.contains("CNI-")).map(str::to_owned).collect()
}

#[test]
fn a_detach_that_failed_anywhere_leaves_nothing_when_it_is_repeated() {
    on_host(|host| async move {
        let (network, faults) = faulty(&host);
        network.attach("a.b").await.unwrap();
        let of_the_other = rules();
        assert_eq!(of_the_other.len(), 4, "{of_the_other:?}");
        for command in ["-D", "-N", "-F", "-X"] {
            for by_the_next_process in [false, true] {
                network.attach("a").await.unwrap();
                fs::write(faults.join(command), "").unwrap();
                let error = network.detach("a").await.unwrap_err().to_string();
                assert!(error.contains("Device or resource busy"), "{command}: {error}");
                assert_ne!(rules(), of_the_other, "{command}: something is left by the first try");

                if by_the_next_process {
                    let keep = HashSet::from(["a.b".to_owned()]);
                    assert_eq!(faulty(&host).0.collect(&keep).await.unwrap(), ["a"]);
                } else {
                    network.detach("a").await.unwrap();
                }
                assert_eq!(rules(), of_the_other, "{command}, by the next process: {by_the_next_process}");
            }
        }
        network.detach("a.b").await.unwrap();
        assert_eq!(rules(), [""; 0]);
        host.assert_empty("roost");
    });
}

#[test]
fn an_attach_that_failed_leaves_nothing_even_if_it_is_not_undone_cleanly() {
    on_host(|host| async move {
        let (network, faults) = faulty(&host);
        for command in ["-A", "-F"] {
            fs::write(faults.join(command), "").unwrap();
        }
        let error = network.attach("a").await.unwrap_err().to_string();
        assert!(error.contains("failed on ADD") && error.contains("busy"), "{error}");
        assert_eq!(names_in(&faults), [""; 0], "both failed");
        assert_eq!(rules(), [""; 0]);
        host.assert_empty("roost");
    });
}

#[test]
fn nothing_is_left_of_an_attachment_whose_namespace_is_gone() {
    on_host(|host| async move {
        let network = host.network(host.masqueraded_by_plugin());
        network.attach("a").await.unwrap();
        umount2(&host.netns_dir().join("a"), MntFlags::MNT_DETACH).unwrap();
        until_no_veth().await;
        network.detach("a").await.unwrap();
        assert_eq!(rules(), [""; 0]);
        host.assert_empty("roost");
    });
}
