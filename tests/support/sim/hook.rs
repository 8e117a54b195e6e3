//! Something that happens elsewhere just before a call: the other thread of a race, without the luck.

use super::disk::SimDisk;
use super::fault::OpKind;
use super::image::Ino;
use super::state::Shared;

/// Once, before the next call of this kind on a file whose name contains this.
pub(super) struct Hook {
    kind: OpKind,
    file: String,
    act: Box<dyn FnOnce() + Send>,
}

impl SimDisk {
    /// Before the next read, or flushed write, of a file whose name contains `file`, does this, once. The call itself
    /// counts, and can fail, after it.
    pub fn before(&self, kind: OpKind, file: &str, act: impl FnOnce() + Send + 'static) {
        assert!(matches!(kind, OpKind::Read | OpKind::WriteFlushed), "not a call that is looked at: {kind:?}");
        self.shared.state.lock().hooks.push(Hook { kind, file: file.to_owned(), act: Box::new(act) });
    }
}

impl Shared {
    pub(super) fn reach(&self, kind: OpKind, file: Ino) {
        let act = {
            let mut state = self.state.lock();
            let Some(name) = state.written.name_of(file).cloned() else { return };
            let found = state.hooks.iter().position(|hook| hook.kind == kind && name.contains(&*hook.file));
            found.map(|at| state.hooks.remove(at).act)
        };
        if let Some(act) = act {
            act();
        }
    }
}
