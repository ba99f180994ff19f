//! Refuses dynamic builds for Linux, and makes the index of the built-in profiles, so that a start parses only the
//! few it needs.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if os == "linux" && !features.split(',').any(|f| f == "crt-static") {
        eprintln!(
            "guard must be a static binary: in a dynamic one the loader runs LD_PRELOAD before guard's locks.\n\
             The repository's .cargo/config.toml sets this; RUSTFLAGS in the environment replaces it. Build with\n\
             RUSTFLAGS='-C target-feature=+crt-static' cargo build --target <target>"
        );
        std::process::exit(1);
    }
    println!("cargo:rerun-if-changed=profiles");
    let mut index = String::from("&[\n");
    for (folder, kind) in [("", "Base"), ("toolchains", "Toolchain"), ("agents", "Agent")] {
        let folder = Path::new("profiles").join(folder);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.expect("a readable directory").path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        files.sort();
        for file in files {
            let name = file.file_stem().and_then(|s| s.to_str()).expect("a profile's name is UTF-8");
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let list = |section: &str, key: &str| -> Vec<String> {
                let values = table.get(section).and_then(|s| s.get(key)).and_then(|v| v.as_array());
                values.into_iter().flatten().filter_map(|v| v.as_str()).map(str::to_owned).collect()
            };
            let absolute = fs::canonicalize(&file).expect("it was just read");
            writeln!(
                index,
                "Builtin {{ name: {name:?}, kind: BuiltinKind::{kind}, file: {file:?}, text: include_str!({absolute:?}), \
                 commands: &{:?}, packages: &{:?}, files: &{:?}, paths: &{:?} }},",
                list("agent", "commands"),
                list("agent", "packages"),
                list("detect", "files"),
                list("detect", "paths"),
            )
            .expect("writing to a string");
        }
    }
    index.push(']');
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("builtin.rs"), index).expect("OUT_DIR is writable");
}
