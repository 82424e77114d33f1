//! Access reviews: everybody who is known may do everything.
//!
//! Reference: authorization.k8s.io/v1, authentication.k8s.io/v1. The bodies are not read: they would not change the answer.

use http::{Method, Request, StatusCode};
use serde_json::json;

use super::{Answer, json_answer};
use crate::error::ApiError;

pub(super) fn answer<B>(request: &Request<B>, plural: &str, user: &str) -> Result<Answer, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::MethodNotAllowed);
    }
    let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let (group, kind, status) = match plural {
        "selfsubjectreviews" => {
            let info = json!({"username": user, "groups": ["system:masters", "system:authenticated"]});
            ("authentication", "SelfSubjectReview", json!({"userInfo": info}))
        }
        "selfsubjectrulesreviews" => {
            let rules = json!({"resourceRules": everything, "nonResourceRules": paths, "incomplete": false});
            ("authorization", "SelfSubjectRulesReview", rules)
        }
        "subjectaccessreviews" => ("authorization", "SubjectAccessReview", json!({"allowed": true})),
        "localsubjectaccessreviews" => ("authorization", "LocalSubjectAccessReview", json!({"allowed": true})),
        _ => ("authorization", "SelfSubjectAccessReview", json!({"allowed": true})),
    };
    let review = json!({"kind": kind, "apiVersion": format!("{group}.k8s.io/v1"), "metadata": {}, "spec": {}, "status": status});
    Ok(json_answer(StatusCode::CREATED, &review))
}
