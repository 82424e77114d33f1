//! The error object that a plugin prints, and the codes of the specification.
//!
//! Reference: CNI specification 1.1.0, "Error".

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::version::Version;

/// Error codes. 1 to 99 belong to the specification, from 100 on to the plugin.
pub mod code {
    /// The configuration's version, or the verb in that version, is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field is asked for that the plugin cannot honour.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is not the JSON it should be.
    pub const DECODE_FAILURE: u32 = 6;
    /// The configuration is JSON, but its content is wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// A passing condition: the runtime should try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail, and existing pods may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// CHECK: the pod's network is not as the last result says.
    pub const CHECK_FAILED: u32 = 100;
    /// The agent answered with something that does not fit the question.
    pub const PROTOCOL: u32 = 101;
}

/// An error as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong, in one line.
    pub msg: String,
    /// Where, why, and what to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with the code and the message.
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with an explanation.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// Whether the same call may succeed later without anybody changing the configuration.
    pub fn may_retry(&self) -> bool {
        matches!(self.code, code::TRY_AGAIN_LATER | code::IO_FAILURE | code::NOT_AVAILABLE | code::LIMITED_CONNECTIVITY)
    }

    /// The object to print.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({"cniVersion": version.as_str(), "code": self.code, "msg": self.msg});
        if let (false, Some(map)) = (self.details.is_empty(), object.as_object_mut()) {
            map.insert("details".into(), self.details.as_str().into());
        }
        object
    }
}
