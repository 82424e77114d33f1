//! Several addresses and changing credentials, over sockets of this machine.

use std::path::Path;
use std::sync::{Arc, Mutex};

use http::{Request, StatusCode, Uri};
use kube::Client;
use kube::client::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::watch::line::causes;
use crate::watch::{Access, client};

/// A server that says one thing until it is told another, and what it was given as credentials.
struct Server {
    url: Uri,
    says: Arc<Mutex<&'static str>>,
    given: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn up(says: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = Server { url, says: Arc::new(Mutex::new(says)), given: Arc::default() };
        let (says, given) = (server.says.clone(), server.given.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let credentials = head.lines().find_map(|line| line.strip_prefix("authorization: "));
                given.lock().unwrap().push(credentials.unwrap_or("none").to_owned());
                let answer = format!("HTTP/1.1 {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", *says.lock().unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        server
    }

    fn say(&self, what: &'static str) {
        *self.says.lock().unwrap() = what;
    }

    /// What was given since somebody last looked.
    fn given(&self) -> Vec<String> {
        std::mem::take(&mut *self.given.lock().unwrap())
    }
}

/// An address at which nobody listens.
fn nobody() -> Uri {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

async fn ask(client: &Client) -> Result<StatusCode, String> {
    let request = Request::get("/version").body(Body::empty()).unwrap();
    client.send(request).await.map(|answer| answer.status()).map_err(|error| causes(&error))
}

fn write(path: &Path, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
         users: [{{name: u, user: {user}}}]\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_does_not_serve() {
    let (away, one, two) = (nobody(), Server::up("200 OK").await, Server::up("200 OK").await);
    let access = Access::new(kube::Config::new(nobody())).at(vec![away.clone(), one.url.clone(), two.url.clone()]);
    let client = client(access).unwrap();
    let error = ask(&client).await.unwrap_err();
    assert!(error.contains(&away.to_string()) && error.contains("refused"), "{error}");
    for _ in 0..3 {
        assert_eq!(ask(&client).await, Ok(StatusCode::OK));
    }
    assert_eq!((one.given().len(), two.given().len()), (3, 0), "the first that serves is kept");
    for (says, stays) in [("401 Unauthorized", true), ("404 Not Found", true), ("429 Too Many Requests", true), ("503 Away", false)] {
        one.say(says);
        assert!(ask(&client).await.is_ok());
        assert!(ask(&client).await.is_ok());
        assert_eq!((one.given().len(), two.given().len()), if stays { (2, 0) } else { (1, 1) }, "{says}");
    }
    two.say("500 No store");
    one.say("200 OK");
    assert_eq!(ask(&client).await, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(ask(&client).await.is_err(), "after the last comes the first");
    assert_eq!(ask(&client).await, Ok(StatusCode::OK));
}

#[tokio::test]
async fn questions_that_fail_together_lead_to_the_next_address_and_not_past_it() {
    let (one, two) = (Server::up("200 OK").await, Server::up("200 OK").await);
    let client = client(Access::new(kube::Config::new(nobody())).at(vec![nobody(), one.url.clone(), two.url.clone()])).unwrap();
    let asked = futures::future::join_all((0..6).map(|_| ask(&client))).await;
    assert!(asked.iter().any(Result::is_err), "{asked:?}");
    assert_eq!(ask(&client).await, Ok(StatusCode::OK));
    assert_eq!(two.given().len(), 0, "{asked:?}");
    assert!(!one.given().is_empty());
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_leads_to_the_next_address() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let one = Server::up("200 OK").await;
    let client = client(Access::new(kube::Config::new(nobody())).at(vec![deaf, one.url.clone()])).unwrap();
    tokio::select! {
        answer = ask(&client) => panic!("{answer:?}"),
        taken = silent.accept() => drop(taken.map(std::mem::forget)),
    }
    assert_eq!(ask(&client).await, Ok(StatusCode::OK));
}

#[tokio::test]
async fn a_kubeconfig_that_changes_is_read_again_and_half_of_one_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("kubeconfig"), dir.path().join("token"));
    let server = Server::up("200 OK").await;
    write(&path, "{token: first}");
    let client = client(Access::of_kubeconfig(&path).await.unwrap().at(vec![server.url.clone()])).unwrap();
    let given = async |wanted: &str| {
        assert_eq!(ask(&client).await, Ok(StatusCode::OK));
        assert_eq!(server.given(), [wanted]);
    };
    given("Bearer first").await;
    write(&path, "{token: second}");
    given("Bearer second").await;
    std::fs::write(&path, "apiVersion: v1\nkind: Con").unwrap();
    given("Bearer second").await;
    std::fs::remove_file(&path).unwrap();
    given("Bearer second").await;
    std::fs::write(&file, "third\n").unwrap();
    write(&path, &format!("{{tokenFile: {}}}", file.display()));
    given("Bearer third").await;
    std::fs::write(&file, "fourth").unwrap();
    given("Bearer fourth").await;
}
