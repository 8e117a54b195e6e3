//! One line per layer: what was reached, and what that means.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::layer::{CannotRun, FAILURES_TOLD_MAX, Layer, Plan, Run};
use super::simulated::report::said;

/// Without a terminal, a line is written this often.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// What a layer came to.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The goal was met and nothing was found.
    Passed,
    /// Nothing was found in the time there was, which was not enough for the goal.
    Short,
    /// Something was found.
    Failed,
    /// The negative control was not caught: what the layer says means nothing.
    Blind,
    /// It cannot run here: never a pass.
    Skipped(String),
}

/// A line of the table.
#[derive(Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) layer: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) reached: u64,
    pub(crate) goal: u64,
    pub(crate) per_second: f64,
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) control_caught: bool,
    pub(crate) verdict: Verdict,
    pub(crate) failures: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Line {
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self.verdict, Verdict::Failed | Verdict::Blind)
    }

    fn verdict(&self) -> String {
        match &self.verdict {
            Verdict::Passed => "passed".into(),
            Verdict::Short => "SHORT of its goal, nothing found".into(),
            Verdict::Failed => format!("FAILED: {} found", self.failures.len()),
            Verdict::Blind => "BLIND: its control was not caught".into(),
            Verdict::Skipped(why) => format!("SKIPPED: {why}"),
        }
    }
}

/// Runs a layer: its control, then itself.
pub(crate) fn line(layer: &dyn Layer, plan: &Plan) -> Line {
    let mut line = Line {
        layer: layer.name(),
        unit: layer.unit(),
        reached: 0,
        goal: plan.goal,
        per_second: 0.0,
        seconds: 0.0,
        seed: plan.seed,
        control_caught: false,
        verdict: Verdict::Passed,
        failures: Vec::new(),
        notes: Vec::new(),
    };
    match if plan.with_control { guarded(|| layer.control(plan)).unwrap_or(Ok(false)) } else { Ok(true) } {
        Ok(caught) => line.control_caught = caught,
        Err(CannotRun(why)) => {
            line.verdict = Verdict::Skipped(why);
            eprintln!("{}: {}", line.layer, line.verdict());
            return line;
        }
    }
    if !line.control_caught {
        line.verdict = Verdict::Blind;
        eprintln!("{}: {}", line.layer, line.verdict());
        return line;
    }
    let bar = bar(layer, plan);
    let run = Run::new(plan, &bar);
    let began = Instant::now();
    let result = std::thread::scope(|scope| {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (run, told) = (&run, bar.is_hidden());
        scope.spawn(move || {
            while told && ended.recv_timeout(TELL_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{}: {} of {} {}", layer.name(), run.reached(), plan.goal, layer.unit());
            }
        });
        let result = guarded(|| layer.run(run)).unwrap_or_else(|said| Err(CannotRun(said)));
        drop(end);
        result
    });
    bar.finish_and_clear();
    line.seconds = began.elapsed().as_secs_f64();
    line.reached = run.reached();
    line.per_second = line.reached as f64 / line.seconds.max(1e-9);
    match result {
        // Its control ran here, so it can: what broke off was not skipped.
        Err(CannotRun(why)) => {
            line.failures.push(format!("broke off: {why}"));
            line.verdict = Verdict::Failed;
        }
        Ok(found) => {
            line.failures = found.failures;
            line.notes = found.notes;
            line.verdict = match (line.failures.is_empty(), line.reached >= plan.goal) {
                (false, _) => Verdict::Failed,
                (true, true) => Verdict::Passed,
                (true, false) => Verdict::Short,
            };
        }
    }
    for failure in line.failures.iter().take(FAILURES_TOLD_MAX) {
        eprintln!("{}: {failure}", line.layer);
    }
    eprintln!("{}: {} {} in {:.0} s, {}", line.layer, line.reached, line.unit, line.seconds, line.verdict());
    line
}

/// What a layer that panicked said: it has failed, and the others go on.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| format!("panicked: {}", said(&*panic)))
}

fn bar(layer: &dyn Layer, plan: &Plan) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(Some(plan.goal), target);
    let style = format!(
        "{:>12} {{bar:30}} {{human_pos}}/{{human_len}} {} {{per_sec}}, {{eta}} left",
        layer.name(),
        layer.unit()
    );
    bar.set_style(ProgressStyle::with_template(&style).expect("a template"));
    bar
}

/// The table, for people.
pub(crate) fn table(lines: &[Line]) {
    println!(
        "{:<12} {:>12} {:>12} {:<14} {:>10} {:>7} {:>6}  {:<8} verdict",
        "layer", "reached", "goal", "", "per s", "s", "seed", "control"
    );
    for line in lines {
        let control = if line.control_caught { "caught" } else { "-" };
        println!(
            "{:<12} {:>12} {:>12} {:<14} {:>10.1} {:>7.0} {:>6}  {:<8} {}",
            line.layer,
            line.reached,
            line.goal,
            line.unit,
            line.per_second,
            line.seconds,
            line.seed,
            control,
            line.verdict()
        );
        for note in &line.notes {
            println!("{:<12} {note}", "");
        }
        for failure in line.failures.iter().take(FAILURES_TOLD_MAX) {
            println!("{:<12} FOUND {failure}", "");
        }
    }
    let count = |wanted: fn(&Verdict) -> bool| lines.iter().filter(|line| wanted(&line.verdict)).count();
    println!(
        "{} passed, {} short, {} failed, {} blind, {} skipped",
        count(|v| *v == Verdict::Passed),
        count(|v| *v == Verdict::Short),
        count(|v| *v == Verdict::Failed),
        count(|v| *v == Verdict::Blind),
        count(|v| matches!(v, Verdict::Skipped(_)))
    );
}

/// The same, for programs: a line of JSON each.
pub(crate) fn json(lines: &[Line]) {
    for line in lines {
        println!("{}", serde_json::to_string(line).expect("plain data"));
    }
}

/// The layers and their goals.
pub(crate) fn list(layers: &[Box<dyn Layer>]) {
    println!("{:<12} {:>12} {:>14} {:>7}  {:<14} what it does", "layer", "goal", "long run", "share", "");
    for layer in layers {
        let goals = layer.goals();
        let share = format!("{} s", goals.share.as_secs());
        println!(
            "{:<12} {:>12} {:>14} {:>7}  {:<14} {}",
            layer.name(),
            goals.ci,
            goals.long,
            share,
            layer.unit(),
            layer.about()
        );
    }
}
