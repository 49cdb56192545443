//! The compiled guest on disk, so that only the first start pays for compiling it.
//!
//! It is a folder: the machine code, the image of the memory, what is known of that, and the digests of these. Its code
//! will run in this process. So it is taken only from a directory that nobody else can write to, and only when its files
//! have the digests that were stored with them; anything else is compiled again.

use super::files;
use super::flatten::{self, Flat};
use super::guest::Image;
use super::image::{self, Facts};
use super::memory::Memories;
use super::{StartError, engine};
use rustix::fs::StatVfsMountFlags;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;
use wasmtime::{Engine, Module};

/// Starts the name of every folder here. What else is in the directory is not ours.
const PREFIX: &str = "python-";

/// The files of a compiled guest.
const CODE: &str = "code.cwasm";
const MEMORY: &str = "memory";
const FACTS: &str = "facts.json";
const DIGESTS: &str = "sha256";

/// Hexadecimal digits of a version: 64 bits tell those apart that one operator ever runs.
const VERSION_DIGITS: usize = 16;

/// Bits of a file's mode with which others than its owner may write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// A compiled guest, and the folder that it is in.
pub(super) struct Compiled {
    pub image: Image,
    pub folder: Folder,
    /// What programs' outcomes depend on of it: a digest of the guest and of what makes an image of it. The same on every
    /// machine.
    pub version: String,
}

/// The folder of a compiled guest. No other gateway removes it while this is held.
pub(super) struct Folder {
    pub path: PathBuf,
    _in_use: File,
}

/// The guest: from the cache, or compiled now and put there.
pub(super) fn load(guest: &Path, directory: &Path) -> Result<Compiled, StartError> {
    let source = fs::read(guest).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::GuestMissing { path: guest.into() },
        _ => StartError::GuestUnreadable { path: guest.into(), error },
    })?;
    let in_cache = |error| StartError::Cache { directory: directory.into(), error };
    make_private(directory).map_err(in_cache)?;
    check_executable(directory).map_err(in_cache)?;
    // A worker begins in another folder.
    let directory = &std::path::absolute(directory).map_err(in_cache)?;
    let compiler = engine::new(&Memories::blank()).map_err(StartError::Engine)?;
    let (key, version) = digests_of(&compiler, &source);
    let folder = directory.join(format!("{PREFIX}{key}"));

    if let Some(compiled) = load_compiled(&folder, &version) {
        return Ok(compiled);
    }
    // One process compiles; others that start at the same time wait and find its work.
    let _alone = alone_in(directory).map_err(in_cache)?;
    if let Some(compiled) = load_compiled(&folder, &version) {
        return Ok(compiled);
    }
    let unfinished = directory.join(format!("{PREFIX}unfinished"));
    remove_unused(directory, &folder).map_err(in_cache)?;
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(in_cache)?;
    let broken = |error| StartError::GuestBroken { path: guest.into(), error };
    compile(&compiler, &source, &unfinished).map_err(broken)?;
    fs::rename(&unfinished, &folder).map_err(in_cache)?;
    load_compiled(&folder, &version).ok_or_else(|| in_cache(io::Error::other("what was just written cannot be loaded")))
}

/// The guest in a folder that this user's gateway has just loaded, in a process that is to be up in no time.
pub(super) fn open_again(folder: &Path) -> wasmtime::Result<Image> {
    check_owner(&fs::symlink_metadata(folder)?)?;
    open(folder)
}

/// What a compiled guest depends on: its source, what makes a module and an image of it, and all that decides how wasmtime
/// compiles (its version, settings, CPU). And beside that [`Compiled::version`].
fn digests_of(engine: &Engine, source: &[u8]) -> (String, String) {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let mut key = Sha256::new_with_prefix(source);
    for code in flatten::CODE.iter().chain([&image::CODE]) {
        key.update(code);
    }
    let mut version = format!("{:x}", key.clone().finalize());
    version.truncate(VERSION_DIGITS);
    key.update(settings.finish().to_le_bytes());
    (format!("{:x}", key.finalize()), version)
}

fn compile(engine: &Engine, source: &[u8], folder: &Path) -> wasmtime::Result<()> {
    tracing::info!("compiling the Python guest (once; 10 to 20 s of CPU time)");
    let began = Instant::now();
    let flat: Flat = flatten::flatten(source)?;
    let code = engine.precompile_module(&flat.module)?;
    write(&folder.join(CODE), &code)?;
    let (memory, wasi) = image::make(&flat, |engine| deserialize(engine, folder))?;
    write(&folder.join(MEMORY), &memory)?;
    let facts = image::find_facts(&folder.join(MEMORY), wasi, |engine| deserialize(engine, folder))?;
    write(&folder.join(FACTS), &serde_json::to_vec(&facts)?)?;
    write(&folder.join(DIGESTS), digests(folder)?.as_bytes())?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "compiled the Python guest");
    Ok(())
}

// === the directory ===

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    check_owner(&fs::symlink_metadata(directory)?)
}

/// Refuses what somebody else could have written.
fn check_owner(metadata: &fs::Metadata) -> io::Result<()> {
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        return Err(io::Error::other(format!(
            "it belongs to user {owner}, not to user {own} whom this process runs as"
        )));
    }
    if metadata.file_type().is_symlink() || metadata.mode() & OTHERS_MAY_WRITE != 0 {
        return Err(io::Error::other(format!(
            "others may write to it (mode {:o}); use mode 0700",
            metadata.mode() & 0o7777
        )));
    }
    Ok(())
}

/// Refuses a file system whose files nobody may run: else it would look as if the guest were broken. `docker/check.py`
/// tries it, since only root can mount one.
fn check_executable(directory: &Path) -> io::Result<()> {
    if rustix::fs::statvfs(directory)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(io::Error::other("it is mounted noexec, and what is kept there is code that runs"));
    }
    Ok(())
}

/// Holds the directory against everybody else who would write to it, until it is dropped.
fn alone_in(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Guests of earlier versions: 75 MB each that nothing will ask for again, unless a gateway still runs them. And what a
/// start has left unfinished, or is broken.
fn remove_unused(directory: &Path, broken: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let in_use = || File::open(path.join(DIGESTS)).is_ok_and(|digests| digests.try_lock().is_err());
        if !entry.file_type()?.is_dir() {
            fs::remove_file(path)?;
        } else if path == broken || !in_use() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

// === one compiled guest ===

/// A line for each file that is to be as it was written.
fn digests(folder: &Path) -> io::Result<String> {
    let mut lines = String::new();
    for name in [CODE, MEMORY, FACTS] {
        let mut digest = Sha256::new();
        io::copy(&mut File::open(folder.join(name))?, &mut digest)?;
        lines.extend([format!("{:x}", digest.finalize()).as_str(), "  ", name, "\n"]);
    }
    Ok(lines)
}

fn load_compiled(folder: &Path, version: &str) -> Option<Compiled> {
    let loaded = match verify(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return None,
        Err(error) => Err(error.into()),
        Ok(in_use) => {
            let (folder_in_use, version) = (Folder { path: folder.to_owned(), _in_use: in_use }, version.to_owned());
            open(folder).map(|image| Compiled { image, folder: folder_in_use, version })
        }
    };
    loaded.inspect_err(|error| tracing::warn!(path = %folder.display(), %error, "not using the compiled guest")).ok()
}

/// Whether the files are what was written. No other gateway removes them while what this gives is held.
fn verify(folder: &Path) -> io::Result<File> {
    let in_use = File::open(folder.join(DIGESTS))?;
    in_use.lock_shared()?;
    let stored = io::read_to_string(&in_use)?;
    check_owner(&fs::symlink_metadata(folder)?)?;
    for name in [CODE, MEMORY, FACTS] {
        check_owner(&fs::symlink_metadata(folder.join(name))?)?;
    }
    if digests(folder)? != stored {
        return Err(io::Error::other("its files do not have their stored digests"));
    }
    Ok(in_use)
}

fn open(folder: &Path) -> wasmtime::Result<Image> {
    let mut facts: Facts = serde_json::from_slice(&fs::read(folder.join(FACTS))?)?;
    facts.wasi.check(files::Bounds::default())?;
    let memories = Memories::of(File::open(folder.join(MEMORY))?, facts.hot)?;
    Image::new(memories, facts.wasi, |engine| deserialize(engine, folder))
}

#[expect(unsafe_code, reason = "a compiled guest is machine code, and only its writer can vouch for it")]
fn deserialize(engine: &Engine, folder: &Path) -> wasmtime::Result<Module> {
    // SAFETY: the file must come from `precompile_module` and must not change while it is mapped. `compile` calls this for
    // what it has just written, `open` after `verify` only, and in a worker whose gateway has done so: the file has the
    // digest that was written with it, and it and its directory belong to this user and can be written by nobody else.
    // The gateway itself replaces such folders, but never writes into a file again. That version, settings and CPU fit is
    // checked by wasmtime itself.
    unsafe { Module::deserialize_file(engine, folder.join(CODE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The smallest component that a guest can be. It is compiled in no time.
    const SMALLEST: &str = r#"(component
        (core module $env
            (memory (export "memory") 1)
            (data (i32.const 20) "begun")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "wake"))
            (func (export "wake_end"))
            (func (export "run") (param i32 i32 i32 i32 i32 i32) (result i32)
                (i32.store (i32.const 40) (i32.const 1)) (i32.const 0))
            (func (export "run_end") (param i32)))
        (core instance $env (instantiate $env))
        (type $ending (enum "completed" "raised"))
        (export $ending-named "ending" (type $ending))
        (func (export "wake") (canon lift (core func $env "wake") (post-return (func $env "wake_end"))))
        (func (export "run")
            (param "source" string) (param "arguments" (option string)) (param "recursion" u32) (result $ending-named)
            (canon lift (core func $env "run") (memory $env "memory") (realloc (func $env "realloc"))
                (post-return (func $env "run_end")))))"#;

    struct Scene {
        guest: PathBuf,
        cache: PathBuf,
        _directory: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let guest = directory.path().join("guest.wasm");
        fs::write(&guest, wat::parse_str(SMALLEST).unwrap()).unwrap();
        Scene { guest, cache: directory.path().join("cache"), _directory: directory }
    }

    impl Scene {
        fn load(&self) -> Result<Compiled, StartError> {
            load(&self.guest, &self.cache)
        }

        fn compiled(&self) -> PathBuf {
            self.load().unwrap().folder.path
        }
    }

    #[test]
    fn a_missing_guest_is_named_with_the_way_out() {
        let scene = scene();
        fs::remove_file(&scene.guest).unwrap();
        let message = scene.load().err().unwrap().to_string();
        assert!(message.contains("guest.wasm") && message.contains("make guest"), "{message}");
    }

    #[test]
    fn a_guest_that_is_no_component_is_named() {
        let scene = scene();
        fs::write(&scene.guest, "text").unwrap();
        assert!(matches!(scene.load(), Err(StartError::GuestBroken { .. })));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let scene = scene();
        fs::create_dir(&scene.cache).unwrap();
        fs::set_permissions(&scene.cache, fs::Permissions::from_mode(0o777)).unwrap();
        let message = scene.load().err().unwrap().to_string();
        assert!(message.contains("mode 777"), "{message}");
    }

    #[test]
    fn a_symbolic_link_is_refused_as_directory() {
        let scene = scene();
        std::os::unix::fs::symlink(scene.cache.parent().unwrap(), &scene.cache).unwrap();
        assert!(matches!(scene.load(), Err(StartError::Cache { .. })));
    }

    #[test]
    fn a_compiled_file_that_was_changed_cut_or_loosened_is_built_again() {
        let scene = scene();
        let folder = scene.compiled();
        for name in [CODE, MEMORY, FACTS, DIGESTS] {
            let file = folder.join(name);
            let good = fs::read(&file).unwrap();
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 1;
            for bad in [flipped.as_slice(), &good[..good.len() / 2], b""] {
                fs::write(&file, bad).unwrap();
                scene.load().unwrap();
                assert_eq!(fs::read(&file).unwrap(), good, "{name}");
            }
            fs::remove_file(&file).unwrap();
            scene.load().unwrap();
            assert_eq!(fs::read(&file).unwrap(), good, "{name}");
        }
        fs::set_permissions(folder.join(CODE), fs::Permissions::from_mode(0o666)).unwrap();
        scene.load().unwrap();
        assert_eq!(fs::metadata(folder.join(CODE)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_image_is_the_memory_after_waking() {
        let scene = scene();
        let memory = fs::read(scene.compiled().join(MEMORY)).unwrap();
        assert_eq!((memory.len(), &memory[20..25]), (1 << 16, b"begun".as_slice()));
    }

    #[test]
    fn a_second_start_takes_the_compiled_files() {
        let scene = scene();
        let inode = |folder: PathBuf| fs::metadata(folder.join(CODE)).unwrap().ino();
        assert_eq!(inode(scene.compiled()), inode(scene.compiled()));
    }

    #[test]
    fn starts_at_the_same_time_do_not_disturb_each_other() {
        let scene = scene();
        std::thread::scope(|threads| {
            let starts: Vec<_> = (0..8).map(|_| threads.spawn(|| scene.load().map(drop))).collect();
            for start in starts {
                start.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn another_guest_replaces_the_compiled_one_and_what_was_left_unfinished() {
        let scene = scene();
        let first = scene.compiled();
        fs::create_dir(scene.cache.join(format!("{PREFIX}unfinished"))).unwrap();
        // A custom section: the same component to run, other bytes.
        let guest = fs::read(&scene.guest).unwrap();
        fs::write(&scene.guest, [&guest, b"\0\x02\x01x".as_slice()].concat()).unwrap();
        let second = scene.compiled();
        assert!(!first.exists() && second.exists() && second != first);
    }

    #[test]
    fn a_guest_that_a_gateway_runs_stays() {
        let scene = scene();
        let running = scene.load().unwrap();
        let guest = fs::read(&scene.guest).unwrap();
        fs::write(&scene.guest, [&guest, b"\0\x02\x01x".as_slice()].concat()).unwrap();
        scene.load().unwrap();
        assert!(running.folder.path.exists());
    }
}
