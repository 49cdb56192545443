//! Files as they came from a worker: whole, or refused.

use super::{Bounds, FIXED, Files, INODE_MAX, Inode, Kind, NAME_BYTES_MAX, PATH_BYTES_MAX, ROOT, TMP, WORKSPACE};
use std::collections::BTreeSet;

/// The parked files are not such as a worker leaves behind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parked files are broken: {0}")]
pub(in crate::sandbox) struct Broken(&'static str);

impl Files {
    /// Makes sure that it is one tree within bounds, and that only `held` files are outside of it. To be called after
    /// every decoding, before anything else: it also works out what is not parked.
    pub fn check(&mut self, bounds: Bounds, held: impl IntoIterator<Item = Inode>) -> Result<(), Broken> {
        self.bounds = bounds;
        if self.nodes.len() > bounds.files_max.saturating_add(FIXED) {
            return broken("too many");
        }
        let file_bytes = self.nodes.values().map(|node| match &node.kind {
            Kind::File(contents) => contents.len(),
            Kind::Directory(_) => 0,
        });
        self.bytes = file_bytes.sum();
        if self.bytes > bounds.bytes_max {
            return broken("too many bytes");
        }
        if self.nodes.last_key_value().is_none_or(|(last, _)| *last >= self.next) || self.next > INODE_MAX {
            return broken("numbers that will be used twice");
        }
        for node in self.nodes.values_mut() {
            node.holders = 0;
        }
        for inode in held {
            match self.nodes.get_mut(&inode) {
                Some(node) => node.holders += 1,
                None => return broken("a descriptor of no file"),
            }
        }
        let within = self.walk()?;
        for (inode, node) in &self.nodes {
            let is_removed = node.parent.is_none() && node.holders > 0;
            let is_empty = !matches!(&node.kind, Kind::Directory(entries) if !entries.is_empty());
            if !(within.contains(inode) || is_removed && is_empty) {
                return broken("one outside of the tree");
            }
        }
        Ok(())
    }

    /// All that a path leads to.
    fn walk(&self) -> Result<BTreeSet<Inode>, Broken> {
        self.check_fixed()?;
        let mut within = BTreeSet::from([ROOT]);
        let mut open = vec![(ROOT, 0)];
        while let Some((directory, path_bytes)) = open.pop() {
            let Ok(entries) = self.directory(directory) else { continue };
            for (name, inode) in entries {
                let path_bytes = path_bytes + 1 + name.len();
                if !is_name(name) || path_bytes > PATH_BYTES_MAX {
                    return broken("a name that cannot be");
                }
                if self.nodes.get(inode).is_none_or(|node| node.parent != Some(directory)) || !within.insert(*inode) {
                    return broken("an entry that leads elsewhere");
                }
                open.push((*inode, path_bytes));
            }
        }
        Ok(within)
    }

    fn check_fixed(&self) -> Result<(), Broken> {
        let Ok(root) = self.directory(ROOT) else { return broken("no root") };
        let is_root = self.node(ROOT).is_ok_and(|root| root.parent == Some(ROOT));
        let is_there = |name, inode| root.get(name) == Some(&inode) && self.directory(inode).is_ok();
        if !is_root || !is_there("tmp", TMP) || !is_there("workspace", WORKSPACE) {
            return broken("a directory is missing that is always there");
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

fn broken<T>(what: &'static str) -> Result<T, Broken> {
    Err(Broken(what))
}
