//! Figures as a person reads them.

use super::sandbox::Figures;
use std::fmt;

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<34} {:>6} {:>9} {:>9} {:>9}", "milliseconds", "runs", "p50", "p90", "p99")?;
        let native = self.native.as_ref();
        for (what, spread) in [
            ("print(1+1), fresh interpreter", Some(&self.fresh)),
            ("  of it the program itself", Some(&self.program)),
            ("  one right after another", Some(&self.in_a_row)),
            ("print(1+1), session, restored", Some(&self.session)),
            ("parking", Some(&self.park)),
            ("restoring", Some(&self.restore)),
            ("print(1+1), python3 -c", native.map(|native| &native.print)),
        ] {
            if let Some(it) = spread {
                writeln!(out, "{what:<34} {:>6} {:>9.3} {:>9.3} {:>9.3}", it.runs, it.p50_ms, it.p90_ms, it.p99_ms)?;
            }
        }
        writeln!(out, "\na parked interpreter: {} bytes", self.parked_bytes)?;
        writeln!(out, "\n{:<34} {:>9}", "workers side by side", "a second")?;
        for it in &self.throughput {
            writeln!(out, "{:<34} {:>9.0}", it.workers, it.per_second)?;
        }
        if let Some(native) = native {
            writeln!(out, "\n{:<34} {:>9} {:>9} {:>9}", "workloads, fastest in ms", "sandbox", "native", "ratio")?;
            for it in &native.workloads {
                writeln!(out, "{:<34} {:>9.2} {:>9.2} {:>9.2}", it.name, it.sandbox_ms, it.native_ms, it.ratio)?;
            }
            writeln!(out, "{:<34} {:>29.2}", "geometric mean", native.geometric_mean)?;
            writeln!(out, "native: {}", native.version)?;
        }
        if let Some(why) = &self.no_native {
            writeln!(out, "\nnot compared with a native Python: {why}")?;
        }
        writeln!(out, "\n{:<34} {:>9} {:>9}", "bars", "is", "bar")?;
        for it in &self.bars {
            match it.is {
                Some(is) => {
                    let verdict = if it.met { "met" } else { "MISSED" };
                    writeln!(out, "{:<34} {is:>9.3} {:>9.3}  {verdict}", it.what, it.limit)?;
                }
                None => writeln!(out, "{:<34} {:>9} {:>9.3}  NOT MEASURED", it.what, "", it.limit)?,
            }
        }
        Ok(())
    }
}
