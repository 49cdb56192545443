//! Claims about the room as a whole: what is refused with which words, and who beats whom.

use super::*;
use crate::memory::Store;
use std::fs;
use tempfile::TempDir;

const HASH: &str = "03d737379f18919bf6e13bcd6b63d24e28f7c37af5ccb592de1e931e4ae3642b";

/// A working directory that may hold a `loopgate.toml`, with an environment and flags.
struct Setting {
    dir: TempDir,
    sources: Sources,
}

fn setting() -> Setting {
    let dir = tempfile::tempdir().expect("a folder");
    let sources = Sources { dir: dir.path().to_owned(), ..Sources::default() };
    Setting { dir, sources }
}

impl Setting {
    fn file(self, text: &str) -> Self {
        fs::write(self.dir.path().join(CONFIG_FILE), text).expect("a file");
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, flag: &str, values: &[&str]) -> Self {
        let key = KEYS.iter().find(|key| key.flag == flag).expect("a flag");
        self.sources.flags.push((key, values.iter().map(|value| (*value).to_owned()).collect()));
        self
    }

    fn resolve(&self) -> Resolved {
        resolve(&self.sources).expect("a good configuration")
    }

    fn refused(&self) -> String {
        let root = format!("{}/", self.dir.path().display());
        resolve(&self.sources).expect_err("a bad configuration").to_string().replace(&root, "")
    }
}

#[test]
fn a_file_that_was_asked_for_and_cannot_be_read_is_refused() {
    let mut by_flag = setting();
    by_flag.sources.file = Some(by_flag.dir.path().join("other.toml"));
    let told = "cannot be read: No such file or directory (os error 2); \
                name another file with --config or LOOPGATE_CONFIG";
    assert_eq!(by_flag.refused(), format!("other.toml: {told}"));
    assert_eq!(setting().env(CONFIG_VARIABLE, "no/such.toml").refused(), format!("no/such.toml: {told}"));
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let told = setting().file("[server]\nlisten = \"a").refused();
    assert!(told.starts_with("loopgate.toml: line 2: invalid basic string"), "{told}");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_and_the_known_ones() {
    let told = setting().file("[server]\nlisen = \"127.0.0.1:1\"").refused();
    let start = "loopgate.toml: unknown key `server.lisen` (did you mean `server.listen`?); known: `server.listen`, ";
    assert!(told.starts_with(start), "{told}");
    assert!(told.ends_with("`log.format`, `log.filter`, `backends`, `callers`"), "{told}");

    for text in ["[zebra]", "zebra = 1", "[zebra]\na = 1"] {
        let told = setting().file(text).refused();
        assert!(told.starts_with("loopgate.toml: unknown key `zebra`; known: `server.listen`, "), "{told}");
    }
    assert!(setting().file("listen = 1").refused().starts_with("loopgate.toml: unknown key `listen`"));

    let told = setting().env("LOOPGATE_LISTENS", "x").env(CLIENT_KEY_VARIABLE, "x").env("PATH", "x").refused();
    assert!(
        told.starts_with("environment: unknown variable `LOOPGATE_LISTENS` (did you mean `LOOPGATE_LISTEN`?); known: "),
        "{told}"
    );
    assert!(told.contains("`LOOPGATE_BACKENDS`") && told.ends_with("`LOOPGATE_CONFIG`"), "{told}");
}

#[test]
fn a_bad_value_is_named_with_its_place_and_the_way_out() {
    let address = "`foo` is not an address; write ip:port, for example 127.0.0.1:8080";
    let listen = setting().file("[server]\nlisten = \"foo\"");
    assert_eq!(listen.refused(), format!("loopgate.toml: `server.listen`: {address}"));
    let listen = setting().env("LOOPGATE_LISTEN", "foo");
    assert_eq!(listen.refused(), format!("environment variable LOOPGATE_LISTEN: {address}"));
    let listen = setting().flag("listen", &["foo"]);
    assert_eq!(listen.refused(), format!("--listen: {address}"));
    // Not in force, and wrong all the same.
    let overridden = setting().env("LOOPGATE_LISTEN", "foo").flag("listen", &["127.0.0.1:1"]);
    assert_eq!(overridden.refused(), format!("environment variable LOOPGATE_LISTEN: {address}"));
}

#[test]
fn all_bodies_have_room_for_the_largest_one() {
    let narrow = setting().file("[server]\nbody_bytes_max = 3000\nbodies_bytes_max = 2000");
    assert_eq!(
        narrow.refused(),
        "loopgate.toml: `server.bodies_bytes_max`: 2000 bytes are too few for one body of server.body_bytes_max; write at least \
         3000"
    );
    setting().file("[server]\nbody_bytes_max = 3000\nbodies_bytes_max = 3000").resolve();
}

#[test]
fn every_kind_of_value_says_what_to_write() {
    let root = "write the server's root, for example http://127.0.0.1:30000";
    for (flag, value, expected) in [
        ("allow-anonymous", "yes", "`yes` is neither true nor false; write one of them".to_owned()),
        ("body-bytes-max", "64M", "`64M` is not a number; write 1024 to 1073741824 (bytes)".to_owned()),
        ("body-bytes-max", "1", "1 is out of range; write 1024 to 1073741824 (bytes)".to_owned()),
        ("tools-dir", "", "the path is empty; write one, or leave the key out".to_owned()),
        ("log-format", "xml", "`xml` is unknown; write `text` or `json`".to_owned()),
        (
            "alias",
            "gpt",
            "`gpt` is no alias; write NAME=MODEL, the name that clients use and the backends' own".to_owned(),
        ),
        ("backend", "", format!("`` is not a URL; {root}")),
        ("backend", "localhost", format!("`localhost` begins with neither http:// nor https://; {root}")),
        ("backend", "ftp://a", format!("`ftp://a` begins with neither http:// nor https://; {root}")),
        ("backend", "http://a/v1", format!("`http://a/v1` has a path; {root}")),
        ("backend", "http://u:secret@a", "a URL with a password; write http://a without it".to_owned()),
    ] {
        assert_eq!(setting().flag(flag, &[value]).refused(), format!("--{flag}: {expected}"));
    }
    let told = setting().flag("log", &["info,=x=y"]).refused();
    assert!(told.starts_with("--log: `info,=x=y` is no log filter: ") && told.ends_with("loopgate=debug"), "{told}");
    assert_eq!(setting().flag("listen", &["a", "b"]).refused(), "--listen: takes one value, not 2");
    assert_eq!(
        setting().file("backend.urls = []").refused(),
        "loopgate.toml: `backend.urls`: the list is empty; write at least one server, for example http://127.0.0.1:30000"
    );
    assert_eq!(
        setting().file("backend.urls = [[]]").refused(),
        "loopgate.toml: `backend.urls`: is nested too deep; write plain values"
    );
}

#[test]
fn bad_callers_are_refused_and_nothing_they_hold_is_repeated() {
    let caller = |rest: &str| setting().file(&format!("[[callers]]\nname = \"red\"\n{rest}")).refused();
    for (rest, expected) in [
        ("", "`callers[0]`: missing field `key_sha256`"),
        (
            "key = \"lg-secret\"",
            "`callers[0]`: unknown field `key`, expected one of `name`, `key_sha256`, `concurrent_max`",
        ),
        (
            "key_sha256 = \"lg-secret\"",
            "`callers[0].key_sha256`: not a SHA-256; write the 64 hexadecimal digits that `loopgate key` prints",
        ),
    ] {
        assert_eq!(caller(rest), format!("loopgate.toml: {expected}"));
    }
    assert_eq!(
        caller(&format!("key_sha256 = \"{HASH}\"\n[[callers]]\nname = \"red\"\nkey_sha256 = \"{}\"", "0".repeat(64))),
        "loopgate.toml: `callers`: two callers are named `red`; rename one"
    );
    assert_eq!(
        setting().file("callers = 1").refused(),
        "loopgate.toml: `callers`: is not a list of tables; write [[callers]]"
    );
}

#[test]
fn an_address_that_others_reach_needs_keys_or_a_word() {
    let exposed = setting().flag("listen", &["0.0.0.0:8080"]);
    assert_eq!(
        exposed.refused(),
        "--listen: 0.0.0.0:8080 can be reached from other machines, and no caller has a key; either add [[callers]] to \
         the configuration file (`loopgate key` makes a key), or listen on 127.0.0.1:8080, or set \
         server.allow_anonymous to true (--allow-anonymous)"
    );
    exposed.flag("allow-anonymous", &["true"]).resolve();
    let keyed = format!("server.listen = \"[::]:80\"\n[[callers]]\nname = \"red\"\nkey_sha256 = \"{HASH}\"");
    assert_eq!(setting().file(&keyed).resolve().access.caller_names(), ["red"]);
    setting().flag("listen", &["[::1]:80"]).resolve();
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let value =
        |setting: &Setting| setting.resolve().describe().into_iter().find(|it| it.key == "tools.dir").expect("a key");
    let mut setting = setting();
    assert_eq!((value(&setting).value, value(&setting).origin.to_string()), ("tools".into(), "default".into()));
    setting = setting.file("tools.dir = \"a\"");
    let file = setting.dir.path().join(CONFIG_FILE).display().to_string();
    assert_eq!((value(&setting).value, value(&setting).origin.to_string()), ("a".into(), file));
    setting = setting.env("LOOPGATE_TOOLS_DIR", "b");
    assert_eq!((value(&setting).value, value(&setting).origin.to_string()), ("b".into(), "LOOPGATE_TOOLS_DIR".into()));
    setting = setting.flag("tools-dir", &["c"]);
    assert_eq!((value(&setting).value, value(&setting).origin.to_string()), ("c".into(), "--tools-dir".into()));
}

#[test]
fn the_file_beside_is_read_only_when_none_is_named() {
    let setting = setting().file("tools.dir = \"beside\"");
    fs::write(setting.dir.path().join("other.toml"), "tools.dir = \"named\"").expect("a file");
    assert_eq!(setting.resolve().tools.dir, PathBuf::from("beside"));
    let named = setting.dir.path().join("other.toml").display().to_string();
    assert_eq!(setting.env(CONFIG_VARIABLE, &named).resolve().tools.dir, PathBuf::from("named"));
}

#[test]
fn lists_are_arrays_commas_and_repeated_flags() {
    let urls = ["http://a:1", "http://b"];
    let by_file = setting().file("[backend]\nurls = [\"http://a:1/\", \"http://b\"]");
    let by_env = setting().env("LOOPGATE_BACKENDS", "http://a:1, http://b/");
    let by_flag = setting().flag("backend", &urls).env("LOOPGATE_BACKENDS", "http://c");
    for setting in [by_file, by_env, by_flag] {
        let servers = setting.resolve().backend.servers;
        assert_eq!(servers.iter().map(|server| server.address.to_string()).collect::<Vec<_>>(), urls);
    }
    let by_file = setting().file("[aliases]\n\"gpt-4o\" = \"Qwen/Qwen3-Coder\"");
    let by_flag = setting().flag("alias", &["gpt-4o=Qwen/Qwen3-Coder"]);
    for setting in [by_file, by_flag] {
        assert_eq!(setting.resolve().backend.aliases["gpt-4o"], "Qwen/Qwen3-Coder");
    }
}

#[test]
fn defaults_follow_the_home_directory_and_the_tools() {
    let cache = |setting: Setting| setting.resolve().sandbox.cache_dir;
    assert_eq!(cache(setting()), None);
    assert_eq!(cache(setting().env("HOME", "relative")), None);
    let home = || setting().env("HOME", "/home/a");
    assert_eq!(cache(home()), Some("/home/a/.cache/loopgate".into()));
    assert_eq!(cache(home().env("XDG_CACHE_HOME", "/c")), Some("/c/loopgate".into()));
    assert_eq!(cache(home().env("LOOPGATE_CACHE_DIR", "d")), Some("d".into()));
    assert_eq!(cache(home().env("LOOPGATE_CACHE_DIR", "")), Some("/home/a/.cache/loopgate".into()));

    let memory = |setting: Setting| setting.resolve().memory.path.map(|path| path.to_string());
    assert_eq!(memory(setting()), None);
    assert_eq!(memory(home()), Some("/home/a/.local/state/loopgate/memory.redb".into()));
    assert_eq!(memory(home().env("XDG_STATE_HOME", "/s")), Some("/s/loopgate/memory.redb".into()));
    assert_eq!(setting().flag("memory", &[":memory:"]).resolve().memory.path, Some(Store::Ram));

    let guest = |setting: Setting| setting.resolve().sandbox.guest;
    let moved = || setting().flag("tools-dir", &["t"]);
    assert_eq!(guest(moved()), PathBuf::from("t/execute_code/guest/build/python.wasm"));
    assert_eq!(guest(moved().flag("guest", &["g.wasm"])), PathBuf::from("g.wasm"));
}

#[test]
fn what_is_in_force_is_described_without_secrets() {
    let text = format!("[[callers]]\nname = \"red\"\nkey_sha256 = \"{HASH}\"\n[access]\nconcurrent_max = 7");
    let setting = setting().file(&text);
    let lines = setting.resolve().describe();
    assert_eq!(lines.len(), KEYS.len() + 1);
    let red = lines.last().expect("a caller");
    assert_eq!((red.key.as_str(), red.value.as_str()), ("callers.red", "key_sha256 ***, concurrent_max 7"));
    assert!(!format!("{:?}{lines:?}", setting.resolve()).contains(&HASH[..8]));
}

#[test]
fn every_key_reads_back_what_it_shows_and_is_listed_once() {
    let mut resolved = Resolved::defaults(&BTreeMap::new());
    for (at, key) in KEYS.iter().enumerate() {
        let shown = key.default_text();
        let set = match key.set {
            _ if shown.is_empty() => Ok(()),
            Set::One(set) => set(&mut resolved, &shown),
            Set::Switch(set) => parse::switch(&shown).map(|on| set(&mut resolved, on)),
            Set::Many(set) => set(&mut resolved, std::slice::from_ref(&shown)),
        };
        assert_eq!((set, (key.show)(&resolved)), (Ok(()), shown), "{}", key.name);
        assert!(key.env.starts_with(VARIABLE_PREFIX));
        let clash = |other: &&Key| other.name == key.name || other.env == key.env || other.flag == key.flag;
        assert_eq!(KEYS[at + 1..].iter().find(clash).map(|other| other.name), None);
    }
}

#[test]
fn an_origin_is_what_a_browser_sends_or_it_is_refused() {
    for text in ["app.example", "https://app.example/", "https://App.example", "https://a@b", "https://", "null", ""] {
        let told = setting().flag("cors-origin", &[text]).refused();
        assert!(told.contains("is not an origin; write it as browsers do"), "{text}: {told}");
    }
    let told = setting().flag("cors-origin", &["*", "https://app.example"]).refused();
    assert!(told.contains("write it alone"), "{told}");
    let taken = setting().flag("cors-origin", &["https://app.example:8443", "http://[::1]:3000"]).resolve();
    assert_eq!(taken.server.cors_origins.len(), 2);
    assert_eq!(setting().flag("cors-origin", &["*"]).resolve().server.cors_origins, ["*"]);
}

#[test]
fn servers_with_details_are_refused_with_their_place_and_no_key_is_repeated() {
    for (lines, told) in [
        ("url = 'x'", "`backends[0].url`: `x` begins with neither http:// nor https://"),
        ("url = 'ftp://a'", "`backends[0].url`: `ftp://a` begins with neither http:// nor https://"),
        ("url = 'http://a'\nweight = 0.0", "`backends[0].weight`: 0 is out of range; write 0.01 to 100"),
        ("url = 'http://a'\nin_flight_max = 0", "`backends[0].in_flight_max`: 0 is out of range; write 1 to 100000"),
        ("url = 'http://a'\napi_key_env = 'X'", "`backends[0].api_key_env`: the variable `X` is not set"),
        ("url = 'http://a'\napi_key = 'se\u{1}cret'", "line 3"),
        ("url = 'http://a'\napi_key = 'secret'\napi_key_env = 'X'", "`backends[0].api_key`: is written here and named"),
        ("url = 'http://a'\nwait = 1", "`backends[0]`: unknown field `wait`"),
    ] {
        let refused = setting().file(&format!("[[backends]]\n{lines}")).refused();
        assert!(refused.starts_with("loopgate.toml: ") && refused.contains(told), "{refused}");
        assert!(!refused.contains("cret"), "{refused}");
    }
    assert!(setting().file("backends = 7").refused().contains("write [[backends]]"));
}

#[test]
fn a_server_that_is_written_wrong_does_not_stop_the_others() {
    let flags = setting().flag("backend", &["http://a", "https://u:secret@b", "http://A/", "nonsense"]).resolve();
    let names = |of: &Resolved| of.backend.servers.iter().map(|it| it.address.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&flags), ["http://a"]);
    assert_eq!(
        flags.left_out,
        [
            "--backend: a URL with a password; write http://b without it",
            "--backend: `http://a` is listed twice; keep one",
            "--backend: `nonsense` begins with neither http:// nor https://; write the server's root, \
             for example http://127.0.0.1:30000",
        ]
    );
    let tables = "[[backends]]\nurl = 'http://a/v1'\n[[backends]]\nurl = 'http://b'\n[[backends]]\nurl = 'http://B/'";
    let file = setting().file(tables).resolve();
    assert_eq!(names(&file), ["http://b"]);
    let told = file.left_out.join("\n");
    assert!(told.contains("loopgate.toml: `backends[0].url`: `http://a/v1` has a path"), "{told}");
    assert!(told.ends_with("loopgate.toml: `backends[2].url`: `http://b` is listed twice; keep one"), "{told}");
    // What a flag replaces is no matter any more.
    let both = setting().file("backend.urls = ['x', 'http://a']").flag("backend", &["http://b"]).resolve();
    assert_eq!((names(&both), both.left_out), (vec!["http://b".to_owned()], Vec::new()));
    let none = setting().flag("backend", &["x", "http://a?b"]).refused();
    assert!(none.contains("`x` begins with neither") && none.contains("`http://a?b` has a path"), "{none}");
}

#[test]
fn servers_with_details_come_beside_the_list_and_say_more_of_those_on_it() {
    let text =
        "[[backends]]\nurl = 'http://b'\nweight = 2.0\napi_key_env = 'B_KEY'\n[[backends]]\nurl = 'dns+http://c:1'";
    let names = |setting: &Setting| {
        let servers = setting.resolve().backend.servers;
        servers.iter().map(|server| format!("{} {}", server.address, server.weight)).collect::<Vec<_>>()
    };
    let alone = setting().env("B_KEY", "k").file(text);
    assert_eq!(names(&alone), ["http://b 2", "dns+http://c:1 1"], "the default gives way");
    assert!(alone.resolve().backend.servers[0].api_key.is_some());
    let shown = alone.resolve().describe();
    let line = shown.iter().find(|line| line.key == "backends.b:80").expect("a line");
    assert_eq!(line.value, "weight 2, api_key ***");
    let beside = setting().env("B_KEY", "k").file(&format!("backend.urls = ['http://a', 'http://b']\n{text}"));
    assert_eq!(names(&beside), ["http://a 1", "http://b 2", "dns+http://c:1 1"]);
    let flag = setting().env("B_KEY", "k").file(text).flag("backend", &["http://a", "http://b"]);
    assert_eq!(names(&flag), ["http://a 1", "http://b 2"], "a flag gives the whole list");
}

#[test]
fn pages_for_operators_that_others_reach_need_a_key() {
    let open = setting().flag("admin-listen", &["0.0.0.0:1"]).refused();
    assert!(open.starts_with("--admin-listen: 0.0.0.0:1 can be reached") && open.contains("127.0.0.1:1"), "{open}");
    let short = setting().flag("admin-key", &["secret"]).refused();
    assert!(short.contains("shorter than 16") && !short.contains("secret"), "{short}");
    let key = "0123456789abcdef";
    let closed = setting().flag("admin-listen", &["0.0.0.0:1"]).env("LOOPGATE_ADMIN_KEY", key).resolve();
    assert!(!format!("{closed:?}{:?}", closed.describe()).contains(key));
    assert!(setting().flag("admin-listen", &["127.0.0.1:1"]).resolve().admin.key.is_none());
}
