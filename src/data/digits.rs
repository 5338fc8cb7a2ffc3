//! Handwritten-looking digits drawn on demand: a data set that needs no download and never ends.

use super::memory::InMemory;
use super::{Labelled, Source, Split};
use crate::error::{Error, Result};

/// Images in each split.
const N_IMAGES: u64 = 1 << 40;
/// Height of an unscaled digit, as a fraction of the image: 20 of 28 pixels, as in MNIST.
const HEIGHT: f32 = 20.0 / 28.0;
/// Width of the box that the strokes below are drawn in; its height is 1.
const BOX_WIDTH: f32 = 0.64;
/// Straight pieces between two points of a stroke.
const N_PIECES: usize = 8;

type Point = [f32; 2];

/// The pen's strokes, digit by digit: points `[x, y]`, y downwards, that a smooth curve passes through. A stroke that ends
/// where it began is closed smoothly; a corner is where one stroke ends and the next begins.
#[rustfmt::skip]
const STROKES: [&[&[Point]]; 10] = [
    &[&[
        [0.32, 0.0], [0.15, 0.09], [0.04, 0.35], [0.03, 0.65], [0.14, 0.91], [0.32, 1.0],
        [0.50, 0.91], [0.61, 0.65], [0.60, 0.35], [0.49, 0.09], [0.32, 0.0],
    ]],
    &[
        &[[0.14, 0.22], [0.27, 0.13], [0.37, 0.0]],
        &[[0.37, 0.0], [0.34, 0.5], [0.31, 1.0]],
    ],
    &[
        &[[0.05, 0.23], [0.15, 0.06], [0.34, 0.0], [0.53, 0.08], [0.57, 0.27], [0.45, 0.50], [0.24, 0.75], [0.03, 0.99]],
        &[[0.03, 0.99], [0.33, 0.97], [0.63, 0.98]],
    ],
    &[
        &[[0.06, 0.12], [0.26, 0.0], [0.48, 0.06], [0.54, 0.23], [0.44, 0.40], [0.22, 0.47]],
        &[[0.22, 0.47], [0.47, 0.52], [0.60, 0.70], [0.52, 0.91], [0.28, 1.0], [0.03, 0.90]],
    ],
    &[
        &[[0.42, 0.0], [0.22, 0.33], [0.01, 0.66]],
        &[[0.01, 0.66], [0.32, 0.66], [0.63, 0.65]],
        &[[0.42, 0.0], [0.43, 0.5], [0.42, 1.0]],
    ],
    &[
        &[[0.57, 0.02], [0.35, 0.03], [0.13, 0.03]],
        &[[0.13, 0.03], [0.10, 0.24], [0.08, 0.45]],
        &[[0.08, 0.45], [0.31, 0.38], [0.54, 0.48], [0.60, 0.71], [0.47, 0.93], [0.23, 1.0], [0.02, 0.90]],
    ],
    &[&[
        [0.48, 0.01], [0.25, 0.17], [0.08, 0.44], [0.04, 0.74], [0.15, 0.95], [0.35, 1.0],
        [0.55, 0.89], [0.59, 0.70], [0.47, 0.53], [0.27, 0.52], [0.07, 0.68],
    ]],
    &[
        &[[0.02, 0.03], [0.32, 0.04], [0.61, 0.02]],
        &[[0.61, 0.02], [0.39, 0.45], [0.24, 1.0]],
    ],
    &[&[
        [0.52, 0.15], [0.43, 0.02], [0.25, 0.02], [0.14, 0.14], [0.18, 0.32], [0.33, 0.45], [0.50, 0.59], [0.58, 0.77],
        [0.49, 0.93], [0.32, 1.0], [0.15, 0.93], [0.06, 0.77], [0.15, 0.60], [0.33, 0.45], [0.47, 0.32], [0.52, 0.15],
    ]],
    &[
        &[[0.58, 0.15], [0.42, 0.0], [0.18, 0.05], [0.05, 0.24], [0.14, 0.44], [0.34, 0.47], [0.52, 0.34], [0.58, 0.15]],
        &[[0.58, 0.15], [0.57, 0.45], [0.50, 0.74], [0.36, 1.0]],
    ],
];

/// White digits on black, `[channels, size, size]`, each with its own slant, scale, place, pen and wobble.
///
/// Image `k` is the same on every machine: only additions, multiplications, divisions and square roots go into it, all
/// of which IEEE 754 defines to the last bit. The splits share no image.
#[derive(Clone, Debug)]
pub struct Digits {
    size: usize,
    channels: usize,
    split: Split,
}

impl Digits {
    /// Digits of `size` × `size` pixels, at least 8, with 1 channel or the grey repeated in 3.
    ///
    /// # Errors
    /// [`Error::Unexpected`] for another size or number of channels.
    pub fn new(size: usize, channels: usize, split: Split) -> Result<Digits> {
        if size < 8 || !(channels == 1 || channels == 3) {
            let found = format!("{channels}×{size}×{size}");
            return Err(Error::unexpected(
                format!("digits of {found}"),
                "at least 8 pixels a side and 1 or 3 channels",
            ));
        }
        Ok(Digits { size, channels, split })
    }

    /// The digit, 0 to 9, that image `index` shows.
    pub fn label(&self, index: usize) -> u8 {
        self.random(index).digit()
    }

    /// The first `n` images with the digits that they show, in memory.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when the split has fewer.
    pub fn labelled(&self, n: usize) -> Result<Labelled> {
        if n > self.len() {
            return Err(Error::unexpected(format!("{n} digits to draw"), format!("at most {}", self.len())));
        }
        let n_pixels = self.shape().iter().product();
        let mut pixels_u8 = vec![0; n * n_pixels];
        for (index, image) in pixels_u8.chunks_exact_mut(n_pixels).enumerate() {
            self.read(index, image)?;
        }
        let labels_u8 = (0..n).map(|index| self.label(index)).collect();
        Labelled::new(InMemory::new(pixels_u8, self.shape())?, labels_u8)
    }

    /// The random numbers of one image, digit first. Distinct images start at distinct states.
    fn random(&self, index: usize) -> Random {
        let seed = (index as u64) << 1 | u64::from(self.split != Split::Train);
        Random(mix(seed ^ 0x6469_6769_7473_2121))
    }
}

impl Source for Digits {
    fn len(&self) -> usize {
        usize::try_from(N_IMAGES).unwrap_or(usize::MAX)
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        assert_eq!(pixels_u8.len(), self.channels * self.size * self.size, "room for one image");
        let mut random = self.random(index);
        let strokes = STROKES[usize::from(random.digit())];
        let hand = Hand::new(&mut random, self.size as f32);
        let mut canvas = Canvas::new(self.size, hand.half_thickness);
        for stroke in strokes {
            let points: Vec<Point> = stroke.iter().map(|&point| hand.place(point)).collect();
            canvas.draw(&points);
        }
        for plane in pixels_u8.chunks_exact_mut(self.size * self.size) {
            canvas.write(plane);
        }
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014), small and the same everywhere.
struct Random(u64);

/// SplitMix64's output function, one-to-one on 64 bits.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform over 0 to 9.
    fn digit(&mut self) -> u8 {
        ((u128::from(self.next()) * 10) >> 64) as u8
    }

    /// Uniform over `[low, high)`.
    fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1_u64 << 24) as f32;
        low + (high - low) * unit
    }
}

/// How one image's digit is written: where the points of its strokes go, in pixels, and how thick the pen is.
struct Hand {
    /// Displacements of the corners, edge midpoints and centre of the digit's box, in its units; in between they are
    /// interpolated. Points that coincide stay together, so that strokes remain joined.
    wobble: [[Point; 3]; 3],
    centre: Point,
    /// Pixels per unit of the box, across and down.
    scale: Point,
    slant: f32,
    half_thickness: f32,
}

impl Hand {
    fn new(random: &mut Random, size: f32) -> Hand {
        let mut around = |radius: f32| random.between(-radius, radius);
        let wobble = [(); 3].map(|()| [(); 3].map(|()| [around(0.04), around(0.04)]));
        let centre = [size * (0.5 + around(0.06)), size * (0.5 + around(0.06))];
        let slant = around(0.15);
        let scale = size * HEIGHT * random.between(0.85, 1.0);
        let half_thickness = 0.5 * size * random.between(0.07, 0.11);
        Hand { wobble, centre, scale: [scale * random.between(0.9, 1.1), scale], slant, half_thickness }
    }

    fn place(&self, [x, y]: Point) -> Point {
        // The cell of the 3×3 lattice that the point is in, and where in the cell.
        let (u, v) = (x / BOX_WIDTH * 2.0, y * 2.0);
        let (i, j) = ((u as usize).min(1), (v as usize).min(1));
        let (s, t) = (u - i as f32, v - j as f32);
        let w = &self.wobble;
        let [dx, dy] = [0, 1].map(|axis| {
            let upper = w[j][i][axis] * (1.0 - s) + w[j][i + 1][axis] * s;
            let lower = w[j + 1][i][axis] * (1.0 - s) + w[j + 1][i + 1][axis] * s;
            upper * (1.0 - t) + lower * t
        });
        let (x, y) = (x - BOX_WIDTH / 2.0 + dx, y - 0.5 + dy);
        [self.centre[0] + self.scale[0] * (x - self.slant * y), self.centre[1] + self.scale[1] * y]
    }
}

/// The squared distance of every pixel's centre to the nearest stroke, in pixels, as far as the pen reaches.
struct Canvas {
    squared: Vec<f32>,
    size: usize,
    half_thickness: f32,
}

impl Canvas {
    fn new(size: usize, half_thickness: f32) -> Canvas {
        Canvas { squared: vec![f32::INFINITY; size * size], size, half_thickness }
    }

    /// Draws a Catmull-Rom spline through the points: at each, the tangent is that of the chord of its neighbours.
    fn draw(&mut self, points: &[Point]) {
        let n = points.len();
        let closed = points.first() == points.last();
        let at = |i: isize| match (i, closed) {
            (-1, true) => points[n - 2],
            (-1, false) => points[0],
            (i, true) if i as usize == n => points[1],
            (i, _) => points[(i as usize).min(n - 1)],
        };
        for i in 0..n as isize - 1 {
            let (before, from, to, after) = (at(i - 1), at(i), at(i + 1), at(i + 2));
            let mut start = from;
            for piece in 1..=N_PIECES {
                let t = piece as f32 / N_PIECES as f32;
                let end = [0, 1].map(|axis| {
                    let (p0, p1, p2, p3) = (before[axis], from[axis], to[axis], after[axis]);
                    let cubic = 3.0 * (p1 - p2) + p3 - p0;
                    let square = 2.0 * p0 - 5.0 * p1 + 4.0 * p2 - p3;
                    p1 + 0.5 * t * (p2 - p0 + t * (square + t * cubic))
                });
                self.draw_piece(start, end);
                start = end;
            }
        }
    }

    /// Lowers the distances around the straight piece from `a` to `b`.
    fn draw_piece(&mut self, a: Point, b: Point) {
        let reach = self.half_thickness + 0.5;
        // Pixel i has its centre at i + ½. `as` saturates at 0.
        let range = |axis: usize| {
            let low = a[axis].min(b[axis]) - reach;
            let high = a[axis].max(b[axis]) + reach;
            low as usize..(high as usize + 1).min(self.size)
        };
        let (columns, rows) = (range(0), range(1));
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length_squared = (dx * dx + dy * dy).max(f32::MIN_POSITIVE);
        for row in rows {
            let y = row as f32 + 0.5 - a[1];
            for column in columns.clone() {
                let x = column as f32 + 0.5 - a[0];
                let along = ((x * dx + y * dy) / length_squared).clamp(0.0, 1.0);
                let (ex, ey) = (x - along * dx, y - along * dy);
                let nearest = &mut self.squared[row * self.size + column];
                *nearest = nearest.min(ex * ex + ey * ey);
            }
        }
    }

    /// The picture: the part of each pixel that the pen covers, as if its edge were straight there.
    fn write(&self, plane_u8: &mut [u8]) {
        for (byte, squared) in plane_u8.iter_mut().zip(&self.squared) {
            let coverage = (0.5 + self.half_thickness - squared.sqrt()).clamp(0.0, 1.0);
            *byte = (255.0 * coverage + 0.5) as u8;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn image(digits: &Digits, index: usize) -> Vec<u8> {
        let mut pixels_u8 = vec![1; digits.shape().iter().product()];
        digits.read(index, &mut pixels_u8).unwrap();
        pixels_u8
    }

    #[test]
    fn an_image_depends_on_its_number_and_split_alone() {
        let train = Digits::new(28, 1, Split::Train).unwrap();
        let test = Digits::new(28, 1, Split::Test).unwrap();
        let images: Vec<_> = (0..50).flat_map(|k| [image(&train, k), image(&test, k)]).collect();
        for (i, a) in images.iter().enumerate() {
            assert!(images[..i].iter().all(|b| a != b), "image {i} is a repetition");
        }
        assert_eq!(images[0], image(&train, 0));
        assert_ne!(image(&train, train.len() - 1), images[0]);
    }

    #[test]
    fn images_are_the_same_on_every_machine() {
        let digits = Digits::new(28, 1, Split::Train).unwrap();
        // FNV-1a over the first 20 images; changing it breaks the comparison of runs across versions.
        let hash = (0..20)
            .flat_map(|k| image(&digits, k))
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 0xa03a_396b_6390_ec7a);
    }

    #[test]
    fn every_digit_is_about_equally_frequent() {
        let digits = Digits::new(8, 1, Split::Train).unwrap();
        let mut counts = [0_u32; 10];
        for k in 0..10_000 {
            counts[usize::from(digits.label(k))] += 1;
        }
        // Binomial with standard deviation 30: 5 of them.
        assert!(counts.iter().all(|&n| n.abs_diff(1000) < 150), "{counts:?}");
    }

    #[test]
    fn labelled_images_are_the_first_ones_and_a_label_s_images_resemble_each_other() {
        let digits = Digits::new(28, 1, Split::Test).unwrap();
        let labelled = digits.labelled(400).unwrap();
        let images = labelled.images().pixels_u8();
        for k in [0, 57, 399] {
            assert_eq!(images[784 * k..784 * (k + 1)], image(&digits, k));
            assert_eq!(labelled.labels_u8()[k], digits.label(k));
        }
        // The nearest of the other images shows the same digit. By chance that would be one in ten.
        let distance = |a: usize, b: usize| -> u64 {
            let pairs = images[784 * a..][..784].iter().zip(&images[784 * b..][..784]);
            pairs.map(|(&p, &q)| u64::from(p.abs_diff(q)).pow(2)).sum()
        };
        let nearest = |a: usize| (0..400).filter(|&b| b != a).min_by_key(|&b| distance(a, b)).unwrap();
        let n_same = (0..400).filter(|&a| digits.label(a) == digits.label(nearest(a))).count();
        assert!(n_same > 300, "{n_same} of 400");
        assert!(digits.labelled(usize::MAX).is_err());
    }

    #[test]
    fn no_digit_is_cut_off_by_the_border() {
        let size = 256;
        let digits = Digits::new(size, 1, Split::Test).unwrap();
        for k in 0..300 {
            let pixels_u8 = image(&digits, k);
            let (first, last) = (&pixels_u8[..size], &pixels_u8[size * (size - 1)..]);
            let sides = pixels_u8.chunks_exact(size).flat_map(|row| [&row[0], &row[size - 1]]);
            // Half-covered or more would mean that the pen's edge is less than half a pixel of 256 from the border.
            assert!(first.iter().chain(last).chain(sides).all(|&v| v < 128), "image {k}");
        }
    }

    #[test]
    fn a_reasonable_part_of_every_image_is_ink_at_every_size() {
        for size in [8, 9, 16, 28, 64] {
            let digits = Digits::new(size, 3, Split::Train).unwrap();
            for k in 0..200 {
                let pixels_u8 = image(&digits, k);
                let ink = pixels_u8.iter().map(|&v| f64::from(v) / 255.0).sum::<f64>() / pixels_u8.len() as f64;
                // The thinnest shortest stroke is 0.07 × 0.6 of the image; the thickest and longest 0.11 × 2.2.
                assert!((0.035..0.25).contains(&ink), "size {size}, image {k}: {ink}");
            }
        }
    }

    #[test]
    fn three_channels_repeat_the_grey() {
        let grey = image(&Digits::new(16, 1, Split::Train).unwrap(), 3);
        assert_eq!(image(&Digits::new(16, 3, Split::Train).unwrap(), 3), grey.repeat(3));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(Digits::new(7, 1, Split::Train).is_err());
        assert!(Digits::new(28, 2, Split::Train).is_err());
    }
}
