//! GET of objects and lists.
//!
//! Invariant: the pages of one list are all of one moment: the first page keeps a snapshot for the others. A page that comes
//! too late is answered with 410. Reference: "Retrieving large results sets in chunks" of the Kubernetes API concepts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, Context, json_answer, render};
use crate::error::ApiError;

/// Lists of which pages are left to be fetched.
#[derive(Default)]
pub(crate) struct Snapshots {
    kept: Mutex<VecDeque<Arc<Snapshot>>>,
}

struct Snapshot {
    id: u64,
    revision: u64,
    items: Vec<Arc<Value>>,
}

/// More than clients page through at once.
const SNAPSHOTS: usize = 64;

impl Snapshots {
    fn keep(&self, snapshot: Arc<Snapshot>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(snapshot);
        while kept.len() > SNAPSHOTS {
            kept.pop_front();
        }
    }

    fn find(&self, id: u64) -> Result<Arc<Snapshot>, ApiError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|snapshot| snapshot.id == id).cloned().ok_or_else(|| ApiError::Expired {
            message: "The provided continue parameter is too old to display a consistent list result. Start a new list \
                      without the continue parameter."
                .to_owned(),
        })
    }
}

impl Context {
    pub(super) fn get(&self, call: &Call) -> Result<Answer, ApiError> {
        let name = call.target.name.as_deref().unwrap_or_default();
        let object = self.store.get(&call.resource.id, call.target.namespace.as_deref(), name)?;
        Ok(render::answer(call, StatusCode::OK, &object))
    }

    pub(super) fn list(&self, call: &Call) -> Result<Answer, ApiError> {
        let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let (snapshot, start) = match call.query.given("continue") {
            Some(token) => {
                let (id, start) = read_token(token)?;
                (self.snapshots.find(id)?, start)
            }
            None => (Arc::new(self.snapshot(call)?), 0),
        };
        let page: Vec<&Value> = snapshot.items.iter().skip(start).take(limit).map(AsRef::as_ref).collect();
        let next = start + page.len();
        let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
        if next < snapshot.items.len() {
            if start == 0 {
                self.snapshots.keep(Arc::clone(&snapshot));
            }
            let token = URL_SAFE_NO_PAD.encode(format!("{}:{next}", snapshot.id));
            let left = snapshot.items.len() - next;
            metadata = json!({"resourceVersion": snapshot.revision.to_string(), "continue": token, "remainingItemCount": left});
        }
        Ok(json_answer(StatusCode::OK, &render::list(call, &page, metadata)))
    }

    fn snapshot(&self, call: &Call) -> Result<Snapshot, ApiError> {
        let (labels, fields) = call.query.selectors()?;
        let listing = self.store.list(&call.resource.id, call.target.namespace.as_deref());
        let mut items = listing.items;
        items.retain(|object| labels.matches(object) && fields.matches(object));
        Ok(Snapshot { id: rand::random(), revision: listing.revision, items })
    }
}

fn read_token(token: &str) -> Result<(u64, usize), ApiError> {
    let fault = || ApiError::bad_request(format!("continue key is not valid: {token:?}"));
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| fault())?;
    let text = String::from_utf8(bytes).map_err(|_| fault())?;
    let (id, start) = text.split_once(':').ok_or_else(fault)?;
    Ok((id.parse().map_err(|_| fault())?, start.parse().map_err(|_| fault())?))
}
