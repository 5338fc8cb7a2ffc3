//! Tensors as views of storages: checked, then gathered into row-major order.

use half::{bf16, f16};

use crate::pickle::Item;

/// PyTorch's own limit.
pub(super) const MAX_AXES: usize = 64;

/// A tensor all of whose items lie inside `bytes`.
pub(super) struct View<'a> {
    item: Item,
    bytes: &'a [u8],
    offset: usize,
    shape: Vec<usize>,
    /// As long as `shape`; 0 where the axis has one item.
    strides: Vec<usize>,
}

impl<'a> View<'a> {
    /// A tensor of `shape` whose neighbours along each axis are `strides` items apart, from item `offset` on.
    ///
    /// # Errors
    /// A sentence, when an item would lie outside `bytes`.
    pub(super) fn new(
        item: Item,
        bytes: &'a [u8],
        offset: u64,
        shape: &[u64],
        strides: &[u64],
    ) -> Result<Self, String> {
        if shape.len() != strides.len() || shape.len() > MAX_AXES {
            return Err(format!(
                "has {} axes and {} strides; expected as many, at most {MAX_AXES}",
                shape.len(),
                strides.len()
            ));
        }
        // Without the empty axes too, so that no product of some of the sizes can overflow later.
        let n_items = shape.iter().try_fold(1_u64, |n, &size| n.checked_mul(size.max(1)));
        if n_items.is_none_or(|n| n > isize::MAX as u64 / 8) {
            return Err(format!("has shape {shape:?}, which no memory can hold"));
        }
        let axes = shape.iter().zip(strides).map(|(&size, &stride)| (size, if size == 1 { 0 } else { stride }));
        let n_stored = (bytes.len() / item.n_bytes()) as u64;
        let last = axes.clone().try_fold(offset, |last, (size, stride)| {
            stride.checked_mul(size.saturating_sub(1)).and_then(|reach| last.checked_add(reach))
        });
        let is_empty = shape.contains(&0);
        if !is_empty && last.is_none_or(|last| last >= n_stored) {
            return Err(format!(
                "has shape {shape:?} with strides {strides:?} from item {offset} on, which does not fit in its storage of \
                 {n_stored} items"
            ));
        }
        // All are below the number of items in memory, but for those of empty tensors, which reach for none.
        let strides = axes.map(|(_, stride)| if is_empty { 0 } else { stride as usize }).collect();
        let offset = if is_empty { 0 } else { offset as usize };
        Ok(Self { item, bytes, offset, shape: shape.iter().map(|&size| size as usize).collect(), strides })
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn n_items(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type of its items.
    pub(super) fn item(&self) -> Item {
        self.item
    }

    /// The items of a floating-point tensor, rounded to f32; `None` for another.
    pub(super) fn f32s(&self) -> Option<Vec<f32>> {
        match self.item {
            Item::F32 => Some(self.gather(f32::from_le_bytes)),
            Item::F64 => Some(self.gather(|b| f64::from_le_bytes(b) as f32)),
            Item::F16 => Some(self.gather(|b| f16::from_le_bytes(b).to_f32())),
            Item::BF16 => Some(self.gather(|b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }

    /// The items of a tensor of f64; `None` for another.
    pub(super) fn f64s(&self) -> Option<Vec<f64>> {
        (self.item == Item::F64).then(|| self.gather(f64::from_le_bytes))
    }

    /// The items of an integer or boolean tensor; `None` for another.
    pub(super) fn i64s(&self) -> Option<Vec<i64>> {
        match self.item {
            Item::I64 => Some(self.gather(i64::from_le_bytes)),
            Item::I32 => Some(self.gather(|b| i32::from_le_bytes(b).into())),
            Item::I16 => Some(self.gather(|b| i16::from_le_bytes(b).into())),
            Item::I8 => Some(self.gather(|b| i8::from_le_bytes(b).into())),
            Item::U8 => Some(self.gather(|[b]| b.into())),
            Item::Bool => Some(self.gather(|[b]| (b != 0).into())),
            _ => None,
        }
    }

    /// The items with the last axis fastest, each decoded from its `N` bytes.
    fn gather<const N: usize, T>(&self, decode: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (items, n_items) = (self.bytes.as_chunks::<N>().0, self.n_items());
        if self.is_contiguous() {
            return items[self.offset..][..n_items].iter().map(|&item| decode(item)).collect();
        }
        let mut gathered = Vec::with_capacity(n_items);
        let (mut at, mut index) = (self.offset, vec![0; self.shape.len()]);
        for _ in 0..n_items {
            gathered.push(decode(items[at]));
            // As an odometer counts: the axes behind the one that moves on go back to their start.
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        gathered
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let is_next = size == 1 || stride == expected;
            expected *= size;
            is_next
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(n: u8) -> Vec<u8> {
        (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect()
    }

    fn gathered(offset: u64, shape: &[u64], strides: &[u64]) -> Vec<f32> {
        View::new(Item::F32, &bytes(12), offset, shape, strides).unwrap().f32s().unwrap()
    }

    #[test]
    fn views_of_every_kind_are_gathered_row_by_row() {
        assert_eq!(gathered(1, &[2, 3], &[3, 1]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(gathered(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(gathered(1, &[2, 2], &[6, 2]), [1.0, 3.0, 7.0, 9.0]);
        assert_eq!(gathered(4, &[2, 3], &[1, 0]), [4.0, 4.0, 4.0, 5.0, 5.0, 5.0]);
        assert_eq!(gathered(0, &[3, 3], &[2, 1]), [0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0]);
        assert_eq!(gathered(11, &[], &[]), [11.0]);
        assert_eq!(gathered(11, &[1, 1], &[u64::MAX, 7]), [11.0]);
        assert_eq!(gathered(0, &[2, 1, 2], &[2, 1 << 60, 1]), [0.0, 1.0, 2.0, 3.0]);
        assert!(gathered(99, &[3, 0], &[u64::MAX, u64::MAX]).is_empty());
    }

    #[test]
    fn a_view_that_leaves_its_storage_is_refused() {
        let why = |offset, shape: &[u64], strides: &[u64]| {
            View::new(Item::F32, &bytes(12), offset, shape, strides).err().unwrap_or_default()
        };
        assert!(why(12, &[], &[]).contains("does not fit in its storage of 12 items"));
        assert!(why(1, &[3, 4], &[4, 1]).contains("does not fit"));
        assert!(why(0, &[2], &[u64::MAX]).contains("does not fit"));
        assert!(why(u64::MAX, &[3], &[u64::MAX]).contains("does not fit"));
        assert!(why(0, &[1 << 32, 1 << 31], &[0, 0]).contains("no memory can hold"));
        assert!(why(0, &[0, 1 << 62], &[0, 0]).contains("no memory can hold"));
        assert!(why(0, &[1], &[]).contains("1 axes and 0 strides"));
        assert!(why(0, &[1; 65], &[1; 65]).contains("at most 64"));
    }

    #[test]
    fn every_type_of_item_is_decoded() {
        let f32s = |item, bytes: &[u8]| View::new(item, bytes, 0, &[1], &[1]).unwrap().f32s();
        assert_eq!(f32s(Item::F64, &(-1.5_f64).to_le_bytes()), Some(vec![-1.5]));
        let f64s = |item, bytes: &[u8]| View::new(item, bytes, 0, &[1], &[1]).unwrap().f64s();
        assert_eq!(f64s(Item::F64, &0.1_f64.to_le_bytes()), Some(vec![0.1]));
        assert_eq!(f64s(Item::F32, &0.1_f32.to_le_bytes()), None);
        assert_eq!(f32s(Item::F16, &[0x00, 0x3e]), Some(vec![1.5]));
        assert_eq!(f32s(Item::BF16, &[0xc0, 0x3f]), Some(vec![1.5]));
        assert_eq!(f32s(Item::U8, &[1]), None);
        let i64s = |item, bytes: &[u8]| View::new(item, bytes, 0, &[1], &[1]).unwrap().i64s();
        assert_eq!(i64s(Item::I64, &(-2_i64).to_le_bytes()), Some(vec![-2]));
        assert_eq!(i64s(Item::I32, &(-2_i32).to_le_bytes()), Some(vec![-2]));
        assert_eq!(i64s(Item::I16, &[0xfe, 0xff]), Some(vec![-2]));
        assert_eq!(i64s(Item::I8, &[0xfe]), Some(vec![-2]));
        assert_eq!(i64s(Item::U8, &[0xfe]), Some(vec![254]));
        assert_eq!(i64s(Item::Bool, &[2]), Some(vec![1]));
        assert_eq!(i64s(Item::F32, &[0; 4]), None);
    }
}
