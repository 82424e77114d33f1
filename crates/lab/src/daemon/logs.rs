//! Containers' logs: files of the lab, read back for `kubectl logs`.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bowline_apiserver::{ApiError, LogRequest, LogSource, LogStream};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;

use super::lab::log_file;
use super::{Lab, POLL};

/// Most bytes of a log that are looked at.
const MOST_BYTES: u64 = 16 << 20;

/// A pod's logs. The names come from objects that the API has checked; here they must still be plain.
fn directory(logs: &Path, namespace: &str, name: &str) -> Option<PathBuf> {
    let plain = |text: &str| !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\0', '_']);
    (plain(namespace) && plain(name)).then(|| logs.join("pods").join(format!("{namespace}_{name}")))
}

fn of_pod(lab: &Lab, pod: &Pod) -> Option<PathBuf> {
    directory(&lab.place.logs(), pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?)
}

/// Opens the log of a container for writing.
pub(crate) fn pod_log(lab: &Lab, pod: &Pod, container: &str) -> Result<fs::File> {
    let path = of_pod(lab, pod).unwrap_or_else(|| lab.place.logs().join("pods").join("unnamed"));
    log_file(&path.join(format!("{}.log", container.replace('/', "_"))))
}

/// Removes a pod's logs, so that a later pod of the same name begins its own.
pub(crate) fn forget_pod(lab: &Lab, pod: &Pod) {
    if let Some(directory) = of_pod(lab, pod) {
        // Absent where no container ever began.
        let _ = fs::remove_dir_all(directory);
    }
}

/// The last line that any container of a pod wrote.
pub(super) fn last_line(logs: &Path, namespace: &str, name: &str) -> Option<String> {
    let files = fs::read_dir(directory(logs, namespace, name)?).ok()?;
    files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok()?.lines().last().map(str::to_owned)).next()
}

/// What answers `kubectl logs`.
pub(super) fn source(lab: &Lab) -> LogSource {
    let logs = lab.place.logs();
    Arc::new(move |request| open(&logs, &request))
}

fn open(logs: &Path, request: &LogRequest) -> Result<LogStream, ApiError> {
    let refused = |why: String| ApiError::bad_request(why);
    let directory = directory(logs, &request.namespace, &request.pod).ok_or_else(|| refused("no such pod".to_owned()))?;
    if request.container.is_empty() || request.container.contains('/') {
        return Err(refused("a container must be named".to_owned()));
    }
    let path = directory.join(format!("{}.log", request.container));
    let file =
        fs::File::open(&path).map_err(|_| refused(format!("container {} of pod {} has not begun", request.container, request.pod)))?;
    let (first, position) = beginning(&file, request).map_err(|error| refused(error.to_string()))?;
    let first = stream::iter([bytes_of(first)]);
    if !request.follow {
        return Ok(first.boxed());
    }
    Ok(first.chain(stream::unfold((path, position), |(path, position)| more(path, position))).boxed())
}

fn bytes_of(text: Vec<u8>) -> bytes::Bytes {
    bytes::Bytes::from(text)
}

/// What the log holds now, cut as was asked, and where it ends.
fn beginning(mut file: &fs::File, request: &LogRequest) -> std::io::Result<(Vec<u8>, u64)> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    if let Some(lines) = request.tail_lines {
        text = last_lines(&text, lines);
    }
    if let Some(limit) = request.limit_bytes {
        text.truncate(limit);
    }
    Ok((text, length))
}

fn last_lines(text: &[u8], lines: usize) -> Vec<u8> {
    let all: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    all.iter().skip(all.len().saturating_sub(lines)).flat_map(|line| line.iter().copied()).collect()
}

/// Waits until the log has grown; none when it is gone.
async fn more(path: PathBuf, position: u64) -> Option<(bytes::Bytes, (PathBuf, u64))> {
    loop {
        let length = tokio::fs::metadata(&path).await.ok()?.len();
        if length > position {
            let mut file = fs::File::open(&path).ok()?;
            file.seek(SeekFrom::Start(position)).ok()?;
            let mut text = Vec::new();
            file.take(MOST_BYTES.min(length - position)).read_to_end(&mut text).ok()?;
            let next = position + u64::try_from(text.len()).ok()?;
            return Some((bytes_of(text), (path, next)));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_last_lines_are_cut_out() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb", 5), b"a\nb");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }

    #[test]
    fn names_never_lead_elsewhere() {
        let logs = Path::new("/l");
        assert!(directory(logs, "default", "web-1").is_some());
        for (namespace, name) in [("..", "x"), ("a", "../b"), ("", "x"), ("a", "b_c")] {
            assert!(directory(logs, namespace, name).is_none());
        }
    }

    #[tokio::test]
    async fn a_log_is_followed() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let pod = directory.path().join("pods/ns_web");
        fs::create_dir_all(&pod).unwrap();
        let mut file = fs::File::create(pod.join("c.log")).unwrap();
        writeln!(file, "one").unwrap();
        let request =
            LogRequest { namespace: "ns".into(), pod: "web".into(), container: "c".into(), follow: true, ..LogRequest::default() };
        let mut stream = open(directory.path(), &request).unwrap();
        assert_eq!(stream.next().await.unwrap(), "one\n");
        writeln!(file, "two").unwrap();
        assert_eq!(stream.next().await.unwrap(), "two\n");
        fs::remove_dir_all(&pod).unwrap();
        assert!(stream.next().await.is_none());
    }
}
