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
use crate::error::{Error, Result, is_fit_for_terminal};
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

/// What a panel shows. The first three show a square around the origin, y upwards.
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
        /// The length of the longest, in units of the axes.
        longest: f64,
    },
    /// Dots.
    Points {
        /// Half the square's side.
        half_width: f64,
        /// Where; those outside are left out.
        points: Vec<[f64; 2]>,
    },
    /// Curves. Values that are not finite interrupt a curve; a point without neighbours is a dot.
    Lines {
        /// Below the x axis.
        x_label: String,
        /// Beside the y axis.
        y_label: String,
        /// Name and points (x, y).
        series: Vec<(String, Vec<(f64, f64)>)>,
    },
    /// Separate measurements, each a dot, joined in their order. Values that are not finite interrupt the line.
    Marked {
        /// Below the x axis.
        x_label: String,
        /// Beside the y axis.
        y_label: String,
        /// The points (x, y).
        points: Vec<(f64, f64)>,
        /// The number of a point that gets a ring, and what the legend says of it.
        ring: Option<(usize, String)>,
    },
    /// Histograms over the same bins, beside each other.
    Bars {
        /// Below the x axis.
        x_label: String,
        /// Beside the y axis.
        y_label: String,
        /// The ends of the x axis, which the bins divide evenly.
        range: [f64; 2],
        /// Name, and the height of the bar in each bin.
        series: Vec<(String, Vec<f64>)>,
    },
}

/// The side of the plotted square, a multiple of the densities' cells so that these fall on whole pixels.
const PLOT: f64 = 400.0;
/// Space around it: for the y axis, the title, the x axis, and on the right for half a tick's label or a colour bar.
/// Longer labels get more on the left and the right.
const LEFT: f64 = 68.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 56.0;
const RIGHT: f64 = 24.0;
const RIGHT_WITH_BAR: f64 = 88.0;
/// Height of the letters of labels and titles, and the smallest that a long title gets.
const FONT: f64 = 15.0;
const TITLE_FONT: f64 = 20.0;
const SMALLEST_FONT: f64 = 12.0;
/// From a panel's left edge to the baseline of the y axis' name, and what that name, a gap, a tick and another gap take
/// beside the labels of the ticks.
const Y_NAME: f64 = 16.0;
const BESIDE_Y_LABELS: f64 = 38.0;
/// The least space between two labels.
const GAP: f64 = 10.0;
/// Height of a line of the legend, between title and plot; the symbol in it, and the space behind an entry.
const LEGEND_LINE: f64 = 22.0;
const LEGEND_SYMBOL: f64 = 31.0;
const LEGEND_GAP: f64 = 20.0;
/// Radius of a point's dot, and of the ring around one.
const DOT: f64 = 3.5;
const RING: f64 = 7.0;
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
    // Panels below each other are as wide as the widest.
    let in_column = |column: usize| panels.iter().skip(column).step_by(n_columns).map(Panel::margins);
    let widest = |a: [f64; 2], b: [f64; 2]| [a[0].max(b[0]), a[1].max(b[1])];
    let margins: Vec<[f64; 2]> = (0..n_columns).map(|column| in_column(column).fold([0.0; 2], widest)).collect();
    let mut body = String::new();
    let (mut total_width, mut y) = (0.0_f64, 0.0);
    for (row, panels) in panels.chunks(n_columns).enumerate() {
        let top = TOP + panels.iter().map(|panel| panel.content.legend().height()).fold(0.0, f64::max);
        let mut x = 0.0;
        for (column, (panel, [left, right])) in panels.iter().zip(&margins).enumerate() {
            let canvas = Canvas { left: x + left, top: y + top };
            // Names of clips are unique in the file.
            canvas.panel(&mut body, panel, &format!("clip{row}-{column}"), x + Y_NAME);
            x += left + PLOT + right;
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
    /// The space that labels take on the left and on the right.
    fn margins(&self) -> [f64; 2] {
        let [x_axis, y_axis] = self.content.axes();
        let widest = |ticks: Vec<f64>| ticks.into_iter().map(|value| width(&number(value), FONT)).fold(0.0, f64::max);
        let left = widest(y_axis.ticks(N_TICKS)) + BESIDE_Y_LABELS;
        let right = match &self.content {
            Content::Density { values, .. } => {
                (widest(colours(values).ticks(N_TICKS_OF_BAR)) + BAR_LABELS + GAP).max(RIGHT_WITH_BAR)
            }
            _ => RIGHT,
        };
        [left.max(LEFT), right.max(widest(x_axis.ticks_with_room()) / 2.0 + GAP / 2.0)]
    }
}

impl Content {
    /// The x and the y axis.
    fn axes(&self) -> [Axis; 2] {
        let plane = |half_width: f64| [Axis { low: -half_width, high: half_width }; 2];
        match self {
            Self::Density { half_width, .. } | Self::Arrows { half_width, .. } | Self::Points { half_width, .. } => {
                plane(*half_width)
            }
            Self::Lines { series, .. } => {
                let points = || series.iter().flat_map(|(_, points)| points).filter(|p| can_be_drawn(p));
                [around(points().map(|p| p.0), 0.0), around(points().map(|p| p.1), 0.05)]
            }
            Self::Marked { points, .. } => {
                let points = || points.iter().filter(|p| can_be_drawn(p));
                [around(points().map(|p| p.0), 0.05), around(points().map(|p| p.1), 0.08)]
            }
            Self::Bars { range: [low, high], series, .. } => {
                let heights = series.iter().flat_map(|(_, heights)| heights).copied().filter(|h| h.is_finite());
                let highest = heights.fold(0.0, f64::max);
                let x_axis = Axis { low: *low, high: *high };
                let x_axis = if x_axis.has_ticks() { x_axis } else { around([*low, *high].into_iter(), 0.0) };
                [x_axis, Axis { low: 0.0, high: if highest > 0.0 { 1.05 * highest } else { 1.0 } }]
            }
        }
    }

    /// What tells series apart.
    fn legend(&self) -> Legend {
        let mut legend = Legend { lines: 0, entries: Vec::new() };
        match self {
            Self::Lines { series, .. } if series.len() > 1 => series.iter().for_each(|(name, _)| legend.add(name)),
            Self::Bars { series, .. } => series.iter().for_each(|(name, _)| legend.add(name)),
            Self::Marked { ring: Some((_, name)), .. } => legend.add(name),
            _ => {}
        }
        legend
    }
}

/// Names of series, in as many lines as they need.
struct Legend {
    lines: usize,
    /// Line, distance from the left, and name.
    entries: Vec<(usize, f64, String)>,
}

impl Legend {
    fn add(&mut self, name: &str) {
        let name = cut(name, FONT, PLOT - LEGEND_SYMBOL);
        let end = |(_, x, name): &(usize, f64, String)| x + LEGEND_SYMBOL + width(name, FONT) + LEGEND_GAP;
        let x = self.entries.last().map_or(0.0, end);
        let has_room = self.lines > 0 && x + LEGEND_SYMBOL + width(&name, FONT) <= PLOT;
        let x = if has_room { x } else { 0.0 };
        self.lines += usize::from(!has_room);
        self.entries.push((self.lines - 1, x, name));
    }

    fn height(&self) -> f64 {
        if self.lines == 0 { 0.0 } else { LEGEND_LINE * self.lines as f64 + 4.0 }
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

/// About as many ticks has an axis, if there is room for them, and a colour bar.
const N_TICKS: f64 = 8.0;
const N_TICKS_OF_BAR: f64 = 6.0;
/// From the plot to the labels of the colour bar.
const BAR_LABELS: f64 = 37.0;

impl Axis {
    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Whether its ends are so far apart that labels of ten digits tell ticks between them apart.
    fn has_ticks(self) -> bool {
        let size = self.low.abs().max(self.high.abs());
        (self.high - self.low).is_finite() && self.high - self.low > 1e-7 * size
    }

    /// The ticks of an x axis: as many as have room for their labels.
    fn ticks_with_room(self) -> Vec<f64> {
        let mut n = N_TICKS;
        loop {
            let ticks = self.ticks(n);
            let widest = ticks.iter().map(|&value| width(&number(value), FONT)).fold(0.0, f64::max);
            let distance = ticks.windows(2).map(|pair| PLOT * (self.share(pair[1]) - self.share(pair[0])));
            if n <= 2.0 || distance.fold(f64::INFINITY, f64::min) >= widest + GAP {
                return ticks;
            }
            n -= 1.0;
        }
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

    /// Draws the panel; the name of the y axis has its baseline at `y_name`.
    fn panel(self, out: &mut String, panel: &Panel, clip: &str, y_name: f64) {
        let Self { left, top } = self;
        put!(
            out,
            "<clipPath id=\"{clip}\"><rect x=\"{left}\" y=\"{top}\" width=\"{PLOT}\" height=\"{PLOT}\"/></clipPath>"
        );
        let legend = panel.content.legend();
        let room = PLOT + 2.0 * RIGHT;
        let font = (TITLE_FONT * room / width(&panel.title, TITLE_FONT).max(1.0)).clamp(SMALLEST_FONT, TITLE_FONT);
        put!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"{font:.1}\" text-anchor=\"middle\">{}</text>",
            left + PLOT / 2.0,
            top - legend.height() - 16.0,
            escape(&cut(&panel.title, font, room))
        );
        let [x_axis, y_axis] = panel.content.axes();
        match &panel.content {
            Content::Density { values, .. } => self.density(out, values),
            Content::Arrows { arrows, longest, .. } => {
                put!(out, "<g clip-path=\"url(#{clip})\" stroke=\"{0}\" fill=\"{0}\">", COLOURS[0]);
                self.arrows(out, x_axis, arrows, *longest);
                put!(out, "</g>");
            }
            Content::Points { half_width, points } => {
                put!(out, "<g clip-path=\"url(#{clip})\" fill=\"{}\" fill-opacity=\"0.45\">", COLOURS[0]);
                for p in points.iter().filter(|p| p.iter().all(|v| v.abs() <= *half_width)) {
                    let (x, y) = (self.x(x_axis, p[0]), self.y(y_axis, p[1]));
                    put!(out, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"2.2\"/>");
                }
                put!(out, "</g>");
            }
            Content::Lines { x_label, y_label, series } => {
                self.grid(out, y_axis);
                for ((_, points), colour) in series.iter().zip(COLOURS.iter().cycle()) {
                    self.curve(out, [x_axis, y_axis], points, colour, false);
                }
                self.names(out, x_label, y_label, y_name);
            }
            Content::Marked { x_label, y_label, points, ring } => {
                self.grid(out, y_axis);
                self.curve(out, [x_axis, y_axis], points, COLOURS[0], true);
                let ringed = ring.as_ref().and_then(|(i, _)| points.get(*i)).filter(|p| can_be_drawn(p));
                if let Some(p) = ringed {
                    self.ring(out, self.x(x_axis, p.0), self.y(y_axis, p.1));
                }
                self.names(out, x_label, y_label, y_name);
            }
            Content::Bars { x_label, y_label, series, .. } => {
                self.grid(out, y_axis);
                self.bars(out, y_axis, series);
                self.names(out, x_label, y_label, y_name);
            }
        }
        let is_ring = matches!(panel.content, Content::Marked { .. });
        for ((line, x, name), colour) in legend.entries.iter().zip(COLOURS.iter().cycle()) {
            let (x, y) = (left + x, top - 16.0 - LEGEND_LINE * (legend.lines - 1 - line) as f64);
            match is_ring {
                true => self.ring(out, x + 12.0, y - 5.0),
                false => put!(out, "<path d=\"M{x} {}h24\" stroke=\"{colour}\" stroke-width=\"4\"/>", y - 5.0),
            }
            put!(out, "<text x=\"{}\" y=\"{y}\">{}</text>", x + LEGEND_SYMBOL, escape(name));
        }
        // The axes last, above what was drawn.
        put!(out, "<rect x=\"{left}\" y=\"{top}\" width=\"{PLOT}\" height=\"{PLOT}\" fill=\"none\" stroke=\"black\"/>");
        for value in x_axis.ticks_with_room() {
            let (x, y) = (self.x(x_axis, value), top + PLOT);
            put!(out, "<path d=\"M{x:.2} {y}v5\" stroke=\"black\"/>");
            put!(out, "<text x=\"{x:.2}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y + 20.0, number(value));
        }
        for value in y_axis.ticks(N_TICKS) {
            let (x, y) = (left, self.y(y_axis, value));
            put!(out, "<path d=\"M{x} {y:.2}h-5\" stroke=\"black\"/>");
            put!(out, "<text x=\"{}\" y=\"{:.2}\" text-anchor=\"end\">{}</text>", x - 9.0, y + 5.0, number(value));
        }
    }

    /// The cells, and a bar that tells what the colours mean.
    fn density(self, out: &mut String, values: &[f64]) {
        let n = values.len().isqrt();
        let bar = colours(values);
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
        for value in bar.ticks(N_TICKS_OF_BAR) {
            let y = self.y(bar, value);
            put!(out, "<path d=\"M{} {y:.2}h4\" stroke=\"black\"/>", x + 14.0);
            put!(out, "<text x=\"{}\" y=\"{:.2}\">{}</text>", self.left + PLOT + BAR_LABELS, y + 5.0, number(value));
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

    /// A line for each tick of the y axis.
    fn grid(self, out: &mut String, axis: Axis) {
        for value in axis.ticks(N_TICKS) {
            put!(out, "<path d=\"M{} {:.2}h{PLOT}\" stroke=\"#e4e4e4\"/>", self.left, self.y(axis, value));
        }
    }

    /// The names of both axes.
    fn names(self, out: &mut String, x_label: &str, y_label: &str, y_name: f64) {
        let (x, y) = (self.left + PLOT / 2.0, self.top + PLOT + 44.0);
        put!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(&cut(x_label, FONT, PLOT)));
        let name = escape(&cut(y_label, FONT, PLOT));
        let y = self.top + PLOT / 2.0;
        put!(out, "<text transform=\"translate({y_name} {y}) rotate(-90)\" text-anchor=\"middle\">{name}</text>");
    }

    /// Lines between neighbouring points; a dot at those without neighbours, or at all of them.
    fn curve(self, out: &mut String, [x_axis, y_axis]: [Axis; 2], points: &[(f64, f64)], colour: &str, all_dots: bool) {
        let place = |p: &(f64, f64)| (self.x(x_axis, p.0), self.y(y_axis, p.1));
        put!(out, "<g fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\">");
        for piece in points.split(|p| !can_be_drawn(p)).filter(|piece| !piece.is_empty()) {
            let places: Vec<(f64, f64)> = piece.iter().map(place).collect();
            if places.len() > 1 {
                let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
                put!(out, "<polyline points=\"{}\" stroke=\"{colour}\"/>", path.join(" "));
            }
            if all_dots || places.len() == 1 {
                for (x, y) in places {
                    put!(out, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{DOT}\" fill=\"{colour}\"/>");
                }
            }
        }
        put!(out, "</g>");
    }

    fn ring(self, out: &mut String, x: f64, y: f64) {
        let colour = COLOURS[1];
        put!(
            out,
            "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{RING}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"
        );
    }

    /// Bars that fill most of their bin together.
    fn bars(self, out: &mut String, y_axis: Axis, series: &[(String, Vec<f64>)]) {
        const SHARE: f64 = 0.9;
        let bottom = self.y(y_axis, 0.0);
        for (s, ((_, heights), colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let bin = PLOT / heights.len().max(1) as f64;
            let bar = SHARE * bin / series.len() as f64;
            for (i, &height) in heights.iter().enumerate().filter(|(_, height)| height.is_finite() && **height > 0.0) {
                let x = self.left + i as f64 * bin + (1.0 - SHARE) / 2.0 * bin + s as f64 * bar;
                let y = self.y(y_axis, height);
                let height = bottom - y;
                put!(
                    out,
                    "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{bar:.2}\" height=\"{height:.2}\" fill=\"{colour}\"/>"
                );
            }
        }
    }
}

/// The scale of a density's colours.
fn colours(values: &[f64]) -> Axis {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    Axis { low: 0.0, high: finite.fold(f64::MIN_POSITIVE, f64::max) }
}

/// Whether a point has a place: differences of larger numbers overflow.
fn can_be_drawn(p: &(f64, f64)) -> bool {
    p.0.abs() < 1e300 && p.1.abs() < 1e300
}

/// An axis over all `values`, with a `margin` in shares of their range on both sides.
fn around(values: impl Iterator<Item = f64>, margin: f64) -> Axis {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let axis = Axis { low, high };
    // One value alone, or values that labels cannot tell apart, still have a place, in the middle, however large they
    // are.
    let space = match high.abs().max(low.abs()) {
        _ if axis.has_ticks() => margin * (high - low),
        0.0 => 1.0,
        size => 0.5 * size,
    };
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

/// Text of XML. Characters that XML has no place for, and those that change the direction of others, are shown by their
/// codes.
fn escape(text: &str) -> String {
    visible(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn visible(text: &str) -> String {
    let is_visible = |c: char| is_fit_for_terminal(c) && !matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().flat_map(|c| if is_visible(c) { vec![c] } else { c.escape_unicode().collect() }).collect()
}

/// About the width of a text, rather more than less: letters of the built-in font, sorted into four sizes.
fn width(text: &str, font: f64) -> f64 {
    let of_letter = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 0.28,
        ' ' | 'f' | 'r' | 't' | '(' | ')' | '[' | ']' | '/' | '-' => 0.4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 0.95,
        _ if c.is_ascii_digit() || c.is_ascii_lowercase() || matches!(c, '−' | '_') => 0.58,
        _ if c.is_ascii() => 0.7,
        _ => 1.0,
    };
    font * text.chars().map(of_letter).sum::<f64>()
}

/// The text, or what has room of it and "…".
fn cut(text: &str, font: f64, room: f64) -> String {
    let text = visible(text);
    if width(&text, font) <= room {
        return text;
    }
    let mut shorter = text;
    while !shorter.is_empty() && width(&shorter, font) + width("…", font) > room {
        shorter.pop();
    }
    shorter + "…"
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
        assert_eq!((broken.matches("<polyline").count(), broken.matches("<circle").count()), (1, 1));
        // Nothing to draw, and one value alone, are figures too.
        for points in [vec![], vec![(5.0, 1e9)], vec![(f64::NAN, f64::INFINITY)]] {
            assert!(rasterise(&lines(points)).is_ok());
        }
    }

    fn marked(points: Vec<(f64, f64)>, ring: Option<(usize, String)>) -> Panel {
        let content = Content::Marked { x_label: "step".into(), y_label: "KID of many".into(), points, ring };
        Panel { title: "KID".into(), content }
    }

    /// The numbers of the columns of pixels from x = `left` to `right` that are white between y = `top` and `bottom`.
    fn white_columns(pixels: &Pixels, [left, right]: [f64; 2], [top, bottom]: [f64; 2]) -> Vec<usize> {
        let scaled = |value: f64| (value * f64::from(SCALE)) as usize;
        let is_white = |x: usize, y: usize| pixels.data[(y * pixels.width + x) * 3..][..3] == [255; 3];
        (scaled(left)..scaled(right)).filter(|&x| (scaled(top)..scaled(bottom)).all(|y| is_white(x, y))).collect()
    }

    #[test]
    fn points_without_neighbours_are_dots() {
        let series = vec![("a".to_string(), vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)])];
        let content = Content::Lines { x_label: "x".into(), y_label: "y".into(), series };
        let drawn = svg(&[Panel { title: String::new(), content }], 1);
        assert_eq!((drawn.matches("<circle").count(), drawn.matches("<polyline").count()), (2, 0));
        // One checkpoint alone is in the middle of its panel.
        let panel = marked(vec![(5000.0, 31.25)], None);
        let [left, _] = panel.margins();
        let pixels = rasterise(&svg(&[panel], 1)).unwrap();
        assert_eq!(pixel(&pixels, left + PLOT / 2.0, TOP + PLOT / 2.0), [0x1f, 0x4e, 0xa0]);
    }

    #[test]
    fn separate_measurements_are_dots_and_one_of_them_has_a_ring_that_the_legend_explains() {
        let points = vec![(1.0, 3.0), (2.0, 1.0), (3.0, f64::NEG_INFINITY), (4.0, 2.0)];
        let drawn = svg(&[marked(points.clone(), Some((1, "best: step 2".into())))], 1);
        let rings = drawn.matches("fill=\"none\" stroke=\"#c85200\"").count();
        assert_eq!((drawn.matches("<circle").count(), rings), (3 + 2, 2));
        assert!(drawn.contains(">best: step 2</text>") && !drawn.contains("inf"));
        // A ring around what has no place is not drawn.
        let drawn = svg(&[marked(points, Some((2, "none".into())))], 1);
        assert_eq!(drawn.matches("<circle").count(), 3 + 1);
        assert!(!drawn.contains("inf") && !drawn.contains("NaN"));
    }

    #[test]
    fn bars_are_as_high_as_their_values_and_beside_each_other() {
        let series = vec![("a".to_string(), vec![0.5, 0.0, 0.25]), ("b".to_string(), vec![0.5, f64::NAN, 0.0])];
        let bars = |range| Content::Bars { x_label: "x".into(), y_label: "y".into(), range, series: series.clone() };
        let panel = Panel { title: String::new(), content: bars([2.0, 8.0]) };
        let ([left, _], top) = (panel.margins(), TOP + panel.content.legend().height());
        let drawn = svg(&[panel], 1);
        let pixels = rasterise(&drawn).unwrap();
        let at = |x: f64, y: f64| pixel(&pixels, left + PLOT * x / 3.0, top + PLOT * (1.0 - y / 0.525));
        let (blue, orange, white) = ([0x1f, 0x4e, 0xa0], [0xc8, 0x52, 0x00], [255; 3]);
        assert_eq!([at(0.25, 0.48), at(0.75, 0.48), at(0.25, 0.51)], [blue, orange, white]);
        assert_eq!([at(2.25, 0.24), at(2.25, 0.26), at(2.75, 0.24), at(1.5, 0.01)], [blue, white, white, white]);
        // A range without extent is a figure too.
        assert!(rasterise(&svg(&[Panel { title: String::new(), content: bars([2.0, 2.0]) }], 1)).is_ok());
    }

    #[test]
    fn labels_run_neither_into_each_other_nor_into_ticks() {
        for points in [
            vec![(100_000.0, 0.000_25), (1_000_000.0, 0.000_26)],
            vec![(0.0, -123_456.7), (1.0, -123_450.0)],
            vec![(123_456.0, 1e9), (123_457.0, 1e9 + 400.0)],
            vec![(1e-7, 1e-9), (2e-7, 2e-9)],
        ] {
            let panel = marked(points.clone(), None);
            let [x_axis, _] = panel.content.axes();
            let [left, _] = panel.margins();
            let pixels = rasterise(&svg(&[panel], 1)).unwrap();
            // Between the y axis' name, the labels of its ticks, and the ticks.
            let rows = [TOP - 8.0, TOP + PLOT + 8.0];
            assert!(white_columns(&pixels, [Y_NAME + 4.0, Y_NAME + 8.0], rows).len() >= 4, "{points:?}");
            assert!(white_columns(&pixels, [left - 9.0, left - 5.5], rows).len() >= 3, "{points:?}");
            // As many labels below the x axis as ticks, each apart from the next by more than its letters are.
            let right = f64::from(pixels.width as u32) / f64::from(SCALE);
            let white = white_columns(&pixels, [left - 40.0, right], [TOP + PLOT + 8.0, TOP + PLOT + 26.0]);
            let runs = white.chunk_by(|a, b| b - a == 1).filter(|run| run.len() >= 10).count();
            assert_eq!(runs, x_axis.ticks_with_room().len() + 1, "{points:?}");
        }
    }

    #[test]
    fn values_too_close_for_their_labels_lie_on_one_line_with_distinct_labels() {
        for (low, high) in [(1e9, 1e9 + 3.0), (0.3, 0.1 + 0.2), (-5.0, -5.0), (0.0, 0.0), (1e-300, 1e-300)] {
            let axis = around([low, high].into_iter(), 0.05);
            let labels: Vec<String> = axis.ticks(8.0).into_iter().map(number).collect();
            let mut distinct = labels.clone();
            distinct.dedup();
            assert!(labels.len() > 3 && labels == distinct, "{low} {high}: {labels:?}");
            assert!(axis.low < low && axis.high > high);
        }
    }

    #[test]
    fn names_that_are_long_or_hostile_stay_in_their_place() {
        let long = "a very long name of a folder ".repeat(9);
        let series = vec![(long.clone(), vec![0.5]), (format!("{long}2"), vec![0.25]), ("c".into(), vec![0.2])];
        let content = Content::Bars { x_label: long.clone(), y_label: long.clone(), range: [0.0, 1.0], series };
        let panel = Panel { title: long, content };
        // A line for each of the long ones, and one for the short.
        assert_eq!(panel.content.legend().lines, 3);
        let pixels = rasterise(&svg(&[panel.clone(), panel], 2)).unwrap();
        let middle = f64::from(pixels.width as u32) / f64::from(SCALE) / 2.0;
        assert!(!white_columns(&pixels, [middle - 20.0, middle + 20.0], [0.0, TOP + PLOT]).is_empty());

        let hostile = "a\u{1b}[2J\u{0}\n\u{202e}\u{ffff}<&>";
        let panel = marked(vec![(1.0, 1.0)], Some((0, hostile.into())));
        let drawn = svg(&[Panel { title: hostile.into(), ..panel }], 1);
        assert!(drawn.contains("a\\u{1b}[2J\\u{0}\\u{a}\\u{202e}\\u{ffff}&lt;&amp;&gt;"), "{drawn}");
        assert!(rasterise(&drawn).is_ok());
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Axis { low: -8.0, high: 8.0 }.ticks(8.0), [-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0]);
        let labels: Vec<_> = Axis { low: 0.0, high: 0.127 }.ticks(6.0).into_iter().map(number).collect();
        assert_eq!(labels, ["0", "0.05", "0.1"]);
        assert_eq!([-4.0, 10_000.0, 2e6, 1e-5].map(number), ["−4", "10000", "2e6", "1e−5"]);
    }
}
