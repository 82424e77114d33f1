//! One whole list of a kind.
//!
//! Invariant: what is returned is complete, of one moment and of a known version; anything less is trouble. A list is asked for in one
//! piece, because that is what servers answer from their memory (since Kubernetes 1.31 also without a version); an answer in pages is
//! followed to its end. Reference: "Resource versions" and "Retrieving large results sets in chunks" of the Kubernetes API concepts,
//! KEP-2340 (consistent reads from the cache).

use std::time::Duration;

use http_body_util::BodyExt;
use kube::Resource;
use kube::client::Body;
use kube::core::params::{GetParams, ListParams, VersionMatch};
use serde::Deserialize;

use super::line::{Line, causes};
use super::time::timeout;
use super::trouble::Trouble;
use super::version::Version;
use super::watched::{Node, Watchable, Watched};

/// A list that stands still for so long has ended.
const STANDSTILL: Duration = Duration::from_secs(20);

/// How long one answer may take from its beginning to its end; the server itself gives up after a minute.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// Pages of one list: more is a server that goes in circles.
const PAGES: usize = 10_000;

/// All objects of a kind at one moment.
#[derive(Debug)]
pub(super) struct Listed<T> {
    /// The moment.
    pub(super) version: Version,
    /// The objects.
    pub(super) items: Vec<Watched<T>>,
}

/// How fresh a list must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fresh<'a> {
    /// As fresh as anything that the server has ever answered.
    Newest,
    /// As this version or later; what a server has in memory will do.
    NotOlderThan(&'a Version),
}

/// The answer's form. Both fields must be there: an answer without them is no list, whoever gave it.
#[derive(Deserialize)]
struct Page<T> {
    metadata: PageMeta,
    #[serde(bound(deserialize = "Vec<T>: Deserialize<'de>"))]
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// Fetches a whole list.
pub(super) async fn list<T: Watchable>(line: &Line, fresh: Fresh<'_>) -> Result<Listed<T>, Trouble> {
    let mut params = ListParams::default();
    if let Fresh::NotOlderThan(version) = fresh {
        params.resource_version = Some(version.as_str().to_owned());
        params.version_match = Some(VersionMatch::NotOlderThan);
    }
    let path = Watched::<T>::url_path(&(), None);
    let mut items = Vec::new();
    for _ in 0..PAGES {
        let request = kube::core::Request::new(path.as_str()).list(&params).map_err(|error| Trouble::Unreadable(error.to_string()))?;
        let body = whole(line.ask(request).await?.into_body()).await?;
        let page: Page<Watched<T>> = serde_json::from_slice(&body).map_err(|error| Trouble::Unreadable(error.to_string()))?;
        drop(body);
        items.extend(page.items);
        let version = Version::new(&page.metadata.resource_version);
        if !page.metadata.next.is_empty() {
            params.continue_token = Some(page.metadata.next);
            continue;
        }
        let version = version.ok_or_else(|| Trouble::Unreadable("the list has no resourceVersion".to_owned()))?;
        return Ok(Listed { version, items });
    }
    Err(Trouble::Unreadable(format!("the list does not end after {PAGES} pages")))
}

/// Whether the cluster that answers knows this node.
pub(super) async fn knows_node(line: &Line, name: &str) -> Result<bool, Trouble> {
    let path = Watched::<Node>::url_path(&(), None);
    let request = kube::core::Request::new(path.as_str()).get(name, &GetParams::default());
    let answer = match line.ask(request.map_err(|error| Trouble::Unreadable(error.to_string()))?).await {
        Ok(answer) => answer,
        Err(Trouble::Refused { code: 404, .. }) => return Ok(false),
        Err(trouble) => return Err(trouble),
    };
    let body = whole(answer.into_body()).await?;
    let node: Watched<Node> = serde_json::from_slice(&body).map_err(|error| Trouble::Unreadable(error.to_string()))?;
    Ok(&*node.key().name == name)
}

/// A body to its end, as long as it moves.
async fn whole(mut body: Body) -> Result<Vec<u8>, Trouble> {
    let collect = async {
        let mut bytes = Vec::new();
        loop {
            match timeout(STANDSTILL, body.frame()).await {
                Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Ok(Some(Err(error))) => return Err(Trouble::Broken(causes(&error))),
                Ok(None) => return Ok(bytes),
                Err(_) => return Err(Trouble::Broken(format!("nothing came for {} s", STANDSTILL.as_secs()))),
            }
        }
    };
    match timeout(WHOLE_WITHIN, collect).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Trouble::Broken(format!("not whole after {} s", WHOLE_WITHIN.as_secs()))),
    }
}
