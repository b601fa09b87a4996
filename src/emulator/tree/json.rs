//! Entries as Dropbox shows them: the JSON of `files.Metadata`, seen from one root.

use serde_json::{Map, Value, json};

use super::{Deleted, File, Kind, NamespaceId, Node, Revision, Tree};
use crate::emulator::paths;

/// How entries are shown.
#[derive(Debug, Clone, Default)]
pub(in crate::emulator) struct Shown {
    /// Paths are relative to this namespace.
    pub root: NamespaceId,
    /// With `.tag`: where the route's type is `Metadata`.
    pub tagged: bool,
    /// `include_property_groups`: templates asked for.
    pub templates: Vec<String>,
    pub media_info: bool,
    pub explicit_members: bool,
    pub restorable: bool,
}

impl Shown {
    pub fn tagged(root: NamespaceId) -> Shown {
        Shown { root, tagged: true, ..Shown::default() }
    }

    pub fn plain(root: NamespaceId) -> Shown {
        Shown { root, ..Shown::default() }
    }
}

impl Tree {
    /// The metadata of the entry at a place, if there is one.
    pub fn metadata(&self, shown: &Shown, namespace: NamespaceId, key: &str) -> Option<Value> {
        Some(self.show_node(shown, namespace, self.node(namespace, key)?))
    }

    pub fn show_node(&self, shown: &Shown, namespace: NamespaceId, node: &Node) -> Value {
        match &node.kind {
            Kind::File(file) => self.show_file(shown, namespace, &node.display, &node.id, file),
            Kind::Folder { mount } => {
                let mut fields = self.begin(shown, "folder", namespace, &node.display);
                fields.insert("id".into(), node.id.clone().into());
                let around = self.shared(namespace);
                if mount.is_some() || around.is_some() {
                    let mut sharing = json!({ "read_only": false, "traverse_only": false, "no_access": false });
                    if let Some(mount) = mount {
                        sharing["shared_folder_id"] = mount.to_string().into();
                    }
                    if let Some(around) = around {
                        sharing["parent_shared_folder_id"] = around.into();
                    }
                    fields.insert("sharing_info".into(), sharing);
                }
                Value::Object(fields)
            }
        }
    }

    pub fn show_revision(&self, shown: &Shown, revision: &Revision) -> Value {
        self.show_file(shown, revision.namespace, &revision.display, &revision.id, &revision.file)
    }

    pub fn show_deleted(&self, shown: &Shown, namespace: NamespaceId, deleted: &Deleted) -> Value {
        let mut fields = self.begin(shown, "deleted", namespace, &deleted.display);
        if shown.restorable {
            fields.insert("is_restorable".into(), (!deleted.folder).into());
        }
        Value::Object(fields)
    }

    fn show_file(&self, shown: &Shown, namespace: NamespaceId, display: &str, id: &str, file: &File) -> Value {
        let mut fields = self.begin(shown, "file", namespace, display);
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("id", id.into());
        put("client_modified", file.client_modified.clone().into());
        put("server_modified", file.server_modified.clone().into());
        put("rev", file.rev.clone().into());
        put("size", file.content.size().into());
        put("is_downloadable", file.export.is_none().into());
        match &file.export {
            None => {
                put("content_hash", file.content.hash().into());
            }
            Some(export) => {
                let formats: Vec<&str> = export.formats.iter().map(|(format, _)| format.as_str()).collect();
                put("export_info", json!({ "export_as": formats.first(), "export_options": formats }));
            }
        }
        if let Some(around) = self.shared(namespace) {
            put("sharing_info", json!({ "read_only": false, "parent_shared_folder_id": around }));
        }
        if let Some(groups) = file.property_groups.as_ref().and_then(Value::as_array) {
            let asked = |group: &&Value| shown.templates.iter().any(|template| group["template_id"] == **template);
            let groups: Vec<Value> = groups.iter().filter(asked).cloned().collect();
            if !groups.is_empty() {
                put("property_groups", groups.into());
            }
        }
        if shown.explicit_members {
            put("has_explicit_shared_members", false.into());
        }
        if shown.restorable {
            put("is_restorable", true.into());
        }
        if shown.media_info
            && let Some(media) = media_info(display, file)
        {
            put("media_info", media);
        }
        Value::Object(fields)
    }

    /// Name and, where the root shows the namespace, paths.
    fn begin(&self, shown: &Shown, tag: &str, namespace: NamespaceId, display: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        if shown.tagged {
            fields.insert(".tag".into(), tag.into());
        }
        fields.insert("name".into(), paths::name(display).into());
        if let Some(prefix) = self.prefix(shown.root, namespace) {
            let path = format!("{prefix}{display}");
            fields.insert("path_lower".into(), paths::lower(&path).into());
            fields.insert("path_display".into(), path.into());
        }
        fields
    }

    /// The id of a shared folder's namespace; homes and team spaces are none.
    fn shared(&self, namespace: NamespaceId) -> Option<String> {
        let own = self.accounts.iter().any(|account| account.home == namespace || account.root == namespace);
        (!own).then(|| namespace.to_string())
    }
}

/// Dimensions of PNG files; other images and films stay `pending`, as they do at Dropbox for a while.
fn media_info(display: &str, file: &File) -> Option<Value> {
    let kind = paths::extension(display);
    if !["png", "jpg", "jpeg", "gif", "webp", "tif", "tiff", "bmp", "mp4", "mov"].contains(&kind.as_str()) {
        return None;
    }
    let head = file.content.read(24).ok()?;
    let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    match (head.starts_with(b"\x89PNG\r\n\x1a\n"), number(16), number(20)) {
        (true, Some(width), Some(height)) => Some(json!({ ".tag": "metadata", "metadata": {
            ".tag": "photo", "dimensions": { "height": height, "width": width } } })),
        _ => Some(json!({ ".tag": "pending" })),
    }
}
