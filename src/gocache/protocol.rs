//! The protocol of `GOCACHEPROG`, as `cmd/go/internal/cacheprog` documents it: lines of JSON, and after a `put` its body as a
//! JSON string of base64. Pure parsing of what a hostile peer sends; stores nothing.

use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::read::DecoderReader;

/// Lines of requests are at most this long; those of Go have 250 bytes.
const MAX_LINE: u64 = 4 << 10;

/// Bodies are at most this long; a large package of Go has 30 MB.
pub(super) const MAX_BODY: u64 = 1 << 30;

/// Go's name for what it compiles, or for what came of it: a SHA-256.
pub(super) type Id = [u8; 32];

/// What `go` asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// What stands under an action's id?
    Get { action: Id },
    /// Keep the body that follows, which has so many bytes and this SHA-256.
    Put { action: Id, output: Id, size: u64 },
    /// Done.
    Close,
}

/// A question, and the number that its answer carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub id: i64,
    pub ask: Ask,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    #[serde(rename = "ID")]
    id: i64,
    command: String,
    #[serde(rename = "ActionID", default)]
    action: Option<String>,
    #[serde(rename = "OutputID", default)]
    output: Option<String>,
    #[serde(default)]
    body_size: u64,
}

/// The next request; `None` at the end of the stream.
pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = Read::take(&mut *from, MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(nonsense("a line that does not end"));
        }
        if !line.trim_ascii().is_empty() {
            break;
        }
    }
    let line: Line = serde_json::from_slice(&line).map_err(|_| nonsense("a line that is no request"))?;
    let ask = match line.command.as_str() {
        "get" => Ask::Get {
            action: id(line.action)?,
        },
        "put" => Ask::Put {
            action: id(line.action)?,
            output: id(line.output)?,
            size: Some(line.body_size)
                .filter(|size| *size <= MAX_BODY)
                .ok_or_else(|| nonsense("a body without bounds"))?,
        },
        "close" => Ask::Close,
        _ => return Err(nonsense("an unknown command")),
    };
    Ok(Some(Request { id: line.id, ask }))
}

/// Hands each part of a body of `size` bytes to `take`, and reads up to its end, however it is taken.
pub(super) fn read_body(from: &mut impl BufRead, size: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    skip_space(from)?;
    expect(from, b'"')?;
    let mut left = size;
    {
        let mut encoded = Read::take(&mut *from, size.div_ceil(3) * 4);
        let mut decoded = DecoderReader::new(&mut encoded, &STANDARD);
        let mut buffer = vec![0; 96 << 10];
        while left > 0 {
            let read = decoded.read(&mut buffer)?;
            if read == 0 || read as u64 > left {
                return Err(nonsense("a body of another length"));
            }
            take(&buffer[..read]);
            left -= read as u64;
        }
        if decoded.read(&mut buffer)? != 0 {
            return Err(nonsense("a body of another length"));
        }
    }
    expect(from, b'"')
}

fn skip_space(from: &mut impl BufRead) -> io::Result<()> {
    const MOST: usize = 16;
    for _ in 0..MOST {
        match from.fill_buf()?.first() {
            Some(byte) if byte.is_ascii_whitespace() => from.consume(1),
            _ => return Ok(()),
        }
    }
    Err(nonsense("too many blanks"))
}

fn expect(from: &mut impl BufRead, byte: u8) -> io::Result<()> {
    let mut found = [0];
    from.read_exact(&mut found)?;
    match found[0] == byte {
        true => Ok(()),
        false => Err(nonsense("a body that is no string")),
    }
}

fn id(text: Option<String>) -> io::Result<Id> {
    text.and_then(|text| STANDARD.decode(text).ok()?.try_into().ok())
        .ok_or_else(|| nonsense("an id that is not 32 bytes"))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// What is answered.
#[derive(Debug, Default, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    #[serde(rename = "ID")]
    pub id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub known_commands: &'static [&'static str],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub miss: bool,
    #[serde(rename = "OutputID", skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_path: Option<String>,
}

impl Answer {
    /// What is said first.
    pub fn hello() -> Answer {
        Answer {
            known_commands: &["get", "put", "close"],
            ..Answer::default()
        }
    }

    /// The answer as a line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("plain data encodes");
        line.push(b'\n');
        line
    }
}

/// An id as JSON carries it.
pub(super) fn encode(id: &Id) -> String {
    STANDARD.encode(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn requests(text: &str) -> io::Result<Vec<(Request, Vec<u8>)>> {
        let mut from = text.as_bytes();
        let mut found = Vec::new();
        while let Some(request) = read(&mut from)? {
            let mut body = Vec::new();
            if let Ask::Put { size, .. } = request.ask {
                read_body(&mut from, size, |part| body.extend(part))?;
            }
            found.push((request, body));
        }
        Ok(found)
    }

    #[test]
    fn what_go_writes_is_read() {
        let text = format!(
            "{{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"{ONES}\"}}\n\n\
             {{\"ID\":2,\"Command\":\"put\",\"ActionID\":\"{ONES}\",\"OutputID\":\"{ONES}\",\"BodySize\":4}}\n\n\"c2tlcA==\"\n\
             {{\"ID\":3,\"Command\":\"put\",\"ActionID\":\"{ONES}\",\"OutputID\":\"{ONES}\"}}\n\n\
             {{\"ID\":4,\"Command\":\"close\"}}\n"
        );
        let action = [1; 32];
        let put = |size| Ask::Put {
            action,
            output: action,
            size,
        };
        let request = |id, ask| Request { id, ask };
        assert_eq!(
            requests(&text).unwrap(),
            [
                (request(1, Ask::Get { action }), vec![]),
                (request(2, put(4)), b"skep".to_vec()),
                (request(3, put(0)), vec![]),
                (request(4, Ask::Close), vec![]),
            ]
        );
    }

    #[test]
    fn what_go_would_not_write_is_refused() {
        let put = |size: &str| {
            format!(
                "{{\"ID\":1,\"Command\":\"put\",\"ActionID\":\"{ONES}\",\"OutputID\":\"{ONES}\",\"BodySize\":{size}}}\n"
            )
        };
        for text in [
            "x".repeat(5000),
            "{}\n".to_owned(),
            "{\"ID\":1,\"Command\":\"get\"".to_owned(),
            "{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"../x\"}\n".to_owned(),
            "{\"ID\":1,\"Command\":\"get\",\"ActionID\":\"AQ==\"}\n".to_owned(),
            "{\"ID\":1,\"Command\":\"get2\"}\n".to_owned(),
            put("99999999999999"),
            put("-1"),
            put("4"),
            put("4") + "\"c2tl\"\n",
            put("4") + "\"c2tlcHMh\"\n",
            put("4") + "\"c2t!cA==\"\n",
            put("4") + "c2tlcA==\n",
            put("4") + "\"c2tlcA==",
            put("4") + &" ".repeat(40) + "\"c2tlcA==\"",
        ] {
            assert!(requests(&text).is_err(), "{text}");
        }
    }
}
