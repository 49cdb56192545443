//! The server behind SGLang's cookbook page, 8 MI300X, as far as the page's figures tell it.
//!
//! Four numbers cannot be nine figures: they were chosen so that none is far off, and the test below holds them to the page.

/// Microseconds a token, and more of them for each other request that runs.
const PACE_US: f64 = 17_200.0;
const PACE_BATCH_US: f64 = 770.0;
/// What a first token takes besides, and what each token of its prompt adds.
const TTFT_US: f64 = 110_000.0;
const PREFILL_US: f64 = 10.0;

/// The scripted server's flags, with all times divided.
pub fn flags(speed: f64) -> Vec<String> {
    let times = [
        ("--pace-us", PACE_US),
        ("--pace-batch-us", PACE_BATCH_US),
        ("--prefill-us", PREFILL_US),
        ("--ttft-ms", TTFT_US / 1e3),
    ];
    times.into_iter().flat_map(|(flag, time)| [flag.to_owned(), (time / speed).to_string()]).collect()
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
mod tests {
    use super::super::super::data::{Data, DataSet, Wanted};
    use super::super::{RUNS, TOKENS_MAX};
    use super::*;

    /// Of each run: mean TPOT and median TTFT in milliseconds, and tokens a second.
    const PAGE: [[f64; 3]; 3] = [[17.06, 126.06, 57.19], [29.41, 157.49, 468.83], [62.98, 181.67, 956.80]];
    /// How far off the model may be, as a part of the page's figure.
    const TOLERANCE: [f64; 3] = [0.05, 0.10, 0.05];

    /// One request, in milliseconds of the run.
    #[derive(Clone, Copy)]
    struct Request {
        begun: f64,
        /// When its prompt is read.
        ready: f64,
        first: Option<f64>,
        tokens: f64,
        left: f64,
    }

    impl Request {
        /// Tokens to its next event: the first, or the last.
        fn next(&self) -> f64 {
            if self.first.is_none() { self.left - (self.tokens - 1.0) } else { self.left }
        }
    }

    /// What the scripted server makes of these lengths, with so many at once: everybody's pace depends on how many there are.
    fn run(lengths: &[(f64, f64)], at_once: usize) -> [f64; 3] {
        let [pace, batch, ttft, prefill] = [PACE_US, PACE_BATCH_US, TTFT_US, PREFILL_US].map(|us| us / 1e3);
        let (mut now, mut computes_until, mut waiting) = (0.0_f64, 0.0_f64, lengths.iter());
        let (mut running, mut done) = (Vec::<Request>::new(), Vec::new());
        loop {
            while running.len() < at_once
                && let Some((input, tokens)) = waiting.next()
            {
                computes_until = computes_until.max(now) + prefill * input;
                let ready = computes_until + ttft;
                running.push(Request { begun: now, ready, first: None, tokens: *tokens, left: *tokens });
            }
            if running.is_empty() {
                break;
            }
            let pace = pace + batch * (running.len() as f64 - 1.0);
            let until = |it: &Request| if it.ready > now { it.ready - now } else { it.next() * pace };
            let step = running.iter().map(until).fold(f64::INFINITY, f64::min);
            for request in running.iter_mut().filter(|request| request.ready <= now) {
                let ends = request.next() * pace <= step + 1e-9;
                request.left -= if ends { request.next() } else { step / pace };
                if ends && request.first.is_none() {
                    request.first = Some(now + step);
                }
            }
            let next = now + step;
            // Rounding must not leave a rest to wait for.
            running.iter_mut().filter(|it| it.ready > now && it.ready - now <= step).for_each(|it| it.ready = next);
            now = next;
            let (ended, others): (Vec<_>, _) = running.into_iter().partition(|it| it.left <= 1e-9);
            done.extend(ended.into_iter().map(|request| (request, now)));
            running = others;
        }
        let first = |request: &Request| request.first.expect("a first token");
        let mut ttfts: Vec<_> = done.iter().map(|(request, _)| first(request) - request.begun).collect();
        ttfts.sort_by(f64::total_cmp);
        let several: Vec<_> = done.iter().filter(|(request, _)| request.tokens > 1.0).collect();
        let tpots = several.iter().map(|(request, end)| (end - first(request)) / (request.tokens - 1.0)).sum::<f64>();
        let tokens = done.iter().map(|(request, _)| request.tokens).sum::<f64>();
        [tpots / several.len() as f64, ttfts[ttfts.len() / 2], tokens / now * 1e3]
    }

    #[test]
    fn the_model_gives_the_page_s_figures_within_its_tolerance() {
        for ((prompts, at_once), page) in RUNS.into_iter().zip(PAGE) {
            let wanted = Wanted {
                data_set: DataSet::Random,
                path: None,
                prompts,
                input_len: TOKENS_MAX,
                output_len: TOKENS_MAX,
                range_ratio: 0.0,
                seed: 1,
                tokenizer: None,
                as_ids: false,
                request_rate: None,
            };
            let data = Data::load(&wanted).expect("lengths");
            let lengths: Vec<_> =
                data.turns().map(|turn| (f64::from(turn.input_tokens), f64::from(turn.output_tokens))).collect();
            let modelled = run(&lengths, at_once as usize);
            for ((modelled, page), tolerance) in modelled.into_iter().zip(page).zip(TOLERANCE) {
                let off = modelled / page - 1.0;
                assert!(
                    off.abs() <= tolerance,
                    "{at_once} at once: {modelled:.2} where the page has {page}: {off:+.3}"
                );
            }
        }
    }

    #[test]
    fn times_are_divided_and_not_rounded() {
        assert_eq!(flags(100.0)[4..], ["--prefill-us", "0.1", "--ttft-ms", "1.1"]);
    }
}
