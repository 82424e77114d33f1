//! A server on a free port of the loopback interface, for a test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use bowline_apiserver::{Config, Server, Store};
use tokio_util::sync::CancellationToken;

/// The token that the server accepts.
pub(crate) const TOKEN: &str = "a-token-for-tests";

/// A running server; dropped, it ends.
pub(crate) struct Running {
    /// What it serves.
    pub(crate) store: Store,
    /// The server itself.
    pub(crate) server: Server,
    /// Where it listens.
    pub(crate) address: std::net::SocketAddr,
    stop: CancellationToken,
    directory: tempfile::TempDir,
}

impl Running {
    /// Starts a server on a store.
    pub(crate) fn start(store: Store, config: Config) -> Self {
        let mut config = config;
        config.tokens.insert(TOKEN.to_owned(), "tester".to_owned());
        config.bookmark_interval = Duration::from_millis(100);
        let server = Server::new(store.clone(), config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (serving, stopping) = (server.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(listener, stopping).await.unwrap() });
        let directory = tempfile::tempdir().unwrap();
        let running = Self { store, server, address, stop, directory };
        std::fs::write(running.kubeconfig(), running.server.kubeconfig(&running.url(), TOKEN, "test")).unwrap();
        running
    }

    /// The server's URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Path of a kubeconfig for it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// A directory that goes with the server.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
