//! Everything that can be set, once. File, environment, flags, `loopgate check` and the docs all read this list.

use super::{LogFormat, Resolved, parse};
use crate::sandbox::Isolation;
use std::collections::BTreeMap;

/// One thing that can be set.
#[derive(Debug)]
pub struct Key {
    /// In the file: section and key.
    pub name: &'static str,
    /// In the environment. A list is separated by commas.
    pub env: &'static str,
    /// On the command line, without its dashes. A list is the flag given several times.
    pub flag: &'static str,
    /// What it is, with its unit.
    pub help: &'static str,
    /// Reads the value and puts it into its place.
    pub set: Set,
    /// The value in force as text that [`Key::set`] would read back (a list: separated by commas).
    pub show: fn(&Resolved) -> String,
}

/// How many values a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Set {
    /// One.
    One(fn(&mut Resolved, &str) -> Result<(), String>),
    /// `true` or `false`; as a flag none, and its presence means `true`.
    Switch(fn(&mut Resolved, bool)),
    /// A list, which replaces what stood there before.
    Many(fn(&mut Resolved, &[String]) -> Result<(), String>),
}

const ISOLATIONS: &[(&str, Isolation)] = &[("process", Isolation::Process), ("thread", Isolation::Thread)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// The list. Ranges: lower ends are what still makes sense, upper ends what is surely a slip of the pen; all chosen.
pub static KEYS: &[Key] = &[
    Key {
        name: "server.listen",
        env: "LOOPGATE_LISTEN",
        flag: "listen",
        help: "address to serve on",
        set: Set::One(|to, text| parse::address(text).map(|it| to.server.listen = it)),
        show: |of| of.server.listen.to_string(),
    },
    Key {
        name: "server.allow_anonymous",
        env: "LOOPGATE_ALLOW_ANONYMOUS",
        flag: "allow-anonymous",
        help: "serve other machines although no caller has a key",
        set: Set::Switch(|to, on| to.server.allow_anonymous = on),
        show: |of| of.server.allow_anonymous.to_string(),
    },
    Key {
        name: "server.body_bytes_max",
        env: "LOOPGATE_BODY_BYTES_MAX",
        flag: "body-bytes-max",
        help: "largest request body, in bytes",
        set: Set::One(|to, text| parse::number(text, 1024..=1 << 30, "bytes").map(|it| to.server.body_bytes_max = it)),
        show: |of| of.server.body_bytes_max.to_string(),
    },
    Key {
        name: "server.bodies_bytes_max",
        env: "LOOPGATE_BODIES_BYTES_MAX",
        flag: "bodies-bytes-max",
        help: "bytes of all request bodies together; beyond them requests are refused with 503",
        set: Set::One(|to, text| {
            parse::number(text, 1024..=1 << 40, "bytes").map(|it| to.server.bodies_bytes_max = it)
        }),
        show: |of| of.server.bodies_bytes_max.to_string(),
    },
    Key {
        name: "server.body_ms",
        env: "LOOPGATE_BODY_MS",
        flag: "body-ms",
        help: "how long a request's body may take to arrive, in milliseconds",
        set: Set::One(|to, text| parse::number(text, 1..=3_600_000, "milliseconds").map(|it| to.server.body_ms = it)),
        show: |of| of.server.body_ms.to_string(),
    },
    Key {
        name: "server.write_stall_ms",
        env: "LOOPGATE_WRITE_STALL_MS",
        flag: "write-stall-ms",
        help: "how long a client may take no byte of its answer before its connection is closed, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 1..=3_600_000, "milliseconds").map(|it| to.server.write_stall_ms = it)
        }),
        show: |of| of.server.write_stall_ms.to_string(),
    },
    Key {
        name: "server.cors_origins",
        env: "LOOPGATE_CORS_ORIGINS",
        flag: "cors-origin",
        help: "origins whose web pages may use the gateway, or * for all",
        set: Set::Many(|to, texts| parse::origins(texts).map(|it| to.server.cors_origins = it)),
        show: |of| {
            // Each was read from text.
            let texts = of.server.cors_origins.iter().map(|origin| origin.to_str().unwrap_or_default());
            texts.collect::<Vec<_>>().join(",")
        },
    },
    Key {
        name: "server.shutdown_grace_ms",
        env: "LOOPGATE_SHUTDOWN_GRACE_MS",
        flag: "shutdown-grace-ms",
        help: "how long running turns may go on after a stop signal, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 0..=3_600_000, "milliseconds").map(|it| to.server.shutdown_grace_ms = it)
        }),
        show: |of| of.server.shutdown_grace_ms.to_string(),
    },
    Key {
        name: "admin.listen",
        env: "LOOPGATE_ADMIN_LISTEN",
        flag: "admin-listen",
        help: "address for /admin/backends alone; without it that is beside the API, if admin.key is set",
        set: Set::One(|to, text| parse::address(text).map(|it| to.admin.listen = Some(it))),
        show: |of| of.admin.listen.map_or_else(String::new, |listen| listen.to_string()),
    },
    Key {
        name: "admin.key",
        env: "LOOPGATE_ADMIN_KEY",
        flag: "admin-key",
        help: "key that opens /admin/backends, as a bearer key; needed wherever other machines reach it",
        set: Set::One(|to, text| parse::admin_key(text).map(|it| to.admin.key = Some(it))),
        show: |of| of.admin.key.map_or_else(String::new, |_| "***".to_owned()),
    },
    Key {
        name: "backend.urls",
        env: "LOOPGATE_BACKENDS",
        flag: "backend",
        help: "roots of the SGLang servers, http:// or https://; dns+http://name:port is every address of that name",
        set: Set::Many(|to, texts| parse::backends(texts).map(|it| (to.backend.servers, to.left_out) = it)),
        show: |of| of.backend.servers.iter().map(|it| it.address.to_string()).collect::<Vec<_>>().join(","),
    },
    Key {
        name: "backend.api_key",
        env: "LOOPGATE_BACKEND_API_KEY",
        flag: "backend-api-key",
        help: "the servers' own key (SGLang's --api-key), of those without one in [[backends]]; a client's key is never passed on",
        set: Set::One(|to, text| parse::api_key(text).map(|it| to.backend.api_key = Some(it))),
        show: |of| of.backend.api_key.as_ref().map_or_else(String::new, |_| "***".to_owned()),
    },
    Key {
        name: "backend.tls_ca",
        env: "LOOPGATE_BACKEND_TLS_CA",
        flag: "backend-tls-ca",
        help: "file of certificates in PEM of authorities, or of https:// servers that are none (CA:FALSE), beside the machine's own",
        set: Set::One(|to, text| parse::path(text).map(|it| to.backend.tls_ca = Some(it))),
        show: |of| of.backend.tls_ca.as_ref().map_or_else(String::new, |path| path.display().to_string()),
    },
    Key {
        name: "backend.balance",
        env: "LOOPGATE_BALANCE",
        flag: "balance",
        help: "which server gets a request: the name of a balance policy",
        set: Set::One(|to, text| parse::balance(text).map(|it| to.backend.balance = it)),
        show: |of| of.backend.balance.clone(),
    },
    Key {
        name: "backend.admission_waiting_max",
        env: "LOOPGATE_ADMISSION_WAITING_MAX",
        flag: "admission-waiting-max",
        help: "model calls that may wait for room in the servers' caches; more are refused with 503",
        set: Set::One(|to, text| {
            parse::number(text, 0..=1_000_000, "model calls").map(|it| to.backend.admission.waiting_max = it)
        }),
        show: |of| of.backend.admission.waiting_max.to_string(),
    },
    Key {
        name: "backend.admission_wait_ms",
        env: "LOOPGATE_ADMISSION_WAIT_MS",
        flag: "admission-wait-ms",
        help: "how long one of them waits before it goes on, whatever that evicts, in milliseconds; 0: nobody waits",
        set: Set::One(|to, text| {
            parse::number(text, 0..=3_600_000, "milliseconds").map(|it| to.backend.admission.wait_ms_max = it)
        }),
        show: |of| of.backend.admission.wait_ms_max.to_string(),
    },
    Key {
        name: "backend.connect_ms",
        env: "LOOPGATE_CONNECT_MS",
        flag: "connect-ms",
        help: "how long a connection to a server may take, and TLS on it, in milliseconds",
        set: Set::One(|to, text| parse::number(text, 1..=600_000, "milliseconds").map(|it| to.backend.connect_ms = it)),
        show: |of| of.backend.connect_ms.to_string(),
    },
    Key {
        name: "backend.first_byte_ms",
        env: "LOOPGATE_FIRST_BYTE_MS",
        flag: "first-byte-ms",
        help: "how long a server may take to begin an answer, in milliseconds: its queue and the prompt's prefill",
        set: Set::One(|to, text| {
            parse::number(text, 1..=86_400_000, "milliseconds").map(|it| to.backend.first_byte_ms = it)
        }),
        show: |of| of.backend.first_byte_ms.to_string(),
    },
    Key {
        name: "backend.idle_ms",
        env: "LOOPGATE_IDLE_MS",
        flag: "idle-ms",
        help: "how long a server may be silent within an answer, in milliseconds",
        set: Set::One(|to, text| parse::number(text, 1..=86_400_000, "milliseconds").map(|it| to.backend.idle_ms = it)),
        show: |of| of.backend.idle_ms.to_string(),
    },
    Key {
        name: "backend.total_ms",
        env: "LOOPGATE_TOTAL_MS",
        flag: "total-ms",
        help: "how long one model call may take as a whole, its retries included, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 1..=86_400_000, "milliseconds").map(|it| to.backend.total_ms = it)
        }),
        show: |of| of.backend.total_ms.to_string(),
    },
    Key {
        name: "backend.attempts_max",
        env: "LOOPGATE_ATTEMPTS_MAX",
        flag: "attempts-max",
        help: "tries of one model call before its failure is told; a server that failed is tried again only where there is no other",
        set: Set::One(|to, text| parse::number(text, 1..=100, "tries").map(|it| to.backend.attempts_max = it)),
        show: |of| of.backend.attempts_max.to_string(),
    },
    Key {
        name: "backend.seat_waiting_max",
        env: "LOOPGATE_SEAT_WAITING_MAX",
        flag: "seat-waiting-max",
        help: "requests that may wait while all servers that could take them have as many as their in_flight_max allows; more are refused with 503",
        set: Set::One(|to, text| {
            parse::number(text, 0..=1_000_000, "requests").map(|it| to.backend.seat_waiting_max = it)
        }),
        show: |of| of.backend.seat_waiting_max.to_string(),
    },
    Key {
        name: "backend.seat_wait_ms",
        env: "LOOPGATE_SEAT_WAIT_MS",
        flag: "seat-wait-ms",
        help: "how long one of them waits before it is refused with 503, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 0..=3_600_000, "milliseconds").map(|it| to.backend.seat_wait_ms = it)
        }),
        show: |of| of.backend.seat_wait_ms.to_string(),
    },
    Key {
        name: "backend.probe_ms",
        env: "LOOPGATE_PROBE_MS",
        flag: "probe-ms",
        help: "between two looks whether a server is up and what it serves, in milliseconds; a server that is down is looked at twice a second",
        set: Set::One(|to, text| parse::number(text, 10..=600_000, "milliseconds").map(|it| to.backend.probe_ms = it)),
        show: |of| of.backend.probe_ms.to_string(),
    },
    Key {
        name: "backend.probe_timeout_ms",
        env: "LOOPGATE_PROBE_TIMEOUT_MS",
        flag: "probe-timeout-ms",
        help: "how long a server may take to answer such a look, in milliseconds; SGLang's /health takes a second",
        set: Set::One(|to, text| {
            parse::number(text, 10..=60_000, "milliseconds").map(|it| to.backend.probe_timeout_ms = it)
        }),
        show: |of| of.backend.probe_timeout_ms.to_string(),
    },
    Key {
        name: "backend.load_ms",
        env: "LOOPGATE_LOAD_MS",
        flag: "load-ms",
        help: "between two questions for a server's load, in milliseconds",
        set: Set::One(|to, text| parse::number(text, 10..=600_000, "milliseconds").map(|it| to.backend.load_ms = it)),
        show: |of| of.backend.load_ms.to_string(),
    },
    Key {
        name: "backend.dns_ms",
        env: "LOOPGATE_DNS_MS",
        flag: "dns-ms",
        help: "between two look-ups of a dns+http name, in milliseconds",
        set: Set::One(|to, text| parse::number(text, 10..=3_600_000, "milliseconds").map(|it| to.backend.dns_ms = it)),
        show: |of| of.backend.dns_ms.to_string(),
    },
    Key {
        name: "backend.slow_start_ms",
        env: "LOOPGATE_SLOW_START_MS",
        flag: "slow-start-ms",
        help: "in which a server that was away goes from a tenth of its weight to all of it, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 0..=3_600_000, "milliseconds").map(|it| to.backend.slow_start_ms = it)
        }),
        show: |of| of.backend.slow_start_ms.to_string(),
    },
    Key {
        name: "backend.breaker_failures",
        env: "LOOPGATE_BREAKER_FAILURES",
        flag: "breaker-failures",
        help: "failures in a row after which a server that is up is left alone for a while",
        set: Set::One(|to, text| {
            parse::number(text, 1..=1_000_000, "failures").map(|it| to.backend.breaker.failures = it)
        }),
        show: |of| of.backend.breaker.failures.to_string(),
    },
    Key {
        name: "backend.breaker_ms",
        env: "LOOPGATE_BREAKER_MS",
        flag: "breaker-ms",
        help: "how long it is left alone, in milliseconds",
        set: Set::One(|to, text| {
            parse::number(text, 1..=3_600_000, "milliseconds").map(|it| to.backend.breaker.open_ms = it)
        }),
        show: |of| of.backend.breaker.open_ms.to_string(),
    },
    Key {
        name: "backend.breaker_successes",
        env: "LOOPGATE_BREAKER_SUCCESSES",
        flag: "breaker-successes",
        help: "answers in a row, one at a time, after which it is trusted again",
        set: Set::One(|to, text| parse::number(text, 1..=1000, "answers").map(|it| to.backend.breaker.successes = it)),
        show: |of| of.backend.breaker.successes.to_string(),
    },
    Key {
        name: "aliases",
        env: "LOOPGATE_ALIASES",
        flag: "alias",
        help: "model names of the clients' for the backends' own, each NAME=MODEL; in the file a table",
        set: Set::Many(|to, texts| {
            texts.iter().map(|text| parse::alias(text)).collect::<Result<_, _>>().map(|it| to.backend.aliases = it)
        }),
        show: |of| {
            of.backend.aliases.iter().map(|(name, model)| format!("{name}={model}")).collect::<Vec<_>>().join(",")
        },
    },
    Key {
        name: "calls.parser",
        env: "LOOPGATE_CALL_PARSER",
        flag: "call-parser",
        help: "how the models write calls out in text: the name that SGLang's --tool-call-parser has for it",
        set: Set::One(|to, text| parse::call_parser(text).map(|it| to.calls.parser = it)),
        show: |of| of.calls.parser.name.to_owned(),
    },
    Key {
        name: "access.concurrent_max",
        env: "LOOPGATE_CONCURRENT_MAX",
        flag: "concurrent-max",
        help: "requests that one caller may have running, where [[callers]] does not say otherwise",
        set: Set::One(|to, text| parse::number(text, 1..=100_000, "requests").map(|it| to.access.concurrent_max = it)),
        show: |of| of.access.concurrent_max.to_string(),
    },
    Key {
        name: "tools.dir",
        env: "LOOPGATE_TOOLS_DIR",
        flag: "tools-dir",
        help: "folder that holds the tools",
        set: Set::One(|to, text| parse::path(text).map(|it| to.tools.dir = it)),
        show: |of| of.tools.dir.display().to_string(),
    },
    Key {
        name: "policy.dir",
        env: "LOOPGATE_POLICY_DIR",
        flag: "policy-dir",
        help: "folder that holds the policies",
        set: Set::One(|to, text| parse::path(text).map(|it| to.policy.dir = it)),
        show: |of| of.policy.dir.display().to_string(),
    },
    Key {
        name: "sandbox.guest",
        env: "LOOPGATE_GUEST",
        flag: "guest",
        help: "the Python guest, a WebAssembly component; by default the one inside the tools' folder",
        set: Set::One(|to, text| parse::path(text).map(|it| to.sandbox.guest = it)),
        show: |of| of.sandbox.guest.display().to_string(),
    },
    Key {
        name: "sandbox.cache_dir",
        env: "LOOPGATE_CACHE_DIR",
        flag: "cache-dir",
        help: "folder for the compiled guest, where nobody else may write",
        set: Set::One(|to, text| parse::path(text).map(|it| to.sandbox.cache_dir = Some(it))),
        show: |of| of.sandbox.cache_dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string()),
    },
    Key {
        name: "sandbox.isolation",
        env: "LOOPGATE_ISOLATION",
        flag: "isolation",
        help: "where programs run, beside being in WebAssembly: process (one for each, which can reach nothing) or thread",
        set: Set::One(|to, text| parse::one_of(text, ISOLATIONS).map(|it| to.sandbox.isolation = it)),
        show: |of| parse::name_of(of.sandbox.isolation, ISOLATIONS),
    },
    Key {
        name: "sandbox.interpreters_max",
        env: "LOOPGATE_INTERPRETERS_MAX",
        flag: "interpreters-max",
        help: "Python interpreters that live at once",
        set: Set::One(|to, text| {
            parse::number(text, 1..=4096, "interpreters").map(|it| to.sandbox.interpreters_max = it)
        }),
        show: |of| of.sandbox.interpreters_max.to_string(),
    },
    Key {
        name: "sandbox.waiting_max",
        env: "LOOPGATE_WAITING_MAX",
        flag: "waiting-max",
        help: "runs that may wait for a free interpreter, and as many of each caller for one of its own to end; one more is \
               not run, and the model is told so",
        set: Set::One(|to, text| parse::number(text, 0..=100_000, "runs").map(|it| to.sandbox.waiting_max = it)),
        show: |of| of.sandbox.waiting_max.to_string(),
    },
    Key {
        name: "sandbox.wait_ms",
        env: "LOOPGATE_WAIT_MS",
        flag: "wait-ms",
        help: "milliseconds that a run waits for a free interpreter",
        set: Set::One(|to, text| parse::number(text, 0..=3_600_000, "milliseconds").map(|it| to.sandbox.wait_ms = it)),
        show: |of| of.sandbox.wait_ms.to_string(),
    },
    Key {
        name: "sandbox.sessions_mib",
        env: "LOOPGATE_SESSIONS_MIB",
        flag: "sessions-mib",
        help: "MiB of all sessions of all callers, parked and compressed; the least used ones go first",
        set: Set::One(|to, text| parse::number(text, 1..=1 << 20, "MiB").map(|it| to.sandbox.sessions_mib = it)),
        show: |of| of.sandbox.sessions_mib.to_string(),
    },
    Key {
        name: "memory.path",
        env: "LOOPGATE_MEMORY",
        flag: "memory",
        help: "file that keeps what must outlive a request, or :memory: to keep it in RAM only",
        set: Set::One(|to, text| parse::store(text).map(|it| to.memory.path = Some(it))),
        show: |of| of.memory.path.as_ref().map_or_else(String::new, ToString::to_string),
    },
    Key {
        name: "memory.keep_hours",
        env: "LOOPGATE_MEMORY_KEEP_HOURS",
        flag: "memory-keep-hours",
        help: "how long it is kept, in hours",
        set: Set::One(|to, text| parse::number(text, 1..=87_600, "hours").map(|it| to.memory.keep_hours = it)),
        show: |of| of.memory.keep_hours.to_string(),
    },
    Key {
        name: "memory.entries_max",
        env: "LOOPGATE_MEMORY_ENTRIES_MAX",
        flag: "memory-entries-max",
        help: "turns that are kept; of the caller that has most, the oldest go first",
        set: Set::One(|to, text| parse::number(text, 1..=100_000_000, "turns").map(|it| to.memory.entries_max = it)),
        show: |of| of.memory.entries_max.to_string(),
    },
    Key {
        name: "memory.bytes_max",
        env: "LOOPGATE_MEMORY_BYTES_MAX",
        flag: "memory-bytes-max",
        help: "bytes of them that are kept; of the caller that has most, the oldest go first",
        set: Set::One(|to, text| parse::number(text, 1 << 20..=1 << 40, "bytes").map(|it| to.memory.bytes_max = it)),
        show: |of| of.memory.bytes_max.to_string(),
    },
    Key {
        name: "audit.path",
        env: "LOOPGATE_AUDIT",
        flag: "audit",
        help: "file that gets a line for every execution",
        set: Set::One(|to, text| parse::path(text).map(|it| to.audit.path = it)),
        show: |of| of.audit.path.display().to_string(),
    },
    Key {
        name: "audit.rotate_bytes",
        env: "LOOPGATE_AUDIT_ROTATE_BYTES",
        flag: "audit-rotate-bytes",
        help: "size in bytes at which the audit file is put aside",
        set: Set::One(|to, text| parse::number(text, 1 << 20..=1 << 40, "bytes").map(|it| to.audit.rotate_bytes = it)),
        show: |of| of.audit.rotate_bytes.to_string(),
    },
    Key {
        name: "audit.keep_files",
        env: "LOOPGATE_AUDIT_KEEP_FILES",
        flag: "audit-keep-files",
        help: "audit files put aside that are kept",
        set: Set::One(|to, text| parse::number(text, 0..=10_000, "files").map(|it| to.audit.keep_files = it)),
        show: |of| of.audit.keep_files.to_string(),
    },
    Key {
        name: "log.format",
        env: "LOOPGATE_LOG_FORMAT",
        flag: "log-format",
        help: "text for people, json for machines",
        set: Set::One(|to, text| parse::one_of(text, LOG_FORMATS).map(|it| to.log.format = it)),
        show: |of| parse::name_of(of.log.format, LOG_FORMATS),
    },
    Key {
        name: "log.filter",
        env: "LOOPGATE_LOG",
        flag: "log",
        help: "what is logged: a level, or levels per module such as info,loopgate::agent=debug",
        set: Set::One(|to, text| parse::log_filter(text).map(|it| to.log.filter = it)),
        show: |of| of.log.filter.clone(),
    },
];

impl Key {
    /// What holds where nobody says otherwise, as text.
    pub fn default_text(&self) -> String {
        (self.show)(&Resolved::defaults(&BTreeMap::new()))
    }
}
