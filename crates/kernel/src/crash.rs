//! Named points between two side effects at which a test can have the process die as by `kill -9`.
//!
//! Only in builds with debug assertions; elsewhere the macro is nothing. `BOWLINE_CRASH_AT=NAME` chooses the point.

/// Dies here if `BOWLINE_CRASH_AT` names this point and debug assertions are on.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::crash::at($name);
    };
}

/// Kills the process without any clean-up if the environment names this point.
#[cfg(debug_assertions)]
pub fn at(name: &str) {
    if std::env::var_os("BOWLINE_CRASH_AT").is_some_and(|wanted| wanted == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
