//! The sealed store: the private keys of a key service in one file, readable only with a passphrase.
//!
//! What keys there are, and their public halves, can be read by whoever can read the file, but not changed unnoticed.
//! Private halves are sealed under a key that is new at every write, so that a deleted key cannot be opened by what is
//! written later. A write leaves the old file or the new one, whole; the generation before is kept beside it, except
//! when a key was destroyed: then no file that still holds the key is left.
//!
//! [`Sealed`] is the store while it is locked; [`Store`] has the secrets, in an [`Arena`]. Not claimed: that an older
//! file put in place of both generations is noticed, or that erased bytes leave the disk.
//!
//! A private half of 32 bytes is in the arena itself. A key of general use has a secret of 32 bytes there, of its own,
//! and its private half, whatever its length, lies sealed under that: it is in memory only while it is computed with.
//!
//! Specification: docs/protocol.md §7.3.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;
use zeroize::{Zeroize as _, Zeroizing};

use crate::arena::{Arena, Secret};
use crate::general::{MATERIAL_BYTES_MAX, sealing};
use crate::service::{FRAME_BYTES_MAX, KeyMeta, KeyState};
use crate::strict::{self, Malformed};
use crate::{
    Aead, AeadAlgorithm, Backend, KeyError, KeyId, Label, StoreError, TAG_BYTES, hkdf_expand, mac, mac_verify,
};

/// Keys in a store, destroyed ones counted, at most.
pub const KEYS_MAX: usize = 2048;

/// Bytes of what is publicly known of all keys, at most, so that one answer can list them.
pub const LISTED_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;

/// Places that a store needs in its arena: keys, its own two secrets, and one to work in.
pub const ARENA_PLACES: usize = KEYS_MAX + 8;

/// What a guess at the passphrase costs: Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// Memory in KiB, [`Cost::MEMORY_KIB_MIN`] to [`Cost::MEMORY_KIB_MAX`].
    pub memory_kib: u32,
    /// Passes, 1 to 64.
    pub passes: u32,
    /// Lanes, 1 to 16.
    pub lanes: u32,
}

impl Cost {
    /// Less memory than this protects no passphrase.
    pub const MEMORY_KIB_MIN: u32 = 19 * 1024;
    /// A file that asks for more than this is refused: it would be an attack on the machine.
    pub const MEMORY_KIB_MAX: u32 = 1024 * 1024;

    fn check(self) -> Result<Self, StoreError> {
        let memory = (Self::MEMORY_KIB_MIN..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib);
        let good = memory && (1..=64).contains(&self.passes) && (1..=16).contains(&self.lanes);
        if good { Ok(self) } else { Err(StoreError::Cost) }
    }
}

impl Default for Cost {
    /// The second recommendation of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

/// A store that is locked: what is publicly known of its keys, not authenticated until it is unlocked.
#[derive(Debug)]
pub struct Sealed {
    path: PathBuf,
    content: Vec<u8>,
    file: StoreFile,
}

impl Sealed {
    /// Reads the store in the directory `directory`; `None` if there is none.
    ///
    /// # Errors
    /// [`KeyError::Store`]: the file is open to others, a link, malformed, or older than the generation beside it.
    pub fn read(directory: &Path) -> Result<Option<Self>, KeyError> {
        let path = directory.join(NAME);
        let Some(content) = read_private(&path)? else {
            return Ok(None);
        };
        let sealed = Self::decode(path, content)?;
        let before = directory.join(BEFORE);
        if let Some(content) = read_private(&before)? {
            // A generation before that cannot be read is no reason to refuse the one that can; one file under both
            // names is what a writer leaves that was killed before its last step.
            let older = StoreFile::decode(&content).map_or(0, |file| file.generation);
            if older >= sealed.file.generation && !is_same_file(&sealed.path, &before) {
                return Err(refused(&sealed.path, StoreError::RolledBack));
            }
        }
        Ok(Some(sealed))
    }

    fn decode(path: PathBuf, content: Vec<u8>) -> Result<Self, KeyError> {
        match StoreFile::decode(&content) {
            Ok(file) => Ok(Self { path, content, file }),
            Err(_) => Err(refused(&path, StoreError::Malformed("not a key store of this version"))),
        }
    }

    /// What is publicly known of the keys, ordered by id.
    pub fn keys(&self) -> impl Iterator<Item = &KeyMeta> {
        self.file.records.iter().map(|record| &record.meta)
    }

    /// Opens the store: the private halves go into `arena`.
    ///
    /// # Errors
    /// [`KeyError::Store`] with [`StoreError::WrongPassphrase`], [`StoreError::Tampered`] or [`StoreError::Io`] when
    /// the arena is full.
    pub fn unlock(&self, passphrase: &[u8], arena: &Arena) -> Result<Store, KeyError> {
        self.unlock_now(passphrase, arena).map_err(|source| refused(&self.path, source))
    }

    fn unlock_now(&self, passphrase: &[u8], arena: &Arena) -> Result<Store, StoreError> {
        let file = &self.file;
        let kek = file.kek.derive(passphrase, arena)?;
        mac_verify(kek.as_bytes(), &check_label(&file.store_id), &file.check)
            .map_err(|_| StoreError::WrongPassphrase)?;
        let keys = FileKeys::derive(&kek, file);
        let (authenticated, trailer) =
            self.content.split_last_chunk::<32>().ok_or(StoreError::Malformed("too short"))?;
        mac_verify(&keys.trailer, authenticated, trailer).map_err(|_| StoreError::Tampered)?;
        let mut secrets = Vec::with_capacity(file.records.len());
        for (place, record) in file.records.iter().enumerate() {
            let ad = record_label(file, &record.meta);
            secrets.push(keys.open(place, &ad, &record.sealed, arena)?);
        }
        let root =
            keys.open(ROOT_PLACE, &root_label(file), &file.root, arena)?.ok_or(StoreError::Tampered)?;
        let keys = file.records.iter().zip(secrets);
        Ok(Store {
            path: self.path.clone(),
            arena: arena.clone(),
            store_id: file.store_id,
            generation: file.generation,
            cost: file.kek,
            kek,
            root,
            keys: keys
                .map(|(Record { meta, material, .. }, secret)| {
                    (meta.id, Key { meta: meta.clone(), secret, material: material.clone() })
                })
                .collect(),
        })
    }
}

/// A key of an open store.
#[derive(Debug)]
pub struct Key {
    /// What is publicly known of it.
    pub meta: KeyMeta,
    /// Its private half, or what that is sealed under; `None` when it was destroyed.
    pub secret: Option<Secret>,
    /// The sealed private half of a key of general use; empty for others and when it was destroyed.
    material: Vec<u8>,
}

impl Key {
    /// The private half of a key of general use: to be used and dropped. `None` when it was destroyed.
    ///
    /// # Errors
    /// [`StoreError::Tampered`].
    pub fn material(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(secret) = &self.secret else {
            return Ok(None);
        };
        let opened =
            sealing::open(secret.as_bytes(), &material_purpose(), &material_of(&self.meta), &self.material);
        opened.map(Some).map_err(|_| StoreError::Tampered)
    }
}

/// A store that is open. Every change is on the disk when its call returns.
pub struct Store {
    path: PathBuf,
    arena: Arena,
    store_id: [u8; 16],
    generation: u64,
    cost: Kek,
    kek: Secret,
    root: Secret,
    keys: BTreeMap<KeyId, Key>,
}

impl Store {
    /// Makes an empty store in `directory`, which exists and is its owner's alone.
    ///
    /// # Errors
    /// [`KeyError::Store`]: there is one already, it cannot be written, or `cost` is out of bounds.
    pub fn create(directory: &Path, passphrase: &[u8], cost: Cost, arena: &Arena) -> Result<Self, KeyError> {
        let path = directory.join(NAME);
        let fail = |source| refused(&path, source);
        if read_private(&path)?.is_some() {
            return Err(fail(StoreError::Exists));
        }
        let cost = Kek { cost: cost.check().map_err(fail)?, salt: random()? };
        let kek = cost.derive(passphrase, arena).map_err(fail)?;
        let mut root: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
        let root = arena.hold(&mut root).map_err(|source| fail(full(source)))?;
        let store_id = random()?;
        let keys = BTreeMap::new();
        let mut store = Self { path, arena: arena.clone(), store_id, generation: 0, cost, kek, root, keys };
        store.write(Keep::Before)?;
        Ok(store)
    }

    /// Every key, ordered by id.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    /// The key `id`, destroyed or not.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id)
    }

    /// A key derived from the store's own secret for the purpose named by `info`, for as long as the store exists.
    ///
    /// # Errors
    /// When the arena is full.
    pub fn derive(&self, info: &Label) -> io::Result<Secret> {
        let mut derived = self.arena.take()?;
        hkdf_expand(self.root.as_bytes(), info, derived.bytes_mut());
        Ok(derived)
    }

    /// Adds a key; `secret` is wiped.
    ///
    /// # Errors
    /// [`KeyError::Store`]; the store is unchanged.
    pub fn insert(&mut self, meta: KeyMeta, secret: &mut [u8; 32]) -> Result<(), KeyError> {
        self.add(meta, secret, Vec::new())
    }

    /// Adds a key of general use with this private half: 1 to [`MATERIAL_BYTES_MAX`] bytes, which the caller wipes.
    ///
    /// # Errors
    /// [`KeyError::Store`]; the store is unchanged.
    pub fn insert_general(&mut self, meta: KeyMeta, private: &[u8]) -> Result<(), KeyError> {
        let mut secret: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
        let material = sealing::seal(secret.as_ref(), &material_purpose(), &material_of(&meta), private)
            .map_err(|error| KeyError::Unavailable(Box::new(error)))?;
        self.add(meta, &mut secret, material)
    }

    fn add(&mut self, meta: KeyMeta, secret: &mut [u8; 32], material: Vec<u8>) -> Result<(), KeyError> {
        let listed: usize = self.keys.values().map(|key| listed_bytes(&key.meta)).sum();
        if self.keys.len() >= KEYS_MAX || listed + listed_bytes(&meta) > LISTED_BYTES_MAX {
            secret.zeroize();
            return Err(refused(&self.path, StoreError::Full));
        }
        let secret = self.arena.hold(secret).map_err(|source| refused(&self.path, full(source)))?;
        let id = meta.id;
        self.keys.insert(id, Key { meta, secret: Some(secret), material });
        self.write(Keep::Before).inspect_err(|_| {
            self.keys.remove(&id);
        })
    }

    /// Makes an extractable key one that never leaves the store.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`] also for a destroyed key; [`KeyError::Store`], and the key is as it was.
    pub fn narrow(&mut self, id: KeyId) -> Result<(), KeyError> {
        let key = self.keys.get_mut(&id).filter(|key| key.meta.state != KeyState::Destroyed);
        let key = key.ok_or(KeyError::NoSuchKey(id))?;
        let before = std::mem::replace(&mut key.meta.extractable, false);
        self.write(Keep::Before).inspect_err(|_| {
            if let Some(key) = self.keys.get_mut(&id) {
                key.meta.extractable = before;
            }
        })
    }

    /// Lets a key rest, or ends its rest.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`] also for a destroyed key; [`KeyError::Store`], and the key is as it was.
    pub fn set_active(&mut self, id: KeyId, active: bool) -> Result<(), KeyError> {
        let key = self.keys.get_mut(&id).filter(|key| key.meta.state != KeyState::Destroyed);
        let key = key.ok_or(KeyError::NoSuchKey(id))?;
        let before = key.meta.state;
        key.meta.state = if active { KeyState::Active } else { KeyState::Disabled };
        self.write(Keep::Before).inspect_err(|_| {
            if let Some(key) = self.keys.get_mut(&id) {
                key.meta.state = before;
            }
        })
    }

    /// Destroys a key: its private half is in no file of the store and not in memory when this returns.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`] also for a key that is destroyed; [`KeyError::Store`]: it is gone from memory, and comes
    /// back only if the store is read again.
    pub fn destroy(&mut self, id: KeyId) -> Result<(), KeyError> {
        let key = self.keys.get_mut(&id).ok_or(KeyError::NoSuchKey(id))?;
        if key.secret.take().is_none() {
            return Err(KeyError::NoSuchKey(id));
        }
        key.material.clear();
        key.meta.state = KeyState::Destroyed;
        self.write(Keep::Nothing)
    }

    /// Wipes every secret from memory.
    ///
    /// # Errors
    /// As [`Sealed::read`].
    pub fn lock(self) -> Result<Sealed, KeyError> {
        let path = self.path.clone();
        drop(self);
        let missing = || StoreError::Io { action: "reading it", source: io::ErrorKind::NotFound.into() };
        let content = read_private(&path)?.ok_or_else(|| refused(&path, missing()))?;
        Sealed::decode(path, content)
    }

    /// Whether `passphrase` is the store's.
    ///
    /// # Errors
    /// [`KeyError::Store`] with [`StoreError::WrongPassphrase`].
    pub fn check(&self, passphrase: &[u8]) -> Result<(), KeyError> {
        let fail = |source| refused(&self.path, source);
        let kek = self.cost.derive(passphrase, &self.arena).map_err(fail)?;
        let check = mac(self.kek.as_bytes(), &check_label(&self.store_id));
        mac_verify(kek.as_bytes(), &check_label(&self.store_id), &check)
            .map_err(|_| fail(StoreError::WrongPassphrase))
    }

    /// Puts another passphrase in the place of the present one. No file that the old one opens is left in the directory;
    /// copies elsewhere are opened by it for ever.
    ///
    /// # Errors
    /// [`KeyError::Store`], and the passphrase is the old one.
    pub fn change_passphrase(&mut self, passphrase: &[u8]) -> Result<(), KeyError> {
        let cost = Kek { cost: self.cost.cost, salt: random()? };
        let kek = cost.derive(passphrase, &self.arena).map_err(|source| refused(&self.path, source))?;
        let before = (std::mem::replace(&mut self.cost, cost), std::mem::replace(&mut self.kek, kek));
        self.write(Keep::Nothing).inspect_err(|_| (self.cost, self.kek) = before)
    }

    fn write(&mut self, keep: Keep) -> Result<(), KeyError> {
        let generation = self.generation + 1;
        let content = self.encode(generation, random()?);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        replace(directory, &content, keep)
            .map_err(|source| refused(&self.path, StoreError::Io { action: "writing it", source }))?;
        self.generation = generation;
        Ok(())
    }

    fn encode(&self, generation: u64, salt: [u8; 32]) -> Vec<u8> {
        let mut file = StoreFile {
            store_id: self.store_id,
            generation,
            kek: self.cost,
            check: mac(self.kek.as_bytes(), &check_label(&self.store_id)),
            salt,
            root: Vec::new(),
            records: Vec::new(),
        };
        let keys = FileKeys::derive(&self.kek, &file);
        file.root = keys.seal(ROOT_PLACE, &root_label(&file), Some(&self.root));
        for (place, key) in self.keys.values().enumerate() {
            let sealed = keys.seal(place, &record_label(&file, &key.meta), key.secret.as_ref());
            file.records.push(Record { meta: key.meta.clone(), sealed, material: key.material.clone() });
        }
        let mut content = file.encode();
        let trailer = mac(&keys.trailer, &content);
        content.extend_from_slice(&trailer);
        content
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// The file's content before its trailer, which is a MAC of 32 bytes over it.
#[derive(Debug)]
struct StoreFile {
    store_id: [u8; 16],
    generation: u64,
    kek: Kek,
    /// Commits to the key that the passphrase yields.
    check: [u8; 32],
    /// New at every write; makes the keys of the file new.
    salt: [u8; 32],
    /// The store's own secret, sealed.
    root: Vec<u8>,
    records: Vec<Record>,
}

#[derive(Debug)]
struct Record {
    meta: KeyMeta,
    /// The secret of 32 bytes with its tag; empty when it was destroyed.
    sealed: Vec<u8>,
    /// The private half of a key of general use, sealed under that secret; empty when there is none.
    material: Vec<u8>,
}

impl StoreFile {
    fn decode(content: &[u8]) -> Result<Self, Malformed> {
        let Some((body, _)) = content.split_last_chunk::<32>() else {
            return Err(Malformed::Trailing(0));
        };
        strict::decode_once(body, FILE_BYTES_MAX, |d| {
            strict::array(d, 9)?;
            strict::version(d, VERSION)?;
            let (store_id, generation, kind) = (strict::bytes_exact(d)?, d.u64()?, d.u8()?);
            if kind != KEK_ARGON2ID {
                return Err(strict::refuse(d, "unknown kind of key encryption"));
            }
            let kek = Kek::read(d)?;
            let (check, salt) = (strict::bytes_exact(d)?, strict::bytes_exact(d)?);
            let root = sealed(d)?;
            let count = strict::array_within(d, 0..=KEYS_MAX as u64)?;
            let mut records: Vec<Record> = Vec::new();
            for _ in 0..count {
                strict::array(d, 3)?;
                let record = Record { meta: KeyMeta::read(d)?, sealed: sealed(d)?, material: material(d)? };
                let destroyed = record.meta.state == KeyState::Destroyed;
                let has_material = !destroyed && record.meta.usage.general().is_some();
                if destroyed != record.sealed.is_empty()
                    || has_material == record.material.is_empty()
                    || records.last().is_some_and(|last| last.meta.id >= record.meta.id)
                {
                    return Err(strict::refuse(d, "records that do not fit"));
                }
                records.push(record);
            }
            Ok(Self { store_id, generation, kek, check, salt, root, records })
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let mut e = Encoder::new(&mut content);
        let written = (|| -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.array(9)?.u8(VERSION)?.bytes(&self.store_id)?.u64(self.generation)?.u8(KEK_ARGON2ID)?;
            let Kek { cost, salt } = &self.kek;
            e.array(4)?.u32(cost.memory_kib)?.u32(cost.passes)?.u32(cost.lanes)?.bytes(salt)?;
            e.bytes(&self.check)?.bytes(&self.salt)?.bytes(&self.root)?;
            e.array(self.records.len() as u64)?;
            for record in &self.records {
                e.array(3)?;
                record.meta.put(&mut e)?;
                e.bytes(&record.sealed)?.bytes(&record.material)?;
            }
            Ok(())
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        content
    }
}

fn sealed(d: &mut Decoder<'_>) -> Result<Vec<u8>, decode::Error> {
    let bytes = d.bytes()?;
    if bytes.is_empty() || bytes.len() == 32 + TAG_BYTES {
        return Ok(bytes.to_vec());
    }
    Err(strict::refuse(d, "sealed bytes of another length"))
}

fn material(d: &mut Decoder<'_>) -> Result<Vec<u8>, decode::Error> {
    let bytes = d.bytes()?;
    if bytes.len() <= MATERIAL_BYTES_MAX + sealing::OVERHEAD {
        return Ok(bytes.to_vec());
    }
    Err(strict::refuse(d, "a private half that is too long"))
}

/// How the key that seals the store comes from a passphrase.
#[derive(Clone, Copy, Debug)]
struct Kek {
    cost: Cost,
    salt: [u8; 16],
}

impl Kek {
    fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 4)?;
        let cost = Cost { memory_kib: d.u32()?, passes: d.u32()?, lanes: d.u32()? };
        let cost = cost.check().map_err(|_| strict::refuse(d, "a cost out of bounds"))?;
        Ok(Self { cost, salt: strict::bytes_exact(d)? })
    }

    fn derive(&self, passphrase: &[u8], arena: &Arena) -> Result<Secret, StoreError> {
        let Cost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| StoreError::Cost)?;
        let mut key = arena.take().map_err(full)?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, &self.salt, key.bytes_mut())
            .map_err(|_| StoreError::Cost)?;
        Ok(key)
    }
}

/// The keys of one written file: one to seal with, one to authenticate the whole.
struct FileKeys {
    sealing: Aead,
    trailer: Zeroizing<[u8; 32]>,
}

impl FileKeys {
    fn derive(kek: &Secret, file: &StoreFile) -> Self {
        let label = |name| Label::new(name).bytes(&file.store_id).uint(file.generation).bytes(&file.salt);
        let mut key = Zeroizing::new([0; 32]);
        hkdf_expand(kek.as_bytes(), &label("store/dek"), key.as_mut());
        let mut trailer = Zeroizing::new([0; 32]);
        hkdf_expand(kek.as_bytes(), &label("store/trailer"), trailer.as_mut());
        Self { sealing: Aead::new(Backend::best(), AeadAlgorithm::ChaCha20Poly1305, &key), trailer }
    }

    /// Seals for a `place` in the file, which is the nonce: the key is used for one file only.
    fn seal(&self, place: usize, ad: &[u8], secret: Option<&Secret>) -> Vec<u8> {
        let Some(secret) = secret else {
            return Vec::new();
        };
        let mut sealed = secret.as_bytes().to_vec();
        let tag = self.sealing.seal_in_place(&nonce(place), ad, &mut sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }

    fn open(
        &self,
        place: usize,
        ad: &[u8],
        sealed: &[u8],
        arena: &Arena,
    ) -> Result<Option<Secret>, StoreError> {
        let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
            return Ok(None);
        };
        let ciphertext: &[u8; 32] = ciphertext.try_into().map_err(|_| StoreError::Tampered)?;
        let mut secret = arena.take().map_err(full)?;
        secret.bytes_mut().copy_from_slice(ciphertext);
        self.sealing
            .open_in_place(&nonce(place), ad, secret.bytes_mut(), tag)
            .map_err(|_| StoreError::Tampered)?;
        Ok(Some(secret))
    }
}

fn nonce(place: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(place as u64).to_be_bytes());
    nonce
}

fn check_label(store_id: &[u8; 16]) -> Vec<u8> {
    Label::new("store/check").bytes(store_id).encode()
}

fn root_label(file: &StoreFile) -> Vec<u8> {
    Label::new("store/root").bytes(&file.store_id).uint(file.generation).encode()
}

fn record_label(file: &StoreFile, meta: &KeyMeta) -> Vec<u8> {
    let mut encoded = Vec::new();
    let written = meta.put(&mut Encoder::new(&mut encoded));
    debug_assert!(written.is_ok(), "encoding into memory failed");
    let label = Label::new("store").bytes(&file.store_id).uint(file.generation);
    label.bytes(meta.id.as_bytes()).bytes(&encoded).encode()
}

fn material_purpose() -> Label {
    Label::new("store/material")
}

/// What never changes of a key, and says how its private half is read.
fn material_of(meta: &KeyMeta) -> Vec<u8> {
    Label::new("key").bytes(meta.id.as_bytes()).uint(meta.usage.number().into()).encode()
}

/// No fewer bytes than the key takes up in a list.
fn listed_bytes(meta: &KeyMeta) -> usize {
    /// Everything but label and public half, and the lengths of these.
    const FIXED: usize = 64;
    FIXED + meta.label.len() + meta.public.len()
}

/// What a write keeps of the generation before.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Keep {
    Before,
    Nothing,
}

/// Puts `content` in the place of the store's file. Whatever step a crash comes after, there is a whole file under
/// the store's name: the old one or the new.
fn replace(directory: &Path, content: &[u8], keep: Keep) -> io::Result<()> {
    let (current, before, new) = (directory.join(NAME), directory.join(BEFORE), directory.join(NEW));
    remove_if_there(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    remove_if_there(&before)?;
    if keep == Keep::Before {
        match fs::hard_link(&current, &before) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(&new, &current)?;
    File::open(directory)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a file that is no link and closed to others; `None` if there is none.
fn read_private(path: &Path) -> Result<Option<Vec<u8>>, KeyError> {
    let failed = |source| refused(path, StoreError::Io { action: "reading it", source });
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(refused(path, StoreError::WrongKind("file")));
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused(path, StoreError::WrongKind("file")));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(refused(path, StoreError::Exposed(mode)));
    }
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(refused(path, StoreError::Malformed("too long")));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    id(one).is_some_and(|found| Some(found) == id(other))
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| KeyError::Unavailable(Box::new(error)))?;
    Ok(bytes)
}

fn full(source: io::Error) -> StoreError {
    StoreError::Io { action: "holding a secret", source }
}

fn refused(path: &Path, source: StoreError) -> KeyError {
    KeyError::Store { path: path.to_owned(), source }
}

/// Decodes a store's file and throws it away, for the fuzzer: must neither panic nor take more memory than the input.
#[doc(hidden)]
pub fn decode_for_fuzzing(content: &[u8]) -> bool {
    StoreFile::decode(content).is_ok_and(|file| {
        let body = content.split_last_chunk::<32>().map(|(body, _)| body);
        assert_eq!(Some(&file.encode()[..]), body, "two spellings of one store");
        true
    })
}

const NAME: &str = "keys.store";
const BEFORE: &str = "keys.store.before";
const NEW: &str = "keys.store.new";
const VERSION: u8 = 1;
const KEK_ARGON2ID: u8 = 1;
/// Behind the last record's place.
const ROOT_PLACE: usize = KEYS_MAX;
/// More than [`KEYS_MAX`] of the longest keys take.
const FILE_BYTES_MAX: usize = 16 << 20;
