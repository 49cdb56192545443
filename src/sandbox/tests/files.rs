//! What programs do with files. Each of [`PROGRAMS`] also runs as a component over a real directory: see `oracle`.

use super::*;

/// One run of a fresh interpreter each, and the value of its last expression.
pub(super) const PROGRAMS: [(&str, &str); 32] = [
    // === open ===
    (
        "with open('a', 'w') as f:\n    f.write('hé\\n')\nwith open('a', 'a') as f:\n    f.write('more')\n\
         with open('a') as f:\n    lines = f.readlines()\nlines, open('a', 'rb').read(), f.closed",
        "(['hé\\n', 'more'], b'h\\xc3\\xa9\\nmore', True)",
    ),
    (
        "f = open('a', 'w+b')\nf.write(b'0123456789')\nf.seek(3)\na = f.read(2)\nf.seek(-2, 2)\nf.write(b'XY!')\nf.seek(0)\n\
         a, f.read(), f.tell(), f.truncate(4), f.seek(0, 2), f.read(), f.seek(9), f.write(b'z'), f.seek(0), f.read()",
        "(b'34', b'01234567XY!', 11, 4, 4, b'', 9, 1, 0, b'0123\\x00\\x00\\x00\\x00\\x00z')",
    ),
    (
        "import os\nfd = os.open('a', os.O_RDWR | os.O_CREAT)\nos.write(fd, b'hello')\nos.lseek(fd, 1, 0)\n\
         a = os.read(fd, 2), os.pread(fd, 2, 3), os.pwrite(fd, b'J', 0), os.fsync(fd), os.ftruncate(fd, 3)\n\
         a, os.fstat(fd).st_size, os.lseek(fd, 0, 0), os.read(fd, 10), os.close(fd)",
        "((b'el', b'lo', 1, None, None), 3, 0, b'Jel', None)",
    ),
    (
        "import os\nopen('a', 'w').write('kept')\nf = open('a', 'r+')\nos.unlink('a')\nf.seek(4)\nf.write(' on')\nf.seek(0)\n\
         f.read(), os.listdir(), os.fstat(f.fileno()).st_nlink, open('a', 'w').write('new'), f.seek(0), f.read()",
        "('kept on', [], 0, 3, 0, 'kept on')",
    ),
    (
        "open('a', 'w').write('x')\none, two = open('a'), open('a', 'a')\ntwo.write('y' * 10)\ntwo.flush()\nlen(one.read())",
        "11",
    ),
    // === pathlib, os, shutil ===
    (
        "from pathlib import Path\np = Path('p')\n(p / 'a/b').mkdir(parents=True)\n(p / 'a/x.txt').write_text('x')\n\
         (p / 'y.txt').write_bytes(b'yy')\nfound = sorted(map(str, p.rglob('*')))\n(p / 'y.txt').rename(p / 'z.txt')\n\
         there = sorted(map(str, p.iterdir())), sorted(map(str, p.glob('*.txt')))\n(p / 'z.txt').unlink()\n(p / 'a/b').rmdir()\n\
         found, there, (p / 'a/x.txt').stat().st_size, p.is_dir(), (p / 'no').exists(), (p / 'a/../a/x.txt').resolve()",
        "(['p/a', 'p/a/b', 'p/a/x.txt', 'p/y.txt'], (['p/a', 'p/z.txt'], ['p/z.txt']), 1, True, False, \
         PosixPath('/workspace/p/a/x.txt'))",
    ),
    (
        "import os\nfor i in range(300):\n    open(f'f{i}', 'w').close()\n    if i % 3:\n        os.rename(f'f{i}', f'g{i}')\n\
         for e in os.scandir():\n    if e.name[0] == 'g':\n        os.unlink(e.path)\n\
         len(os.listdir()), sorted(e.name for e in os.scandir('/')), [e.is_dir() for e in os.scandir('/')]",
        "(100, ['tmp', 'workspace'], [True, True])",
    ),
    (
        "import os\nos.makedirs('d/e')\nos.chdir('d/e')\nopen('../../a', 'w').write('x')\nhere = os.getcwd()\nos.chdir('/')\n\
         here, os.listdir('workspace/d'), open('/workspace/a').read(), os.path.realpath('tmp/../workspace/a')",
        "('/workspace/d/e', ['e'], 'x', '/workspace/a')",
    ),
    (
        "import os\nopen('a', 'w').write('old')\nopen('b', 'w').write('new')\nos.replace('b', 'a')\nos.utime('a', (5, 6.5))\n\
         s = os.stat('a')\nopen('a').read(), s.st_atime, s.st_mtime, s.st_size, s.st_nlink, os.listdir(), \
         os.path.samefile('a', './a'), os.path.isfile('a'), os.access('a', os.R_OK | os.W_OK), os.access('b', os.R_OK)",
        "('new', 5.0, 6.5, 3, 1, ['a'], True, True, True, False)",
    ),
    (
        "import os, shutil\nos.makedirs('s/a/b')\nfor n in 'fg':\n    open(f's/a/{n}', 'w').write(n)\n\
         done = [shutil.copy('s/a/f', 's/f2'), shutil.copytree('s/a', 't'), shutil.move('t', 'u'), shutil.move('s/f2', 'u/')]\n\
         done.append(shutil.copy2('u/g', 'u/b'))\n\
         tree = [(at, sorted(folders), sorted(files)) for at, folders, files in os.walk('u')]\nshutil.rmtree('s')\nshutil.rmtree('u')\n\
         done, tree, os.listdir()",
        "(['s/f2', 't', 'u', 'u/f2', 'u/b/g'], [('u', ['b'], ['f', 'f2', 'g']), ('u/b', [], ['g'])], [])",
    ),
    (
        "import os, glob, filecmp\nos.makedirs('a/b')\nfor n in ('a/x.py', 'a/b/y.py', 'z.txt'):\n    open(n, 'w').write('1')\n\
         sorted(glob.glob('**/*.py', recursive=True)), filecmp.cmp('a/x.py', 'z.txt'), os.path.getsize('a/b/y.py')",
        "(['a/b/y.py', 'a/x.py'], True, 1)",
    ),
    // === tempfile ===
    (
        "import tempfile, os\nwith tempfile.NamedTemporaryFile() as f:\n    f.write(b'x')\n    f.flush()\n\
         \u{20}   a = open(f.name, 'rb').read(), os.path.dirname(f.name)\na, os.path.exists(f.name), tempfile.gettempdir()",
        "((b'x', '/tmp'), False, '/tmp')",
    ),
    (
        "import tempfile, os\nwith tempfile.TemporaryDirectory() as d:\n    os.mkdir(d + '/s')\n    open(d + '/s/z', 'w').write('z')\n\
         with tempfile.TemporaryFile('w+') as f:\n    f.write('abc')\n    f.seek(0)\n    a = f.read()\n\
         with tempfile.SpooledTemporaryFile(max_size=2) as f:\n    f.write(b'abcdef')\n    f.seek(0)\n    b = f.read()\n\
         fd, name = tempfile.mkstemp(suffix='.x')\nos.close(fd)\nos.path.exists(d), a, b, name[:5], name[-2:], len(os.listdir('/tmp'))",
        "(False, 'abc', b'abcdef', '/tmp/', '.x', 1)",
    ),
    // === formats ===
    (
        "import csv, json\nwith open('c.csv', 'w', newline='') as f:\n    csv.writer(f).writerows([[1, 'a,b'], ['é', '\"']])\n\
         with open('j.json', 'w') as f:\n    json.dump({'a': [1]}, f)\n\
         list(csv.reader(open('c.csv', newline=''))), json.load(open('j.json')), open('c.csv').read()",
        "([['1', 'a,b'], ['é', '\"']], {'a': [1]}, '1,\"a,b\"\\né,\"\"\"\"\\n')",
    ),
    (
        "import zipfile, os\nos.makedirs('z/d')\nopen('z/d/f', 'w').write('data' * 100)\n\
         with zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n    z.write('z/d/f')\n    z.write('/tmp')\n\
         with zipfile.ZipFile('a.zip', 'a') as z:\n    z.writestr('t', 'str')\n\
         with zipfile.ZipFile('a.zip') as z:\n    z.extractall('x')\n    names = z.namelist(), z.testzip()\n\
         names, open('x/z/d/f').read(5), open('x/t').read()",
        "((['z/d/f', 'tmp/', 't'], None), 'datad', 'str')",
    ),
    (
        "import tarfile, os\nos.makedirs('z/d')\nopen('z/d/f', 'w').write('data')\n\
         with tarfile.open('a.tgz', 'w:gz') as t:\n    t.add('z')\n\
         with tarfile.open('a.tgz') as t:\n    names = t.getnames()\n    t.extractall('x', filter='data')\nnames, open('x/z/d/f').read()",
        "(['z', 'z/d', 'z/d/f'], 'data')",
    ),
    (
        "import gzip, shutil\nwith gzip.open('g.gz', 'wt') as f:\n    f.write('hello\\n' * 1000)\n\
         with gzip.open('g.gz') as f, open('g', 'wb') as to:\n    shutil.copyfileobj(f, to)\nlen(open('g').readlines())",
        "1000",
    ),
    (
        "import configparser, pickle\nc = configparser.ConfigParser()\nc['a'] = {'b': 'c'}\nwith open('c.ini', 'w') as f:\n    c.write(f)\n\
         d = configparser.ConfigParser()\nd.read('c.ini')\nwith open('p', 'wb') as f:\n    pickle.dump({1: 2}, f)\n\
         dict(d['a']), pickle.load(open('p', 'rb'))",
        "({'b': 'c'}, {1: 2})",
    ),
    (
        "import fileinput\nopen('a', 'w').write('x\\ny\\n')\nread = list(fileinput.input('a'))\n\
         with fileinput.input('a', inplace=True) as f:\n    for line in f:\n        print(line.upper(), end='')\nread, open('a').read()",
        "(['x\\n', 'y\\n'], 'X\\nY\\n')",
    ),
    (
        "import logging, logging.handlers, os\nlog = logging.getLogger('x')\nh = logging.FileHandler('l.log')\nlog.addHandler(h)\n\
         log.warning('hi')\nh.close()\nlog.removeHandler(h)\nh = logging.handlers.RotatingFileHandler('r.log', maxBytes=50, backupCount=2)\n\
         log.addHandler(h)\nfor i in range(10):\n    log.warning('line %d of many', i)\nh.close()\n\
         open('l.log').read(), sorted(os.listdir())",
        "('hi\\n', ['l.log', 'r.log', 'r.log.1', 'r.log.2'])",
    ),
    (
        "import shelve, dbm.dumb\nwith shelve.open('s') as s:\n    s['k'] = [1, 2]\nwith shelve.open('s') as s:\n    a = dict(s)\n\
         with dbm.dumb.open('d', 'c') as d:\n    d[b'a'] = b'1'\na, dict(dbm.dumb.open('d'))",
        "({'k': [1, 2]}, {b'a': b'1'})",
    ),
    // === sqlite3 ===
    (
        "import sqlite3, os\ndb = sqlite3.connect('s.db')\ndb.execute('create table t(a integer primary key, b)')\n\
         db.executemany('insert into t(b) values(?)', [('v' * 50,)] * 1000)\nduring = [n for n in os.listdir() if n == 's.db-journal']\n\
         db.commit()\ndb.execute('delete from t')\ndb.rollback()\ndb.close()\ndb = sqlite3.connect('s.db')\n\
         during, db.execute('select count(*) from t').fetchone(), db.execute('pragma integrity_check').fetchone(), os.listdir()",
        "(['s.db-journal'], (1000,), ('ok',), ['s.db'])",
    ),
    (
        "import sqlite3\ndb = sqlite3.connect('s.db')\nmode = db.execute('pragma journal_mode=wal').fetchone()\n\
         db.execute('create table t(a)')\ndb.execute('insert into t values(1)')\ndb.execute('commit')\ndb.execute('vacuum')\n\
         copy = sqlite3.connect('c.db')\ndb.backup(copy)\ncopy.execute('insert into t values(2)')\n\
         mode, copy.execute('select sum(a) from t').fetchone()",
        "(('delete',), (3,))",
    ),
    // === modules ===
    (
        "import importlib\ntry:\n    import mine\nexcept ModuleNotFoundError as e:\n    print(e)\nopen('mine.py', 'w').write('x = 1')\n\
         import mine\nopen('mine.py', 'w').write('x = 2')\nimportlib.reload(mine)\nmine.x, mine.__file__",
        "(2, '/workspace/mine.py')",
    ),
    // === what is refused ===
    (
        "def why(f, *args):\n    try: return f(*args)\n    except OSError as e: return type(e).__name__, e.strerror\n\
      import os\nos.mkdir('d')\nopen('f', 'w').close()\n\
      [why(*it) for it in [(open, 'no'), (open, 'no/f'), (open, 'f/x'), (open, 'd'), (open, 'd', 'w'), (open, 'f', 'x')]]",
        "[('FileNotFoundError', 'No such file or directory'), ('FileNotFoundError', 'No such file or directory'), \
      ('NotADirectoryError', 'Not a directory'), ('IsADirectoryError', 'Is a directory'), \
      ('IsADirectoryError', 'Is a directory'), ('FileExistsError', 'File exists')]",
    ),
    (
        "def why(f, *args):\n    try: return f(*args)\n    except OSError as e: return type(e).__name__, e.strerror\n\
      import os\nos.makedirs('d/e')\nopen('f', 'w').close()\n\
      [why(*it) for it in [(os.mkdir, 'd'), (os.rmdir, 'd'), (os.rmdir, 'f'), (os.unlink, 'd'), (os.listdir, 'f'), (os.chdir, 'f'), \
       (os.rename, 'no', 'x'), (os.rename, 'd', 'd/e/x'), (os.rename, 'd', 'f'), (os.rename, 'f', 'd'), (os.readlink, 'f')]]",
        "[('FileExistsError', 'File exists'), ('OSError', 'Directory not empty'), ('NotADirectoryError', 'Not a directory'), \
      ('IsADirectoryError', 'Is a directory'), ('NotADirectoryError', 'Not a directory'), ('NotADirectoryError', 'Not a directory'), \
      ('FileNotFoundError', 'No such file or directory'), ('OSError', 'Invalid argument'), ('NotADirectoryError', 'Not a directory'), \
      ('IsADirectoryError', 'Is a directory'), ('OSError', 'Invalid argument')]",
    ),
    (
        "def why(f, *args):\n    try: return f(*args)\n    except OSError as e: return type(e).__name__, e.strerror\n\
      import os\n[why(open, p, 'w') for p in ('x' * 256, '\\udc80', 'd/', '')]",
        "[('OSError', 'Filename too long'), ('OSError', 'Illegal byte sequence'), ('IsADirectoryError', 'Is a directory'), \
      ('IsADirectoryError', 'Is a directory')]",
    ),
    (
        "def why(f, *args):\n    try: return f(*args)\n    except OSError as e: return e.errno\n\
      import os\nr = os.open('f', os.O_RDONLY | os.O_CREAT)\n\
      [why(*it) for it in [(os.lseek, r, -1, 0), (os.close, 99), (os.read, 99, 1)]]",
        "[28, 8, 8]",
    ),
    (
        "import os\n[os.path.exists(p) for p in ('/etc/passwd', '/proc', '/dev/null', '/sys', '/python', '/bundled')]",
        "[False, False, False, False, False, False]",
    ),
    (
        "import os\nos.mkdir('a')\nopen('a/f', 'w').write('1')\nfd = os.open('a', os.O_RDONLY)\nos.rename('a', 'b')\n\
      sorted(os.listdir('.')), os.stat('f', dir_fd=fd).st_size, os.listdir('b'), os.close(fd)",
        "(['b'], 1, ['f'], None)",
    ),
    (
        "import os\nos.mkdir('a')\nos.chdir('a')\nos.rmdir('/workspace/a')\ntry:\n    open('x', 'w')\nexcept FileNotFoundError as e:\n    print(e)\n\
      os.chdir('/workspace')\nos.listdir()",
        "[]",
    ),
    (
        "import contextlib, io, os\nout = open('o.txt', 'w')\nwith contextlib.redirect_stdout(out):\n    print('to a file')\nout.close()\n\
      open('o.txt').read()",
        "'to a file\\n'",
    ),
];

#[tokio::test]
async fn files_work_as_on_a_disk() {
    let limits = Limits { files: 400, file_bytes: 8 << 20, ..LIMITS };
    for (source, value) in PROGRAMS {
        let outcome = run_in(&mut SANDBOX.interpreter(), source, limits).await;
        assert_eq!(outcome.value.as_deref(), Some(value), "{source}\n{outcome:?}");
    }
}

/// Not one of the programs above: wasmtime's own host ends a file for good where a reader has once seen its end.
#[tokio::test]
async fn two_connections_to_a_database_lock_each_other_out_and_see_each_others_work() {
    let source = "import sqlite3\none, two = sqlite3.connect('s.db'), sqlite3.connect('s.db', timeout=0.01)\none.execute('create table t(a)')\n\
         one.execute('begin immediate')\ntry:\n    two.execute('insert into t values(1)')\nexcept sqlite3.OperationalError as e:\n    why = str(e)\n\
         one.commit()\ntwo.execute('insert into t values(1)')\ntwo.commit()\nwhy, one.execute('select * from t').fetchall()";
    assert_eq!(value(source).await, "('database is locked', [(1,)])");
}

// === bounds ===

/// The value of a program that has few files and bytes.
async fn value(source: &str) -> String {
    let limits = Limits { files: 20, file_bytes: 1 << 20, ..LIMITS };
    let outcome = run_in(&mut SANDBOX.interpreter(), source, limits).await;
    outcome.value.clone().unwrap_or_else(|| panic!("{source}\n{outcome:?}"))
}

const WHY: &str =
    "import os\ndef why(f, *args):\n    try: return f(*args)\n    except OSError as e: return e.strerror\n";

#[tokio::test]
async fn a_disk_takes_as_many_bytes_as_are_allowed_and_not_one_more() {
    let source = "fd = os.open('f', os.O_RDWR | os.O_CREAT)\n\
        full = [os.write(fd, bytes(1 << 20)), why(os.write, fd, b'x'), why(os.pwrite, fd, b'x', 1 << 20), why(os.ftruncate, fd, 1 << 40)]\n\
        more = [os.pwrite(fd, b'y', 5), os.ftruncate(fd, (1 << 20) - 3), os.pwrite(fd, b'four', (1 << 20) - 3), why(os.pwrite, fd, b'x', 1 << 20)]\n\
        os.unlink('f')\nheld = why(open('g', 'wb', 0).write, b'x')\nos.close(fd)\n\
        full, more, held, open('g', 'wb').write(bytes(1 << 20))";
    let full = "'No space left on device'";
    let expected = format!("([1048576, {full}, {full}, {full}], [1, None, 3, {full}], {full}, 1048576)");
    assert_eq!(value(&format!("{WHY}{source}")).await, expected);
}

#[tokio::test]
async fn a_database_says_that_the_disk_is_full_and_stays_whole() {
    let source = "import sqlite3\ndb = sqlite3.connect('s.db')\ndb.execute('create table t(a)')\n\
        def fill():\n    try:\n        while True: db.execute('insert into t values(zeroblob(50000))')\n    except sqlite3.OperationalError as e: return str(e)\n\
        fill(), db.rollback(), db.execute('pragma integrity_check').fetchone()";
    assert_eq!(value(source).await, "('database or disk is full', None, ('ok',))");
}

#[tokio::test]
async fn there_are_as_many_files_and_folders_as_are_allowed_and_not_one_more() {
    let source = "for i in range(10):\n    os.mkdir(f'd{i}')\n    open(f'd{i}/f', 'w').close()\n\
        refused = why(os.mkdir, 'x'), why(open, 'x', 'w')\nos.remove('d0/f')\nrefused, os.mkdir('x')";
    assert_eq!(
        value(&format!("{WHY}{source}")).await,
        "(('No space left on device', 'No space left on device'), None)"
    );
}

#[tokio::test]
async fn too_many_open_files_are_refused_and_the_run_goes_on() {
    let source = "open('f', 'w').close()\nfiles = []\ndef more():\n    while True: files.append(os.open('f', os.O_RDONLY))\n\
        refused = why(more)\nn = len(files)\nfor _ in range(9): os.close(files.pop())\nrefused, 800 < n < 1000, open('f').read()";
    assert_eq!(value(&format!("{WHY}{source}")).await, "('Quota exceeded', True, '')");
}

#[tokio::test]
async fn a_file_is_only_read_and_written_as_it_was_opened() {
    let source = "w, r = os.open('f', os.O_WRONLY | os.O_CREAT), os.open('f', os.O_RDONLY)\n\
        {why(*it) for it in [(os.write, r, b'x'), (os.read, w, 1), (os.pwrite, r, b'x', 0), (os.ftruncate, r, 1)]}";
    assert_eq!(value(&format!("{WHY}{source}")).await, "{'Bad file descriptor'}");
}

#[tokio::test]
async fn no_path_and_no_link_leads_out() {
    let source = "[why(open, '/../../../etc/passwd'), why(open, '../../etc/passwd'), why(os.symlink, '/etc', 'e'), why(os.link, '/tmp', 'l'), \
        why(os.rmdir, '/tmp'), why(os.rename, '/workspace', '/w'), sorted(os.listdir('/..'))]";
    assert_eq!(
        value(&format!("{WHY}{source}")).await,
        "['No such file or directory', 'No such file or directory', 'Operation not permitted', 'Operation not permitted', \
         'Resource busy', 'Resource busy', ['tmp', 'workspace']]"
    );
}

#[tokio::test]
async fn deep_and_hostile_paths_end_as_errors() {
    let source = "def deep():\n    while True:\n        os.mkdir('d' * 100)\n        os.chdir('d' * 100)\n\
        why(deep), len(os.getcwd()) < 1024, why(open, 'a/' * 2000), why(os.stat, '../' * 300)";
    let limits = Limits { files: 100, ..LIMITS };
    let outcome = run_in(&mut SANDBOX.interpreter(), &format!("{WHY}{source}"), limits).await;
    assert_eq!(
        outcome.value.as_deref(),
        Some("('Filename too long', True, 'Filename too long', 'Filename too long')"),
        "{outcome:?}"
    );
}

// === from run to run ===

#[tokio::test]
async fn files_stay_from_run_to_run_open_ones_too_and_die_with_the_interpreter() {
    let mut interpreter = SANDBOX.interpreter();
    run_in(&mut interpreter, "f = open('a', 'w')\nf.write('one')\nimport os\nos.chdir('/tmp')", LIMITS).await;
    let outcome =
        run_in(&mut interpreter, "f.write(' two')\nf.close()\nopen('/workspace/a').read(), os.getcwd()", LIMITS).await;
    assert_eq!(outcome.value.as_deref(), Some("('one two', '/tmp')"), "{outcome:?}");
    assert_eq!(run("import os\nos.listdir(), os.getcwd()").await.value.as_deref(), Some("([], '/workspace')"));
}

#[tokio::test]
async fn a_run_that_breaks_leaves_files_as_they_were() {
    let mut interpreter = SANDBOX.interpreter();
    run_in(&mut interpreter, "import os\nf = open('a', 'w+')\nf.write('before')\nf.flush()", LIMITS).await;
    for breaks in [
        "f.write('x')\nf.flush()\nos.unlink('a')\nopen('b', 'w').close()\nos._exit(1)",
        "os.truncate('a', 0)\nwhile True: pass",
    ] {
        run_in(&mut interpreter, breaks, SHORT).await;
        let outcome = run_in(&mut interpreter, "f.seek(0)\nf.read(), os.listdir(), os.stat('a').st_size", LIMITS).await;
        assert_eq!(outcome.value.as_deref(), Some("('before', ['a'], 6)"), "{outcome:?}");
    }
}

#[tokio::test]
async fn files_have_the_times_of_their_changes() {
    let source = "import os, time\nbegan = time.time()\nopen('a', 'w').write('x')\na = os.stat('a').st_mtime\ntime.sleep(0.01)\n\
        open('b', 'w').write('x')\nb = os.stat('b').st_mtime\nnow = time.time()\nopen('b', 'a').write('x')\n\
        began - 1 < a < b - 0.005 < b <= now < os.stat('b').st_mtime + 0.001 < now + 1, os.stat('/workspace').st_mtime > 1.7e9";
    assert_eq!(value(source).await, "(True, True)");
}
