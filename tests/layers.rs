//! The layers drawn in `src/lib.rs` hold, `unsafe` stays in `src/io`, and the pure modules stay pure: told from the
//! sources themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Imports between modules of one line that are meant: `(from, to)`. The words and the errors are used by both.
const SIBLINGS: [(&str, &str); 3] = [("error", "types"), ("config", "types"), ("config", "error")];

/// Stands above every layer: the crate's face, and the door for fuzzers.
const ABOVE_ALL: [&str; 2] = ["lib", "internals"];

/// Take `now` and bytes, return effects.
const PURE: [&str; 11] = [
    "io/driver/ways.rs",
    "segment/",
    "receiver/",
    "ledger/",
    "log/commit/pipe/",
    "log/commit/gather.rs",
    "log/commit/depth.rs",
    "log/commit/tail.rs",
    "log/cuts.rs",
    "log/recovery/plan.rs",
    "log/recovery/scan.rs",
];

/// What a pure module may not name, wherever in a path it stands.
const IMPURE: [&[&str]; 9] = [
    &["std", "fs"],
    &["std", "net"],
    &["std", "thread"],
    &["std", "process"],
    &["thread", "sleep"],
    &["Instant", "now"],
    &["sync", "now"],
    &["sync", "sleep"],
    &["SystemTime", "now"],
];

#[test]
fn the_sources_keep_to_their_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = Layers::drawn_in(&read(&root.join("lib.rs")));
    let sources = sources(&root);
    assert!(sources.len() > 30, "the sources were not found: {sources:?}");
    for pure in PURE {
        assert!(sources.iter().any(|file| name(&root, file).starts_with(pure)), "{pure} is not there any more");
    }
    let mut broken = Vec::new();
    for file in &sources {
        broken.extend(layers.violations(&name(&root, file), &read(file)));
    }
    let told: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} violations\n{}", broken.len(), told.join("\n"));
}

/// The control: a checker that finds nothing would pass the test above as well.
#[test]
fn made_up_violations_are_found() {
    let layers = Layers::drawn_in(&read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")));
    let bad: [(&str, &str); 23] = [
        ("types/lsn.rs", "use crate::log::Log;"),
        ("types/lsn.rs", "use crate::error::Error;"),
        ("codec/crc.rs", "use crate::io::Buffer;"),
        ("codec/mod.rs", "use super::io::Buffer;"),
        ("codec/crc.rs", "use super::super::io::Buffer;"),
        ("config.rs", "pub use crate::io::BackendChoice;"),
        ("config.rs", "use super::metrics::Summary;"),
        ("metrics.rs", "mod inner { use super::super::log::Log; }"),
        ("segment/frame.rs", "use crate::{types::Lsn, log};"),
        ("segment/frame.rs", "use crate::{\n    types::{Lsn, LsnRange},\n    log::{Log},\n};"),
        ("segment/frame.rs", "fn f() -> crate::log::Log { todo!() }"),
        ("io/mod.rs", "impl crate::segment::ByteSource for X {}"),
        ("segment/index.rs", "fn f() { unsafe { g() } }"),
        ("log/handle.rs", "#[allow(unsafe_code)] mod x {}"),
        ("segment/index.rs", "use std::{fmt, fs};"),
        ("segment/index.rs", "fn f() { std::thread::yield_now() }"),
        ("log/commit/gather.rs", "fn f() { let now = Instant::now(); }"),
        ("log/commit/gather.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("log/recovery/plan.rs", "fn f() { let now = SystemTime::now(); }"),
        ("log/commit/pipe/turns.rs", "use crate::sync::{Mutex, now};"),
        ("log/recovery/scan.rs", "#[cfg(test)] mod tests {} fn f() { std::fs::read(0); }"),
        ("log/commit/pipe/mod.rs", "// a comment\nfn f() { r#\"a \" text\"#; '\"'; Instant::now(); }"),
        ("brand_new.rs", "use crate::types::Lsn;"),
    ];
    for (file, source) in bad {
        assert_eq!(layers.violations(file, source).len(), 1, "{file}: {source}");
    }
    let good = [
        ("log/handle.rs", "use crate::io::Disk; use crate::segment::Seal; use super::open::open;"),
        ("io/disk/mod.rs", "use crate::config::DirectIo; use super::driver::Channel; fn f() { unsafe { g() } }"),
        ("segment/frame.rs", "//! use crate::log::Log;\n/* unsafe /* std::fs */ */ const X: &str = \"unsafe\";"),
        ("log/commit/depth.rs", "#[cfg(test)]\nmod tests { use super::*; fn f() { Instant::now(); } }"),
        ("error.rs", "fn f<'a>(x: &'a str) { use crate::types::Lsn; }"),
        ("log/commit/gather.rs", "fn f(now: Instant, unsafe_count: usize) { use std::time::Instant; }"),
        ("internals.rs", "use crate::log::Log; use crate::segment::Seal;"),
        (
            "log/mod.rs",
            "mod tests { use super::super::segment::Seal; mod deep { use super::super::super::codec::Chain; } }",
        ),
    ];
    for (file, source) in good {
        let found = layers.violations(file, source);
        assert!(found.is_empty(), "{file}: {source}: {}", found[0]);
    }
}

// --- the rules -----------------------------------------------------------------------------------------------------

struct Layers {
    /// Of each top-level module.
    level: BTreeMap<String, u32>,
}

struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

impl Layers {
    /// Reads lines like `//! L1  codec | io    what they are`.
    fn drawn_in(lib: &str) -> Layers {
        let mut level = BTreeMap::new();
        for line in lib.lines().filter_map(|line| line.strip_prefix("//! L")) {
            let Some((number, rest)) = line.split_once("  ") else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            let names = rest.trim_start().split("  ").next().unwrap_or_default();
            level.extend(names.split('|').map(|name| (name.trim().to_owned(), number)));
        }
        assert!(level.len() >= 8, "src/lib.rs draws no layers any more: {level:?}");
        Layers { level }
    }

    fn violations(&self, file: &str, source: &str) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut tell = |line, what| found.push(Violation { file: file.to_owned(), line, what });
        let module = module_of(file);
        let top = module.first().map_or("lib", String::as_str);
        let above_all = ABOVE_ALL.contains(&top);
        let Some(own) = self.level.get(top).copied().or(above_all.then_some(u32::MAX)) else {
            tell(1, format!("`{top}` is not drawn in the layers"));
            return found;
        };
        let pure = PURE.iter().any(|pure| file.starts_with(pure)) && !file.ends_with("/tests.rs");
        for Named { line, names, tests } in paths(source, &module) {
            let is_unsafe = names.iter().any(|name| name == "unsafe" || name == "unsafe_code");
            if is_unsafe && top != "io" {
                tell(line, "unsafe code outside src/io".into());
            }
            if pure && !tests {
                for impure in IMPURE {
                    if names.windows(impure.len()).any(|part| part == impure) {
                        tell(line, format!("a pure module names `{}`", impure.join("::")));
                    }
                }
            }
            let [first, target, ..] = names.as_slice() else { continue };
            if first != "crate" || above_all || target == top {
                continue;
            }
            match self.level.get(target.as_str()) {
                Some(theirs) if *theirs > own => {
                    tell(line, format!("`{top}` (L{own}) imports `{target}` (L{theirs}), upwards"))
                }
                Some(theirs) if *theirs == own && !SIBLINGS.contains(&(top, target)) => {
                    tell(line, format!("`{top}` imports its sibling `{target}`"));
                }
                _ => {}
            }
        }
        found
    }
}

// --- sources -------------------------------------------------------------------------------------------------------

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        match path.extension() {
            _ if path.is_dir() => all.extend(sources(&path)),
            Some(rs) if rs == "rs" => all.push(path),
            _ => {}
        }
    }
    all
}

fn name(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).expect("below src").to_string_lossy().replace('\\', "/")
}

/// `log/commit/pipe.rs` is `[log, commit, pipe]`; `lib.rs` is `[]`.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut names: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if matches!(names.last().map(String::as_str), Some("mod" | "lib")) {
        names.pop();
    }
    names
}

// --- just enough Rust ----------------------------------------------------------------------------------------------

/// A path, or a single name, as it stands in the source; `use` groups are taken apart, `super` is resolved.
struct Named {
    line: usize,
    names: Vec<String>,
    /// In a module for tests.
    tests: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Name(&'a str),
    /// `::`
    Colons,
    Other(char),
}

fn paths(source: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    // Inline modules around the place: the depth of their braces, and whether they are for tests.
    let mut around: Vec<(usize, String, bool)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].1 {
            Token::Name("mod") if matches!(tokens.get(at + 2), Some((_, Token::Other('{')))) => {
                let Token::Name(name) = tokens[at + 1].1 else { panic!("`mod` without a name") };
                let for_tests = around.last().is_some_and(|(_, _, tests)| *tests) || is_for_tests(&tokens[..at]);
                depth += 1;
                around.push((depth, name.to_owned(), for_tests));
                at += 3;
                continue;
            }
            Token::Other('{') => depth += 1,
            Token::Other('}') => {
                around.retain(|(inner, _, _)| *inner < depth);
                depth = depth.saturating_sub(1);
            }
            Token::Name(_) => {
                let here: Vec<String> =
                    module.iter().cloned().chain(around.iter().map(|(_, name, _)| name.clone())).collect();
                let tests = around.last().is_some_and(|(_, _, tests)| *tests);
                let is_use = at > 0 && tokens[at - 1].1 == Token::Name("use");
                let mut all = Vec::new();
                at = expand(&tokens, at, is_use, Vec::new(), &mut all);
                found.extend(all.into_iter().map(|(line, names)| Named { line, names: resolve(names, &here), tests }));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// `#[cfg(test)]` stands right before.
fn is_for_tests(before: &[(usize, Token<'_>)]) -> bool {
    const ATTRIBUTE: [Token<'_>; 7] = [
        Token::Other('#'),
        Token::Other('['),
        Token::Name("cfg"),
        Token::Other('('),
        Token::Name("test"),
        Token::Other(')'),
        Token::Other(']'),
    ];
    before.len() >= 7 && before[before.len() - 7..].iter().map(|(_, token)| *token).eq(ATTRIBUTE)
}

/// Reads the path at `at`; returns where it ends. In a `use`, `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand<'a>(
    tokens: &[(usize, Token<'a>)],
    mut at: usize,
    is_use: bool,
    mut names: Vec<String>,
    all: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let line = tokens[at].0;
    while let Some((_, Token::Name(name))) = tokens.get(at) {
        names.push((*name).to_owned());
        at += 1;
        if !matches!(tokens.get(at), Some((_, Token::Colons))) {
            break;
        }
        at += 1;
    }
    let is_group = is_use
        && at > 0
        && tokens[at - 1].1 == Token::Colons
        && tokens.get(at).is_some_and(|t| t.1 == Token::Other('{'));
    if !is_group {
        all.push((line, names));
        return at;
    }
    at += 1;
    while at < tokens.len() {
        match tokens[at].1 {
            Token::Name("as") => at += 2,
            Token::Name(_) => at = expand(tokens, at, true, names.clone(), all),
            Token::Other('}') => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Puts `crate` and the module's own names where `super` stands.
fn resolve(names: Vec<String>, here: &[String]) -> Vec<String> {
    let supers = names.iter().take_while(|name| *name == "super").count();
    if supers == 0 {
        return names;
    }
    let kept = here.len().saturating_sub(supers);
    let mut full = vec!["crate".to_owned()];
    full.extend(here[..kept].iter().cloned());
    full.extend(names.into_iter().skip(supers));
    full
}

/// Names, `::` and single characters with their lines; comments, texts and lifetimes are left out.
fn tokens(source: &str) -> Vec<(usize, Token<'_>)> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let mut token = None;
        let bytes = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_bytes(rest)
        } else if let Some(bytes) = text_bytes(rest) {
            bytes
        } else if first == '_' || first.is_alphanumeric() {
            let bytes = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            token = Some(Token::Name(&rest[..bytes]));
            bytes
        } else if rest.starts_with("::") {
            token = Some(Token::Colons);
            2
        } else {
            token = Some(Token::Other(first)).filter(|_| !first.is_whitespace());
            first.len_utf8()
        };
        found.extend(token.map(|token| (line, token)));
        line += rest[..bytes].matches('\n').count();
        rest = &rest[bytes..];
    }
    found
}

fn comment_bytes(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the text literal, character or lifetime that starts here, if one does.
fn text_bytes(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or(rest.strip_prefix('r'));
    if let Some(body) = body {
        let hashes = body.len() - body.trim_start_matches('#').len();
        if body[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = rest.len() - body.len() + hashes + 1;
            return Some(rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len()));
        }
    }
    let body = rest.strip_prefix('b').unwrap_or(rest);
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let prefix = rest.len() - body.len();
    if quote == '\'' && prefix == 0 {
        // A lifetime: a name that no quote follows.
        let name = body[1..].find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(body.len() - 1);
        if name > 0 && !body[1 + name..].starts_with('\'') {
            return Some(1 + name);
        }
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(prefix + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}
