//! Paths: which part of the API a request is for. Reference: "Resource URIs" of the Kubernetes API concepts.

use super::query::decode;
use crate::error::ApiError;

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Version and health: answered to everybody.
    Open(String),
    /// Groups, versions and resources.
    Discovery(Place),
    /// The OpenAPI index, or one document of it.
    OpenApi(Option<String>),
    /// The OpenAPI document of version 2.
    OldOpenApi,
    /// A question to the server that is not stored, such as an access review: its resource.
    Review(&'static str),
    /// A resource, an object, or a part of one.
    Resource(Target),
}

/// A level of discovery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`
    Version(String, String),
    /// `/`
    Root,
}

/// A resource, an object, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// `apiVersion` of the objects.
    pub(crate) fn api_version(&self) -> String {
        crate::kinds::group_version(&self.group, &self.version)
    }
}

const REVIEWS: [&str; 5] =
    ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectreviews"];

impl Route {
    pub(crate) fn of_path(path: &str) -> Result<Self, ApiError> {
        let segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [] => Ok(Self::Discovery(Place::Root)),
            ["version" | "healthz" | "livez" | "readyz", ..] => Ok(Self::Open(segments.join("/"))),
            ["openapi", "v2"] => Ok(Self::OldOpenApi),
            ["openapi", "v3"] => Ok(Self::OpenApi(None)),
            ["openapi", "v3", rest @ ..] => Ok(Self::OpenApi(Some(rest.join("/")))),
            ["api"] => Ok(Self::Discovery(Place::Core)),
            ["apis"] => Ok(Self::Discovery(Place::Groups)),
            ["apis", group] => Ok(Self::Discovery(Place::Group((*group).to_owned()))),
            ["api", version] => Ok(Self::Discovery(Place::Version(String::new(), (*version).to_owned()))),
            ["apis", group, version] => Ok(Self::Discovery(Place::Version((*group).to_owned(), (*version).to_owned()))),
            ["apis", "authorization.k8s.io" | "authentication.k8s.io", "v1", rest @ ..] => {
                let plural = rest.last().copied().unwrap_or_default();
                REVIEWS.iter().find(|known| **known == plural).map(|known| Self::Review(known)).ok_or(ApiError::NoSuchPath)
            }
            ["api", version, rest @ ..] => Target::of_segments("", version, rest).map(Self::Resource),
            ["apis", group, version, rest @ ..] => Target::of_segments(group, version, rest).map(Self::Resource),
            _ => Err(ApiError::NoSuchPath),
        }
    }
}

impl Target {
    fn of_segments(group: &str, version: &str, segments: &[&str]) -> Result<Self, ApiError> {
        let own = |text: &&str| (*text).to_owned();
        let (namespace, rest) = match segments {
            ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, segments),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(own(namespace)), rest),
            _ => (None, segments),
        };
        let mut target = Self { group: group.to_owned(), version: version.to_owned(), namespace, ..Self::default() };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(name), None),
            [plural, name, subresource] => (plural, Some(name), Some(subresource)),
            _ => return Err(ApiError::NoSuchPath),
        };
        target.plural = own(plural);
        target.name = name.map(own);
        target.subresource = subresource.map(own);
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    fn check(path: &str, wanted: [&str; 6]) {
        let Route::Resource(target) = Route::of_path(path).unwrap() else { unreachable!("{path} is a resource") };
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let got = [
            target.group.clone(),
            target.version.clone(),
            text(&target.namespace),
            target.plural.clone(),
            text(&target.name),
            text(&target.subresource),
        ];
        assert_eq!(got, wanted, "{path}");
    }

    #[test]
    fn paths_of_resources() {
        check("/api/v1/pods", ["", "v1", "", "pods", "", ""]);
        check("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]);
        check("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]);
        check("/api/v1/namespaces/a/finalize", ["", "v1", "", "namespaces", "a", "finalize"]);
        check("/api/v1/namespaces/a/pods/b/log", ["", "v1", "a", "pods", "b", "log"]);
        check("/apis/apps/v1/namespaces/a/deployments/b%2Ec/scale", ["apps", "v1", "a", "deployments", "b.c", "scale"]);
        assert_eq!(Route::of_path("/apis/apps/v1").unwrap(), Route::Discovery(Place::Version("apps".into(), "v1".into())));
        assert_eq!(Route::of_path("/nonsense").unwrap_err().code(), 404);
        assert_eq!(Route::of_path("/api/v1/a/b/c/d").unwrap_err().code(), 404);
    }
}
