//! `loopgate serve`

use super::{ConfigFlags, Failed, runtime, start_log, told_to_stop};
use crate::app::App;
use std::process::ExitCode;

pub(super) fn run(flags: &ConfigFlags) -> Result<ExitCode, Failed> {
    let resolved = flags.resolve()?;
    start_log(&resolved.log);
    runtime()?.block_on(async {
        let app = App::start(&resolved).await?;
        let stop = told_to_stop()?;
        let backends = resolved.backend.urls.join(", ");
        tracing::info!("serving on http://{} in front of {backends}", app.addr()?);
        app.serve(stop).await;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}
