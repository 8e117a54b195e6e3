//! Who catches what: known bugs are put into a copy of the source, and every layer that claims to notice one is run on it.
//!
//! One build holds them all, each behind a switch that a process is started with. The source itself knows nothing of
//! them; a mutant whose place in it has changed is an error, not a pass. Every layer first runs on that build with no
//! switch on, where it must find nothing: else what it says of a mutant means nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::child::{self, Ended};
use crate::layer::Layer;
use crate::layers::concurrency;
use crate::mounts;

/// The switch: the name of the mutant to be.
pub(crate) const SWITCH: &str = "SEAWALL_MUTANT";

/// With no mutant on, a layer looks at this part of what it looks at in a gate.
const SOUND_PART: u64 = 20;

/// What of the workspace is needed to build this program.
const PARTS: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "src", "benches", "cli", "fuzz", "tests", "README.md", "DESIGN.md"];

#[derive(Deserialize)]
struct Mutants {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
struct Mutant {
    name: String,
    about: String,
    caught_by: Vec<String>,
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
struct Edit {
    file: PathBuf,
    was: String,
    becomes: String,
    #[serde(default)]
    raw: bool,
}

/// How to look for them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these; all of them when none is named.
    names: Vec<String>,
    /// Only these layers.
    #[arg(long = "layer")]
    layers: Vec<String>,
    /// How long a layer may look for one.
    #[arg(long, default_value = "60 s", value_parser = humantime::parse_duration)]
    time: Duration,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a layer said of a mutant.
enum Said {
    /// It found something: after how much, and what.
    Caught(String, String),
    /// It did not.
    Passed(String),
    /// It cannot run here.
    Skipped(String),
}

/// Builds the mutants, runs every layer on each that it claims, and prints the table. True when all were caught.
pub(crate) fn run(args: &Args, layers: &[Box<dyn Layer>]) -> Result<bool, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = read(&workspace.join("tests/torture/mutants.toml"))?;
    let Mutants { mutant: mutants } = toml::from_str(&text).map_err(|error| error.to_string())?;
    if let Some(name) = args.names.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
        return Err(format!("there is no mutant {name:?}"));
    }
    let claimed = mutants.iter().flat_map(|mutant| &mutant.caught_by);
    if let Some(name) = claimed.chain(&args.layers).find(|name| layers.iter().all(|layer| layer.name() != **name)) {
        return Err(format!("there is no layer {name:?}"));
    }
    let is_wanted = |mutant: &Mutant, layer: &str| {
        let is_claimed = mutant.caught_by.iter().any(|name| name == layer);
        is_claimed
            && (args.names.is_empty() || args.names.contains(&mutant.name))
            && (args.layers.is_empty() || args.layers.iter().any(|name| name == layer))
    };
    let needs_explorer = mutants.iter().any(|mutant| is_wanted(mutant, "concurrency"));
    let program = build(&workspace, &mutants, needs_explorer)?;
    let (mut is_clean, mut skipped) = (true, BTreeMap::new());
    let mut caught: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut claims = 0;
    println!("{:<12} {:<28} {:>6}  what", "layer", "mutant", "s");
    for layer in layers {
        let own: Vec<&Mutant> = mutants.iter().filter(|mutant| is_wanted(mutant, layer.name())).collect();
        if own.is_empty() {
            continue;
        }
        claims += own.len();
        let line = |mutant: &str, began: Instant, what: &str| {
            println!("{:<12} {mutant:<28} {:>6.1}  {what}", layer.name(), began.elapsed().as_secs_f64());
        };
        let began = Instant::now();
        match look(&program, "", layer.name(), Some(layer.goals().ci / SOUND_PART), args)? {
            Said::Passed(reached) => line("(none)", began, &format!("finds nothing in {reached}")),
            Said::Caught(reached, what) => {
                line("(none)", began, &format!("NOT SOUND: without a mutant, after {reached}: {what}"));
                is_clean = false;
                continue;
            }
            Said::Skipped(why) => {
                line("(all)", began, &format!("SKIPPED: {why}"));
                skipped.insert(layer.name(), own.len());
                continue;
            }
        }
        for mutant in own {
            let began = Instant::now();
            match look(&program, &mutant.name, layer.name(), None, args)? {
                Said::Caught(reached, what) => {
                    line(&mutant.name, began, &format!("caught after {reached}: {what}"));
                    let reached = reached.split(' ').next().unwrap_or("?");
                    caught.entry(&mutant.name).or_default().push(format!("{} {reached}", layer.name()));
                }
                Said::Passed(reached) | Said::Skipped(reached) => {
                    line(&mutant.name, began, &format!("NOT CAUGHT in {reached}"));
                    is_clean = false;
                }
            }
        }
    }
    println!("\n| mutant | caught by, after so many crashes |\n|---|---|");
    for (mutant, by) in mutants.iter().filter_map(|mutant| Some((mutant, caught.get(&*mutant.name)?))) {
        println!("| `{}`: {} | {} |", mutant.name, mutant.about, by.join(" · "));
    }
    let by: usize = caught.values().map(Vec::len).sum();
    println!("\n{} mutants, seed {}: {by} of {claims} claims seen to hold", caught.len(), args.seed);
    for (layer, claims) in skipped {
        println!("SKIPPED: {claims} claims of {layer}");
    }
    Ok(is_clean)
}

/// Runs a layer on a mutant.
fn look(program: &Path, mutant: &str, layer: &str, count: Option<u64>, args: &Args) -> Result<Said, String> {
    // What a layer that found something keeps for people is of no use here: it goes when this ends.
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    // A layer that builds a program of its own finds the mutants' one.
    command.env("CARGO_TARGET_DIR", program.parent().and_then(Path::parent).expect("below a target directory"));
    command.env(SWITCH, mutant).env("TMPDIR", home.path());
    command.arg(layer).args(["--format", "json", "--first", "--without-control"]);
    command.args(["--time", &format!("{}s", args.time.as_secs()), "--seed", &args.seed.to_string()]);
    if let Some(count) = count {
        command.args(["--count", &count.to_string()]);
    }
    let ended = child::end(command.stderr(Stdio::null()), args.time * 3 + Duration::from_secs(30));
    mounts::unmount_all_in(home.path());
    let Some(Ended { status, output }) = ended.map_err(|error| error.to_string())? else {
        return Ok(Said::Caught("-".into(), "it hangs".into()));
    };
    let line: serde_json::Value = match serde_json::from_slice(&output) {
        Ok(line) => line,
        // It was not started as it wants to be.
        Err(_) if status.code() == Some(2) => return Err(format!("{layer}: {status}")),
        Err(_) => return Ok(Said::Caught("-".into(), format!("it ends with {status}"))),
    };
    let reached = format!("{} {}", line["reached"], line["unit"].as_str().unwrap_or("?"));
    let first = line["failures"][0].as_str().unwrap_or("").lines().next().unwrap_or("");
    Ok(match line["verdict"].as_str() {
        Some("failed") => Said::Caught(reached, first.chars().take(160).collect()),
        Some(_) => Said::Passed(reached),
        None => Said::Skipped(line["verdict"]["skipped"].as_str().unwrap_or("?").to_owned()),
    })
}

/// A program in which every mutant sleeps.
fn build(workspace: &Path, mutants: &[Mutant], needs_explorer: bool) -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = std::path::absolute(target).map_err(|error| error.to_string())?;
    let tree = target.join("mutants");
    let _ = std::fs::remove_dir_all(&tree);
    for part in PARTS {
        copy(&workspace.join(part), &tree.join(part))?;
    }
    for mutant in mutants {
        for edit in &mutant.edits {
            apply(&tree.join(&edit.file), edit, &mutant.name)?;
        }
    }
    let root = tree.join("src/lib.rs");
    let lib = read(&root)?;
    write(
        &root,
        &format!(
            "{lib}\n#[allow(missing_docs)]\n#[doc(hidden)]\nmod mutant {{\n    pub(crate) fn is_on(name: &str) -> bool {{\n        static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();\n        NAME.get_or_init(|| std::env::var(\"{SWITCH}\").ok()).as_deref() == Some(name)\n    }}\n}}\n"
        ),
    )?;
    eprintln!("building {} mutants", mutants.len());
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--quiet", "-p", "seawall-torture", "--manifest-path"])
        .arg(tree.join("Cargo.toml"));
    // Beside the ordinary build, whose program must stay what it is.
    cargo.arg("--target-dir").arg(target.join("mutants-target"));
    use_again(&target.join("release"), &target.join("mutants-target/release"));
    let built = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err("the mutants cannot be built: an edit of tests/torture/mutants.toml does not fit the source".into());
    }
    if needs_explorer {
        use_again(&target.join("shuttle/release"), &target.join("mutants-target/shuttle/release"));
        concurrency::build(&tree, &target.join("mutants-target"))?;
    }
    Ok(target.join("mutants-target/release/torture"))
}

/// Copies what was built of other people's crates, which no mutant changes: that is most of the time a build takes. Without
/// it, everything is built.
fn use_again(from: &Path, to: &Path) {
    if to.exists() || std::fs::create_dir_all(to).is_err() {
        return;
    }
    let parts = ["deps", "build", ".fingerprint"].map(|part| from.join(part));
    // Their times as well, or cargo takes them for older than what they were made of.
    let copied = Command::new("cp").arg("-a").args(parts).arg(to).stderr(Stdio::null()).status();
    if !copied.is_ok_and(|status| status.success()) {
        let _ = std::fs::remove_dir_all(to);
    }
}

fn apply(file: &Path, edit: &Edit, name: &str) -> Result<(), String> {
    let text = read(file)?;
    if text.matches(&edit.was).count() != 1 {
        return Err(format!("{name}: {} does not hold exactly once: {}", edit.file.display(), edit.was));
    }
    let is_on = format!("crate::mutant::is_on({name:?})");
    let mutated = match edit.raw {
        true => edit.becomes.replace("$on", &is_on),
        false => format!("if {is_on} {{ {} }} else {{ {} }}", edit.becomes, edit.was),
    };
    write(file, &text.replacen(&edit.was, &mutated, 1))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", from.display());
    if !from.is_dir() {
        std::fs::create_dir_all(to.parent().expect("below the tree")).map_err(told)?;
        return std::fs::copy(from, to).map(drop).map_err(told);
    }
    for entry in std::fs::read_dir(from).map_err(told)? {
        let name = entry.map_err(told)?.file_name();
        if name != "target" {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
