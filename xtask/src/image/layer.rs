//! One layer of an image: a tar whose bytes depend on its entries alone, and its two digests.
//!
//! Reference: OCI image specification 1.1, "Image Layer Filesystem Changeset". Times are 0, owners are 0:0, entries keep the order in which
//! they were given, and a gzip header holds neither a name nor a time.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

/// Bytes, and what they are called by their content.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// SHA-256 in hex, without `sha256:`.
    pub(super) hex: String,
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { hex: hex_digest(&bytes), bytes }
    }

    /// As a descriptor writes it.
    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }
}

/// SHA-256 in hex.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As it is: quickest to make and to import.
    Plain,
    /// gzip with a level of 1 to 9.
    Gzip(u32),
}

/// A layer ready to be written.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The digest of the tar before packing, with `sha256:`; a configuration lists it.
    pub(super) diff_id: String,
    pub(super) media_type: &'static str,
    pub(super) blob: Blob,
}

impl Layer {
    /// The layer of these entries.
    pub(super) fn of(entries: &[Entry], packing: Packing) -> Result<Self> {
        Self::from_tar(tar_of(entries)?, packing)
    }

    /// The layer of a tar that another made.
    pub(super) fn from_tar(tar: Vec<u8>, packing: Packing) -> Result<Self> {
        let plain = Blob::new(tar);
        let diff_id = plain.digest();
        Ok(match packing {
            Packing::Plain => Self { diff_id, media_type: "application/vnd.oci.image.layer.v1.tar", blob: plain },
            Packing::Gzip(level) => {
                let blob = Blob::new(gzip(&plain.bytes, level).context("packing a layer")?);
                Self { diff_id, media_type: "application/vnd.oci.image.layer.v1.tar+gzip", blob }
            }
        })
    }
}

fn gzip(bytes: &[u8], level: u32) -> std::io::Result<Vec<u8>> {
    // 255 is "unknown": the header says nothing about the machine.
    let mut out = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(level));
    out.write_all(bytes)?;
    out.finish()
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// From the image's root, without a leading slash.
    path: String,
    mode: u32,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
}

impl Entry {
    /// A program that everybody may run.
    pub(super) fn program(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode: 0o755, kind: Kind::File(bytes) }
    }

    /// A file that everybody may read.
    pub(super) fn text(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), mode: 0o644, kind: Kind::File(text.as_bytes().to_owned()) }
    }

    /// A directory.
    pub(super) fn directory(path: &str, mode: u32) -> Self {
        Self { path: path.to_owned(), mode, kind: Kind::Directory }
    }

    /// A symbolic link at `path` that says `target`.
    pub(super) fn link(path: &str, target: &str) -> Self {
        Self { path: path.to_owned(), mode: 0o777, kind: Kind::Symlink(target.to_owned()) }
    }
}

fn tar_of(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        add(&mut tar, entry).with_context(|| format!("a layer's entry {}", entry.path))?;
    }
    Ok(tar.into_inner()?)
}

fn add(tar: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> std::io::Result<()> {
    let mut header = header(entry.mode);
    match &entry.kind {
        Kind::File(bytes) => {
            header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            tar.append_data(&mut header, &entry.path, bytes.as_slice())
        }
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{}/", entry.path), std::io::empty())
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &entry.path, target)
        }
    }
}

/// A header of a regular file without content, root's, of the beginning of time.
pub(super) fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}
