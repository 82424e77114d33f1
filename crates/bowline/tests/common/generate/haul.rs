//! Many bytes over one new TCP connection, one way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{GIVE, MESSAGE_BYTES, TAKE};

/// How long nothing may come or go: a few tries of a lost packet.
const PATIENCE: Duration = Duration::from_secs(10);

/// A line is `up BYTES` or `down BYTES`; its answer how many milliseconds it took, from before the connection.
pub(super) fn run(target: SocketAddr) -> Result<()> {
    super::converse(|line| {
        let (way, bytes) = line.split_once(' ').context("a direction and a number")?;
        let bytes: u64 = bytes.parse()?;
        let begun = Instant::now();
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| target.to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mode = match way {
            "up" => TAKE,
            "down" => GIVE,
            other => bail!("neither up nor down: {other}"),
        };
        stream.write_all(&[&[mode], &bytes.to_be_bytes()[..]].concat())?;
        if mode == TAKE {
            std::io::copy(&mut std::io::repeat(0).take(bytes), &mut stream).context("sending")?;
            stream.read_exact(&mut [0; MESSAGE_BYTES]).context("the word that all has come")?;
        } else {
            let come = std::io::copy(&mut stream, &mut std::io::sink()).context("receiving")?;
            ensure!(come == bytes, "{come} of {bytes} bytes came");
        }
        Ok(json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)))
    })
}
