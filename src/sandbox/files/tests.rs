mod model;

use super::workspace::WorkspacePath;
use super::*;

const BOUNDS: Bounds = Bounds { files_max: 8, bytes_max: 100 };
const NOW: Time = Time::from_secs(9);
const WRITE: How = How { create: true, exclusive: false, truncate: true, directory: false, write: true };

fn files() -> Files {
    bounded(BOUNDS)
}

fn bounded(bounds: Bounds) -> Files {
    let mut files = Files::default();
    files.begin(bounds, NOW);
    files
}

/// What is left when nobody holds it.
fn write(files: &mut Files, path: &str, bytes: &[u8]) -> Result<()> {
    let inode = files.open(ROOT, path, WRITE, NOW)?;
    let written = files.write(inode, 0, bytes, NOW);
    files.release(inode);
    written.map(|_| ())
}

fn read<'f>(files: &'f Files, path: &str) -> Result<&'f [u8]> {
    files.read(files.find(ROOT, path)?, 0, usize::MAX)
}

fn names(files: &Files, directory: &str) -> Vec<String> {
    let directory = files.find(ROOT, directory).unwrap();
    let (mut names, mut last) = (Vec::new(), String::new());
    while let Some((name, _)) = files.entry_after(directory, &last).unwrap() {
        last = name.to_owned();
        names.push(name.to_owned());
    }
    names
}

/// As a worker sends it and the gateway takes it.
fn parked(files: &Files, held: &[Inode]) -> std::result::Result<Files, String> {
    let bytes = postcard::to_allocvec(files).unwrap();
    let mut files: Files = postcard::from_bytes(&bytes).map_err(|error| error.to_string())?;
    files.check(BOUNDS, held.iter().copied()).map_err(|broken| broken.to_string())?;
    Ok(files)
}

// === paths ===

#[test]
fn no_path_leads_out() {
    let mut files = files();
    assert_eq!(files.find(ROOT, "../../tmp/../..").unwrap(), ROOT);
    assert_eq!(files.find(TMP, "../../etc/passwd"), Err(Error::NoEntry));
    assert_eq!(files.find(ROOT, "/tmp"), Err(Error::NotPermitted));
    write(&mut files, "tmp/../../workspace/./a", b"x").unwrap();
    assert_eq!(names(&files, "workspace"), ["a"]);
}

#[test]
fn bad_paths_say_what_is_wrong() {
    let mut files = files();
    write(&mut files, "tmp/file", b"").unwrap();
    let name = |bytes: usize| "n".repeat(bytes);
    for (path, error) in [
        ("", Error::NoEntry),
        ("tmp/no", Error::NoEntry),
        ("no/no", Error::NoEntry),
        ("tmp/file/", Error::NotDirectory),
        ("tmp/file/x", Error::NotDirectory),
        ("tmp/file/..", Error::NotDirectory),
        ("tmp/\0", Error::ZeroByte),
        (&name(256), Error::NameTooLong),
        (&"./".repeat(600), Error::NameTooLong),
    ] {
        assert_eq!(files.find(ROOT, path), Err(error), "{path:?}");
    }
    assert_eq!(files.find(ROOT, &name(255)), Err(Error::NoEntry));
    assert_eq!(files.open(ROOT, "tmp/new/", WRITE, NOW), Err(Error::IsDirectory));
    assert_eq!(files.open(ROOT, "tmp/.", WRITE, NOW), Err(Error::IsDirectory));
}

#[test]
fn paths_get_no_longer_than_their_bound_by_any_way() {
    let mut files = bounded(Bounds { files_max: 100, ..BOUNDS });
    let name = "d".repeat(200);
    let mut directory = TMP;
    for _ in 0..5 {
        files.create_directory(directory, &name, NOW).unwrap();
        directory = files.find(directory, &name).unwrap();
    }
    // "/tmp" and five times "/ddd…" are 1009.
    assert_eq!(files.create_directory(directory, &"e".repeat(15), NOW), Err(Error::NameTooLong));
    files.create_directory(directory, &"e".repeat(14), NOW).unwrap();
    files.create_directory(ROOT, "workspace/a", NOW).unwrap();
    assert_eq!(files.rename(TMP, &name, ROOT, "workspace/a/b", NOW), Ok(()));
    assert_eq!(files.rename(ROOT, "workspace/a", TMP, &"x".repeat(250), NOW), Err(Error::NameTooLong));
}

// === files and directories ===

#[test]
fn a_removed_file_lives_until_nobody_holds_it() {
    let mut files = files();
    let inode = files.open(ROOT, "tmp/a", WRITE, NOW).unwrap();
    files.hold(inode).unwrap();
    files.write(inode, 0, &[1; 60], NOW).unwrap();
    files.remove_file(ROOT, "tmp/a", NOW).unwrap();
    assert_eq!((files.find(ROOT, "tmp/a"), files.stat(inode).unwrap().links), (Err(Error::NoEntry), 0));
    files.write(inode, 60, &[2; 20], NOW).unwrap();
    assert_eq!(files.read(inode, 59, 2).unwrap(), [1, 2]);
    assert_eq!(write(&mut files, "tmp/b", &[0; 21]), Ok(()));
    assert_eq!(read(&files, "tmp/b").unwrap().len(), 20);

    files.release(inode);
    assert_eq!(files.stat(inode).unwrap().bytes, 80);
    files.release(inode);
    assert_eq!(files.stat(inode), Err(Error::NoEntry));
    write(&mut files, "tmp/b", &[0; 100]).unwrap();
    assert_eq!(read(&files, "tmp/b").unwrap().len(), 100);
}

#[test]
fn nothing_comes_into_a_directory_that_was_removed() {
    let mut files = files();
    files.create_directory(TMP, "d", NOW).unwrap();
    let directory = files.open(TMP, "d", How::default(), NOW).unwrap();
    files.remove_directory(TMP, "d", NOW).unwrap();
    assert_eq!(files.open(directory, "a", WRITE, NOW), Err(Error::NoEntry));
    assert_eq!(files.find(directory, ".."), Err(Error::NoEntry));
    assert_eq!(files.entry_after(directory, ""), Ok(None));
}

#[test]
fn what_is_always_there_stays() {
    let mut files = files();
    for path in ["tmp", "workspace", "tmp/", "."] {
        assert_eq!(files.remove_directory(ROOT, path, NOW), Err(Error::Busy), "{path}");
        assert_eq!(files.rename(ROOT, path, ROOT, "other", NOW), Err(Error::Busy), "{path}");
    }
    files.create_directory(ROOT, "d", NOW).unwrap();
    assert_eq!(files.rename(ROOT, "d", ROOT, "tmp", NOW), Err(Error::Busy));
    assert_eq!(files.remove_file(ROOT, "tmp", NOW), Err(Error::IsDirectory));
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let mut files = files();
    files.create_directory(TMP, "d", NOW).unwrap();
    files.create_directory(TMP, "d/e", NOW).unwrap();
    for new in ["d/x", "d/e/x", "d/e"] {
        assert_eq!(files.rename(TMP, "d", TMP, new, NOW), Err(Error::Invalid), "{new}");
    }
    assert_eq!(files.rename(TMP, "d/e", TMP, "d", NOW), Err(Error::NotEmpty));
    assert_eq!(files.rename(TMP, "d", TMP, "d", NOW), Ok(()));
}

#[test]
fn times_follow_what_happens() {
    let mut files = files();
    let inode = files.open(TMP, "a", WRITE, Time::from_secs(11)).unwrap();
    files.write(inode, 0, b"x", Time::from_secs(12)).unwrap();
    files.rename(TMP, "a", WORKSPACE, "a", Time::from_secs(13)).unwrap();
    let stat = files.stat(inode).unwrap();
    assert_eq!([stat.accessed, stat.modified, stat.changed].map(|time| time.as_secs()), [11, 12, 13]);
    assert_eq!(files.stat(TMP).unwrap().modified, Time::from_secs(13));
    files.set_times(inode, Some(Time::from_secs(17)), None, Time::from_secs(18)).unwrap();
    let stat = files.stat(inode).unwrap();
    assert_eq!([stat.accessed, stat.modified, stat.changed].map(|time| time.as_secs()), [17, 12, 18]);
}

// === bounds ===

#[test]
fn a_full_disk_takes_what_fits() {
    let mut files = files();
    let inode = files.open(TMP, "a", WRITE, NOW).unwrap();
    assert_eq!(files.write(inode, 0, &[1; 101], NOW), Ok(100));
    assert_eq!(files.write(inode, 100, &[1], NOW), Err(Error::NoSpace));
    // To write over what is there takes no space.
    assert_eq!((files.room(inode, 40), files.write(inode, 90, &[2; 20], NOW)), (Ok(60), Ok(10)));
    assert_eq!(files.resize(inode, 101, NOW), Err(Error::NoSpace));
    files.resize(inode, 50, NOW).unwrap();
    assert_eq!(files.write(inode, 99, &[3; 9], NOW), Ok(1));
    assert_eq!(files.read(inode, 48, 3).unwrap(), [1, 1, 0]);
    for far in [100, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(files.write(inode, far, &[1], NOW), Err(Error::NoSpace), "{far}");
        assert_eq!(files.read(inode, far, 9), Ok([].as_slice()), "{far}");
    }
    assert_eq!(files.resize(inode, u64::MAX, NOW), Err(Error::NoSpace));
}

#[test]
fn files_and_directories_are_counted_together() {
    let mut files = files();
    for name in 0..4 {
        files.create_directory(ROOT, &format!("d{name}"), NOW).unwrap();
        write(&mut files, &format!("f{name}"), b"").unwrap();
    }
    assert_eq!(write(&mut files, "g", b""), Err(Error::NoSpace));
    assert_eq!(files.create_directory(ROOT, "e", NOW), Err(Error::NoSpace));
    files.remove_file(ROOT, "f0", NOW).unwrap();
    assert_eq!(write(&mut files, "g", b""), Ok(()));
}

// === what a client does ===

#[test]
fn a_client_names_files_in_the_workspace_only() {
    for path in ["", "/", "/a", "a/", "a//b", "..", "../tmp/a", "a/../b", ".", "./a", "a/."] {
        assert_eq!(WorkspacePath::new(path), Err(Error::NotPermitted), "{path:?}");
    }
    assert_eq!(WorkspacePath::new("a\0"), Err(Error::ZeroByte));
    assert_eq!(WorkspacePath::new("a".repeat(1014)), Err(Error::NameTooLong));
    for path in ["a", "...", "a/.b/c d", "é\n", "C:\\x"] {
        assert!(WorkspacePath::new(path).is_ok(), "{path:?}");
    }
}

#[test]
fn a_client_puts_gets_lists_and_deletes_files() {
    let mut files = files();
    let path = |path: &str| WorkspacePath::new(path).unwrap();
    write(&mut files, "tmp/hidden", b"no").unwrap();
    assert_eq!(files.put(&path("a/b/c.txt"), b"one", NOW), Ok(true));
    assert_eq!(files.put(&path("a/b/c.txt"), b"seven77", NOW), Ok(false));
    assert_eq!(files.put(&path("a-0"), b"", NOW), Ok(true));
    files.create_directory(ROOT, "workspace/empty", NOW).unwrap();
    assert_eq!(files.get(&path("a/b/c.txt")).unwrap(), b"seven77");
    let listed: Vec<_> = files.list().into_iter().map(|listed| (listed.path, listed.bytes)).collect();
    let expected = [("a-0", 0), ("a/b/c.txt", 7), ("empty/", 0)];
    assert_eq!(listed, expected.map(|(path, bytes)| (path.to_owned(), bytes)));

    for (there, error) in [("a", Error::IsDirectory), ("a-0/x", Error::NotDirectory), ("x", Error::NoEntry)] {
        assert_eq!(files.get(&path(there)), Err(error), "{there}");
    }
    assert_eq!(files.put(&path("a/b"), b"", NOW), Err(Error::IsDirectory));
    assert_eq!(files.put(&path("a/b/c.txt"), &[0; 99], NOW), Err(Error::NoSpace));
    assert_eq!(files.get(&path("a/b/c.txt")).unwrap(), b"seven77");

    files.delete(&path("a"), NOW).unwrap();
    assert_eq!(files.delete(&path("a"), NOW), Err(Error::NoEntry));
    assert_eq!(files.list().len(), 2);
    assert_eq!(files.put(&path("full"), &[0; 98], NOW), Ok(true));
}

// === what is parked ===

#[test]
fn parked_files_come_back_as_they_were() {
    let mut files = files();
    write(&mut files, "workspace/a", b"text").unwrap();
    let open = files.open(ROOT, "tmp/open", WRITE, NOW).unwrap();
    files.write(open, 0, b"open", NOW).unwrap();
    files.remove_file(ROOT, "tmp/open", NOW).unwrap();
    let mut back = parked(&files, &[open]).unwrap();
    assert_eq!(back, files);
    back.release(open);
    assert_eq!(back.stat(open), Err(Error::NoEntry));
}

#[test]
fn broken_files_are_refused() {
    type Break = fn(&mut Files);
    let breaks: [(&str, Break); 15] = [
        ("no root", |files| {
            files.nodes.remove(&ROOT);
        }),
        ("numbers that will be used twice", |files| files.next = Inode(4)),
        ("numbers that will be used twice", |files| files.next = Inode(u64::MAX)),
        ("too many", |files| {
            for inode in 50..60 {
                files.nodes.insert(Inode(inode), Node::new(TMP, Kind::file(), NOW));
            }
        }),
        ("too many bytes", |files| put(files, "workspace/d/a", Kind::File(vec![0; 101].into()))),
        ("a directory is missing", |files| {
            entries(files, ROOT).remove("tmp");
        }),
        ("a directory is missing", |files| {
            entries(files, ROOT).insert("tmp".into(), WORKSPACE);
        }),
        ("a directory is missing", |files| files.nodes.get_mut(&ROOT).unwrap().parent = None),
        ("a name that cannot be", |files| {
            entries(files, TMP).insert("..".into(), ROOT);
        }),
        ("a name that cannot be", |files| {
            entries(files, TMP).insert("a/b".into(), ROOT);
        }),
        ("a name that cannot be", |files| {
            entries(files, TMP).insert("n".repeat(256), ROOT);
        }),
        ("an entry that leads elsewhere", |files| {
            entries(files, TMP).insert("loop".into(), TMP);
        }),
        ("an entry that leads elsewhere", |files| {
            entries(files, TMP).insert("no".into(), Inode(77));
        }),
        ("an entry that leads elsewhere", |files| {
            let inode = files.find(ROOT, "workspace/d/a").unwrap();
            let directory = files.find(ROOT, "workspace/d").unwrap();
            entries(files, directory).insert("twice".into(), inode);
        }),
        ("one outside of the tree", |files| {
            let directory = files.find(ROOT, "workspace/d").unwrap();
            entries(files, WORKSPACE).clear();
            files.nodes.get_mut(&directory).unwrap().parent = Some(directory);
        }),
    ];
    for (why, break_it) in breaks {
        let mut files = files();
        files.create_directory(ROOT, "workspace/d", NOW).unwrap();
        write(&mut files, "workspace/d/a", b"").unwrap();
        files.next = Inode(100);
        assert!(parked(&files, &[]).is_ok());
        break_it(&mut files);
        let refused = parked(&files, &[]).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }
    assert!(parked(&files(), &[Inode(9)]).unwrap_err().contains("a descriptor of no file"));
}

#[test]
fn files_stay_whole_where_their_numbers_run_out() {
    let mut files = files();
    files.next = Inode(INODE_MAX.0 - 1);
    write(&mut files, "tmp/last", b"").unwrap();
    assert_eq!(write(&mut files, "tmp/more", b""), Err(Error::NoSpace));
    assert_eq!(parked(&files, &[]).unwrap(), files);
}

fn entries(files: &mut Files, directory: Inode) -> &mut BTreeMap<String, Inode> {
    files.directory_mut(directory, NOW).unwrap()
}

fn put(files: &mut Files, path: &str, kind: Kind) {
    let inode = files.find(ROOT, path).unwrap();
    files.nodes.get_mut(&inode).unwrap().kind = kind;
}
