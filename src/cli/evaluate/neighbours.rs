//! The images of the reference that are nearest to samples: pictures, and how near they are.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use ncsn::data::Pixels;
use ncsn::data::memory::InMemory;
use ncsn::error::one_line;
use ncsn::eval::{Extractor, Features, ImageSet, NearestNeighbours, Neighbour};
use ncsn::image::{grid, write_png};
use ncsn::plot::{self, Content, Panel};
use ncsn::{Error, Result};

use super::super::log::Log;
use super::super::output::{Existing, Kind, Output};
use super::super::stop;
use super::pass::{self, Wanted};
use super::subject::Subject;

/// Samples in a picture, and neighbours of each (Song & Ermon 2020, appendix).
const N_SHOWN: usize = 10;
const K: usize = 9;
/// Images whose smallest distance is counted, of samples and of held-out images.
pub const N_COUNTED: usize = 500;
/// Bars of that histogram.
const N_BARS: usize = 20;
/// How much of the reference is in memory at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// What the pictures depend on, which are drawn anew whenever they are asked for.
#[derive(Serialize)]
struct Manifest<'a> {
    samples: &'a str,
}

/// A folder of pictures of neighbours.
const NEIGHBOURS: Kind = Kind {
    manifest: "neighbours.json",
    free: &["samples"],
    files: |_| {
        let names = ["pixels.png", "features.png", "distances_pixels.png", "distances_pixels.svg"];
        names.into_iter().chain(["distances_features.png", "distances_features.svg"]).map(String::from).collect()
    },
    neighbours: |_| false,
};

/// Takes `folder` for the pictures of the neighbours of `samples`.
pub fn open_folder(folder: &Path, samples: &str, overwrite: bool) -> Result<Output> {
    let manifest = Manifest { samples };
    let output = Output::open(folder, NEIGHBOURS, &manifest, Existing::overwrite(overwrite))?;
    output.describe(&manifest)?;
    Ok(output)
}

/// Refuses what cannot be searched for neighbours of `samples`: no images, or those of another size.
pub fn check(samples: &Subject, reference: Option<&ImageSet>) -> Result<()> {
    let Some(reference) = reference else {
        let message = "found a reference of statistics, expected one of images for --metrics neighbours";
        return Err(Error::Usage(message.into()));
    };
    let [[h, w], [other_h, other_w]] = [samples.size, reference.size()];
    if [h, w] == [other_h, other_w] {
        return Ok(());
    }
    let message = format!("found samples of {h}x{w} pixels and a reference of {other_h}x{other_w}, expected one size");
    Err(Error::Usage(message))
}

/// One side of the comparison.
pub struct Side<'a> {
    pub images: &'a ImageSet,
    /// `[n, n_features]` of all of them.
    pub features: &'a [f32],
}

/// What is searched, and how.
pub struct Search<'a> {
    pub extractor: &'a Extractor,
    pub reference: Side<'a>,
    /// Images that the network looks at together.
    pub batch: usize,
}

/// The neighbours of some images, by pixels and by features.
type Found = [Vec<Vec<Neighbour>>; 2];

impl Search<'_> {
    /// Writes `pixels.png` and `features.png` (a row a sample: the sample, then its neighbours) and the histograms
    /// `distances_pixels` and `distances_features` into `folder`; `false` if the user asked to stop. Held-out images, where there are
    /// some, show what distances would be if nothing was remembered.
    pub fn run(&self, samples: Side<'_>, held_out: Option<&ImageSet>, folder: &Path, log: &mut Log) -> Result<bool> {
        let n = samples.images.len().min(N_COUNTED);
        let features = &samples.features[..n * self.extractor.n_features()];
        let Some(of_samples) = self.nearest(samples.images, n, features, log)? else { return Ok(false) };
        let mut found = vec![(samples.images, of_samples)];
        if let Some(held_out) = held_out {
            let Some(features) = self.features(held_out, log)? else { return Ok(false) };
            let Some(of_held_out) = self.nearest(held_out, held_out.len(), &features, log)? else { return Ok(false) };
            found.push((held_out, of_held_out));
        }
        for (kind, name) in ["pixels", "features"].into_iter().enumerate() {
            let picture = picture(samples.images, self.reference.images, &found[0].1[kind])?;
            write_png(&folder.join(format!("{name}.png")), &picture)?;
            self.distances(&found, kind, name, folder, log)?;
        }
        log.info(format!("nearest neighbours: pixels.png, features.png, distances_*.png in {}", folder.display()));
        Ok(true)
    }

    /// The neighbours of the first `n` images of `set`, which have these features; of an image and its mirror image the nearer counts.
    fn nearest(&self, set: &ImageSet, n: usize, features: &[f32], log: &mut Log) -> Result<Option<Found>> {
        let [h, w] = set.size();
        let (dim, n_features) = (3 * h * w, self.extractor.n_features());
        let images = set.read(0..n)?;
        let mirrored_u8: Vec<u8> = images.chunks_exact(w).flat_map(|row| row.iter().rev()).copied().collect();
        let (pixels, mirrored) = (intensities(&images), intensities(&mirrored_u8));
        let mut by_pixels =
            NearestNeighbours::new(Features::new(&pixels, dim)?, Some(Features::new(&mirrored, dim)?), K)?;
        let reference = self.reference.images;
        let n_chunk = (CHUNK_BYTES / dim).max(1);
        for start in (0..reference.len()).step_by(n_chunk) {
            if stop::asked() {
                log.info(format!("stopped searching {}", one_line(reference.name())));
                return Ok(None);
            }
            let chunk = intensities(&reference.read(start..reference.len().min(start + n_chunk))?);
            by_pixels.add(Features::new(&chunk, dim)?)?;
        }
        let mirrored = Arc::new(InMemory::new(mirrored_u8, [3, h, w])?);
        let mirrored = ImageSet::of_source(mirrored, format!("mirror images of {}", set.name()))?;
        let Some(mirrored) = self.features(&mirrored, log)? else { return Ok(None) };
        let [features, mirrored] = [features, &mirrored].map(|values| Features::new(values, n_features));
        let mut by_features = NearestNeighbours::new(features?, Some(mirrored?), K)?;
        by_features.add(Features::new(self.reference.features, n_features)?)?;
        Ok(Some([by_pixels.finish(), by_features.finish()]))
    }

    /// The features of all of `images`; `None` if the user asked to stop.
    fn features(&self, images: &ImageSet, log: &mut Log) -> Result<Option<Vec<f32>>> {
        let wanted = Wanted { features: true, ..Wanted::default() };
        Ok(pass::run(self.extractor, images, self.batch, wanted, log)?.map(|found| found.features))
    }

    /// Says how near the nearest images are, and draws their distances.
    fn distances(
        &self,
        found: &[(&ImageSet, Found)],
        kind: usize,
        name: &str,
        folder: &Path,
        log: &mut Log,
    ) -> Result<()> {
        let distances: Vec<Vec<f64>> = found.iter().map(|(_, kinds)| smallest(&kinds[kind])).collect();
        for ((set, _), distances) in found.iter().zip(&distances) {
            let quantile = |q: f64| distances[((distances.len() - 1) as f64 * q).round() as usize];
            log.info(format!(
                "nearest of {} by {name}: 5 % of {} images of {} are within {:.4}, half within {:.4}",
                one_line(self.reference.images.name()),
                distances.len(),
                one_line(set.name()),
                quantile(0.05),
                quantile(0.5)
            ));
        }
        let range = range(distances.iter().flatten().copied());
        let kinds = ["samples", "held out"];
        let series = kinds.into_iter().zip(found).zip(&distances).map(|((kind, (set, _)), distances)| {
            // A name may be long, and is cut at its end.
            (format!("{kind}, n = {}: {}", distances.len(), set.name()), histogram(distances, range))
        });
        let panel = Panel {
            title: format!("Distance to the nearest image of {}", self.reference.images.name()),
            content: Content::Bars {
                x_label: format!("distance of {name}"),
                y_label: "share of images".into(),
                range,
                series: series.collect(),
            },
        };
        plot::write(&folder.join(format!("distances_{name}")), &[panel], 1)
    }
}

fn intensities(pixels_u8: &[u8]) -> Vec<f32> {
    pixels_u8.iter().map(|&pixel| f32::from(pixel) / 255.0).collect()
}

/// A row a sample: the sample, then its neighbours in order of distance.
fn picture(samples: &ImageSet, reference: &ImageSet, neighbours: &[Vec<Neighbour>]) -> Result<Pixels> {
    let mut pixels_u8 = Vec::new();
    let n_columns = 1 + neighbours.first().map_or(0, Vec::len);
    for (i, neighbours) in neighbours.iter().enumerate().take(N_SHOWN) {
        pixels_u8.extend(samples.read(i..i + 1)?);
        for neighbour in neighbours {
            pixels_u8.extend(reference.read(neighbour.index..neighbour.index + 1)?);
        }
    }
    let [h, w] = samples.size();
    Ok(grid(&pixels_u8, [3, h, w], n_columns).enlarged(2))
}

/// The distance of each to its nearest, the smallest first.
fn smallest(neighbours: &[Vec<Neighbour>]) -> Vec<f64> {
    let mut distances: Vec<f64> = neighbours.iter().map(|found| found[0].distance).collect();
    distances.sort_by(f64::total_cmp);
    distances
}

/// From the smallest to the largest distance; if they are the same, some space around it.
fn range(distances: impl Iterator<Item = f64>) -> [f64; 2] {
    let [low, high] = distances.fold([f64::INFINITY, 0.0], |[low, high]: [f64; 2], d| [low.min(d), high.max(d)]);
    match high {
        // A histogram whose bins labels can tell apart.
        _ if high - low > 1e-6 * high => [low, high],
        0.0 => [0.0, 1.0],
        _ => [0.5 * low, 1.5 * high],
    }
}

/// The share of distances in each of equal parts of the range.
fn histogram(distances: &[f64], [low, high]: [f64; 2]) -> Vec<f64> {
    let width = (high - low) / N_BARS as f64;
    let mut counts = [0_usize; N_BARS];
    distances.iter().for_each(|distance| counts[(((distance - low) / width) as usize).min(N_BARS - 1)] += 1);
    counts.into_iter().map(|count| count as f64 / distances.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_distance_once() {
        let distances = [1.0, 1.0, 2.0, 3.9, 4.0];
        assert_eq!(range(distances.into_iter()), [1.0, 4.0]);
        let bars = histogram(&distances, [1.0, 4.0]);
        assert!((bars.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!((bars[0], bars[N_BARS - 1]), (0.4, 0.4));
        // All the same: 2 lies in the middle of 1 to 3, 0 at the left end.
        let same = range([2.0, 2.0].into_iter());
        assert_eq!((same, histogram(&[2.0, 2.0], same)[N_BARS / 2]), ([1.0, 3.0], 1.0));
        let none = range([0.0, 0.0].into_iter());
        assert_eq!((none, histogram(&[0.0, 0.0], none)[0]), ([0.0, 1.0], 1.0));
    }
}
