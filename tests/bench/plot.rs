//! A chart as SVG: lines over two axes, each in powers of ten or not, with a legend and the spread of each point.
//! Knows nothing of what it shows.

use crate::report::Spread;
use std::fmt::{self, Write};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 74.0;
const BOTTOM: f64 = 56.0;
/// Told apart by those who see fewer colours too (Okabe and Ito).
pub(crate) const GREY: &str = "#6e7781";
pub(crate) const ORANGE: &str = "#d55e00";
pub(crate) const BLUE: &str = "#0072b2";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// Powers of ten.
    Decades,
}

pub(crate) struct Axis {
    pub(crate) title: &'static str,
    pub(crate) scale: Scale,
}

pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<(f64, Spread)>,
}

pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// Where on an axis a value is: 0 at its beginning, 1 at its end.
struct Range {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let most = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(most, f64::min);
        match scale {
            Scale::Linear => Self { scale, least: 0.0, most: most * 1.08 },
            Scale::Decades => Self { scale, least: least / 1.25, most: most * 1.25 },
        }
    }

    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value / self.most,
            Scale::Decades => (value.max(self.least) / self.least).log10() / (self.most / self.least).log10(),
        }
    }

    /// Round numbers on it; those with a text are not too close to each other.
    fn ticks(&self) -> Vec<(f64, bool)> {
        let decade = |exponent: i32| 10_f64.powi(exponent);
        match self.scale {
            Scale::Linear => {
                let least = self.most / 6.0;
                let steps = (-9..12).flat_map(|exponent| [1.0, 2.0, 5.0].map(|n| n * decade(exponent)));
                let step = steps.into_iter().find(|step| *step >= least).unwrap_or(self.most);
                let all = (0..20).map(|n| f64::from(n) * step);
                all.take_while(|tick| *tick <= self.most).map(|tick| (tick, true)).collect()
            }
            Scale::Decades => {
                let wide = (self.most / self.least).log10() > 2.5;
                let all =
                    (-3..12).flat_map(|exponent| (1..10).map(move |n| (n, f64::from(n) * decade(exponent))));
                let on = all.filter(|(_, tick)| (self.least..=self.most).contains(tick));
                on.map(|(n, tick)| (tick, n == 1 || (!wide && matches!(n, 2 | 5)))).collect()
            }
        }
    }
}

impl Plot {
    /// # Errors
    /// Never: a String takes everything.
    pub(crate) fn svg(&self) -> Result<String, fmt::Error> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Range::of(self.x.scale, points().map(|(x, _)| *x));
        let y = Range::of(self.y.scale, points().flat_map(|(_, y)| [y.least, y.most]));
        let across = |value| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
        let up = |value| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut out = String::new();
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" \
             fill=\"#24292f\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>",
            self.title
        )?;
        text(&mut out, (LEFT, 22.0), "start", "font-size=\"15\" font-weight=\"bold\"", self.title)?;
        for (tick, told) in x.ticks() {
            let at = across(tick);
            rule(&mut out, (at, TOP), (at, HEIGHT - BOTTOM), told)?;
            if told {
                text(&mut out, (at, HEIGHT - BOTTOM + 18.0), "middle", "", &number(tick))?;
            }
        }
        for (tick, told) in y.ticks() {
            let at = up(tick);
            rule(&mut out, (LEFT, at), (WIDTH - RIGHT, at), told)?;
            if told {
                text(&mut out, (LEFT - 8.0, at + 4.0), "end", "", &number(tick))?;
            }
        }
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        text(&mut out, (middle, HEIGHT - 14.0), "middle", "", self.x.title)?;
        let small = "font-size=\"10\" fill=\"#57606a\"";
        text(&mut out, (WIDTH - 8.0, HEIGHT - 14.0), "end", small, "points: medians; bars: least to most")?;
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        let turned = format!("transform=\"rotate(-90 18 {middle})\"");
        text(&mut out, (18.0, middle), "middle", &turned, self.y.title)?;
        for line in &self.lines {
            line.draw(&mut out, &across, &up)?;
        }
        self.legend(&mut out)?;
        out.push_str("</svg>\n");
        Ok(out)
    }

    fn legend(&self, out: &mut String) -> fmt::Result {
        let (mut at, mut row) = (LEFT, 42.0);
        for line in &self.lines {
            // about the width of a letter of this size
            let width = 54.0 + 6.3 * f64::from(u32::try_from(line.name.chars().count()).unwrap_or(0));
            if at + width > WIDTH {
                (at, row) = (LEFT, row + 18.0);
            }
            let (dash, colour) = (line.dash(), line.colour);
            writeln!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{row}\" x2=\"{:.1}\" y2=\"{row}\" stroke=\"{colour}\" \
                 stroke-width=\"2\"{dash}/>",
                at + 24.0
            )?;
            text(out, (at + 30.0, row + 4.0), "start", "", &line.name)?;
            at += width;
        }
        Ok(())
    }
}

impl Line {
    fn dash(&self) -> &'static str {
        if self.dashed { " stroke-dasharray=\"5 4\"" } else { "" }
    }

    fn draw(&self, out: &mut String, across: &dyn Fn(f64) -> f64, up: &dyn Fn(f64) -> f64) -> fmt::Result {
        let (colour, dash) = (self.colour, self.dash());
        let path: Vec<String> =
            self.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(y.median))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        )?;
        for (x, y) in &self.points {
            let (at, middle) = (across(*x), up(y.median));
            writeln!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
                 stroke-width=\"1\" opacity=\"0.6\"/><circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"3\" \
                 fill=\"{colour}\"/>",
                up(y.least),
                up(y.most)
            )?;
        }
        Ok(())
    }
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64), told: bool) -> fmt::Result {
    let colour = if told { "#d0d7de" } else { "#eef1f4" };
    writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"1\"/>",
        from.0, from.1, to.0, to.1
    )
}

/// All texts are our own, and none has a character that XML would take for its own.
fn text(out: &mut String, at: (f64, f64), anchor: &str, more: &str, what: &str) -> fmt::Result {
    writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" {more}>{what}</text>", at.0, at.1)
}

/// With commas between thousands.
pub(crate) fn number(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract().abs() > 1e-9 {
        return format!("{value:.2}").trim_end_matches('0').to_owned();
    }
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0.0, 0.25, 7.0, 999.0, 1000.0, 1_234_567.0, -1000.0].map(number);
        assert_eq!(texts, ["0", "0.25", "7", "999", "1,000", "1,234,567", "-1,000"]);
    }

    #[test]
    fn ticks_are_few_and_on_the_axis() {
        for (scale, most) in [(Scale::Linear, 0.9), (Scale::Linear, 437.0), (Scale::Decades, 10_000.0)] {
            let range = Range::of(scale, [0.3, most].into_iter());
            let told: Vec<f64> =
                range.ticks().into_iter().filter(|(_, told)| *told).map(|(tick, _)| tick).collect();
            assert!((3..=7).contains(&told.len()), "{most}: {told:?}");
            assert!(told.iter().all(|tick| (0.0..=1.0).contains(&range.share(*tick))), "{most}: {told:?}");
        }
    }

    #[test]
    fn a_chart_has_each_line_and_point() {
        let spread = Spread { median: 2.0, least: 1.0, most: 3.0 };
        let line = |name: &str| Line {
            name: name.into(),
            colour: BLUE,
            dashed: false,
            points: vec![(10.0, spread), (1000.0, spread)],
        };
        let axis = |title| Axis { title, scale: Scale::Decades };
        let plot = Plot { title: "t", x: axis("x"), y: axis("y"), lines: vec![line("a"), line("b")] };
        let svg = plot.svg().unwrap();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 4));
        assert!(svg.contains(">a</text>") && svg.contains(">b</text>") && !svg.contains("NaN"));
    }
}
