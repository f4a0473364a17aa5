//! What fuzzing asks of a preview's files and messages.

use super::protocol::Request;
use super::reconcile::Desired;

/// What should run, as it stands on the disk.
pub fn desired(bytes: &[u8]) {
    if let Ok(desired) = serde_json::from_slice::<Desired>(bytes) {
        let json = serde_json::to_vec(&desired).expect("plain data encodes");
        assert_eq!(
            serde_json::from_slice::<Desired>(&json).ok().as_ref(),
            Some(&desired)
        );
        let _ = desired.trees();
    }
}

/// What a client asks.
pub fn request(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let json = serde_json::to_vec(&request).expect("plain data encodes");
        let again: Request = serde_json::from_slice(&json).expect("it was written so");
        assert_eq!(serde_json::to_vec(&again).expect("plain data encodes"), json);
    }
}
