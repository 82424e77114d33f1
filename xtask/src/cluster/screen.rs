//! What a person sees while a cluster is made: a line for each step, with a mark and the seconds since the start.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The screen of one `up`.
#[derive(Debug)]
pub(crate) struct Screen {
    begin: Instant,
    unicode: bool,
}

impl Screen {
    /// Begins to count.
    pub(crate) fn new() -> Screen {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Screen { begin: Instant::now(), unicode: locale.contains("utf-8") || locale.contains("utf8") }
    }

    /// A step is done.
    pub(crate) fn good(&self, step: &str, detail: &str) {
        self.line(if self.unicode { "✓" } else { "ok  " }, step, detail);
    }

    /// A step failed.
    pub(crate) fn bad(&self, step: &str) {
        self.line(if self.unicode { "✗" } else { "FAIL" }, step, "");
    }

    /// A step is left out.
    pub(crate) fn skipped(&self, step: &str, why: &str) {
        self.line(if self.unicode { "-" } else { "skip" }, step, why);
    }

    /// The time since the start.
    pub(crate) fn seconds(&self) -> String {
        format!("{:.1}s", self.begin.elapsed().as_secs_f64())
    }

    fn line(&self, mark: &str, step: &str, detail: &str) {
        let _ = writeln!(std::io::stderr(), " {mark} {step:<12} {detail:<48} {}", self.seconds());
    }
}

/// Asks until there is an answer. What is asked returns `Err` if there never will be one, `Ok(Err(why))` if not yet.
pub(crate) fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match ask()? {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() > deadline => {
                bail!("waited {} s for {what}: {}", limit.as_secs(), if why.is_empty() { "no answer" } else { &why })
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn waiting_ends_with_the_last_reason() {
        let refusal = until::<()>("rain", Duration::ZERO, || Ok(Err("dry".to_owned()))).unwrap_err();
        assert_eq!(refusal.to_string(), "waited 0 s for rain: dry");
        assert_eq!(until("rain", Duration::ZERO, || Ok(Ok(1))).unwrap(), 1);
        assert!(until::<()>("rain", Duration::from_secs(60), || bail!("never")).is_err());
    }
}
