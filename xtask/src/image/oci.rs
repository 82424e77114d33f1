//! An archive of images: an OCI image layout in a tar, with the `manifest.json` that older loaders read.
//!
//! Reference: OCI image specification 1.1 (image-layout, manifest, config); Docker's "image-spec v1.2" for `manifest.json`. A blob that
//! several images share is in the archive once. Every name has a descriptor of its own in `index.json`, with the annotation that
//! containerd takes a name from.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::layer::{Blob, Layer, header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a container of an image starts as, and what it says about itself.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Start {
    pub(super) entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cmd: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
}

/// An image with all its names.
#[derive(Debug, Clone)]
pub(super) struct Image<'a> {
    /// Whole names with registry and tag.
    pub(super) names: Vec<String>,
    /// RFC 3339.
    pub(super) created: String,
    /// The machine as Go calls it.
    pub(super) architecture: &'static str,
    pub(super) layers: Vec<&'a Layer>,
    pub(super) start: Start,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

impl Descriptor {
    fn of(media_type: &'static str, blob: &Blob) -> Self {
        Self { media_type, digest: blob.digest(), size: blob.bytes.len(), platform: None, annotations: BTreeMap::new() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
struct Configuration<'a> {
    created: &'a str,
    architecture: &'a str,
    os: &'static str,
    config: &'a Start,
    rootfs: RootFs<'a>,
    history: Vec<History<'a>>,
}

#[derive(Debug, Serialize)]
struct RootFs<'a> {
    r#type: &'static str,
    diff_ids: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'static str,
}

/// What `docker load` reads: paths inside the archive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Loaded<'a> {
    config: String,
    repo_tags: &'a [String],
    layers: Vec<String>,
}

/// Writes an archive of these images. The file appears whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(images: &[Image<'_>], output: &Path) -> Result<()> {
    let near = output.with_extension("tar.new");
    let into = || -> Result<()> {
        if let Some(dir) = output.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = std::io::BufWriter::new(std::fs::File::create(&near)?);
        archive(images, &mut file)?;
        file.flush()?;
        Ok(std::fs::rename(&near, output)?)
    };
    into().with_context(|| format!("{}: the image cannot be written", output.display()))
}

/// The archive's bytes, into `out`.
pub(super) fn archive(images: &[Image<'_>], out: &mut dyn Write) -> Result<()> {
    // The digests first: they decide the order, and blobs of layers are large enough not to be copied.
    let mut small: Vec<Blob> = Vec::new();
    let mut index = Vec::new();
    let mut loaded = Vec::new();
    for image in images {
        let config = Blob::new(serde_json::to_vec(&configuration(image))?);
        let manifest = Blob::new(serde_json::to_vec(&manifest(image, &config))?);
        index.extend(image.names.iter().map(|name| named(image, &manifest, name)));
        let layers = image.layers.iter().map(|layer| path_of(&layer.blob)).collect();
        loaded.push(Loaded { config: path_of(&config), repo_tags: &image.names, layers });
        small.extend([config, manifest]);
    }
    let layers = images.iter().flat_map(|image| image.layers.iter().map(|layer| &layer.blob));
    let blobs: BTreeMap<&str, &Blob> = small.iter().chain(layers).map(|blob| (blob.hex.as_str(), blob)).collect();

    let index = serde_json::to_vec(&Index { schema_version: 2, media_type: INDEX, manifests: index })?;
    let mut tar = tar::Builder::new(out);
    put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put(&mut tar, "index.json", &index)?;
    put(&mut tar, "manifest.json", &serde_json::to_vec(&loaded)?)?;
    for blob in blobs.values() {
        put(&mut tar, &path_of(blob), &blob.bytes)?;
    }
    tar.finish()?;
    Ok(())
}

fn put(tar: &mut tar::Builder<&mut dyn Write>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(0o644);
    header.set_size(u64::try_from(bytes.len())?);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

fn path_of(blob: &Blob) -> String {
    format!("blobs/sha256/{}", blob.hex)
}

fn configuration<'a>(image: &'a Image<'_>) -> Configuration<'a> {
    Configuration {
        created: &image.created,
        architecture: image.architecture,
        os: "linux",
        config: &image.start,
        rootfs: RootFs { r#type: "layers", diff_ids: image.layers.iter().map(|layer| layer.diff_id.as_str()).collect() },
        history: image.layers.iter().map(|_| History { created: &image.created, created_by: "cargo xtask image" }).collect(),
    }
}

fn manifest(image: &Image<'_>, config: &Blob) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: Descriptor::of(CONFIG, config),
        layers: image.layers.iter().map(|layer| Descriptor::of(layer.media_type, &layer.blob)).collect(),
    }
}

/// The manifest under one of its names.
fn named(image: &Image<'_>, manifest: &Blob, name: &str) -> Descriptor {
    // The specification's annotation is the tag alone; containerd's own is the whole name.
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    Descriptor {
        platform: Some(Platform { architecture: image.architecture, os: "linux" }),
        annotations: BTreeMap::from([("io.containerd.image.name", name.to_owned()), ("org.opencontainers.image.ref.name", tag.to_owned())]),
        ..Descriptor::of(MANIFEST, manifest)
    }
}
