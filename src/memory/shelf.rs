//! Entries in redb's tables. A value lies there once, under a number that grows; keys lead to numbers.
//!
//! ```text
//! KEYS    key    → number of the newest value under it
//! VALUES  number → value
//! ABOUT   number → when, how large, its keys          what is needed to remove an entry without reading its value
//! ORDER   caller, number                              where a caller's oldest entry is found
//! HELD    caller → entries and bytes that it has
//! META    format, bytes
//! ```

use super::Settings;
use super::key::{Key, Owner};
use bytes::Bytes;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
    WriteTransaction,
};
use std::collections::{BTreeSet, HashMap, hash_map};

const KEYS: TableDefinition<&[u8; 32], u64> = TableDefinition::new("keys");
const VALUES: TableDefinition<u64, &[u8]> = TableDefinition::new("values");
const ABOUT: TableDefinition<u64, (i64, u64, &[u8])> = TableDefinition::new("about");
const ORDER: TableDefinition<(&Owner, u64), ()> = TableDefinition::new("order");
const HELD: TableDefinition<&Owner, (u64, u64)> = TableDefinition::new("held");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Of these tables. One that changes their meaning counts it up.
const FORMAT: u64 = 2;
/// Bytes that a key costs: itself and its number in `KEYS`, itself again in `ABOUT`.
pub const KEY_BYTES: u64 = 32 + 8 + 32;
/// Entries that one transaction removes. Chosen: a transaction stays in the milliseconds.
const SHED_MAX: usize = 1024;

/// Why the tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// redb says so.
    #[error(transparent)]
    Redb(#[from] redb::Error),
    /// The tables of another version of Loopgate, or of another program.
    #[error("it was written by another version of Loopgate, or by another program")]
    Format,
}

/// One value with its keys.
pub struct Entry {
    /// Each of them once.
    keys: Vec<Key>,
    pub value: Bytes,
}

/// How much there is.
#[derive(Clone, Copy)]
pub struct Totals {
    pub entries: u64,
    pub bytes: u64,
    /// When the oldest entry was written.
    oldest_ms: Option<i64>,
}

/// Why an entry must go.
#[derive(Clone, Copy)]
enum Excess {
    Expired,
    Entries,
    Bytes,
}

pub struct Shelf {
    db: Database,
    entries_max: u64,
    bytes_max: u64,
    keep_ms: i64,
}

/// The tables in a transaction that writes.
struct Tables<'t> {
    keys: Table<'t, &'static [u8; 32], u64>,
    values: Table<'t, u64, &'static [u8]>,
    about: Table<'t, u64, (i64, u64, &'static [u8])>,
    order: Table<'t, (&'static Owner, u64), ()>,
    held: Table<'t, &'static Owner, (u64, u64)>,
    meta: Table<'t, &'static str, u64>,
    bytes: u64,
}

impl Entry {
    pub fn new(keys: &[Key], value: Bytes) -> Self {
        let keys: BTreeSet<_> = keys.iter().copied().collect();
        Self { keys: keys.into_iter().collect(), value }
    }

    pub fn bytes(&self) -> u64 {
        bytes(self.keys.len(), self.value.len() as u64)
    }
}

/// Whether so much was left.
fn spend(left: &mut usize, bytes: usize) -> bool {
    left.checked_sub(bytes).map(|rest| *left = rest).is_some()
}

fn bytes(keys: usize, value_bytes: u64) -> u64 {
    value_bytes + keys as u64 * KEY_BYTES
}

/// Whose a key is. All keys of an entry are one caller's.
fn owner(key: &[u8; 32]) -> Option<&Owner> {
    key.first_chunk()
}

impl Shelf {
    /// Makes sure of the tables. What has expired, or is beyond the bounds, which may have been narrowed, goes at once.
    pub fn new(db: Database, settings: &Settings, now_ms: i64) -> Result<Self, ShelfError> {
        make_tables(&db)?;
        let keep_ms = i64::try_from(settings.keep.as_millis()).unwrap_or(i64::MAX);
        let shelf = Self { db, entries_max: settings.entries_max, bytes_max: settings.bytes_max, keep_ms };
        while shelf.must_shed(shelf.totals()?, now_ms) {
            shelf.write(&[], now_ms)?;
        }
        Ok(shelf)
    }

    pub fn totals(&self) -> Result<Totals, redb::Error> {
        let transaction = self.db.begin_read()?;
        let bytes = transaction.open_table(META)?.get("bytes")?.map_or(0, |bytes| bytes.value());
        let about = transaction.open_table(ABOUT)?;
        let oldest_ms = about.first()?.map(|(_, about)| about.value().0);
        Ok(Totals { entries: transaction.open_table(VALUES)?.len()?, bytes, oldest_ms })
    }

    /// Whether entries must go: there are too many of them, or the oldest has expired.
    pub fn must_shed(&self, totals: Totals, now_ms: i64) -> bool {
        self.excess(totals, now_ms).is_some()
    }

    fn excess(&self, totals: Totals, now_ms: i64) -> Option<Excess> {
        let since_ms = totals.oldest_ms?;
        if self.is_expired(since_ms, now_ms) {
            Some(Excess::Expired)
        } else if totals.entries > self.entries_max {
            Some(Excess::Entries)
        } else if totals.bytes > self.bytes_max {
            Some(Excess::Bytes)
        } else {
            None
        }
    }

    /// Whether it would fit if everything else went.
    pub fn has_room_for(&self, entry: &Entry) -> bool {
        self.entries_max > 0 && entry.bytes() <= self.bytes_max
    }

    pub fn read(&self, keys: &[Key], bytes_max: usize, now_ms: i64) -> Result<Vec<Option<Bytes>>, redb::Error> {
        let transaction = self.db.begin_read()?;
        let (numbers, values) = (transaction.open_table(KEYS)?, transaction.open_table(VALUES)?);
        let about = transaction.open_table(ABOUT)?;
        let mut seen: HashMap<u64, Option<Bytes>> = HashMap::new();
        let mut bytes_left = bytes_max;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(number) = numbers.get(&key.0)?.map(|number| number.value()) else {
                found.push(None);
                continue;
            };
            let value = match seen.entry(number) {
                hash_map::Entry::Occupied(seen) => seen.get().clone(),
                hash_map::Entry::Vacant(unseen) => {
                    let fresh = about.get(number)?.is_some_and(|about| !self.is_expired(about.value().0, now_ms));
                    let value = if fresh { values.get(number)? } else { None };
                    let value = value.filter(|value| spend(&mut bytes_left, value.value().len()));
                    unseen.insert(value.map(|value| Bytes::copy_from_slice(value.value()))).clone()
                }
            };
            found.push(value);
        }
        Ok(found)
    }

    /// Writes all of these or none, and makes room. Durable when it returns; there may be more to remove than one
    /// transaction should.
    pub fn write(&self, entries: &[&Entry], now_ms: i64) -> Result<Totals, redb::Error> {
        let mut transaction = self.db.begin_write()?;
        // Twice the waits for the disk, but after a crash the next start does not read the whole file first. And the
        // two phases it brings keep what callers write from passing for a finished commit.
        transaction.set_quick_repair(true);
        let mut tables = Tables::open(&transaction)?;
        for entry in entries {
            tables.insert(entry, now_ms)?;
        }
        for _ in 0..SHED_MAX {
            let Some(excess) = self.excess(tables.totals()?, now_ms) else { break };
            tables.shed(excess)?;
        }
        let totals = tables.totals()?;
        tables.meta.insert("bytes", totals.bytes)?;
        drop(tables);
        transaction.commit()?;
        Ok(totals)
    }

    fn is_expired(&self, since_ms: i64, now_ms: i64) -> bool {
        now_ms.saturating_sub(since_ms) >= self.keep_ms
    }
}

fn make_tables(db: &Database) -> Result<(), ShelfError> {
    let transaction = db.begin_write().map_err(redb::Error::from)?;
    let is_new = transaction.list_tables().map_err(redb::Error::from)?.next().is_none();
    {
        let mut meta = transaction.open_table(META).map_err(of_table)?;
        if is_new {
            meta.insert("format", FORMAT).map_err(redb::Error::from)?;
        }
        let format = meta.get("format").map_err(redb::Error::from)?.map(|format| format.value());
        if format != Some(FORMAT) {
            return Err(ShelfError::Format);
        }
    }
    transaction.open_table(KEYS).map_err(of_table)?;
    transaction.open_table(VALUES).map_err(of_table)?;
    transaction.open_table(ABOUT).map_err(of_table)?;
    transaction.open_table(ORDER).map_err(of_table)?;
    transaction.open_table(HELD).map_err(of_table)?;
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

fn of_table(error: TableError) -> ShelfError {
    match error {
        TableError::Storage(error) => ShelfError::Redb(error.into()),
        _ => ShelfError::Format,
    }
}

// === impl Tables ===

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let bytes = meta.get("bytes")?.map_or(0, |bytes| bytes.value());
        Ok(Self {
            keys: transaction.open_table(KEYS)?,
            values: transaction.open_table(VALUES)?,
            about: transaction.open_table(ABOUT)?,
            order: transaction.open_table(ORDER)?,
            held: transaction.open_table(HELD)?,
            meta,
            bytes,
        })
    }

    fn totals(&self) -> Result<Totals, redb::Error> {
        let oldest_ms = self.about.first()?.map(|(_, about)| about.value().0);
        Ok(Totals { entries: self.values.len()?, bytes: self.bytes, oldest_ms })
    }

    fn insert(&mut self, entry: &Entry, now_ms: i64) -> Result<(), redb::Error> {
        let number = self.about.last()?.map_or(0, |(last, _)| last.value() + 1);
        let mut replaced = BTreeSet::new();
        for key in &entry.keys {
            replaced.extend(self.keys.insert(&key.0, number)?.map(|old| old.value()));
        }
        let keys: Vec<u8> = entry.keys.iter().flat_map(|key| key.0).collect();
        self.about.insert(number, (now_ms, entry.value.len() as u64, keys.as_slice()))?;
        self.values.insert(number, entry.value.as_ref())?;
        self.bytes += entry.bytes();
        if let Some(owner) = entry.keys.first().and_then(|key| owner(&key.0)) {
            self.order.insert((owner, number), ())?;
            let (entries, bytes) = self.held.get(owner)?.map_or((0, 0), |held| held.value());
            self.held.insert(owner, (entries + 1, bytes + entry.bytes()))?;
        }
        for old in replaced {
            if !self.is_reachable(old)? {
                self.remove(old)?;
            }
        }
        Ok(())
    }

    /// Whether any key still leads to it.
    fn is_reachable(&self, number: u64) -> Result<bool, redb::Error> {
        let Some(about) = self.about.get(number)? else { return Ok(false) };
        for key in about.value().2.as_chunks().0 {
            if self.keys.get(key)?.is_some_and(|newest| newest.value() == number) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes one entry: what has expired whosever it is, and otherwise the oldest of the caller that has most. So nobody
    /// pushes others out by writing much.
    fn shed(&mut self, excess: Excess) -> Result<(), redb::Error> {
        let number = match excess {
            Excess::Expired => self.about.first()?.map(|(number, _)| number.value()),
            Excess::Entries => self.oldest_of_most(|(entries, _)| entries)?,
            Excess::Bytes => self.oldest_of_most(|(_, bytes)| bytes)?,
        };
        // Else the writer would look for it for ever.
        let number = number.ok_or_else(|| redb::Error::Corrupted("entries are missing".to_owned()))?;
        self.remove(number)
    }

    fn oldest_of_most(&self, of: impl Fn((u64, u64)) -> u64) -> Result<Option<u64>, redb::Error> {
        let mut most: Option<(u64, Owner)> = None;
        for held in self.held.iter()? {
            let (owner, held) = held?;
            most = most.max(Some((of(held.value()), *owner.value())));
        }
        let Some((_, owner)) = most else { return Ok(None) };
        let oldest = self.order.range((&owner, 0)..=(&owner, u64::MAX))?.next().transpose()?;
        Ok(oldest.map(|(place, _)| place.value().1))
    }

    fn remove(&mut self, number: u64) -> Result<(), redb::Error> {
        let Some(about) = self.about.remove(number)? else { return Ok(()) };
        let (_, value_bytes, keys) = about.value();
        let keys = keys.as_chunks().0;
        for key in keys {
            if self.keys.get(key)?.is_some_and(|newest| newest.value() == number) {
                self.keys.remove(key)?;
            }
        }
        self.values.remove(number)?;
        let bytes = bytes(keys.len(), value_bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(owner) = keys.first().and_then(owner) {
            self.order.remove((owner, number))?;
            let held = self.held.get(owner)?.map(|held| held.value());
            match held {
                Some((entries, held)) if entries > 1 => {
                    self.held.insert(owner, (entries - 1, held.saturating_sub(bytes)))?;
                }
                _ => drop(self.held.remove(owner)?),
            }
        }
        Ok(())
    }
}
