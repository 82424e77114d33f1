//! What a Corefile reaches beside its own text: imported files and the environment.

use std::path::{Path, PathBuf};

/// A text with the name that errors call it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Where imports and variables come from.
pub trait Sources {
    /// The files that a pattern of an `import` in the file `from` names, in order.
    ///
    /// # Errors
    /// Says why they cannot be read.
    fn import(&self, from: &str, pattern: &str) -> Result<Vec<Source>, String>;

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Nothing is imported, no variable is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSources;

impl Sources for NoSources {
    fn import(&self, _from: &str, _pattern: &str) -> Result<Vec<Source>, String> {
        Ok(Vec::new())
    }

    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
}

/// The file system and the process's environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskSources;

/// Largest file that is imported.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Sources for DiskSources {
    fn import(&self, from: &str, pattern: &str) -> Result<Vec<Source>, String> {
        let directory = Path::new(from).parent().unwrap_or(Path::new("."));
        let path = directory.join(pattern);
        let files = if pattern.contains('*') { expand(&path)? } else { vec![path] };
        files.into_iter().map(|file| read(&file)).collect()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

fn read(path: &Path) -> Result<Source, String> {
    let name = path.display().to_string();
    let long = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.len() > MAX_FILE_BYTES;
    if long {
        return Err(format!("{name}: longer than 1 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    Ok(Source { name, text })
}

/// The files whose name fits the last component, in which `*` stands for any text; none is no error.
fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    let (Some(directory), Some(pattern)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    if directory.to_string_lossy().contains('*') {
        return Err("`*` may stand in a file's name, not in a directory's".to_owned());
    }
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| !name.starts_with('.') && fits(pattern, name)))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, name, expected) in [
            ("*.server", "stub.server", true),
            ("*.server", "stub.override", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("a*a", "a", false),
            ("*", "anything", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
