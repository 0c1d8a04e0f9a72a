//! Random draws of a forward pass over a part of a batch: those that the whole batch would get.

use std::cell::Cell;
use std::ops::Range;

use tch::Tensor;

/// Which images of a whole batch a forward pass sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    start: i64,
    whole: i64,
}

thread_local! {
    /// What [`with_part`] says, for this thread alone, as autocast is.
    static PART: Cell<Option<Part>> = const { Cell::new(None) };
}

/// Puts back what was before, also where `f` panics.
struct Restore(Option<Part>);

impl Drop for Restore {
    fn drop(&mut self) {
        PART.set(self.0);
    }
}

/// Runs `f`, in which the images of a forward pass are those of `part` in a batch of `whole`:
/// dropout and stochastic depth draw for the whole batch and take the part's. So several processes
/// with one seed, each with its part, drop what one process would.
pub fn with_part<R>(part: &Range<usize>, whole: usize, f: impl FnOnce() -> R) -> R {
    let is_part = part.len() < whole;
    let part = is_part.then_some(Part { start: part.start as i64, whole: whole as i64 });
    with_same_part(part, f)
}

/// What [`with_part`] says on this thread.
pub(super) fn part() -> Option<Part> {
    PART.get()
}

/// Runs `f` as where [`part`] was asked.
pub(super) fn with_same_part<R>(part: Option<Part>, f: impl FnOnce() -> R) -> R {
    let _restore = Restore(PART.replace(part));
    f()
}

/// A random tensor for `b` images (b, …): `draw` gets the number of images to draw for.
pub(super) fn draw(b: i64, draw: impl FnOnce(i64) -> Tensor) -> Tensor {
    match PART.get() {
        Some(Part { start, whole }) => draw(whole).narrow(0, start, b),
        None => draw(b),
    }
}

/// Dropout (arXiv 1207.0580) of x (b, …).
pub(super) fn dropout(x: &Tensor, rate: f64, train: bool) -> Tensor {
    match PART.get() {
        Some(_) if train && rate > 0.0 => {
            let mut shape = x.size();
            let b = shape.first().copied().unwrap_or_default();
            // Of ones, it is the mask that dropout multiplies by.
            let mask = draw(b, |images| {
                if let Some(first) = shape.first_mut() {
                    *first = images;
                }
                Tensor::ones(&shape, (x.kind(), x.device())).dropout(rate, true)
            });
            x * mask
        }
        _ => x.dropout(rate, train),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_only_inside() {
        with_part(&(2..4), 6, || assert!(PART.get().is_some()));
        assert!(PART.get().is_none());
        with_part(&(0..6), 6, || assert!(PART.get().is_none()));
    }
}
