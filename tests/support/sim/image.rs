//! A directory at one moment: names, and what is in the files.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::pages::{FileData, fingerprint, mix};

/// A file itself, whatever it is called. Numbers are never used again on one disk.
pub type Ino = u32;

/// Names and files, shared with other images until changed.
#[derive(Clone, Default, Debug)]
pub struct Image {
    names: Arc<BTreeMap<Arc<str>, Ino>>,
    files: Arc<Vec<Option<Arc<FileData>>>>,
}

impl Image {
    /// Every name with its file.
    pub fn names(&self) -> &BTreeMap<Arc<str>, Ino> {
        &self.names
    }

    /// For changing names.
    pub fn names_mut(&mut self) -> &mut BTreeMap<Arc<str>, Ino> {
        Arc::make_mut(&mut self.names)
    }

    /// The file with this name.
    pub fn find(&self, name: &str) -> Option<Ino> {
        self.names.get(name).copied()
    }

    /// A name of this file, for messages.
    pub fn name_of(&self, file: Ino) -> Option<&Arc<str>> {
        self.names.iter().find(|(_, ino)| **ino == file).map(|(name, _)| name)
    }

    /// The number the next new file gets.
    pub fn next_ino(&self) -> Ino {
        self.files.len() as Ino
    }

    /// A file's content; `None` once it is forgotten.
    pub fn file(&self, file: Ino) -> Option<&Arc<FileData>> {
        self.files.get(file as usize)?.as_ref()
    }

    /// For changing a file's content; an unknown one starts empty.
    pub fn file_mut(&mut self, file: Ino) -> &mut FileData {
        Arc::make_mut(self.slot_mut(file).get_or_insert_with(Arc::default))
    }

    /// Replaces a file's content; `None` forgets it.
    pub fn set_file(&mut self, file: Ino, content: Option<Arc<FileData>>) {
        *self.slot_mut(file) = content;
    }

    /// Files that are not forgotten, with or without a name.
    pub fn files(&self) -> impl DoubleEndedIterator<Item = (Ino, &Arc<FileData>)> {
        self.files.iter().enumerate().filter_map(|(ino, file)| Some((ino as Ino, file.as_ref()?)))
    }

    /// A fingerprint of what a process would find: every name, every byte, and which names are one file's. Costs what
    /// changed since the last one of an image that this was made from.
    pub fn fingerprint(&self) -> u64 {
        self.names.iter().fold(0, |all, (name, file)| {
            let first = self.names.iter().position(|(_, other)| other == file).unwrap_or(0);
            let content = self.file(*file).map_or(0, |file| file.fingerprint());
            mix(all, mix(fingerprint(name.as_bytes()), mix(content, first as u64)))
        })
    }

    /// A fingerprint of every name and every byte.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, file) in self.names.iter() {
            name.hash(&mut hasher);
            self.file(*file).map(|file| file.to_vec()).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn slot_mut(&mut self, file: Ino) -> &mut Option<Arc<FileData>> {
        let files = Arc::make_mut(&mut self.files);
        if files.len() <= file as usize {
            files.resize(file as usize + 1, None);
        }
        &mut files[file as usize]
    }
}
