//! Claims about the room as a whole, with real files and a clock that each test sets.

use super::shelf::KEY_BYTES;
use super::*;
use crate::access::{self, Access, Caller, CallerSettings, KeyHash};
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use redb::{Database, TableDefinition};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;
use tempfile::TempDir;
use tokio::task::unconstrained;

/// Marks the process that is to be killed, and names its file.
const KILL_ME: &str = "TEST_MEMORY_OF_THE_KILLED";
const HOUR: Duration = Duration::from_hours(1);

/// Milliseconds, one clock per test that moves it.
static CLOCKS: [AtomicI64; 5] = [const { AtomicI64::new(0) }; 5];

/// For a test that must not end before something has happened.
const NEVER: Duration = Duration::from_secs(20);

fn still() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn moved<const AT: usize>() -> Timestamp {
    Timestamp::from_millisecond(CLOCKS[AT].load(Ordering::SeqCst)).expect("a time")
}

fn settings(path: Store) -> Settings {
    Settings { path, entries_max: 1000, bytes_max: 1 << 30, keep: HOUR, entry_bytes_max: 1 << 20 }
}

fn ram() -> Settings {
    settings(Store::Ram)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn disk(path: &Path) -> Settings {
    settings(Store::Disk(path.to_owned()))
}

fn open(settings: &Settings) -> Memory {
    Memory::open(settings, still).expect("a memory")
}

fn refused(settings: &Settings) -> String {
    Memory::open(settings, still).err().expect("a refusal").to_string()
}

fn caller(name: &str) -> Caller {
    let mut settings = access::Settings::default();
    let one = CallerSettings { name: name.to_owned(), key_sha256: KeyHash::of(name), concurrent_max: None };
    settings.set_callers(vec![one]).expect("a good caller");
    Access::new(&settings).named(name).expect("a caller").clone()
}

fn key(what: impl Display) -> Key {
    Key::new(&caller("red"), "test", what.to_string().as_bytes())
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

async fn until(happened: impl Fn() -> bool) {
    let happened = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    timeout(NEVER, happened).await.expect("it happens");
}

async fn recall(memory: &Memory, what: impl Display) -> Option<Bytes> {
    memory.recall(&[key(what)], usize::MAX).await.remove(0)
}

// === files that cannot be used ===

#[test]
fn a_file_that_is_none_of_ours_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("notes.txt");
    for content in ["x".to_owned(), "my notes".repeat(10_000)] {
        fs::write(&path, &content).expect("a file");
        let told = refused(&disk(&path));
        let parts = [path.to_str().expect("UTF-8"), "no memory file", "LOOPGATE_MEMORY", "remove the file"];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert_eq!(fs::read_to_string(&path).expect("a file"), content);
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let memory = open(&disk(&path));
    for number in 0..50 {
        assert!(memory.remember(&[key(number)], Bytes::from(vec![7; 20_000])).await);
    }
    drop(memory);
    let whole = fs::read(&path).expect("a file");
    let half = whole[..whole.len() / 2].to_vec();
    let mut overwritten = whole.clone();
    overwritten[8192..].fill(0xAA);
    for (what, content) in [("cut", half), ("overwritten", overwritten)] {
        fs::write(&path, &content).expect("a file");
        let told = refused(&disk(&path));
        assert!(told.contains("memory.redb") && told.contains("remove the file"), "{what}: {told}");
    }
    fs::write(&path, &whole).expect("a file");
    assert_eq!(open(&disk(&path)).entries(), 50);
}

#[test]
fn files_of_other_versions_and_other_programs_are_refused() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    for table in ["meta", "something"] {
        let db = Database::create(&path).expect("a database");
        let transaction = db.begin_write().expect("a transaction");
        {
            let definition = TableDefinition::<&str, u64>::new(table);
            let mut table = transaction.open_table(definition).expect("a table");
            table.insert("format", 99).expect("inserted");
        }
        transaction.commit().expect("committed");
        drop(db);
        let told = refused(&disk(&path));
        assert!(told.contains("another version") && told.contains("remove the file"), "{told}");
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn a_file_in_use_is_refused_until_it_is_free() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let first = open(&disk(&path));
    let told = refused(&disk(&path));
    assert!(told.contains("another process uses it") && told.contains("another memory.path"), "{told}");
    drop(first);
    open(&disk(&path));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let told = refused(&disk(Path::new("/proc/nowhere/memory.redb")));
    assert!(told.contains("/proc/nowhere/memory.redb") && told.contains(":memory:"), "{told}");
}

#[test]
fn folder_and_file_are_the_owner_s_alone() {
    let folder = folder();
    let path = folder.path().join("a/b/memory.redb");
    let _memory = open(&disk(&path));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder.path().join("a")), mode(&folder.path().join("a/b")), mode(&path)), (0o700, 0o700, 0o600));
}

// === keys ===

#[test]
fn no_two_names_make_one_key() {
    let keys = [
        Key::new(&caller("a"), "b", b"c"),
        Key::new(&caller("ab"), "", b"c"),
        Key::new(&caller("a"), "", b"bc"),
        Key::new(&caller("a"), "bc", b""),
    ];
    assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    assert_eq!(keys[0], Key::new(&caller("a"), "b", b"c"));
}

#[tokio::test]
async fn another_caller_never_gets_it() {
    let memory = open(&ram());
    let of = |name| [Key::new(&caller(name), "turn", b"call_1")];
    assert!(memory.remember(&of("red"), text("red's")).await);
    assert_eq!(memory.recall(&of("blue"), usize::MAX).await, [None]);
    assert_eq!(memory.recall(&of("red"), usize::MAX).await, [Some(text("red's"))]);
}

#[tokio::test]
async fn keys_are_answered_in_their_order_and_the_newest_wins() {
    let memory = open(&ram());
    assert_eq!(memory.recall(&[], usize::MAX).await, []);
    assert!(!memory.remember(&[], text("nameless")).await);
    assert!(memory.remember(&[key("a"), key("b"), key("a")], text("old")).await);
    assert!(memory.remember(&[key("b")], text("new")).await);
    let wanted = [key("b"), key("none"), key("a"), key("b")];
    let found = [Some(text("new")), None, Some(text("old")), Some(text("new"))];
    assert_eq!(memory.recall(&wanted, usize::MAX).await, found);
}

#[tokio::test]
async fn no_more_is_read_than_is_asked_for_and_one_value_counts_once() {
    let memory = open(&ram());
    for name in ["a", "b"] {
        assert!(memory.remember(&[key(name)], text("0123456789")).await);
    }
    let wanted = [key("a"), key("a"), key("b")];
    let found = |bytes_max| memory.recall(&wanted, bytes_max);
    let value = || Some(text("0123456789"));
    assert_eq!(found(20).await, [value(), value(), value()]);
    assert_eq!(found(19).await, [value(), value(), None]);
    assert_eq!(found(9).await, [None, None, None]);
}

#[tokio::test]
async fn a_value_goes_with_the_last_of_its_keys() {
    let memory = open(&ram());
    assert!(memory.remember(&[key("a"), key("b")], text("old")).await);
    assert!(memory.remember(&[key("a")], text("new a")).await);
    assert_eq!((memory.entries(), memory.bytes()), (2, 3 + 5 + 3 * KEY_BYTES));
    assert!(memory.remember(&[key("b")], text("new b")).await);
    assert_eq!((memory.entries(), memory.bytes()), (2, 5 + 5 + 2 * KEY_BYTES));
}

// === bounds ===

#[tokio::test]
async fn a_value_may_have_its_bytes_and_not_one_more() {
    let memory = open(&Settings { entry_bytes_max: 10, ..ram() });
    assert!(!memory.remember(&[key("a")], text("12345678901")).await);
    assert_eq!(memory.entries(), 0);
    assert!(memory.remember(&[key("a")], text("1234567890")).await);
    assert_eq!((memory.entries(), memory.failures(), memory.too_large()), (1, 0, 1));
}

#[tokio::test]
async fn one_entry_too_many_pushes_the_oldest_out() {
    let memory = open(&Settings { entries_max: 3, ..ram() });
    for number in 0..3 {
        assert!(memory.remember(&[key(number)], text("value")).await);
    }
    assert!(recall(&memory, 0).await.is_some());
    assert!(memory.remember(&[key(3)], text("value")).await);
    assert_eq!(memory.entries(), 3);
    assert!(recall(&memory, 0).await.is_none() && recall(&memory, 1).await.is_some());
}

#[tokio::test]
async fn one_byte_too_many_pushes_the_oldest_out() {
    let memory = open(&Settings { bytes_max: 2 * (10 + KEY_BYTES), ..ram() });
    for number in 0..2 {
        assert!(memory.remember(&[key(number)], text("1234567890")).await);
    }
    assert_eq!((memory.entries(), memory.bytes()), (2, 2 * (10 + KEY_BYTES)));
    assert!(memory.remember(&[key(1)], text("12345678901")).await);
    assert_eq!((memory.entries(), memory.bytes()), (1, 11 + KEY_BYTES));
    assert!(recall(&memory, 0).await.is_none());
}

#[tokio::test]
async fn a_caller_that_writes_much_pushes_out_its_own_values_and_nobody_else_s() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let of = |name: &str, number: u32| Key::new(&caller(name), "test", &number.to_le_bytes());
    for bounds in
        [Settings { entries_max: 10, ..disk(&path) }, Settings { bytes_max: 10 * (5 + KEY_BYTES), ..disk(&path) }]
    {
        let memory = open(&bounds);
        for number in 0..2 {
            assert!(memory.remember(&[of("quiet", number)], text("value")).await);
        }
        for number in 0..8 {
            assert!(memory.remember(&[of("loud", number)], text("value")).await);
        }
        assert_eq!(memory.entries(), 10);
        // Who has how much is known again.
        drop(memory);
        let memory = open(&bounds);
        for number in 8..100 {
            assert!(memory.remember(&[of("loud", number)], text("value")).await);
        }
        assert_eq!((memory.entries(), memory.bytes()), (10, 10 * (5 + KEY_BYTES)));
        let kept = |name, numbers: std::ops::Range<u32>| {
            let (memory, keys) = (&memory, numbers.map(|number| of(name, number)).collect::<Vec<_>>());
            async move { memory.recall(&keys, usize::MAX).await.iter().flatten().count() }
        };
        assert_eq!((kept("quiet", 0..2).await, kept("loud", 0..92).await, kept("loud", 92..100).await), (2, 0, 8));
        // Now the quiet one has its half.
        for number in 2..100 {
            assert!(memory.remember(&[of("quiet", number)], text("value")).await);
        }
        assert_eq!((kept("quiet", 95..100).await, kept("loud", 95..100).await), (5, 5));
        drop(memory);
        fs::remove_file(&path).expect("removed");
    }
}

#[tokio::test]
async fn what_would_push_everything_out_and_still_not_fit_is_refused() {
    let memory = open(&Settings { bytes_max: 10 + KEY_BYTES, ..ram() });
    assert!(memory.remember(&[key("a")], text("1234567890")).await);
    assert!(!memory.remember(&[key("b")], text("12345678901")).await);
    assert!(!memory.remember(&[key("b"), key("c")], text("1")).await);
    assert_eq!(memory.too_large(), 2);
    assert!(recall(&memory, "a").await.is_some());
}

#[tokio::test]
async fn nothing_is_recalled_once_its_time_is_over() {
    let memory = Memory::open(&ram(), moved::<0>).expect("a memory");
    assert!(memory.remember(&[key("a")], text("value")).await);
    let keep_ms = i64::try_from(HOUR.as_millis()).expect("small");
    CLOCKS[0].store(keep_ms - 1, Ordering::SeqCst);
    assert!(recall(&memory, "a").await.is_some());
    CLOCKS[0].store(keep_ms, Ordering::SeqCst);
    assert!(recall(&memory, "a").await.is_none());
    assert_eq!(memory.entries(), 1);
    assert!(memory.remember(&[key("b")], text("value")).await);
    assert_eq!((memory.entries(), memory.bytes()), (1, 5 + KEY_BYTES));
}

#[tokio::test]
async fn the_expired_go_a_batch_at_a_time_until_all_have_gone() {
    let memory = Memory::open(&Settings { entries_max: 10_000, ..ram() }, moved::<1>).expect("a memory");
    let keys: Vec<_> = (0..2500).map(|number| [key(number)]).collect();
    join_all(keys.iter().map(|key| memory.remember(key, text("value")))).await;
    assert_eq!(memory.entries(), 2500);
    let before = memory.commits();
    CLOCKS[1].store(i64::MAX / 1_000_000, Ordering::SeqCst);
    assert!(memory.remember(&[key("new")], text("value")).await);
    until(|| memory.commits() == before + 3).await;
    assert_eq!((memory.entries(), memory.bytes()), (1, 5 + KEY_BYTES));
}

#[tokio::test]
async fn the_expired_go_also_when_nobody_writes() {
    let patience = Patience { disk_wait: NEVER, idle: Duration::from_millis(1) };
    let memory = Memory::open_with(&ram(), moved::<3>, patience).expect("a memory");
    assert!(memory.remember(&[key("a")], text("value")).await);
    CLOCKS[3].store(i64::try_from(HOUR.as_millis()).expect("small"), Ordering::SeqCst);
    until(|| memory.entries() == 0).await;
    assert_eq!(memory.bytes(), 0);
}

#[tokio::test]
async fn the_expired_go_at_the_start() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let memory = Memory::open(&disk(&path), moved::<4>).expect("a memory");
    for name in ["a", "b"] {
        assert!(memory.remember(&[key(name)], text("value")).await);
    }
    drop(memory);
    CLOCKS[4].store(i64::try_from(HOUR.as_millis()).expect("small"), Ordering::SeqCst);
    let memory = Memory::open(&disk(&path), moved::<4>).expect("a memory");
    assert_eq!((memory.entries(), memory.bytes()), (0, 0));
}

#[tokio::test]
async fn narrower_bounds_hold_from_the_next_start() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let wide = Settings { entries_max: 10_000, ..disk(&path) };
    let memory = open(&wide);
    let keys: Vec<_> = (0..2500).map(|number| [key(number)]).collect();
    join_all(keys.iter().map(|key| memory.remember(key, text("value")))).await;
    for newest in ["a", "b", "c"] {
        assert!(memory.remember(&[key(newest)], text("value")).await);
    }
    drop(memory);
    let memory = open(&Settings { entries_max: 2, ..wide });
    assert_eq!((memory.entries(), memory.bytes()), (2, 2 * (5 + KEY_BYTES)));
    assert!(recall(&memory, "a").await.is_none() && recall(&memory, "b").await.is_some());
}

// === a disk that stalls ===

/// The disk answers while nobody holds it: readers and the writer ask the clock first.
static DISKS: [Mutex<()>; 4] = [const { Mutex::new(()) }; 4];

/// How often each was asked.
static ASKED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn on_disk<const AT: usize>() -> Timestamp {
    ASKED[AT].fetch_add(1, Ordering::SeqCst);
    drop(DISKS[AT].lock());
    still()
}

fn open_on_disk(clock: Clock) -> Memory {
    let patience = Patience { disk_wait: Duration::from_millis(1), idle: IDLE };
    Memory::open_with(&ram(), clock, patience).expect("a memory")
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_not_waited_for() {
    let memory = open_on_disk(on_disk::<0>);
    let held = DISKS[0].lock();
    assert!(!timeout(NEVER, memory.remember(&[key("a")], text("value"))).await.expect("an answer"));
    assert_eq!(memory.failures(), 1);
    assert_eq!(timeout(NEVER, recall(&memory, "a")).await.expect("an answer"), None);
    assert_eq!(memory.failures(), 2);
    drop(held);
    // What was too late for its turn is there for the next.
    until(|| memory.entries() == 1).await;
}

#[tokio::test]
async fn reads_that_nobody_waits_for_do_not_pile_up() {
    let memory = open_on_disk(on_disk::<1>);
    let before = ASKED[1].load(Ordering::SeqCst);
    let held = DISKS[1].lock();
    let reads = (0..3 * READERS_MAX).map(|_| memory.recall(&[], 0));
    timeout(NEVER, join_all(reads)).await.expect("answers");
    assert_eq!(memory.failures(), 3 * READERS_MAX as u64);
    drop(held);
    until(|| memory.readers.available_permits() == READERS_MAX).await;
    assert_eq!(ASKED[1].load(Ordering::SeqCst) - before, READERS_MAX as u64);
}

#[tokio::test]
async fn values_that_nobody_waits_for_do_not_pile_up() {
    let memory = open_on_disk(on_disk::<2>);
    let value = Bytes::from(vec![7; 1 << 20]);
    let held = DISKS[2].lock();
    let keys: Vec<_> = (0..200).map(|number| [key(number)]).collect();
    let written = timeout(NEVER, join_all(keys.iter().map(|key| memory.remember(key, value.clone())))).await;
    assert!(written.expect("answers").iter().all(|written| !written));
    assert_eq!(memory.failures(), 200);
    drop(held);
    // 128 MiB hold 127 of 1 MiB and a key; whoever found no place is not kept.
    drop(memory.writer);
    assert_eq!(memory.inner.entries.load(Ordering::Relaxed), 127);
}

#[tokio::test]
async fn writes_that_wait_together_share_a_commit() {
    let memory = Memory::open(&ram(), on_disk::<3>).expect("a memory");
    let held = DISKS[3].lock();
    let keys: Vec<_> = (0..500).map(|number| [key(number)]).collect();
    // The runtime's budget would have them queue 128 at a time.
    let mut written = unconstrained(join_all(keys.iter().map(|key| memory.remember(key, text("value")))));
    assert!((&mut written).now_or_never().is_none());
    drop(held);
    assert!(written.await.iter().all(|written| *written));
    assert_eq!(memory.entries(), 500);
    assert!(memory.commits() <= 2, "{} commits for what waited at the first and what came since", memory.commits());
    let all: Vec<_> = keys.concat();
    assert!(memory.recall(&all, usize::MAX).await.iter().all(Option::is_some));
}

// === what lasts ===

#[tokio::test]
async fn everything_is_there_after_reopening_and_ages_on() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let opened = || Memory::open(&disk(&path), moved::<2>).expect("a memory");
    let memory = opened();
    assert!(memory.remember(&[key("a"), key("b")], text("first")).await);
    assert!(memory.remember(&[key("c")], text("second")).await);
    let totals = (memory.entries(), memory.bytes());
    drop(memory);
    let memory = opened();
    assert_eq!((memory.entries(), memory.bytes()), totals);
    assert_eq!(recall(&memory, "b").await, Some(text("first")));
    assert!(memory.remember(&[key("b")], text("third")).await);
    drop(memory);
    let memory = opened();
    assert_eq!(memory.recall(&[key("a"), key("b")], usize::MAX).await, [Some(text("first")), Some(text("third"))]);
    CLOCKS[2].store(i64::try_from(HOUR.as_millis()).expect("small"), Ordering::SeqCst);
    assert_eq!(recall(&opened_again(memory, opened), "c").await, None);
}

fn opened_again(memory: Memory, open: impl Fn() -> Memory) -> Memory {
    drop(memory);
    open()
}

#[test]
fn ram_is_forgotten() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let memory = open(&ram());
    assert!(runtime.block_on(memory.remember(&[key("a")], text("value"))));
    drop(memory);
    assert_eq!(open(&ram()).entries(), 0);
}

#[tokio::test]
async fn dropping_it_writes_what_waits() {
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let memory = open(&disk(&path));
    for number in 0..100 {
        // Into the queue, and nobody waits for the answer.
        let _ = memory.remember(&[key(number)], text("value")).now_or_never();
    }
    drop(memory);
    assert_eq!(open(&disk(&path)).entries(), 100);
}

#[tokio::test]
async fn what_remember_has_answered_survives_a_sigkill() {
    if let Some(path) = std::env::var_os(KILL_ME) {
        return remember_until_killed(Path::new(&path)).await;
    }
    let folder = folder();
    let path = folder.path().join("memory.redb");
    let mut told = 0;
    // Killed at another moment each time, and what it left is gone on with.
    for kill_at in [1, 30, 77] {
        told = kill_when_told(&path, told, kill_at);
        let memory = open(&disk(&path));
        assert!(memory.entries() >= told);
        for number in 0..told {
            assert_eq!(recall(&memory, number).await, Some(value(number)), "number {number}");
        }
        told = memory.entries();
    }
}

/// Starts this test once more as the process to be killed. Returns how many values it said it had remembered.
fn kill_when_told(path: &Path, before: u64, more: u64) -> u64 {
    let name = std::thread::current().name().expect("the test's name").to_owned();
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", &name, "--nocapture"]).env(KILL_ME, path).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this binary");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let numbers = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("kept ")?.parse::<u64>().ok());
    let last = numbers.take_while(|number| *number < before + more).last();
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    1 + last.expect("a number")
}

async fn remember_until_killed(path: &Path) {
    let memory = open(&disk(path));
    for number in memory.entries().. {
        assert!(memory.remember(&[key(number)], value(number)).await);
        writeln!(io::stdout(), "\nkept {number}").expect("a parent");
    }
}

/// Of all sizes, some larger than a page.
fn value(number: u64) -> Bytes {
    Bytes::from(number.to_string().repeat(1 + 97 * usize::try_from(number).expect("small") % 9000))
}
