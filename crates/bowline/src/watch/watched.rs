//! The world's objects in the form that the client library watches.
//!
//! The library asks each object for the API's own metadata type; only name, namespace and resource version of it are kept, so that memory
//! follows what the compiler reads and nothing else. An object that cannot be read is not an error of its list: it travels on as what it is,
//! and the world says so.

use std::borrow::Cow;
use std::marker::PhantomData;

use bowline_compile::world::{Change, Kind, Object, ObjectKey, Unreadable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta as ApiMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A kind that the agent watches, as a type.
pub(crate) trait Watchable: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// The world's name for the kind.
    const KIND: Kind;
    /// API group, empty for the core.
    const GROUP: &'static str;
    /// Version of the group.
    const VERSION: &'static str = "v1";
    /// Resource name in paths.
    const PLURAL: &'static str;
    /// Whether a server may lack the kind, or keep it from us, and all is well without it.
    const OPTIONAL: bool = false;
    /// Whether policies are made of it, so that something is allowed where it is not known.
    const GUARDS: bool = false;
    /// While a server lacks it, it is asked for again within so many seconds.
    const ABSENT_SECONDS: u64 = 600;
}

macro_rules! watchable {
    ($name:ident, $group:literal, $plural:literal $(, $constant:ident: $of:ty = $value:literal)*) => {
        #[doc = concat!("The kind ", stringify!($name), ".")]
        #[derive(Debug, Clone)]
        pub(crate) struct $name;

        impl Watchable for $name {
            const KIND: Kind = Kind::$name;
            const GROUP: &'static str = $group;
            const PLURAL: &'static str = $plural;
            $(const $constant: $of = $value;)*
        }
    };
}

watchable!(Node, "", "nodes");
watchable!(Namespace, "", "namespaces", GUARDS: bool = true);
watchable!(Pod, "", "pods", GUARDS: bool = true);
watchable!(Service, "", "services");
watchable!(EndpointSlice, "discovery.k8s.io", "endpointslices");
watchable!(NetworkPolicy, "networking.k8s.io", "networkpolicies", GUARDS: bool = true);
watchable!(ServiceCidr, "networking.k8s.io", "servicecidrs", OPTIONAL: bool = true);
watchable!(
    ClusterNetworkPolicy,
    "policy.networking.k8s.io",
    "clusternetworkpolicies",
    VERSION: &'static str = "v1alpha2",
    OPTIONAL: bool = true,
    GUARDS: bool = true,
    // Who installs the kind means to use it.
    ABSENT_SECONDS: u64 = 120
);

/// An object with the metadata that the client library needs.
#[derive(Debug, Clone)]
pub(crate) struct Watched<T> {
    meta: ApiMeta,
    decoded: Result<Object, Box<Unreadable>>,
    kind: PhantomData<T>,
}

impl<T: Watchable> Watched<T> {
    /// The object's name in the world.
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(T::KIND, self.meta.namespace.as_deref().unwrap_or_default(), self.meta.name.as_deref().unwrap_or_default())
    }

    /// The object, or why it cannot be read.
    pub(crate) fn into_decoded(self) -> Result<Object, Box<Unreadable>> {
        self.decoded
    }

    /// The object's present state as a change.
    pub(crate) fn into_change(self) -> Change {
        match self.decoded {
            Ok(object) => Change::Upsert(object),
            Err(unreadable) => Change::Unreadable(unreadable),
        }
    }
}

impl<'de, T: Watchable> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        let text = |field: &str| json.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).map(str::to_owned);
        let meta =
            ApiMeta { name: text("name"), namespace: text("namespace"), resource_version: text("resourceVersion"), ..ApiMeta::default() };
        Ok(Watched { meta, decoded: Object::decode(T::KIND, json), kind: PhantomData })
    }
}

impl<T: Watchable> kube::Resource for Watched<T> {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.as_str().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        T::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ApiMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ApiMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_object_does_not_spoil_its_list() {
        let list = r#"[{"metadata":{"name":"good","namespace":"a","resourceVersion":"7"},"spec":{}},
                       {"metadata":{"name":"bad","namespace":"a","resourceVersion":"8"},"spec":{"nodeName":[1]}}]"#;
        let items: Vec<Watched<Pod>> = serde_json::from_str(list).unwrap();
        assert_eq!(items[0].key().to_string(), "Pod a/good");
        assert!(matches!(items[0].clone().into_change(), Change::Upsert(_)));
        assert!(matches!(items[1].clone().into_change(), Change::Unreadable(u) if u.problem.place.contains("a/bad")));
        assert_eq!(items[1].meta.resource_version.as_deref(), Some("8"));
    }
}
