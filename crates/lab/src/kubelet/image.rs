//! What a container runs here, where there are no images: its command if the machine has it, the program that was given
//! for its image, else the echo server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::env::{Env, expand};
use crate::daemon::Node;
use crate::enter::SELF;
use crate::image::Image;

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// Its own command.
    Command(Vec<String>),
    /// The built-in server, on these ports (`tcp/80,udp/53`).
    Echo(String),
}

impl Program {
    /// The program of `container` on `node`, with what was given for its image.
    pub(super) fn of(container: &Container, env: &Env, node: &Node, image: Option<&Image>) -> Program {
        Program::choose(container, env, image, |path| {
            std::fs::metadata(node.path(path)).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
    }

    fn choose(container: &Container, env: &Env, image: Option<&Image>, executable: impl Fn(&Path) -> bool) -> Program {
        let given = image.map(Image::path);
        let words: Vec<String> =
            container.command.iter().flatten().chain(container.args.iter().flatten()).map(|word| expand(word, env)).collect();
        let own = container.command.as_ref().and_then(|command| command.first()).is_some();
        let present = |program: &str| {
            program == "bowline"
                || given.as_deref() == Some(Path::new(program))
                || if program.contains('/') {
                    executable(Path::new(program))
                } else {
                    env.get("PATH").into_iter().flat_map(|path| path.split(':')).any(|dir| executable(&Path::new(dir).join(program)))
                }
        };
        if let Some(given) = given.as_ref().filter(|_| !own) {
            return Program::Command(std::iter::once(given.display().to_string()).chain(words).collect());
        }
        match words.split_first() {
            // Arguments alone belong to an image's own program, which is not here.
            Some((program, arguments)) if own && present(program) => {
                let program = if program == "bowline" { SELF } else { program.as_str() };
                Program::Command(std::iter::once(program).chain(arguments.iter().map(String::as_str)).map(str::to_owned).collect())
            }
            Some(_) | None => Program::Echo(echo_ports(container)),
        }
    }

    /// The command line.
    pub(super) fn argv(&self) -> Vec<String> {
        match self {
            Program::Command(words) => words.clone(),
            Program::Echo(ports) => [SELF, crate::echo::COMMAND, ports].map(str::to_owned).to_vec(),
        }
    }
}

fn echo_ports(container: &Container) -> String {
    let ports: Vec<String> = container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| match port.protocol.as_deref() {
            Some("UDP") => Some(format!("udp/{}", port.container_port)),
            Some("TCP") | None => Some(format!("tcp/{}", port.container_port)),
            Some(_) => None,
        })
        .collect();
    if ports.is_empty() { "tcp/80".to_owned() } else { ports.join(",") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    fn choose(container: serde_json::Value) -> Program {
        choose_with(container, None)
    }

    fn choose_with(container: serde_json::Value, image: Option<&Image>) -> Program {
        let container: Container = serde_json::from_value(container).unwrap();
        let env = Env::from([("PATH".to_owned(), "/bin:/usr/bin".to_owned()), ("N".to_owned(), "5".to_owned())]);
        Program::choose(&container, &env, image, |path| path == Path::new("/usr/bin/sleep"))
    }

    #[test]
    fn a_command_that_is_here_runs() {
        let sleep = choose(json!({"name": "c", "command": ["sleep"], "args": ["$(N)"]}));
        assert_eq!(sleep, Program::Command(vec!["sleep".into(), "5".into()]));
        let own = choose(json!({"name": "c", "command": ["bowline", "dns"]}));
        assert_eq!(own.argv(), [SELF, "dns"]);
    }

    #[test]
    fn anything_else_is_the_echo_server() {
        let ports = json!([{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]);
        assert_eq!(choose(json!({"name": "c", "command": ["nginx"], "ports": ports})), Program::Echo("tcp/8080,udp/53".into()));
        assert_eq!(choose(json!({"name": "c", "args": ["sleep"]})), Program::Echo("tcp/80".into()));
    }

    #[test]
    fn a_program_that_was_given_stands_for_its_image() {
        let image = Image { name: "agnhost".to_owned(), program: "/opt/agnhost".into() };
        let check = |container, expected: &[&str]| {
            let words = expected.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(choose_with(container, Some(&image)), Program::Command(words));
        };
        check(json!({"name": "c", "args": ["netexec", "--http-port=$(N)"]}), &["/agnhost", "netexec", "--http-port=5"]);
        check(json!({"name": "c", "command": ["/agnhost", "pause"]}), &["/agnhost", "pause"]);
        check(json!({"name": "c", "command": ["sleep"], "args": ["1"]}), &["sleep", "1"]);
        check(json!({"name": "c"}), &["/agnhost"]);
        let other = json!({"name": "c", "command": ["/no/such"]});
        assert_eq!(choose_with(other, Some(&image)), Program::Echo("tcp/80".into()));
    }
}
