//! Imports run downward: what stands below can be read, and changed, without what stands above. The test reads every
//! path in `src` that begins with `crate`, `self`, `super` or a child module, and needs neither a build nor a GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rooms, from the bottom to the top, and why each stands there. A room is a file or a folder of `src`. It may
/// import the rooms of earlier lines, and neither those of later lines nor another one of its own line.
const ROOMS: [(&[&str], &str); 13] = [
    (&["error", "formats", "json"], "Everything returns an Error and stores numbers, so they know nobody."),
    (
        &["averaging", "clipping", "noise", "rule", "schedule", "stopping"],
        "What a rule is, and what stands beside a rule: each is read alone.",
    ),
    (&["derivatives", "precision", "scaling"], "What else needs the numbers of rule, or of noise."),
    (&["settings"], "All that a group does around its rule."),
    (&["cpu", "gpu"], "Two executors: neither knows the other, or who calls it."),
    (&["any_rule"], "A rule without its type, with what the CPU runs of it."),
    (&["rules"], "The rules that there are."),
    (&["torch", "bitsandbytes"], "PyTorch's names for rules."),
    (&["optimizer", "solve"], "Two front doors to the executors: none knows the other."),
    (&["burn", "check"], "Burn's modules, over the optimizer; and our steps beside those of other libraries."),
    (&["js"], "Classes for JavaScript, over all of it."),
    (&["internals"], "Hands out parts of all rooms to tests and to the binary."),
    (&["lib", "guide", "main", "cli"], "The index of public names, its guide, and the binary."),
];

/// Arrows that still run up.
const KNOWN: [(&str, &str); 0] = [];

/// A word or a sign of the source, and its line.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The source without comments, strings and characters. `::` is one token.
fn tokens(source: &str) -> Vec<Token> {
    let (text, mut tokens, mut line, mut at) = (source.chars().collect::<Vec<_>>(), Vec::new(), 1, 0);
    let next = |at: usize| text.get(at).copied().unwrap_or('\0');
    while at < text.len() {
        let begin = at;
        match text[at] {
            '/' if next(at + 1) == '/' => {
                while at < text.len() && text[at] != '\n' {
                    at += 1;
                }
            }
            '/' if next(at + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (next(at), next(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 || at >= text.len() {
                        break;
                    }
                }
            }
            '"' => at = after_string(&text, at),
            // A character, unless it is a lifetime.
            '\'' if next(at + 1) == '\\' => {
                at += 3;
                while at < text.len() && text[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            '\'' if next(at + 2) == '\'' => at += 3,
            c if c.is_alphabetic() || c == '_' => {
                while next(at).is_alphanumeric() || next(at) == '_' {
                    at += 1;
                }
                let name: String = text[begin..at].iter().collect();
                let hashes = text[at..].iter().take_while(|&&c| c == '#').count();
                let raw = ["r", "br", "cr"].contains(&name.as_str()) && next(at + hashes) == '"';
                if raw {
                    let end: Vec<_> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    at += hashes + 1;
                    while at < text.len() && !text[at..].starts_with(&end) {
                        at += 1;
                    }
                    at += end.len();
                } else {
                    tokens.push(Token { text: name, line });
                }
            }
            ':' if next(at + 1) == ':' => {
                tokens.push(Token { text: "::".into(), line });
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.into(), line });
                }
                at += 1;
            }
        }
        line += text[begin..at.min(text.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

/// Where a string in quotes ends.
fn after_string(text: &[char], begin: usize) -> usize {
    let mut at = begin + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Where the item that begins here ends: behind its `;` or its body.
fn after_item(tokens: &[Token], begin: usize) -> usize {
    let (mut depth, mut at, mut import) = (0, begin, false);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "use" if depth == 0 => import = true,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !import {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => (),
        }
        at += 1;
    }
    at
}

/// A path as a file writes it, and the module in which it stands.
#[derive(Clone, Debug)]
struct Named {
    module: Vec<String>,
    path: Vec<String>,
    line: usize,
    /// Of a `use`: the name that it gives here.
    gives: Option<String>,
}

/// All paths in a file of the module, outside of `#[cfg(test)]` and `#[cfg(doc)]`.
fn paths(source: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(source);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let (mut found, mut inline, mut depth, mut at) = (Vec::new(), Vec::<(String, usize)>::new(), 0, 0);
    while at < tokens.len() {
        let (token, here) = (&tokens[at], module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())));
        let left_out = ["test", "doc"]
            .iter()
            .any(|what| ["#", "[", "cfg", "(", what, ")", "]"].iter().enumerate().all(|(k, text)| is(at + k, text)));
        if left_out {
            at = after_item(&tokens, at + 7);
            continue;
        }
        match token.text.as_str() {
            "mod" if is(at + 2, "{") => {
                inline.push((tokens[at + 1].text.clone(), depth));
                depth += 1;
                at += 3;
            }
            "use" => at = tree(&tokens, at + 1, &here.collect::<Vec<_>>(), &mut Vec::new(), &mut found) + 1,
            "{" => (depth, at) = (depth + 1, at + 1),
            "}" => {
                depth -= 1;
                inline.pop_if(|(_, outside)| *outside == depth);
                at += 1;
            }
            _ if token.is_name() && is(at + 1, "::") && (at == 0 || !is(at - 1, "::")) => {
                let (line, mut path) = (token.line, vec![token.text.clone()]);
                at += 1;
                while is(at, "::") && tokens.get(at + 1).is_some_and(Token::is_name) {
                    path.push(tokens[at + 1].text.clone());
                    at += 2;
                }
                found.push(Named { module: here.collect(), path, line, gives: None });
            }
            _ => at += 1,
        }
    }
    found
}

/// Reads the paths of a `use`, from behind `use` or within its braces, and returns where they end.
fn tree(tokens: &[Token], mut at: usize, module: &[String], prefix: &mut Vec<String>, found: &mut Vec<Named>) -> usize {
    let (own, mut line, mut gives) = (prefix.len(), 0, None);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "::" if prefix.is_empty() => prefix.push(String::new()),
            "::" => (),
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = tree(tokens, at, module, prefix, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                (line, at) = (0, at + 1);
                break;
            }
            "as" => {
                gives = tokens.get(at + 1).map(|token| token.text.clone());
                at += 1;
            }
            "," | "}" | ";" => break,
            text => {
                line = tokens[at].line;
                gives = Some(text.to_owned());
                prefix.push(text.to_owned());
            }
        }
        at += 1;
    }
    if line > 0 {
        found.push(Named { module: module.to_vec(), path: prefix.clone(), line, gives });
    }
    prefix.truncate(own);
    at
}

/// An import from one file to another.
#[derive(Clone, Debug)]
struct Arrow {
    from: String,
    line: usize,
    to: String,
    path: String,
}

/// The text of each file, by its path from the root of the repository.
type Sources = BTreeMap<String, String>;

/// The module of a file; `lib.rs` and `main.rs` are roots.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let names = path.split('/').filter(|name| !["mod", "lib", "main"].contains(name));
    names.map(str::to_owned).collect()
}

/// The first folder or file on the way to this file.
fn room_of(file: &str) -> &str {
    file.trim_start_matches("src/").trim_end_matches(".rs").split('/').next().unwrap_or_default()
}

/// Every path that leads from one of our files to another.
fn arrows(sources: &Sources) -> Vec<Arrow> {
    let modules: BTreeMap<_, _> =
        sources.keys().filter(|file| *file != "src/main.rs").map(|file| (module_of(file), file.clone())).collect();
    let named: BTreeMap<_, _> = sources.iter().map(|(file, text)| (file, paths(text, &module_of(file)))).collect();
    // The names that the library's root gives: of a `use`, or of an exported macro.
    let mut root = BTreeMap::new();
    for Named { path, gives, .. } in named.iter().filter(|(file, _)| **file == "src/lib.rs").flat_map(|(_, of)| of) {
        root.extend(gives.clone().map(|name| (name, path.clone())));
    }
    for (file, text) in sources {
        let tokens = tokens(text);
        let macros = tokens.windows(3).filter(|three| three[0].text == "macro_rules" && three[1].text == "!");
        root.extend(macros.map(|three| (three[2].text.clone(), module_of(file))));
    }
    let file_of = |path: &[String]| (0..=path.len()).rev().find_map(|len| modules.get(&path[..len]));
    let mut arrows = Vec::new();
    for (file, paths) in &named {
        for Named { module, path, line, .. } in paths {
            let Some(mut whole) = resolve(module, path, &modules) else { continue };
            if let [name, ..] = whole.as_slice()
                && file_of(&whole).is_some_and(|to| to == "src/lib.rs")
                && let Some(meant) = root.get(name)
            {
                whole.clone_from(meant);
            }
            if let Some(to) = file_of(&whole).filter(|to| to != file) {
                arrows.push(Arrow { from: (*file).clone(), line: *line, to: to.clone(), path: path.join("::") });
            }
        }
    }
    arrows
}

/// The path from the root; `None` for another crate's.
fn resolve(module: &[String], path: &[String], modules: &BTreeMap<Vec<String>, String>) -> Option<Vec<String>> {
    let own = path.first()? == "self";
    let path = &path[usize::from(own)..];
    let ups = path.iter().take_while(|name| *name == "super").count();
    let (base, rest) = match path.first().map(String::as_str) {
        Some("crate") => (&[][..], &path[1..]),
        Some("super") => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
        _ if own => (module, path),
        first => {
            let child: Vec<_> = module.iter().map(String::as_str).chain(first).map(str::to_owned).collect();
            modules.contains_key(&child).then_some((module, path))?
        }
    };
    Some(base.iter().chain(rest).cloned().collect())
}

/// What is wrong with the arrows between rooms: each that runs up, each file without a room, and each of the known
/// exceptions that is none.
fn upward(sources: &Sources, rooms: &[(&[&str], &str)], known: &[(&str, &str)]) -> Vec<String> {
    let level = |room: &str| rooms.iter().position(|(names, _)| names.contains(&room));
    let (mut wrong, mut excepted) = (Vec::new(), BTreeSet::new());
    let homeless = sources.keys().filter(|file| level(room_of(file)).is_none());
    wrong.extend(homeless.map(|file| format!("{file}: `{}` is in no line of ROOMS", room_of(file))));
    for Arrow { from, line, to, path } in arrows(sources) {
        let (above, below) = (room_of(&from), room_of(&to));
        let (Some(a), Some(b)) = (level(above), level(below)) else { continue };
        // The index, the guide and the binary are all at the top.
        if above == below || b < a || a + 1 == rooms.len() {
            continue;
        }
        if let Some(pair) = known.iter().find(|pair| **pair == (above, below)) {
            excepted.insert(pair);
            continue;
        }
        wrong.push(format!("{from}:{line}: {above} → {below} ({path}). {below}: {}", rooms[b].1));
    }
    let needless = known.iter().filter(|pair| !excepted.contains(pair));
    wrong.extend(needless.map(|(from, to)| format!("{from} → {to} is gone: take it out of KNOWN")));
    wrong
}

/// A circle of imports among the files of a folder.
fn circle(sources: &Sources, folder: &str) -> Option<String> {
    let mut next = BTreeMap::<_, Vec<_>>::new();
    for arrow in arrows(sources) {
        if arrow.from.starts_with(folder) && arrow.to.starts_with(folder) {
            next.entry(arrow.from.clone()).or_default().push(arrow);
        }
    }
    fn walk(
        file: &str,
        next: &BTreeMap<String, Vec<Arrow>>,
        way: &mut Vec<Arrow>,
        done: &mut BTreeSet<String>,
    ) -> Option<String> {
        if let Some(begin) = way.iter().position(|arrow| arrow.from == file) {
            let step = |arrow: &Arrow| format!("{}:{} → {} ({})", arrow.from, arrow.line, arrow.to, arrow.path);
            return Some(way[begin..].iter().map(step).collect::<Vec<_>>().join("\n"));
        }
        if done.contains(file) {
            return None;
        }
        for arrow in next.get(file).into_iter().flatten() {
            way.push(arrow.clone());
            let found = walk(&arrow.to, next, way, done);
            way.pop();
            if found.is_some() {
                return found;
            }
        }
        done.insert(file.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    next.keys().find_map(|file| walk(file, &next, &mut Vec::new(), &mut done))
}

fn sources() -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut sources, mut folders) = (Sources::new(), vec![root.join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let names = path.strip_prefix(root).unwrap().iter().map(|name| name.to_str().unwrap());
                sources.insert(names.collect::<Vec<_>>().join("/"), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    sources
}

#[test]
fn imports_run_downward() {
    let sources = sources();
    // Arrows that are there say that the test sees them.
    let (arrows, seen) = (arrows(&sources), |from: &str, to: &str, arrows: &[Arrow]| {
        arrows.iter().any(|arrow| room_of(&arrow.from) == from && room_of(&arrow.to) == to)
    });
    assert!(arrows.len() > 300, "{}", arrows.len());
    for (from, to) in [("rules", "rule"), ("optimizer", "gpu"), ("solve", "gpu"), ("main", "cli"), ("lib", "optimizer")]
    {
        assert!(seen(from, to, &arrows), "{from} → {to} was not seen");
    }
    let wrong = upward(&sources, &ROOMS, &KNOWN);
    assert!(wrong.is_empty(), "imports run upward:\n{}", wrong.join("\n"));
}

#[test]
fn no_two_files_of_the_binary_import_each_other() {
    let circle = circle(&sources(), "src/cli/");
    assert!(circle.is_none(), "a circle:\n{}", circle.unwrap_or_default());
}

/// Two rooms and a root: `high` may import `low`.
fn example(low: &str, high: &str) -> Vec<String> {
    let root = "mod low; mod high; pub use high::{Thing, deep::Other as Another};";
    let files = [("src/lib.rs", root), ("src/low.rs", low), ("src/high/mod.rs", high), ("src/high/deep.rs", "")];
    let sources = files.map(|(file, text)| (file.to_owned(), text.to_owned())).into();
    let rooms: [(&[&str], &str); 3] = [(&["low"], "l"), (&["high"], "h"), (&["lib"], "r")];
    upward(&sources, &rooms, &[])
}

#[test]
fn an_import_that_runs_up_is_found_however_it_is_written() {
    for low in [
        "use crate::high::Thing;",
        "use std::fmt;\nuse crate::{high::{self, deep}, low};",
        "pub(crate) use super::high;",
        "fn f() { crate::high::deep::g(); }",
        "fn f(x: &super::high::Thing) {}",
        "mod inner { fn f(x: super::super::high::Thing) {} }",
        "mod inner { use super::low; } use super::high::Thing;",
        "use self::super::high;",
        "fn f(x: crate::Thing) {}",
        "use crate::Another;",
        "macro_rules! m { () => { $crate::Thing } }",
        "fn f<'a>(x: &'a str) -> char { '\"' } use crate::high::Thing; // \"",
        "const A: &str = r#\"\"#; use crate::high::Thing; const B: &str = r#\"\"#;",
        "#[cfg(feature = \"x\")] use crate::high::Thing;",
        "#[cfg(test)] use crate::low; use crate::high::Thing;",
        "#[cfg(test)] mod tests { use super::*; } use crate::high::Thing;",
    ] {
        let wrong = example(low, "");
        assert!(!wrong.is_empty() && wrong.iter().all(|w| w.starts_with("src/low.rs:")), "{low}: {wrong:?}");
    }
    let wrong = example("use std::fmt;\n/* two\nlines */\nuse crate::high::Thing;", "");
    assert_eq!(wrong, ["src/low.rs:4: low → high (crate::high::Thing). high: h"]);
}

#[test]
fn what_is_no_import_or_runs_down_is_left_alone() {
    for low in [
        "",
        "use ::high::Thing; use other::high; use crate::low::Own; use self::Own;",
        "//! use crate::high::Thing;\n/// [`crate::high`]\n/* /* */ use crate::high; */",
        "const A: &str = \"crate::high::f \\\" crate::high::g\"; const B: &str = r#\"\" crate::high::h\"#;",
        "#[cfg(test)] mod tests { use crate::high::Thing; }",
        "#[cfg(test)]\n#[allow(unused)]\nuse crate::high::{Thing, deep};",
        "#[cfg(doc)] use crate::high::Thing;",
        "struct S; impl S { #[cfg(test)] fn f(x: [u8; 2]) { crate::high::g() } }",
    ] {
        let wrong = example(low, "use crate::low::Own; mod deep; use deep::Other; fn f() { super::low::g() }");
        assert!(wrong.is_empty(), "{low}: {wrong:?}");
    }
}

#[test]
fn a_file_without_a_room_and_a_needless_exception_are_found() {
    let sources: Sources = [("src/new.rs".to_owned(), String::new())].into();
    let wrong = upward(&sources, &[(&["old"], "o")], &[("old", "new")]);
    assert_eq!(wrong, ["src/new.rs: `new` is in no line of ROOMS", "old → new is gone: take it out of KNOWN"]);
}

#[test]
fn a_circle_of_three_files_is_found() {
    let files = |last: &str| {
        let root = ("src/cli/mod.rs", "mod a; mod b; mod c;");
        let files =
            [root, ("src/cli/a.rs", "use super::b;"), ("src/cli/b.rs", "use super::{x, c};"), ("src/cli/c.rs", last)];
        files.map(|(file, text)| (file.to_owned(), text.to_owned())).into()
    };
    assert_eq!(circle(&files("use super::x;"), "src/cli/"), None);
    let three = "src/cli/a.rs:1 → src/cli/b.rs (super::b)\nsrc/cli/b.rs:1 → src/cli/c.rs (super::c)\n\
                 src/cli/c.rs:1 → src/cli/a.rs (crate::cli::a::f)";
    assert_eq!(circle(&files("fn g() { crate::cli::a::f() }"), "src/cli/").as_deref(), Some(three));
}
