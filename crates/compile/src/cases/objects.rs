//! Manifests: the documents of a text, and the objects of lists among them.

use bowline_model::Problem;
use serde_json::Value;

use crate::codes;

/// Deeper than any object is, and no deeper than the stack allows.
const MAX_DEPTH: usize = 100;

/// An object, and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    /// The object as JSON.
    pub object: Value,
    /// File and document, for messages.
    pub place: String,
}

/// The documents of a text that are not empty.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        with_snippet: false,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The objects of a manifest, those of lists one by one. `place` names the manifest.
///
/// # Errors
/// BW4111 where the text is no YAML or a document is no object of Kubernetes.
pub fn objects(text: &str, place: &str) -> Result<Vec<Sourced>, Problem> {
    let documents = documents(text).map_err(|error| {
        let what = "the manifest is no YAML";
        Problem::new(codes::BAD_MANIFEST, what, place, "see what the line says").because(error.to_string())
    })?;
    let mut found = Vec::new();
    let several = documents.len() > 1;
    for (index, document) in documents.into_iter().enumerate() {
        let place = if several { format!("{place}, document {}", index + 1) } else { place.to_owned() };
        flatten(document, &place, &mut found)?;
    }
    Ok(found)
}

/// Adds an object, or the items of a list.
pub(super) fn flatten(object: Value, place: &str, found: &mut Vec<Sourced>) -> Result<(), Problem> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind.is_empty() {
        let fix = "give it apiVersion, kind and metadata.name";
        return Err(Problem::new(codes::BAD_MANIFEST, "a document has no kind", place, fix));
    }
    match object.get("items").and_then(Value::as_array) {
        Some(items) if kind.ends_with("List") => {
            for (index, item) in items.iter().enumerate() {
                flatten(item.clone(), &format!("{place}, items[{index}]"), found)?;
            }
        }
        Some(_) | None => found.push(Sourced { object, place: place.to_owned() }),
    }
    Ok(())
}
