//! The control socket: answers to the commands that ask about this lab.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Api, Lab, agents};
use crate::control::{Reply, Request, Verb};

/// Longest question.
const MOST_BYTES: u64 = 1 << 20;

/// Starts answering. The socket and the kubeconfig appear together: what can be asked can be used. Bare machines have no API.
pub(crate) fn start(lab: &Arc<Lab>, api: Option<&Arc<Api>>) -> Result<()> {
    if let Some(api) = api {
        write_kubeconfig(lab, api)?;
    }
    let path = lab.place.socket();
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let (lab, api) = (Arc::clone(lab), api.map(Arc::clone));
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (lab, api) = (Arc::clone(&lab), api.clone());
                    tokio::spawn(async move {
                        if let Err(error) = answer(&lab, api.as_deref(), stream).await {
                            tracing::debug!(%error, "control connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control connection not accepted");
                    tokio::time::sleep(super::POLL).await;
                }
            }
        }
    });
    Ok(())
}

fn write_kubeconfig(lab: &Lab, api: &Api) -> Result<()> {
    let path = lab.place.kubeconfig();
    std::fs::write(&path, &api.kubeconfig).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

async fn answer(lab: &Arc<Lab>, api: Option<&Api>, stream: UnixStream) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read).take(MOST_BYTES).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => respond(lab, api, request).await.unwrap_or_else(|error| Reply::Refused { why: format!("{error:#}") }),
        Err(error) => Reply::Refused { why: format!("unreadable request: {error}") },
    };
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    Ok(())
}

async fn respond(lab: &Arc<Lab>, api: Option<&Api>, request: Request) -> Result<Reply> {
    let bare = || format!("lab {} has bare machines: it was made with --bare", lab.options.name);
    Ok(match (request, api) {
        (Request::Find { whom }, _) => Reply::Found(lab.find(&whom)?),
        (Request::Agent { node, verb, program }, Some(_)) => Reply::Done { text: agents::conduct(lab, &node, verb, program).await? },
        (Request::Pending, Some(api)) => Reply::Done { text: api.pending(lab).await },
        (Request::Api { verb: Verb::Start }, Some(api)) => Reply::Done { text: api.open_doors(None).await?.to_owned() },
        (Request::Api { verb: Verb::Stop | Verb::Kill }, Some(api)) => Reply::Done { text: api.close_doors().await.to_owned() },
        (Request::Agent { .. } | Request::Pending | Request::Api { .. }, None) => Reply::Refused { why: bare() },
    })
}
