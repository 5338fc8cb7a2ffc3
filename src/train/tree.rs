//! Sums in a fixed order.

/// The sum of as many `parts` as a power of two, by pairs of neighbours: of four, (0 + 1) + (2 + 3). What it gives, to the bit, depends
/// on the parts alone, not on who sums which of them; and of n parts never more than log₂ n + 1 are there at once.
pub(super) fn sum<T, E>(
    parts: impl Iterator<Item = Result<T, E>>,
    mut add: impl FnMut(T, T) -> T,
) -> Result<Option<T>, E> {
    // Sums of 2ʰ parts, each with its height h, which falls from one to the next.
    let mut sums: Vec<(u32, T)> = Vec::new();
    for part in parts {
        let (mut height, mut sum) = (0, part?);
        while let Some((_, left)) = sums.pop_if(|(of_left, _)| *of_left == height) {
            (height, sum) = (height + 1, add(left, sum));
        }
        sums.push((height, sum));
    }
    Ok(sums.into_iter().map(|(_, sum)| sum).reduce(add))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    #[test]
    fn neighbours_are_added_first_and_few_sums_are_there_at_once() {
        for (n, expected) in [(1u32, "0"), (2, "(0+1)"), (4, "((0+1)+(2+3))"), (8, "(((0+1)+(2+3))+((4+5)+(6+7)))")] {
            let (alive, most) = (Cell::new(0), Cell::new(0));
            let parts = (0..n).map(|i| {
                alive.set(alive.get() + 1);
                most.set(alive.get().max(most.get()));
                Ok::<_, Infallible>(i.to_string())
            });
            let add = |a: String, b: String| {
                alive.set(alive.get() - 1);
                format!("({a}+{b})")
            };
            assert_eq!(super::sum(parts, add), Ok(Some(expected.into())));
            assert_eq!(most.get(), n.ilog2() + 1, "{n}");
        }
    }
}
