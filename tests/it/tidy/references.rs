//! The references of a source file: every path in its `use` trees, its code and the bodies of its macros.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Macro, Meta, MetaList, UseTree, Visibility};

/// A path that begins at the root of our crate, or with the name of another crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The names of the path: `["queue", "Work"]` for `crate::queue::Work`, `["axum", "Router"]` for another crate. A
    /// glob is `*`.
    pub path: Vec<String>,
    pub is_ours: bool,
    pub kind: Kind,
    /// The name that a `use` gives it with `as`.
    pub alias: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In a `use`.
    Import,
    /// In a `pub use`.
    Export,
    /// In code.
    Code,
    /// In an item that only unit tests have.
    Test,
}

/// Returns the references of the file of the module `module`, without its unit tests.
pub fn references(source: &str, module: &[String]) -> Vec<Reference> {
    let file = syn::parse_file(source).unwrap();
    let children = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(item) => Some(item.ident.to_string()),
        _ => None,
    });
    let mut walk = Walk {
        children: vec![children.collect()],
        module: module.to_vec(),
        is_test: false,
        found: Vec::new(),
    };
    walk.visit_file(&file);
    resolve_exports(&mut walk.found);
    // A path with one name is a variable or an item of this file.
    walk.found.retain(|reference| {
        reference.is_ours || reference.path.len() > 1 || reference.kind != Kind::Code
    });
    walk.found
}

/// Completes paths in code that begin with a name that the file re-exports.
fn resolve_exports(found: &mut [Reference]) {
    let exports = found.iter().filter(|export| export.is_ours && export.kind == Kind::Export);
    let exports: Vec<(String, Vec<String>)> = exports
        .filter_map(|export| Some((export.name()?.to_owned(), export.path.clone())))
        .collect();
    let in_code = found.iter_mut().filter(|it| !it.is_ours && it.kind == Kind::Code);
    for reference in in_code {
        if let Some((_, export)) = exports.iter().find(|(name, _)| *name == reference.path[0]) {
            reference.path = [export.as_slice(), &reference.path[1..]].concat();
            reference.is_ours = true;
        }
    }
}

impl Reference {
    /// Returns the name that a `use` brings into scope.
    pub fn name(&self) -> Option<&str> {
        self.alias.as_ref().or(self.path.last()).map(String::as_str)
    }
}

struct Walk {
    /// The module that the walk is in.
    module: Vec<String>,
    /// The modules that it declares, and those that the enclosing modules in the file declare.
    children: Vec<Vec<String>>,
    is_test: bool,
    found: Vec<Reference>,
}

impl Walk {
    /// Notes a path, whose first names may be `crate`, `self` and `super`.
    fn note(&mut self, names: &[String], alias: Option<String>, kind: Kind) {
        let mut from = None;
        let mut rest = names;
        while let Some((first, others)) = rest.split_first() {
            match (first.as_str(), &mut from) {
                ("crate", None) => from = Some(Vec::new()),
                ("self", None) => from = Some(self.module.clone()),
                ("super", None) => from = Some(parent(&self.module)),
                ("super", Some(module)) => *module = parent(module),
                _ => break,
            }
            rest = others;
        }
        // A path with one name is a variable, a function or an item of this module, and nothing from elsewhere.
        if from.is_none()
            && names.len() > 1
            && self.children.last().is_some_and(|known| known.contains(&names[0]))
        {
            from = Some(self.module.clone());
        }
        let is_ours = from.is_some();
        let kind = if self.is_test { Kind::Test } else { kind };
        let path = from.unwrap_or_default().into_iter().chain(rest.iter().cloned()).collect();
        self.found.push(Reference { path, is_ours, kind, alias });
    }

    /// Notes a path that begins with the name of another crate.
    fn note_crate(&mut self, path: Vec<String>, kind: Kind) {
        let kind = if self.is_test { Kind::Test } else { kind };
        self.found.push(Reference { path, is_ours: false, kind, alias: None });
    }

    fn tree(&mut self, tree: &UseTree, before: &[String], kind: Kind) {
        let with = |name: &syn::Ident| {
            let mut names = before.to_vec();
            // `a::{self}` names `a`.
            if name != "self" || before.is_empty() {
                names.push(name.to_string());
            }
            names
        };
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident), kind),
            UseTree::Name(name) => self.note(&with(&name.ident), None, kind),
            UseTree::Rename(name) => {
                self.note(&with(&name.ident), Some(name.rename.to_string()), kind);
            }
            UseTree::Glob(_) => {
                let names: Vec<String> = before.iter().cloned().chain(["*".to_owned()]).collect();
                self.note(&names, None, kind);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, kind);
                }
            }
        }
    }

    /// Notes the paths in tokens that are not parsed: the bodies of macros and attributes.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        self.token_paths(&tokens, &[]);
    }

    /// Notes the paths in `tokens`, each after the names `before`.
    fn token_paths(&mut self, tokens: &[TokenTree], before: &[String]) {
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        let mut at = 0;
        while at < tokens.len() {
            let mut names = before.to_vec();
            let mut group = None;
            // `::a` is the crate `a`, even beside a module of that name.
            let is_crate = at >= 2 && is_colon(at - 1) && is_colon(at - 2);
            match &tokens[at] {
                // `pub(super)` is no reference.
                TokenTree::Ident(first)
                    if first == "pub"
                        && matches!(tokens.get(at + 1), Some(TokenTree::Group(_))) =>
                {
                    at += 2;
                    continue;
                }
                TokenTree::Ident(first) => {
                    names.push(first.to_string());
                    at += 1;
                    while is_colon(at) && is_colon(at + 1) {
                        at += 2;
                        match tokens.get(at) {
                            Some(TokenTree::Ident(next)) => names.push(next.to_string()),
                            Some(TokenTree::Group(inner))
                                if inner.delimiter() == Delimiter::Brace =>
                            {
                                group = Some(inner.stream());
                            }
                            _ => break,
                        }
                        at += 1;
                        if group.is_some() {
                            break;
                        }
                    }
                }
                TokenTree::Group(inner) => {
                    self.tokens(inner.stream());
                    at += 1;
                    continue;
                }
                _ => {
                    at += 1;
                    continue;
                }
            }
            match group {
                Some(group) => {
                    let inner: Vec<TokenTree> = group.into_iter().collect();
                    self.token_paths(&inner, &names);
                }
                None if is_crate => self.note_crate(names, Kind::Code),
                None => self.note(&names, None, Kind::Code),
            }
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[Attribute] = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &[],
        };
        let was_test = self.is_test;
        self.is_test |= is_for_tests(attributes);
        visit::visit_item(self, item);
        self.is_test = was_test;
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let was_test = self.is_test;
        self.is_test |= is_for_tests(&function.attrs);
        visit::visit_impl_item_fn(self, function);
        self.is_test = was_test;
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let Some((_, items)) = &item.content else { return };
        // Unit tests inside a file may import anything.
        if is_for_tests(&item.attrs) {
            return;
        }
        let children = items.iter().filter_map(|item| match item {
            syn::Item::Mod(item) => Some(item.ident.to_string()),
            _ => None,
        });
        self.children.push(children.collect());
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.children.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let kind = match item.vis {
            Visibility::Inherited => Kind::Import,
            Visibility::Public(_) | Visibility::Restricted(_) => Kind::Export,
        };
        self.tree(&item.tree, &[], kind);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        match path.leading_colon {
            Some(_) => self.note_crate(names, Kind::Code),
            None => self.note(&names, None, Kind::Code),
        }
        visit::visit_path(self, path);
    }

    // `pub(in crate::a)` and `pub(super)` are not references.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_macro(&mut self, item: &'ast Macro) {
        visit::visit_macro(self, item);
        self.tokens(item.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast MetaList) {
        visit::visit_meta_list(self, list);
        self.tokens(list.tokens.clone());
    }
}
