//! The software vault, in memory and on disk, through the public API.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::fs;
use std::future::Future as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use onward_keys::{
    Answer, Backend, KeyError, KeyId, KeyInfo, KeyUsage, NonContributory, Operation, PublicHalf,
    SignatureType, SoftwareVault, StoreError, Vault,
};

#[test]
fn a_key_signs_what_its_usage_names_and_nothing_else() {
    let vault = SoftwareVault::ephemeral();
    for usage in KeyUsage::ALL {
        let key = now(vault.generate(usage)).unwrap();
        let public = now(vault.public(key)).unwrap();
        for kind in SignatureType::ALL {
            match now(vault.sign(key, kind, b"body")) {
                Ok(signature) => {
                    assert!(usage.signs(kind), "{usage} {kind}");
                    let PublicHalf::Verify(public) = &public else {
                        panic!("{usage} has no verification key");
                    };
                    assert_eq!(public.verify(kind, b"body", &signature), Ok(()));
                    assert!(public.verify(kind, b"bodx", &signature).is_err());
                    for other in SignatureType::ALL {
                        let verified = public.verify(other, b"body", &signature);
                        assert_eq!(verified.is_ok(), other == kind, "{kind} as {other}");
                    }
                }
                Err(error) => {
                    assert!(!usage.signs(kind), "{usage} {kind}");
                    assert_misused(error, key, usage, Operation::Sign(kind));
                }
            }
        }
    }
}

#[test]
fn only_an_agreement_key_agrees() {
    let vault = SoftwareVault::ephemeral();
    let peer = Backend::Portable.x25519_public(&[9; 32]);
    for usage in KeyUsage::ALL {
        let key = now(vault.generate(usage)).unwrap();
        let agreed = now(vault.agree(key, &peer));
        if usage.agrees() {
            let PublicHalf::Agree(public) = now(vault.public(key)).unwrap() else {
                panic!("{usage} has no agreement key");
            };
            let expected = Backend::Portable.x25519(&[9; 32], &public).unwrap();
            assert_eq!(agreed.unwrap().as_bytes(), expected.as_bytes());
        } else {
            assert_misused(agreed.unwrap_err(), key, usage, Operation::Agree);
        }
    }
}

#[test]
fn n7_7_an_agreement_with_a_low_order_point_is_refused() {
    let vault = SoftwareVault::ephemeral();
    for usage in KeyUsage::ALL.into_iter().filter(|usage| usage.agrees()) {
        let key = now(vault.generate(usage)).unwrap();
        for point in LOW_ORDER {
            let point = hex::decode(point).unwrap().try_into().unwrap();
            let refused = now(vault.agree(key, &point)).unwrap_err();
            assert!(matches!(refused, KeyError::NonContributory(NonContributory)), "{refused:?}");
        }
    }
}

#[test]
fn an_unknown_key_is_no_such_key_for_every_operation() {
    let vault = SoftwareVault::ephemeral();
    let key = KeyId::from_bytes([7; 16]);
    let unknown = |error: KeyError| matches!(error, KeyError::NoSuchKey(id) if id == key);
    assert!(unknown(now(vault.public(key)).unwrap_err()));
    assert!(unknown(now(vault.delete(key)).unwrap_err()));
    assert!(unknown(now(vault.agree(key, &[9; 32])).unwrap_err()));
    let signed = now(vault.sign(key, SignatureType::Credential, b""));
    assert!(unknown(signed.unwrap_err()));
}

#[test]
fn keys_outlive_the_vault_that_made_them_until_deleted() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("keys");
    let vault = SoftwareVault::open(&path).unwrap();
    for usage in KeyUsage::ALL {
        now(vault.generate(usage)).unwrap();
    }
    let made = now(vault.list()).unwrap();
    assert_eq!(made.len(), KeyUsage::ALL.len());
    assert!(made.is_sorted_by_key(|info| info.id));
    drop(vault);

    let vault = SoftwareVault::open(&path).unwrap();
    assert_eq!(now(vault.list()).unwrap(), made);
    let deleted = made[0].id;
    now(vault.delete(deleted)).unwrap();
    assert!(!key_file(&path, deleted).exists());
    drop(vault);

    let vault = SoftwareVault::open(&path).unwrap();
    assert_eq!(now(vault.list()).unwrap(), made[1..]);
    assert!(matches!(now(vault.public(deleted)), Err(KeyError::NoSuchKey(_))));
}

#[test]
fn the_store_is_closed_to_others_and_says_that_it_is_for_development() {
    let (home, vault, info) = with_one_key();
    let path = home.path().join("keys");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    assert!(names.contains(&"README".to_owned()));
    assert!(names.contains(&format!("{}.pem", info.id)));
    assert_eq!(names.len(), 2);
    let text = fs::read_to_string(key_file(&path, info.id)).unwrap();
    assert!(text.starts_with("onward development key, not protected: channel-static\n"));
    let marker = fs::read_to_string(path.join("README")).unwrap();
    assert!(marker.starts_with("Development keys of onward.\n"));
    assert_eq!(vault.protection(), "development: keys are in this process");
}

#[test]
fn a_file_or_directory_open_to_others_is_refused() {
    let (home, vault, info) = with_one_key();
    drop(vault);
    let path = home.path().join("keys");
    let file = key_file(&path, info.id);
    let marker = path.join("README");
    for (exposed, closed) in [(&file, 0o600), (&marker, 0o600), (&path, 0o700)] {
        for extra in [0o040, 0o004, 0o020, 0o002, 0o010, 0o001] {
            chmod(exposed, closed | extra);
            let (at, refused) = refused(&path);
            assert_eq!(&at, exposed);
            assert!(matches!(refused, StoreError::Exposed(mode) if mode == closed | extra), "{refused:?}");
        }
        chmod(exposed, closed);
    }
    SoftwareVault::open(&path).unwrap();
}

#[test]
fn a_symbolic_link_is_refused() {
    let (home, vault, info) = with_one_key();
    drop(vault);
    let path = home.path().join("keys");
    let file = key_file(&path, info.id);
    let elsewhere = home.path().join("elsewhere.pem");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let (at, error) = refused(&path);
    assert_eq!(at, file);
    assert!(matches!(error, StoreError::WrongKind("file")), "{error:?}");

    let link = home.path().join("link");
    symlink(&path, &link).unwrap();
    let (at, error) = refused(&link);
    assert_eq!(at, link);
    assert!(matches!(error, StoreError::WrongKind("directory")), "{error:?}");
}

#[test]
fn an_unknown_file_is_refused_by_name() {
    for name in [
        "notes.txt",
        "key.pem",
        ".new-notes",
        "00112233445566778899AABBCCDDEEFF.pem",
        "00112233445566778899aabbccddeeff.pem~",
    ] {
        let (home, vault, _) = with_one_key();
        drop(vault);
        let path = home.path().join("keys");
        let unknown = path.join(name);
        fs::write(&unknown, b"").unwrap();
        chmod(&unknown, 0o600);
        let (at, error) = refused(&path);
        assert_eq!(at, unknown);
        assert!(matches!(error, StoreError::Unknown), "{error:?}");
        assert!(unknown.exists());
    }
}

#[test]
fn a_directory_of_other_things_is_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let thesis = home.path().join("thesis.txt");
    fs::write(&thesis, b"").unwrap();
    chmod(home.path(), 0o700);
    assert_eq!(refused(home.path()).0, thesis);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_malformed_key_file_is_refused_by_name() {
    let (home, vault, info) = with_one_key();
    drop(vault);
    let path = home.path().join("keys");
    let file = key_file(&path, info.id);
    let whole = fs::read(&file).unwrap();
    // Every truncation, as a torn write would leave it, and a file far too long.
    let truncations = (0..whole.len()).map(|length| whole[..length].to_vec());
    for content in truncations.chain([vec![b'x'; 100_000]]) {
        fs::write(&file, &content).unwrap();
        let (at, error) = refused(&path);
        assert_eq!(at, file);
        assert!(matches!(error, StoreError::Malformed(_)), "{error:?}");
    }
    fs::write(&file, &whole).unwrap();
    let vault = SoftwareVault::open(&path).unwrap();
    assert_eq!(now(vault.list()).unwrap(), [info]);
}

/// A writer killed before its rename leaves a file beside the key's name, whole or torn.
#[test]
fn what_a_killed_writer_left_is_removed_and_is_no_key() {
    let (home, vault, info) = with_one_key();
    drop(vault);
    let path = home.path().join("keys");
    let whole = fs::read(key_file(&path, info.id)).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len()] {
        let other = KeyId::from_bytes([0xab; 16]);
        let unfinished = path.join(format!(".new-{other}.pem"));
        fs::write(&unfinished, &whole[..length]).unwrap();
        chmod(&unfinished, 0o600);
        let vault = SoftwareVault::open(&path).unwrap();
        assert_eq!(now(vault.list()).unwrap(), std::slice::from_ref(&info));
        assert!(!unfinished.exists());
    }
}

/// A vault killed between making its directory and writing the marker.
#[test]
fn an_empty_or_half_made_directory_becomes_a_store() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("keys");
    fs::create_dir(&path).unwrap();
    chmod(&path, 0o700);
    fs::write(path.join(".new-README"), b"Devel").unwrap();
    chmod(&path.join(".new-README"), 0o600);
    let vault = SoftwareVault::open(&path).unwrap();
    assert_eq!(now(vault.list()).unwrap(), []);
    assert!(path.join("README").exists());
    assert!(!path.join(".new-README").exists());
}

#[test]
fn a_failed_write_makes_no_key() {
    let (home, vault, info) = with_one_key();
    let path = home.path().join("keys");
    fs::remove_dir_all(&path).unwrap();
    let failed = now(vault.generate(KeyUsage::Identity)).unwrap_err();
    assert!(matches!(failed, KeyError::Store { source: StoreError::Io { .. }, .. }), "{failed:?}");
    assert_eq!(now(vault.list()).unwrap(), [info]);
}

#[test]
fn two_vaults_may_write_one_directory() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("keys");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let vault = SoftwareVault::open(&path).unwrap();
                    now(vault.generate(KeyUsage::Identity)).unwrap();
                }
            });
        }
    });
    let vault = SoftwareVault::open(&path).unwrap();
    assert_eq!(now(vault.list()).unwrap().len(), 32);
}

#[test]
fn debug_and_errors_show_no_key() {
    let (home, vault, info) = with_one_key();
    let path = home.path().join("keys");
    let text = fs::read_to_string(key_file(&path, info.id)).unwrap();
    let secret = text.lines().nth(2).unwrap();
    assert_eq!(secret.len(), 64);
    let shown = format!("{vault:?}");
    assert!(shown.starts_with("SoftwareVault {"), "{shown}");
    fs::write(key_file(&path, info.id), text.replacen("onward", "other", 1)).unwrap();
    let error = SoftwareVault::open(&path).unwrap_err();
    for shown in [shown, format!("{error:?}"), error.to_string()] {
        assert!(!shown.contains(&secret[22..]), "{shown}");
    }
}

#[test]
fn locked_unavailable_and_unknown_are_told_apart() {
    let unavailable = KeyError::Unavailable("no answer".into());
    let errors = [KeyError::Locked, unavailable, KeyError::NoSuchKey(KeyId::from_bytes([0; 16]))];
    let texts = errors.each_ref().map(ToString::to_string);
    assert_eq!(
        texts,
        ["the vault is locked", "the vault is unavailable", "no key 00000000000000000000000000000000"]
    );
    let source = std::error::Error::source(&errors[1]).unwrap();
    assert_eq!(source.to_string(), "no answer");
}

#[test]
fn a_vault_is_shared_as_an_object() {
    let vault: std::sync::Arc<dyn Vault> = std::sync::Arc::new(SoftwareVault::ephemeral());
    let other = vault.clone();
    let key = std::thread::spawn(move || now(other.generate(KeyUsage::Identity)).unwrap());
    let key = key.join().unwrap();
    assert_eq!(now(vault.list()).unwrap()[0].id, key);
}

fn with_one_key() -> (tempfile::TempDir, SoftwareVault, KeyInfo) {
    let home = tempfile::tempdir().unwrap();
    let vault = SoftwareVault::open(&home.path().join("keys")).unwrap();
    now(vault.generate(KeyUsage::ChannelStatic)).unwrap();
    let info = now(vault.list()).unwrap().remove(0);
    (home, vault, info)
}

/// Opens a store that must be refused; returns the path named and the reason.
fn refused(path: &Path) -> (PathBuf, StoreError) {
    match SoftwareVault::open(path) {
        Err(KeyError::Store { path, source }) => (path, source),
        other => panic!("not refused by the store: {other:?}"),
    }
}

fn assert_misused(error: KeyError, key: KeyId, usage: KeyUsage, operation: Operation) {
    let KeyError::WrongUsage { key: named, usage: has, operation: asked } = error else {
        panic!("not a usage error: {error:?}");
    };
    assert_eq!((named, has, asked), (key, usage, operation));
}

fn key_file(path: &Path, key: KeyId) -> PathBuf {
    path.join(format!("{key}.pem"))
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The answer of a vault that never waits.
fn now<T>(answer: Answer<'_, T>) -> Result<T, KeyError> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the software vault waits for nothing"),
    }
}

/// 0, 1, the two points of order 8, p − 1, p and p + 1, little endian.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];
