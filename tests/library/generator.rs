//! torch's random generator is the process's: tests that draw from it at the same time would change
//! each other's numbers.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test for as long as it draws.
pub(crate) fn alone_with_the_generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held likewise; the numbers are those of the seed.
pub(crate) fn alone_with_seed(seed: i64) -> MutexGuard<'static, ()> {
    let alone = alone_with_the_generator();
    tch::manual_seed(seed);
    alone
}
