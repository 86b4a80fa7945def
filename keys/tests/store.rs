//! The sealed store through its public interface: what survives, what is refused, what is gone.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use onward_keys::arena::Arena;
use onward_keys::general::MATERIAL_BYTES_MAX;
use onward_keys::service::{KeyMeta, KeyState};
use onward_keys::store::{ARENA_PLACES, Cost, KEYS_MAX, LISTED_BYTES_MAX, Sealed, Store};
use onward_keys::{KeyError, KeyId, KeyUsage, StoreError, private};

#[test]
fn keys_come_back_with_the_passphrase_and_only_with_it() {
    let home = Home::new();
    let mut store = home.create();
    let usages = KeyUsage::ALL;
    for (at, usage) in (1..).zip(usages) {
        store.insert(meta(at, usage), &mut [at; 32]).unwrap();
    }
    assert_eq!(fs::metadata(home.file()).unwrap().permissions().mode() & 0o7777, 0o600);
    let sealed = store.lock().unwrap();
    assert_eq!(sealed.keys().count(), usages.len());
    let store = sealed.unlock(PASSPHRASE, arena()).unwrap();
    for (at, usage) in (1..).zip(usages) {
        let key = store.key(meta(at, usage).id).unwrap();
        assert_eq!(key.meta, meta(at, usage));
        assert_eq!(key.secret.as_ref().unwrap().as_bytes(), &[at; 32]);
    }
    for wrong in [&b""[..], b"passphrasE", b"passphrase "] {
        assert!(matches!(source(sealed.unlock(wrong, arena())), StoreError::WrongPassphrase));
        assert!(matches!(source(store.check(wrong)), StoreError::WrongPassphrase));
    }
    store.check(PASSPHRASE).unwrap();
}

#[test]
fn a_key_of_general_use_comes_back_whatever_its_length_and_can_only_be_narrowed() {
    let home = Home::new();
    let mut store = home.create();
    for (at, bytes) in [(1, 16), (2, 32), (3, MATERIAL_BYTES_MAX)] {
        store.insert_general(general(at), &vec![0x50 | at; bytes]).unwrap();
    }
    store.insert(meta(4, KeyUsage::Identity), &mut [4; 32]).unwrap();
    store.narrow(general(2).id).unwrap();
    store.destroy(general(3).id).unwrap();
    let content = fs::read(home.file()).unwrap();
    assert!(!content.windows(16).any(|window| window == [0x51; 16]), "a private half is sealed");
    let store = store.lock().unwrap().unlock(PASSPHRASE, arena()).unwrap();
    let read = |at| store.key(general(at).id).unwrap();
    assert_eq!(read(1).material().unwrap().unwrap()[..], [0x51; 16]);
    assert_eq!(read(2).material().unwrap().unwrap()[..], [0x52; 32]);
    assert!(read(3).material().unwrap().is_none());
    assert!(read(1).meta.extractable && !read(2).meta.extractable);
    assert_ne!(read(1).secret.as_ref().unwrap().as_bytes()[..16], [0x51; 16]);
    assert_eq!(
        store.key(meta(4, KeyUsage::Identity).id).unwrap().secret.as_ref().unwrap().as_bytes(),
        &[4; 32]
    );
}

#[test]
fn another_passphrase_opens_the_store_and_the_old_one_does_not() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    store.change_passphrase(b"another").unwrap();
    assert!(!home.beside("before").exists());
    assert!(matches!(source(store.check(PASSPHRASE)), StoreError::WrongPassphrase));
    store.check(b"another").unwrap();
    let sealed = store.lock().unwrap();
    assert!(matches!(source(sealed.unlock(PASSPHRASE, arena())), StoreError::WrongPassphrase));
    let store = sealed.unlock(b"another", arena()).unwrap();
    let key = store.key(meta(1, KeyUsage::Identity).id).unwrap();
    assert_eq!(key.secret.as_ref().unwrap().as_bytes(), &[1; 32]);
}

#[test]
fn keys_that_one_answer_could_not_list_are_not_taken() {
    let home = Home::new();
    let mut store = home.create();
    let long = |at: u8| KeyMeta {
        usage: KeyUsage::parse("ml-dsa-65:sign-raw").unwrap(),
        public: vec![at; 1952],
        ..general(at)
    };
    let fits = LISTED_BYTES_MAX / (1952 + 128);
    // A file is written for each, so that only the last ones are worth it.
    let mut listed = 0;
    let refused = (0..=fits + 1).find_map(|at| {
        let id = KeyId::from_bytes((at as u128).to_be_bytes());
        let meta = KeyMeta { id, ..long(1) };
        listed += 1;
        store.insert_general(meta, &[1; 32]).err()
    });
    assert!(matches!(store_error(refused.unwrap()), StoreError::Full));
    assert!(listed > fits, "{listed}");
    let mut answer = onward_keys::WipedBuffer::new();
    let keys = store.keys().map(|key| key.meta.clone()).collect();
    onward_keys::service::put_answer(&mut answer, 1, &Ok(onward_keys::service::Outcome::Keys(keys)));
    assert!(answer.len() <= onward_keys::service::FRAME_BYTES_MAX);
}

#[test]
fn n7_5_every_flipped_bit_and_every_truncation_of_a_store_is_refused() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    store.insert(meta(2, KeyUsage::ChannelStatic), &mut [2; 32]).unwrap();
    drop(store);
    let whole = fs::read(home.file()).unwrap();
    // Deriving a key is slow on purpose: every truncation, but one bit in each third byte. What decides before the
    // passphrase is asked for costs nothing, so that the shapes are all tried.
    let changed = (0..whole.len()).step_by(3).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        changed
    });
    let truncated = (0..whole.len()).map(|length| whole[..length].to_vec());
    let mut asked = 0;
    for content in truncated.chain(changed) {
        fs::write(home.file(), &content).unwrap();
        let refused = match Sealed::read(home.path()) {
            Ok(sealed) => {
                asked += 1;
                source(sealed.unwrap().unlock(PASSPHRASE, arena()))
            }
            Err(error) => store_error(error),
        };
        assert!(
            matches!(refused, StoreError::Malformed(_) | StoreError::WrongPassphrase | StoreError::Tampered),
            "{refused:?}"
        );
    }
    assert!(asked > 20, "only {asked} changes reached the passphrase");
    fs::write(home.file(), &whole).unwrap();
    home.open();
}

#[test]
fn n7_5_records_swapped_between_keys_or_taken_from_another_generation_are_refused() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    let before = fs::read(home.file()).unwrap();
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    drop(store);
    let whole = fs::read(home.file()).unwrap();
    // A sealed half is a byte string of 48 bytes: the store's own first, then those of the two keys.
    let places: Vec<_> = sealed_places(&whole);
    assert_eq!(places.len(), 3);
    let mut swapped = whole.clone();
    swapped[places[1]..][..48].copy_from_slice(&whole[places[2]..][..48]);
    swapped[places[2]..][..48].copy_from_slice(&whole[places[1]..][..48]);
    let mut older = whole.clone();
    older[places[1]..][..48].copy_from_slice(&before[sealed_places(&before)[1]..][..48]);
    for content in [swapped, older] {
        fs::write(home.file(), &content).unwrap();
        let sealed = Sealed::read(home.path()).unwrap().unwrap();
        assert!(matches!(source(sealed.unlock(PASSPHRASE, arena())), StoreError::Tampered));
    }
}

/// Only within the directory: what takes both generations back is noticed by nothing here.
#[test]
fn n7_5_the_generation_before_put_in_the_place_of_the_last_is_refused() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    drop(store);
    fs::copy(home.beside("before"), home.file()).unwrap();
    assert!(matches!(source(Sealed::read(home.path())), StoreError::RolledBack));
}

/// The files as a writer leaves them that is killed after each of its steps.
#[test]
fn n7_5_after_a_kill_at_any_step_the_store_is_the_old_one_or_the_new() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    let (old, older) = (fs::read(home.file()).unwrap(), fs::read(home.beside("before")).unwrap());
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    drop(store);
    let new = fs::read(home.file()).unwrap();
    // What lies under the store's three names, and how many keys the store then has.
    let (empty, torn) = (Vec::new(), new[..new.len() / 2].to_vec());
    let states = [
        ("begun", [Some(&old), Some(&older), None], 1),
        ("new one made", [Some(&old), Some(&older), Some(&empty)], 1),
        ("new one half written", [Some(&old), Some(&older), Some(&torn)], 1),
        ("new one written", [Some(&old), Some(&older), Some(&new)], 1),
        ("old one unlinked", [Some(&old), None, Some(&new)], 1),
        ("old one linked", [Some(&old), None, Some(&new)], 1),
        ("renamed", [Some(&new), Some(&old), None], 2),
    ];
    for (step, files, keys) in states {
        for (name, content) in ["keys.store", "keys.store.before", "keys.store.new"].into_iter().zip(files) {
            let path = home.path().join(name);
            let _ = fs::remove_file(&path);
            if let Some(content) = content {
                write_private(&path, content);
            }
        }
        if step == "old one linked" {
            fs::hard_link(home.file(), home.beside("before")).unwrap();
        }
        let mut store = home.open();
        assert_eq!(store.keys().count(), keys, "{step}");
        // And it can be written again.
        store.insert(meta(9, KeyUsage::Identity), &mut [9; 32]).unwrap();
        drop(store);
        assert_eq!(home.open().keys().count(), keys + 1, "{step}");
    }
}

#[test]
fn a_destroyed_key_is_in_no_file_and_leaves_its_public_half() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    assert!(home.beside("before").exists());
    let id = meta(1, KeyUsage::Identity).id;
    store.destroy(id).unwrap();
    assert!(!home.beside("before").exists(), "the generation with the key is gone");
    assert!(matches!(store.destroy(id), Err(KeyError::NoSuchKey(_))));
    assert!(matches!(store.set_active(id, true), Err(KeyError::NoSuchKey(_))));
    drop(store);
    let store = home.open();
    let key = store.key(id).unwrap();
    assert_eq!((key.meta.state, key.secret.is_none()), (KeyState::Destroyed, true));
    assert_eq!(store.key(meta(2, KeyUsage::Identity).id).unwrap().meta.state, KeyState::Active);
    // The store's own secret and one key are sealed, and nothing else.
    assert_eq!(sealed_places(&fs::read(home.file()).unwrap()).len(), 2);
}

#[test]
fn a_resting_key_keeps_its_private_half() {
    let home = Home::new();
    let mut store = home.create();
    let id = meta(1, KeyUsage::Identity).id;
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    store.set_active(id, false).unwrap();
    drop(store);
    let mut store = home.open();
    assert_eq!(store.key(id).unwrap().meta.state, KeyState::Disabled);
    store.set_active(id, true).unwrap();
    assert_eq!(store.key(id).unwrap().secret.as_ref().unwrap().as_bytes(), &[1; 32]);
}

#[test]
fn what_is_derived_is_the_same_after_unlocking_again_and_differs_by_label() {
    let home = Home::new();
    let store = home.create();
    let label = |name| onward_keys::Label::new(name);
    let first = *store.derive(&label("audit/log")).unwrap().as_bytes();
    assert_ne!(&first, store.derive(&label("other")).unwrap().as_bytes());
    let store = store.lock().unwrap().unlock(PASSPHRASE, arena()).unwrap();
    assert_eq!(&first, store.derive(&label("audit/log")).unwrap().as_bytes());
}

#[test]
fn no_file_holds_a_private_half_in_the_clear() {
    let home = Home::new();
    let mut store = home.create();
    let secret = std::array::from_fn(|at| at as u8 ^ 0x5a);
    store.insert(meta(1, KeyUsage::Identity), &mut secret.clone()).unwrap();
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    for entry in fs::read_dir(home.path()).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        assert!(!content.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
    }
}

#[test]
fn an_exposed_or_linked_store_and_a_second_one_are_refused() {
    let home = Home::new();
    drop(home.create());
    assert!(matches!(source(Store::create(home.path(), PASSPHRASE, CHEAP, arena())), StoreError::Exists));
    fs::set_permissions(home.file(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(source(Sealed::read(home.path())), StoreError::Exposed(0o640)));
    fs::set_permissions(home.file(), fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = home.path().join("elsewhere");
    fs::rename(home.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.file()).unwrap();
    assert!(matches!(source(Sealed::read(home.path())), StoreError::WrongKind("file")));
    let none = tempfile::tempdir().unwrap();
    assert!(Sealed::read(none.path()).unwrap().is_none());
}

#[test]
fn a_cost_out_of_bounds_makes_no_store() {
    let home = Home::new();
    for cost in [
        Cost { memory_kib: Cost::MEMORY_KIB_MIN - 1, ..CHEAP },
        Cost { memory_kib: Cost::MEMORY_KIB_MAX + 1, ..CHEAP },
        Cost { passes: 0, ..CHEAP },
        Cost { lanes: 17, ..CHEAP },
    ] {
        assert!(matches!(source(Store::create(home.path(), PASSPHRASE, cost, arena())), StoreError::Cost));
    }
    assert!(!home.file().exists());
}

#[test]
fn a_failed_write_changes_nothing_that_is_remembered() {
    let home = Home::new();
    let mut store = home.create();
    store.insert(meta(1, KeyUsage::Identity), &mut [1; 32]).unwrap();
    // A directory in the way of the new file.
    fs::create_dir(home.beside("new")).unwrap();
    assert!(store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).is_err());
    assert!(store.set_active(meta(1, KeyUsage::Identity).id, false).is_err());
    let states: Vec<_> = store.keys().map(|key| key.meta.state).collect();
    assert_eq!(states, [KeyState::Active]);
    fs::remove_dir(home.beside("new")).unwrap();
    store.insert(meta(2, KeyUsage::Identity), &mut [2; 32]).unwrap();
    drop(store);
    assert_eq!(home.open().keys().count(), 2);
}

#[test]
fn the_largest_store_is_written_and_read() {
    // As large as one can be: with the longest labels, and written once.
    let home = Home::new();
    let mut store = home.create();
    for at in 0..8 {
        store.insert(meta(at, KeyUsage::Identity), &mut [at; 32]).unwrap();
    }
    let bytes = fs::metadata(home.file()).unwrap().len() as usize;
    // A key takes at most this much more with the longest label and numbers.
    assert!(bytes / 8 * KEYS_MAX < 1 << 20, "{bytes} bytes for 8 keys");
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("keys.store")
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.path().join(format!("keys.store.{what}"))
    }

    fn create(&self) -> Store {
        Store::create(self.path(), PASSPHRASE, CHEAP, arena()).unwrap()
    }

    fn open(&self) -> Store {
        Sealed::read(self.path()).unwrap().unwrap().unlock(PASSPHRASE, arena()).unwrap()
    }
}

fn arena() -> &'static Arena {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA.get_or_init(|| Arena::new(16 * ARENA_PLACES, true).unwrap())
}

fn meta(at: u8, usage: KeyUsage) -> KeyMeta {
    let public = private::public_half(usage, &[at; 32]);
    KeyMeta {
        id: KeyId::from_bytes([at; 16]),
        usage,
        state: KeyState::Active,
        owner: 1000,
        created: 1_700_000_000,
        expires: Some(1_800_000_000),
        label: format!("{at:064}"),
        public: public.as_bytes().to_vec(),
        extractable: false,
    }
}

/// An AES key that may leave, labelled so that each takes up as much.
fn general(at: u8) -> KeyMeta {
    KeyMeta {
        usage: KeyUsage::parse("aes-256:aead").unwrap(),
        public: vec![at; 32],
        extractable: true,
        ..meta(at, KeyUsage::Identity)
    }
}

/// Where byte strings of 48 bytes begin.
fn sealed_places(content: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = 0;
    while at + 50 < content.len() {
        if content[at..at + 2] == [0x58, 48] {
            places.push(at + 2);
            at += 50;
        } else {
            at += 1;
        }
    }
    places
}

fn write_private(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn source<T: std::fmt::Debug>(result: Result<T, KeyError>) -> StoreError {
    store_error(result.unwrap_err())
}

fn store_error(error: KeyError) -> StoreError {
    match error {
        KeyError::Store { source, .. } => source,
        other => panic!("not an error of the store: {other:?}"),
    }
}

const PASSPHRASE: &[u8] = b"passphrase";
/// As cheap as a store may be.
const CHEAP: Cost = Cost { memory_kib: Cost::MEMORY_KIB_MIN, passes: 1, lanes: 1 };
