//! A report as one page that needs nothing else: charts and the block's figures.

use super::block::rows;
use super::chart::Chart;
use super::report::Report;
use std::fmt::Write as _;

/// What is shown on one set of axes, by name.
pub struct Group<'a> {
    /// What they have in common.
    pub title: String,
    /// Each a line in every chart and a column of the table.
    pub reports: Vec<(&'static str, &'a Report)>,
}

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--ink:#1c2128;--dim:#5b6470;--grid:#e3e6ea;--s0:#0a66c2;--s1:#c2410c}
@media (prefers-color-scheme:dark){:root{--bg:#15181d;--ink:#e6e8eb;--dim:#9aa3ad;--grid:#2c323a;--s0:#6cb2ff;--s1:#ffa06b}}
body{margin:0 auto;max-width:980px;padding:24px;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
h1{font-size:22px}h2{font-size:17px;margin:32px 0 8px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:12px}
svg{width:100%;height:auto}text{fill:var(--ink);font-size:12px}.title{font-size:13px;font-weight:600}
.tick{fill:var(--dim);font-size:11px}.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--grid)}.line{fill:none;stroke-width:1.8}.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}
.key{color:var(--dim)}.key b.s0{color:var(--s0)}.key b.s1{color:var(--s1)}
table{border-collapse:collapse;margin-top:12px;font-variant-numeric:tabular-nums}
td,th{padding:2px 14px 2px 0;border-bottom:1px solid var(--grid);text-align:right}td:first-child,th:first-child{text-align:left}
";

/// The page.
pub fn page(title: &str, note: &str, groups: &[Group<'_>]) -> String {
    let (title, note) = (escaped(title), escaped(note));
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p class=\"key\">{note}</p>"
    );
    for group in groups {
        let _ = write!(html, "<h2>{}</h2>", escaped(&group.title));
        if group.reports.len() > 1 {
            let name = |(number, (name, _)): (usize, &(&str, &Report))| format!("<b class=\"s{number}\">{name}</b>");
            let names: Vec<_> = group.reports.iter().enumerate().map(name).collect();
            let _ = write!(html, "<p class=\"key\">{}</p>", names.join(" · "));
        }
        let _ = write!(html, "<div class=\"charts\">{}</div>{}", charts(group), table(group));
    }
    html.push_str("</html>\n");
    html
}

fn charts(group: &Group<'_>) -> String {
    let series =
        |of: &str, name: &str| group.reports.iter().map(|(_, report)| report.numbers(of, name)).collect::<Vec<_>>();
    let percentiles = [
        ("Time to first token, ms", "ttft"),
        ("Time per output token, ms", "tpot"),
        ("Inter-token latency, ms", "itl"),
        ("End-to-end latency, ms", "e2e_latency"),
    ];
    let percentiles = percentiles.map(|(title, name)| Chart {
        title,
        across: "percentile",
        from: 0.0,
        to: 100.0,
        series: series("percentiles_ms", name),
    });
    let over_time =
        [("Output tokens a second", "output_tokens"), ("Requests running", "running")].map(|(title, name)| {
            let mut series = series("per_second", name);
            let most = series.iter().map(Vec::len).max().unwrap_or_default();
            // On one axis: a shorter run has nothing after its end.
            for values in &mut series {
                values.resize(most, 0.0);
            }
            // A run of less than two seconds has one value.
            let to = u32::try_from(most.saturating_sub(1).max(1)).map_or(1.0, f64::from);
            Chart { title, across: "seconds from the beginning", from: 0.0, to, series }
        });
    percentiles.iter().chain(&over_time).map(Chart::svg).collect()
}

fn table(group: &Group<'_>) -> String {
    let mut html = "<table><tr><th></th>".to_owned();
    for (name, _) in &group.reports {
        html.extend(["<th>", name, "</th>"]);
    }
    html.push_str("</tr>");
    let reports: Vec<_> = group.reports.iter().map(|(_, report)| *report).collect();
    for (label, figures) in rows(&reports) {
        html.extend(["<tr><td>", label.trim_end_matches(':'), "</td>"]);
        for figure in &figures {
            html.extend(["<td>", &escaped(figure), "</td>"]);
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    for (name, report) in &group.reports {
        let failures = report.failures();
        if !failures.is_empty() {
            let _ = write!(html, "<pre>{name}\n{}</pre>", escaped(&failures));
        }
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
