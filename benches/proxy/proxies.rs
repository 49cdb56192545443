//! What is measured: nginx and the built binary, as processes of their own.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Requests that a caller may have under way here. Chosen: more than the bench has.
const CONCURRENT_MAX: &str = "4096";

/// A proxy, which ends when this is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    process: Child,
}

impl Proxy {
    /// One worker, as a proxy of event streams is set up: nothing is held back, bodies stay in memory, connections to the
    /// backend are kept, nothing is logged. `None` where there is no nginx.
    pub fn nginx(backend: SocketAddr, folder: &Path) -> Option<Self> {
        // Debian's is not in everybody's path.
        let paths = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let program = std::env::split_paths(&paths).map(|path| path.join("nginx")).find(|path| path.exists())?;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = folder.display();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
             events {{ worker_connections 8192; }}
             http {{
               access_log off; keepalive_requests 1000000000; tcp_nodelay on;
               client_max_body_size 512m; client_body_buffer_size 1m; client_body_temp_path {folder}/body;
               proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
               scgi_temp_path {folder}/s;
               upstream backend {{ server {backend}; keepalive 2048; keepalive_requests 1000000000; }}
               server {{
                 listen {address} backlog=4096;
                 location / {{
                   proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection '';
                   proxy_buffering off; proxy_read_timeout 600s;
                 }}
               }}
             }}"
        );
        let file = format!("{folder}/nginx.conf");
        std::fs::write(&file, config).unwrap();
        let process = Command::new(program).args(["-c", &file, "-p", &folder.to_string()]).spawn().unwrap();
        let proxy = Self { address, process };
        proxy.until_there();
        Some(proxy)
    }

    /// `policy` is the text of the one that there is.
    pub fn loopgate(name: &'static str, program: &str, policy: &str, backend: SocketAddr, folder: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join(name.replace(' ', "-"));
        let policies = folder.join("policies");
        std::fs::create_dir_all(&policies).unwrap();
        std::fs::write(policies.join("default.toml"), policy).unwrap();
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let mut process = Command::new(program)
            .arg("serve")
            .args(["--listen", "127.0.0.1:0", "--backend", &format!("http://{backend}")])
            .args(["--concurrent-max", CONCURRENT_MAX])
            .arg("--tools-dir")
            .arg(root.join("tools"))
            .arg("--policy-dir")
            .arg(policies)
            .arg("--cache-dir")
            .arg(cache)
            .arg("--audit")
            .arg(folder.join("audit.jsonl"))
            .arg("--memory")
            .arg(folder.join("memory.redb"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = said.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once(" on http://")?;
            address.split_whitespace().next()?.parse().ok()
        });
        // What it says later must not fill the pipe.
        std::thread::spawn(move || said.for_each(drop));
        let proxy = Self { address: address.expect("`loopgate serve` did not start"), process };
        proxy.until_there();
        proxy
    }

    fn until_there(&self) {
        while std::net::TcpStream::connect(self.address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Its first look at the backend.
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Time that its threads have had on a processor. `utime` and `stime` are the same in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let nanos = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Its memory that is resident, in kilobytes.
    pub fn resident_kb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
