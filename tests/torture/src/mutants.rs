//! Who catches what: known bugs are put into a copy of the source, and every layer that claims to notice one is run on it.
//!
//! One build holds them all, each behind a switch that a process is started with. The source itself knows nothing of
//! them; a mutant whose place in it has changed is an error, not a pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::layers::concurrency;

/// The switch: the name of the mutant to be.
pub(crate) const SWITCH: &str = "SEAWALL_MUTANT";

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

/// Builds the mutants, runs every layer on each that it claims, and prints the table. True when all were caught.
pub(crate) fn run(args: &Args, known_layers: &[&str]) -> Result<bool, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = read(&workspace.join("tests/torture/mutants.toml"))?;
    let Mutants { mutant: mutants } = toml::from_str(&text).map_err(|error| error.to_string())?;
    let program = build(&workspace, &mutants)?;
    let mut is_clean = true;
    println!("{:<28} {:<10} {:>7}  what", "mutant", "layer", "s");
    for mutant in mutants.iter().filter(|mutant| args.names.is_empty() || args.names.contains(&mutant.name)) {
        for layer in mutant.caught_by.iter().filter(|layer| args.layers.is_empty() || args.layers.contains(layer)) {
            let began = Instant::now();
            let what = match known_layers.contains(&layer.as_str()) {
                true => look(&program, mutant, layer, args)?,
                false => "NO SUCH LAYER".into(),
            };
            is_clean &= what.starts_with("caught") || what.starts_with("SKIPPED");
            println!("{:<28} {:<10} {:>7.1}  {what}", mutant.name, layer, began.elapsed().as_secs_f64());
        }
    }
    println!();
    for mutant in &mutants {
        println!("{:<28} {}", mutant.name, mutant.about);
    }
    Ok(is_clean)
}

fn look(program: &Path, mutant: &Mutant, layer: &str, args: &Args) -> Result<String, String> {
    let mut command = Command::new(program);
    // A layer that builds a program of its own finds the mutants' one.
    command.env("CARGO_TARGET_DIR", program.parent().and_then(Path::parent).expect("below a target directory"));
    command.env(SWITCH, &mutant.name).arg(layer).args(["--format", "json", "--first", "--without-control"]);
    command.args(["--time", &format!("{}s", args.time.as_secs()), "--seed", &args.seed.to_string()]);
    // A mutant may also hang or panic; both are noticed.
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let give_up = Instant::now() + args.time * 3 + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return Ok("caught: it hangs".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let line: serde_json::Value = match serde_json::from_slice(&output.stdout) {
        Ok(line) => line,
        Err(_) => return Ok(format!("caught: it ends with {status}")),
    };
    Ok(match &line["verdict"] {
        serde_json::Value::String(verdict) if verdict == "failed" => {
            format!("caught after {} {}", line["reached"], line["unit"].as_str().unwrap_or(""))
        }
        serde_json::Value::String(verdict) => format!("NOT CAUGHT: {verdict} after {}", line["reached"]),
        other => format!("SKIPPED: {}", other["skipped"].as_str().unwrap_or("?")),
    })
}

/// A program in which every mutant sleeps.
fn build(workspace: &Path, mutants: &[Mutant]) -> Result<PathBuf, String> {
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
    let built = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err("the mutants cannot be built: an edit of tests/torture/mutants.toml does not fit the source".into());
    }
    if mutants.iter().any(|mutant| mutant.caught_by.iter().any(|layer| layer == "concurrency")) {
        concurrency::build(&tree, &target.join("mutants-target"))?;
    }
    Ok(target.join("mutants-target/release/torture"))
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
