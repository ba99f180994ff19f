//! The landlock tier's part of the view: nothing can be put over anything, so what narrows a grant is a gap, and the
//! granted parts of the home are links in a home of the sandbox's own.

use std::collections::BTreeMap;

use super::Gap;
use super::view::Builder;
use crate::path::AbsPath;
use crate::policy::Access;

impl Builder<'_> {
    /// The landlock tier: nothing can be put over anything, so what narrows a grant is a gap.
    pub(super) fn flat(&mut self) {
        let mut withheld = Vec::new();
        let mut protected = Vec::new();
        let mut caches = Vec::new();
        for (at, item) in &self.view.items {
            // What is only protected is as open as what is above it.
            let mut above = at.prefixes().skip(1).filter_map(|p| self.view.items.get(p)).map(|i| i.access);
            let above = above.find(|access| *access != Access::Protect);
            let writable = matches!(above, Some(Access::Write | Access::State));
            match item.access {
                Access::Mask | Access::Deny if above.is_some_and(Access::grants) => withheld.push(at.clone()),
                Access::Protect if writable => protected.push(at.clone()),
                Access::Read if writable => protected.push(at.clone()),
                Access::Overlay if writable => protected.push(at.clone()),
                Access::Overlay => caches.push(at.clone()),
                Access::Read | Access::Write | Access::State | Access::Mask | Access::Deny | Access::Protect => {}
            }
        }
        for (found, gap) in
            [(withheld, Gap::Withheld as fn(_) -> _), (protected, Gap::Protected), (caches, Gap::Caches)]
        {
            if !found.is_empty() {
                self.view.gaps.push(gap(found));
            }
        }
        let home = &self.subject.account.home;
        let mut links: BTreeMap<AbsPath, AbsPath> = BTreeMap::new();
        for item in self.view.items.values().filter(|item| item.access.grants()) {
            if let Some(below) = item.written.below(home)
                && !below.as_os_str().is_empty()
                && self.subject.project.root.as_ref().is_none_or(|root| !item.written.is_within(root))
            {
                links.insert(self.subject.store.flat_home.join(below), item.node.path.clone());
            }
        }
        for merged in &self.view.merged {
            if let Some(below) = merged.real.below(home) {
                links.insert(self.subject.store.flat_home.join(below), merged.copy.clone());
            }
        }
        // A link below a linked directory would be made in the real one.
        let tops: Vec<AbsPath> =
            links.keys().filter(|l| l.ancestors().skip(1).any(|p| links.contains_key(&p))).cloned().collect();
        for below in tops {
            links.remove(&below);
        }
        self.view.links = links.into_iter().collect();
    }
}
