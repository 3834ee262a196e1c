//! The source files with their modules, and the references between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::references::{Kind, Reference, references};

/// The path of a module, from the root of the crate: `["queue", "ask"]`.
type Module = Vec<String>;

/// The largest number of `pub use` between a name and the file that defines it.
const EXPORTS_MAX: usize = 8;

/// All source files and what they refer to.
pub struct Files {
    by_module: BTreeMap<Module, Vec<Reference>>,
}

impl Files {
    /// Reads the files below a folder.
    pub fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        super::sources(src, &mut files);
        Self::of(files.into_iter().map(|file| {
            let source = std::fs::read_to_string(&file).unwrap();
            (file.strip_prefix(src).unwrap().to_owned(), source)
        }))
    }

    /// Creates the set from files' paths below `src` and their contents.
    pub fn of(files: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let by_module = files.into_iter().map(|(file, source)| {
            let module = module_of(&file);
            let found = references(&source, &module);
            (module, found)
        });
        let mut by_module: BTreeMap<Module, Vec<Reference>> = by_module.collect();
        let modules: BTreeSet<Module> = by_module.keys().cloned().collect();
        for found in by_module.values_mut() {
            resolve_globs(found, &modules);
        }
        Self { by_module }
    }

    /// Returns each file and what it refers to.
    pub fn iter(&self) -> impl Iterator<Item = (&Module, &[Reference])> {
        self.by_module.iter().map(|(module, found)| (module, found.as_slice()))
    }

    /// Returns the top-level modules.
    pub fn tops(&self) -> Vec<&str> {
        let tops = self.by_module.keys().filter(|module| module.len() == 1);
        tops.map(|module| module[0].as_str()).collect()
    }

    /// Returns the file that defines the item of a path: the module's own, or the one from which it re-exports the
    /// name.
    fn target(&self, path: &[String], steps_left: usize) -> Option<Module> {
        let depth =
            (1..=path.len()).rev().find(|depth| self.by_module.contains_key(&path[..*depth]))?;
        let (module, rest) = path.split_at(depth);
        let here = Some(module.to_vec());
        let (Some(name), Some(steps_left)) = (rest.first(), steps_left.checked_sub(1)) else {
            return here;
        };
        let exports = self.by_module[module].iter();
        let mut exports = exports.filter(|export| {
            export.is_ours && export.kind == Kind::Export && export.name() == Some(name)
        });
        match exports.next() {
            Some(export) => {
                let path: Vec<String> = export.path.iter().chain(&rest[1..]).cloned().collect();
                self.target(&path, steps_left).or(here)
            }
            None => here,
        }
    }

    /// Returns for each file of a top-level module the files of the same module that it imports or names in its code.
    fn edges(&self, top: &str) -> BTreeMap<Module, BTreeSet<Module>> {
        let of_top = |module: &Module| module.first().is_some_and(|first| first == top);
        let files = self.iter().filter(|(module, _)| of_top(module));
        files
            .map(|(module, found)| {
                let used = found.iter().filter(|reference| {
                    reference.is_ours && matches!(reference.kind, Kind::Import | Kind::Code)
                });
                let targets =
                    used.filter_map(|reference| self.target(&reference.path, EXPORTS_MAX));
                let targets = targets.filter(|target| target != module && of_top(target));
                (module.clone(), targets.collect())
            })
            .collect()
    }

    /// Returns the groups of files of a top-level module that all reach each other.
    pub fn circles(&self, top: &str) -> Vec<BTreeSet<String>> {
        let edges = self.edges(top);
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            edges.keys().map(|file| (file, reached_from(file, &edges))).collect();
        let mut circles: Vec<BTreeSet<String>> = Vec::new();
        for (file, targets) in &reached {
            let together = targets.iter().filter(|other| reached[**other].contains(*file));
            let circle: BTreeSet<String> = together.map(|module| module.join("::")).collect();
            if circle.len() > 1 && !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }
}

/// Completes paths that begin with a module imported by a glob: `resolve::A` after `use super::*`.
fn resolve_globs(found: &mut [Reference], modules: &BTreeSet<Module>) {
    let is_glob = |reference: &&Reference| {
        reference.is_ours && reference.path.last().is_some_and(|last| last == "*")
    };
    let globs: Vec<Module> = found
        .iter()
        .filter(is_glob)
        .map(|glob| glob.path[..glob.path.len() - 1].to_vec())
        .collect();
    for reference in found.iter_mut().filter(|reference| !reference.is_ours) {
        let full = |glob: &Module| [glob.as_slice(), &reference.path].concat();
        let is_module = |glob: &&Module| modules.contains(&full(glob)[..=glob.len()]);
        if let Some(path) = globs.iter().find(is_module).map(full) {
            reference.path = path;
            reference.is_ours = true;
        }
    }
}

/// Returns every file that can be reached from a file, by one step or more.
fn reached_from<'e>(
    file: &Module,
    edges: &'e BTreeMap<Module, BTreeSet<Module>>,
) -> BTreeSet<&'e Module> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&Module> = edges[file].iter().collect();
    while let Some(next) = waiting.pop() {
        if let Some((next, further)) = edges.get_key_value(next)
            && reached.insert(next)
        {
            waiting.extend(further);
        }
    }
    reached
}

/// Returns the module of a file below `src`: `a::b` for `a/b.rs` and for `a/b/mod.rs`, and the root for `lib.rs`.
fn module_of(file: &Path) -> Module {
    let without = file.with_extension("");
    let mut names: Module =
        without.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|last| last == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}
