//! The images of the reference that are nearest to samples: pictures, and how near they are.

use std::path::Path;

use ncsn::data::Pixels;
use ncsn::eval::{Extractor, Features, ImageSet, NearestNeighbours, Neighbour};
use ncsn::image::{grid, write_png};
use ncsn::plot::{self, Content, Panel};
use ncsn::{Error, Result};

use super::super::log::Log;
use super::super::train::create_folder;

/// Samples in a picture, and neighbours of each (Song & Ermon 2020, appendix).
const N_SHOWN: usize = 10;
const K: usize = 9;
/// Samples whose smallest distance is counted.
pub const N_COUNTED: usize = 500;
/// Bars of that histogram.
const N_BARS: usize = 20;

/// One side of the comparison.
pub struct Side<'a> {
    pub images: &'a ImageSet,
    /// `[n, n_features]` of all images of the reference, of the first [`N_COUNTED`] of samples.
    pub features: &'a [f32],
}

/// Writes `pixels.png` and `features.png` (a row a sample: the sample, then its neighbours) and `distances.png` into `folder`. Held-out
/// images, where there are some, show what distances would be if nothing was remembered.
pub fn run(
    extractor: &Extractor,
    samples: Side<'_>,
    reference: Side<'_>,
    held_out: Option<&ImageSet>,
    folder: &Path,
    log: &mut Log,
) -> Result<()> {
    if samples.images.size() != reference.images.size() {
        let [[h, w], [other_h, other_w]] = [samples.images.size(), reference.images.size()];
        let message =
            format!("found samples of {h}x{w} pixels and a reference of {other_h}x{other_w}, expected one size");
        return Err(Error::Usage(message));
    }
    create_folder(folder)?;
    let search = Search { extractor, reference: &reference };
    let sets = [Some(samples.images), held_out];
    let mut found = Vec::new();
    for set in sets.into_iter().flatten() {
        let n = set.len().min(N_COUNTED);
        let images = set.read(0..n)?;
        let features = match found.is_empty() {
            true => samples.features[..n * extractor.n_features()].to_vec(),
            false => extract(extractor, &images, set)?,
        };
        found.push(search.nearest(set, &images, &features)?);
    }
    for (kind, name) in ["pixels", "features"].into_iter().enumerate() {
        let path = folder.join(format!("{name}.png"));
        write_png(&path, &picture(samples.images, reference.images, &found[0][kind])?)?;
        let distances: Vec<Vec<f64>> = found.iter().map(|kinds| smallest(&kinds[kind])).collect();
        for (set, distances) in sets.into_iter().flatten().zip(&distances) {
            let quantile = |q: f64| distances[((distances.len() - 1) as f64 * q).round() as usize];
            log.info(format!(
                "nearest of {} by {name}: 5 % of {} images of {} are within {:.4}, half within {:.4}",
                reference.images.name(),
                distances.len(),
                set.name(),
                quantile(0.05),
                quantile(0.5)
            ));
        }
        let names = ["samples", "held-out images"].map(String::from);
        let range = distances_range(&found, kind);
        let series = names.into_iter().zip(&distances).map(|(name, distances)| (name, histogram(distances, &range)));
        let panel = Panel {
            title: "Distance to the nearest image".into(),
            content: Content::Lines {
                x_label: format!("distance of {name}"),
                y_label: "share of images".into(),
                series: series.collect(),
            },
        };
        plot::write(&folder.join(format!("distances_{name}")), &[panel], 1)?;
    }
    log.info(format!("nearest neighbours: pixels.png, features.png, distances_*.png in {}", folder.display()));
    Ok(())
}

/// What is searched.
struct Search<'a> {
    extractor: &'a Extractor,
    reference: &'a Side<'a>,
}

impl Search<'_> {
    /// The neighbours of `images` by pixels in [0, 1] and by features; of an image and its mirror image the nearer counts.
    fn nearest(&self, set: &ImageSet, images: &[u8], features: &[f32]) -> Result<[Vec<Vec<Neighbour>>; 2]> {
        let [h, w] = set.size();
        let (dim, n_features) = (3 * h * w, self.extractor.n_features());
        let mirrored_u8: Vec<u8> = images.chunks_exact(w).flat_map(|row| row.iter().rev()).copied().collect();
        let (pixels, mirrored) = (intensities(images), intensities(&mirrored_u8));
        let mut by_pixels =
            NearestNeighbours::new(Features::new(&pixels, dim)?, Some(Features::new(&mirrored, dim)?), K)?;
        let reference = self.reference.images;
        let n_batch = (super::pass::CHUNK_BYTES / dim).max(1);
        for start in (0..reference.len()).step_by(n_batch) {
            let batch = intensities(&reference.read(start..reference.len().min(start + n_batch))?);
            by_pixels.add(Features::new(&batch, dim)?)?;
        }
        let mirrored = extract(self.extractor, &mirrored_u8, set)?;
        let mut by_features = NearestNeighbours::new(
            Features::new(features, n_features)?,
            Some(Features::new(&mirrored, n_features)?),
            K,
        )?;
        by_features.add(Features::new(self.reference.features, n_features)?)?;
        Ok([by_pixels.finish(), by_features.finish()])
    }
}

/// The features of images of the size of `set`.
fn extract(extractor: &Extractor, images: &[u8], set: &ImageSet) -> Result<Vec<f32>> {
    /// Images looked at together.
    const BATCH: usize = 16;
    let [h, w] = set.size();
    let mut features = Vec::new();
    for batch in images.chunks(BATCH * 3 * h * w) {
        features.extend(extractor.extract(batch, set.size())?.features);
    }
    Ok(features)
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

/// The smallest and the largest of all these distances.
fn distances_range(found: &[[Vec<Vec<Neighbour>>; 2]], kind: usize) -> [f64; 2] {
    let all = found.iter().flat_map(|kinds| smallest(&kinds[kind]));
    all.fold([f64::INFINITY, 0.0], |[low, high], distance| [low.min(distance), high.max(distance)])
}

/// The share of distances in each of equal parts of the range, at the part's centre.
fn histogram(distances: &[f64], &[low, high]: &[f64; 2]) -> Vec<(f64, f64)> {
    let width = ((high - low) / N_BARS as f64).max(f64::MIN_POSITIVE);
    let mut counts = [0_usize; N_BARS];
    distances.iter().for_each(|distance| counts[(((distance - low) / width) as usize).min(N_BARS - 1)] += 1);
    let share = |(i, count): (usize, usize)| (low + (i as f64 + 0.5) * width, count as f64 / distances.len() as f64);
    counts.into_iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_distance_once() {
        let distances = [1.0, 1.0, 2.0, 3.9, 4.0];
        let bars = histogram(&distances, &[1.0, 4.0]);
        assert!((bars.iter().map(|bar| bar.1).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!((bars[0].1, bars[N_BARS - 1].1), (0.4, 0.4));
        assert!((bars[0].0 - 1.075).abs() < 1e-12);
        // All the same.
        assert_eq!(histogram(&[2.0, 2.0], &[2.0, 2.0])[0].1, 1.0);
    }
}
