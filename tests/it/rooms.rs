//! The arrows between rooms, the size of files, and the lists that must say the same in several places.
//! Reads the source as text. The table of arrows is ARCHITECTURE.md's own; this file holds no copy of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use dropbox_connector::fault::Reason;

const LINES_MAX: usize = 700;

// ---- reading the tree ----

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` whose name ends so, as paths relative to the package with `/` separators.
fn files(folder: &str, ending: &str) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/"))
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    names
}

/// The files of `src/` that are not unit tests of their neighbour (`tests.rs`, `gate_tests.rs`, a folder `tests/`).
fn sources() -> Vec<String> {
    let is_test = |path: &String| path.ends_with("tests.rs") || path.contains("/tests/");
    files("src", ".rs").into_iter().filter(|path| !is_test(path)).collect()
}

/// Numbered lines of a source file: without comments, and without the unit tests at its foot.
fn code(path: &str) -> Vec<(usize, String)> {
    let text = read(path);
    let mut lines = Vec::new();
    let mut test_follows = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if test_follows && trimmed.starts_with("mod ") && trimmed.ends_with('{') {
            break;
        }
        test_follows = trimmed == "#[cfg(test)]" || (test_follows && trimmed.starts_with("#["));
        let code = if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or("") };
        lines.push((index + 1, code.to_owned()));
    }
    lines
}

/// The top-level module a source file belongs to: `src/engine/gate.rs` and `src/engine/mod.rs` to `engine`.
fn room_of(path: &str) -> &str {
    let inner = path.strip_prefix("src/").expect("a path under src/");
    inner.split('/').next().unwrap().trim_end_matches(".rs")
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The first names of every `crate::…` path of a file, with the line: of `crate::{a::B, c}` both `a` and `c`.
fn crate_paths(lines: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut text = String::new();
    let mut starts = Vec::new();
    for (number, line) in lines {
        starts.push((text.len(), *number));
        text.push_str(line);
        text.push('\n');
    }
    let line_at = |at: usize| starts[starts.partition_point(|(start, _)| *start <= at) - 1].1;
    let mut found = Vec::new();
    for prefix in ["crate::", "dropbox_connector::", "super::super::"] {
        for (at, _) in text.match_indices(prefix) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if is_word(before) || before == ':' {
                continue;
            }
            let rest = &text[at + prefix.len()..];
            for name in first_names(rest) {
                found.push((line_at(at), name));
            }
        }
    }
    found
}

/// `engine::Gate` → engine; `{engine::{A, B}, store}` → engine, store. Macros (`name!`) are nobody's room.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| -> Option<String> {
        let name: String = text.trim_start().chars().take_while(|c| is_word(*c)).collect();
        let after = text.trim_start()[name.len()..].chars().next();
        (!name.is_empty() && after != Some('!')).then_some(name)
    };
    let Some(group) = rest.strip_prefix('{') else { return word(rest).into_iter().collect() };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                names.extend(word(&group[start..at]));
                break;
            }
            ',' if depth == 0 => {
                names.extend(word(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn marked(path: &str, name: &str) -> String {
    let text = read(path);
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let start = text.find(&open).unwrap_or_else(|| panic!("{path} has no {open}")) + open.len();
    let end = text[start..].find(&close).unwrap_or_else(|| panic!("{path} has no {close}"));
    text[start..start + end].to_owned()
}

/// The words in back quotes of a text.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// First cell (its words in back quotes) and the other cells of each row of a Markdown table, without its head.
fn rows(table: &str) -> Vec<(Vec<String>, String)> {
    table
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let (first, others) = line[1..].split_once('|').expect("a row of at least two cells");
            (quoted(first), others.to_owned())
        })
        .collect()
}

fn report(misses: Vec<String>) {
    assert!(misses.is_empty(), "\n{}\n", misses.join("\n"));
}

// ---- arrows ----

struct Arrows {
    rooms: BTreeMap<String, BTreeSet<String>>,
    leaves: BTreeSet<String>,
}

impl Arrows {
    fn read() -> Arrows {
        let section = marked("ARCHITECTURE.md", "rooms");
        let leaves_line = section.lines().find(|line| line.starts_with("Leaves")).expect("a line of leaves");
        let (_, leaves) = leaves_line.split_once(':').expect("a colon before the leaves");
        let leaves: BTreeSet<String> = quoted(leaves).into_iter().collect();
        let every: BTreeSet<String> = modules();
        let mut rooms = BTreeMap::new();
        for (names, may) in rows(&section) {
            let named: BTreeSet<String> = quoted(&may).into_iter().collect();
            let allowed = if may.trim().starts_with("everything but") {
                every.difference(&named).cloned().collect()
            } else if may.trim().starts_with("only") {
                named
            } else {
                named.union(&leaves).cloned().collect()
            };
            rooms.insert(names.first().expect("a room's name").clone(), allowed);
        }
        for leaf in &leaves {
            rooms.insert(leaf.clone(), leaves.clone());
        }
        Arrows { rooms, leaves }
    }
}

/// Every top-level module there is, by the tree.
fn modules() -> BTreeSet<String> {
    files("src", ".rs").iter().map(|path| room_of(path).to_owned()).filter(|name| name != "lib").collect()
}

#[test]
fn every_room_names_only_what_its_row_in_the_architecture_page_allows() {
    let arrows = Arrows::read();
    let modules = modules();
    let mut misses = Vec::new();
    for room in &modules {
        if !arrows.rooms.contains_key(room) {
            misses.push(format!("src/{room}: no row in ARCHITECTURE.md"));
        }
    }
    for room in arrows.rooms.keys() {
        if !modules.contains(room) {
            misses.push(format!("ARCHITECTURE.md: there is no module `{room}`"));
        }
    }
    for path in sources() {
        let room = room_of(&path);
        let Some(allowed) = arrows.rooms.get(room) else { continue };
        for (line, name) in crate_paths(&code(&path)) {
            let is_room = modules.contains(&name);
            if is_room && name != room && !allowed.contains(&name) {
                misses.push(format!("{path}:{line}: `{room}` may not name `{name}`"));
            } else if !is_room && room != "main" && !path.starts_with("src/lib") && !in_own_room(&path, &name) {
                misses.push(format!("{path}:{line}: `crate::{name}` is no room; name it by its room's path"));
            }
        }
    }
    report(misses);
}

/// `super::super::name` from two levels down may be a module of the same room.
fn in_own_room(path: &str, name: &str) -> bool {
    let folder = root().join("src").join(room_of(path));
    path.matches('/').count() > 1
        && (folder.join(format!("{name}.rs")).exists()
            || folder.join(name).exists()
            || name.starts_with(char::is_uppercase))
}

#[test]
fn leaves_do_not_name_each_other_in_a_circle() {
    let arrows = Arrows::read();
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources() {
        let room = room_of(&path);
        if arrows.leaves.contains(room) {
            let named = crate_paths(&code(&path)).into_iter().map(|(_, name)| name);
            let others = named.filter(|name| name != room && arrows.leaves.contains(name));
            names.entry(room.to_owned()).or_default().extend(others);
        }
    }
    // Take away what names nothing that is left, until nothing moves; what remains goes round.
    while let Some(free) =
        names.iter().find(|(_, named)| named.iter().all(|name| !names.contains_key(name))).map(|(leaf, _)| leaf.clone())
    {
        names.remove(&free);
    }
    assert!(names.is_empty(), "these leaves name each other in a circle: {names:?}");
}

#[test]
fn no_source_file_is_longer_than_seven_hundred_lines() {
    let mut misses = Vec::new();
    for path in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        let lines = read(&path).lines().count();
        if lines > LINES_MAX {
            misses.push(format!("{path}: {lines} lines; split it by concept"));
        }
    }
    report(misses);
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    let unopened = files("src", ".rs").into_iter().filter(|path| !read(path).starts_with("//!"));
    report(unopened.map(|path| format!("{path}: begin with //!, what it is and what always holds")).collect());
}

// ---- names that belong to one place ----

/// Lines of `src/` that name `word` in files for which `elsewhere` is true.
fn named_in(word: &str, elsewhere: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources().into_iter().filter(|path| elsewhere(path)) {
        for (line, text) in code(&path) {
            for (at, _) in text.match_indices(word) {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let after = text[at + word.len()..].chars().next().unwrap_or(' ');
                if !(is_word(before) || is_word(after) && word.ends_with(is_word)) {
                    found.push(format!("{path}:{line}: {}", text.trim()));
                }
            }
        }
    }
    found
}

#[test]
fn google_rpc_values_are_built_in_one_file() {
    let mut misses = named_in("tonic_types", |path| path != "src/service/status.rs" && !path.starts_with("src/cli/"));
    // The reflection list names their descriptors and builds nothing.
    misses.retain(|line| !(line.starts_with("src/service/") && line.contains("FILE_DESCRIPTOR_SET")));
    // The command line reads them, as any client does.
    for builder in ["with_error_details", "ErrorDetails::with", "ErrorDetails::new"] {
        misses.extend(named_in(builder, |path| path.starts_with("src/cli/")));
    }
    report(misses);
}

#[test]
fn only_the_dropbox_room_speaks_http_outwards() {
    // The key set of tokens' issuers is read by one GET of its own (ARCHITECTURE.md, "what you will not find").
    report(named_in("reqwest", |path| room_of(path) != "dropbox" && path != "src/access/fetch.rs"));
}

#[test]
fn the_sdk_lends_its_types_only() {
    let mut misses = Vec::new();
    for module in ["async_routes", "sync_routes", "default_client", "default_async_client", "oauth2", "client_trait"] {
        misses.extend(named_in(&format!("dropbox_sdk::{module}"), |_| true));
    }
    misses.extend(named_in("dropbox_sdk", |path| ["emulator", "store", "http", "cli"].contains(&room_of(path))));
    report(misses);
}

#[test]
fn only_the_store_speaks_sql() {
    report(named_in("sqlx", |path| room_of(path) != "store"));
}

#[test]
fn only_the_service_knows_grpc_on_the_servers_side() {
    let inner = ["convert", "engine", "credentials", "dropbox", "store", "emulator", "http"];
    report(named_in("tonic", |path| inner.contains(&room_of(path))));
}

/// `rsa`, which comes with `jsonwebtoken`, leaks private keys by its timing (RUSTSEC-2023-0071; `deny.toml`): it may verify with
/// public ones, and that is all that happens here.
#[test]
fn nothing_here_signs_tokens_or_holds_a_private_rsa_key() {
    let mut misses = Vec::new();
    for word in ["EncodingKey", "jsonwebtoken::encode", "RsaPrivateKey", "rsa::"] {
        misses.extend(named_in(word, |_| true));
    }
    misses.extend(named_in("jsonwebtoken", |path| !["src/access/jwt.rs", "src/access/keys.rs"].contains(&path)));
    report(misses);
}

#[test]
fn only_the_write_gate_grants_a_turn() {
    report(named_in("Turn::granted", |path| path != "src/engine/gate.rs"));
}

// ---- lists that must say the same ----

fn missing(from: &str, wanted: &BTreeSet<String>, found: &BTreeSet<String>, misses: &mut Vec<String>) {
    misses.extend(wanted.difference(found).map(|name| format!("{from}: {name} is missing")));
}

#[test]
fn every_reason_is_in_the_code_the_proto_and_the_readme() {
    let code: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.name().to_owned()).collect();
    let proto: BTreeSet<String> = read("proto/dropboxconnector/v1/errors.proto")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ERROR_REASON_"))
        .filter_map(|line| line.split([' ', '=']).next())
        .map(str::to_owned)
        .filter(|name| name != "UNSPECIFIED")
        .collect();
    let readme: BTreeSet<String> =
        rows(&marked("README.md", "errors")).into_iter().flat_map(|(names, _)| names).collect();
    let mut misses = Vec::new();
    missing("errors.proto", &code, &proto, &mut misses);
    missing("src/fault.rs", &proto, &code, &mut misses);
    missing("README.md, errors", &code, &readme, &mut misses);
    missing("src/fault.rs", &readme, &code, &mut misses);
    report(misses);
}

/// (full service name, method) of every RPC in the proto.
fn rpcs() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for path in files("proto", ".proto") {
        let mut service = String::new();
        for line in read(&path).lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = format!("dropboxconnector.v1.{}", rest.trim_end_matches('{').trim());
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                let method = rest.split('(').next().expect("a method's name").trim();
                found.insert((service.clone(), method.to_owned()));
            }
        }
    }
    assert!(!found.is_empty(), "no RPC found in proto/");
    found
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, character) in name.chars().enumerate() {
        if character.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(character.to_lowercase());
    }
    out
}

#[test]
fn every_rpc_is_in_exactly_one_group_of_the_clients_service_config() {
    let config: serde_json::Value = serde_json::from_str(&read("clients/service_config.json")).unwrap();
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    for group in config["methodConfig"].as_array().expect("methodConfig") {
        for name in group["name"].as_array().expect("names of a group") {
            let text = |key: &str| name[key].as_str().unwrap_or_else(|| panic!("{name}: no {key}")).to_owned();
            *times.entry((text("service"), text("method"))).or_default() += 1;
        }
    }
    let rpcs = rpcs();
    let mut misses = Vec::new();
    for (service, method) in &rpcs {
        match times.get(&(service.clone(), method.clone())) {
            Some(1) => {}
            Some(count) => misses.push(format!("{service}/{method}: in {count} groups")),
            None => misses.push(format!("{service}/{method}: in no group")),
        }
    }
    misses.extend(times.keys().filter(|key| !rpcs.contains(*key)).map(|(s, m)| format!("{s}/{m}: no such RPC")));
    report(misses);
}

#[test]
fn every_rpc_of_the_connector_has_its_line_in_the_table_of_contents() {
    let contents: String = code("src/service/connector.rs").into_iter().map(|(_, line)| line + "\n").collect();
    let mut misses = Vec::new();
    for (service, method) in rpcs() {
        let name = snake(&method);
        if service.ends_with(".DropboxConnector") && !contents.contains(&format!(".{name}(")) {
            misses.push(format!("src/service/connector.rs: no `self.<topic>.{name}(…)`"));
        }
    }
    report(misses);
}

#[test]
fn every_rpc_is_called_by_a_test() {
    let tests: String = files("tests/it", ".rs").iter().map(|path| read(path)).collect();
    let uncalled = rpcs().into_iter().filter(|(_, method)| !tests.contains(&format!(".{}(", snake(method))));
    report(uncalled.map(|(service, method)| format!("{service}/{method}: no test in tests/it calls it")).collect());
}

/// Keys of the defaults file as `section.key`, with those it shows commented out.
fn config_keys() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in read("src/config.default.toml").lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            continue;
        }
        // A key without a default is shown as `# key = …`; prose does not look like that.
        let line = line.strip_prefix('#').unwrap_or(line).trim_start();
        if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.is_empty() && key.chars().all(is_word)) {
            keys.insert(format!("{section}{key}"));
        }
    }
    assert!(!keys.is_empty(), "no key found in src/config.default.toml");
    keys
}

#[test]
fn every_config_key_is_in_the_readme_and_the_readme_names_no_other() {
    let defaults = config_keys();
    let readme: BTreeSet<String> =
        rows(&marked("README.md", "config")).into_iter().filter_map(|(names, _)| names.into_iter().next()).collect();
    let mut misses = Vec::new();
    missing("README.md, config", &defaults, &readme, &mut misses);
    missing("src/config.default.toml", &readme, &defaults, &mut misses);
    report(misses);
}

// ---- the reader itself ----

#[test]
fn the_reader_of_paths_sees_groups_and_ignores_comments_and_macros() {
    let lines = [
        (1, "use crate::{engine::{Gate, parts}, store, fault::Fault};".to_owned()),
        (2, "let x = crate::limits::MIB; pub(crate) fn f() { $crate::ensure!(a) }".to_owned()),
        (3, "use my_crate::other;".to_owned()),
    ];
    let found = crate_paths(&lines);
    let names: Vec<(usize, &str)> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(names, [(1, "engine"), (1, "store"), (1, "fault"), (2, "limits")]);
}
