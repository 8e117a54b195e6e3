//! The log's own tests under a checker that a toolchain may have: Miri for undefined behaviour, ThreadSanitizer for
//! races. Few toolchains have them, and none gets them here: mostly this says what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::{self, Ended};
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};

pub(crate) struct Checked {
    name: &'static str,
    about: &'static str,
    /// The tests that there are.
    tests: u64,
    /// A cargo that has the checker, or what it lacks.
    find: fn() -> Result<Cargo, String>,
    /// What it is told to build a program, to run one, and to run the log's tests.
    build: &'static [&'static str],
    run: &'static [&'static str],
    test: &'static [&'static str],
    /// A program with a bug for it.
    control: &'static str,
}

const TOOLCHAINS: [Option<&str>; 2] = [None, Some("+nightly")];
const PATIENCE: Duration = Duration::from_secs(1800);

impl Checked {
    pub(crate) const MIRI: Checked = Checked {
        name: "miri",
        about: "the tests of what reads and writes bytes, under an interpreter that knows undefined behaviour",
        tests: 18,
        find: miri,
        build: &["build"],
        run: &["miri", "run"],
        test: &["miri", "test", "-p", "seawall", "--no-default-features", "--lib", "--", "codec::", "segment::"],
        control: "fn main() { let v = vec![1u8]; std::process::exit(unsafe { *v.as_ptr().add(1) }.min(0).into()) }",
    };
    pub(crate) const THREADS: Checked = Checked {
        name: "tsan",
        about: "the tests of threads that do everything at once, under ThreadSanitizer",
        tests: 12,
        find: thread_sanitizer,
        build: &["build", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu"],
        run: &["run", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu"],
        test: &["test", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu", "-p", "seawall", "--test", "concurrent"],
        control: "static mut N: u64 = 0; fn add() { for _ in 0..1000 { unsafe { N += 1 } } } \
                  fn main() { let t = std::thread::spawn(add); add(); t.join().unwrap() }",
    };
}

impl Layer for Checked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn unit(&self) -> &'static str {
        "tests"
    }

    fn goals(&self) -> Goals {
        Goals { ci: self.tests, long: self.tests, share: Duration::from_secs(600) }
    }

    /// A program that has the bug, built and run in the same way, does not end well.
    fn control(&self, _: &Plan) -> Result<bool, CannotRun> {
        let cannot = |error: std::io::Error| CannotRun(error.to_string());
        let cargo = (self.find)().map_err(CannotRun)?;
        let home = tempfile::tempdir().map_err(cannot)?;
        std::fs::create_dir(home.path().join("src")).map_err(cannot)?;
        let manifest = "[package]\nname = \"control\"\nedition = \"2021\"\n[workspace]\n";
        std::fs::write(home.path().join("Cargo.toml"), manifest).map_err(cannot)?;
        let ends_well = |words: &[&str], main: &str| {
            std::fs::write(home.path().join("src/main.rs"), main).map_err(cannot)?;
            let mut cargo = cargo.command();
            cargo.args(words).current_dir(home.path()).env("CARGO_TARGET_DIR", home.path().join("target"));
            Ok(end(&mut cargo)?.status.success())
        };
        // It compiles, and a sound one ends well: else it is something else that failed.
        Ok(ends_well(self.build, self.control)?
            && ends_well(self.run, "fn main() {}")?
            && !ends_well(self.run, self.control)?)
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        let mut cargo = (self.find)().map_err(CannotRun)?.command();
        cargo.args(self.test).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        cargo.env("CARGO_TARGET_DIR", std::path::absolute(target).unwrap_or_default().join(self.name));
        let ended = end(&mut cargo)?;
        let said = String::from_utf8_lossy(&ended.output);
        run.done(said.lines().filter_map(passed).sum());
        if !ended.status.success() {
            // What it has against them is on the standard error.
            found.failures.push(format!("it ends with {}", ended.status));
        }
        Ok(found)
    }
}

/// "test result: ok. 18 passed; …"
fn passed(line: &str) -> Option<u64> {
    line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok()
}

fn end(cargo: &mut Command) -> Result<Ended, CannotRun> {
    let ended = child::end(cargo, PATIENCE).map_err(|error| CannotRun(format!("cargo: {error}")))?;
    ended.ok_or_else(|| CannotRun(format!("it does not end within {PATIENCE:?}")))
}

/// A cargo, and what it is told by the environment.
struct Cargo {
    toolchain: Option<&'static str>,
    environment: &'static [(&'static str, &'static str)],
}

impl Cargo {
    fn command(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(self.toolchain).envs(self.environment.iter().copied());
        cargo
    }
}

fn miri() -> Result<Cargo, String> {
    let mut why = String::new();
    for toolchain in TOOLCHAINS {
        let cargo = Cargo { toolchain, environment: &[] };
        match cargo.command().args(["miri", "--version"]).output() {
            Ok(output) if output.status.success() => return Ok(cargo),
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("?").to_owned(),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// With a standard library that is not instrumented it tells of races that are none.
fn thread_sanitizer() -> Result<Cargo, String> {
    let mut looked = Vec::new();
    for toolchain in TOOLCHAINS {
        let mut rustc = Command::new("rustc");
        let root = rustc.args(toolchain).args(["--print", "sysroot"]).output().map_err(|error| error.to_string())?;
        let root = PathBuf::from(String::from_utf8_lossy(&root.stdout).trim());
        if root.join("lib/rustlib/src/rust/library/Cargo.lock").exists() {
            let environment = &[("RUSTC_BOOTSTRAP", "1"), ("RUSTFLAGS", "-Zsanitizer=thread")];
            return Ok(Cargo { toolchain, environment });
        }
        looked.extend(root.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    Err(format!("no rust-src to build an instrumented std from ({})", looked.join(", ")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_tests_that_passed_count() {
        assert_eq!(super::passed("test result: ok. 18 passed; 0 failed; 0 ignored"), Some(18));
        assert_eq!(super::passed("test result: FAILED. 17 passed; 1 failed"), None);
        assert_eq!(super::passed("running 18 tests"), None);
    }
}
