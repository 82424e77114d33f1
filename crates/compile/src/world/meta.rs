//! What all Kubernetes objects share, trimmed to what is read here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Annotations whose key starts with one of these are kept; all others are dropped when an object is decoded.
const KEPT_ANNOTATIONS: [&str; 3] = ["bowline.", "flannel.alpha.coreos.com/", "kubernetes.io/config."];

/// `metadata` of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name, unique in its namespace and kind.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Namespace; empty for objects of the cluster.
    #[serde(deserialize_with = "nullable")]
    pub namespace: Arc<str>,
    /// Identity over time: an object made again under the same name has another one.
    pub uid: Option<Arc<str>>,
    /// Version of this state of the object.
    pub resource_version: Option<Arc<str>>,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: Arc<Labels>,
    /// Annotations, only those that are read somewhere.
    #[serde(deserialize_with = "kept_annotations")]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// Set while the object waits for its finalizers or its grace period (RFC 3339, UTC).
    pub deletion_timestamp: Option<Arc<str>>,
    /// When it was made (RFC 3339, UTC, so that text order is time order).
    pub creation_timestamp: Option<Arc<str>>,
}

impl ObjectMeta {
    /// Whether the two differ in anything but their resource version.
    pub(crate) fn differs(&self, other: &ObjectMeta) -> bool {
        self.uid != other.uid
            || self.labels != other.labels
            || self.annotations != other.annotations
            || self.creation_timestamp != other.creation_timestamp
            || self.deletion_timestamp != other.deletion_timestamp
    }

    /// Orders objects by age: the older is the lesser; without a timestamp it counts as the youngest.
    pub fn age(&self) -> Age {
        Age(self.creation_timestamp.clone().map_or((true, "".into()), |at| (false, at)))
    }
}

/// When an object was made, older first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age((bool, Arc<str>));

/// Reads a value whose `null` means the same as its absence, as Go writes empty lists and maps.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn kept_annotations<'de, D>(deserializer: D) -> Result<BTreeMap<Arc<str>, Arc<str>>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Kept;
    impl<'de> Visitor<'de> for Kept {
        type Value = BTreeMap<Arc<str>, Arc<str>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of annotations")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut kept = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if KEPT_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)) {
                    kept.insert(key.into(), map.next_value::<Arc<str>>()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(kept)
        }
    }
    deserializer.deserialize_any(Kept)
}
