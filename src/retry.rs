//! How long to wait before something is tried again. Says neither what may be tried again nor how often.

use std::hash::BuildHasher as _;
use std::time::Duration;

/// The longest pause, whoever asks for it.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The pause after `attempt`, which counts from 1: what the server asked for with `Retry-After`, in seconds, or
/// `first` doubled with each attempt. The latter is shortened at random by up to a half, so that clients do
/// not come back in step. At most a minute.
pub fn pause(first: Duration, attempt: u32, retry_after: Option<u64>) -> Duration {
    if let Some(seconds) = retry_after {
        return Duration::from_secs(seconds).min(MAX_PAUSE);
    }
    let pause = first.saturating_mul(1 << (attempt - 1).min(10));
    let random = std::hash::RandomState::new().hash_one(attempt) % 1000;
    (pause / 2 + pause / 2 * random as u32 / 1000).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let first = Duration::from_millis(500);
        for (attempt, least, most) in [
            (1, 250, 500),
            (2, 500, 1000),
            (3, 1000, 2000),
            (40, 30_000, 60_000),
        ] {
            let pause = pause(first, attempt, None).as_millis();
            assert!((least..=most).contains(&pause), "{attempt}: {pause}");
        }
        assert_eq!(pause(first, 1, Some(3)), Duration::from_secs(3));
        assert_eq!(pause(first, 1, Some(86_400)), MAX_PAUSE);
    }
}
