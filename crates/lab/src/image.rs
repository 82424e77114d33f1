//! Images of one program, given to a lab by `--image NAME=FILE`, since it can fetch none.
//!
//! Invariant: the program is shown to containers of that image alone, under its own file name in the root, and read-only.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A program that stands for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image's name without registry, path and tag.
    pub name: String,
    /// The program on this machine, by an absolute path.
    pub program: PathBuf,
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text.split_once('=').ok_or("write it as NAME=FILE, such as agnhost=/usr/local/bin/agnhost")?;
        if name.is_empty() || name.contains(['/', ':', '@']) {
            return Err(format!("{name:?} is not the last part of an image's name, such as agnhost"));
        }
        let program = std::path::absolute(file).map_err(|error| format!("{file}: {error}"))?;
        if !program.is_file() {
            return Err(format!("{file} is not a file"));
        }
        Ok(Self { name: name.to_owned(), program })
    }
}

impl Image {
    /// Whether an image as pods name it (`registry/path/name:tag@digest`) is this one.
    pub(crate) fn is(&self, reference: &str) -> bool {
        let named = reference.split('@').next().unwrap_or_default();
        let last = named.rsplit('/').next().unwrap_or_default();
        last.split(':').next() == Some(self.name.as_str())
    }

    /// Where its containers see it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/").join(self.program.file_name().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn references_name_it_in_many_ways() {
        let image = Image { name: "agnhost".to_owned(), program: PathBuf::from("/opt/agnhost") };
        for reference in ["agnhost", "agnhost:2.43", "registry.k8s.io/e2e-test-images/agnhost:2.43", "localhost:5000/agnhost@sha256:00"] {
            assert!(image.is(reference), "{reference}");
        }
        for reference in ["", "agnhost2", "agnhost/other", "my-agnhost:1"] {
            assert!(!image.is(reference), "{reference}");
        }
        assert_eq!(image.path(), Path::new("/agnhost"));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let own = std::env::current_exe().unwrap();
        let image: Image = format!("me={}", own.display()).parse().unwrap();
        assert_eq!(image, Image { name: "me".to_owned(), program: own });
        for text in ["agnhost", "=/bin/sh", "a/b=/bin/sh", "agnhost=/no/such/file", "agnhost=/bin"] {
            assert!(text.parse::<Image>().is_err(), "{text}");
        }
    }
}
