//! Figures: densities, fields of arrows, points and curves, side by side, as SVG and PNG.
//!
//! A figure is written as SVG; the PNG is that SVG drawn, so the two cannot differ.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use resvg::usvg::fontdb;
use resvg::{tiny_skia, usvg};

use crate::data::Pixels;
use crate::error::{Error, Result};
use crate::file::write_atomically;
use crate::image::write_png;

/// One picture with its axes.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What it shows.
    pub content: Content,
}

/// What a panel shows. The first three show a square of the plane around the origin, y upwards.
#[derive(Clone, Debug)]
pub enum Content {
    /// A colour for each cell of an n×n grid, by the inferno colour map from 0 to the largest value.
    Density {
        /// Half the square's side.
        half_width: f64,
        /// x fastest, y from the lowest.
        values: Vec<f64>,
    },
    /// A vector from each of some places. The longest spans `longest`, the others in proportion.
    Arrows {
        /// Half the square's side.
        half_width: f64,
        /// Place and vector.
        arrows: Vec<([f64; 2], [f64; 2])>,
        /// The length of the longest, in units of the plane.
        longest: f64,
    },
    /// Dots.
    Points {
        /// Half the square's side.
        half_width: f64,
        /// Where; those outside are left out.
        points: Vec<[f64; 2]>,
    },
    /// Curves. Values that are not finite interrupt a curve.
    Lines {
        /// Below the x axis.
        x_label: String,
        /// Beside the y axis.
        y_label: String,
        /// Name and points (x, y).
        series: Vec<(String, Vec<(f64, f64)>)>,
    },
}

/// The side of the plotted square, a multiple of the densities' cells so that these fall on whole pixels.
const PLOT: f64 = 400.0;
/// Space around it: for the y axis, the title, the x axis, and on the right for half a tick's label or a colour bar.
const LEFT: f64 = 68.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 56.0;
const RIGHT: f64 = 24.0;
const RIGHT_WITH_BAR: f64 = 88.0;
/// Height of the names of several curves, between title and plot.
const LEGEND: f64 = 26.0;
/// Pixels of the PNG for a unit of the SVG.
const SCALE: f32 = 1.5;
/// Colours that differ in print too.
const COLOURS: [&str; 4] = ["#1f4ea0", "#c85200", "#46823c", "#6e6e6e"];

/// Writes the panels, row by row, as `path.svg` and `path.png`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(path: &Path, panels: &[Panel], n_columns: usize) -> Result<()> {
    let svg = svg(panels, n_columns);
    write_atomically(&path.with_extension("svg"), |out| out.write_all(svg.as_bytes()))?;
    let failed = |what: &dyn Display| Error::Usage(format!("{}: {what}", path.with_extension("png").display()));
    write_png(&path.with_extension("png"), &rasterise(&svg).map_err(|e| failed(&e))?)
}

fn rasterise(svg: &str) -> Result<Pixels, String> {
    // Built in: a machine without fonts draws the same letters.
    static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        let name = fonts.faces().next().map(|face| face.families[0].0.clone()).expect("the font is a font");
        fonts.set_sans_serif_family(name);
        Arc::new(fonts)
    });
    let options = usvg::Options { fontdb: FONTS.clone(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| e.to_string())?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or("the figure has no size")?;
    let mut pixmap = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the figure is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
    // The background is opaque: alpha is 255 everywhere.
    let rgb = pixmap.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    Ok(Pixels::new(rgb, size.height() as usize, size.width() as usize, 3))
}

fn svg(panels: &[Panel], n_columns: usize) -> String {
    let n_columns = n_columns.clamp(1, panels.len().max(1));
    let mut body = String::new();
    let (mut total_width, mut y) = (0.0_f64, 0.0);
    for (row, panels) in panels.chunks(n_columns).enumerate() {
        let top = TOP + if panels.iter().any(|p| p.n_names() > 1) { LEGEND } else { 0.0 };
        let mut x = 0.0;
        for (column, panel) in panels.iter().enumerate() {
            let canvas = Canvas { left: x + LEFT, top: y + top };
            // Names of clips are unique in the file.
            canvas.panel(&mut body, panel, &format!("clip{row}-{column}"));
            x += LEFT + PLOT + panel.right();
        }
        total_width = total_width.max(x);
        y += top + PLOT + BOTTOM;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total_width}\" height=\"{y}\" \
         viewBox=\"0 0 {total_width} {y}\" font-family=\"Ubuntu, sans-serif\" font-size=\"15\" fill=\"black\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

impl Panel {
    fn right(&self) -> f64 {
        if matches!(self.content, Content::Density { .. }) { RIGHT_WITH_BAR } else { RIGHT }
    }

    /// Of curves.
    fn n_names(&self) -> usize {
        if let Content::Lines { series, .. } = &self.content { series.len() } else { 0 }
    }
}

/// Where on the page the plotted square lies.
#[derive(Clone, Copy)]
struct Canvas {
    left: f64,
    top: f64,
}

/// The values at the ends of an axis.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Round values, about `n` of them: steps of 1, 2 or 5 times a power of ten.
    fn ticks(self, n: f64) -> Vec<f64> {
        let rough = (self.high - self.low) / n;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
        let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// `write!` to a `String`, which cannot fail.
macro_rules! put {
    ($out:expr, $($argument:tt)*) => { writeln!($out, $($argument)*).expect("a String takes everything") };
}

impl Canvas {
    fn x(self, axis: Axis, value: f64) -> f64 {
        self.left + PLOT * axis.share(value)
    }

    fn y(self, axis: Axis, value: f64) -> f64 {
        self.top + PLOT * (1.0 - axis.share(value))
    }

    fn panel(self, out: &mut String, panel: &Panel, clip: &str) {
        let Self { left, top } = self;
        put!(
            out,
            "<clipPath id=\"{clip}\"><rect x=\"{left}\" y=\"{top}\" width=\"{PLOT}\" height=\"{PLOT}\"/></clipPath>"
        );
        put!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"20\" text-anchor=\"middle\">{}</text>",
            left + PLOT / 2.0,
            top - if panel.n_names() > 1 { LEGEND } else { 0.0 } - 16.0,
            escape(&panel.title)
        );
        let plane = |half_width: f64| Axis { low: -half_width, high: half_width };
        let (x_axis, y_axis) = match &panel.content {
            Content::Density { half_width, values } => {
                self.density(out, values);
                (plane(*half_width), plane(*half_width))
            }
            Content::Arrows { half_width, arrows, longest } => {
                put!(out, "<g clip-path=\"url(#{clip})\" stroke=\"{0}\" fill=\"{0}\">", COLOURS[0]);
                self.arrows(out, plane(*half_width), arrows, *longest);
                put!(out, "</g>");
                (plane(*half_width), plane(*half_width))
            }
            Content::Points { half_width, points } => {
                let axis = plane(*half_width);
                put!(out, "<g clip-path=\"url(#{clip})\" fill=\"{}\" fill-opacity=\"0.45\">", COLOURS[0]);
                for p in points.iter().filter(|p| p.iter().all(|v| v.abs() <= *half_width)) {
                    put!(out, "<circle cx=\"{:.2}\" cy=\"{:.2}\" r=\"2.2\"/>", self.x(axis, p[0]), self.y(axis, p[1]));
                }
                put!(out, "</g>");
                (axis, axis)
            }
            Content::Lines { x_label, y_label, series } => self.lines(out, clip, [x_label, y_label], series),
        };
        // The axes last, above what was drawn.
        put!(out, "<rect x=\"{left}\" y=\"{top}\" width=\"{PLOT}\" height=\"{PLOT}\" fill=\"none\" stroke=\"black\"/>");
        for value in x_axis.ticks(8.0) {
            let (x, y) = (self.x(x_axis, value), top + PLOT);
            put!(out, "<path d=\"M{x:.2} {y}v5\" stroke=\"black\"/>");
            put!(out, "<text x=\"{x:.2}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y + 20.0, number(value));
        }
        for value in y_axis.ticks(8.0) {
            let (x, y) = (left, self.y(y_axis, value));
            put!(out, "<path d=\"M{x} {y:.2}h-5\" stroke=\"black\"/>");
            put!(out, "<text x=\"{}\" y=\"{:.2}\" text-anchor=\"end\">{}</text>", x - 9.0, y + 5.0, number(value));
        }
    }

    /// The cells, and a bar that tells what the colours mean.
    fn density(self, out: &mut String, values: &[f64]) {
        let n = values.len().isqrt();
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let bar = Axis { low: 0.0, high: finite.fold(f64::MIN_POSITIVE, f64::max) };
        let colour = |value: f64| format!("#{:x}", colorous::INFERNO.eval_continuous(bar.share(value).clamp(0.0, 1.0)));
        let cell = PLOT / n.max(1) as f64;
        put!(out, "<g shape-rendering=\"crispEdges\">");
        for (j, row) in values.chunks_exact(n.max(1)).enumerate() {
            let y = self.top + PLOT - (j + 1) as f64 * cell;
            // Runs of one colour are one rectangle: most of a density is black.
            let mut first = 0;
            for i in 1..=n {
                if i == n || colour(row[i]) != colour(row[first]) {
                    let (x, width) = (self.left + first as f64 * cell, (i - first) as f64 * cell);
                    let fill = colour(row[first]);
                    put!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{cell}\" fill=\"{fill}\"/>");
                    first = i;
                }
            }
        }
        const N_COLOURS: usize = 100;
        let (x, strip) = (self.left + PLOT + 16.0, PLOT / N_COLOURS as f64);
        for i in 0..N_COLOURS {
            let fill = colour((i as f64 + 0.5) / N_COLOURS as f64 * bar.high);
            let y = self.top + PLOT - (i + 1) as f64 * strip;
            put!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"{strip}\" fill=\"{fill}\"/>");
        }
        put!(out, "</g>");
        put!(out, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"{PLOT}\" fill=\"none\" stroke=\"black\"/>", self.top);
        for value in bar.ticks(6.0) {
            let y = self.y(bar, value);
            put!(out, "<path d=\"M{} {y:.2}h4\" stroke=\"black\"/>", x + 14.0);
            put!(out, "<text x=\"{}\" y=\"{:.2}\">{}</text>", x + 21.0, y + 5.0, number(value));
        }
    }

    fn arrows(self, out: &mut String, axis: Axis, arrows: &[([f64; 2], [f64; 2])], longest: f64) {
        let length = |v: &[f64; 2]| v[0].hypot(v[1]);
        let norm = arrows.iter().map(|(_, v)| length(v)).filter(|l| l.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        let unit = longest / norm * PLOT / (axis.high - axis.low);
        for (at, vector) in arrows.iter().filter(|(_, v)| length(v).is_finite()) {
            let (x, y) = (self.x(axis, at[0]), self.y(axis, at[1]));
            let (dx, dy) = (vector[0] * unit, -vector[1] * unit);
            // The head has one size, so that the shortest arrow tells its direction too.
            let angle = dy.atan2(dx);
            let corner =
                |turn: f64, size: f64| (x + dx + size * (angle + turn).cos(), y + dy + size * (angle + turn).sin());
            let [(x0, y0), (x1, y1), (x2, y2)] = [corner(0.0, 4.0), corner(2.4, 4.0), corner(-2.4, 4.0)];
            put!(out, "<path d=\"M{x:.2} {y:.2}l{dx:.2} {dy:.2}M{x0:.2} {y0:.2}L{x1:.2} {y1:.2}L{x2:.2} {y2:.2}Z\"/>");
        }
    }

    /// Returns the axes that fit the curves.
    fn lines(
        self,
        out: &mut String,
        clip: &str,
        [x_label, y_label]: [&str; 2],
        series: &[(String, Vec<(f64, f64)>)],
    ) -> (Axis, Axis) {
        let Self { left, top } = self;
        let is_finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let finite = || series.iter().flat_map(|(_, points)| points).filter(|p| is_finite(p));
        let x_axis = around(finite().map(|p| p.0), 0.0);
        let y_axis = around(finite().map(|p| p.1), 0.05);

        for value in y_axis.ticks(8.0) {
            put!(out, "<path d=\"M{left} {:.2}h{PLOT}\" stroke=\"#e4e4e4\"/>", self.y(y_axis, value));
        }
        put!(out, "<g clip-path=\"url(#{clip})\" fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\">");
        for ((_, points), colour) in series.iter().zip(COLOURS.iter().cycle()) {
            for piece in points.split(|p| !is_finite(p)).filter(|piece| !piece.is_empty()) {
                let point = |p: &(f64, f64)| format!("{:.2},{:.2}", self.x(x_axis, p.0), self.y(y_axis, p.1));
                let path: Vec<String> = piece.iter().map(point).collect();
                put!(out, "<polyline points=\"{}\" stroke=\"{colour}\"/>", path.join(" "));
            }
        }
        put!(out, "</g>");
        put!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left + PLOT / 2.0,
            top + PLOT + 44.0,
            escape(x_label)
        );
        let (x, y) = (left - 52.0, top + PLOT / 2.0);
        put!(
            out,
            "<text transform=\"translate({x} {y}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(y_label)
        );
        if series.len() > 1 {
            let width = PLOT / series.len() as f64;
            for (i, ((name, _), colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
                let (x, y) = (left + i as f64 * width, top - 16.0);
                put!(out, "<path d=\"M{x} {}h24\" stroke=\"{colour}\" stroke-width=\"2\"/>", y - 5.0);
                put!(out, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 31.0, escape(name));
            }
        }
        (x_axis, y_axis)
    }
}

/// An axis over all `values`, with a `margin` in shares of their range on both sides.
fn around(values: impl Iterator<Item = f64>, margin: f64) -> Axis {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    // One value alone still has a place, in the middle, however large it is.
    let space = if high > low { margin * (high - low) } else { 0.5 * high.abs().max(1.0) };
    Axis { low: low - space, high: high + space }
}

/// Means of `n` neighbours, the last perhaps of fewer: a curve without its noise.
pub fn averaged(points: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(n.max(1)).map(mean).collect()
}

/// A tick's label, without more digits than it needs: −4, 0.02, 10000, 2e6.
fn number(value: f64) -> String {
    // Multiples of 0.02 are not all exact.
    let rounded: f64 = format!("{value:.9e}").parse().unwrap_or(value);
    let size = rounded.abs();
    let text = if size != 0.0 && !(1e-4..1e6).contains(&size) { format!("{rounded:e}") } else { rounded.to_string() };
    text.replace('-', "−")
}

/// Text of XML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pixel(pixels: &Pixels, x: f64, y: f64) -> [u8; 3] {
        let (x, y) = ((x * f64::from(SCALE)) as usize, (y * f64::from(SCALE)) as usize);
        let at = (y * pixels.width + x) * 3;
        pixels.data[at..at + 3].try_into().unwrap()
    }

    #[test]
    fn y_points_upwards() {
        // Probability only in the cell at the lower right.
        let content = Content::Density { half_width: 1.0, values: vec![0.0, 1.0, 0.0, 0.0] };
        let pixels = rasterise(&svg(&[Panel { title: String::new(), content }], 1)).unwrap();
        let centre = |i: f64, j: f64| pixel(&pixels, LEFT + PLOT * (0.25 + 0.5 * i), TOP + PLOT * (0.75 - 0.5 * j));
        let brightness = |p: [u8; 3]| p.iter().map(|&v| u32::from(v)).sum::<u32>();
        assert!(brightness(centre(1.0, 0.0)) > 500);
        for [i, j] in [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]] {
            assert!(brightness(centre(i, j)) < 20);
        }
    }

    #[test]
    fn an_arrow_leads_from_its_place_along_its_vector() {
        let content = Content::Arrows { half_width: 1.0, arrows: vec![([0.0, 0.0], [0.0, 3.0])], longest: 0.5 };
        let pixels = rasterise(&svg(&[Panel { title: String::new(), content }], 1)).unwrap();
        let is_drawn =
            |x: f64, y: f64| pixel(&pixels, LEFT + PLOT * (0.5 + x / 2.0), TOP + PLOT * (0.5 - y / 2.0)) != [255; 3];
        assert!(is_drawn(0.0, 0.25) && is_drawn(0.0, 0.5));
        assert!(!is_drawn(0.0, 0.6) && !is_drawn(0.0, -0.2) && !is_drawn(0.25, 0.0));
    }

    #[test]
    fn titles_are_drawn_and_cannot_break_the_file() {
        let panel = |title: &str| {
            let content = Content::Points { half_width: 1.0, points: vec![[0.0, 0.0], [9.0, 0.0]] };
            svg(&[Panel { title: title.into(), content }], 1)
        };
        let hostile = panel("</text><script>&");
        assert!(hostile.contains("&lt;/text&gt;&lt;script&gt;&amp;"));
        assert_eq!(hostile.matches("<circle").count(), 1);
        assert!(rasterise(&hostile).unwrap() != rasterise(&panel("")).unwrap(), "the letters are there");
    }

    #[test]
    fn values_that_are_not_finite_interrupt_a_curve() {
        let lines = |points| {
            let series = vec![("a".to_string(), points)];
            let content = Content::Lines { x_label: "x".into(), y_label: "y".into(), series };
            svg(&[Panel { title: String::new(), content }], 1)
        };
        let broken = lines(vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]);
        assert_eq!(broken.matches("<polyline").count(), 2);
        // Nothing to draw, and one value alone, are figures too.
        for points in [vec![], vec![(5.0, 1e9)], vec![(f64::NAN, f64::INFINITY)]] {
            assert!(rasterise(&lines(points)).is_ok());
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Axis { low: -8.0, high: 8.0 }.ticks(8.0), [-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0]);
        let labels: Vec<_> = Axis { low: 0.0, high: 0.127 }.ticks(6.0).into_iter().map(number).collect();
        assert_eq!(labels, ["0", "0.05", "0.1"]);
        assert_eq!([-4.0, 10_000.0, 2e6, 1e-5].map(number), ["−4", "10000", "2e6", "1e−5"]);
    }
}
