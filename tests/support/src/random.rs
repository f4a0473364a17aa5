//! Numbers for tests that try what chance brings: instants, places, bytes.

use std::time::SystemTime;

/// Numbers that follow from the first one (Knuth's linear congruential generator).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Other numbers in each run.
    pub fn of_now() -> Random {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Random(now.unwrap_or_default().as_nanos() as u64)
    }

    fn bits(&mut self, count: u32) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // The upper bits are the better ones.
        self.0 >> (64 - count)
    }

    /// From 0 up to `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits(31) % bound.max(1) as u64) as usize
    }

    /// From 0 up to 1.
    pub fn fraction(&mut self) -> f64 {
        self.bits(24) as f64 / f64::from(1_u32 << 24)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.bits(8) as u8
    }
}
