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
