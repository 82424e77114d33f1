//! `bowline explain`: why a connection passes or not, by the cluster's objects and by what is in the kernels.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bowline_compile::codes;
use bowline_compile::explain::{Cause, Explanation, Outcome, Path, Seen};
use bowline_model::{Family, Problem};
use clap::{Args, ValueEnum};

use super::agents::{self, Agents};
use super::output::{self, Color, Format};
use crate::agent::explain::{self, Answer, Asked};

/// Flags of `bowline explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Who begins: NAMESPACE/POD, NAMESPACE/SERVICE (its pods), NODE or an address
    #[arg(value_name = "SRC")]
    source: String,
    /// Who is meant, and the port, e.g. shop/api:8080, shop/dns:53/udp, [fd00::1]:443; a port may be left out where there is only one.
    /// For a ping: shop/api-0/icmp
    #[arg(value_name = "DST[:PORT[/PROTO]|/icmp]")]
    destination: String,
    /// The namespace of names without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The family, where both ends have two [default: the first that both have]
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
    /// The lab to ask, all its nodes; without it this node's agent, or else the one lab that runs
    #[arg(long, value_name = "LAB")]
    name: Option<String>,
    /// Directory of the agent's sockets
    #[arg(long, env = "BOWLINE_RUN_DIR", default_value = "/run/bowline", value_name = "DIR")]
    run_dir: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    color: Color,
}

/// A family by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FamilyArg {
    Ipv4,
    Ipv6,
}

/// Why there is no explanation.
enum NoAnswer {
    /// The question is wrong.
    Question(Problem),
    /// It could not be found out.
    Unknown(Problem),
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> ExitCode {
    let explanation = match gather(args) {
        Ok(mut explanation) => {
            explanation.note_not_asked(&command(args));
            explanation
        }
        Err(NoAnswer::Question(problem)) => return refuse(&problem, output::USAGE),
        Err(NoAnswer::Unknown(problem)) => return refuse(&problem, output::UNKNOWN),
    };
    let written = match args.output {
        Format::Table => std::io::stdout().write_all(explanation.render(&args.color.painter()).as_bytes()),
        Format::Json | Format::Yaml => output::print_document(&explanation, args.output),
    };
    if let Some(problem) = differ(&explanation) {
        return refuse(&problem, output::UNKNOWN);
    }
    match (written, explanation.verdict) {
        (Err(_), _) => output::exit(output::UNKNOWN),
        (Ok(()), Outcome::Pass) => ExitCode::SUCCESS,
        (Ok(()), Outcome::Drop | Outcome::Reject) => output::exit(output::BAD),
    }
}

/// The question as a command for another node.
fn command(args: &ExplainArgs) -> String {
    let quoted = |text: &str| if text.contains('[') { format!("'{text}'") } else { text.to_owned() };
    let mut command = format!("bowline explain {} {}", quoted(&args.source), quoted(&args.destination));
    if args.namespace != "default" {
        command.push_str(&format!(" -n {}", args.namespace));
    }
    match args.family {
        Some(FamilyArg::Ipv4) => command.push_str(" --family ipv4"),
        Some(FamilyArg::Ipv6) => command.push_str(" --family ipv6"),
        None => {}
    }
    command
}

fn refuse(problem: &Problem, code: u8) -> ExitCode {
    eprintln!("{problem}");
    output::exit(code)
}

/// What is wrong where not all say the same.
fn differ(explanation: &Explanation) -> Option<Problem> {
    let mut all = explanation.paths.iter().flat_map(|path| &path.seen);
    let odd: &Seen = all.find(|seen| !seen.agrees())?;
    let kernel = match (odd.asked, odd.kernel) {
        (false, _) => "was not asked".to_owned(),
        (true, None) => format!("cannot be told: {}", odd.by),
        (true, Some(kernel)) => format!("says {}: {}", of_cause(kernel, odd.kernel_by), odd.by),
    };
    let (explained, oracle) = (of_cause(odd.explained, odd.explained_by), of_cause(odd.oracle, odd.oracle_by));
    let why = format!("explained is {explained}, the oracle says {oracle}, the kernel {kernel}");
    let fix = "ask again; if it stays so, look at bowline status of that node, and believe the kernel";
    let place = format!("node {}", odd.node);
    Some(
        Problem::new(codes::VERDICTS_DIFFER, "explanation, oracle and kernel do not say the same", place, fix)
            .because(why.trim_end_matches([':', ' '])),
    )
}

/// A verdict with the kind of its reason.
fn of_cause(outcome: Outcome, cause: Option<Cause>) -> String {
    cause.map_or_else(|| outcome.to_string(), |cause| format!("{outcome} ({cause})"))
}

fn gather(args: &ExplainArgs) -> Result<Explanation, NoAnswer> {
    let family = args.family.map(|family| match family {
        FamilyArg::Ipv4 => Family::V4,
        FamilyArg::Ipv6 => Family::V6,
    });
    let (source, destination, namespace) = (args.source.clone(), args.destination.clone(), args.namespace.clone());
    let asked = Asked { source, destination, namespace, family };
    asked.question().map_err(NoAnswer::Question)?;
    let Agents { name, places } = agents::find(args.name.as_deref(), &args.run_dir).map_err(NoAnswer::Unknown)?;
    let (mut explanations, mut refused, mut unknown) = (Vec::new(), None, None);
    for (node, run_dir) in places {
        match explain::ask(&run_dir, &asked) {
            Ok(Answer::Explained(explanation)) => explanations.push(*explanation),
            Ok(Answer::Refused(problem)) => refused = Some(problem),
            Ok(Answer::Unknown(problem)) => unknown = Some(problem),
            Err(error) => unknown = Some(agents::none_answers(&node).because(error.to_string())),
        }
    }
    let mut explanations = explanations.into_iter();
    let Some(mut first) = explanations.next() else {
        if let Some(problem) = refused {
            return Err(NoAnswer::Question(problem));
        }
        return Err(NoAnswer::Unknown(unknown.unwrap_or_else(|| agents::none_answers(&name))));
    };
    explanations.for_each(|other| add_kernels(&mut first, &other));
    Ok(first)
}

/// Takes over what another node's kernel said of the same paths.
fn add_kernels(explanation: &mut Explanation, other: &Explanation) {
    let same =
        |a: &Path, b: &Path| (a.source.ip, a.destination.ip, a.destination.port) == (b.source.ip, b.destination.ip, b.destination.port);
    for path in &mut explanation.paths {
        let Some(theirs) = other.paths.iter().find(|theirs| same(theirs, path)) else { continue };
        for seen in path.seen.iter_mut().filter(|seen| !seen.asked) {
            if let Some(told) = theirs.seen.iter().find(|told| told.node == seen.node && told.asked) {
                seen.clone_from(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(seen: &[(&str, Outcome, Outcome, Option<Outcome>)]) -> Explanation {
        let seen: Vec<serde_json::Value> = seen
            .iter()
            .map(|(node, explained, oracle, kernel)| {
                serde_json::json!({"node": node, "explained": explained, "oracle": oracle, "asked": kernel.is_some(), "kernel": kernel})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "apiVersion": "bowline.io/v1", "kind": "Explanation", "verdict": "pass", "protocol": "TCP", "leftOut": 0,
            "paths": [{"verdict": "pass", "source": {"name": "a", "ip": "10.0.0.1"}, "destination": {"name": "b", "ip": "10.0.0.2", "port": 80},
                "steps": [], "passIf": [], "hops": [], "seen": seen}],
        }))
        .unwrap()
    }

    #[test]
    fn each_nodes_kernel_is_taken_from_its_own_agent() {
        let pass = Outcome::Pass;
        let mut first = explanation(&[("n1", pass, pass, Some(pass)), ("n2", pass, pass, None)]);
        add_kernels(&mut first, &explanation(&[("n1", pass, pass, None), ("n2", pass, pass, Some(Outcome::Drop))]));
        assert_eq!(first, explanation(&[("n1", pass, pass, Some(pass)), ("n2", pass, pass, Some(Outcome::Drop))]));
        let problem = differ(&first).unwrap();
        assert_eq!((problem.code.0, problem.place.as_str()), (codes::VERDICTS_DIFFER, "node n2"));
        assert!(problem.why.contains("kernel says drop"), "{problem}");
    }

    #[test]
    fn who_was_not_asked_is_named_beside_the_verdict_with_the_command_that_asks_there() {
        #[derive(clap::Parser)]
        struct Words {
            #[command(flatten)]
            args: ExplainArgs,
        }
        let words = ["explain", "web", "[fd42::1]:80", "-n", "shop", "--family", "ipv6"];
        let command = command(&<Words as clap::Parser>::parse_from(words).args);
        assert_eq!(command, "bowline explain web '[fd42::1]:80' -n shop --family ipv6");
        let pass = Outcome::Pass;
        let line = |mut explanation: Explanation| {
            explanation.note_not_asked("bowline explain a b:80");
            let json = serde_json::to_value(&explanation).unwrap();
            let text = explanation.render(&|_, word| word.to_owned());
            (json.pointer("/paths/0/notAsked").cloned(), text.lines().next().unwrap_or_default().to_owned())
        };
        let (json, text) = line(explanation(&[("n1", pass, pass, Some(pass)), ("n3", pass, pass, None)]));
        assert_eq!(json, Some(serde_json::json!([{"node": "n3", "command": "bowline explain a b:80"}])));
        assert_eq!(text, "PASS  tcp  a 10.0.0.1 -> b 10.0.0.2:80; n3's kernel was not asked: run `bowline explain a b:80` there");
        let (_, text) = line(explanation(&[("n2", pass, pass, None), ("n3", pass, pass, None)]));
        assert!(text.ends_with("; n2's and n3's kernels were not asked: run `bowline explain a b:80` there"), "{text}");
        assert_eq!(line(explanation(&[("n1", pass, pass, Some(pass))])), (None, "PASS  tcp  a 10.0.0.1 -> b 10.0.0.2:80".to_owned()));
    }

    #[test]
    fn a_verdict_for_another_reason_differs() {
        let drop = Outcome::Drop;
        let mut other = explanation(&[("n1", drop, drop, Some(drop))]);
        let causes = |explanation: &mut Explanation, kernel| {
            for seen in explanation.paths.iter_mut().flat_map(|path| &mut path.seen) {
                (seen.explained_by, seen.oracle_by, seen.kernel_by) =
                    (Some(Cause::IngressPolicies), Some(Cause::IngressPolicies), Some(kernel));
            }
        };
        causes(&mut other, Cause::IngressPolicies);
        assert_eq!(differ(&other), None);
        causes(&mut other, Cause::IngressClosed);
        let problem = differ(&other).unwrap();
        assert!(problem.why.contains("explained is drop (ingress policies)"), "{problem}");
        assert!(problem.why.ends_with("the kernel says drop (closed for ingress)"), "{problem}");
        assert!(other.render(&|_, word| word.to_owned()).contains(": differ in the reason\n"));
    }

    #[test]
    fn nobody_differs_where_nobody_was_asked() {
        let drop = Outcome::Drop;
        assert_eq!(differ(&explanation(&[("n1", drop, drop, None)])), None);
        assert!(differ(&explanation(&[("n1", drop, Outcome::Pass, None)])).is_some());
        let mut unknown = explanation(&[("n1", drop, drop, Some(drop))]);
        for seen in unknown.paths.iter_mut().flat_map(|path| &mut path.seen) {
            (seen.kernel, seen.by) = (None, "rules that are not ours".to_owned());
        }
        assert!(differ(&unknown).is_some_and(|problem| problem.why.contains("cannot be told: rules that are not ours")));
    }
}
