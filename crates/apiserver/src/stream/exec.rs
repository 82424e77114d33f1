//! `pods/exec` on its connection: a command's streams, and what became of it.
//!
//! Invariant: the error stream says how the command ended after everything that it wrote; a caller that goes away takes
//! its command with it. Reference: versions 4 and 5 of the remote command protocol of Kubernetes.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Incoming;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;

use super::upgrade::{Offer, Transport};
use super::{ExecRequest, ExecRun, ExecStreams, TerminalSize, spdy, websocket};
use crate::error::ApiError;
use crate::rest::Answer;

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
/// How long a SPDY client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Most bytes that may wait for the end of a terminal's size.
const MOST_SIZE_BYTES: usize = 4096;

/// The streams of a command, with their numbers as WebSocket's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Stdin, Kind::Stdout, Kind::Stderr, Kind::Error, Kind::Resize];

    fn of_name(name: &str) -> Option<Self> {
        let names = ["stdin", "stdout", "stderr", "error", "resize"];
        Self::ALL.into_iter().zip(names).find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }

    fn wanted(request: &ExecRequest) -> Vec<Self> {
        let all = [request.stdin, request.stdout, request.stderr, true, request.tty];
        Self::ALL.into_iter().zip(all).filter_map(|(kind, wanted)| wanted.then_some(kind)).collect()
    }
}

/// The caller's streams.
type Streams = BTreeMap<Kind, DuplexStream>;

/// Agrees with the client on a protocol, and runs the command when it has been told so.
pub(crate) fn exec(offer: &Offer, http: &mut http::Request<Incoming>, request: &ExecRequest, run: ExecRun) -> Result<Answer, ApiError> {
    let agreement = match offer.agree(&[V5, V4], &[V4]) {
        Ok(agreement) => agreement,
        Err(refusal) => return Ok(*refusal),
    };
    let wanted = Kind::wanted(request);
    let (websocket, closable) = (agreement.websocket, agreement.protocol == V5);
    agreement.switch(http, move |transport| async move {
        if websocket { over_websocket(transport, closable, wanted, run).await } else { over_spdy(transport, wanted.len(), run).await }
    })
}

async fn over_websocket(transport: Transport, closable: bool, wanted: Vec<Kind>, run: ExecRun) {
    let channels = wanted.iter().map(|kind| *kind as u8);
    let (connection, mut far) = websocket::Connection::channels(transport, channels, closable);
    let readable = wanted.iter().find(|kind| matches!(kind, Kind::Stdout | Kind::Stderr | Kind::Error));
    if let Some(kind) = readable {
        connection.greet(*kind as u8).await;
    }
    let streams = wanted.into_iter().filter_map(|kind| Some((kind, far.remove(&(kind as u8))?))).collect();
    tokio::select! {
        () = connection.gone() => {}
        () = conduct(streams, run) => connection.finish().await,
    }
}

pub(super) async fn over_spdy(transport: impl AsyncRead + AsyncWrite + Send + 'static, wanted: usize, run: ExecRun) {
    let mut connection = spdy::Connection::open(transport);
    let streams = match tokio::time::timeout(OPENING, gather(&mut connection, wanted)).await {
        Ok(Some(streams)) => streams,
        Ok(None) => return,
        Err(_) => {
            tracing::debug!("a client has not opened its streams in time");
            return connection.finish().await;
        }
    };
    tokio::select! {
        () = connection.gone() => {}
        () = conduct(streams, run) => connection.finish().await,
    }
}

/// Waits until as many streams have been opened as are wanted. None when the client has gone.
///
/// They are counted, as a kubelet does, and not looked for: there are clients that ask for a terminal and then open a
/// stream for errors in place of the one for the terminal's size.
async fn gather(connection: &mut spdy::Connection, wanted: usize) -> Option<Streams> {
    let mut streams = Streams::new();
    while streams.len() < wanted {
        let stream = connection.streams.recv().await?;
        match stream.headers.get("streamtype").and_then(|name| Kind::of_name(name)) {
            Some(kind) => drop(streams.insert(kind, stream.pipe)),
            None => tracing::debug!("a stream of an unknown kind"),
        }
    }
    Some(streams)
}

/// Runs the command, then says how it ended.
async fn conduct(mut streams: Streams, run: ExecRun) {
    let (sizes, size) = watch::channel(None);
    let resize = streams.remove(&Kind::Resize);
    let error = streams.remove(&Kind::Error);
    let far = ExecStreams {
        stdin: streams.remove(&Kind::Stdin),
        stdout: streams.remove(&Kind::Stdout),
        stderr: streams.remove(&Kind::Stderr),
        size,
    };
    let outcome = tokio::select! {
        outcome = run(far) => outcome,
        () = follow_size(resize, &sizes) => return,
    };
    if let Some(mut error) = error {
        // Where it fails the client has gone.
        let _ = error.write_all(status(&outcome).to_string().as_bytes()).await;
        let _ = error.shutdown().await;
    }
}

/// Reads sizes as they come; never ends, since a terminal may keep its size.
async fn follow_size(resize: Option<DuplexStream>, sizes: &watch::Sender<Option<TerminalSize>>) {
    if let Some(mut resize) = resize {
        let (mut text, mut buffer) = (Vec::new(), [0; 256]);
        while let Ok(length @ 1..) = resize.read(&mut buffer).await {
            text.extend_from_slice(buffer.get(..length).unwrap_or_default());
            if let Some(size) = last_size(&mut text) {
                sizes.send_replace(Some(size));
            }
            if text.len() > MOST_SIZE_BYTES {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Takes whole sizes off the text; the last of them.
fn last_size(text: &mut Vec<u8>) -> Option<TerminalSize> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let mut last = None;
    let mut end = 0;
    while let Some(Ok(value)) = values.next() {
        end = values.byte_offset();
        let side = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|side| u16::try_from(side).ok());
        if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
            last = Some(TerminalSize { width, height });
        }
    }
    text.drain(..end);
    // What will never be a size must not wait for its end.
    if serde_json::from_slice::<IgnoredAny>(text).is_err_and(|error| !error.is_eof()) {
        text.clear();
    }
    last
}

/// The `Status` that ends a command.
fn status(outcome: &Result<i32, String>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(why) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {why}"), "details": {"causes": [{"message": why}]},
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_last_whole_size_counts() {
        let check = |text: &str, size: Option<(u16, u16)>, left: &str| {
            let mut bytes = text.as_bytes().to_vec();
            let expected = size.map(|(width, height)| TerminalSize { width, height });
            assert_eq!(last_size(&mut bytes), expected, "{text}");
            assert_eq!(String::from_utf8(bytes).unwrap().trim(), left, "{text}");
        };
        check("{\"Width\":80,\"Height\":24}\n", Some((80, 24)), "");
        check("{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}{\"Wid", Some((81, 25)), "{\"Wid");
        check("{\"Width\":99999,\"Height\":24}", None, "");
        check("no size", None, "");
        check("", None, "");
    }

    #[tokio::test]
    async fn the_end_is_told_after_the_output() {
        for (outcome, expected) in
            [(Ok(0), json!("Success")), (Ok(7), json!("Failure")), (Err("no such thing".to_owned()), json!("Failure"))]
        {
            let (far, mut error) = tokio::io::duplex(4096);
            let (far_out, mut stdout) = tokio::io::duplex(4096);
            let streams = Streams::from([(Kind::Error, far), (Kind::Stdout, far_out)]);
            let told = outcome.clone();
            conduct(
                streams,
                Box::new(move |streams| {
                    Box::pin(async move {
                        assert!(streams.stdin.is_none() && streams.stderr.is_none());
                        streams.stdout.unwrap().write_all(b"said").await.unwrap();
                        told
                    })
                }),
            )
            .await;
            let (mut text, mut said) = (String::new(), String::new());
            stdout.read_to_string(&mut said).await.unwrap();
            error.read_to_string(&mut text).await.unwrap();
            let status: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((said.as_str(), &status["status"]), ("said", &expected));
            if outcome == Ok(7) {
                assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
            }
        }
    }
}
