//! Requests to a published port: one, or a bounded stream of them that notes every failure.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that make requests.
const THREADS: u32 = 2;
/// From one request of a thread to its next: 50 a second in all.
const INTERVAL: Duration = Duration::from_millis(20 * THREADS as u64);

/// Status and body of a GET over a connection of its own.
pub fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let odd = || io::Error::other(format!("no answer of HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(odd)?, body.to_owned()))
}

/// A stream of requests, until it is finished or dropped.
pub struct Load {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Begins to ask `port`, which answers with one of `expected`.
    pub fn start(port: u16, expected: &[String]) -> Load {
        let ended = Arc::new(AtomicBool::new(false));
        let threads = (0..THREADS).map(|_| {
            let (ended, expected) = (Arc::clone(&ended), expected.to_vec());
            std::thread::spawn(move || ask(port, &expected, &ended))
        });
        Load {
            threads: threads.collect(),
            ended,
        }
    }

    /// Ends it, after making sure that each request was answered; how many there were.
    #[track_caller]
    pub fn finish(mut self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        let mut made = 0;
        for thread in std::mem::take(&mut self.threads) {
            let (of_thread, failures) = thread.join().unwrap();
            assert!(
                failures.is_empty(),
                "{} of {of_thread}: {failures:#?}",
                failures.len()
            );
            made += of_thread;
        }
        made
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn ask(port: u16, expected: &[String], ended: &AtomicBool) -> (usize, Vec<String>) {
    let began = Instant::now();
    let mut made = 0;
    let mut failures = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        made += 1;
        match get(port, "/cgi-bin/version") {
            Ok((200, body)) if expected.contains(&body) => {}
            other => failures.push(format!("{:?} after {:?}", other, began.elapsed())),
        }
        std::thread::sleep(INTERVAL);
    }
    (made, failures)
}
