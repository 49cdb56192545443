//! Any sequence of operations leaves what the plainest model of a disk has: paths in a map.

use super::*;
use proptest::prelude::*;

/// By path, `None` for a directory. Parts that nobody names any more are kept for who holds them.
#[derive(Debug, Clone, Default)]
struct Model {
    paths: BTreeMap<String, Option<usize>>,
    contents: BTreeMap<usize, Vec<u8>>,
    /// By number in `contents`, with what it is in the real one.
    held: Vec<(usize, Inode)>,
}

#[derive(Debug, Clone)]
enum Step {
    Open { path: String, how: How },
    Write { path: String, offset: usize, bytes: usize },
    WriteHeld { which: prop::sample::Index, offset: usize, bytes: usize },
    Resize { path: String, bytes: usize },
    CreateDirectory(String),
    RemoveDirectory(String),
    RemoveFile(String),
    Rename(String, String),
    Put { path: String, bytes: usize },
    Delete(String),
    Hold(String),
    Release(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    let how = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(create, exclusive, truncate, directory, write)| How { create, exclusive, truncate, directory, write },
    );
    let (offset, bytes) = (0..70_usize, 0..50_usize);
    prop_oneof![
        4 => (path(), how).prop_map(|(path, how)| Step::Open { path, how }),
        4 => (path(), offset.clone(), bytes.clone())
            .prop_map(|(path, offset, bytes)| Step::Write { path, offset, bytes }),
        2 => (any::<prop::sample::Index>(), offset, bytes.clone())
            .prop_map(|(which, offset, bytes)| Step::WriteHeld { which, offset, bytes }),
        2 => (path(), 0..120_usize).prop_map(|(path, bytes)| Step::Resize { path, bytes }),
        4 => path().prop_map(Step::CreateDirectory),
        2 => path().prop_map(Step::RemoveDirectory),
        2 => path().prop_map(Step::RemoveFile),
        4 => (path(), path()).prop_map(|(old, new)| Step::Rename(old, new)),
        2 => (path(), bytes).prop_map(|(path, bytes)| Step::Put { path, bytes }),
        1 => path().prop_map(Step::Delete),
        2 => path().prop_map(Step::Hold),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

impl Model {
    fn parent_is_directory(&self, path: &str) -> Result<()> {
        for (slash, _) in path.match_indices('/') {
            match self.paths.get(&path[..slash]) {
                None => return Err(Error::NoEntry),
                Some(Some(_file)) => return Err(Error::NotDirectory),
                Some(None) => {}
            }
        }
        Ok(())
    }

    #[expect(clippy::option_option, reason = "whether something is there, and whether it is a file")]
    fn get(&self, path: &str) -> Result<Option<Option<usize>>> {
        self.parent_is_directory(path)?;
        Ok(self.paths.get(path).copied())
    }

    fn file(&self, path: &str) -> Result<usize> {
        self.get(path)?.ok_or(Error::NoEntry)?.ok_or(Error::IsDirectory)
    }

    fn is_empty(&self, directory: &str) -> bool {
        !self.paths.keys().any(|path| path.starts_with(&format!("{directory}/")))
    }

    fn bytes_left(&self) -> usize {
        BOUNDS.bytes_max - self.contents.values().map(Vec::len).sum::<usize>()
    }

    fn add(&mut self, path: &str, is_directory: bool) -> Result<()> {
        let removed = self.contents.keys().filter(|file| !self.paths.values().any(|it| *it == Some(**file)));
        if self.paths.len() + removed.count() >= BOUNDS.files_max {
            return Err(Error::NoSpace);
        }
        let file = self.contents.keys().max().map_or(0, |last| last + 1);
        if !is_directory {
            self.contents.insert(file, Vec::new());
        }
        self.paths.insert(path.to_owned(), (!is_directory).then_some(file));
        Ok(())
    }

    fn forget(&mut self) {
        let (paths, held) = (&self.paths, &self.held);
        let is_named = |file: usize| paths.values().any(|it| *it == Some(file));
        self.contents.retain(|file, _| is_named(*file) || held.iter().any(|(held, _)| held == file));
    }

    fn write(&mut self, file: usize, offset: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let end = (self.contents[&file].len() + self.bytes_left()).min(offset + bytes);
        if end <= offset {
            return Err(Error::NoSpace);
        }
        let contents = self.contents.get_mut(&file).unwrap();
        contents.resize(contents.len().max(end), 0);
        contents[offset..end].fill(7);
        Ok(())
    }

    fn open(&mut self, path: &str, how: How) -> Result<()> {
        match self.get(path)? {
            Some(_) if how.create && how.exclusive => Err(Error::Exist),
            Some(None) if how.create || how.truncate || how.write => Err(Error::IsDirectory),
            Some(None) => Ok(()),
            Some(Some(_)) if how.directory => Err(Error::NotDirectory),
            Some(Some(file)) => {
                if how.truncate {
                    self.contents.insert(file, Vec::new());
                }
                Ok(())
            }
            None if !how.create => Err(Error::NoEntry),
            None if how.directory => Err(Error::Invalid),
            None => self.add(path, false),
        }
    }

    fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        self.parent_is_directory(old)?;
        self.parent_is_directory(new)?;
        let moved = self.get(old)?.ok_or(Error::NoEntry)?;
        if moved.is_none() && new.starts_with(&format!("{old}/")) {
            return Err(Error::Invalid);
        }
        if old == new {
            return Ok(());
        }
        match (moved, self.get(new)?) {
            (None, Some(Some(_))) => return Err(Error::NotDirectory),
            (Some(_), Some(None)) => return Err(Error::IsDirectory),
            (None, Some(None)) if !self.is_empty(new) => return Err(Error::NotEmpty),
            _ => {}
        }
        let below: Vec<String> =
            self.paths.keys().filter(|path| path.starts_with(&format!("{old}/"))).cloned().collect();
        for path in below.iter().map(String::as_str).chain([old]) {
            let it = self.paths.remove(path).unwrap();
            self.paths.insert(format!("{new}{}", &path[old.len()..]), it);
        }
        Ok(())
    }

    fn put(&mut self, path: &str, bytes: usize) -> Result<()> {
        match self.file(path) {
            Ok(file) => {
                if bytes.saturating_sub(self.contents[&file].len()) > self.bytes_left() {
                    return Err(Error::NoSpace);
                }
            }
            Err(Error::NoEntry) => {
                if bytes > self.bytes_left() {
                    return Err(Error::NoSpace);
                }
                for (slash, _) in path.match_indices('/') {
                    if !self.paths.contains_key(&path[..slash]) {
                        self.add(&path[..slash], true)?;
                    }
                }
                self.add(path, false)?;
            }
            Err(refused) => return Err(refused),
        }
        let file = self.file(path)?;
        self.contents.insert(file, Vec::new());
        self.write(file, 0, bytes)
    }

    fn delete(&mut self, path: &str) -> Result<()> {
        self.get(path)?.ok_or(Error::NoEntry)?;
        self.paths.retain(|it, _| it != path && !it.starts_with(&format!("{path}/")));
        Ok(())
    }
}

/// Does it to both, and gives what each of them says.
fn take(step: &Step, model: &mut Model, files: &mut Files) -> (Result<()>, Result<()>) {
    let from = WORKSPACE;
    let done = match step {
        Step::Open { path, how } => {
            (model.open(path, *how), files.open(from, path, *how, NOW).map(|inode| files.release(inode)))
        }
        Step::Write { path, offset, bytes } => (
            model.file(path).and_then(|file| model.write(file, *offset, *bytes)),
            files.find(from, path).and_then(|inode| {
                files.file(inode)?;
                files.write(inode, *offset as u64, &vec![7; *bytes], NOW).map(|_| ())
            }),
        ),
        Step::WriteHeld { which, offset, bytes } if !model.held.is_empty() => {
            let (file, inode) = *which.get(&model.held);
            (model.write(file, *offset, *bytes), files.write(inode, *offset as u64, &vec![7; *bytes], NOW).map(|_| ()))
        }
        Step::Resize { path, bytes } => (
            model.file(path).and_then(|file| {
                if bytes.saturating_sub(model.contents[&file].len()) > model.bytes_left() {
                    return Err(Error::NoSpace);
                }
                model.contents.get_mut(&file).unwrap().resize(*bytes, 0);
                Ok(())
            }),
            files.find(from, path).and_then(|inode| files.resize(inode, *bytes as u64, NOW)),
        ),
        Step::CreateDirectory(path) => (
            model.get(path).and_then(|there| if there.is_some() { Err(Error::Exist) } else { model.add(path, true) }),
            files.create_directory(from, path, NOW),
        ),
        Step::RemoveDirectory(path) => (
            model.get(path).and_then(|there| match there.ok_or(Error::NoEntry)? {
                Some(_file) => Err(Error::NotDirectory),
                None if !model.is_empty(path) => Err(Error::NotEmpty),
                None => model.delete(path),
            }),
            files.remove_directory(from, path, NOW),
        ),
        Step::RemoveFile(path) => {
            (model.file(path).and_then(|_| model.delete(path)), files.remove_file(from, path, NOW))
        }
        Step::Rename(old, new) => (model.rename(old, new), files.rename(from, old, from, new, NOW)),
        Step::Put { path, bytes } => (
            model.put(path, *bytes),
            files.put(&WorkspacePath::new(path.as_str()).unwrap(), &vec![7; *bytes], NOW).map(|_| ()),
        ),
        Step::Delete(path) => (model.delete(path), files.delete(&WorkspacePath::new(path.as_str()).unwrap(), NOW)),
        Step::Hold(path) => {
            let (file, inode) = (model.file(path), files.find(from, path));
            if let (Ok(file), Ok(inode)) = (file, inode) {
                files.hold(inode).unwrap();
                model.held.push((file, inode));
            }
            return (Ok(()), Ok(()));
        }
        Step::Release(which) if !model.held.is_empty() => {
            let (_, inode) = model.held.remove(which.index(model.held.len()));
            files.release(inode);
            (Ok(()), Ok(()))
        }
        Step::WriteHeld { .. } | Step::Release(_) => (Ok(()), Ok(())),
    };
    model.forget();
    done
}

fn assert_same(model: &Model, files: &Files) {
    for (path, it) in &model.paths {
        let inode = files.find(WORKSPACE, path).unwrap();
        match it {
            Some(file) => assert_eq!(files.read(inode, 0, usize::MAX).unwrap(), model.contents[file], "{path}"),
            None => assert!(files.stat(inode).unwrap().is_directory, "{path}"),
        }
    }
    for (file, inode) in &model.held {
        assert_eq!(files.read(*inode, 0, usize::MAX).unwrap(), model.contents[file]);
    }
    let removed = model.contents.keys().filter(|file| !model.paths.values().any(|it| *it == Some(**file)));
    assert_eq!(files.nodes.len(), FIXED + model.paths.len() + removed.count());
    assert_eq!(files.bytes, model.contents.values().map(Vec::len).sum::<usize>());
}

proptest! {
    #[test]
    fn any_sequence_of_operations_does_what_a_map_of_paths_does(steps in prop::collection::vec(step(), 1..60)) {
        let (mut model, mut files) = (Model::default(), files());
        for step in steps {
            let (expected, done) = take(&step, &mut model, &mut files);
            prop_assert_eq!(&done, &expected, "{:?} in {:?}", step, model);
            assert_same(&model, &files);
        }
        let held: Vec<Inode> = model.held.iter().map(|(_, inode)| *inode).collect();
        prop_assert_eq!(parked(&files, &held), Ok(files));
    }

    #[test]
    fn any_bytes_decode_to_whole_files_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut parked = postcard::to_allocvec(&files()).unwrap();
        for (place, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte > 200) {
            let place = place % parked.len();
            parked[place] = byte - 200;
        }
        if let Ok(mut files) = postcard::from_bytes::<Files>(&parked)
            && files.check(BOUNDS, []).is_ok()
        {
            files.list();
            prop_assert_eq!(files.find(ROOT, "workspace/.."), Ok(ROOT));
        }
    }
}
