//! What fuzzing asks of the compile cache's protocol.

use std::io::BufReader;

use super::protocol::{Ask, MAX_BODY, read, read_body};

/// What an action may send: requests with bodies, each read to its end, and no more of a body than was announced.
pub fn requests(bytes: &[u8]) {
    // Small, so that everything stands across its end somewhere.
    let mut from = BufReader::with_capacity(7, bytes);
    while let Ok(Some(request)) = read(&mut from) {
        if let Ask::Put { size, .. } = request.ask {
            assert!(size <= MAX_BODY);
            let mut taken = 0;
            let came = read_body(&mut from, size, |part| taken += part.len() as u64);
            assert!(taken <= size);
            match came {
                Ok(()) => assert_eq!(taken, size),
                Err(_) => return,
            }
        }
    }
}
