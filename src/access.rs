//! Bearer key → [`Caller`]; a caller's concurrency → [`Slot`], freed on drop.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The name of everybody where no keys are configured.
pub const ANONYMOUS: &str = "anonymous";

/// Requests that one caller may have running where nothing else is set. Chosen: sixteen times the highest
/// concurrency (64) at which the Qwen3-Coder cookbook measures its largest deployment.
pub const CONCURRENT_MAX_DEFAULT: u32 = 1024;

/// Characters of a caller's name. Chosen: it is a metric label and stands in every audit line.
const NAME_CHARS_MAX: usize = 64;

/// Random bytes of a key. 256 bits, so that a plain SHA-256 of it cannot be searched: a slow password hash would
/// only cost every request milliseconds.
const KEY_BYTES: usize = 32;

/// Marks a key as ours, for people and for scanners that look for leaked ones.
const KEY_PREFIX: &str = "lg-";

/// SHA-256 of a key. It is no secret that opens anything, but it is nobody's business either: it prints as `***`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

/// One caller of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerSettings {
    /// Letters, digits, `_`, `-` and `.`; unique.
    pub name: String,
    /// Of the caller's key.
    pub key_sha256: KeyHash,
    /// Requests the caller may have running at once, at least 1; `None`: as everybody.
    pub concurrent_max: Option<u32>,
}

/// Who may come in. The default: everybody, as [`ANONYMOUS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Requests that a caller may have running at once where its own settings do not say. Of [`ANONYMOUS`] too.
    pub concurrent_max: u32,
    /// Names and keys are distinct: only [`Settings::set_callers`] writes here.
    callers: Vec<CallerSettings>,
}

/// What is wrong with a list of callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A name that cannot be a metric label.
    #[error("`{0}` is no name for a caller; use 1 to 64 letters, digits, `_`, `-` and `.`")]
    Name(String),
    /// Everybody without a key has this name.
    #[error("the name `{ANONYMOUS}` is taken by callers without a key; choose another")]
    Reserved,
    /// Two callers of one name.
    #[error("two callers are named `{0}`; rename one")]
    SameName(String),
    /// Two callers with one key.
    #[error("`{0}` and `{1}` have the same key; make one of them a new key with `loopgate key`")]
    SameKey(String, String),
    /// A caller that could never do anything.
    #[error("`{0}` may have 0 requests running; write at least 1, or remove the caller")]
    Zero(String),
}

/// Text that is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256; write the 64 hexadecimal digits that `loopgate key` prints")]
pub struct NotAHash;

/// Who asks. Cheap to clone. Two are equal when their names are.
#[derive(Clone)]
pub struct Caller(Arc<Inner>);

struct Inner {
    name: String,
    concurrent_max: u32,
    free: Arc<Semaphore>,
}

/// A caller's leave to have one more request running. Dropping it gives the place back.
#[derive(Debug)]
pub struct Slot {
    _place: OwnedSemaphorePermit,
}

/// Why nobody was recognised. The messages are for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// No bearer key was sent.
    #[error("no API key; send the header `Authorization: Bearer <key>`")]
    Missing,
    /// The key is nobody's.
    #[error("unknown API key; ask whoever runs this gateway for a valid one")]
    Unknown,
}

/// The caller has as many requests running as it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{caller}` has {concurrent_max} requests running, which is its limit; wait until one has ended")]
pub struct Full {
    /// The caller's name.
    pub caller: String,
    /// Its limit.
    pub concurrent_max: u32,
}

/// Everybody who may come in.
#[derive(Debug)]
pub struct Access {
    /// Empty: no keys are configured.
    callers: Vec<(KeyHash, Caller)>,
    anonymous: Caller,
}

/// A new key, which only its caller should ever see, and the hash that goes into the configuration.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_key() -> Result<(String, KeyHash), getrandom::Error> {
    let mut random = [0; KEY_BYTES];
    getrandom::fill(&mut random)?;
    let key = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = KeyHash::of(&key);
    Ok((key, hash))
}

// === impl Settings ===

impl Settings {
    /// From now on a key is asked for, unless there are no callers.
    pub fn set_callers(&mut self, callers: Vec<CallerSettings>) -> Result<(), SettingsError> {
        let mut names = HashSet::new();
        for (at, caller) in callers.iter().enumerate() {
            let name = &caller.name;
            if !is_name(name) {
                return Err(SettingsError::Name(name.chars().take(NAME_CHARS_MAX).collect()));
            }
            if name == ANONYMOUS {
                return Err(SettingsError::Reserved);
            }
            if !names.insert(name) {
                return Err(SettingsError::SameName(name.clone()));
            }
            if let Some(other) = callers[..at].iter().find(|other| other.key_sha256 == caller.key_sha256) {
                return Err(SettingsError::SameKey(other.name.clone(), name.clone()));
            }
            if caller.concurrent_max == Some(0) {
                return Err(SettingsError::Zero(name.clone()));
            }
        }
        self.callers = callers;
        Ok(())
    }

    /// The names under which requests can come in. Never empty.
    pub fn caller_names(&self) -> Vec<&str> {
        if self.callers.is_empty() {
            return vec![ANONYMOUS];
        }
        self.callers.iter().map(|caller| caller.name.as_str()).collect()
    }

    /// Who has a key. Empty: nobody is asked for one.
    pub fn callers(&self) -> &[CallerSettings] {
        &self.callers
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { concurrent_max: CONCURRENT_MAX_DEFAULT, callers: Vec::new() }
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

// === impl Access ===

impl Access {
    /// Counts start at zero: after a reload, requests that still run under the old one do not count against the new.
    pub fn new(settings: &Settings) -> Self {
        let everybody = settings.concurrent_max;
        let caller = |one: &CallerSettings| Caller::new(&one.name, one.concurrent_max.unwrap_or(everybody));
        Self {
            callers: settings.callers.iter().map(|one| (one.key_sha256, caller(one))).collect(),
            anonymous: Caller::new(ANONYMOUS, everybody),
        }
    }

    /// Whoever needs no key: the clients of a gateway without keys, and its own command line.
    pub fn anonymous(&self) -> &Caller {
        &self.anonymous
    }

    /// The caller of this name.
    pub fn named(&self, name: &str) -> Option<&Caller> {
        self.everybody().find(|caller| caller.name() == name)
    }

    /// Every caller that can come in, and the anonymous one.
    pub fn everybody(&self) -> impl Iterator<Item = &Caller> {
        self.callers.iter().map(|(_, caller)| caller).chain([&self.anonymous])
    }

    /// Reads the value of an `Authorization` header. Without keys in the configuration everybody is anonymous and a
    /// key is ignored, since SDKs insist on sending one.
    pub fn identify(&self, authorization: Option<&str>) -> Result<Caller, Unidentified> {
        if self.callers.is_empty() {
            return Ok(self.anonymous.clone());
        }
        let key = authorization.and_then(bearer).ok_or(Unidentified::Missing)?;
        let sent = KeyHash::of(key);
        // Every hash is compared and none ends the loop, so the time tells nothing about whose key came close.
        let mut found = 0_u32;
        for (at, (hash, _)) in (1_u32..).zip(&self.callers) {
            found.conditional_assign(&at, hash.is(&sent));
        }
        let at = (found as usize).checked_sub(1).ok_or(Unidentified::Unknown)?;
        Ok(self.callers[at].1.clone())
    }
}

/// The key of `Bearer <key>`. The scheme is case-insensitive (RFC 9110, 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, key) = authorization.trim().split_once(' ')?;
    let key = key.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

// === impl Caller ===

impl Caller {
    fn new(name: &str, concurrent_max: u32) -> Self {
        let free = Arc::new(Semaphore::new(concurrent_max as usize));
        Self(Arc::new(Inner { name: name.to_owned(), concurrent_max, free }))
    }

    /// The caller's name, as config, audit and metrics know it. Without keys everybody is `anonymous`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Requests that it may have running at once.
    pub fn concurrent_max(&self) -> u32 {
        self.0.concurrent_max
    }

    /// How many more may begin at this moment.
    pub fn free(&self) -> u32 {
        // Never more than `concurrent_max`.
        u32::try_from(self.0.free.available_permits()).unwrap_or(u32::MAX)
    }

    /// Takes a place for one request. Never waits: a queue of ours would hide from the client that it is the cause.
    pub fn enter(&self) -> Result<Slot, Full> {
        match Arc::clone(&self.0.free).try_acquire_owned() {
            Ok(place) => Ok(Slot { _place: place }),
            Err(_) => Err(Full { caller: self.0.name.clone(), concurrent_max: self.0.concurrent_max }),
        }
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Caller {}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Caller").field(&self.name()).finish()
    }
}

// === impl KeyHash ===

impl KeyHash {
    /// The hash of a key's text.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Whether the value of an `Authorization` header has this key. How long that takes tells nothing of the key.
    pub fn opens(&self, authorization: Option<&str>) -> Result<(), Unidentified> {
        let key = authorization.and_then(bearer).ok_or(Unidentified::Missing)?;
        if self.is(&Self::of(key)).into() { Ok(()) } else { Err(Unidentified::Unknown) }
    }

    fn is(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// The 64 hexadecimal digits that the configuration wants.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl FromStr for KeyHash {
    type Err = NotAHash;

    fn from_str(hex: &str) -> Result<Self, NotAHash> {
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAHash);
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, key: &str) -> CallerSettings {
        CallerSettings { name: name.to_owned(), key_sha256: KeyHash::of(key), concurrent_max: None }
    }

    fn settings(callers: Vec<CallerSettings>) -> Result<Settings, SettingsError> {
        let mut settings = Settings { concurrent_max: 2, ..Settings::default() };
        settings.set_callers(callers).map(|()| settings)
    }

    fn access(callers: Vec<CallerSettings>) -> Access {
        Access::new(&settings(callers).expect("distinct callers"))
    }

    #[test]
    fn callers_that_could_be_mistaken_for_each_other_are_refused() {
        let refused = |callers| settings(callers).expect_err("refused").to_string();
        assert_eq!(
            refused(vec![caller("a b", "1")]),
            "`a b` is no name for a caller; use 1 to 64 letters, digits, `_`, `-` and `.`"
        );
        assert_eq!(
            refused(vec![caller(ANONYMOUS, "1")]),
            "the name `anonymous` is taken by callers without a key; choose another"
        );
        assert_eq!(refused(vec![caller("a", "1"), caller("a", "2")]), "two callers are named `a`; rename one");
        assert_eq!(
            refused(vec![caller("a", "1"), caller("b", "1")]),
            "`a` and `b` have the same key; make one of them a new key with `loopgate key`"
        );
        assert_eq!(
            refused(vec![CallerSettings { concurrent_max: Some(0), ..caller("a", "1") }]),
            "`a` may have 0 requests running; write at least 1, or remove the caller"
        );
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
            assert_eq!(text.parse::<KeyHash>(), Err(NotAHash), "{text}");
        }
        let upper = KeyHash::of("k").hex().to_uppercase();
        assert_eq!(upper.parse(), Ok(KeyHash::of("k")));
    }

    #[test]
    fn a_missing_or_wrong_key_is_nobodys() {
        let access = access(vec![caller("red", "k1"), caller("blue", "k2")]);
        for header in [None, Some(""), Some("k1"), Some("Bearer"), Some("Bearer "), Some("Basic k1")] {
            assert_eq!(access.identify(header), Err(Unidentified::Missing), "{header:?}");
        }
        for header in ["Bearer k", "Bearer k11", "Bearer K1", "Bearer k1 k2"] {
            assert_eq!(access.identify(Some(header)), Err(Unidentified::Unknown), "{header}");
        }
    }

    #[test]
    fn a_key_names_its_caller() {
        let access = access(vec![caller("red", "k1"), caller("blue", "k2"), caller("green", "k3")]);
        for (header, name) in [("Bearer k1", "red"), ("bearer k2", "blue"), (" BEARER   k3 ", "green")] {
            assert_eq!(access.identify(Some(header)).expect("known").name(), name);
        }
    }

    #[test]
    fn without_keys_everybody_is_anonymous_whatever_they_send() {
        let access = access(vec![]);
        for header in [None, Some("Bearer EMPTY"), Some("nonsense")] {
            assert_eq!(access.identify(header).expect("anybody").name(), ANONYMOUS);
        }
    }

    #[test]
    fn a_caller_at_its_limit_is_refused_until_a_slot_is_dropped() {
        let access = access(vec![caller("red", "k1"), caller("blue", "k2")]);
        let red = access.identify(Some("Bearer k1")).expect("known");
        let slots = (red.enter().expect("first"), red.clone().enter().expect("second"));
        let full = red.enter().expect_err("a third");
        assert_eq!(full.to_string(), "`red` has 2 requests running, which is its limit; wait until one has ended");
        assert!(access.identify(Some("Bearer k2")).expect("known").enter().is_ok(), "others are not affected");
        drop(slots.0);
        assert!(red.enter().is_ok());
    }

    #[test]
    fn a_new_key_is_known_by_its_hash() {
        let (key, hash) = new_key().expect("randomness");
        assert!(key.starts_with("lg-") && key.len() == 3 + 43, "{key}");
        assert_ne!(key, new_key().expect("randomness").0);
        let hash: KeyHash = hash.hex().parse().expect("a hash");
        let red = CallerSettings { key_sha256: hash, ..caller("red", "") };
        let header = format!("Bearer {key}");
        assert_eq!(access(vec![red]).identify(Some(&header)).expect("known").name(), "red");
    }

    #[test]
    fn debug_output_shows_no_key_and_no_hash() {
        let settings = settings(vec![caller("red", "k1")]).expect("one caller");
        let access = Access::new(&settings);
        let shown = format!("{settings:?} {access:?} {:?}", access.identify(Some("Bearer k1")));
        assert!(shown.contains("***") && shown.contains("red"));
        assert!(!shown.contains(&KeyHash::of("k1").hex()[..8]) && !shown.contains("k1"), "{shown}");
    }
}
