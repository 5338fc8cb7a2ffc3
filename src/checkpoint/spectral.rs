//! Weights that PyTorch normalises by their spectral norm.

use super::EMA;
use super::tensors::TensorFile;
use crate::error::{Error, Result, shown};
use crate::net::params::{HostTensor, shown_shape};

/// Puts W = W_orig/(uᵀ·W_orig·v), the weights in evaluation, in the place of `weight_orig` `[out, …]`, `weight_u` `[out]` and
/// `weight_v` `[…]`, as PyTorch's `spectral_norm` writes them (Miyato et al. 2018, eq. 8). An average has no vectors of its own: its
/// are those of the last step.
///
/// # Errors
/// When the shapes do not fit, or the norm is 0 or not finite.
pub(super) fn fold(file: &mut TensorFile) -> Result<()> {
    let stems: Vec<String> = file.names().filter_map(|name| Some(name.strip_suffix("_orig")?.to_string())).collect();
    let mut vectors = Vec::new();
    for stem in stems {
        let of = |what: &str| {
            let own = format!("{stem}_{what}");
            let last = own.strip_prefix(EMA).filter(|_| file.shape(&own).is_none());
            last.map_or(own.clone(), str::to_string)
        };
        let names = [format!("{stem}_orig"), of("u"), of("v")];
        let [Some(w), Some(u), Some(v)] = [file.get(&names[0])?, file.get(&names[1])?, file.get(&names[2])?] else {
            continue;
        };
        let bad = |message: String| Error::format(file.path(), message);
        let n_rows = w.shape.first().copied().unwrap_or(0);
        if n_rows == 0 || u.shape != [n_rows] || v.shape != [w.values.len() / n_rows] || v.values.is_empty() {
            let [w_shape, u_shape, v_shape] = [&w, &u, &v].map(|tensor| shown_shape(&tensor.shape));
            let name = shown(&stem);
            return Err(bad(format!(
                "{name}_orig, _u and _v have shapes {w_shape}, {u_shape} and {v_shape}, which do not fit"
            )));
        }
        let dot = |row: &[f32]| row.iter().zip(&v.values).map(|(&w, &v)| f64::from(w) * f64::from(v)).sum::<f64>();
        let norm: f64 = w.values.chunks(v.values.len()).zip(&u.values).map(|(row, &u)| f64::from(u) * dot(row)).sum();
        if norm == 0.0 || !norm.is_finite() {
            return Err(bad(format!(
                "the spectral norm of {} is {norm}, expected a number other than 0",
                shown(&stem)
            )));
        }
        let values = w.values.iter().map(|&w| (f64::from(w) / norm) as f32).collect();
        let [orig, u, v] = names;
        file.replace(&orig, stem, HostTensor { shape: w.shape, values });
        vectors.extend([u, v]);
    }
    vectors.iter().for_each(|name| file.leave_out(name));
    Ok(())
}
