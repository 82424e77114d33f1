//! An archive is read back as a loader reads it, and held against what went in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde_json::Value;

use super::layer::{Entry, Layer, Packing, hex_digest};
use super::oci::{self, Image, Start};
use super::product;

fn image<'a>(names: &[&str], layers: Vec<&'a Layer>) -> Image<'a> {
    let start = Start { entrypoint: vec!["/bowline".to_owned()], working_dir: "/".to_owned(), ..Start::default() };
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Image { names, created: "1970-01-01T00:00:00Z".to_owned(), architecture: "amd64", layers, start }
}

fn archive(images: &[Image<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    oci::archive(images, &mut bytes).unwrap();
    bytes
}

/// The files of a tar; none may be there twice.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        assert!(found.insert(path.clone(), bytes).is_none(), "{path} is there twice");
    }
    found
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

/// The blob that a descriptor means; its digest and its size must be as the descriptor says.
fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value, seen: &mut BTreeSet<String>) -> &'a [u8] {
    let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = format!("blobs/sha256/{hex}");
    let bytes = files.get(&path).unwrap_or_else(|| panic!("{path} is not there"));
    assert_eq!(hex_digest(bytes), hex);
    assert_eq!(descriptor["size"].as_u64().unwrap(), bytes.len() as u64);
    seen.insert(path);
    bytes
}

fn unpacked(bytes: &[u8], media_type: &str) -> Vec<u8> {
    let mut plain = Vec::new();
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" => plain.extend_from_slice(bytes),
        "application/vnd.oci.image.layer.v1.tar+gzip" => {
            flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        }
        other => panic!("no loader knows {other}"),
    }
    plain
}

/// Walks an archive from its index down. Everything must lead somewhere, nothing may be left over, and both ways of reading must agree.
/// Gives back the names, and the layers' digests under each.
fn check(bytes: &[u8]) -> BTreeMap<String, Vec<String>> {
    let files = files(bytes);
    assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let mut seen: BTreeSet<String> = ["oci-layout", "index.json", "manifest.json"].map(str::to_owned).into();
    let mut by_index = BTreeMap::new();
    for descriptor in json(&files, "index.json")["manifests"].as_array().unwrap() {
        assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let manifest: Value = serde_json::from_slice(follow(&files, descriptor, &mut seen)).unwrap();
        let config: Value = serde_json::from_slice(follow(&files, &manifest["config"], &mut seen)).unwrap();
        assert_eq!(config["os"], "linux");
        assert_eq!(config["architecture"], descriptor["platform"]["architecture"]);
        let layers = manifest["layers"].as_array().unwrap();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(layers.len(), diff_ids.len());
        assert_eq!(layers.len(), config["history"].as_array().unwrap().len());
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let plain = unpacked(follow(&files, layer, &mut seen), layer["mediaType"].as_str().unwrap());
            assert_eq!(diff_id.as_str().unwrap(), format!("sha256:{}", hex_digest(&plain)));
        }
        let name = descriptor["annotations"]["io.containerd.image.name"].as_str().unwrap();
        let tag = descriptor["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
        assert!(name.ends_with(&format!(":{tag}")));
        let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert!(by_index.insert(name.to_owned(), digests).is_none(), "{name} means two images");
    }
    assert_eq!(by_index, by_loader(&files), "index.json and manifest.json must mean the same");
    assert_eq!(files.keys().cloned().collect::<BTreeSet<_>>(), seen, "a file that nothing leads to");
    by_index
}

/// The same, as `docker load` sees it.
fn by_loader(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for image in json(files, "manifest.json").as_array().unwrap() {
        assert!(files.contains_key(image["Config"].as_str().unwrap()));
        let layers: Vec<String> = image["Layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap())
            .inspect(|path| assert!(files.contains_key(*path), "{path} is not there"))
            .map(|path| path.replace("blobs/sha256/", "sha256:"))
            .collect();
        for tag in image["RepoTags"].as_array().unwrap() {
            found.insert(tag.as_str().unwrap().to_owned(), layers.clone());
        }
    }
    found
}

#[test]
fn an_archive_leads_from_its_index_to_every_byte() {
    for packing in [Packing::Plain, Packing::Gzip(1), Packing::Gzip(9)] {
        let layer = Layer::of(&product::entries(b"a binary".to_vec()), packing).unwrap();
        let found = check(&archive(&[image(&[super::NAME], vec![&layer])]));
        assert_eq!(found, BTreeMap::from([(super::NAME.to_owned(), vec![layer.blob.digest()])]));
    }
}

#[test]
fn a_shared_layer_is_there_once() {
    let below = Layer::of(&[Entry::program("below", vec![7; 100_000])], Packing::Plain).unwrap();
    let above = Layer::of(&[Entry::link("above", "below")], Packing::Gzip(6)).unwrap();
    let images = [image(&["a.test/one:1", "a.test/one:2"], vec![&below]), image(&["a.test/two:1"], vec![&below, &above])];
    let bytes = archive(&images);
    let found = check(&bytes);
    assert_eq!(found.len(), 3);
    assert_eq!(found["a.test/one:1"], found["a.test/one:2"]);
    assert_eq!(found["a.test/two:1"], [below.blob.digest(), above.blob.digest()]);
    assert!(bytes.len() < 120_000, "{} bytes hold the layer more than once", bytes.len());
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let make = |content: &[u8]| {
        let layer = Layer::of(&product::entries(content.to_vec()), Packing::Gzip(9)).unwrap();
        archive(&[image(&[super::NAME], vec![&layer])])
    };
    assert_eq!(make(b"one"), make(b"one"));
    assert_ne!(make(b"one"), make(b"two"));
}

#[test]
fn entries_keep_their_kind_and_nothing_of_this_machine() {
    let long = format!("usr/share/{}file", "deep/".repeat(30));
    let entries =
        [Entry::directory("tmp", 0o1777), Entry::program("bin/x", b"x".to_vec()), Entry::link("bin/y", "x"), Entry::text(&long, "text")];
    let layer = Layer::of(&entries, Packing::Plain).unwrap();
    let mut seen = Vec::new();
    for entry in tar::Archive::new(layer.blob.bytes.as_slice()).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        let link = entry.link_name().unwrap().map(|name| name.to_str().unwrap().to_owned());
        seen.push((entry.path().unwrap().to_str().unwrap().to_owned(), header.mode().unwrap(), header.entry_type(), link));
    }
    use tar::EntryType::{Directory, Regular, Symlink};
    let expected = [
        ("tmp/".to_owned(), 0o1777, Directory, None),
        ("bin/x".to_owned(), 0o755, Regular, None),
        ("bin/y".to_owned(), 0o777, Symlink, Some("x".to_owned())),
        (long, 0o644, Regular, None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_path_of_this_machine_is_found_in_a_binary() {
    let homes = [("/home/somebody/src".to_owned(), "/bowline")];
    product::names_nothing_of(b"\0/bowline/crates/x.rs\0/home/somebody/srcs", &homes).unwrap();
    let error = product::names_nothing_of(b"\0\0/home/somebody/src/crates/x.rs", &homes).unwrap_err();
    assert!(error.to_string().contains("/home/somebody/src/"), "{error}");
}

#[test]
fn an_image_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::of(&[Entry::text("x", "y")], Packing::Plain).unwrap();
    let output = dir.path().join("new/folder/image.tar");
    oci::write(&[image(&["a.test/x:1"], vec![&layer])], &output).unwrap();
    check(&std::fs::read(&output).unwrap());
    let names: Vec<_> = std::fs::read_dir(output.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["image.tar"]);
    let blocked = dir.path().join("new/folder/image.tar/below.tar");
    let error = oci::write(&[image(&["a.test/x:1"], vec![&layer])], &blocked).unwrap_err();
    assert!(format!("{error:#}").contains("below.tar"), "{error:#}");
}
