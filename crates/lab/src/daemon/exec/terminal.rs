//! A command with a terminal: the command's side is its standard input, output and error, the lab's side is the caller's.
//!
//! Reference: pty(7), ioctl_tty(2).

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use bowline_apiserver::stream::{ExecStreams, TerminalSize};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::silence;
use crate::enter::Enter;

/// Runs the command until it has ended and all that it wrote is passed on.
pub(super) async fn run(mut enter: Enter, streams: ExecStreams) -> Result<ExitStatus> {
    let ExecStreams { stdin, stdout, stderr: _, size } = streams;
    let (terminal, far) = open().context("open a terminal")?;
    enter.terminal = true;
    if let Some(env) = &mut enter.env {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
    }
    let mut command = tokio::process::Command::from(enter.command()?);
    let ends = [far.try_clone()?, far.try_clone()?, far].map(Stdio::from);
    let [input, output, errors] = ends;
    command.stdin(input).stdout(output).stderr(errors).kill_on_drop(true);
    if let Some(size) = *size.borrow() {
        resize(&terminal, size);
    }
    let mut child = command.spawn().context("start the command")?;
    // The command holds the far side: without this one here, the command's end would never be heard.
    drop(command);
    let ended = CancellationToken::new();
    let output = pass(&terminal, stdout, &ended);
    let status = async {
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let all = async { tokio::join!(output, status).1 };
    let fed = async { tokio::join!(feed(stdin, &terminal), follow(&terminal, size)) };
    tokio::select! {
        status = all => status.context("wait for the command"),
        ((), never) = fed => match never {},
    }
}

/// Opens a terminal: the lab's side, and the command's.
fn open() -> Result<(AsyncFd<OwnedFd>, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&terminal)?;
    // By descriptor, since its name is another in another mount namespace.
    let far = rustix::pty::ioctl_tiocgptpeer(&terminal, flags)?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    #[allow(deprecated, reason = "the unsafe form guards against a descriptor that is closed meanwhile, which an owned one is not")]
    let terminal = AsyncFd::new(terminal)?;
    Ok((terminal, far))
}

fn resize(terminal: &AsyncFd<OwnedFd>, size: TerminalSize) {
    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
        tracing::debug!(%error, "size of a terminal not set");
    }
}

/// Keeps the terminal's size that of the caller's.
async fn follow(terminal: &AsyncFd<OwnedFd>, mut size: watch::Receiver<Option<TerminalSize>>) -> std::convert::Infallible {
    while size.changed().await.is_ok() {
        if let Some(size) = *size.borrow_and_update() {
            resize(terminal, size);
        }
    }
    std::future::pending().await
}

/// Passes input on. Its end is not the terminal's: what was typed may still be read.
async fn feed(from: Option<DuplexStream>, terminal: &AsyncFd<OwnedFd>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = terminal.async_io(tokio::io::Interest::WRITABLE, |fd| rustix::io::write(fd, rest).map_err(io::Error::from));
            let Ok(written) = written.await else { return };
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}

/// Passes output on until nobody has the far side open any more, which reading says by an error.
async fn pass(terminal: &AsyncFd<OwnedFd>, to: Option<DuplexStream>, ended: &CancellationToken) {
    let Some(mut to) = to else { return };
    let mut buffer = [0; 4096];
    loop {
        let read = terminal.async_io(tokio::io::Interest::READABLE, |fd| rustix::io::read(fd, &mut buffer).map_err(io::Error::from));
        let read = tokio::select! {
            biased;
            read = read => read,
            () = silence(ended) => return,
        };
        match read.ok().and_then(|length| buffer.get(..length)) {
            None | Some([]) => return,
            Some(bytes) if to.write_all(bytes).await.is_err() => return,
            Some(_) => {}
        }
    }
}
