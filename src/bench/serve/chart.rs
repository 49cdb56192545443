//! Lines over axes, as an inline SVG that takes its colours from the page.

use std::fmt::Write as _;

/// Of the whole picture, and of what its axes leave. Units of the SVG's own.
const SIZE: (f64, f64) = (460.0, 230.0);
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 34.0;
/// Lines across.
const TICKS: f64 = 4.0;

/// What is drawn.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    /// What the axis across is, and from where to where.
    pub across: &'a str,
    pub from: f64,
    pub to: f64,
    /// Each a line, its values spread evenly over the axis.
    pub series: Vec<Vec<f64>>,
}

impl Chart<'_> {
    /// As markup. Texts are ours, and need no escapes.
    pub fn svg(&self) -> String {
        let most = round_up(self.series.iter().flatten().copied().fold(0.0, f64::max));
        let (right, bottom) = (SIZE.0 - RIGHT, SIZE.1 - BOTTOM);
        let y = |value: f64| bottom - (bottom - TOP) * value / most;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>",
            SIZE.0, SIZE.1, self.title, self.title
        );
        for tick in 0..=4 {
            let part = f64::from(tick) / TICKS;
            let (at, x) = (y(most * part), LEFT + (right - LEFT) * part);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{}</text>\
                 <text class=\"tick mid\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                shown(most * part),
                bottom + 15.0,
                shown(self.from + (self.to - self.from) * part),
            );
        }
        let _ = write!(
            svg,
            "<text class=\"tick mid\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            f64::midpoint(LEFT, right),
            SIZE.1 - 4.0,
            self.across
        );
        for (number, values) in self.series.iter().enumerate() {
            let step = (right - LEFT) / float(values.len().saturating_sub(1).max(1));
            let mut path = String::new();
            for (at, value) in values.iter().enumerate() {
                let _ =
                    write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, LEFT + step * float(at), y(*value));
            }
            if values.len() == 1 {
                let _ = write!(path, "H{right}");
            }
            let _ = write!(svg, "<path class=\"line s{number}\" d=\"{path}\"/>");
        }
        svg.push_str("</svg>");
        svg
    }
}

#[expect(clippy::cast_precision_loss, reason = "points of a chart are few")]
fn float(count: usize) -> f64 {
    count as f64
}

/// The next of 1, 2, 4 and 8 times a power of ten, all of which four lines divide well.
fn round_up(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10_f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|times| times * unit).find(|round| *round >= most).unwrap_or(most)
}

fn shown(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.0}k", value / 1e3),
        _ if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_chart_without_a_line() {
        let svg = Chart { title: "Nothing", across: "s", from: 0.0, to: 0.0, series: vec![Vec::new()] }.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn axes_end_at_round_numbers_and_lines_within() {
        for (most, round) in [(0.0, 1.0), (0.07, 0.08), (3.0, 4.0), (8.5, 10.0), (41.0, 80.0)] {
            assert!((round_up(most) - round).abs() < 1e-9, "{most}: {}", round_up(most));
        }
        let svg = Chart { title: "A", across: "s", from: 0.0, to: 2.0, series: vec![vec![0.0, 4.0, 2.0]] }.svg();
        assert!(svg.contains("d=\"M58.0 196.0L253.0 30.0L448.0 113.0\""), "{svg}");
    }
}
