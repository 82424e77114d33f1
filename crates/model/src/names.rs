//! Names of cluster objects, as newtypes, so that one is never taken for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

plain_name!(
    /// A node's name (`metadata.name` of its Node).
    NodeName
);
plain_name!(
    /// A namespace's name.
    NamespaceName
);

plain_name!(
    /// A ClusterNetworkPolicy's name.
    ClusterPolicyName
);

macro_rules! namespaced_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            /// The namespace.
            pub namespace: Arc<str>,
            /// The name in it.
            pub name: Arc<str>,
        }

        impl $name {
            /// The name `name` in `namespace`.
            pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
                $name { namespace: namespace.into(), name: name.into() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

namespaced_name!(
    /// A pod's namespace and name.
    PodName
);
namespaced_name!(
    /// A service's namespace and name.
    ServiceName
);
namespaced_name!(
    /// A network policy's namespace and name.
    PolicyName
);
namespaced_name!(
    /// An EndpointSlice's namespace and name.
    SliceName
);
