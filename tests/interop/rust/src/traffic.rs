//! The stream protocols that the peers run over a circuit, both sides.
//!
//! | protocol | dialer | listener |
//! | --- | --- | --- |
//! | push | u64 big-endian count, that many bytes, half-close | SHA-256 of them (32 bytes), close |
//! | pull | u64 big-endian count, half-close | that many bytes, their SHA-256, close |
//! | halfclose | bytes, half-close | reads to the end and only then sends the same bytes back, close |
//! | stall | bytes | accepts and never reads |

use std::io;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Stream, StreamProtocol};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control::Outcome;

pub const PUSH: StreamProtocol = StreamProtocol::new("/descord-interop/push/1.0.0");
pub const PULL: StreamProtocol = StreamProtocol::new("/descord-interop/pull/1.0.0");
pub const HALF_CLOSE: StreamProtocol = StreamProtocol::new("/descord-interop/halfclose/1.0.0");
pub const STALL: StreamProtocol = StreamProtocol::new("/descord-interop/stall/1.0.0");

const WRITE_SIZE: usize = 64 * 1024;

/// xorshift64*: endless pseudo-random bytes of one seed, faster than the link.
struct ByteSource(u64);

impl ByteSource {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(3_037_000_493) | 1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let next = self.0.wrapping_mul(2_685_821_657_736_338_717).to_le_bytes();
            piece.copy_from_slice(&next[..piece.len()]);
        }
    }
}

/// Writes `count` bytes of a source in pieces of `WRITE_SIZE`; returns their SHA-256.
async fn send_bytes(stream: &mut (impl AsyncWrite + Unpin), mut source: ByteSource, count: u64) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; WRITE_SIZE];
    let mut left = count;
    while left > 0 {
        let part = &mut piece[..left.min(WRITE_SIZE as u64) as usize];
        source.fill(part);
        hash.update(&*part);
        stream.write_all(part).await?;
        left -= part.len() as u64;
    }
    stream.flush().await?;
    Ok(hash.finalize().to_vec())
}

/// Reads to the remote's half-close and hashes; returns the SHA-256 and how many bytes came, and how it ended.
async fn hash_to_end(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, u64, io::Result<()>) {
    let mut hash = Sha256::new();
    let mut piece = vec![0; WRITE_SIZE];
    let mut received = 0;
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => return (hash.finalize().to_vec(), received, Ok(())),
            Ok(n) => {
                hash.update(&piece[..n]);
                received += n as u64;
            }
            Err(error) => return (hash.finalize().to_vec(), received, Err(error)),
        }
    }
}

async fn read_count(stream: &mut Stream) -> io::Result<u64> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    Ok(u64::from_be_bytes(header))
}

fn transferred(local: &[u8], remote: &[u8], started: Instant) -> Value {
    json!({
        "sha256_local": hex::encode(local),
        "sha256_remote": hex::encode(remote),
        "seconds": started.elapsed().as_secs_f64(),
    })
}

// --- listener side ---------------------------------------------------------------------------------------------------

pub async fn answer_push(mut stream: Stream) -> io::Result<()> {
    let count = read_count(&mut stream).await?;
    let (digest, received, ended) = hash_to_end(&mut stream).await;
    let error = ended.as_ref().err().map(ToString::to_string);
    crate::control::emit("push_ended", json!({ "received": received, "error": error }));
    ended?;
    if received != count {
        return Err(io::Error::other(format!("push announced {count} bytes and sent {received}")));
    }
    stream.write_all(&digest).await?;
    stream.close().await
}

pub async fn answer_pull(mut stream: Stream) -> io::Result<()> {
    let count = read_count(&mut stream).await?;
    let (_, extra, ended) = hash_to_end(&mut stream).await;
    ended?;
    if extra != 0 {
        return Err(io::Error::other(format!("{extra} bytes after the pull request")));
    }
    let digest = send_bytes(&mut stream, ByteSource::new(count), count).await?;
    stream.write_all(&digest).await?;
    stream.close().await
}

pub async fn answer_half_close(mut stream: Stream) -> io::Result<()> {
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).await?;
    stream.write_all(&sent).await?;
    stream.close().await
}

// --- dialer side -----------------------------------------------------------------------------------------------------

pub async fn push(mut stream: Stream, count: u64, seed: u64) -> Outcome {
    let started = Instant::now();
    stream.write_all(&count.to_be_bytes()).await?;
    let local = send_bytes(&mut stream, ByteSource::new(seed), count).await?;
    stream.close().await?;
    let mut remote = Vec::new();
    stream.read_to_end(&mut remote).await?;
    Ok(transferred(&local, &remote, started))
}

pub async fn pull(mut stream: Stream, count: u64) -> Outcome {
    let started = Instant::now();
    stream.write_all(&count.to_be_bytes()).await?;
    stream.close().await?;
    let (local, received, ended) = hash_to_end(&mut (&mut stream).take(count)).await;
    ended?;
    if received != count {
        return Err(format!("pull of {count} bytes gave {received}").into());
    }
    let mut remote = Vec::new();
    stream.read_to_end(&mut remote).await?;
    Ok(transferred(&local, &remote, started))
}

pub async fn echo_half_close(mut stream: Stream, count: u64) -> Outcome {
    let mut sent = vec![0; usize::try_from(count)?];
    ByteSource::new(count).fill(&mut sent);
    stream.write_all(&sent).await?;
    stream.close().await?;
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await?;
    Ok(json!({ "equal": sent == echoed }))
}

/// Says `data` by any protocol, and tells what the other end says to it before it ends the stream.
pub async fn ask(mut stream: Stream, data: &[u8]) -> Outcome {
    stream.write_all(data).await?;
    stream.close().await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    Ok(json!({ "spoken": true, "said": hex::encode(said) }))
}

/// Writes until the stream or its connection ends; the error is the result, not a failure.
pub async fn flood(mut stream: Stream) -> Outcome {
    let mut source = ByteSource::new(1);
    let mut piece = vec![0; WRITE_SIZE];
    let mut sent = 0;
    let mut ended = stream.write_all(&(1u64 << 52).to_be_bytes()).await;
    while ended.is_ok() {
        source.fill(&mut piece);
        ended = stream.write_all(&piece).await;
        if ended.is_ok() {
            sent += piece.len();
        }
    }
    Ok(json!({ "sent": sent, "error": ended.err().map(|error| error.to_string()) }))
}

/// Writes at most `count` bytes to a listener that never reads, until nothing has moved for `quiet`. Hands the stream
/// back, for it is to stay open.
pub async fn stall(mut stream: Stream, count: u64, quiet: Duration) -> (Outcome, Stream) {
    let mut source = ByteSource::new(2);
    let mut piece = vec![0; WRITE_SIZE];
    let mut sent = 0;
    while sent < count {
        let part = &mut piece[..(count - sent).min(WRITE_SIZE as u64) as usize];
        source.fill(part);
        match tokio::time::timeout(quiet, stream.write(part)).await {
            Ok(Ok(written)) => sent += written as u64,
            Ok(Err(error)) => return (Err(error.into()), stream),
            Err(late) => return (Ok(json!({ "sent": sent, "blocked": true, "error": late.to_string() })), stream),
        }
    }
    (Ok(json!({ "sent": sent, "blocked": false })), stream)
}
