//! A bounded number of places for clients. Where none is free, the client that has been silent for longest
//! loses its place to the new one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Places, all of one kind: connections, or uploads.
pub(super) struct Room {
    limit: usize,
    /// How long a client may be silent in the middle of a request before it can lose its place.
    patience: Duration,
    places: Mutex<Vec<Arc<Place>>>,
}

/// One client's place.
pub(super) struct Place {
    activity: Mutex<Activity>,
    lost: watch::Sender<bool>,
}

#[derive(Clone, Copy)]
enum Activity {
    /// No request is being answered, since then.
    Idle(Instant),
    /// A request goes on once the client sends or takes something, for which the registry has waited since then.
    Waiting(Instant),
    /// The registry itself is busy with a request.
    Working,
}

/// The right to a place; dropping it frees the place.
pub(super) struct Seat {
    room: Arc<Room>,
    place: Arc<Place>,
}

/// While this exists, the place has a request.
pub(super) struct Request<'a>(&'a Place);

impl Room {
    pub(super) fn new(limit: usize, patience: Duration) -> Arc<Room> {
        Arc::new(Room {
            limit,
            patience,
            places: Mutex::default(),
        })
    }

    /// A place, idle at first. If all are taken, that of the client which has been idle for longest, or else of
    /// the one for which its request has waited for longest; `None` if all requests go on.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Seat> {
        let mut places = lock(&self.places);
        if places.len() >= self.limit {
            let at = self.silent_longest(&places)?;
            places.swap_remove(at).lost.send_replace(true);
        }
        let place = Arc::new(Place {
            activity: Mutex::new(Activity::Idle(Instant::now())),
            lost: watch::Sender::new(false),
        });
        places.push(Arc::clone(&place));
        let room = Arc::clone(self);
        Some(Seat { room, place })
    }

    fn silent_longest(&self, places: &[Arc<Place>]) -> Option<usize> {
        let silent = places.iter().enumerate().filter_map(|(at, place)| {
            let (is_waiting, since) = match *lock(&place.activity) {
                Activity::Idle(since) => (false, since),
                Activity::Waiting(since) if since.elapsed() >= self.patience => (true, since),
                Activity::Waiting(_) | Activity::Working => return None,
            };
            Some((is_waiting, since, at))
        });
        silent.min().map(|(_, _, at)| at)
    }
}

impl Seat {
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.room.places).retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl Place {
    /// A request has come, and lasts until the guard is dropped.
    pub(super) fn request(&self) -> Request<'_> {
        self.start();
        Request(self)
    }

    /// A request has come, and lasts until [`Place::rest`].
    pub(super) fn start(&self) {
        self.set(Activity::Working);
    }

    /// The request has ended.
    pub(super) fn rest(&self) {
        self.set(Activity::Idle(Instant::now()));
    }

    /// The request waits for its client. Outside of a request this changes nothing.
    pub(super) fn wait(&self) {
        let mut activity = lock(&self.activity);
        if matches!(*activity, Activity::Working) {
            *activity = Activity::Waiting(Instant::now());
        }
    }

    /// The client has sent or taken something. Outside of a request this changes nothing.
    pub(super) fn work(&self) {
        let mut activity = lock(&self.activity);
        if matches!(*activity, Activity::Waiting(_)) {
            *activity = Activity::Working;
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Ends when the place is lost.
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as this place.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    fn set(&self, activity: Activity) {
        *lock(&self.activity) = activity;
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("never poisoned")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    fn full(patience: Duration) -> (Arc<Room>, Vec<Seat>) {
        let room = Room::new(3, patience);
        let seats = (0..3).map(|_| room.enter().unwrap()).collect();
        (room, seats)
    }

    fn lost(seats: &[Seat]) -> Vec<bool> {
        seats.iter().map(|seat| seat.place.is_lost()).collect()
    }

    #[test]
    fn the_client_that_was_idle_for_longest_makes_room() {
        let (room, mut seats) = full(NEVER);
        seats[0].place.request();
        seats.push(room.enter().unwrap());
        assert_eq!(lost(&seats), [false, true, false, false]);
        // It gives back what it no longer has: nothing.
        drop(seats.remove(1));
        seats.push(room.enter().unwrap());
        assert_eq!(lost(&seats), [false, true, false, false]);
    }

    #[test]
    fn requests_that_go_on_keep_their_places() {
        let (room, seats) = full(NEVER);
        let requests: Vec<_> = seats.iter().map(|seat| seat.place.request()).collect();
        seats[1].place.wait();
        assert!(room.enter().is_none());
        drop(requests);
        assert!(room.enter().is_some());
        assert_eq!(lost(&seats), [true, false, false]);
    }

    #[test]
    fn a_request_that_waits_for_long_makes_room_after_idle_ones() {
        let (room, mut seats) = full(Duration::ZERO);
        let places: Vec<_> = seats.iter().map(|seat| Arc::clone(&seat.place)).collect();
        let requests: Vec<_> = places.iter().take(2).map(|place| place.request()).collect();
        places[1].wait();
        places[0].wait();
        seats.push(room.enter().unwrap());
        assert_eq!(lost(&seats), [false, false, true, false]);
        let newest = Arc::clone(&seats[3].place);
        let _request = newest.request();
        seats.push(room.enter().unwrap());
        assert_eq!(lost(&seats), [false, true, true, false, false]);
        // What was taken in between counts.
        let _newest = seats[4].place.request();
        places[0].work();
        assert!(room.enter().is_none());
        drop(requests);
    }

    #[tokio::test]
    async fn a_lost_place_is_heard_of() {
        let room = Room::new(1, NEVER);
        let seat = room.enter().unwrap();
        let (_new, ()) = tokio::join!(async { room.enter().unwrap() }, seat.place.lost());
        seat.place.lost().await;
    }
}
