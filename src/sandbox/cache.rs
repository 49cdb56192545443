//! The compiled guest on disk, so that only the first start pays for compiling it.
//!
//! A compiled file is machine code that will run in this process. So it is taken only from a directory that nobody else
//! can write to, and only when its bytes have the digest that was stored with it; anything else is compiled again.

use super::{StartError, flatten};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;
use wasmtime::{Engine, Module};

/// Starts the name of every file here. What else is in the directory is not ours.
const PREFIX: &str = "python-";

/// Bits of a file's mode with which others than its owner may write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// A compiled guest, and the file that it is in.
pub(super) struct Compiled {
    pub module: Module,
    pub path: PathBuf,
}

/// The guest for this engine: from the cache, or compiled now and put there.
pub(super) fn load(engine: &Engine, guest: &Path, directory: &Path) -> Result<Compiled, StartError> {
    let source = fs::read(guest).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::GuestMissing { path: guest.into() },
        _ => StartError::GuestUnreadable { path: guest.into(), error },
    })?;
    let in_cache = |error| StartError::Cache { directory: directory.into(), error };
    make_private(directory).map_err(in_cache)?;
    // A worker begins in another folder.
    let directory = &std::path::absolute(directory).map_err(in_cache)?;
    let path = directory.join(format!("{PREFIX}{}.cwasm", key(engine, &source)));

    if let Some(module) = load_compiled(engine, &path) {
        return Ok(Compiled { module, path });
    }
    // One process compiles; others that start at the same time wait and find its work.
    let _alone = alone_in(directory).map_err(in_cache)?;
    if let Some(module) = load_compiled(engine, &path) {
        return Ok(Compiled { module, path });
    }
    let code = compile(engine, &source).map_err(|error| StartError::GuestBroken { path: guest.into(), error })?;
    store(directory, &path, &code).map_err(in_cache)?;
    let module = load_compiled(engine, &path)
        .ok_or_else(|| in_cache(io::Error::other("what was just written cannot be loaded")))?;
    Ok(Compiled { module, path })
}

/// The guest in a file that this user's gateway has just loaded, in a process that is to be up in no time.
pub(super) fn load_again(engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
    check_owner(&fs::symlink_metadata(path)?)?;
    deserialize(engine, path)
}

/// What a compiled guest depends on: its source, what makes one module of it, and all that decides how wasmtime compiles
/// (its version, settings, CPU).
fn key(engine: &Engine, source: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let mut key = Sha256::new_with_prefix(source);
    for code in flatten::CODE {
        key.update(code);
    }
    key.update(settings.finish().to_le_bytes());
    format!("{:x}", key.finalize())
}

fn compile(engine: &Engine, source: &[u8]) -> wasmtime::Result<Vec<u8>> {
    tracing::info!("compiling the Python guest (once; 10 to 20 s of CPU time)");
    let began = Instant::now();
    let code = engine.precompile_module(&flatten::flatten(source)?)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "compiled the Python guest");
    Ok(code)
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

/// Holds the directory against everybody else who would write to it, until it is dropped.
fn alone_in(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}

fn store(directory: &Path, compiled: &Path, code: &[u8]) -> io::Result<()> {
    remove_old(directory)?;
    write_whole(&digest_path(compiled), hex_digest(code).as_bytes())?;
    write_whole(compiled, code)
}

/// Guests of earlier versions: 40 MB each that nothing will ask for again.
fn remove_old(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file that is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_added_extension(std::process::id().to_string());
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    fs::rename(unfinished, path)
}

// === one compiled file ===

fn digest_path(compiled: &Path) -> PathBuf {
    compiled.with_extension("sha256")
}

fn hex_digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn load_compiled(engine: &Engine, path: &Path) -> Option<Module> {
    match verify(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not using the compiled guest");
            return None;
        }
    }
    deserialize(engine, path)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "not using the compiled guest"))
        .ok()
}

fn verify(path: &Path) -> io::Result<()> {
    let stored = fs::read_to_string(digest_path(path))?;
    check_owner(&fs::symlink_metadata(path)?)?;
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    if format!("{:x}", digest.finalize()) != stored {
        return Err(io::Error::other("its digest is not the stored one"));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a compiled guest is machine code, and only its writer can vouch for it")]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
    // SAFETY: the file must come from `precompile_module` and must not change while it is mapped. `load` calls this
    // after `verify` only, and `load_again` in a worker whose gateway has done so: the file has the digest that `store` wrote with it, and it and its directory belong to this
    // user and can be written by nobody else. The gateway itself replaces such files (by rename), but never writes into
    // one. That version, settings and CPU fit is checked by wasmtime itself.
    unsafe { Module::deserialize_file(engine, path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The smallest component that a guest can be: a module with a memory, and an instance of it.
    const SMALLEST: &[u8] = b"\0asm\x0d\0\x01\0\x01\x0d\0asm\x01\0\0\0\x05\x03\x01\0\0\x02\x04\x01\0\0\0";

    struct Scene {
        engine: Engine,
        guest: PathBuf,
        cache: PathBuf,
        _directory: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let guest = directory.path().join("guest.wasm");
        fs::write(&guest, SMALLEST).unwrap();
        Scene { engine: Engine::default(), guest, cache: directory.path().join("cache"), _directory: directory }
    }

    impl Scene {
        fn load(&self) -> Result<Module, StartError> {
            load(&self.engine, &self.guest, &self.cache).map(|compiled| compiled.module)
        }

        fn compiled(&self) -> PathBuf {
            self.cache.join(format!("{PREFIX}{}.cwasm", key(&self.engine, &fs::read(&self.guest).unwrap())))
        }
    }

    #[test]
    fn a_missing_guest_is_named_with_the_way_out() {
        let scene = scene();
        fs::remove_file(&scene.guest).unwrap();
        let message = scene.load().unwrap_err().to_string();
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
        let message = scene.load().unwrap_err().to_string();
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
        scene.load().unwrap();
        let good = fs::read(scene.compiled()).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [flipped.as_slice(), &good[..good.len() / 2], b""] {
            fs::write(scene.compiled(), bad).unwrap();
            scene.load().unwrap();
            assert_eq!(fs::read(scene.compiled()).unwrap().len(), good.len());
        }
        fs::set_permissions(scene.compiled(), fs::Permissions::from_mode(0o666)).unwrap();
        scene.load().unwrap();
        assert_eq!(fs::metadata(scene.compiled()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_second_start_takes_the_compiled_file() {
        let scene = scene();
        scene.load().unwrap();
        let before = fs::metadata(scene.compiled()).unwrap();
        scene.load().unwrap();
        assert_eq!(fs::metadata(scene.compiled()).unwrap().ino(), before.ino());
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
    fn another_guest_replaces_the_compiled_one() {
        let scene = scene();
        scene.load().unwrap();
        let first = scene.compiled();
        // A custom section: the same component to run, other bytes.
        fs::write(&scene.guest, [SMALLEST, b"\0\x02\x01x"].concat()).unwrap();
        scene.load().unwrap();
        assert!(!first.exists() && scene.compiled().exists());
    }
}
