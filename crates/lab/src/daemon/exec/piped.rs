//! A command without a terminal: three pipes.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use bowline_apiserver::stream::ExecStreams;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::silence;
use crate::enter::Enter;

/// Most bytes that are passed on at once.
const PIECE_BYTES: usize = 32 << 10;

/// Runs the command until it has ended and all that it wrote is passed on.
pub(super) async fn run(enter: &Enter, streams: ExecStreams) -> Result<ExitStatus> {
    let pipe = |stream: &Option<DuplexStream>| if stream.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = tokio::process::Command::from(enter.command()?);
    command.stdin(pipe(&streams.stdin)).stdout(pipe(&streams.stdout)).stderr(pipe(&streams.stderr)).kill_on_drop(true);
    let mut child = command.spawn().context("start the command")?;
    let ended = CancellationToken::new();
    let output = pass(child.stdout.take(), streams.stdout, &ended);
    let errors = pass(child.stderr.take(), streams.stderr, &ended);
    let input = feed(streams.stdin, child.stdin.take());
    let status = async {
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let all = async { tokio::join!(output, errors, status).2 };
    tokio::select! {
        status = all => status.context("wait for the command"),
        never = input => match never {},
    }
}

/// Passes input on, and its end. A command that wants no more of it is no failure; its end is awaited elsewhere.
async fn feed(from: Option<DuplexStream>, to: Option<tokio::process::ChildStdin>) -> std::convert::Infallible {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
    std::future::pending().await
}

/// Passes output on until it ends, or its reader has gone: then writing is an error for the command, too.
async fn pass(from: Option<impl AsyncRead + Unpin>, to: Option<DuplexStream>, ended: &CancellationToken) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = silence(ended) => return,
        };
        match read.ok().and_then(|length| buffer.get(..length)) {
            None | Some([]) => return,
            Some(bytes) if to.write_all(bytes).await.is_err() => return,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    /// A command as the lab starts it would need the lab's binary; what is passed on is what is looked at here.
    #[tokio::test]
    async fn output_ends_with_its_command_though_another_holds_it_open() {
        let (mut held, from) = tokio::io::duplex(64);
        let (to, mut reader) = tokio::io::duplex(64);
        let ended = CancellationToken::new();
        held.write_all(b"said").await.unwrap();
        ended.cancel();
        pass(Some(from), Some(to), &ended).await;
        let mut said = String::new();
        reader.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "said");
        assert!(held.write_all(b"more").await.is_err(), "nobody reads it any more");
    }

    #[tokio::test]
    async fn a_reader_that_goes_ends_the_output() {
        let (mut held, from) = tokio::io::duplex(64);
        let (to, reader) = tokio::io::duplex(64);
        drop(reader);
        held.write_all(b"said").await.unwrap();
        pass(Some(from), Some(to), &CancellationToken::new()).await;
        assert!(held.write_all(b"more").await.is_err());
    }
}
