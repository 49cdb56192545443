//! The flags that name the server which `bench serve` and `eval` ask.

use super::Failed;
use crate::client::{Patience, Target};
use clap::Args;
use std::time::Duration;

/// Where SGLang's own tools look for a server.
const PORT: u16 = 30_000;
/// As the SDKs of `OpenAI` have it.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";

#[derive(Args)]
pub(super) struct ServerFlags {
    /// The server, or a gateway, as a URL
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    base_url: Option<String>,
    /// Its host
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Its port
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// The model [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// The key that it asks for [env: `OPENAI_API_KEY`]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
}

impl ServerFlags {
    /// Whom to ask. A variable that is set to nothing is no key.
    pub fn target(&self, patience: Patience) -> Result<Target, Failed> {
        let url = self.base_url.clone().unwrap_or_else(|| format!("http://{}:{}", self.host, self.port));
        let key = self.api_key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok());
        Target::new(&url, key.as_deref(), patience).map_err(Failed::Usage)
    }
}

/// Reads a flag. A day is enough for anybody.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write 0.001 to 86400".to_owned())
}
