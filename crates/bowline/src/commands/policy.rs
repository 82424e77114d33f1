//! `bowline policy test`: who must reach whom, judged without a cluster.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bowline_compile::cases::{self, Cluster, Judged, Manifest, Suite};
use bowline_compile::codes;
use bowline_compile::explain::{Explanation, Outcome, Paint};
use bowline_model::Problem;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::output::{self, Color, Format, Mark};

/// Commands under `bowline policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Judge cases (from, to, port, expect: pass or drop) by manifests, without a cluster
    Test(TestArgs),
}

/// Flags of `bowline policy test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Files with manifests and cases
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: TestFormat,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    color: Color,
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum TestFormat {
    /// Rows for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// The XML that CI servers read.
    Junit,
}

/// A judged case, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    place: String,
    name: String,
    from: String,
    to: String,
    expect: Outcome,
    got: Outcome,
    passed: bool,
    explanation: Explanation,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    api_version: &'static str,
    kind: &'static str,
    passed: usize,
    failed: usize,
    cases: Vec<Row>,
}

/// Runs a command under `bowline policy`.
pub(crate) fn run(command: &PolicyCommand) -> ExitCode {
    let PolicyCommand::Test(args) = command;
    let mut rows = Vec::new();
    for file in &args.files {
        match judge(file) {
            Ok(judged) => rows.extend(judged),
            Err(problem) => {
                eprintln!("{problem}");
                return output::exit(output::USAGE);
            }
        }
    }
    let failed = rows.iter().filter(|row| !row.passed).count();
    let report = Report { api_version: "bowline.io/v1", kind: "PolicyTestReport", passed: rows.len() - failed, failed, cases: rows };
    let print = |text: String| std::io::stdout().write_all(text.as_bytes());
    let written = match args.output {
        TestFormat::Table => print(table(&report, &args.color.painter())),
        TestFormat::Junit => print(junit(&report)),
        TestFormat::Json => output::print_document(&report, Format::Json),
        TestFormat::Yaml => output::print_document(&report, Format::Yaml),
    };
    match (written, failed) {
        (Err(_), _) => output::exit(output::UNKNOWN),
        (Ok(()), 0) => ExitCode::SUCCESS,
        (Ok(()), _) => output::exit(output::BAD),
    }
}

/// Judges the cases of a file.
fn judge(file: &Path) -> Result<Vec<Row>, Problem> {
    let place = file.display().to_string();
    let suite = Suite::read(&read(file, codes::BAD_CASES)?, &place)?;
    let mut objects = Vec::new();
    for manifest in suite.manifests {
        match manifest {
            Manifest::Inline(inline) => objects.extend(inline),
            Manifest::Path(path) => {
                let path = file.parent().unwrap_or(Path::new("")).join(path);
                for path in files(&path)? {
                    objects.extend(cases::objects(&read(&path, codes::BAD_MANIFEST)?, &path.display().to_string())?);
                }
            }
        }
    }
    let cluster = Cluster::of(objects)?;
    for problem in &cluster.problems {
        eprintln!("{problem}");
    }
    cases::run(&cluster, &suite.cases).into_iter().map(row).collect()
}

fn row(judged: Judged<'_>) -> Result<Row, Problem> {
    let (passed, got, case) = (judged.passed(), judged.got(), judged.case.clone());
    let explanation = judged.explained?;
    let got = got.unwrap_or(explanation.verdict);
    Ok(Row { place: case.place, name: case.name, from: case.from, to: case.to, expect: case.expect, got, passed, explanation })
}

/// The files that a path means: itself, or all manifests of a directory by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, codes::BAD_MANIFEST, &error))?;
    let manifest = |path: &PathBuf| path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(manifest).collect();
    files.sort();
    Ok(files)
}

fn read(path: &Path, code: u16) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, code, &error))
}

fn unreadable(path: &Path, code: u16, error: &std::io::Error) -> Problem {
    let fix = "check the path; those in a file of cases begin at that file's directory";
    Problem::new(code, "the file cannot be read", path.display().to_string(), fix).because(error.to_string())
}

/// A case in one line.
fn title(row: &Row) -> String {
    let arrow = format!("{} -> {}", row.from, row.to);
    if row.name.is_empty() { arrow } else { format!("{} ({arrow})", row.name) }
}

fn table(report: &Report, paint: Paint<'_>) -> String {
    let width = report.cases.iter().map(|row| title(row).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &report.cases {
        let (mark, colour) = if row.passed { (Mark::Ok, Outcome::Pass) } else { (Mark::Fail, Outcome::Drop) };
        let expected = if row.passed { String::new() } else { format!(", expected {}: {}", row.expect, row.place) };
        let _ = writeln!(text, "{} {:<width$}  {}{expected}", paint(colour, mark.text()), title(row), paint(row.got, &row.got.to_string()));
        if !row.passed {
            for line in odd(row).render(paint).lines() {
                let _ = writeln!(text, "{}", format!("    {line}").trim_end());
            }
        }
    }
    let _ = writeln!(text, "{} passed, {} failed", report.passed, report.failed);
    text
}

/// The explanation of what was not expected, without what was, and without kernels that nobody has.
fn odd(row: &Row) -> Explanation {
    let mut explanation = row.explanation.clone();
    let agrees = explanation.agrees();
    if agrees {
        explanation.paths.retain(|path| path.verdict != row.expect);
    }
    for path in explanation.paths.iter_mut().filter(|_| agrees) {
        path.seen.clear();
    }
    explanation
}

fn junit(report: &Report) -> String {
    let total = report.passed + report.failed;
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"bowline policy test\" tests=\"{total}\" failures=\"{}\">\n",
        report.failed
    );
    for row in &report.cases {
        let _ = write!(text, "    <testcase classname=\"{}\" name=\"{}\"", xml(&row.place), xml(&title(row)));
        if row.passed {
            text.push_str("/>\n");
            continue;
        }
        let message = format!("{}, expected {}", row.got, row.expect);
        let body = odd(row).render(&|_, word| word.to_owned());
        let _ = writeln!(text, ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>", xml(&message), xml(&body));
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Text as XML may hold it.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = "
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: api, namespace: shop}
        spec: {template: {metadata: {labels: {app: api}}, spec: {containers: [{name: a, ports: [{containerPort: 8080}]}]}}}";

    fn directory(cases: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        std::fs::write(dir.path().join("manifests/api.yaml"), MANIFESTS).unwrap();
        std::fs::write(dir.path().join("manifests/notes.txt"), "no manifest").unwrap();
        let file = dir.path().join("cases.yaml");
        std::fs::write(&file, cases).unwrap();
        (dir, file)
    }

    #[test]
    fn rows_tell_what_failed_and_why() {
        let (_dir, file) = directory(
            "manifests: [manifests, {kind: Pod, metadata: {name: <x>, namespace: shop}}, \
             {kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {}}}]\n\
             cases: [{from: 192.0.2.1, to: shop/api, expect: drop}, {name: open, from: 192.0.2.1, to: shop/api, port: 8080, expect: pass}]",
        );
        let cases = judge(&file).unwrap();
        assert_eq!(cases.iter().map(|row| row.passed).collect::<Vec<_>>(), [true, false]);
        let report = Report { api_version: "", kind: "", passed: 1, failed: 1, cases };
        let text = table(&report, &|_, word| word.to_owned());
        assert!(text.contains("drop, expected pass: ") && text.contains("cases[1]"), "{text}");
        assert!(text.contains("\n    pass if: NetworkPolicy shop/in had an ingress rule that took 192.0.2.1 on 8080/tcp\n"), "{text}");
        assert!(text.ends_with("1 passed, 1 failed\n"), "{text}");
        let yaml: serde_json::Value = serde_saphyr::from_str(&serde_saphyr::to_string(&report).unwrap()).unwrap();
        assert_eq!(yaml, serde_json::to_value(&report).unwrap());
        let xml = junit(&report);
        assert!(xml.contains("tests=\"2\" failures=\"1\"") && xml.contains("192.0.2.1 -&gt; shop/api:8080"), "{xml}");
    }

    fn examples(directory: &str) -> Vec<PathBuf> {
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(directory)).unwrap()
    }

    #[test]
    fn the_examples_pass() {
        let suites = examples("policy-cases");
        assert!(suites.len() >= 2, "{suites:?}");
        for suite in suites {
            let rows = judge(&suite).unwrap();
            assert!(rows.len() >= 5 && rows.iter().all(|row| row.passed), "{rows:#?}");
        }
    }

    #[test]
    fn what_the_guide_shows_is_understood_and_judged_among_the_examples() {
        let guide = include_str!("../../../../docs/guides/policy.md");
        let shown: Vec<&str> = guide.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let (suites, recipes): (Vec<&str>, Vec<&str>) = shown.into_iter().partition(|text| text.contains("cases:"));
        assert!(suites.len() == 1 && recipes.len() >= 4);
        suites.iter().for_each(|text| drop(Suite::read(text, "guide").unwrap()));
        let objects = recipes.iter().flat_map(|text| cases::objects(text, "guide").unwrap()).collect::<Vec<_>>();
        let texts = examples("policy-recipes").into_iter().map(|path| read(&path, codes::BAD_MANIFEST).unwrap());
        let kept: Vec<_> = texts.flat_map(|text| cases::objects(&text, "examples").unwrap()).map(|kept| kept.object).collect();
        for shown in &objects {
            assert!(kept.contains(&shown.object), "not in examples/policy-recipes, or another there: {}", shown.object);
        }
        assert_eq!(kept.len(), objects.len(), "the guide shows all of them");
        let count = objects.len();
        let cluster = Cluster::of(objects).unwrap();
        let known = cluster.world.policies().len() + cluster.world.cluster_policies().len();
        assert_eq!((known, cluster.problems), (count, vec![]));
    }

    #[test]
    fn files_that_are_not_there_are_named() {
        let (dir, file) = directory("manifests: [missing.yaml]\ncases: [{from: a, to: b, expect: pass}]");
        let problem = judge(&file).unwrap_err();
        assert_eq!(problem.code.0, codes::BAD_MANIFEST);
        assert_eq!(problem.place, dir.path().join("missing.yaml").display().to_string());
        assert_eq!(judge(Path::new("/nowhere/at/all.yaml")).unwrap_err().code.0, codes::BAD_CASES);
    }
}
